from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everbus.errors import PduError, UsageError
from everbus.protocol.codes import ExceptionCode
from everbus.protocol.pdu.base import Pdu
from everbus.protocol.pdu.registers import (
    MaskWriteRegisterRequest,
    MaskWriteRegisterResponse,
    ReadHoldingRegistersRequest,
    ReadHoldingRegistersResponse,
    ReadInputRegistersRequest,
    ReadInputRegistersResponse,
    ReadRegistersRequest,
    ReadRegistersResponse,
    ReadWriteMultipleRegistersRequest,
    ReadWriteMultipleRegistersResponse,
    WriteMultipleRegistersRequest,
    WriteMultipleRegistersResponse,
    WriteSingleRegisterRequest,
    WriteSingleRegisterResponse,
)

VALUE = ExceptionCode.ILLEGAL_DATA_VALUE
ADDRESS = ExceptionCode.ILLEGAL_DATA_ADDRESS

READS: list[type[ReadRegistersRequest[ReadRegistersResponse]]] = [
    ReadHoldingRegistersRequest,  # type: ignore[list-item]
    ReadInputRegistersRequest,  # type: ignore[list-item]
]
words = st.integers(0, 0xFFFF)


def refusal(pdu: Pdu) -> ExceptionCode | None:
    """What a server answers to this PDU; None: it is legal."""
    try:
        pdu.check()
    except PduError as error:
        return error.exception_code
    return None


# --- reads ------------------------------------------------------------------------------------


@pytest.mark.requirement("AP-6.3-layout", "AP-6.4-layout")
def test_the_examples_of_the_specification_read_as_it_says() -> None:
    request = ReadHoldingRegistersRequest.parse(bytes.fromhex("03006B0003"))
    response = ReadHoldingRegistersResponse.parse(bytes.fromhex("0306022B00000064"))
    assert request.fields() == {"address": 107, "quantity": 3}
    assert response.fields() == {"byte_count": 6, "registers": [555, 0, 100]}
    assert request.mismatch(response) is None
    assert ReadInputRegistersResponse.parse(bytes.fromhex("0402000A")).registers == [10]


@pytest.mark.parametrize(
    ("address", "quantity", "code"),
    [
        (0, 1, None),
        (0, 125, None),
        (65535, 1, None),
        (0, 0, VALUE),
        (0, 126, VALUE),
        (0, 65535, VALUE),
        (65535, 2, ADDRESS),
        (65535, 126, VALUE),  # the quantity is checked first
    ],
)
@pytest.mark.parametrize("kind", READS)
@pytest.mark.requirement("AP-6.3-quantity", "AP-6.4-quantity")
def test_a_read_asks_for_1_to_125_registers_inside_the_table(
    kind: type[ReadRegistersRequest[ReadRegistersResponse]],
    address: int,
    quantity: int,
    code: ExceptionCode | None,
) -> None:
    assert refusal(kind(address, quantity)) == code


@pytest.mark.parametrize(
    ("size", "code"), [(0, VALUE), (1, VALUE), (2, None), (3, VALUE), (250, None), (251, VALUE), (252, VALUE)]
)
@pytest.mark.parametrize(
    "kind", [ReadHoldingRegistersResponse, ReadInputRegistersResponse, ReadWriteMultipleRegistersResponse]
)
def test_a_response_has_1_to_125_whole_registers(
    kind: type[ReadRegistersResponse], size: int, code: ExceptionCode | None
) -> None:
    assert refusal(kind(bytes(size))) == code


def test_an_odd_byte_count_stays_bytes_and_is_named_in_the_refusal() -> None:
    response = ReadInputRegistersResponse.parse(bytes.fromhex("0403000A00"))
    assert response.fields() == {"byte_count": 3, "data_hex": "000a00"}
    with pytest.raises(PduError, match="read input registers: byte count 3 is odd"):
        response.check()


