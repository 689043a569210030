from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everbus.errors import PduError, UsageError
from everbus.protocol.codes import ExceptionCode, FunctionCode
from everbus.protocol.pdu.base import NEED_MORE, UNPREDICTABLE, CountedLength, ExceptionResponse, Request, Response
from everbus.protocol.pdu.bits import ReadCoilsRequest
from everbus.protocol.pdu.registers import ReadHoldingRegistersRequest, ReadHoldingRegistersResponse
from everbus.protocol.pdu.table import PUBLIC, AnyRequest, FunctionTable


@dataclass(slots=True)
class PingResponse(Response):
    text: bytes
    function_code = 0x41
    length = CountedLength(2, count_at=1)

    @classmethod
    def parse(cls, pdu: bytes) -> Self:
        return cls(pdu[2:])

    def encode(self) -> bytes:
        return bytes((0x41, len(self.text))) + self.text

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


class ShiftedRequest(PingRequest):
    function_code = 0x42


class NothingResponse(PingResponse):
    function_code = 0


class NothingRequest(PingRequest):
    function_code = 0
    response_type = NothingResponse


class HighResponse(PingResponse):
    function_code = 0x80


class HighRequest(PingRequest):
    function_code = 0x80
    response_type = HighResponse


class OtherReadRequest(ReadHoldingRegistersRequest):
    """A device's own idea of function code 03."""


REQUESTS = {
    0x01: "0100130013",
    0x02: "0200C40016",
    0x03: "03006B0003",
    0x04: "0400080001",
    0x05: "0500ACFF00",
    0x06: "0600010003",
    0x07: "07",
    0x08: "080000A537",
    0x0B: "0B",
    0x0C: "0C",
    0x0F: "0F0013000A02CD01",
    0x10: "100001000204000A0102",
    0x11: "11",
    0x14: "140E0600040001000206000300090002",
    0x15: "150D0600040007000306AF04BE100D",
    0x16: "16000400F20025",
    0x17: "1700030006000E00030600FF00FF00FF",
    0x18: "1804DE",
    0x2B: "2B0E0100",
}
RESPONSES = {
    0x01: "0103CD6B05",
    0x02: "0203ACDB35",
    0x03: "0306022B00000064",
    0x04: "0402000A",
    0x05: "0500ACFF00",
    0x06: "0600010003",
    0x07: "076D",
    0x08: "080000A537",
    0x0B: "0BFFFF0108",
    0x0C: "0C080000010801212000",
    0x0F: "0F0013000A",
    0x10: "1000010002",
    0x11: "110212FF",
    0x14: "140C05060DFE0020050633CD0040",
    0x15: "150D0600040007000306AF04BE100D",
    0x16: "16000400F20025",
    0x17: "170C00FE0ACD00010003000D00FF",
    0x18: "180006000201B81284",
    0x2B: "2B0E0101000001000141",
}


# --- the public codes -------------------------------------------------------------------------


@pytest.mark.requirement("AP-5.1-public")
def test_the_public_table_knows_every_public_code_and_no_other() -> None:
    assert [code for code in range(256) if code in PUBLIC] == [int(code) for code in FunctionCode]


@pytest.mark.parametrize("code", FunctionCode)
def test_a_request_is_read_checked_and_predicted_whole(code: int) -> None:
    pdu = bytes.fromhex(REQUESTS[code])
    request = PUBLIC.decode_request(pdu)
    assert request.function_code == code
    assert request.encode() == pdu
    assert PUBLIC.parse_request(pdu) == request
    assert PUBLIC.predict_request(b"\xff" + pdu + b"\xff", 1, 1 + len(pdu)) == len(pdu)


@pytest.mark.parametrize("code", FunctionCode)
def test_a_response_is_read_checked_and_predicted_whole(code: int) -> None:
    pdu = bytes.fromhex(RESPONSES[code])
    response = PUBLIC.decode_response(pdu)
    assert isinstance(response, Response)
    assert response.function_code == code
    assert response.encode() == pdu
    assert PUBLIC.parse_response(pdu) == response
    assert PUBLIC.predict_response(b"\xff" + pdu + b"\xff", 1, 1 + len(pdu)) == len(pdu)
    request = PUBLIC.decode_request(bytes.fromhex(REQUESTS[code]))
    assert isinstance(response, request.response_type)


@pytest.mark.parametrize("code", FunctionCode)
def test_a_length_that_is_predicted_early_does_not_change_with_more_bytes(code: int) -> None:
    for pdu, predict in (
        (bytes.fromhex(REQUESTS[code]), PUBLIC.predict_request),
        (bytes.fromhex(RESPONSES[code]), PUBLIC.predict_response),
    ):
        lengths = [predict(pdu, 0, end) for end in range(len(pdu) + 1)]
        assert lengths[0] == NEED_MORE
        assert set(lengths) == {NEED_MORE, len(pdu)}
        assert lengths == sorted(lengths)


@pytest.mark.parametrize("pdu", ["00", "41", "5A0001", "80", "83", "FF00"])
@pytest.mark.requirement("AP-7-01")
def test_an_unknown_function_code_is_answered_with_01(pdu: str) -> None:
    for read in (PUBLIC.parse_request, PUBLIC.decode_request):
        with pytest.raises(PduError, match=f"function code {pdu[:2]} is not known") as caught:
            read(bytes.fromhex(pdu))
        assert caught.value.exception_code == ExceptionCode.ILLEGAL_FUNCTION


