"""A pool of clients on an event loop: the core decides, this waits and connects."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any, Self, TypeVar

from everbus.aio.client import AsyncClient
from everbus.aio.unit import AsyncRequests
from everbus.client.endpoint import Endpoint, as_endpoint
from everbus.client.pool_core import Action, Grant, PoolCore, PoolOptions, PoolStatistics, Refused, Wait, Wake
from everbus.maps.planner import HoleMap
from everbus.protocol.pdu.base import Request, Response
from everbus.protocol.values import check_unit

__all__ = ["AsyncPool", "AsyncPooledUnit"]

R = TypeVar("R", bound=Response)


class AsyncPool:
    """Connections to many devices, shared by whoever asks; most devices get one connection only.

    Args:
        options: how many connections, for how long, and who waits.
        wait_s: how long a caller waits for a connection that others use.
        client: keywords of ``AsyncClient`` for every connection: ``timeout_s``, ``retries`` ...

    Raises:
        ConfigurationError: an option that cannot work.

    ``pool.unit(url, 1)`` has every method of a unit, and borrows a connection for each call.
    ``async with pool.client(url) as client`` borrows one for longer. A connection comes back only if
    everything asked through it was answered; else it is closed.
    """

    def __init__(self, options: PoolOptions | None = None, *, wait_s: float = 3.0, **client: Any) -> None:
        self._core = PoolCore(options)
        self._wait_s = wait_s
        self._keywords = client
        self._holes: dict[Endpoint, HoleMap] = {}
        AsyncClient("tcp://127.0.0.1", **client)  # what cannot work is refused here and not at the first call
        self._clients: dict[int, AsyncClient] = {}
        self._waiting: dict[int, asyncio.Future[Grant | Refused]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._closing: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def unit(self, endpoint: str | Endpoint, number: int = 1) -> AsyncPooledUnit:
        """A unit of a device, 0..255; each call borrows a connection.

        Raises:
            ConfigurationError: the endpoint is not one.
            UsageError: the number is outside 0..255.
        """
        return AsyncPooledUnit(self, as_endpoint(endpoint), check_unit(number))

    @asynccontextmanager
    async def client(self, endpoint: str | Endpoint) -> AsyncIterator[AsyncClient]:
        """Borrow a connection, with its client, until the block ends.

        Raises:
            PoolExhaustedError: none was free within ``wait_s``, or too many wait.
            ConnectError: the device cannot be reached.
        """
        where = as_endpoint(endpoint)
        grant = await self._acquire(where)
        client: AsyncClient | None = None
        try:
            client = await self._prepared(grant, where)
            yield client
        finally:
            clean = client is not None and client.clean
            self._carry_out(self._core.release(grant.token, monotonic(), clean=clean))

    async def _acquire(self, endpoint: Endpoint) -> Grant:
        now = monotonic()
        outcome, actions = self._core.acquire(endpoint, now, now + self._wait_s)
        self._carry_out(actions)
        if isinstance(outcome, Wait):
            outcome = await self._turn(outcome.token)
        if isinstance(outcome, Refused):
            raise outcome.error(endpoint, self._wait_s)
        return outcome

    async def _turn(self, token: int) -> Grant | Refused:
        """Wait in the queue."""
        future: asyncio.Future[Grant | Refused] = asyncio.get_running_loop().create_future()
        self._waiting[token] = future
        self._arm()
        try:
            return await future
        except asyncio.CancelledError:
            granted = future.done() and not future.cancelled() and isinstance(future.result(), Grant)
            if granted or self._waiting.pop(token, None) is not None:
                self._carry_out(self._core.cancel(token, monotonic()))
            raise

    async def _prepared(self, grant: Grant, endpoint: Endpoint) -> AsyncClient:
        """The client of a grant, connected."""
        if grant.step == "check" and not self._clients[grant.link].check():
            outcome, actions = self._core.replace(grant.token, monotonic())
            self._carry_out(actions)
            if isinstance(outcome, Refused):
                raise outcome.error(endpoint, self._wait_s)
            grant = outcome
        if grant.step != "open":
            return self._clients[grant.link]
        client = self._clients[grant.link] = AsyncClient(endpoint, **self._keywords)
        await client.connect()
        self._core.opened(grant.token, monotonic())
        return client

    def _carry_out(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Wake):
                future = self._waiting.pop(action.token)
                if not future.done():
                    future.set_result(action.outcome)
                elif isinstance(action.outcome, Grant):  # its user was cancelled and does not know it yet
                    self._carry_out(self._core.cancel(action.token, monotonic()))
            elif (client := self._clients.pop(action.link, None)) is not None:
                task = asyncio.get_running_loop().create_task(client.close())
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)
        self._arm()

    def _arm(self) -> None:
        """Come back when something ends by itself."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        at = self._core.next_deadline()
        if at is not None:
            self._timer = asyncio.get_running_loop().call_at(at, self._expire)

    def _expire(self) -> None:
        self._timer = None
        self._carry_out(self._core.expire(monotonic()))

    async def close(self) -> None:
        """Close idle connections now and the others when they come back; refuse who waits. Idempotent."""
        self._carry_out(self._core.close(monotonic()))
        if self._closing:
            await asyncio.wait(tuple(self._closing))

    def holes_of(self, endpoint: Endpoint) -> HoleMap:
        """What reads of a device's points do not pass over."""
        return self._holes.setdefault(endpoint, HoleMap())

    def statistics(self) -> PoolStatistics:
        """A snapshot of what it has and has done."""
        return self._core.statistics()


class AsyncPooledUnit(AsyncRequests):
    """One unit of a device; each call borrows a connection of the pool."""

    __slots__ = ("_endpoint", "_pool")

    def __init__(self, pool: AsyncPool, endpoint: Endpoint, number: int) -> None:
        self._pool = pool
        self._endpoint = endpoint
        self.number = number

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.number} of {self._endpoint}>"

    @property
    def holes(self) -> HoleMap:
        return self._pool.holes_of(self._endpoint)

    async def _ask(self, request: Request[R], unit: int) -> R:
        async with self._pool.client(self._endpoint) as client:
            return await client.call(request, unit)
