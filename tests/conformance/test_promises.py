"""Promises of the core that were once broken: each of these tests has failed before."""

from __future__ import annotations

import copy
import pickle
from typing import Any, cast

import pytest

from everbus.client.endpoint import parse_endpoint
from everbus.errors import (
    ConfigurationError,
    ExceptionResponseError,
    FramingError,
    InvalidRequestError,
    ModbusError,
    PduError,
)
from everbus.limits import Limits
from everbus.observe import Event
from everbus.protocol.client_session import ClientSession, match_response
from everbus.protocol.codes import ExceptionCode
from everbus.protocol.framing.base import Frame
from everbus.protocol.framing.mbap import MbapFramer
from everbus.protocol.pdu.base import ExceptionResponse
from everbus.protocol.pdu.bits import ReadCoilsRequest
from everbus.protocol.pdu.diagnostics import DiagnosticsRequest
from everbus.protocol.pdu.encapsulated import CanOpenRequest, ReadDeviceIdentificationRequest
from everbus.protocol.pdu.table import PUBLIC, AnyRequest, FunctionTable
from everbus.service.bank import Bank
from everbus.service.context import ConnectionInfo, RequestContext
from everbus.service.local import LocalDevice
from everbus.service.pipeline import Pipeline
from everbus.service.units import Units, UnknownUnit

TCP, SERIAL = ConnectionInfo(1), ConnectionInfo(2, serial=True)


class Recorder:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def notify(self, event: Event) -> None:
        self.events.append(event)

    def tick(self, now: float) -> None: ...


def asked(device: Any, *pdus: str, connection: ConnectionInfo = TCP) -> list[Any]:
    pipeline = Pipeline(Units(device))
    return [pipeline.answer(Frame(1, bytes.fromhex(pdu), 1), connection) for pdu in pdus]


@pytest.mark.parametrize("pdu", ["0300000000", "03000000", "41", "0800050000", "83"])
@pytest.mark.requirement("SL-2.2-others")
def test_a_silent_unit_is_silent_whatever_it_is_asked(pdu: str) -> None:
    pipeline = Pipeline(Units({1: Bank(coils=1)}, UnknownUnit.SILENT))
    assert pipeline.answer(Frame(2, bytes.fromhex(pdu), 1), SERIAL) is None


def test_the_short_way_answers_only_codes_that_the_server_knows() -> None:
    pipeline = Pipeline(Units(Bank()), table=FunctionTable.of(ReadCoilsRequest))
    assert pipeline.answer(Frame(1, bytes.fromhex("0300000001"), 1), TCP) == b"\x83\x01"


@pytest.mark.parametrize("code", [1, 2, 3])
@pytest.mark.requirement("AP-7-04")
def test_a_pdu_error_of_a_handler_is_its_failure(code: int) -> None:
    def handle(request: AnyRequest, context: RequestContext) -> Any:
        raise PduError(ExceptionCode(code), "the device behind answered nonsense")

    recorder = Recorder()
    pipeline = Pipeline(Units(handle), observer=recorder)
    assert pipeline.answer(Frame(1, bytes.fromhex("0300000001"), 1), TCP) == b"\x83\x04"
    assert len(recorder.events) == 1


@pytest.mark.parametrize(("pdu", "size"), [("2B0D001F10050000000008", 250), ("2B0D001F10050000000008", 70000)])
def test_an_exception_response_of_a_handler_is_checked_too(pdu: str, size: int) -> None:
    data = bytes.fromhex(pdu)
    pipeline = Pipeline(Units(lambda request, context: ExceptionResponse(data[0], 0xFF, bytes(size))))
    answer = pipeline.answer(Frame(1, data, 1), TCP)
    assert answer == bytes((data[0] | 0x80, 4))
    assert pipeline.exceptions == 1


@pytest.mark.parametrize("pdu", ["0800011234", "080001", "08000100000000"])
@pytest.mark.requirement("AP-6.8.1-01-listen-only")
def test_an_illegal_restart_is_not_answered_in_listen_only_mode(pdu: str) -> None:
    device = LocalDevice()
    assert asked(device, "0800040000", pdu, connection=SERIAL) == [None, None]
    assert device.diagnostics.listen_only


@pytest.mark.requirement("AP-6.9-not-counted")
def test_fetching_the_event_log_is_an_event_as_only_the_event_counter_is_excepted() -> None:
    assert asked(LocalDevice(), "0C", "0B")[1] == bytes.fromhex("0B00000001")


