from __future__ import annotations

from typing import Any

import pytest

from everbus.errors import PduError
from everbus.protocol.codes import DiagnosticCode, ExceptionCode
from everbus.protocol.pdu.base import Pdu
from everbus.protocol.pdu.diagnostics import (
    BareRequest,
    DiagnosticsRequest,
    DiagnosticsResponse,
    GetCommEventCounterRequest,
    GetCommEventCounterResponse,
    GetCommEventLogRequest,
    GetCommEventLogResponse,
    ReadExceptionStatusRequest,
    ReadExceptionStatusResponse,
    ReportServerIdRequest,
    ReportServerIdResponse,
)

FUNCTION = ExceptionCode.ILLEGAL_FUNCTION
VALUE = ExceptionCode.ILLEGAL_DATA_VALUE

BARE: list[type[BareRequest[Any]]] = [
    ReadExceptionStatusRequest,
    GetCommEventCounterRequest,
    GetCommEventLogRequest,
    ReportServerIdRequest,
]
COUNTERS = range(DiagnosticCode.BUS_MESSAGE_COUNT, DiagnosticCode.BUS_CHAR_OVERRUN_COUNT + 1)


def refusal(pdu: Pdu) -> ExceptionCode | None:
    """What a server answers to this PDU; None: it is legal."""
    try:
        pdu.check()
    except PduError as error:
        return error.exception_code
    return None


def malformed(kind: type[Pdu], pdu: str) -> str:
    with pytest.raises(PduError) as caught:
        kind.parse(bytes.fromhex(pdu))
    assert caught.value.exception_code == VALUE
    return str(caught.value)


# --- requests without data ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", BARE)
@pytest.mark.requirement("AP-4.1-no-data-field")
def test_a_bare_request_is_its_function_code_and_nothing_else(kind: type[BareRequest[Any]]) -> None:
    pdu = bytes((kind.function_code,))
    assert kind.parse(pdu).encode() == pdu
    assert kind.parse(pdu).fields() == {}
    assert kind.length is not None
    assert kind.length.predict(pdu, 0, 1) == 1
    assert "a request has 1 byte, this one 2" in malformed(kind, pdu.hex() + "00")


def test_bare_requests_are_equal_by_kind_alone() -> None:
    assert [kind() for kind in BARE] == [kind() for kind in BARE]
    assert len({kind() for kind in [*BARE, *BARE]}) == 4
    assert repr(ReadExceptionStatusRequest()) == "ReadExceptionStatusRequest()"


# --- 07 ---------------------------------------------------------------------------------------


@pytest.mark.requirement("AP-6.7-layout")
def test_the_exception_status_is_one_byte_and_no_byte_count() -> None:
    response = ReadExceptionStatusResponse.parse(bytes.fromhex("076D"))
    assert response.fields() == {"status": 0x6D}
    assert response.encode() == bytes.fromhex("076D")
    assert ReadExceptionStatusRequest().mismatch(response) is None
    for pdu in ("07", "07016D"):
        assert "a response has 2 bytes" in malformed(ReadExceptionStatusResponse, pdu)


# --- 08 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("pdu", ["080000A537", "08000012345678", "080000" + "AB" * 250])
@pytest.mark.requirement("AP-6.8.1-00")
def test_query_data_of_any_number_of_words_comes_back(pdu: str) -> None:
    request = DiagnosticsRequest.parse(bytes.fromhex(pdu))
    assert refusal(request) is None
    assert request.fields() == {
        "sub_function": 0,
        "sub_name": "return_query_data",
        "data_hex": pdu[6:].lower(),
    }
    assert request.encode() == bytes.fromhex(pdu)
    assert request.respond().encode() == bytes.fromhex(pdu)
    assert request.mismatch(request.respond()) is None


