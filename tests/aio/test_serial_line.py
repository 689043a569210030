from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic

import pytest

from everbus.aio.serial_line import Pauses, SerialFramer, SerialLine
from everbus.limits import Limits
from everbus.observe import EventKind
from everbus.protocol.codes import DiagnosticCode
from everbus.protocol.framing.ascii import AsciiFramer
from everbus.protocol.framing.rtu import RtuFramer
from everbus.protocol.pdu.registers import ReadHoldingRegistersResponse, WriteSingleRegisterResponse
from everbus.protocol.pdu.table import AnyRequest
from everbus.service.context import ConnectionInfo, RequestContext
from everbus.service.handler import SILENT, Answer
from everbus.service.local import LocalDevice
from everbus.service.multidrop import Multidrop
from everbus.service.pipeline import Pipeline
from everbus.service.units import UnitSource, as_units
from everbus.testing import RecordingObserver

READ = bytes.fromhex("0300000001")
ZERO = bytes.fromhex("03020000")
WRITE = bytes.fromhex("0600001234")
SHORT = Pauses(gap_s=0.02, turnaround_s=0.0)
encode = RtuFramer("request").encode


class Wire:
    """A port that keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.sent_at = 0.0
        self.takes_it = True
        self.lost = 0

    def send(self, frame: bytes) -> bool:
        self.sent.append(frame)
        self.sent_at = monotonic()
        return self.takes_it

    def new_overruns(self) -> int:
        lost, self.lost = self.lost, 0
        return lost


class Spoken:
    """A line, and what its devices say."""

    def __init__(
        self,
        devices: UnitSource,
        pauses: Pauses = SHORT,
        framer: SerialFramer | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.wire = Wire()
        self.observer = RecordingObserver()
        units = as_units(devices)
        pipeline = Pipeline(units, observer=self.observer)
        self.line = SerialLine(
            ConnectionInfo(7, "/dev/ttyS0", serial=True),
            framer or RtuFramer("line"),
            pipeline,
            Multidrop(pipeline, units),
            wire=self.wire,
            limits=limits or Limits(),
            pauses=pauses,
            observer=self.observer,
        )

    def said(self, data: bytes) -> list[bytes]:
        """What leaves at once when this is heard."""
        del self.wire.sent[:]
        self.line.receive(data)
        return self.wire.sent

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(5):
            while not condition():  # noqa: ASYNC110  there is no event for most of them
                await asyncio.sleep(0.001)


class Slow:
    """A handler that answers when it is told to."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.cancelled = 0
        self.done = 0

    async def __call__(self, request: AnyRequest, context: RequestContext) -> Answer:
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        self.done += 1
        if request.function_code == 6:
            return WriteSingleRegisterResponse(0, 0x1234)
        return ReadHoldingRegistersResponse(b"\0\1")


# --- answers ----------------------------------------------------------------------------------


@pytest.mark.requirement("SL-2.1-silence", "SL-2.2-others")
async def test_units_here_answer_and_nobody_else() -> None:
    spoken = Spoken({1: LocalDevice(), 2: LocalDevice()})
    assert spoken.said(encode(1, READ)) == [encode(1, ZERO)]
    assert spoken.said(encode(3, READ)) == []
    assert spoken.said(encode(3, ZERO)) == []
    assert spoken.said(encode(2, READ)) == [encode(2, ZERO)]
    line = spoken.line
    assert (line.requests, line.answers, line.foreign, line.busy) == (2, 2, 2, False)
    line.close()


async def test_the_other_devices_answers_are_counted_by_all() -> None:
    device = LocalDevice()
    spoken = Spoken({1: device})
    spoken.said(encode(3, READ) + encode(3, ZERO) + encode(1, READ))
    assert device.diagnostics.counter(DiagnosticCode.BUS_MESSAGE_COUNT) == 3
    spoken.line.close()