def test_the_message_that_clears_the_counters_leaves_its_send_event() -> None:
    device = LocalDevice()
    asked(device, "08000A0000")
    assert device.diagnostics.log == b"\x40\x80"


@pytest.mark.requirement("AP-6.8.1-01-restart")
def test_a_restart_is_answered_before_it_happens_and_the_log_says_so() -> None:
    device = LocalDevice()
    asked(device, "0800010000")
    assert device.diagnostics.log == b"\x00\x40\x80"


@pytest.mark.requirement("SL-A-no-response")
def test_the_message_that_forces_listen_only_mode_is_one_without_response() -> None:
    device = LocalDevice()
    asked(device, "0800040000", connection=SERIAL)
    assert device.diagnostics.no_responses == 1


@pytest.mark.parametrize(
    "request_",
    [DiagnosticsRequest(0, bytes(300)), CanOpenRequest(bytes(252)), DiagnosticsRequest(0, bytes(3))],
    ids=repr,
)
def test_a_client_never_sends_what_no_frame_can_carry(request_: AnyRequest) -> None:
    with pytest.raises(InvalidRequestError):
        ClientSession().submit(1, request_)


def test_a_table_of_one_interface_reads_its_responses() -> None:
    table = FunctionTable.of(ReadDeviceIdentificationRequest)
    pdu = bytes.fromhex("2B0E0101000001000141")
    assert table.decode_response(pdu) == PUBLIC.decode_response(pdu)


@pytest.mark.parametrize(
    "error",
    [
        ExceptionResponseError(2, 3),
        PduError(ExceptionCode.ILLEGAL_DATA_VALUE, "quantity"),
        FramingError("length", "length 1 is outside 2..254"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_survive_copying_and_pickling(error: ModbusError) -> None:
    for other in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert (type(other), str(other), vars(other)) == (type(error), str(error), vars(error))


@pytest.mark.parametrize("name", ["max_connections", "idle_timeout_s", "backlog", "handler_timeout_s", "max_in_flight"])
def test_a_limit_that_is_not_optional_cannot_be_none(name: str) -> None:
    with pytest.raises(ConfigurationError):
        Limits(**cast(Any, {name: None}))


@pytest.mark.parametrize("name", ["idle_timeout_s", "stop_timeout_s"])
def test_a_duration_of_text_is_refused_like_any_other(name: str) -> None:
    with pytest.raises(ConfigurationError):
        Limits(**cast(Any, {name: "5"}))


@pytest.mark.parametrize("name", ["max_connections", "max_in_flight"])
def test_true_is_no_count(name: str) -> None:
    with pytest.raises(ConfigurationError):
        Limits(**cast(Any, {name: True}))


@pytest.mark.parametrize(
    "text", ["tcp://plc:" + "1" * 5000, "tcp://plc\x00:502", "tcp://pl\tc", "unix:///run/a\x00b", "tcp://a]:5"]
)
def test_an_endpoint_that_no_socket_can_have_is_a_configuration_error(text: str) -> None:
    try:
        parse_endpoint(text)
    except ConfigurationError:
        return
    except ValueError as error:
        pytest.fail(f"{type(error).__name__}: {error}"[:80])
    pytest.fail("it was taken")


def test_a_server_id_that_fits_no_response_is_refused_when_it_is_given() -> None:
    with pytest.raises(ConfigurationError):
        LocalDevice(server_id=bytes(251))


def test_what_a_fault_throws_away_is_counted_as_discarded() -> None:
    framer = MbapFramer()
    framer.feed(b"GET / HTTP/1.1\r\n")
    assert framer.statistics().discarded_bytes == 16


def test_individual_access_is_answered_by_the_object_that_was_asked_for() -> None:
    with pytest.raises(ModbusError):
        match_response(ReadDeviceIdentificationRequest(4, 3), bytes.fromhex("2B0E0481000001000141"))


def test_a_class_is_no_handler() -> None:
    with pytest.raises(ConfigurationError):
        Units(cast(Any, LocalDevice))


def test_an_error_of_the_short_way_does_not_escape() -> None:
    class Broken(LocalDevice):
        def answer_wire(self, pdu: bytes) -> bytes | None:
            raise ValueError("boiler")

    assert asked(Broken(), "0300000001") == [b"\x83\x04"]