@given(kind=st.sampled_from(READS), values=st.lists(words, min_size=1, max_size=125))
@settings(deadline=None)
@pytest.mark.requirement("AP-6.3-byte-count", "AP-6.4-byte-count")
def test_a_response_made_for_a_request_fits_it(
    kind: type[ReadRegistersRequest[ReadRegistersResponse]], values: list[int]
) -> None:
    request = kind(0, len(values))
    response = request.respond(values)
    assert type(response) is request.response_type
    assert response.function_code == request.function_code
    assert refusal(response) is None
    assert request.mismatch(response) is None
    assert type(response).parse(response.encode()).registers == values


@pytest.mark.parametrize("kind", READS)
def test_a_response_with_another_number_of_registers_is_not_made(
    kind: type[ReadRegistersRequest[ReadRegistersResponse]],
) -> None:
    with pytest.raises(UsageError, match="3 registers were asked for, 2 given"):
        kind(0, 3).respond([1, 2])
    with pytest.raises(UsageError, match=r"0\.\.65535"):
        kind(0, 1).respond([65536])


@pytest.mark.parametrize(("quantity", "size"), [(1, 4), (2, 2), (125, 248)])
@pytest.mark.requirement("AP-6.3-byte-count", "AP-6.4-byte-count")
def test_a_response_with_another_number_of_bytes_does_not_fit(quantity: int, size: int) -> None:
    problem = ReadHoldingRegistersRequest(0, quantity).mismatch(ReadHoldingRegistersResponse(bytes(size)))
    assert problem == f"{quantity} registers need byte count {2 * quantity}, not {size}"


# --- 06 ---------------------------------------------------------------------------------------


@pytest.mark.requirement("AP-6.6-layout")
def test_a_single_register_is_confirmed_by_its_echo() -> None:
    request = WriteSingleRegisterRequest.parse(bytes.fromhex("0600010003"))
    assert request.fields() == {"address": 1, "value": 3}
    assert request.respond().encode() == bytes.fromhex("0600010003")
    assert request.mismatch(request.respond()) is None
    assert request.mismatch(WriteSingleRegisterResponse(1, 4)) is not None
    assert request.mismatch(WriteSingleRegisterResponse(2, 3)) is not None


@pytest.mark.parametrize("value", [0, 1, 0x8000, 0xFFFF])
@pytest.mark.requirement("AP-6.6-value")
def test_a_single_register_takes_any_value(value: int) -> None:
    assert refusal(WriteSingleRegisterRequest(65535, value)) is None


# --- 10 ---------------------------------------------------------------------------------------


@pytest.mark.requirement("AP-6.12-layout")
def test_the_example_of_the_specification_writes_two_registers() -> None:
    pdu = bytes.fromhex("100001000204000A0102")
    request = WriteMultipleRegistersRequest.parse(pdu)
    assert request == WriteMultipleRegistersRequest.of(1, [10, 258])
    assert request.fields() == {"address": 1, "quantity": 2, "byte_count": 4, "registers": [10, 258]}
    assert request.encode() == pdu
    assert request.respond().encode() == bytes.fromhex("1000010002")
    assert request.mismatch(request.respond()) is None


def test_registers_are_not_named_where_the_byte_count_is_odd() -> None:
    request = WriteMultipleRegistersRequest.parse(bytes.fromhex("100001000103000A00"))
    assert request.fields() == {"address": 1, "quantity": 1, "byte_count": 3, "data_hex": "000a00"}


@pytest.mark.parametrize(
    ("address", "quantity", "size", "code"),
    [
        (0, 1, 2, None),
        (0, 123, 246, None),
        (65535, 1, 2, None),
        (0, 0, 0, VALUE),
        (0, 124, 248, VALUE),
        (0, 2, 2, VALUE),
        (0, 1, 3, VALUE),
        (65535, 2, 4, ADDRESS),
        (65535, 2, 2, VALUE),  # the byte count is checked first
    ],
)
@pytest.mark.requirement("AP-6.12-quantity")
def test_a_write_has_1_to_123_registers_their_bytes_and_a_place(
    address: int, quantity: int, size: int, code: ExceptionCode | None
) -> None:
    assert refusal(WriteMultipleRegistersRequest(address, quantity, bytes(size))) == code