@pytest.mark.parametrize("pdu", ["08", "0800", "08000000", "080000123456"])
@pytest.mark.parametrize("kind", [DiagnosticsRequest, DiagnosticsResponse])
@pytest.mark.requirement("AP-6.8-layout")
def test_diagnostics_are_a_sub_function_and_whole_words(kind: type[Pdu], pdu: str) -> None:
    assert f"{len(pdu) // 2} bytes are not a sub-function and whole words" in malformed(kind, pdu)


def test_a_sub_function_without_data_has_a_structure_but_is_not_legal() -> None:
    request = DiagnosticsRequest.parse(bytes.fromhex("080000"))
    assert request == DiagnosticsRequest(0, b"")
    assert refusal(request) == VALUE


@pytest.mark.parametrize("sub_function", [*range(0x05, 0x0A), 0x13, 0x15, 0x16, 0xFFFF])
@pytest.mark.requirement("AP-6.8-sub-function")
def test_a_reserved_sub_function_is_not_known(sub_function: int) -> None:
    for data in (b"\x00\x00", b"", b"\x12\x34\x56\x78"):
        assert refusal(DiagnosticsRequest(sub_function, data)) == FUNCTION
        assert refusal(DiagnosticsResponse(sub_function, data)) == FUNCTION
    assert DiagnosticsRequest(sub_function, b"\x00\x00").fields()["sub_name"] == "reserved"


@pytest.mark.parametrize("sub_function", list(DiagnosticCode))
@pytest.mark.requirement("AP-6.8-data")
def test_every_sub_function_takes_one_word_and_only_query_data_takes_more(sub_function: int) -> None:
    for kind in (DiagnosticsRequest, DiagnosticsResponse):
        assert refusal(kind(sub_function, b"\x00\x00")) is None
        assert refusal(kind(sub_function, b"")) == VALUE
        assert refusal(kind(sub_function, bytes(4))) == (None if sub_function == 0 else VALUE)


@pytest.mark.parametrize(
    ("sub_function", "legal", "illegal"),
    [
        (0x00, ["0000", "A537", "FFFF"], []),
        (0x01, ["0000", "FF00"], ["1234", "FF01", "00FF"]),
        (0x02, ["0000"], ["0001"]),
        (0x03, ["0A00", "0D00", "2100"], ["0A01", "00FF"]),
        (0x04, ["0000"], ["FF00", "0001"]),
        (0x0A, ["0000"], ["FF00"]),
        *[(number, ["0000"], ["0001", "0100"]) for number in COUNTERS],
        (0x14, ["0000"], ["0001"]),
    ],
)
@pytest.mark.requirement("AP-6.8-data", "AP-6.8.1-03")
def test_the_data_of_a_request_is_what_its_sub_function_allows(
    sub_function: int, legal: list[str], illegal: list[str]
) -> None:
    def codes(data: list[str]) -> list[ExceptionCode | None]:
        return [refusal(DiagnosticsRequest(sub_function, bytes.fromhex(word))) for word in data]

    assert codes(legal) == [None] * len(legal)
    assert codes(illegal) == [VALUE] * len(illegal)


@pytest.mark.parametrize("sub_function", [0x02, *COUNTERS])
def test_a_response_may_carry_a_value_where_the_request_has_none(sub_function: int) -> None:
    request = DiagnosticsRequest(sub_function, b"\x00\x00")
    response = request.respond(0x0121)
    assert response == DiagnosticsResponse(sub_function, b"\x01\x21")
    assert refusal(response) is None
    assert request.mismatch(response) is None


@pytest.mark.parametrize("sub_function", [0x00, 0x01, 0x03, 0x0A, 0x14])
def test_an_echo_that_differs_does_not_fit(sub_function: int) -> None:
    request = DiagnosticsRequest(sub_function, b"\x00\x00")
    assert request.mismatch(request.respond()) is None
    assert request.mismatch(DiagnosticsResponse(sub_function, b"\x00\x01")) == "the echo says 0001, not 0000"


