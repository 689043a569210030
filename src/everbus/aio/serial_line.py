"""The conversation on a serial line: bytes in, requests to the devices here, one answer at a time back.

The line may be shared with other devices, and is noisy: what is not for the units here is followed
and skipped. An answer leaves after the silence that the specification wants. Whoever speaks on the
line has given up the answer before: that is not sent any more, as it would be taken for another one.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final, Protocol, TypeAlias

from everbus.aio.handlers import Handlers
from everbus.limits import Limits
from everbus.observe import Event, EventKind, Observer
from everbus.protocol.codes import DiagnosticCode, FunctionCode
from everbus.protocol.framing.ascii import AsciiFramer
from everbus.protocol.framing.base import Frame, FramerStatistics
from everbus.protocol.framing.rtu import RtuFramer
from everbus.service.context import ConnectionInfo
from everbus.service.multidrop import BROADCAST, Multidrop
from everbus.service.pipeline import Pending, Pipeline

__all__ = ["Pauses", "SerialFramer", "SerialLine", "Wire"]

_NEW_DELIMITER: Final = bytes((FunctionCode.DIAGNOSTICS, *DiagnosticCode.CHANGE_ASCII_DELIMITER.to_bytes(2, "big")))

SerialFramer: TypeAlias = RtuFramer | AsciiFramer


class Wire(Protocol):
    """What a line needs of its port."""

    def send(self, frame: bytes) -> bool:
        """Send a frame; whether the port took it."""
        ...

    def new_overruns(self) -> int:
        """Characters that were lost since this was asked last."""
        ...


@dataclass(frozen=True, slots=True)
class Pauses:
    """Silences on a line, in seconds.

    Args:
        gap_s: so long a silence ends whatever frame was under way.
        turnaround_s: silence before an answer.
    """

    gap_s: float
    turnaround_s: float


class SerialLine:
    """The server's part of the conversation on one line.

    Args:
        info: who asks: the line.
        framer: parses what is heard; the line's own from now on.
        pipeline: makes answers of what handlers give.
        devices: who answer.
        wire: where answers go.
        limits: of handlers.
        pauses: the silences.
        observer: told of what was not understood and what was not answered.
    """

    def __init__(
        self,
        info: ConnectionInfo,
        framer: SerialFramer,
        pipeline: Pipeline,
        devices: Multidrop,
        *,
        wire: Wire,
        limits: Limits,
        pauses: Pauses,
        observer: Observer,
    ) -> None:
        self._info = info
        self._framer = framer
        self._devices = devices
        self._wire = wire
        self._pauses = pauses
        self._observer = observer
        self._max_in_flight = limits.max_in_flight
        self._loop = asyncio.get_running_loop()
        self._heard_at = 0.0
        self._seen = FramerStatistics()
        self._gap_timer: asyncio.TimerHandle | None = None
        self._send_timer: asyncio.TimerHandle | None = None
        self._answer = b""
        self._asked_unit = 0
        self.abandoned: set[asyncio.Future[object]] = set()
        """Cancelled handlers that have not ended yet."""
        self._asked = Handlers[Frame](pipeline, limits.handler_timeout_s, self.abandoned, self._finish)
        self._told = Handlers[None](pipeline, limits.handler_timeout_s, self.abandoned, self._executed)
        self.idle: asyncio.Event = asyncio.Event()
        """Set whenever the last thing under way has ended."""
        self.requests: int = 0
        self.broadcasts: int = 0
        self.answers: int = 0
        self.foreign: int = 0
        self.overruns: int = 0
        self.unanswered: Counter[str] = Counter()

    @property
    def busy(self) -> bool:
        """Something was asked that is not answered, or not done, yet."""
        return bool(self._answer or self._asked or self._told)

    def statistics(self) -> FramerStatistics:
        """What was heard."""
        return self._framer.statistics()

    # What is heard

    def receive(self, data: bytes) -> None:
        """Take in what was read, and serve the requests that are complete with it."""
        self._heard_at = monotonic()
        frames = self._framer.feed(data)
        self._note_losses()
        self._serve(frames)
        if self._gap_timer is None:
            self._gap_timer = self._loop.call_later(self._pauses.gap_s, self._on_gap)

    def _on_gap(self) -> None:
        """Perhaps the line was silent: then what is held is complete, or lost."""
        self._gap_timer = None
        left_s = self._heard_at + self._pauses.gap_s - monotonic()
        if left_s > 0:
            self._gap_timer = self._loop.call_later(left_s, self._on_gap)
            return
        frames = self._framer.gap()
        self._note_losses()
        self._serve(frames)

    def _note_losses(self) -> None:
        """Count what was not understood, and other devices' answers."""
        before, now = self._seen, self._framer.statistics()
        if now == before:
            return
        self._seen = now
        if now.answers > before.answers:
            self.foreign += now.answers - before.answers
            self._devices.overheard(now.answers - before.answers)
        checksums = now.checksum_errors - before.checksum_errors
        bad = checksums + now.malformed - before.malformed
        if bad:
            lost = self._wire.new_overruns()
            self.overruns += lost
            self._devices.misheard(bad, lost)
            reason = "checksum" if checksums else "malformed"
            self._notify(EventKind.FRAME_REJECTED, reason, f"{bad} dropped")

    def _serve(self, frames: Iterable[Frame]) -> None:
        for frame in frames:
            self.give_up("overtaken")
            if frame.unit == BROADCAST:
                self._broadcast(frame)
                continue
            if self._devices.is_here(frame.unit):
                self.requests += 1
                self._asked_unit = frame.unit
            else:
                self.foreign += 1
            answer = self._devices.answer(frame, self._info)
            if isinstance(answer, bytes):
                self._prepare(frame, answer)
            elif answer is not None:
                self._asked.start(frame, answer)
        if self._answer and self._send_timer is None:
            self._send_when_silent()

    def _broadcast(self, frame: Frame) -> None:
        """Let every device carry a request out, in its own time."""
        self.requests += 1
        self.broadcasts += 1
        for pending in self._devices.broadcast(frame, self._info):
            self._tell(pending)

    def _tell(self, pending: Pending) -> None:
        if len(self._told) >= self._max_in_flight:  # they hang, and nobody waits for their answers
            self._count_given_up("overload", len(self._told))
            self._told.abandon_all()
        self._told.start(None, pending)

    def _executed(self, _: None, __: bytes | None) -> None:
        self._settle()

    # What is said

    def _finish(self, frame: Frame, pdu: bytes | None) -> None:
        if pdu is None:
            self._settle()
        else:
            self._prepare(frame, pdu)
            self._send_when_silent()

    def _prepare(self, frame: Frame, pdu: bytes) -> None:
        """Build the answer; once 08/03 is answered, another character ends the frames of an ASCII line."""
        self._answer = self._framer.encode(frame.unit, pdu)
        if pdu.startswith(_NEW_DELIMITER) and isinstance(self._framer, AsciiFramer):
            self._framer.delimiter = pdu[len(_NEW_DELIMITER)]

    def _send_when_silent(self) -> None:
        self._send_timer = None
        left_s = self._heard_at + self._pauses.turnaround_s - monotonic()
        if left_s > 0:
            self._send_timer = self._loop.call_later(left_s, self._send_when_silent)
            return
        answer, self._answer = self._answer, b""
        if self._wire.send(answer):
            self.answers += 1
        else:
            self._devices.unsent(self._asked_unit, timed_out=True)
            self._count_given_up("not_sent")
        self._settle()

    def give_up(self, reason: str) -> None:
        """Give up the answer under way, if there is one."""
        if not (self._answer or self._asked):
            return
        self._asked.abandon_all()
        self._answer = b""
        _stop(self._send_timer)
        self._send_timer = None
        self._devices.unsent(self._asked_unit, timed_out=False)
        self._count_given_up(reason)
        self._settle()

    def _settle(self) -> None:
        if not self.busy:
            self.idle.set()

    def _count_given_up(self, reason: str, count: int = 1) -> None:
        self.unanswered[reason] += count
        self._notify(EventKind.ANSWER_ABANDONED, reason, "")

    def _notify(self, kind: EventKind, reason: str, detail: str) -> None:
        self._observer.notify(Event(kind, self._info.peer, reason, detail, self._info.connection_id))

    # Its owner's

    def sweep(self, now: float) -> None:
        """Give up handlers whose time is over."""
        self._asked.expire(now)
        self._told.expire(now)

    def exempt(self, future: asyncio.Future[Any]) -> None:
        """Give up the request whose handler this is: it is not waited for, and stays unanswered."""
        self._asked.exempt(future)
        self._told.exempt(future)

    def interrupt(self) -> None:
        """The port is gone: what was being said is over; what all were told is still done."""
        self.give_up("port_lost")
        _stop(self._gap_timer)
        self._gap_timer = None
        self._framer.gap()
        self._note_losses()

    def close(self) -> None:
        """End everything that is under way."""
        self.give_up("closed")
        _stop(self._gap_timer)
        self._told.abandon_all()


def _stop(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
