"""The connection of one client: made when it is needed, replaced, kept up, ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from random import random
from time import monotonic
from typing import Final

from everbus.aio.link import Link
from everbus.aio.openers import opener
from everbus.client.endpoint import Endpoint
from everbus.client.health import Health
from everbus.client.options import ClientOptions
from everbus.client.pacing import Pacing, least_spacing_s
from everbus.client.retry import Backoff
from everbus.errors import ClientClosedError, ConnectError, ConnectionLostError, ModbusTimeoutError, ServerStateError
from everbus.sockets import CLOSED, no_connection_error

__all__ = ["Connector"]

_BY_THE_PEER: Final = ("", "not_modbus")
"""Reasons of an end that are the peer's doing."""

_MOMENT_S: Final = 0.05
"""Whoever waits for nothing but the connection waits so much longer than it may take: then it tells why it failed."""


class Connector:
    """Owns the connection of one client, in one event loop at a time.

    Args:
        endpoint: the peer.
        options: the client's.
        health: is told of connections.
        new_link: makes a link that tells the given function of its end.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        options: ClientOptions,
        health: Health,
        new_link: Callable[[Callable[[Link], None]], Link],
    ) -> None:
        self._endpoint = endpoint
        self._options = options
        self._health = health
        self._new_link = new_link
        self.pacing: Pacing = Pacing(options, least_spacing_s(endpoint))
        """Is told of new connections."""
        self._opener = opener(endpoint, options.source)
        self.link: Link | None = None
        """The connection that is up, or was a moment ago."""
        self.persistent: bool = False
        """Connect again by itself, not only when somebody asks; from ``connect`` on."""
        self.closed: bool = False
        self._backoff = Backoff(random)
        self._connecting: asyncio.Task[None] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._up = asyncio.Event()
        self._listeners: list[Callable[[bool], object]] = []

    @property
    def connected(self) -> bool:
        """A connection is up, as far as anybody can know."""
        return self.link is not None and self.link.usable

    def move(self, alive: bool) -> None:
        """Begin anew in another loop, or another process.

        Args:
            alive: the loop before may still run.

        Raises:
            ServerStateError: it may, and the connection is in it.
        """
        if self.link is not None:
            if alive:
                raise ServerStateError(
                    "this client has a connection in another event loop: close it there, or make another client here"
                )
            self.link.disown()
        self._opener.leave()
        self.link = self._keeper = self._connecting = None
        self._up = asyncio.Event()

    # Connecting

    async def connect(self) -> None:
        """Connect now. Idempotent; several at a time make one connection.

        Raises:
            ConnectError: no connection within the time.
        """
        if self.persistent and (self._keeper is None or self._keeper.done()):
            self._keeper = asyncio.get_running_loop().create_task(self._keep_up())
        if not self.connected:
            await self.ready(monotonic() + self._options.connect_timeout_s + _MOMENT_S)

    async def wait_connected(self, timeout_s: float | None = None) -> None:
        """Wait until a connection is up.

        Raises:
            ModbusTimeoutError: not within the time.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._up.wait()
        except TimeoutError:
            last = self._backoff.last_error
            why = f"; the last try: {last}" if last else ""
            raise ModbusTimeoutError(f"no connection to {self._endpoint} within {timeout_s} s{why}") from last
        if self.closed:
            raise ClientClosedError(f"the client of {self._endpoint} was closed")

    async def ready(self, until: float) -> Link:
        """The connection, made by whoever needs it first; the others wait for the same.

        Raises:
            ConnectError: there is none until then.
            ConnectionLostError: the peer, or somebody here, closed it at once.
        """
        if self.link is not None and self.link.usable:
            return self.link
        if self._connecting is None:
            self._connecting = asyncio.get_running_loop().create_task(self._make(until))
            self._connecting.add_done_callback(self._made)
        making = self._connecting
        await asyncio.wait((making,), timeout=max(0.0, until - monotonic()))
        if not making.done():
            raise no_connection_error(self._endpoint, self._backoff.last_error)
        if making.cancelled():
            raise ClientClosedError(f"the client of {self._endpoint} was closed while it connected")
        making.result()
        if self.link is None:
            raise ConnectionLostError(f"{self._endpoint} closed the new connection at once")
        return self.link

    def _made(self, task: asyncio.Task[None]) -> None:
        self._connecting = None
        if not task.cancelled():
            task.exception()  # whoever waits has it; nobody may

    async def _make(self, until: float) -> None:
        """Make a new connection, after the back-off: at most half of the time that the caller has is spent on that."""
        old = self.link
        if old is not None:
            old.close(old.session.broken or "replaced")
            await asyncio.shield(old.closed)
        await asyncio.sleep(self._backoff.pause_s(monotonic(), until))
        link = self._new_link(self._lost)
        try:
            # All of connect_timeout_s: each who waits has a deadline of its own.
            await self._opener.open(link, self._options.connect_timeout_s)
        except ConnectError as error:
            self._health.connect_failed(error)
            self._backoff.failed(monotonic(), error)
            raise
        if self.closed:
            link.close(CLOSED)
            raise ServerStateError("this client was closed while it connected")
        self.link = link
        self._health.connected()
        self._backoff.connected(monotonic())
        self.pacing.connected(monotonic())
        self._up.set()
        self._tell(True)

    # Its end

    def _lost(self, link: Link) -> None:
        broken = link.reason if link.reason != CLOSED else ""
        self._health.session_ended(
            link.session.statistics(), broken, by_peer=not link.reason, error=link.session.fault or link.error
        )
        if link is self.link:
            self.link = None
            answered = link.session.statistics().completed > 0
            self._backoff.ended(monotonic(), answered=answered, by_peer=link.reason in _BY_THE_PEER)
            self._up.clear()
            self._tell(False)

    def listen(self, callback: Callable[[bool], object]) -> Callable[[], None]:
        """Call back with True when a connection is up, with False when it has ended; return a way to stop that."""
        self._listeners.append(callback)

        def unsubscribe() -> None:
            with suppress(ValueError):
                self._listeners.remove(callback)

        return unsubscribe

    def _tell(self, up: bool) -> None:
        for callback in tuple(self._listeners):
            try:
                callback(up)
            except Exception as error:  # noqa: BLE001  somebody else's code
                context = {"message": "a connection callback of an everbus client failed", "exception": error}
                asyncio.get_running_loop().call_exception_handler(context)

    async def _keep_up(self) -> None:
        """Connect again whenever the connection has ended, with back-off, until closed."""
        while not self.closed:
            link = self.link
            if link is not None:
                await asyncio.shield(link.closed)
            with suppress(ConnectError, ConnectionLostError, ModbusTimeoutError):
                await self.ready(monotonic() + self._options.connect_timeout_s)
                continue
            await asyncio.sleep(max(0.0, self._backoff.not_before - monotonic()))

    async def disconnect(self) -> None:
        """End the connection. Idempotent."""
        if self.link is not None:
            link = self.link
            link.close(CLOSED)
            await asyncio.shield(link.closed)
        await self._opener.close()

    async def close(self) -> None:
        """End everything. Idempotent, in every state."""
        self._up.set()  # whoever waits for a connection looks, and is told
        self._up.clear()
        tasks = [task for task in (self._keeper, self._connecting) if task is not None]
        self._keeper = None  # before anything is waited for: a connect meanwhile has its own
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.disconnect()