@given(address=st.integers(0, 65000), values=st.lists(words, min_size=1, max_size=123))
@settings(deadline=None)
def test_a_write_carries_its_registers(address: int, values: list[int]) -> None:
    request = WriteMultipleRegistersRequest.of(address, values)
    assert refusal(request) is None
    assert WriteMultipleRegistersRequest.parse(request.encode()).registers == values


@pytest.mark.parametrize(("quantity", "legal"), [(0, False), (1, True), (123, True), (124, False)])
def test_a_confirmation_names_1_to_123_registers(quantity: int, legal: bool) -> None:
    assert refusal(WriteMultipleRegistersResponse(0, quantity)) == (None if legal else VALUE)


def test_a_confirmation_of_something_else_does_not_fit() -> None:
    request = WriteMultipleRegistersRequest.of(1, [10, 258])
    assert request.mismatch(WriteMultipleRegistersResponse(2, 2)) is not None
    assert request.mismatch(WriteMultipleRegistersResponse(1, 1)) is not None


# --- 16 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pdu", "before", "after"),
    [("16000400F20025", 0x12, 0x17), ("1600000F0F00FF", 0xAA55, 0x0AF5), ("160000FFFF1234", 0xABCD, 0xABCD)],
)
def test_a_mask_changes_the_bits_that_it_names(pdu: str, before: int, after: int) -> None:
    request = MaskWriteRegisterRequest.parse(bytes.fromhex(pdu))
    assert request.apply(before) == after
    assert request.encode() == bytes.fromhex(pdu)


@given(current=words, and_mask=words, or_mask=words)
@settings(deadline=None)
@pytest.mark.requirement("AP-6.16-result")
def test_each_bit_of_a_mask_keeps_or_sets_its_own_bit(current: int, and_mask: int, or_mask: int) -> None:
    result = MaskWriteRegisterRequest(0, and_mask, or_mask).apply(current)
    for bit in range(16):
        source = current if and_mask >> bit & 1 else or_mask
        assert result >> bit & 1 == source >> bit & 1
    assert result >> 16 == 0


@pytest.mark.requirement("AP-6.16-layout")
def test_a_mask_write_is_confirmed_by_its_echo() -> None:
    request = MaskWriteRegisterRequest(4, 0xF2, 0x25)
    assert request.fields() == {"address": 4, "and_mask": 0xF2, "or_mask": 0x25}
    assert request.respond().encode() == request.encode()
    assert request.mismatch(request.respond()) is None
    for other in [(5, 0xF2, 0x25), (4, 0xF3, 0x25), (4, 0xF2, 0x24)]:
        problem = request.mismatch(MaskWriteRegisterResponse(*other))
        assert problem is not None
        assert problem.startswith("the echo says")


@pytest.mark.parametrize("pdu", ["16", "16000400F200", "16000400F2002500"])
@pytest.mark.parametrize("kind", [MaskWriteRegisterRequest, MaskWriteRegisterResponse])
@pytest.mark.requirement("AP-6.16-layout")
def test_a_mask_write_has_seven_bytes(
    kind: type[MaskWriteRegisterRequest | MaskWriteRegisterResponse], pdu: str
) -> None:
    with pytest.raises(PduError, match=f"it has 7 bytes, this one {len(pdu) // 2}") as caught:
        kind.parse(bytes.fromhex(pdu))
    assert caught.value.exception_code == VALUE


# --- 17 ---------------------------------------------------------------------------------------


