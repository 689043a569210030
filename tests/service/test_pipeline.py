from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from typing import Self

import pytest

from everbus.errors import ExceptionResponseError, ModbusTimeoutError, UsageError
from everbus.observe import Event, EventKind
from everbus.protocol.framing.base import Frame
from everbus.protocol.pdu.base import ExceptionResponse, Request, Response
from everbus.protocol.pdu.bits import ReadCoilsRequest, ReadCoilsResponse
from everbus.protocol.pdu.registers import (
    ReadHoldingRegistersRequest,
    ReadHoldingRegistersResponse,
    ReadInputRegistersResponse,
    WriteSingleRegisterResponse,
)
from everbus.protocol.pdu.table import PUBLIC, AnyRequest, FunctionTable
from everbus.service.audit import AuditRecord, AuditSink
from everbus.service.authorize import Admission, Decision, Kind, Verdict
from everbus.service.bank import Bank, TableName
from everbus.service.context import ConnectionInfo, RequestContext
from everbus.service.handler import SILENT, Answer
from everbus.service.local import LocalDevice
from everbus.service.pipeline import Pending, Pipeline
from everbus.service.policy import Rule, RulePolicy, Span
from everbus.service.units import HandlerLike, Units, UnknownUnit

TCP = ConnectionInfo(3, peer="192.0.2.7:40112")
SERIAL = ConnectionInfo(4, serial=True)
READ = bytes.fromhex("0300000002")


class Recorder:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def notify(self, event: Event) -> None:
        self.events.append(event)

    def tick(self, now: float) -> None:
        raise AssertionError("nothing here looks at the clock")


class Later(Awaitable[Answer]):
    """A result that comes later; nobody here waits for it."""

    def __await__(self) -> Generator[None, None, Answer]:
        raise AssertionError("the pipeline does not wait")


class Counting(LocalDevice):
    """A device with counters that answers what it is told to."""

    def __init__(self, answer: object) -> None:
        super().__init__()
        self.answer = answer

    def answer_wire(self, pdu: bytes) -> None:
        return None

    def handle(self, request: AnyRequest, context: RequestContext) -> Answer:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer  # type: ignore[return-value]


class DenyAll:
    unconditional = False

    def allows(self, request: AnyRequest, context: RequestContext) -> bool:
        return False


@dataclass(slots=True)
class BlobResponse(Response):
    data: bytes
    function_code = 0x41

    @classmethod
    def parse(cls, pdu: bytes) -> Self:
        return cls(pdu[1:])

    def encode(self) -> bytes:
        return b"\x41" + self.data

    def fields(self) -> dict[str, object]:
        return {"data": self.data.hex()}


@dataclass(slots=True)
class BlobRequest(Request[BlobResponse]):
    data: bytes
    function_code = 0x41
    response_type = BlobResponse

    @classmethod
    def parse(cls, pdu: bytes) -> Self:
        return cls(pdu[1:])

    def encode(self) -> bytes:
        return b"\x41" + self.data

    def fields(self) -> dict[str, object]:
        return {"data": self.data.hex()}


