"""A connection on which RTU or ASCII frames come: a serial line inside TCP, as converters make it.

Frames have no transaction ids there. So one request is answered at a time, in order; what is not a
good frame is dropped and counted, and the connection stays; unit 0 means every device, and what is
for a unit that is not here is somebody else's.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Final

from everbus.aio.connection import Connection, Shared
from everbus.observe import EventKind
from everbus.protocol.codes import DiagnosticCode, FunctionCode
from everbus.protocol.framing.ascii import AsciiFramer
from everbus.protocol.framing.base import Frame, Framer, FramerStatistics
from everbus.protocol.server_session import ServerSession
from everbus.service.context import ConnectionInfo
from everbus.service.multidrop import BROADCAST, Multidrop

__all__ = ["LineConnection"]

_NEW_DELIMITER: Final = bytes((FunctionCode.DIAGNOSTICS, *DiagnosticCode.CHANGE_ASCII_DELIMITER.to_bytes(2, "big")))


class LineConnection(Connection):
    """The server's end of one connection whose frames have no transaction ids.

    Args:
        shared: what it has in common with the others.
        info: who is at the other end.
        framer: parses what comes; belongs to the connection from now on.
        devices: who answers.
    """

    __slots__ = ("_broadcasting", "_devices", "_framer", "_heard_at", "_seen", "_timer")

    def __init__(self, shared: Shared, info: ConnectionInfo, framer: Framer, devices: Multidrop) -> None:
        super().__init__(shared, info, ServerSession(framer, max_in_flight=1))
        self._framer = framer
        self._devices = devices
        self._seen = FramerStatistics()
        self._broadcasting = 0
        self._heard_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def buffer_updated(self, nbytes: int) -> None:
        super().buffer_updated(nbytes)
        self._count_losses()
        if not self._session.partial:
            self._frame_started = None
            return
        self._heard_at = monotonic()
        if self._timer is None:
            self._wait(self._shared.limits.frame_gap_s)

    def ended(self, reason: str) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().ended(reason)

    # Requests and answers

    def _serve(self, frames: list[Frame]) -> None:
        session = self._session
        out: list[bytes] = []
        for index, frame in enumerate(frames):
            if frame.unit == BROADCAST:
                self._broadcast(frame)
            else:
                out += self._answer(frame)
            if session.full:
                session.hold(frames[index + 1 :])
                self._update_reading()
                break
        if out:
            self._write(b"".join(out))

    def _answer(self, frame: Frame) -> list[bytes]:
        """What answers a request at once, if anything does."""
        answer = self._devices.answer(frame, self.info)
        if isinstance(answer, bytes):
            data = self._session.reply(frame.unit, answer, 0)
            if isinstance(self._framer, AsciiFramer) and answer.startswith(_NEW_DELIMITER):
                self._framer.delimiter = answer[3]
            return [data]
        if answer is not None:
            self._start(frame, answer)
        return []

    def _broadcast(self, frame: Frame) -> None:
        """Let every device carry out a request; what comes behind it waits for all of them."""
        waiting = self._devices.broadcast(frame, self.info)
        if waiting:
            self._broadcasting = len(waiting)
            token = self._session.defer(frame)
            self._shared.registry.watched.add(self)
            for pending in waiting:
                self._handlers.start(token, pending)

    def _finish(self, token: int, pdu: bytes | None) -> None:
        if self._broadcasting:
            self._broadcasting -= 1
            if self._broadcasting:
                return
            pdu = None
        super()._finish(token, pdu)

    # Noise and silence

    def _count_losses(self) -> None:
        """Tell of frames that were not good."""
        before, self._seen = self._seen, self._framer.statistics()
        corrupt = self._seen.checksum_errors - before.checksum_errors
        malformed = self._seen.malformed - before.malformed
        if corrupt:
            self._notify(EventKind.FRAME_REJECTED, "checksum", f"{corrupt} with a wrong checksum dropped")
        if malformed:
            self._notify(EventKind.FRAME_REJECTED, "malformed", f"{malformed} dropped")
        if corrupt or malformed:
            self._devices.misheard(corrupt + malformed, 0)

    def _wait(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._listen)

    def _listen(self) -> None:
        """Nothing came for a while, perhaps: then what is held is complete, or lost."""
        self._timer = None
        if self._finishing or not self._session.partial:
            return
        now = monotonic()
        if self._reading_paused:
            self._heard_at = now
        left = self._heard_at + self._shared.limits.frame_gap_s - now
        if left > 0:
            self._wait(left)
            return
        frames = self._framer.gap()
        self._frame_started = None
        self._count_losses()
        if frames:
            self._take(frames)

    def _frame_overdue(self, now: float) -> bool:
        """Never: half a frame is noise, which costs no connection."""
        return False
