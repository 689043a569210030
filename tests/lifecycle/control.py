"""A client beside a fault, who must not feel it; and times that mean something on a busy machine.

Each bound on a time is compared with a control of the same test, and met by the best of several
tries.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

from everbus import Server
from everbus.resources import memory_bytes
from tests.lifecycle.wire import READ, Ended, Wire, clock

__all__ = ["Closing", "Control", "beside", "closing_time", "quickest"]

PROMPT_S = 0.05
"""How soon other clients are answered, and a stream that is not Modbus is closed."""

_WATCHER = "127.0.0.99"
_EVERY_S = 0.01


async def quickest(measure: Callable[[], Awaitable[float]], tries: int = 3) -> float:
    """The best of several tries: what a machine under load adds is not what is measured."""
    return min([await measure() for _ in range(tries)])


@dataclass(frozen=True)
class Closing:
    """A stream that the server closed.

    Args:
        data: what it answered before.
        after_s: how long the quickest of several tries took, from the last byte sent.
    """

    data: bytes
    after_s: float


async def closing_time(server: Server, stream: bytes, tries: int = 3) -> Closing:
    """Send bytes and see the connection closed; every try answers the same."""
    found: list[Ended] = []
    for _ in range(tries):
        async with await Wire.to(server) as client:
            await client.send(stream)
            found.append(await client.ended())
    assert len({ended.data for ended in found}) == 1
    return Closing(found[0].data, min(ended.after_s for ended in found))


class Control:
    """A client with an address of its own that asks again and again beside whatever goes on.

    ``before`` are its round trips without a fault, ``during`` those with one, in seconds.
    """

    def __init__(self, wire: Wire, request: bytes) -> None:
        self._wire = wire
        self._request = request
        self.before: list[float] = []
        self.during: list[float] = []

    @property
    def allowed_s(self) -> float:
        """What an answer may take: 50 ms, and what this machine adds without any fault."""
        return PROMPT_S + 2 * max(self.before)

    async def calm(self) -> None:
        self.before = [await self._wire.round_trip_s(self._request) for _ in range(20)]

    async def run(self) -> None:
        while True:
            self.during.append(await self._wire.round_trip_s(self._request))
            await asyncio.sleep(_EVERY_S)

    def check(self) -> None:
        """Answered within 50 ms throughout; one in a hundred, and one in any case, may be the machine's."""
        spared = 1 + len(self.during) // 100
        worst = sorted(self.during)[:-spared] or [min(self.during, default=0.0)]
        assert worst[-1] <= self.allowed_s, f"others waited {worst[-1]:.3f} s, {self.allowed_s:.3f} s are allowed"


@asynccontextmanager
async def beside(
    server: Server | str, request: bytes = READ, most_growth_bytes: int = 4 << 20
) -> AsyncIterator[Control]:
    """Around a fault: another client is answered before, during and after it, memory stays bounded,
    and afterwards a newcomer is answered too, by the same server."""
    async with await Wire.to(server, _WATCHER) as wire:
        control = Control(wire, request)
        await control.calm()
        memory = memory_bytes()
        asking = asyncio.create_task(control.run())
        with _no_escaped_errors():
            try:
                yield control
                await asyncio.sleep(_EVERY_S)
            finally:
                asking.cancel()
                done, _ = await asyncio.wait([asking])
        error = None if asking.cancelled() else done.pop().exception()
        assert error is None, f"the control failed: {error!r}"
        control.check()
        grown = memory_bytes() - memory
        assert grown <= most_growth_bytes, f"memory grew by {grown} bytes"
    assert await quickest(lambda: _newcomer_s(server, request)) <= control.allowed_s


@contextmanager
def _no_escaped_errors() -> Iterator[None]:
    """Nothing reaches the event loop's handler of last resort."""
    escaped: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: escaped.append(context))
    try:
        yield
    finally:
        loop.set_exception_handler(before)
    assert escaped == []


async def _newcomer_s(server: Server | str, request: bytes) -> float:
    began = clock()
    async with await Wire.to(server, _WATCHER) as wire:
        await wire.round_trip_s(request)
    return clock() - began
