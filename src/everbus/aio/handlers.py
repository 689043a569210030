"""Handlers that need time: their tasks, their deadlines, and what becomes of a result that comes too late."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, Generic, NamedTuple, TypeVar

from everbus.errors import ModbusTimeoutError
from everbus.service.handler import Answer
from everbus.service.pipeline import Pending, Pipeline

__all__ = ["Handlers"]

Key = TypeVar("Key")


class _Running(NamedTuple, Generic[Key]):
    key: Key
    pending: Pending
    deadline: float


class Handlers(Generic[Key]):
    """The running handlers of one connection, port or line.

    Args:
        pipeline: makes an answer of what a handler gives or raises.
        timeout_s: a handler's time.
        abandoned: where cancelled handlers stay until they have ended; their results are discarded.
        finished: told the key that a handler was started with, and its answer; None: stay silent.
    """

    __slots__ = ("_abandoned", "_finished", "_pipeline", "_running", "_timeout_s")

    def __init__(
        self,
        pipeline: Pipeline,
        timeout_s: float,
        abandoned: set[asyncio.Future[object]],
        finished: Callable[[Key, bytes | None], None],
    ) -> None:
        self._pipeline = pipeline
        self._timeout_s = timeout_s
        self._abandoned = abandoned
        self._finished = finished
        self._running: dict[asyncio.Future[object], _Running[Key]] = {}

    def __len__(self) -> int:
        return len(self._running)

    def start(self, key: Key, pending: Pending) -> None:
        """Run a handler that needs time.

        A future of the handler's own may answer others too: it is shielded, never cancelled here.
        """
        awaitable = pending.awaitable
        future: asyncio.Future[object]
        future = asyncio.ensure_future(_outcome(awaitable) if asyncio.isfuture(awaitable) else awaitable)
        self._running[future] = _Running(key, pending, monotonic() + self._timeout_s)
        future.add_done_callback(self._done)

    def _done(self, future: asyncio.Future[object]) -> None:
        running = self._running.pop(future, None)
        if running is None:  # timed out or disconnected before: a late result is discarded
            self._abandoned.discard(future)
            if not future.cancelled():
                future.exception()
            return
        error = asyncio.CancelledError("it cancelled itself") if future.cancelled() else future.exception()
        if error is None:
            pdu = self._pipeline.settle(running.pending, future.result())  # type: ignore[arg-type]  # checked there
        else:
            pdu = self._pipeline.fail(running.pending, error)
        self._finished(running.key, pdu)

    def expire(self, now: float) -> None:
        """Give up those whose time is over; each is answered with exception 04."""
        for future, running in list(self._running.items()):
            if now >= running.deadline:
                self._cancel(future)
                error = ModbusTimeoutError(f"the handler took longer than handler_timeout_s = {self._timeout_s}")
                self._finished(running.key, self._pipeline.fail(running.pending, error))

    def exempt(self, future: asyncio.Future[Any]) -> None:
        """Give up the request whose handler this is: it is not waited for, and stays unanswered."""
        for key, running in list(self._running.items()):
            if key is future or running.pending.awaitable is future:
                del self._running[key]
                self._pipeline.abandon(running.pending)
                self._finished(running.key, None)

    def abandon_all(self) -> None:
        """Give up all of them; nobody waits for their answers any more."""
        for future, running in list(self._running.items()):
            self._cancel(future)
            self._pipeline.abandon(running.pending)

    def _cancel(self, future: asyncio.Future[object]) -> None:
        del self._running[future]
        self._abandoned.add(future)
        future.cancel()


async def _outcome(shared: Awaitable[Answer]) -> Answer:
    """What a future of the handler's own gives; each request that waits for it does so by itself."""
    return await asyncio.shield(shared)
