"""What the tests of servers share: handlers that wait, clients that are there, few descriptors."""

from __future__ import annotations

import asyncio
import resource
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

import uvloop

from everbus.aio.server import Server
from everbus.limits import Limits
from everbus.protocol.pdu.registers import ReadHoldingRegistersResponse
from everbus.protocol.pdu.table import AnyRequest
from everbus.service.context import RequestContext
from everbus.service.handler import Answer
from tests.aio.wire import Peer, adu, peer, until

ANYWHERE = "tcp://127.0.0.1:0"
QUICK = Limits(idle_timeout_s=30.0, frame_timeout_s=0.2, write_timeout_s=0.3, handler_timeout_s=0.2, stop_timeout_s=0.4)


# libuv opens a pipe once in a process and keeps it: before any test counts descriptors.
with asyncio.Runner(loop_factory=uvloop.new_event_loop) as _runner:
    _runner.run(asyncio.sleep(0))


class Slow:
    """Answers when told to, or never."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.begun = 0
        self.cancelled = 0

    async def __call__(self, request: AnyRequest, context: RequestContext) -> Answer:
        self.begun += 1
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return ReadHoldingRegistersResponse.of([0])


@asynccontextmanager
async def peer_of(server: Server) -> AsyncIterator[Peer]:
    async with peer(server.endpoints[0]) as found:
        yield found


@asynccontextmanager
async def busy(server: Server, slow: Slow, count: int = 1) -> AsyncIterator[list[Peer]]:
    """Clients with a request in progress each."""
    async with AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(peer(server.endpoints[0])) for _ in range(count)]
        for one in peers:
            one.send(adu(1))
        await until(lambda: slow.begun == count)
        yield peers


def serves(server: Server) -> bool:
    return server.serving


@contextmanager
def descriptors_limited_to(most: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@contextmanager
def another_thread(work: Callable[[], object]) -> Iterator[list[object]]:
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    try:
        yield results
    finally:
        thread.join(10.0)
        assert not thread.is_alive()