@pytest.mark.requirement("SL-2.2-broadcast")
async def test_a_broadcast_is_done_and_not_answered() -> None:
    first, second = LocalDevice(), LocalDevice()
    spoken = Spoken({1: first, 2: second})
    assert spoken.said(encode(0, WRITE)) == []
    assert [one.bank.read_holding_registers(0) for one in (first, second)] == [[0x1234]] * 2
    assert (spoken.line.requests, spoken.line.broadcasts, spoken.line.busy) == (1, 1, False)
    spoken.line.close()


async def test_only_the_last_of_several_requests_is_answered_and_all_are_done() -> None:
    device = LocalDevice()
    spoken = Spoken(device)
    assert spoken.said(encode(1, WRITE) + encode(1, READ)) == [encode(1, bytes.fromhex("03021234"))]
    assert spoken.line.unanswered == {"overtaken": 1}
    assert device.diagnostics.counter(DiagnosticCode.SERVER_NO_RESPONSE_COUNT) == 1
    assert spoken.observer.reasons(EventKind.ANSWER_ABANDONED) == ["overtaken"]
    spoken.line.close()


@pytest.mark.requirement("SL-2.5.1.1-before-sending")
async def test_an_answer_waits_for_silence() -> None:
    spoken = Spoken(LocalDevice(), Pauses(gap_s=0.5, turnaround_s=0.03))
    assert spoken.said(encode(1, READ)) == []
    await asyncio.sleep(0.015)
    heard_at = monotonic()
    assert spoken.said(b"\0") == []
    await spoken.until(lambda: spoken.wire.sent)
    assert spoken.wire.sent == [encode(1, ZERO)]
    assert spoken.wire.sent_at - heard_at >= 0.03
    assert not spoken.line.busy
    spoken.line.close()


async def test_whoever_speaks_has_given_the_answer_up() -> None:
    for other in (encode(2, READ), encode(0, WRITE), encode(1, READ)):
        spoken = Spoken({1: LocalDevice()}, Pauses(gap_s=0.5, turnaround_s=0.01))
        assert spoken.said(encode(1, WRITE)) == []
        assert spoken.said(other) == []
        assert spoken.line.unanswered == {"overtaken": 1}
        await asyncio.sleep(0.02)
        assert spoken.wire.sent == ([encode(1, bytes.fromhex("03021234"))] if other[0] == 1 else [])
        spoken.line.close()


@pytest.mark.requirement("AP-6.10-send-timeout")
async def test_a_port_that_does_not_take_an_answer_is_counted() -> None:
    device = LocalDevice()
    spoken = Spoken(device)
    spoken.wire.takes_it = False
    spoken.said(encode(1, READ))
    assert (spoken.line.answers, spoken.line.unanswered) == (0, {"not_sent": 1})
    assert device.diagnostics.log == b"\x50\x80"
    spoken.line.close()


# --- handlers that need time ------------------------------------------------------------------


async def test_a_late_answer_is_sent_while_nobody_spoke_since() -> None:
    slow = Slow()
    spoken = Spoken({1: slow})
    assert spoken.said(encode(1, READ)) == []
    slow.go.set()
    await spoken.until(lambda: spoken.wire.sent)
    assert spoken.wire.sent == [encode(1, bytes.fromhex("03020001"))]
    assert spoken.line.idle.is_set()
    spoken.line.close()


async def test_the_next_request_ends_a_late_answer() -> None:
    slow = Slow()
    spoken = Spoken({1: slow, 2: LocalDevice()})
    spoken.said(encode(1, READ))
    await asyncio.sleep(0)
    assert spoken.said(encode(2, READ)) == [encode(2, ZERO)]
    await spoken.until(lambda: not spoken.line.abandoned)
    assert (slow.cancelled, slow.done) == (1, 0)
    assert spoken.line.unanswered == {"overtaken": 1}
    spoken.line.close()


