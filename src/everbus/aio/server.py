"""The server: listeners, connections, one timer, and an end that is bounded."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AbstractContextManager, suppress
from threading import RLock
from time import monotonic
from typing import Any, Protocol, Self, runtime_checkable

from everbus.aio.connection import Connection, Shared
from everbus.aio.listener import Listener, resolve
from everbus.aio.logs import LogObserver
from everbus.aio.registry import Registry
from everbus.aio.statistics import Drained, Forced, ServerStatistics
from everbus.aio.tally import Tally
from everbus.aio.transport import Sockets
from everbus.client.endpoint import DEFAULT_SERVER_ENDPOINT, Endpoint, as_endpoint
from everbus.errors import ConfigurationError, ServerStateError, UsageError
from everbus.limits import Limits
from everbus.observe import Event, EventKind, Observer
from everbus.protocol.framing.mbap import MbapFramer
from everbus.protocol.pdu.table import PUBLIC, FunctionTable
from everbus.resources import DescriptorWatcher, descriptor_count, descriptor_limit
from everbus.service.authorize import ALLOW_ALL, Policy
from everbus.service.context import ConnectionInfo
from everbus.service.handler import LocalHandler
from everbus.service.pipeline import Pipeline
from everbus.service.units import UnitSource, as_units

__all__ = ["Server"]

_LAG_S = 0.25
"""How often a beat comes; one that comes so much later means that something blocked the loop."""

_DESCRIPTOR_CHECK_S = 2.0
_LAST_TURNS_S = 0.5


@runtime_checkable
class _Attachable(Protocol):
    def attach(self, lock: AbstractContextManager[object], observer: Observer) -> None: ...


class Server:
    """A Modbus TCP server that stays up: every bound is on, see ``Limits``.

    Args:
        handler: who answers: a ``Bank``, a function ``(request, context)``, sync or async, an
            object with ``handle``; a mapping of units to these; or ``Units``.
        endpoints: where to listen, URLs or ``Endpoint``; by default ``tcp://127.0.0.1:5020``.
        limits: the bounds.
        policy: who may do what; everybody everything by default.
        table: the function codes it knows; extend ``PUBLIC`` for custom ones.
        observer: told of every event; by default they are logged to ``everbus.server`` at a
            bounded rate.

    Raises:
        ConfigurationError: the handler cannot answer, or an endpoint is not one.

    Use it as ``async with Server(bank) as server: ...``, or ``await server.serve_forever()``. A
    server serves once: build a new one to serve again.
    """

    def __init__(
        self,
        handler: UnitSource,
        *endpoints: str | Endpoint,
        limits: Limits | None = None,
        policy: Policy = ALLOW_ALL,
        table: FunctionTable = PUBLIC,
        observer: Observer | None = None,
    ) -> None:
        self._units = as_units(handler)
        given = endpoints or (DEFAULT_SERVER_ENDPOINT,)
        self._given = [_servable(as_endpoint(one)) for one in given]
        self.limits: Limits = limits or Limits()
        """The bounds; settled and lowered to what the process can hold once started."""
        self._tally = Tally(observer or LogObserver())
        self._pipeline = Pipeline(self._units, policy, table, self._tally)
        self._state = "new"
        self._listeners: list[Listener] = []
        self._stop_task: asyncio.Task[Drained | Forced] | None = None
        self._stop_requested = False
        self._hurried = False
        self._connection_ids = 0
        self._opened = 0
        self._max_lag_s = 0.0

    def __repr__(self) -> str:
        where = ", ".join(self.endpoints) or ", ".join(map(str, self._given))
        return f"<Server {self._state} {where}>"

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Where it listens, as URLs, with the ports that the system chose."""
        return tuple(str(listener.endpoint) for listener in self._listeners)

    @property
    def serving(self) -> bool:
        """It has started and does not stop yet."""
        return self._state == "serving"

    # Start

    async def start(self) -> None:
        """Bind every endpoint and begin to serve.

        Raises:
            ConnectError: an address cannot be bound; nothing is left open.
            ConfigurationError: the descriptor limit leaves room for fewer than 16 connections.
            ServerStateError: it was started before, or stopped meanwhile.
        """
        if self._state != "new":
            raise ServerStateError(f"this server is {self._state}; build a new one to serve again")
        self._state = "starting"
        try:
            self._settle_limits()
            self._loop = asyncio.get_running_loop()
            addresses = [address for given in self._given for address in await resolve(given)]
            if self._stop_requested:
                raise ServerStateError("stopped while it was starting")
            self._registry = Registry(self.limits)
            self._shared = Shared(self._pipeline, self._registry, self.limits, self._tally, MbapFramer)
            self._sockets = Sockets(self._loop)
            self._attach()
            for address in addresses:
                self._listen(address)
            self._state = "serving"
            if self._stop_requested:  # by another thread, or by an observer, while it was starting
                raise ServerStateError("stopped while it was starting")
        except BaseException:
            self._close_listeners()
            self._state = "stopped"
            raise
        self._stopped = asyncio.Event()
        self._timer = self._loop.call_later(self.limits.sweep_s, self._sweep)
        self._beat(self._loop.time())
        self._watcher = DescriptorWatcher(descriptor_limit())
        self._watch_timer = self._loop.call_later(_DESCRIPTOR_CHECK_S, self._watch_descriptors)

    def _settle_limits(self) -> None:
        wanted = self.limits.max_connections
        self.limits = self.limits.fitted(descriptor_limit(), _open_descriptors() or 0)
        if self.limits.max_connections < wanted:
            text = f"max_connections {wanted} lowered to {self.limits.max_connections}: "
            text += f"the process may open {descriptor_limit()} descriptors"
            self._tally.notify(Event(EventKind.LIMIT_LOWERED, reason="descriptors", detail=text))

    def _attach(self) -> None:
        """Give local devices a lock, so that other threads can use their banks."""
        for handler in self._units.handlers:
            if isinstance(handler, LocalHandler) and isinstance(handler, _Attachable):
                handler.attach(RLock(), self._tally)

    def _listen(self, address: Endpoint) -> None:
        in_use = self._sockets.__contains__
        listener = Listener(address, self.limits, self._tally, self._deliver, self._make_room, in_use=in_use)
        listener.open()
        self._listeners.append(listener)

    # Admission

    def _deliver(self, sock: socket.socket, address: Any, listener: Listener) -> None:
        """Admit an accepted socket, or close it at once; it counts from here on."""
        self._connection_ids += 1
        host, peer = _peer(address)
        info = ConnectionInfo(self._connection_ids, peer, host, str(listener.endpoint))
        connection = Connection(self._shared, info)
        reason = self._registry.admit(connection, connection.opened_at)
        if reason is not None:
            sock.close()
            text = "closed at once, a limit is reached"
            event = Event(EventKind.CONNECTION_REFUSED, peer, reason, text, info.connection_id)
            self._tally.notify(event)
            return
        self._opened += 1
        self._tally.notify(Event(EventKind.CONNECTION_OPENED, peer, connection_id=info.connection_id))
        try:
            self._sockets.attach(sock, connection)
        except OSError as error:
            sock.close()
            connection.ended("setup")
            self._tally.notify(Event(EventKind.ACCEPT_FAILED, peer, "setup", str(error), error=error))

    def _make_room(self) -> bool:
        return self._registry.make_room(monotonic())

    # Time

    def _sweep(self) -> None:
        try:
            now = monotonic()
            self._registry.sweep(now)
            for listener in self._listeners:
                listener.check()
            self._tally.tick(now)
        finally:
            self._timer = self._loop.call_later(self.limits.sweep_s, self._sweep)

    def _beat(self, due: float) -> None:
        """Notice that something blocked the loop: this came later than it should."""
        now = self._loop.time()
        lag = now - due
        if lag > _LAG_S:
            self._max_lag_s = max(self._max_lag_s, lag)
            text = f"something blocked the event loop for {lag:.2f} s"
            self._tally.notify(Event(EventKind.LOOP_LAGGED, detail=text))
        self._beat_timer = self._loop.call_later(_LAG_S, self._beat, now + _LAG_S)

    def _watch_descriptors(self) -> None:
        try:
            for alarm in self._watcher.check(_open_descriptors() or 0):
                self._tally.notify(alarm.event)
        finally:
            self._watch_timer = self._loop.call_later(_DESCRIPTOR_CHECK_S, self._watch_descriptors)

    # Use

    async def serve_forever(self) -> Drained | Forced:
        """Start if need be, and serve until somebody stops it; say how it ended.

        Cancelling it stops the server, within ``stop_timeout_s``.

        Raises:
            ConnectError: as ``start`` does.
            ConfigurationError: as ``start`` does.
            ServerStateError: it has stopped already.
        """
        if self._state == "new":
            await self.start()
        if self._state not in ("serving", "stopping"):
            raise ServerStateError(f"this server is {self._state}")
        try:
            await self._stopped.wait()
        except asyncio.CancelledError:
            await self.stop()
            raise
        return await self.stop()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def statistics(self) -> ServerStatistics:
        """A snapshot of what it has done."""
        tally = self._tally
        started = self._state in ("serving", "stopping") or bool(self._opened)
        registry = self._registry if started else Registry(self.limits)
        connected = registry.statistics()
        listeners = [listener.statistics() for listener in self._listeners]
        return ServerStatistics(
            connections=len(registry),
            peak_connections=connected.peak,
            max_connections=self.limits.max_connections,
            opened=self._opened,
            closed=self._opened - len(registry),
            closed_by_reason=tally.by_reason(EventKind.CONNECTION_CLOSED, EventKind.CONNECTION_EVICTED),
            refused_by_reason=tally.by_reason(EventKind.CONNECTION_REFUSED),
            rejected_frames=tally.by_reason(EventKind.FRAME_REJECTED),
            requests=self._shared.requests if started else 0,
            exceptions=self._pipeline.exceptions,
            handler_failures=tally.by_reason(EventKind.HANDLER_FAILED, EventKind.HANDLER_TIMED_OUT),
            accept_errors=tally.by_reason(EventKind.ACCEPT_FAILED),
            relistens=sum(listener.relistens for listener in listeners),
            listeners=sum(listener.listening for listener in listeners),
            unsent_bytes=connected.unsent_bytes,
            loop_lags=tally.total(EventKind.LOOP_LAGGED),
            max_loop_lag_s=self._max_lag_s,
            observer_failures=tally.observer_failures,
        )

    # Stop

    async def stop(self, timeout_s: float | None = None) -> Drained | Forced:
        """Stop: listen no more, close idle connections, let busy ones finish, then force.

        Idempotent, from any task, handlers included, and any loop; every call gives the same
        result. Called from a handler itself (not from a task that it waits for), that handler's own
        request is not waited for and stays unanswered. Cancelling the call does not take the stop back.

        Args:
            timeout_s: instead of ``limits.stop_timeout_s``; 0 forces at once, also a stop that is
                under way.

        Raises:
            UsageError: the timeout is negative.
        """
        if timeout_s is not None and timeout_s < 0:
            raise UsageError(f"timeout_s cannot be negative, {timeout_s} is")
        self._stop_requested = True
        if self._state in ("new", "starting", "stopped") and self._stop_task is None:
            self._state = "stopped"
            return Drained(0)
        if self._stop_task is not None and self._stop_task.done():
            return self._stop_task.result()
        if asyncio.get_running_loop() is not self._loop:
            elsewhere = asyncio.run_coroutine_threadsafe(self.stop(timeout_s), self._loop)
            return await asyncio.wrap_future(elsewhere)
        caller = asyncio.current_task()
        assert caller is not None
        for connection in self._registry:
            connection.exempt(caller)
        self._begin_stop(timeout_s)
        assert self._stop_task is not None
        return await asyncio.shield(self._stop_task)

    def request_stop(self, *, at_once: bool = False) -> None:
        """Begin to stop, without waiting. Safe in any thread, signal handler or request handler.

        Args:
            at_once: force, also a stop that is under way.
        """
        self._stop_requested = True
        if self._state in ("serving", "stopping"):
            with suppress(RuntimeError):  # the loop has closed meanwhile: it has stopped
                self._loop.call_soon_threadsafe(self._stop_soon, 0.0 if at_once else None)
        elif self._state == "new":
            self._state = "stopped"

    def _stop_soon(self, timeout_s: float | None) -> None:
        if self._state in ("serving", "stopping"):  # unless the start has failed meanwhile
            self._begin_stop(timeout_s)

    def _begin_stop(self, timeout_s: float | None) -> None:
        """Begin the one stop that there is, unless it has begun; a timeout of 0 forces it."""
        if timeout_s == 0:
            self._hurried = True
            self._shared.wake.set()
        if self._stop_task is None:
            self._state = "stopping"
            self._close_listeners()
            limit = self.limits.stop_timeout_s if timeout_s is None else timeout_s
            self._stop_task = self._loop.create_task(self._drain(limit))

    async def _drain(self, timeout_s: float) -> Drained | Forced:
        registry = self._registry
        await asyncio.sleep(0)  # what has arrived by now is read, and so answered
        await asyncio.sleep(0)
        connections = list(registry)
        for connection in connections:
            connection.drain()
        await asyncio.sleep(0)  # the idle ones are closed
        if not self._hurried:
            await self._until_woken(timeout_s)
        left = list(registry)
        for connection in left:
            connection.abort("forced")
        await self._until_woken(_LAST_TURNS_S)
        if self._shared.abandoned:
            await asyncio.wait(tuple(self._shared.abandoned), timeout=_LAST_TURNS_S)
        self._timer.cancel()
        self._watch_timer.cancel()
        self._beat_timer.cancel()
        self._tally.tick(float("inf"))  # what was suppressed is told
        self._state = "stopped"
        self._stopped.set()
        return Forced(len(connections), len(left)) if left else Drained(len(connections))

    async def _until_woken(self, timeout_s: float) -> None:
        """Wait until nobody is connected, somebody is in a hurry, or the time is over."""
        self._shared.wake.clear()
        if not len(self._registry):
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._shared.wake.wait()

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            listener.close()


def _servable(endpoint: Endpoint) -> Endpoint:
    if not endpoint.identified:
        raise ConfigurationError(f"a server cannot listen on {endpoint} yet: tcp and unix are what it serves")
    return endpoint


def _open_descriptors() -> int | None:
    """How many this process has open; None where the system does not tell."""
    try:
        return descriptor_count()
    except (ConfigurationError, OSError):
        return None


def _peer(address: Any) -> tuple[str, str]:
    """Host, and host with port, of an accepted socket's address; empty for Unix sockets."""
    if not isinstance(address, tuple):
        return "", ""
    host, port = str(address[0]), address[1]
    return host, f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
