"""Calls under way on an event loop, and when their time is over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from everbus.client.exchange import Script, Step
from everbus.errors import ModbusError

if TYPE_CHECKING:
    from everbus.aio.link import Link

__all__ = ["ASKED", "OVER", "QUEUED", "YOURS", "Call", "Deadlines"]

YOURS: Final = 0
"""What comes next takes waiting, and is done in the task that made the call."""
QUEUED: Final = 1
"""It waits for room on the connection."""
ASKED: Final = 2
"""It waits for its answer."""
OVER: Final = 3
"""It has a value or an error."""


class Call:
    """One request under way: what its answer brings is done where that arrives; its task wakes up once, at the end.

    Args:
        unit: that is asked.
        request: what is asked; None: only a script knows.
        pdu: the request's.
        started: when it was made.
        until: when its first attempt is over.
    """

    __slots__ = (
        "error",
        "future",
        "link",
        "pdu",
        "placed",
        "refusal",
        "request",
        "script",
        "started",
        "state",
        "step",
        "transaction",
        "unit",
        "until",
        "value",
    )

    state: int
    """``YOURS``, ``QUEUED``, ``ASKED`` or ``OVER``."""
    script: Script | None
    """None as long as nothing had to be decided."""
    step: Step | None
    """What the script wants next, where it is ``YOURS`` or ``QUEUED``."""
    until: float
    """When it has waited long enough for what it waits for."""
    placed: bool
    """It has room on the connection, and gives it back when it is over."""
    link: Link | None
    """The connection that it has room on."""
    transaction: int
    """What its answer is known by, once it is sent."""
    future: asyncio.Future[None] | None
    """What its task waits for."""
    refusal: ModbusError | None
    """Why it gets no room."""
    value: Any
    """What it returns, once it is ``OVER``; unless it raises ``error``."""
    error: BaseException | None

    def __init__(self, unit: int, request: Any, pdu: bytes, started: float, until: float) -> None:
        self.unit: int = unit
        self.request: Any = request
        self.pdu: bytes = pdu
        self.started: float = started
        self.until = until
        self.state = YOURS
        self.placed = False
        self.script = self.link = self.future = self.refusal = self.error = None

    def wake(self) -> None:
        """Its task goes on."""
        future = self.future
        if future is not None and not future.done():
            future.set_result(None)


class Deadlines:
    """One timer for all calls: it never rings later than the first of them is over, and seldom sooner.

    Args:
        loop: the running loop.
        expire: called with the time when it rings; tells when to ring again, ``inf``: not.
    """

    __slots__ = ("_expire", "_loop", "_timer", "at")

    def __init__(self, loop: asyncio.AbstractEventLoop, expire: Callable[[float], float]) -> None:
        self._loop = loop
        self._expire = expire
        self._timer: asyncio.TimerHandle | None = None
        self.at: float = inf
        """When it rings."""

    def ring(self, at: float) -> None:
        """Ring then, or before."""
        if at < self.at:
            self.close()
            self.at = at
            self._timer = self._loop.call_at(at, self._rings)

    def _rings(self) -> None:
        self.close()
        self.ring(self._expire(monotonic()))

    def close(self) -> None:
        """It does not ring any more."""
        self.at = inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