@pytest.mark.requirement("AP-6.8-layout")
def test_a_response_of_another_sub_function_does_not_fit() -> None:
    problem = DiagnosticsRequest(0x0B, b"\x00\x00").mismatch(DiagnosticsResponse(0x0C, b"\x00\x00"))
    assert problem == "sub-function 000C answers 000B"


def test_a_refusal_names_what_it_refuses() -> None:
    with pytest.raises(PduError, match="diagnostics: sub-function 0013 is not known"):
        DiagnosticsRequest(0x13, b"\x00\x00").check()
    with pytest.raises(PduError, match="diagnostics: bus_message_count does not take 4 bytes of data"):
        DiagnosticsRequest(0x0B, bytes(4)).check()
    with pytest.raises(PduError, match="diagnostics: data 1234 is not legal for 0001"):
        DiagnosticsRequest(0x01, b"\x12\x34").check()


# --- 0B and 0C --------------------------------------------------------------------------------


@pytest.mark.requirement("AP-6.9-layout")
def test_the_event_counter_has_a_status_and_a_count() -> None:
    response = GetCommEventCounterResponse.parse(bytes.fromhex("0BFFFF0108"))
    assert response.fields() == {"status": 0xFFFF, "event_count": 264}
    assert response.encode() == bytes.fromhex("0BFFFF0108")
    for pdu in ("0B", "0BFFFF01", "0BFFFF010800"):
        assert "a response has 5 bytes" in malformed(GetCommEventCounterResponse, pdu)


@pytest.mark.parametrize(("pdu", "events"), [("0C080000010801212000", [0x20, 0]), ("0C06000001080121", [])])
@pytest.mark.requirement("AP-6.10-layout")
def test_the_event_log_has_counters_and_events(pdu: str, events: list[int]) -> None:
    response = GetCommEventLogResponse.parse(bytes.fromhex(pdu))
    assert response.fields() == {
        "byte_count": 6 + len(events),
        "status": 0,
        "event_count": 0x108,
        "message_count": 0x121,
        "events": events,
    }
    assert response.encode() == bytes.fromhex(pdu)
    assert refusal(response) is None


@pytest.mark.parametrize("pdu", ["0C", "0C0400000108", "0C07000001080121", "0C0600000108012120"])
@pytest.mark.requirement("AP-6.10-layout")
def test_an_event_log_is_as_long_as_it_says(pdu: str) -> None:
    assert "the byte count does not fit" in malformed(GetCommEventLogResponse, pdu)


@pytest.mark.parametrize(("events", "code"), [(64, None), (65, VALUE)])
@pytest.mark.requirement("AP-6.10-log")
def test_an_event_log_has_at_most_64_events(events: int, code: ExceptionCode | None) -> None:
    response = GetCommEventLogResponse(0, 0, 0, bytes(events))
    assert refusal(response) == code
    assert GetCommEventLogResponse.parse(response.encode()) == response


# --- 11 ---------------------------------------------------------------------------------------


@pytest.mark.requirement("AP-6.13-layout")
def test_a_server_id_is_bytes_that_only_the_device_understands() -> None:
    response = ReportServerIdResponse.parse(bytes.fromhex("110212FF"))
    assert response.fields() == {"byte_count": 2, "data_hex": "12ff"}
    assert response.encode() == bytes.fromhex("110212FF")
    assert ReportServerIdRequest().mismatch(response) is None


# --- lengths ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "pdu"),
    [
        (ReadExceptionStatusResponse, "076D"),
        (DiagnosticsRequest, "080000A537"),
        (DiagnosticsResponse, "080000A537"),
        (GetCommEventCounterResponse, "0BFFFF0108"),
        (GetCommEventLogResponse, "0C080000010801212000"),
        (ReportServerIdResponse, "110212FF"),
    ],
)
def test_a_length_is_known_from_the_front(kind: type[Pdu], pdu: str) -> None:
    data = bytes.fromhex(pdu)
    assert kind.length is not None
    assert kind.length.predict(data, 0, len(data)) == len(data)
