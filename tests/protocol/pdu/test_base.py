from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import pytest

from everbus.errors import PduError
from everbus.protocol.codes import ExceptionCode
from everbus.protocol.pdu.base import (
    NEED_MORE,
    UNPREDICTABLE,
    CountedLength,
    ExceptionResponse,
    Request,
    Response,
    check_address_range,
    check_quantity,
    malformed,
)


@dataclass(slots=True)
class PingResponse(Response):
    """The least that a custom function code needs."""

    text: bytes
    function_code = 0x41

    @classmethod
    def parse(cls, pdu: bytes) -> Self:
        return cls(pdu[1:])

    def encode(self) -> bytes:
        return b"\x41" + self.text

    def fields(self) -> dict[str, object]:
        return {"text": self.text.hex()}


@dataclass(slots=True)
class PingRequest(Request[PingResponse]):
    text: bytes
    function_code = 0x41
    response_type = PingResponse

    @classmethod
    def parse(cls, pdu: bytes) -> Self:
        return cls(pdu[1:])

    def encode(self) -> bytes:
        return b"\x41" + self.text

    def fields(self) -> dict[str, object]:
        return {"text": self.text.hex()}


# --- lengths ----------------------------------------------------------------------------------


def test_the_answers_of_a_length_rule_are_told_apart() -> None:
    assert len({NEED_MORE, UNPREDICTABLE, *range(1, 254)}) == 255


def test_a_fixed_length_needs_no_byte_to_be_known() -> None:
    assert CountedLength(5).predict(b"", 0, 0) == 5


def test_a_counted_length_waits_for_its_byte_count() -> None:
    rule = CountedLength(6, count_at=5)
    data = bytes.fromhex("0F0013000A02CD01")
    assert [rule.predict(data, 0, end) for end in range(5, 9)] == [NEED_MORE, 8, 8, 8]


def test_a_byte_count_of_two_bytes_waits_for_both() -> None:
    rule = CountedLength(3, count_at=1, count_bytes=2)
    data = bytes.fromhex("180102")
    assert [rule.predict(data, 0, end) for end in range(4)] == [NEED_MORE, NEED_MORE, NEED_MORE, 3 + 0x102]


@pytest.mark.parametrize("rule", [CountedLength(2, count_at=1), CountedLength(3, count_at=1, count_bytes=2)])
def test_a_length_is_read_where_the_pdu_starts_and_not_behind_its_end(rule: CountedLength) -> None:
    pdu = bytes((0x18, 0, 4))
    noise = b"\xff\xfe\xfd"
    whole = rule.predict(pdu, 0, 3)
    assert rule.predict(noise + pdu, 3, 6) == whole
    assert rule.predict(noise + pdu + noise, 3, 4) == NEED_MORE


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_length_is_predicted_from_any_bytes(kind: type[bytes]) -> None:
    assert CountedLength(2, count_at=1).predict(kind(b"\x03\x06"), 0, 2) == 8


# --- requests and responses -------------------------------------------------------------------


def test_a_custom_pdu_is_legal_fits_and_has_no_predictable_length_unless_it_says_so() -> None:
    request = PingRequest.parse(b"\x41hello")
    request.check()
    PingResponse(b"any").check()
    assert request.mismatch(PingResponse(b"any")) is None
    assert (PingRequest.length, PingResponse.length) == (None, None)


# --- exception responses ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pdu", "function", "code"),
    [("8302", 3, 2), ("AB03", 0x2B, 3), ("8180", 1, 0x80), ("FF00", 0x7F, 0)],
)
@pytest.mark.requirement("AP-4.1-exception-response", "AP-7-vendor")
def test_an_exception_response_has_a_function_and_any_code(pdu: str, function: int, code: int) -> None:
    response = ExceptionResponse.parse(bytes.fromhex(pdu))
    assert response == ExceptionResponse(function, code)
    assert response.fields() == {"function": function, "exception_code": code}
    assert response.encode() == bytes.fromhex(pdu)


def test_the_extended_exception_of_canopen_carries_an_abort_code() -> None:
    pdu = bytes.fromhex("ABFF00060DEC06020000")
    response = ExceptionResponse.parse(pdu)
    assert response == ExceptionResponse(0x2B, 0xFF, bytes.fromhex("0DEC06020000"))
    assert response.fields() == {
        "function": 0x2B,
        "exception_code": 0xFF,
        "ext_length": 6,
        "mei_type": 0x0D,
        "canopen_exception": 0xEC,
        "sdo_abort_code": "06020000",
    }
    assert response.encode() == pdu


@pytest.mark.parametrize("data", ["0DEC0602", "0EEC06020000", "0D"])
def test_extended_data_of_another_form_stays_bytes(data: str) -> None:
    pdu = bytes.fromhex("ABFF") + (len(data) // 2).to_bytes(2, "big") + bytes.fromhex(data)
    response = ExceptionResponse.parse(pdu)
    assert response.fields() == {
        "function": 0x2B,
        "exception_code": 0xFF,
        "ext_length": len(data) // 2,
        "data_hex": data.lower(),
    }
    assert response.encode() == pdu


@pytest.mark.parametrize(
    "pdu",
    [
        "83",  # no code
        "830200",  # too long
        "83FF00020DEC",  # only 2B has the extended form
        "AB0300020DEC",  # only code FF has it
        "ABFF00030DEC",  # its length lies
        "ABFF00010DEC",
        "ABFF01060DEC06020000",
        "ABFF0000",  # nothing behind it: no extended form
        "ABFF00",
        "ABFF",  # a client on a serial line would wait for its length (spec.md 1.11)
    ],
)
@pytest.mark.requirement("AP-4.1-exception-response")
def test_an_exception_response_of_another_length_is_malformed(pdu: str) -> None:
    with pytest.raises(PduError, match="an exception response has 2 bytes") as caught:
        ExceptionResponse.parse(bytes.fromhex(pdu))
    assert caught.value.exception_code == ExceptionCode.ILLEGAL_DATA_VALUE


# --- checks -----------------------------------------------------------------------------------


def test_a_malformed_pdu_is_answered_with_03_and_named() -> None:
    error = malformed(0x03, "too short")
    assert error.exception_code == ExceptionCode.ILLEGAL_DATA_VALUE
    assert str(error) == "read holding registers: too short"


@pytest.mark.parametrize(("quantity", "legal"), [(0, False), (1, True), (125, True), (126, False), (65535, False)])
def test_a_quantity_outside_its_limits_is_answered_with_03(quantity: int, legal: bool) -> None:
    if legal:
        check_quantity(0x03, quantity, 125)
        return
    with pytest.raises(PduError, match=f"quantity {quantity} is outside 1") as caught:
        check_quantity(0x03, quantity, 125)
    assert caught.value.exception_code == ExceptionCode.ILLEGAL_DATA_VALUE


@pytest.mark.parametrize(
    ("address", "quantity", "legal"),
    [(65535, 1, True), (0, 2000, True), (65535, 2, False), (65411, 126, False)],
)
@pytest.mark.requirement("AP-7-02")
def test_a_range_that_passes_65535_is_answered_with_02(address: int, quantity: int, legal: bool) -> None:
    if legal:
        check_address_range(0x03, address, quantity)
        return
    with pytest.raises(PduError, match=f"{quantity} items from address {address} pass 65535") as caught:
        check_address_range(0x03, address, quantity)
    assert caught.value.exception_code == ExceptionCode.ILLEGAL_DATA_ADDRESS
