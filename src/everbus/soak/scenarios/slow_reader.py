"""Clients that ask much and do not read the answers."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import ClassVar, Final

from everbus.protocol.client_session import ClientSession
from everbus.protocol.pdu.registers import ReadHoldingRegistersRequest
from everbus.soak.scenarios.base import Defaults, Scenario, chance_of
from everbus.soak.target import Link, Target

__all__ = ["SlowReader"]

_MIB: Final = 1 << 20
_REQUESTS: Final = 512
_REQUEST_BYTES: Final = 12
_MOST_BYTES: Final = _MIB
"""What one of them sends as fast as it goes, one request now and then after that: the answers are more than
twenty times as long."""

_BUFFER_BYTES: Final = 4096
_SIP_S: Final = 1.0
_AGAIN_S: Final = 0.05


class SlowReader(Scenario):
    """Requests with long answers, of which nothing is read, or one byte a second.

    A client stays for a third of the hold time, unless the server closes the connection before.
    """

    name: ClassVar[str] = "slow-reader"
    summary: ClassVar[str] = "ask for long answers and never read them; some read one byte a second"
    criterion: ClassVar[str] = (
        "More than 16 MiB of growth, or 256 KiB for each at a time where that is more, above the server's memory at "
        "the start convict, and so does lateness: one in a hundred polite requests, and two of each client, that "
        "took over 250 ms and twice what this machine itself was late, or could not be made meanwhile."
    )
    defaults: ClassVar[Defaults] = Defaults(duration_s=30.0, concurrency=8)
    held_share: ClassVar[float] = 1 / 3
    most_growth_bytes: ClassVar[int | None] = 16 * _MIB
    growth_each_bytes: ClassVar[int] = 256 << 10
    late_s: ClassVar[float | None] = 0.25

    def cycle(self, target: Target, number: int) -> None:
        sips = chance_of(self.name, number).random() < 0.5
        session = ClientSession(first_transaction=number)
        request = ReadHoldingRegistersRequest(0, 125)
        asked = b"".join(session.submit(target.unit, request)[1] for _ in range(_REQUESTS))
        with target.connect(_BUFFER_BYTES) as link:
            with suppress(OSError):  # the server has had enough of it, as it should
                _ask_on(link, asked, time.monotonic() + target.hold_s * self.held_share, sips)
            link.reset()


def _ask_on(link: Link, asked: bytes, end: float, sips: bool) -> None:
    """Send the requests again and again until the end; whole ones, whatever goes at a time."""
    sent = 0
    sip_at = time.monotonic() + _SIP_S
    while (now := time.monotonic()) < end:
        at = sent % len(asked)
        more = link.send_some(asked[at:] if sent < _MOST_BYTES else asked[at : at + _REQUEST_BYTES])
        sent += more
        if sips and now >= sip_at:
            sip_at = now + _SIP_S
            if link.readable(now) and not link.receive(end, at_most=1):
                return
        if not more or sent >= _MOST_BYTES:
            link.rest(min(end, now + _AGAIN_S))
