"""The server: listeners and ports, connections, one timer, and an end that is bounded."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager, suppress
from threading import RLock
from time import monotonic
from typing import TYPE_CHECKING, Protocol, Self, runtime_checkable

from everbus.aio.connection import Shared
from everbus.aio.doors import Doors, Port
from everbus.aio.listener import Listener, resolve
from everbus.aio.reception import Reception
from everbus.aio.registry import Registry
from everbus.aio.statistics import Drained, Forced, ServerStatistics
from everbus.aio.tally import Tally
from everbus.aio.udp import UdpPort
from everbus.aio.vitals import Vitals, open_descriptors
from everbus.client.endpoint import DEFAULT_SERVER_ENDPOINT, Endpoint, parse_endpoint
from everbus.errors import ConfigurationError, ServerStateError, UsageError
from everbus.limits import Limits
from everbus.logs import LogObserver
from everbus.observe import Event, EventKind, Observer
from everbus.protocol.framing.mbap import MbapFramer
from everbus.protocol.pdu.table import PUBLIC, FunctionTable
from everbus.resources import descriptor_limit
from everbus.service.audit import AuditSink
from everbus.service.authorize import ALLOW_ALL, Policy, admission, strangers
from everbus.service.handler import LocalHandler
from everbus.service.multidrop import Multidrop
from everbus.service.pipeline import Pipeline
from everbus.service.units import UnitSource, as_units
from everbus.tls import TlsOptions

if TYPE_CHECKING:
    from everbus.aio.serial import SerialOptions

__all__ = ["Server"]

_STREAMS = ("tcp", "tls", "rtu+tcp", "ascii+tcp", "unix")
_LAST_TURNS_S = 0.5


@runtime_checkable
class _Attachable(Protocol):
    def attach(self, lock: AbstractContextManager[object], observer: Observer) -> None: ...


class Server:
    """A Modbus server that stays up: every bound is on, see ``Limits``.

    Args:
        handler: who answers: a ``Bank``, a function ``(request, context)``, sync or async, an
            object with ``handle``; a mapping of units to these; or ``Units``.
        endpoints: where to listen, URLs or ``Endpoint``; by default ``tcp://127.0.0.1:5020``.
        limits: the bounds.
        policy: who may do what; everybody everything by default.
        audit: told of every write and every denial; whoever made it closes it.
        table: the function codes it knows; extend ``PUBLIC`` for custom ones.
        serial: how it behaves on its serial ports.
        tls: whom it asks for a certificate on its TLS endpoints; by default everybody.
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
        audit: AuditSink | None = None,
        table: FunctionTable = PUBLIC,
        serial: SerialOptions | None = None,
        tls: TlsOptions | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._units = as_units(handler)
        given = endpoints or (DEFAULT_SERVER_ENDPOINT,)
        self._given = [one if isinstance(one, Endpoint) else parse_endpoint(one) for one in given]
        self.limits: Limits = limits or Limits()
        """The bounds; settled and lowered to what the process can hold once started."""
        self._tally = Tally(observer or LogObserver())
        self._pipeline = Pipeline(self._units, policy, table, self._tally, audit=audit, clock=monotonic)
        self._policy = policy
        self._admission = admission(policy)
        self._table = table
        self._serial = serial
        self._tls = tls or TlsOptions()
        self._devices = Multidrop(self._pipeline, self._units)
        self._state = "new"
        self._doors = Doors()
        self._stop_task: asyncio.Task[Drained | Forced] | None = None
        self._stop_requested = False
        self._hurried = False
        self._reception: Reception | None = None
        self._vitals: Vitals | None = None

    def __repr__(self) -> str:
        where = ", ".join(self.endpoints) or ", ".join(map(str, self._given))
        return f"<Server {self._state} {where}>"

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Where it listens, as URLs, with the ports that the system chose."""
        return self._doors.urls

    @property
    def serving(self) -> bool:
        """It has started and does not stop yet."""
        return self._state == "serving"

    # Start

    async def start(self) -> None:
        """Bind every endpoint and begin to serve.

        Raises:
            ConnectError: an address cannot be bound; nothing is left open.
            ConfigurationError: the descriptor limit leaves room for fewer than 16 connections; a
                certificate cannot be used; or the policy names an endpoint that is none of these.
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
            self._registry = Registry(self.limits, self._admission)
            self._shared = Shared(self._pipeline, self._registry, self.limits, self._tally, MbapFramer)
            self._reception = Reception(self._shared, self._devices, self._table, self._tls)
            self._attach()
            for address in addresses:
                await self._listen(address, self._reception)
            self._check_policy()
            self._state = "serving"
            if self._stop_requested:  # by another thread, or by an observer, while it was starting
                raise ServerStateError("stopped while it was starting")
        except BaseException:
            self._doors.stop_listening()
            await self._doors.cut_off()
            self._state = "stopped"
            raise
        self._stopped = asyncio.Event()
        self._timer = self._loop.call_later(self.limits.sweep_s, self._sweep)
        self._vitals = Vitals(self._tally)

    def _settle_limits(self) -> None:
        wanted = self.limits.max_connections
        self.limits = self.limits.fitted(descriptor_limit(), open_descriptors() or 0)
        if self.limits.max_connections < wanted:
            text = f"max_connections {wanted} lowered to {self.limits.max_connections}: "
            text += f"the process may open {descriptor_limit()} descriptors"
            self._tally.notify(Event(EventKind.LIMIT_LOWERED, reason="descriptors", detail=text))

    def _check_policy(self) -> None:
        """A rule about an endpoint that is not here concerns nobody: a denial that fails open."""
        wrong = strangers(self._policy, self.endpoints)
        if wrong:
            raise ConfigurationError(
                f"the policy names {', '.join(wrong)}, which is no endpoint of this server; these are: "
                f"{', '.join(url.partition('?')[0] for url in self.endpoints)}"
            )

    def _attach(self) -> None:
        """Give local devices a lock, so that other threads can use their banks."""
        for handler in self._units.handlers:
            if isinstance(handler, LocalHandler) and isinstance(handler, _Attachable):
                handler.attach(RLock(), self._tally)

    async def _listen(self, address: Endpoint, reception: Reception) -> None:
        if address.scheme in _STREAMS:
            reception.prepare(address)
            listener = Listener(
                address, self.limits, self._tally, reception.deliver, reception.make_room, in_use=self._in_use
            )
            listener.open()
            self._doors.add_listener(listener)
        else:
            port = self._port(address, reception)
            await port.open()
            self._doors.add_port(port)

    def _port(self, address: Endpoint, reception: Reception) -> Port:
        if address.scheme == "udp":
            return UdpPort(
                address,
                self._pipeline,
                self.limits,
                self._tally,
                admission=self._admission,
                next_id=reception.next_id,
                in_use=self._in_use,
            )
        from everbus.aio.serial import SerialListener, SerialOptions  # noqa: PLC0415  needs an extra, and termios

        return SerialListener(
            address,
            self._pipeline,
            self._devices,
            self.limits,
            self._tally,
            table=self._table,
            options=self._serial or SerialOptions(),
            connection_id=reception.next_id(),
        )

    def _in_use(self, number: int) -> bool:
        """Whether a descriptor is read by something of this server's."""
        return (self._reception is not None and number in self._reception.sockets) or self._doors.use(number)

    # Time

    def _sweep(self) -> None:
        try:
            now = monotonic()
            self._registry.sweep(now)
            assert self._reception is not None
            self._reception.sweep(now)
            self._doors.sweep(now)
            self._tally.tick(now)
        finally:
            self._timer = self._loop.call_later(self.limits.sweep_s, self._sweep)

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
        reception = self._reception
        registry = self._registry if reception is not None else Registry(self.limits)
        opened = reception.opened if reception is not None else 0
        connected = registry.statistics()
        return ServerStatistics(
            connections=len(registry),
            peak_connections=connected.peak,
            max_connections=self.limits.max_connections,
            opened=opened,
            closed=opened - len(registry),
            closed_by_reason=tally.by_reason(EventKind.CONNECTION_CLOSED, EventKind.CONNECTION_EVICTED),
            refused_by_reason=tally.by_reason(EventKind.CONNECTION_REFUSED),
            refused_requests=tally.by_reason(EventKind.REQUEST_REFUSED),
            abandoned_answers=tally.by_reason(EventKind.ANSWER_ABANDONED),
            handshake_failures=tally.by_reason(EventKind.HANDSHAKE_FAILED),
            rejected_frames=tally.by_reason(EventKind.FRAME_REJECTED),
            requests=self._doors.requests + (self._shared.requests if reception is not None else 0),
            exceptions=self._pipeline.exceptions,
            handler_failures=tally.by_reason(EventKind.HANDLER_FAILED, EventKind.HANDLER_TIMED_OUT),
            accept_errors=tally.by_reason(EventKind.ACCEPT_FAILED),
            relistens=self._doors.reopened,
            listeners=self._doors.open,
            unsent_bytes=connected.unsent_bytes,
            loop_lags=tally.total(EventKind.LOOP_LAGGED),
            max_loop_lag_s=self._vitals.max_lag_s if self._vitals is not None else 0.0,
            observer_failures=tally.observer_failures,
            ports=self._doors.statistics(),
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
        self._doors.exempt(caller)
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
            self._doors.stop_listening()
            limit = self.limits.stop_timeout_s if timeout_s is None else timeout_s
            self._stop_task = self._loop.create_task(self._drain(limit))

    async def _drain(self, timeout_s: float) -> Drained | Forced:
        registry = self._registry
        await asyncio.sleep(0)  # what has arrived by now is read, and so answered
        await asyncio.sleep(0)
        connections = list(registry)
        for connection in connections:
            connection.drain()
        closing = [self._loop.create_task(port.close(timeout_s)) for port in self._doors.ports]
        for task in closing:
            task.add_done_callback(lambda _: self._shared.wake.set())
        await asyncio.sleep(0)  # the idle ones are closed
        await self._until_idle(closing, timeout_s, patient=False)
        left = list(registry)
        for connection in left:
            connection.abort("forced")
        cut_off = len(left) + await self._doors.cut_off()
        await self._until_idle(closing, _LAST_TURNS_S, patient=True)
        abandoned = self._shared.abandoned | self._doors.abandoned
        if abandoned:
            await asyncio.wait(abandoned, timeout=_LAST_TURNS_S)
        self._timer.cancel()
        assert self._vitals is not None
        self._vitals.stop()
        self._tally.tick(float("inf"))  # what was suppressed is told
        self._state = "stopped"
        self._stopped.set()
        return Forced(len(connections), cut_off) if cut_off else Drained(len(connections))

    async def _until_idle(self, closing: list[asyncio.Task[bool]], timeout_s: float, *, patient: bool) -> None:
        """Wait until nothing is open, the time is over, or, unless it is patient, somebody is in a hurry."""
        wake = self._shared.wake
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while (patient or not self._hurried) and (
                    len(self._registry) or not all(task.done() for task in closing)
                ):
                    wake.clear()
                    await wake.wait()
