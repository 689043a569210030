"""Clients that begin a frame and do not end it."""

from __future__ import annotations

import time
from typing import ClassVar, Final

from everbus.protocol.framing.mbap import MbapFramer
from everbus.soak.scenarios.base import READ, Defaults, Scenario, chance_of
from everbus.soak.target import CycleFailedError, FailureKind, Link, Target

__all__ = ["HalfOpen"]

_DRIP_S: Final = 1.0
_SHORT: Final = READ.encode()
_LONG: Final = bytes((0x14, 245)) + 35 * bytes.fromhex("06 0001 0000 0001")
"""Read 35 file records: the longest request that changes nothing, should a server take it for whole."""

_LONGEST_START: Final = 100
"""Of a frame that drips: more than two minutes pass before only its last byte is missing."""


class HalfOpen(Scenario):
    """Half a frame, then nothing, or one byte more every second: no timer that begins anew with each byte helps."""

    name: ClassVar[str] = "half-open"
    summary: ClassVar[str] = "connect, send a part of a request, and wait; some send one byte more every second"
    criterion: ClassVar[str] = "Half a frame that is still held after 30 s (or as long as was asked for) convicts."
    defaults: ClassVar[Defaults] = Defaults(cycles=100, concurrency=50)
    held_share: ClassVar[float] = 1.0

    def cycle(self, target: Target, number: int) -> None:
        chance = chance_of(self.name, number)
        drips = chance.random() < 0.5
        frame = MbapFramer().encode(target.unit, _LONG if drips else _SHORT, number & 0xFFFF)
        sent = chance.randint(1, _LONGEST_START if drips else len(frame) - 1)
        with target.connect() as link:
            try:
                held = _held(target, link, frame, sent, drips)
            except OSError:
                return  # it was closed, with a reset
        if held:
            message = f"{held} of {len(frame)} bytes of a frame are still held after {target.hold_s:g} s"
            raise CycleFailedError(FailureKind.HELD, message)


def _held(target: Target, link: Link, frame: bytes, sent: int, drips: bool) -> int:
    """How many bytes of the frame the server holds at the end; 0: it has closed the connection."""
    begin = now = time.monotonic()
    end = begin + target.hold_s
    link.send(frame[:sent], begin + target.timeout_s)
    while now < end:
        if link.readable(min(end, now + _DRIP_S)):
            if not link.receive(end):
                return 0
        elif drips and sent < len(frame) - 1:
            link.send(frame[sent : sent + 1], end)
            sent += 1
        now = time.monotonic()
    return sent