async def test_noise_does_not_end_a_late_answer() -> None:
    slow = Slow()
    spoken = Spoken({1: slow})
    spoken.said(encode(1, READ))
    spoken.said(b"\xff\0\xff")
    slow.go.set()
    await spoken.until(lambda: spoken.wire.sent)
    spoken.line.close()


async def test_a_handler_that_hangs_is_answered_by_exception_04() -> None:
    spoken = Spoken({1: Slow()})
    spoken.said(encode(1, READ))
    spoken.line.sweep(monotonic() + 4)
    assert spoken.wire.sent == []
    spoken.line.sweep(monotonic() + 6)
    assert spoken.wire.sent == [encode(1, b"\x83\4")]
    assert spoken.observer.reasons(EventKind.HANDLER_TIMED_OUT) == ["ModbusTimeoutError"]
    await spoken.until(lambda: not spoken.line.abandoned)
    spoken.line.close()


async def test_a_handler_may_stay_silent() -> None:
    async def silent(request: AnyRequest, context: RequestContext) -> Answer:
        return SILENT

    spoken = Spoken({1: silent})
    spoken.said(encode(1, READ))
    await spoken.until(spoken.line.idle.is_set)
    assert (spoken.wire.sent, spoken.line.busy) == ([], False)
    spoken.line.close()


async def test_what_all_are_told_is_done_whatever_comes_next() -> None:
    slow = Slow()
    spoken = Spoken({1: slow, 2: LocalDevice()})
    spoken.said(encode(0, WRITE))
    assert spoken.said(encode(2, READ)) == [encode(2, bytes.fromhex("03021234"))]
    slow.go.set()
    await spoken.until(spoken.line.idle.is_set)
    assert (slow.done, spoken.line.busy) == (1, False)
    spoken.line.close()


async def test_broadcasts_that_hang_are_bounded() -> None:
    slow = Slow()
    spoken = Spoken({1: slow}, limits=Limits(max_in_flight=2))
    for _ in range(3):
        spoken.said(encode(0, WRITE))
        await asyncio.sleep(0)
    await spoken.until(lambda: not spoken.line.abandoned)
    assert (slow.cancelled, spoken.line.unanswered) == (2, {"overload": 2})
    spoken.line.close()
    await spoken.until(lambda: not spoken.line.abandoned)
    assert slow.cancelled == 3


async def test_a_handler_that_is_exempt_is_not_waited_for() -> None:
    spoken: list[Spoken] = []

    async def stops(request: AnyRequest, context: RequestContext) -> Answer:
        task = asyncio.current_task()
        assert task is not None
        spoken[0].line.exempt(task)
        return WriteSingleRegisterResponse(0, 0x1234)

    spoken.append(Spoken({1: stops}))
    spoken[0].said(encode(1, READ))
    await spoken[0].until(spoken[0].line.idle.is_set)
    assert (spoken[0].wire.sent, spoken[0].line.busy) == ([], False)
    spoken[0].line.close()


# --- noise and silence ------------------------------------------------------------------------


@pytest.mark.requirement("SL-A-errors", "SL-A-overruns", "SL-2.4.2-frame-error")
async def test_a_bad_frame_is_counted_by_all_and_not_answered() -> None:
    first, second = LocalDevice(), LocalDevice()
    spoken = Spoken({1: first, 2: second})
    spoken.wire.lost = 3
    spoken.said(encode(1, READ)[:-1] + b"\xff" + encode(2, READ))
    await spoken.until(lambda: spoken.wire.sent)  # at the next silence: till then it may all be one longer frame
    assert spoken.wire.sent == [encode(2, ZERO)]
    for device in (first, second):
        assert device.diagnostics.counter(DiagnosticCode.BUS_COMM_ERROR_COUNT) == 1
        assert device.diagnostics.counter(DiagnosticCode.BUS_CHAR_OVERRUN_COUNT) == 3
    assert spoken.line.overruns == 3
    assert spoken.observer.reasons(EventKind.FRAME_REJECTED) == ["checksum"]
    spoken.line.close()