@pytest.mark.requirement("AP-6.17-layout")
def test_the_example_of_the_specification_writes_three_registers_and_reads_six() -> None:
    pdu = bytes.fromhex("1700030006000E00030600FF00FF00FF")
    request = ReadWriteMultipleRegistersRequest.parse(pdu)
    assert request == ReadWriteMultipleRegistersRequest.of(3, 6, 14, [255, 255, 255])
    assert request.registers == [255, 255, 255]
    assert request.fields() == {
        "read_address": 3,
        "read_quantity": 6,
        "write_address": 14,
        "write_quantity": 3,
        "byte_count": 6,
        "registers": [255, 255, 255],
    }
    assert request.encode() == pdu
    response = ReadWriteMultipleRegistersResponse.parse(bytes.fromhex("170C00FE0ACD00010003000D00FF"))
    assert response.registers == [254, 2765, 1, 3, 13, 255]
    assert request.mismatch(response) is None


def test_what_is_written_is_not_named_where_its_byte_count_is_odd() -> None:
    request = ReadWriteMultipleRegistersRequest.parse(bytes.fromhex("170000000100000001030000AB"))
    assert request.fields()["data_hex"] == "0000ab"
    assert "registers" not in request.fields()


@pytest.mark.parametrize(
    ("read", "write", "size", "code"),
    [
        ((0, 1), (0, 1), 2, None),
        ((0, 125), (0, 121), 242, None),
        ((65535, 1), (65535, 1), 2, None),
        ((0, 0), (0, 1), 2, VALUE),
        ((0, 126), (0, 1), 2, VALUE),
        ((0, 1), (0, 0), 0, VALUE),
        ((0, 1), (0, 122), 244, VALUE),
        ((0, 1), (0, 2), 2, VALUE),
        ((65535, 2), (0, 1), 2, ADDRESS),
        ((0, 1), (65535, 2), 4, ADDRESS),
        ((65535, 2), (0, 2), 2, VALUE),  # the byte count is checked before the addresses
    ],
)
@pytest.mark.requirement("AP-6.17-quantity", "AP-6.17-order")
def test_both_quantities_then_the_byte_count_then_both_ranges_are_checked(
    read: tuple[int, int], write: tuple[int, int], size: int, code: ExceptionCode | None
) -> None:
    assert refusal(ReadWriteMultipleRegistersRequest(*read, *write, bytes(size))) == code


@pytest.mark.parametrize("pdu", ["17", "17000000010000000102", "1700000001000000010200AB00", "170000000100000001"])
def test_a_byte_count_that_does_not_fit_is_refused(pdu: str) -> None:
    with pytest.raises(PduError, match=f"does not fit a PDU of {len(pdu) // 2} bytes") as caught:
        ReadWriteMultipleRegistersRequest.parse(bytes.fromhex(pdu))
    assert caught.value.exception_code == VALUE


def test_a_response_has_as_many_registers_as_were_asked_for() -> None:
    request = ReadWriteMultipleRegistersRequest.of(0, 5, 8, [0x5555])
    assert request.mismatch(request.respond([1, 2, 3, 4, 5])) is None
    assert request.mismatch(ReadWriteMultipleRegistersResponse(bytes(8))) is not None
    with pytest.raises(UsageError, match="5 registers were asked for, 4 given"):
        request.respond([1, 2, 3, 4])


# --- lengths ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "pdu"),
    [
        (MaskWriteRegisterRequest, "16000400F20025"),
        (MaskWriteRegisterResponse, "16000400F20025"),
        (ReadWriteMultipleRegistersRequest, "1700030006000E00030600FF00FF00FF"),
        (ReadWriteMultipleRegistersResponse, "170C00FE0ACD00010003000D00FF"),
    ],
)
def test_a_length_is_known_from_the_front(kind: type[Pdu], pdu: str) -> None:
    data = bytes.fromhex(pdu)
    assert kind.length is not None
    assert kind.length.predict(data, 0, len(data)) == len(data)
