from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everbus.errors import PduError
from everbus.protocol.codes import ExceptionCode
from everbus.protocol.pdu.layouts import AddressQuantity, AddressValue, CountedData, WriteBlock

words = st.integers(0, 0xFFFF)


class Quantity(AddressQuantity):
    function_code = 0x01


class Value(AddressValue):
    function_code = 0x06


class Data(CountedData):
    function_code = 0x03


class Block(WriteBlock):
    function_code = 0x10


def refused(kind: type[Quantity | Value | Data | Block], pdu: bytes) -> str:
    with pytest.raises(PduError) as caught:
        kind.parse(pdu)
    assert caught.value.exception_code == ExceptionCode.ILLEGAL_DATA_VALUE
    return str(caught.value)


def test_an_address_and_a_quantity() -> None:
    pdu = Quantity.parse(bytes.fromhex("0100130025"))
    assert pdu == Quantity(0x13, 0x25)
    assert pdu.fields() == {"address": 0x13, "quantity": 0x25}
    assert pdu.encode() == bytes.fromhex("0100130025")


def test_an_address_and_a_value() -> None:
    pdu = Value.parse(bytes.fromhex("0600101234"))
    assert pdu == Value(0x10, 0x1234)
    assert pdu.fields() == {"address": 0x10, "value": 0x1234}
    assert pdu.encode() == bytes.fromhex("0600101234")


def test_data_behind_a_byte_count() -> None:
    pdu = Data.parse(bytes.fromhex("0304008D008E"))
    assert pdu == Data(bytes.fromhex("008D008E"))
    assert pdu.fields() == {"byte_count": 4, "data_hex": "008d008e"}
    assert pdu.encode() == bytes.fromhex("0304008D008E")


def test_a_block_to_write() -> None:
    pdu = Block.parse(bytes.fromhex("100001000204000A0102"))
    assert pdu == Block(1, 2, bytes.fromhex("000A0102"))
    assert pdu.fields() == {"address": 1, "quantity": 2, "byte_count": 4}
    assert pdu.encode() == bytes.fromhex("100001000204000A0102")


@given(address=words, second=words)
@settings(deadline=None)
def test_two_words_survive_the_wire(address: int, second: int) -> None:
    assert Quantity.parse(Quantity(address, second).encode()) == Quantity(address, second)
    assert Value.parse(Value(address, second).encode()) == Value(address, second)


@given(data=st.binary(max_size=251), address=words, quantity=words)
@settings(deadline=None)
def test_counted_data_survives_the_wire_even_if_it_is_not_legal(data: bytes, address: int, quantity: int) -> None:
    assert Data.parse(Data(data).encode()) == Data(data)
    assert Block.parse(Block(address, quantity, data).encode()) == Block(address, quantity, data)


@pytest.mark.parametrize("size", [1, 4, 6, 253])
@pytest.mark.parametrize("kind", [Quantity, Value])
def test_two_words_have_five_bytes(kind: type[Quantity | Value], size: int) -> None:
    assert f"it has 5 bytes, this one {size}" in refused(kind, bytes((kind.function_code,)) + bytes(size - 1))


@pytest.mark.parametrize("pdu", ["03", "030400", "03040000000000", "0300FF"])
def test_a_byte_count_that_does_not_fit_its_data_is_refused(pdu: str) -> None:
    assert f"does not fit a PDU of {len(pdu) // 2} bytes" in refused(Data, bytes.fromhex(pdu))


@pytest.mark.parametrize("pdu", ["10", "1000010002", "100001000204000A01", "100001000204000A010200", "100001000201"])
def test_a_byte_count_that_does_not_fit_its_block_is_refused(pdu: str) -> None:
    assert f"does not fit a PDU of {len(pdu) // 2} bytes" in refused(Block, bytes.fromhex(pdu))


def test_an_echo_confirms_a_write_by_address_and_value() -> None:
    request = Value(0x10, 0x1234)
    assert request.echo_mismatch(Value(0x10, 0x1234)) is None
    assert request.echo_mismatch(Value(0x11, 0x1234)) == "the echo says 1234 at 17, not 1234 at 16"
    assert request.echo_mismatch(Value(0x10, 0)) == "the echo says 0000 at 16, not 1234 at 16"


def test_a_confirmation_fits_a_block_by_address_and_quantity() -> None:
    request = Block(1, 2, bytes(4))
    assert request.echo_mismatch(Quantity(1, 2)) is None
    assert request.echo_mismatch(Quantity(2, 2)) == "it confirms 2 items at 2, not 2 at 1"
    assert request.echo_mismatch(Quantity(1, 1)) == "it confirms 1 items at 1, not 2 at 1"


@pytest.mark.parametrize(
    ("kind", "pdu"),
    [
        (Quantity, "0100130025"),
        (Value, "0600101234"),
        (Data, "0304008D008E"),
        (Block, "100001000204000A0102"),
    ],
)
def test_a_length_is_known_from_the_front(kind: type[Quantity | Value | Data | Block], pdu: str) -> None:
    data = bytes.fromhex(pdu)
    assert kind.length is not None
    assert kind.length.predict(data, 0, len(data)) == len(data)