@pytest.mark.requirement("SL-2.5.1.1-silence")
async def test_silence_ends_a_frame_that_nothing_else_ends() -> None:
    spoken = Spoken(LocalDevice())
    assert spoken.said(encode(1, bytes.fromhex("41010203"))) == []
    await spoken.until(lambda: spoken.wire.sent)
    assert spoken.wire.sent == [encode(1, bytes.fromhex("C101"))]
    spoken.line.close()


async def test_silence_ends_half_a_frame_and_further_bytes_put_it_off() -> None:
    spoken = Spoken(LocalDevice(), Pauses(gap_s=0.05, turnaround_s=0.0))
    frame = encode(1, READ)
    assert spoken.said(frame[:2]) == []
    await asyncio.sleep(0.03)
    assert spoken.said(frame[2:5]) == []
    await asyncio.sleep(0.03)
    assert spoken.said(frame[5:]) == [encode(1, ZERO)]
    assert spoken.said(frame[:5]) == []
    await spoken.until(lambda: spoken.line.statistics().discarded_bytes)
    assert spoken.said(frame[5:]) == []
    assert spoken.said(frame) == [encode(1, ZERO)]
    spoken.line.close()


async def test_a_write_may_be_repeated_after_silence() -> None:
    """Its first answer was lost: the second request, alike an answer, must not be taken for one."""
    spoken = Spoken({1: LocalDevice()}, Pauses(gap_s=0.01, turnaround_s=0.0))
    assert spoken.said(encode(2, WRITE)) == []
    await asyncio.sleep(0.03)
    for _ in range(3):
        assert spoken.said(encode(1, WRITE)) == [encode(1, WRITE)]
    spoken.line.close()


# --- ASCII ------------------------------------------------------------------------------------


@pytest.mark.requirement("SL-2.5.2.1-delimiter", "AP-6.8.1-03-line")
async def test_the_delimiter_of_an_ascii_line_changes_behind_the_answer() -> None:
    old, new = AsciiFramer(), AsciiFramer(delimiter=ord("!"))
    change = bytes.fromhex("0800032100")
    spoken = Spoken({1: LocalDevice(), 2: LocalDevice()}, framer=AsciiFramer())
    assert spoken.said(old.encode(1, change)) == [old.encode(1, change)]
    assert spoken.said(new.encode(2, READ)) == [new.encode(2, ZERO)]
    assert spoken.said(new.encode(9, ZERO)) == []
    assert spoken.line.foreign == 1
    assert spoken.said(new.encode(2, bytes.fromhex("0800030A00"))) == [new.encode(2, bytes.fromhex("0800030A00"))]
    assert spoken.said(old.encode(1, READ)) == [old.encode(1, ZERO)]
    spoken.line.close()


# --- ends -------------------------------------------------------------------------------------


async def test_a_lost_port_ends_what_was_being_said() -> None:
    slow = Slow()
    spoken = Spoken({1: slow, 2: LocalDevice()}, Pauses(gap_s=0.01, turnaround_s=0.01))
    spoken.said(encode(1, READ))
    await asyncio.sleep(0)
    spoken.line.interrupt()
    spoken.said(encode(2, READ))
    spoken.line.interrupt()
    assert spoken.line.unanswered == {"port_lost": 2}
    spoken.said(encode(2, READ)[:4])
    spoken.line.interrupt()
    await asyncio.sleep(0.03)
    assert (slow.cancelled, spoken.wire.sent, spoken.line.statistics().malformed) == (1, [], 1)
    spoken.line.close()


async def test_closing_ends_everything() -> None:
    slow = Slow()
    spoken = Spoken({1: slow})
    spoken.said(encode(0, WRITE))
    spoken.said(encode(1, READ))
    await asyncio.sleep(0)
    spoken.line.close()
    assert not spoken.line.busy
    await spoken.until(lambda: not spoken.line.abandoned)
    assert slow.cancelled == 2