class Unspeakable(Exception):
    """An error that has no words."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


def handling(answer: object) -> HandlerLike:
    """A handler that returns this, or raises it."""

    def handle(request: AnyRequest, context: RequestContext) -> Answer:
        if isinstance(answer, BaseException):
            raise answer
        return answer  # type: ignore[return-value]

    return handle


def given(answer: object, pdu: bytes = READ) -> tuple[bytes | Pending | None, list[Event]]:
    """What a client gets when a handler answers with this, and what the observer is told."""
    recorder = Recorder()
    pipeline = Pipeline(Units(handling(answer)), observer=recorder)
    return pipeline.answer(Frame(17, pdu, 9), TCP), recorder.events


def waiting(diagnostics: LocalDevice | None = None) -> tuple[Pipeline, Pending, Recorder]:
    """A request whose handler needs time."""
    recorder = Recorder()
    device = diagnostics or handling(Later())
    pipeline = Pipeline(Units(device), observer=recorder)
    pending = pipeline.answer(Frame(17, READ, 9), TCP)
    assert isinstance(pending, Pending)
    return pipeline, pending, recorder


# --- requests ---------------------------------------------------------------------------------


@pytest.mark.requirement("TG-4.4.2.2-application")
def test_a_request_to_a_local_device_is_answered_at_once() -> None:
    bank = Bank()
    bank.write_holding_registers(0, [0x022B, 0x64])
    pipeline = Pipeline(Units(bank))
    assert pipeline.answer(Frame(1, READ, 1), TCP) == bytes.fromhex("0304022B0064")
    assert pipeline.answer(Frame(1, bytes.fromhex("0600010003"), 2), TCP) == bytes.fromhex("0600010003")
    assert bank.read_holding_registers(1) == [3]
    assert pipeline.exceptions == 0


def test_a_handler_is_told_what_is_asked_and_by_whom() -> None:
    asked: list[tuple[AnyRequest, RequestContext]] = []

    def handle(request: AnyRequest, context: RequestContext) -> Answer:
        asked.append((request, context))
        return ReadHoldingRegistersResponse.of([1, 2])

    assert Pipeline(Units(handle)).answer(Frame(17, READ, 9), TCP) == bytes.fromhex("030400010002")
    assert asked == [(ReadHoldingRegistersRequest(0, 2), RequestContext(TCP, 17, 9))]


@pytest.mark.parametrize(
    ("pdu", "answer"),
    [
        ("0300000000", "8303"),
        ("03FFFF0002", "8302"),
        ("03000000", "8303"),
        ("41", "C101"),
        ("00", "8001"),
        ("83", "8301"),
        ("FF", "FF01"),
        ("2B", "AB03"),
        ("2B0F0100", "AB01"),
        ("0800050000", "8801"),
    ],
)
@pytest.mark.requirement("AP-4.1-function-code", "TG-4.4.2.1-function")
def test_an_illegal_request_never_reaches_a_handler(pdu: str, answer: str) -> None:
    # V11
    result, events = given(AssertionError("the handler was called"), bytes.fromhex(pdu))
    assert result == bytes.fromhex(answer)
    assert events == []


@pytest.mark.requirement("TG-4.4.2.3-gateway-unit")
def test_each_unit_has_its_own_device() -> None:
    banks = {unit: Bank() for unit in (1, 2)}
    for unit, bank in banks.items():
        bank.write_holding_registers(0, [unit, unit])
    pipeline = Pipeline(Units(banks))
    assert [pipeline.answer(Frame(unit, READ, 1), TCP) for unit in (1, 2)] == [
        bytes.fromhex("030400010001"),
        bytes.fromhex("030400020002"),
    ]


@pytest.mark.parametrize(
    ("rule", "answer"),
    [
        (UnknownUnit.TARGET_FAILED, b"\x83\x0b"),
        (UnknownUnit.PATH_UNAVAILABLE, b"\x83\x0a"),
        (UnknownUnit.SILENT, None),
    ],
)
@pytest.mark.requirement("AP-7-0A", "AP-7-0B", "TG-4.4.2.3-gateway-unit", "SL-2.2-others")
def test_an_unknown_unit_gets_what_the_rule_says(rule: UnknownUnit, answer: bytes | None) -> None:
    pipeline = Pipeline(Units({1: Bank()}, rule))
    assert pipeline.answer(Frame(2, READ, 1), TCP) == answer
    assert pipeline.exceptions == (answer is not None)
    assert pipeline.answer(Frame(1, READ, 1), TCP) == bytes.fromhex("030400000000")


@pytest.mark.requirement("SEC-R-31")
def test_what_the_policy_denies_is_answered_with_01_before_the_unit_is_looked_up() -> None:
    device = LocalDevice()
    pipeline = Pipeline(Units({1: device}, UnknownUnit.PATH_UNAVAILABLE), DenyAll())
    assert [pipeline.answer(Frame(unit, READ, 1), TCP) for unit in (1, 2)] == [b"\x83\x01"] * 2
    assert device.diagnostics.bus_exceptions == 1
    assert pipeline.exceptions == 2


def test_a_server_may_know_custom_codes() -> None:
    table = PUBLIC.extended(BlobRequest)
    pipeline = Pipeline(Units(handling(BlobResponse(b"hi"))), table=table)
    assert pipeline.answer(Frame(1, b"\x41x", 1), TCP) == b"\x41hi"
    assert Pipeline(Units(Bank()), table=table).answer(Frame(1, b"\x41x", 1), TCP) == b"\xc1\x01"


@pytest.mark.requirement("AP-7-01")
def test_a_server_may_know_fewer_codes() -> None:
    pipeline = Pipeline(Units(handling(SILENT)), table=FunctionTable.of(ReadCoilsRequest))
    assert pipeline.answer(Frame(1, READ, 1), TCP) == b"\x83\x01"
    assert pipeline.answer(Frame(1, bytes.fromhex("0100000001"), 1), TCP) is None


# --- answers of handlers ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "pdu"),
    [
        (ReadHoldingRegistersResponse.of([1, 2]), "030400010002"),
        (ExceptionResponse(3, 1), "8301"),
        (ExceptionResponse(3, 6), "8306"),
        (ExceptionResponse(3, 0x80), "8380"),
        (ExceptionResponseError(2), "8302"),
        (ExceptionResponseError(5, 0x10), "8305"),  # the request's function code is what counts
        (ExceptionResponseError(0x80, 3), "8380"),
        (ExceptionResponseError(0xFF), "83FF"),
    ],
)
@pytest.mark.requirement("AP-7-vendor", "TG-4.4.2.2-error")
def test_a_handler_may_give_a_response_or_an_exception(answer: object, pdu: str) -> None:
    result, events = given(answer)
    assert result == bytes.fromhex(pdu)
    assert events == []


def test_a_handler_may_stay_silent() -> None:
    assert given(SILENT) == (None, [])


@pytest.mark.requirement("AP-6.20-canopen")
def test_the_extended_exception_of_canopen_is_passed_through() -> None:
    answer = ExceptionResponse(0x2B, 0xFF, bytes.fromhex("0DEC06020000"))
    result, events = given(answer, bytes.fromhex("2B0D001F10050000000008"))
    assert result == bytes.fromhex("ABFF00060DEC06020000")
    assert events == []


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (ValueError("no such boiler"), "ValueError"),
        (KeyError("boiler"), "KeyError"),
        (Unspeakable(), "Unspeakable"),
        (UsageError("2 registers were asked for, 1 given"), "UsageError"),
        (ExceptionResponseError(0), "ExceptionResponseError"),
        (ExceptionResponseError(0x100), "ExceptionResponseError"),
        (ExceptionResponseError(-1), "ExceptionResponseError"),
        (None, "UsageError"),
        (b"\x03\x04\x00\x01\x00\x02", "UsageError"),
        ([1, 2], "UsageError"),
        (ReadInputRegistersResponse.of([1, 2]), "UsageError"),
        (ReadCoilsResponse.of([1, 0]), "UsageError"),
        (ReadHoldingRegistersRequest(0, 2), "UsageError"),
        (ReadHoldingRegistersResponse.of([1]), "UsageError"),
        (ReadHoldingRegistersResponse.of([1, 2, 3]), "UsageError"),
        (ReadHoldingRegistersResponse(b"\x00\x01\x00"), "UsageError"),
        (ReadHoldingRegistersResponse(b""), "UsageError"),
        (ReadHoldingRegistersResponse(bytes(300)), "UsageError"),
        (ReadHoldingRegistersResponse(None), "TypeError"),  # type: ignore[arg-type]
        (ExceptionResponse(4, 2), "UsageError"),
        (ExceptionResponse(3, 0), "UsageError"),
        (ExceptionResponse(3, 256), "UsageError"),
        (ExceptionResponse(3, 0xFF, b"\x00"), "UsageError"),
        (ExceptionResponse(3, "busy"), "TypeError"),  # type: ignore[arg-type]
    ],
    ids=repr,
)
@pytest.mark.requirement("AP-7-04")
def test_whatever_else_a_handler_does_is_answered_with_04_and_reported(answer: object, reason: str) -> None:
    # D1
    result, events = given(answer)
    assert result == b"\x83\x04"
    (event,) = events
    assert (event.kind, event.reason) == (EventKind.HANDLER_FAILED, reason)
    assert (event.peer, event.connection_id) == ("192.0.2.7:40112", 3)
    assert event.detail.startswith("function 03, unit 17: ")
    assert type(event.error).__name__ == reason


def test_only_the_extended_exception_of_canopen_carries_data() -> None:
    for code, answer in [(0xFF, "ABFF000100"), (4, "AB04"), (3, "AB04")]:
        result, _ = given(ExceptionResponse(0x2B, code, b"\x00"), bytes.fromhex("2B0D00"))
        assert result == bytes.fromhex(answer)


@pytest.mark.parametrize("answer", [ExceptionResponse(0x2B, 0xFF), ExceptionResponseError(0xFF)], ids=repr)
def test_the_extended_exception_without_data_is_the_handlers_failure(answer: object) -> None:
    result, events = given(answer, bytes.fromhex("2B0D00"))
    assert result == bytes.fromhex("AB04")
    assert len(events) == 1


@pytest.mark.requirement("AP-4.1-pdu-size")
def test_a_response_over_253_bytes_is_the_handlers_failure() -> None:
    for size, failed in [(252, False), (253, True)]:
        recorder = Recorder()
        units = Units(handling(BlobResponse(bytes(size))))
        pipeline = Pipeline(units, table=PUBLIC.extended(BlobRequest), observer=recorder)
        answer = pipeline.answer(Frame(1, b"\x41", 1), TCP)
        assert answer == (b"\xc1\x04" if failed else b"\x41" + bytes(size))
        assert len(recorder.events) == failed


def test_a_value_out_of_range_is_the_handlers_failure() -> None:
    def handle(request: AnyRequest, context: RequestContext) -> Answer:
        assert isinstance(request, ReadHoldingRegistersRequest)
        return request.respond([70000, 1])

    assert Pipeline(Units(handle)).answer(Frame(1, READ, 1), TCP) == b"\x83\x04"


def test_a_report_says_what_does_not_fit() -> None:
    _, (event,) = given(ReadHoldingRegistersResponse.of([1]))
    assert "2 registers need byte count 4, not 2" in event.detail


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(0)])
def test_what_ends_the_program_is_not_answered(error: BaseException) -> None:
    with pytest.raises(type(error)):
        given(error)


def test_a_handler_that_claims_to_be_cancelled_is_answered_like_any_other() -> None:
    result, (event,) = given(CancelledError())
    assert result == b"\x83\x04"
    assert (event.kind, event.reason) == (EventKind.HANDLER_FAILED, "CancelledError")


def test_the_next_request_is_answered_after_a_failure() -> None:
    answers: list[Answer] = [ReadHoldingRegistersResponse.of([1, 2])]

    def handle(request: AnyRequest, context: RequestContext) -> Answer:
        return answers.pop()

    pipeline = Pipeline(Units(handle))
    seen = [pipeline.answer(Frame(1, READ, number), TCP) for number in range(3)]
    assert seen == [bytes.fromhex("030400010002"), b"\x83\x04", b"\x83\x04"]
    assert pipeline.exceptions == 2


# --- answers that come later ------------------------------------------------------------------


def test_a_handler_may_need_time() -> None:
    later = Later()
    answer, events = given(later)
    assert answer == Pending(later, ReadHoldingRegistersRequest(0, 2), RequestContext(TCP, 17, 9), None)
    assert events == []


@pytest.mark.parametrize(
    ("answer", "pdu"),
    [
        (ReadHoldingRegistersResponse.of([1, 2]), bytes.fromhex("030400010002")),
        (ExceptionResponse(3, 6), b"\x83\x06"),
        (SILENT, None),
    ],
)
@pytest.mark.requirement("TG-4.4.2.2-application")
def test_a_late_answer_is_settled_like_any_other(answer: Answer, pdu: bytes | None) -> None:
    pipeline, pending, recorder = waiting()
    assert pipeline.settle(pending, answer) == pdu
    assert recorder.events == []
    assert pipeline.exceptions == isinstance(answer, ExceptionResponse)


def test_a_late_answer_that_does_not_fit_is_the_handlers_failure() -> None:
    pipeline, pending, recorder = waiting()
    assert pipeline.settle(pending, ReadHoldingRegistersResponse.of([1])) == b"\x83\x04"
    (event,) = recorder.events
    assert (event.kind, event.reason) == (EventKind.HANDLER_FAILED, "UsageError")
    assert pipeline.exceptions == 1


@pytest.mark.parametrize(
    ("error", "pdu", "kind"),
    [
        (ExceptionResponseError(6), b"\x83\x06", None),
        (ValueError("no such boiler"), b"\x83\x04", EventKind.HANDLER_FAILED),
        (ModbusTimeoutError("5 s"), b"\x83\x04", EventKind.HANDLER_TIMED_OUT),
        (TimeoutError(), b"\x83\x04", EventKind.HANDLER_TIMED_OUT),
        (GeneratorExit(), b"\x83\x04", EventKind.HANDLER_FAILED),
    ],
)
@pytest.mark.requirement("TG-4.4.2.2-error")
def test_a_late_failure_is_answered_and_reported(error: BaseException, pdu: bytes, kind: EventKind | None) -> None:
    pipeline, pending, recorder = waiting()
    assert pipeline.fail(pending, error) == pdu
    assert [event.kind for event in recorder.events] == ([kind] if kind else [])
    assert pipeline.exceptions == 1


# --- counters and event log -------------------------------------------------------------------


def asked(device: LocalDevice, *pdus: str, connection: ConnectionInfo = TCP) -> list[str | None]:
    pipeline = Pipeline(Units(device))
    answers = [pipeline.answer(Frame(1, bytes.fromhex(pdu), 1), connection) for pdu in pdus]
    return [answer.hex().upper() if isinstance(answer, bytes) else None for answer in answers]


@pytest.mark.requirement("AP-6.8.1-0B", "SL-A-server-messages")
def test_the_counters_move_as_messages_come_and_go() -> None:
    requests = [
        "0300000001",  # message, event
        "0600010003",  # message, event
        "0300000000",  # message, exception 03
        "41",  # message, exception 01
        "0B",  # message; fetching the counter is no event
        "08000B0000",  # message, event
    ]
    answers = asked(LocalDevice(), *requests, "0B", "08000B0000", "08000D0000", "08000E0000", "08000F0000")
    assert answers[4:6] == ["0B00000002", "08000B0006"]
    assert answers[6:] == ["0B00000003", "08000B0008", "08000D0002", "08000E000A", "08000F0000"]


@pytest.mark.requirement("AP-6.10-receive")
def test_the_event_log_shows_receive_and_send_events_newest_first() -> None:
    device = LocalDevice()
    assert asked(device, "0300000001", "0300000000")[-1] == "8303"
    # The receive event of the request for the log is stored before it is processed.
    assert asked(device, "0C") == ["0C0B" + "0000" + "0001" + "0003" + "80" + "4180" + "4080"]


@pytest.mark.requirement("AP-6.9-reset")
def test_clearing_the_counters_starts_them_at_nothing() -> None:
    answers = asked(LocalDevice(), "0300000001", "41", "08000A0000", "0B", "08000D0000", "08000B0000")
    assert answers[2:] == ["08000A0000", "0B00000000", "08000D0000", "08000B0003"]


@pytest.mark.parametrize("restart", ["0800010000", "080001FF00"])
@pytest.mark.requirement("AP-6.8.1-01-restart", "AP-6.9-reset")
def test_a_restart_clears_the_counters(restart: str) -> None:
    device = LocalDevice()
    assert asked(device, "0300000001", "41", restart, "0B", "08000B0000")[2:] == [
        restart,
        "0B00000000",
        "08000B0002",
    ]
    log = device.diagnostics.log
    assert (log.count(0x41), log.count(0x00)) == (restart == "0800010000", 1)


@pytest.mark.parametrize(("code", "counter"), [(6, "busy"), (7, "nak")])
@pytest.mark.requirement("SL-A-nak", "SL-A-busy")
def test_what_a_handler_refuses_is_counted_by_its_code(code: int, counter: str) -> None:
    device = Counting(ExceptionResponse(3, code))
    assert asked(device, "0300000002", "0300000002") == [f"830{code}"] * 2
    assert getattr(device.diagnostics, counter) == 2
    assert device.diagnostics.bus_exceptions == 2


@pytest.mark.requirement("AP-6.8.1-0F")
def test_silence_is_counted() -> None:
    device = Counting(SILENT)
    assert asked(device, "0300000002") == [None]
    assert device.diagnostics.no_responses == 1


def test_late_answers_are_counted_when_they_are_settled() -> None:
    device = Counting(Later())
    pipeline, pending, _ = waiting(device)
    assert pending.diagnostics is device.diagnostics
    assert (device.diagnostics.messages, device.diagnostics.events) == (1, 0)
    pipeline.settle(pending, ReadHoldingRegistersResponse.of([1, 2]))
    assert (device.diagnostics.messages, device.diagnostics.events) == (1, 1)
    pipeline.fail(pending, ValueError())
    assert device.diagnostics.bus_exceptions == 1


@pytest.mark.requirement("SL-A-server-messages")
def test_a_message_to_an_unknown_unit_moves_no_counter() -> None:
    device = LocalDevice()
    pipeline = Pipeline(Units({1: device}))
    pipeline.answer(Frame(2, READ, 1), TCP)
    assert device.diagnostics.messages == 0


@pytest.mark.requirement("AP-6.8.1-04")
def test_listen_only_mode_is_silence_until_a_restart() -> None:
    device = LocalDevice()
    silenced = asked(device, "0800040000", "0300000001", "0600010003", "0B", "0300000000", connection=SERIAL)
    assert silenced == [None] * 5
    assert device.bank.read_holding_registers(1) == [0]
    assert device.diagnostics.log[:4] == b"\xa0" * 4
    assert asked(device, "0800010000", "0300000001", connection=SERIAL) == [None, "03020000"]
    assert device.diagnostics.log[:3] == b"\x40\x80\x00"


@pytest.mark.requirement("AP-6.8.1-04-tcp")
def test_listen_only_mode_does_not_exist_over_tcp() -> None:
    assert asked(LocalDevice(), "0800040000", "0300000001") == ["8801", "03020000"]


def test_a_denial_is_not_answered_in_listen_only_mode() -> None:
    device = LocalDevice()
    device.diagnostics.force_listen_only()
    silent = device.diagnostics.no_responses
    restart = Frame(1, bytes.fromhex("0800010000"))
    assert Pipeline(Units(device), DenyAll()).answer(restart, ConnectionInfo(1, serial=True)) is None
    assert device.diagnostics.no_responses == silent + 1
    assert device.diagnostics.bus_exceptions == 1
    assert device.diagnostics.listen_only


# --- policies of rules ----------------------------------------------------------------------------


def ruled(*rules: Rule, device: HandlerLike | None = None, audit: AuditSink | None = None) -> Pipeline:
    clock = iter(range(10)).__next__
    return Pipeline(Units({1: device or LocalDevice()}), RulePolicy(rules), audit=audit, clock=lambda: float(clock()))


def ask(pipeline: Pipeline, *pdus: str, connection: ConnectionInfo = TCP, unit: int = 1) -> list[str]:
    """Answers, in hexadecimal."""
    answers = [pipeline.answer(Frame(unit, bytes.fromhex(pdu), 9), connection) for pdu in pdus]
    return [answer.hex().upper() if isinstance(answer, bytes) else str(answer) for answer in answers]


class CountingReads(LocalDevice):
    """Counts the reads that take the short way."""

    short = 0

    def answer_wire(self, pdu: bytes) -> bytes | None:
        self.short += 1
        return super().answer_wire(pdu)


def test_a_read_that_was_allowed_takes_the_short_way_from_then_on() -> None:
    device = CountingReads()
    inside = Span(TableName.HOLDING_REGISTERS, 0, 10)
    pipeline = ruled(Rule(name="some", spans=(inside,)), device=device)
    connection = ConnectionInfo(1)
    assert ask(pipeline, "0300000001", "0300000001", "0300000001", connection=connection) == ["03020000"] * 3
    assert device.short == 2
    assert ask(pipeline, "03000A0001", "03000A0001", "0300090002", connection=connection) == ["8301"] * 3
    assert device.short == 2
    assert ask(pipeline, "0300000001", connection=ConnectionInfo(2)) == ["03020000"]
    assert device.diagnostics.messages == 7


def test_a_short_way_that_fails_is_answered_with_04_and_reported() -> None:
    class Broken(LocalDevice):
        def answer_wire(self, pdu: bytes) -> bytes | None:
            raise ValueError("no such plan")

    recorder = Recorder()
    assert ask(Pipeline(Units(Broken()), observer=recorder), "0300000001") == ["8304"]
    assert recorder.events[0].kind is EventKind.HANDLER_FAILED


def test_what_is_remembered_of_a_write_is_where_it_writes() -> None:
    spans = (Span(TableName.HOLDING_REGISTERS, 0, 10), Span(TableName.COILS, 0, 10))
    pipeline = ruled(Rule(name="some", spans=spans))
    good = ["0600090001", "0600090002", "10000900010200FF", "16000900F20025", "170000000900090001020007"]
    good += ["050009FF00", "0F000900010101"]
    bad = ["06000A0001", "10000900020400FF00FF", "16000A00F20025", "170000000A00090002040007" + "0007"]
    bad += ["170000000B00090001020000", "05000AFF00", "0F000900020103"]
    for _ in range(2):
        assert [answer[0] for answer in ask(pipeline, *good)] == ["0", "0", "1", "1", "1", "0", "0"]
        assert ask(pipeline, *bad) == ["8601", "9001", "9601", "9701", "9701", "8501", "8F01"]


def test_a_code_that_means_something_else_here_is_not_remembered_by_its_head() -> None:
    class Blob6Response(BlobResponse):
        function_code = 0x06

        def encode(self) -> bytes:
            return b"\x06" + self.data

    class Blob6(BlobRequest):
        function_code = 0x06
        response_type = Blob6Response

    class OnlyX:
        """Lets through what ends in x, for ever."""

        unconditional = False

        def __init__(self) -> None:
            self.known: dict[tuple[int, bytes], Decision] = {}
            self.policy = self

        def remember(self, unit: int, head: bytes, decision: Decision) -> None:
            raise AssertionError("what a custom request touches is not known here")

        def decide(self, request: AnyRequest, context: RequestContext, clock: object) -> Decision:
            verdict = Verdict.ALLOWED if request.encode().endswith(b"x") else Verdict.DENIED
            return Decision(verdict, lasting=True)

        def allows(self, request: AnyRequest, context: RequestContext) -> bool:
            raise AssertionError("nobody asks this way")

        def access(self, connection: ConnectionInfo) -> OnlyX:
            return self

        def admit(self, host: str) -> Admission:
            return Admission.ALLOW

    table = PUBLIC.extended(Blob6)
    pipeline = Pipeline(Units(handling(Blob6Response(b"ok"))), OnlyX(), table)
    connection = ConnectionInfo(1)
    assert ask(pipeline, "06000078", "06000079", connection=connection) == ["066F6B", "8601"]


def test_a_connection_is_judged_by_the_policy_of_the_pipeline_that_it_asks() -> None:
    connection = ConnectionInfo(1)
    nothing = ruled(Rule(name="write", kinds=frozenset({Kind.WRITE})))
    for _ in range(2):
        assert ask(ruled(Rule(name="all")), "0300000001", "0300000001", connection=connection) == ["03020000"] * 2
        assert ask(nothing, "0300000001", connection=connection) == ["8301"]


def test_who_asks_too_often_is_told_to_come_back_later() -> None:
    pipeline = ruled(Rule(name="slowly", rate_per_s=0.5))
    assert ask(pipeline, *["0300000001"] * 4, connection=ConnectionInfo(1)) == ["03020000", "8306", "03020000", "8306"]


def test_a_rate_without_a_clock_lets_nobody_through() -> None:
    recorder = Recorder()
    pipeline = Pipeline(Units(LocalDevice()), RulePolicy([Rule(name="slowly", rate_per_s=1)]), observer=recorder)
    assert ask(pipeline, "0300000001", connection=ConnectionInfo(1)) == ["8304"]
    assert "needs a clock" in recorder.events[0].detail


# --- the audit ------------------------------------------------------------------------------------


class Kept:
    """A sink that keeps what it is given, or fails."""

    def __init__(self, error: Exception | None = None) -> None:
        self.records: list[AuditRecord] = []
        self.error = error

    def record(self, record: AuditRecord) -> None:
        if self.error is not None:
            raise self.error
        self.records.append(record)

    def told(self, *names: str) -> list[tuple[object, ...]]:
        return [tuple(record.document().get(name) for name in names) for record in self.records]


def test_every_write_is_recorded_with_old_and_new_values_and_no_read_is() -> None:
    kept = Kept()
    pipeline = Pipeline(Units({1: LocalDevice()}), audit=kept)
    ask(pipeline, "0300000001", "0600050007", "1000040002040001" + "0009", "0300000001", "11", "2B0E0100")
    ask(pipeline, "0600000001", unit=2)
    assert kept.told("function", "address", "count", "old", "new", "decision", "rule", "exception") == [
        (6, 5, 1, [0], [7], "allowed", None, None),
        (16, 4, 2, [0, 7], [1, 9], "allowed", None, None),
    ]


def test_a_write_that_fails_is_recorded_with_its_exception() -> None:
    kept = Kept()
    pipeline = Pipeline(Units(Bank(holding_registers=5)), audit=kept)
    assert ask(pipeline, "0600050007") == ["8602"]
    assert kept.told("address", "old", "new", "exception") == [(5, None, [7], 2)]


def test_every_denial_is_recorded_with_its_rule() -> None:
    kept = Kept()
    rules = (Rule(name="never", allow=False, units=frozenset({9})), Rule(name="read", kinds=frozenset({Kind.READ})))
    pipeline = ruled(*rules, audit=kept)
    assert ask(pipeline, "0300000002", connection=ConnectionInfo(7)) == ["030400000000"]
    assert ask(pipeline, "0600050007", connection=ConnectionInfo(7)) == ["8601"]
    assert ask(pipeline, "0300050001", unit=9, connection=ConnectionInfo(7)) == ["8301"]
    assert kept.told("connection", "unit", "function", "address", "new", "decision", "rule", "exception") == [
        (7, 1, 6, 5, [7], "denied", "default", 1),
        (7, 9, 3, 5, None, "denied", "never", 1),
    ]


@pytest.mark.parametrize(
    ("finish", "exception"),
    [
        (lambda pipeline, pending: pipeline.settle(pending, WriteSingleRegisterResponse(5, 7)), None),
        (lambda pipeline, pending: pipeline.settle(pending, None), 4),
        (lambda pipeline, pending: pipeline.fail(pending, ExceptionResponseError(6)), 6),
    ],
)
def test_a_write_that_needs_time_is_recorded_when_it_ends(
    finish: Callable[[Pipeline, Pending], object], exception: int | None
) -> None:
    kept = Kept()
    pipeline = Pipeline(Units(handling(Later())), audit=kept)
    pending = pipeline.answer(Frame(1, bytes.fromhex("0600050007"), 9), TCP)
    assert isinstance(pending, Pending)
    assert kept.records == []
    finish(pipeline, pending)
    assert kept.told("address", "old", "new", "exception", "abandoned") == [(5, None, [7], exception, None)]


def test_a_write_that_nobody_waits_for_is_recorded_as_that() -> None:
    kept = Kept()
    pipeline = Pipeline(Units(handling(Later())), audit=kept)
    for pdu in ("0600050007", "0300000001"):
        pending = pipeline.answer(Frame(1, bytes.fromhex(pdu), 9), TCP)
        assert isinstance(pending, Pending)
        pipeline.abandon(pending)
    assert kept.told("function", "new", "exception", "abandoned") == [(6, [7], None, True)]


def test_a_sink_that_fails_is_reported_and_changes_no_answer() -> None:
    recorder = Recorder()
    pipeline = Pipeline(Units(LocalDevice()), observer=recorder, audit=Kept(OSError("no space")))
    assert ask(pipeline, "0600050007") == ["0600050007"]
    (event,) = recorder.events
    assert (event.kind, event.reason, event.detail) == (EventKind.HANDLER_FAILED, "audit", "no space")