def test_nothing_is_no_pdu() -> None:
    for read in (PUBLIC.parse_request, PUBLIC.decode_request, PUBLIC.parse_response, PUBLIC.decode_response):
        with pytest.raises(PduError, match="function code none is not known") as caught:
            read(b"")
        assert caught.value.exception_code == ExceptionCode.ILLEGAL_FUNCTION


def test_an_unknown_response_is_refused_too() -> None:
    for read in (PUBLIC.parse_response, PUBLIC.decode_response):
        with pytest.raises(PduError, match="function code 41 is not known"):
            read(b"\x41\x00")


def test_parsing_takes_what_is_illegal_and_decoding_does_not() -> None:
    pdu = bytes.fromhex("030000007E")
    assert PUBLIC.parse_request(pdu) == ReadHoldingRegistersRequest(0, 126)
    with pytest.raises(PduError):
        PUBLIC.decode_request(pdu)
    odd = bytes.fromhex("0303000000")
    assert PUBLIC.parse_response(odd) == ReadHoldingRegistersResponse(bytes(3))
    with pytest.raises(PduError):
        PUBLIC.decode_response(odd)


known_codes = st.sampled_from([*FunctionCode, *(code | 0x80 for code in FunctionCode)])
pdus = st.builds(lambda code, rest: bytes((code,)) + rest, known_codes | st.integers(0, 255), st.binary(max_size=60))


def tried(read: Callable[[bytes], AnyRequest | Response | ExceptionResponse], pdu: bytes) -> bytes | ExceptionCode:
    """The bytes of what was read, or what a server answers instead."""
    try:
        result = read(pdu)
    except PduError as error:
        return error.exception_code
    assert isinstance(result.fields(), dict)
    return result.encode()


@given(pdu=pdus)
@settings(deadline=None, max_examples=400)
def test_any_bytes_come_back_byte_for_byte_or_are_refused_by_the_rules(pdu: bytes) -> None:
    refusals = {ExceptionCode.ILLEGAL_FUNCTION, ExceptionCode.ILLEGAL_DATA_ADDRESS, ExceptionCode.ILLEGAL_DATA_VALUE}
    assert tried(PUBLIC.parse_request, pdu) in {pdu, *refusals}
    assert tried(PUBLIC.decode_request, pdu) in {pdu, *refusals}
    assert tried(PUBLIC.parse_response, pdu) in {pdu, *refusals}
    assert tried(PUBLIC.decode_response, pdu) in {pdu, *refusals}


# --- exceptions -------------------------------------------------------------------------------


def test_an_exception_is_a_response_of_any_table() -> None:
    for table in (PUBLIC, FunctionTable({})):
        assert table.decode_response(bytes.fromhex("8302")) == ExceptionResponse(3, 2)
        assert table.parse_response(bytes.fromhex("C106")) == ExceptionResponse(0x41, 6)


def test_an_exception_has_two_bytes_and_the_extended_one_says_how_many() -> None:
    assert PUBLIC.predict_response(b"\x83", 0, 1) == 2
    assert PUBLIC.predict_response(bytes.fromhex("83FF"), 0, 2) == 2
    extended = bytes.fromhex("ABFF00060DEC06020000")
    lengths = [PUBLIC.predict_response(extended, 0, end) for end in range(len(extended) + 1)]
    assert lengths == [NEED_MORE] * 4 + [10] * 7
    assert PUBLIC.predict_response(bytes.fromhex("ABFF0106"), 0, 4) == 4 + 0x106
    assert PUBLIC.predict_response(bytes.fromhex("AB03"), 0, 2) == 2


# --- custom codes -----------------------------------------------------------------------------


def test_a_custom_code_is_known_to_the_new_table_and_to_no_other() -> None:
    table = PUBLIC.extended(PingRequest)
    assert table.decode_request(b"\x41hi") == PingRequest(b"hi")
    assert table.decode_response(b"\x41\x02hi") == PingResponse(b"hi")
    assert table.decode_request(bytes.fromhex("03006B0003")) == ReadHoldingRegistersRequest(107, 3)
    assert (0x41 in table, 0x41 in PUBLIC) == (True, False)


def test_a_custom_code_is_predictable_in_the_direction_that_says_how() -> None:
    table = PUBLIC.extended(PingRequest)
    assert table.predict_request(b"\x41hi", 0, 3) == UNPREDICTABLE
    assert table.predict_response(b"\x41\x02hi", 0, 4) == 4


def test_an_unknown_code_is_not_predictable() -> None:
    for predict in (PUBLIC.predict_request, PUBLIC.predict_response):
        assert predict(b"\x41\x02hi", 0, 4) == UNPREDICTABLE
        assert predict(b"\x41", 1, 1) == NEED_MORE


def test_a_table_may_know_no_more_than_it_is_given() -> None:
    table = FunctionTable.of(ReadCoilsRequest, PingRequest)
    assert [code for code in range(256) if code in table] == [0x01, 0x41]
    with pytest.raises(PduError, match="function code 03 is not known"):
        table.decode_request(bytes.fromhex("03006B0003"))


def test_a_custom_request_may_replace_a_public_one() -> None:
    table = PUBLIC.extended(OtherReadRequest)
    pdu = bytes.fromhex("03006B0003")
    assert type(table.decode_request(pdu)) is OtherReadRequest
    assert type(PUBLIC.decode_request(pdu)) is ReadHoldingRegistersRequest


@pytest.mark.parametrize("kind", [ShiftedRequest, NothingRequest, HighRequest])
def test_a_request_and_its_response_share_a_code_that_a_request_can_have(kind: type[AnyRequest]) -> None:
    with pytest.raises(UsageError, match=rf"{kind.__name__}: .* one function code of 1\.\.127"):
        PUBLIC.extended(kind)
