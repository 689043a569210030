"""Runs the scripts of exchanges on an event loop, over one connection that it makes when it is needed."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from random import random
from time import monotonic
from typing import Any, Final

from everbus.aio.link import CLOSED, Deadlines, Link, open_link
from everbus.client import exchange
from everbus.client.endpoint import Endpoint
from everbus.client.exchange import Script, new_session, room
from everbus.client.health import Health
from everbus.client.options import ClientOptions
from everbus.client.pacing import Pacing
from everbus.client.retry import Backoff
from everbus.errors import ClientClosedError, ConnectError, ConnectionLostError, ModbusTimeoutError, ServerStateError
from everbus.protocol.client_session import ClientSession

__all__ = ["Driver"]

_BY_THE_PEER: Final = ("", "not_modbus")
"""Reasons of an end that are the peer's doing."""


class Driver:
    """Owns the connection of one client: makes it, hands out room on it, replaces it, closes it.

    Args:
        endpoint: the peer.
        options: the client's.
        health: is told of connections.
    """

    def __init__(self, endpoint: Endpoint, options: ClientOptions, health: Health) -> None:
        self._endpoint = endpoint
        self._options = options
        self._health = health
        self.persistent: bool = False
        """Connect again by itself, not only when somebody asks; from ``connect`` on."""
        self.pacing: Pacing = Pacing(options)
        self._backoff = Backoff(random)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0
        self._link: Link | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._room = room(endpoint, options)
        self._used = 0
        self._waiting: deque[asyncio.Future[bool | None]] = deque()
        self._closed = False
        self._up = asyncio.Event()
        self._listeners: list[Callable[[bool], object]] = []

    @property
    def connected(self) -> bool:
        """A connection is up, as far as anybody can know."""
        return self._link is not None and self._link.usable

    def check(self) -> bool:
        """Whether the connection is up; the loop notices an end by itself."""
        return self.connected

    @property
    def session(self) -> ClientSession | None:
        """Of the connection that is up."""
        return self._link.session if self._link is not None else None

    # One script

    async def run(self, script: Script) -> Any:
        """Carry a script out; return what it returns, raise what it raises.

        Cancelling it is safe at any point: what was queued is never sent, a late answer goes to nobody.
        """
        link: Link | None = None
        unit = 0
        try:
            step = next(script)
            while True:
                try:
                    if type(step) is exchange.Ask and link is not None:
                        outcome: object = await link.ask(*step)
                    else:
                        if link is not None:
                            held, link = link, None
                            self._give_back(unit, held)
                        if isinstance(step, exchange.Room):
                            unit = step.unit
                            link = self._take_now(unit) or await self._take(unit, step.until)
                            outcome = link.session
                        else:
                            await asyncio.sleep(step.until - monotonic())
                            outcome = None
                except BaseException as error:  # noqa: BLE001  the script decides
                    step = script.throw(error)
                else:
                    step = script.send(outcome)
        except StopIteration as end:
            return end.value
        except asyncio.CancelledError:
            self._health.cancelled += 1
            raise
        finally:
            if link is not None:
                self._give_back(unit, link)

    # Room on the connection

    def _take_now(self, unit: int) -> Link | None:
        """A connection with room for a request, if that takes no waiting."""
        self._enter()
        link = self._link
        if link is None or self._used >= self._room or self._waiting or self.pacing.in_use or not link.usable:
            return None
        self._used += 1
        return link

    async def _take(self, unit: int, until: float) -> Link:
        """A connection with room for a request, up and rested: first come, first served."""
        while True:
            if self.pacing.in_use:
                await self._rest(f"unit {unit} of {self._endpoint}", self.pacing.unit_ready_at(unit), until)
            if self._used < self._room and not self._waiting:
                self._used += 1
            else:
                await self._queue(until)
            if not self.pacing.in_use or self.pacing.unit_ready_at(unit) <= monotonic():
                break
            self._release()  # somebody asked this unit meanwhile
        if self.pacing.in_use:
            self.pacing.begun(unit, monotonic())
        try:
            link = self._link
            if link is None or not link.usable:
                link = await self._connected(until)
            if self.pacing.in_use:
                await self._rest(str(self._endpoint), self.pacing.link_ready_at(), until)
                if not link.usable:
                    link = await self._connected(until)
        except BaseException:
            self._release()
            raise
        return link

    async def _rest(self, what: str, ready_at: float, until: float) -> None:
        """Wait until then, unless that is too late."""
        left_s = ready_at - monotonic()
        if left_s > 0:
            if ready_at >= until:
                raise ModbusTimeoutError(f"{what} is spaced: it may be asked {left_s:.3g} s from now")
            await asyncio.sleep(left_s)

    async def _queue(self, until: float) -> None:
        """Wait for room."""
        assert self._loop is not None
        place: asyncio.Future[bool | None] = self._loop.create_future()
        self._waiting.append(place)
        self._deadlines.watch(place, until)
        granted = None
        try:
            granted = await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and place.exception() is None and place.result():
                self._release()  # it was granted in the same turn
            raise
        finally:
            self._deadlines.forget(place)
            if not granted:
                with suppress(ValueError):
                    self._waiting.remove(place)
        if not granted:
            raise ModbusTimeoutError(
                f"{self._endpoint}: {len(self._waiting) + 1} requests wait for {self._room} to be answered, and this "
                "one's time is over; is the device slower than that, is max_in_flight too small?"
            )

    def _release(self) -> None:
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(True)
                return
        self._used -= 1

    def _give_back(self, unit: int, link: Link) -> None:
        """An exchange is over: its room is the next one's, on a new connection if this one is spoiled."""
        if self.pacing.in_use:
            self.pacing.ended(unit, monotonic())
        if link.session.broken:
            link.close(link.session.broken)
        self._release()

    # The connection

    def _enter(self) -> None:
        """This is used in a running loop, always the same one while a connection is up."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop or self._pid != os.getpid():
            self._move(loop)
        if self._closed:
            raise ServerStateError("this client is closed; connect() opens it again")

    def _move(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin anew in this loop: the one before has ended, or is that of the process that this one is a child of."""
        if self._link is not None:
            if self._loop is not None and not self._loop.is_closed() and self._pid == os.getpid():
                raise ServerStateError(
                    "this client has a connection in another event loop: close it there, or make another client here"
                )
            self._link.disown()
        self._link = self._keeper = self._connecting = None
        self._loop, self._pid = loop, os.getpid()
        self._deadlines = Deadlines(loop)
        self._up = asyncio.Event()
        self._used = 0
        self._waiting.clear()

    async def connect(self) -> None:
        """Connect now. Idempotent; several at a time make one connection. Opens a closed client again.

        Raises:
            ConnectError: no connection within the time.
        """
        self._closed = False
        self._enter()
        if self.persistent and (self._keeper is None or self._keeper.done()):
            assert self._loop is not None
            self._keeper = self._loop.create_task(self._keep_up())
        if not self.connected:
            await self._connected(monotonic() + self._options.connect_timeout_s)

    async def wait_connected(self, timeout_s: float | None = None) -> None:
        """Wait until a connection is up.

        Raises:
            ModbusTimeoutError: not within the time.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._up.wait()
        except TimeoutError:
            raise ModbusTimeoutError(f"no connection to {self._endpoint} within {timeout_s} s") from None
        if self._closed:
            raise ClientClosedError(f"the client of {self._endpoint} was closed")

    def listen(self, callback: Callable[[bool], object]) -> Callable[[], None]:
        """Call back with True when a connection is up, with False when it has ended; return a way to stop that."""
        self._listeners.append(callback)

        def unsubscribe() -> None:
            with suppress(ValueError):
                self._listeners.remove(callback)

        return unsubscribe

    async def _connected(self, until: float) -> Link:
        """The connection, made by whoever needs it first; the others wait for the same."""
        if self._link is not None and self._link.usable:
            return self._link
        if self._connecting is None:
            assert self._loop is not None
            self._connecting = self._loop.create_task(self._make(until))
            self._connecting.add_done_callback(self._made)
        making = self._connecting
        await asyncio.wait((making,), timeout=max(0.0, until - monotonic()))
        if not making.done():
            raise ConnectError(f"no connection to {self._endpoint} in time")
        if making.cancelled():
            raise ClientClosedError(f"the client of {self._endpoint} was closed while it connected")
        making.result()
        if self._link is None:
            raise ConnectionLostError(f"{self._endpoint} closed the new connection at once")
        return self._link

    def _made(self, task: asyncio.Task[None]) -> None:
        self._connecting = None
        if not task.cancelled():
            task.exception()  # whoever waits has it; nobody may

    async def _make(self, until: float) -> None:
        """Make a new connection, after the back-off: at most half of the time that the caller has is spent on that."""
        old = self._link
        if old is not None:
            old.close(old.session.broken or "replaced")
            await asyncio.shield(old.closed)
        await asyncio.sleep(self._backoff.pause_s(monotonic(), until))
        within_s = self._options.connect_timeout_s  # each who waits has a deadline of its own
        link = Link(
            self._endpoint, new_session(self._endpoint, self._options, ClientSession), self._deadlines, self._lost
        )
        try:
            await open_link(self._endpoint, self._options.source, within_s, link)
        except ConnectError:
            self._health.connect_failures += 1
            self._backoff.failed(monotonic())
            raise
        if self._closed:
            link.close(CLOSED)
            raise ServerStateError("this client was closed while it connected")
        self._link = link
        self._health.connects += 1
        self._backoff.connected(monotonic())
        self.pacing.connected(monotonic())
        self._up.set()
        self._tell(True)

    def _lost(self, link: Link) -> None:
        self._health.session_ended(link.session.statistics(), link.reason if link.reason != CLOSED else "")
        if not link.reason:
            self._health.lost += 1
        if link is self._link:
            self._link = None
            answered = link.session.statistics().completed > 0
            self._backoff.ended(monotonic(), answered=answered, by_peer=link.reason in _BY_THE_PEER)
            self._up.clear()
            self._tell(False)

    def _tell(self, up: bool) -> None:
        for callback in tuple(self._listeners):
            try:
                callback(up)
            except Exception as error:  # noqa: BLE001  somebody else's code
                context = {"message": "a connection callback of an everbus client failed", "exception": error}
                asyncio.get_running_loop().call_exception_handler(context)

    async def _keep_up(self) -> None:
        """Connect again whenever the connection has ended, with back-off, until closed."""
        while not self._closed:
            link = self._link
            if link is not None:
                await asyncio.shield(link.closed)
            with suppress(ConnectError, ConnectionLostError):
                await self._connected(monotonic() + self._options.connect_timeout_s)
                continue
            await asyncio.sleep(max(0.0, self._backoff.not_before - monotonic()))

    async def disconnect(self) -> None:
        """End the connection; the next request makes a new one. Idempotent."""
        if self._loop is not None and (self._loop is not asyncio.get_running_loop() or self._pid != os.getpid()):
            self._move(asyncio.get_running_loop())
        if self._link is not None:
            link = self._link
            link.close(CLOSED)
            await asyncio.shield(link.closed)

    async def close(self) -> None:
        """End everything: what waits fails with ``ConnectionLostError``. Idempotent, in every state."""
        self._closed = True
        self._up.set()  # whoever waits for a connection looks, and is told
        self._up.clear()
        if self._loop is None:
            return
        if self._loop is not asyncio.get_running_loop() or self._pid != os.getpid():
            self._move(asyncio.get_running_loop())
        for place in self._waiting:
            if not place.done():
                place.set_exception(ClientClosedError(f"the client of {self._endpoint} was closed"))
        tasks = [task for task in (self._keeper, self._connecting) if task is not None]
        self._keeper = None  # before anything is waited for: a connect meanwhile has its own
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.disconnect()
        self._deadlines.close()
