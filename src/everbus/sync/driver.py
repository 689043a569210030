"""Runs the scripts of exchanges in the thread that calls, over one connection that it makes when it is needed."""

from __future__ import annotations

import threading
from os import getpid
from random import random
from time import monotonic, sleep
from typing import Any, Final

from everbus.client.endpoint import Endpoint
from everbus.client.exchange import Ask, Exchange, Room, Script, exact, new_session, prepared, room
from everbus.client.health import Health
from everbus.client.options import ClientOptions
from everbus.client.pacing import Pacing, least_spacing_s
from everbus.client.retry import Backoff
from everbus.errors import ClientClosedError, ConnectError, ModbusTimeoutError, ServerStateError
from everbus.protocol.client_session import ClientSession, Completion
from everbus.protocol.pdu.table import AnyRequest
from everbus.sockets import CLOSED, no_connection_error
from everbus.sync.link import Channel, Link, SharedLink, SharedSession
from everbus.sync.openers import opener

__all__ = ["Driver"]

_FRESH_S: Final = 0.05
"""A connection that was used so lately is not asked whether it has ended before it is used to read again.

Where ids are missing or not trusted it always is: what lies unread would be taken for the answer."""


class _Hold:
    """A call's room on the connection. In each line it is held, and known to be, or it is not: Ctrl-C loses none."""

    __slots__ = ("_places", "held")

    def __init__(self, places: threading.Lock | threading.Semaphore, held: bool) -> None:
        self._places = places
        self.held: bool = held

    def take(self, places: threading.Lock | threading.Semaphore, within_s: float) -> bool:
        """Get room, unless it is there already; whether that was so in time."""
        self._places = places
        self.held = self.held or places.acquire(timeout=within_s)
        return self.held

    def free(self) -> None:
        """Give it back. Idempotent."""
        if self.held:
            self.held = bool(self._places.release())


class Driver:
    """Owns the connection of one client: makes it, hands out room on it, replaces it, closes it.

    Args:
        endpoint: the peer.
        options: the client's.
        health: is told of connections.
        exchange: makes the scripts.

    Raises:
        ConfigurationError: the endpoint's certificates cannot be used.
    """

    def __init__(self, endpoint: Endpoint, options: ClientOptions, health: Health, exchange: Exchange) -> None:
        self._endpoint = endpoint
        self._options = options
        self._health = health
        self._exchange = exchange
        self.pacing: Pacing = Pacing(options, least_spacing_s(endpoint))
        self._opener = opener(endpoint, options.source)
        self._backoff = Backoff(random)
        self._link: Link | None = None
        self._newest: ClientSession | None = None
        self._closed = False
        self._fresh_s = _FRESH_S if exact(endpoint, options) else 0.0
        self._room = room(endpoint, options)
        self._begin()

    def _begin(self) -> None:
        """In a new process the locks are new: the old ones may be held by threads that are not here."""
        self._pid = getpid()
        self._places = threading.Lock() if self._room == 1 else threading.Semaphore(self._room)
        self._making = threading.Lock()

    @property
    def connected(self) -> bool:
        """A connection is up, as far as it is known: the peer may have ended it since it was last used."""
        return self._link is not None and self._link.usable

    def check(self) -> bool:
        """Whether the connection is up, asked of the socket. Nobody else may use it meanwhile."""
        link = self._link
        if link is not None and link.usable:
            link.check()
        return link is not None and link.usable

    @property
    def session(self) -> ClientSession | None:
        """Of the connection that is up."""
        return self._link.session if self._link is not None else None

    def call(self, unit: int, request: AnyRequest) -> Any:
        """Make a request; return the response, or raise what its script raises.

        An exception that a signal handler raises meanwhile, as Ctrl-C does, leaves the client usable.
        """
        pdu, careful = prepared(request)
        started = monotonic()
        hold: _Hold | None = None
        held = False
        completion: Completion | None = None
        error: BaseException | None = None
        try:
            held = not (careful or self.pacing.in_use) and self._pid == getpid() and self._places.acquire(False)
            link = self._link
            if not held or link is None or started - link.last_used >= self._fresh_s:
                hold = _Hold(self._places, held)
                return self._go_on(self._exchange.script(unit, request, started), hold)
            transaction, data = link.session.submit(unit, request, pdu)
            try:
                completion = link.ask(transaction, data, started + self._exchange.read_s)
            except BaseException as failure:  # noqa: BLE001  the script decides
                error = failure
            if completion is not None and completion.error is None:
                self._health.succeeded(unit)
                return completion.response
            script = self._exchange.script(unit, request, started, link.session, transaction)
            next(script)
            hold = _Hold(self._places, held)
            return self._go_on(script, hold, unit=unit, link=link, outcome=completion, error=error)
        except KeyboardInterrupt:
            self._interrupted(held if hold is None else hold.held)
            raise
        finally:
            if hold is not None:
                hold.free()
            elif held:
                self._places.release()

    def run(self, script: Script) -> Any:
        """Carry a script out; return what it returns, raise what it raises. As for Ctrl-C, see ``call``."""
        hold = _Hold(self._places, False)
        try:
            return self._go_on(script, hold)
        except KeyboardInterrupt:
            self._interrupted(hold.held)
            raise
        finally:
            hold.free()

    def _interrupted(self, holding: bool) -> None:
        """A call was, anywhere: the connection is looked at before it is used again, or replaced if it is half used."""
        self._health.cancelled += 1
        link = self._link
        if link is not None:
            link.last_used = 0.0
            if holding and self._room == 1 and link.session.in_flight:
                link.reason = link.reason or "abandoned"

    def _go_on(
        self,
        script: Script,
        hold: _Hold,
        *,
        unit: int = 0,
        link: Link | None = None,
        outcome: object = None,
        error: BaseException | None = None,
    ) -> Any:
        """Carry a script out.

        Args:
            script: what decides.
            hold: the caller's room; free in the end.
            unit: that it asks.
            link: the connection that it has room on.
            outcome: of its last step.
            error: instead of an outcome.
        """
        try:
            while True:
                step = script.send(outcome) if error is None else script.throw(error)
                outcome = error = None
                try:
                    if isinstance(step, Ask) and link is not None:
                        outcome = link.ask(*step)
                        continue
                    if link is not None:
                        self._give_back(unit, link, hold)
                        link = None
                    if isinstance(step, Room):
                        unit = step.unit
                        link = self._take(unit, step.until, step.careful, hold)
                        outcome = link.session
                    else:
                        sleep(max(0.0, step.until - monotonic()))
                except BaseException as failure:  # noqa: BLE001  the script decides
                    error = failure
        except StopIteration as end:
            return end.value
        finally:
            script.close()
            if link is not None:
                self._give_back(unit, link, hold)

    # Room on the connection

    def _take(self, unit: int, until: float, careful: bool, hold: _Hold) -> Link:
        """A connection with room for a request, up and rested."""
        if self._pid != getpid():
            self._forked()
        if self._closed:
            raise ServerStateError("this client is closed; connect() opens it again")
        self._take_place(unit, until, hold)
        try:
            if self.pacing.in_use:
                self._rest(str(self._endpoint), self.pacing.link_ready_at(), until)
            link = self._link
            if link is None or careful or monotonic() - link.last_used >= self._fresh_s:
                link = self._checked(link, until)
        except BaseException:
            hold.free()
            raise
        return link

    def _take_place(self, unit: int, until: float, hold: _Hold) -> None:
        """Wait for the unit's spacing, and for room."""
        while True:
            if self.pacing.in_use:
                self._rest(f"unit {unit} of {self._endpoint}", self.pacing.unit_ready_at(unit), until)
            if not hold.take(self._places, max(0.0, until - monotonic())):
                raise ModbusTimeoutError(
                    f"{self._endpoint}: other threads' requests took all the time of this one; is the device slower "
                    "than that, is max_in_flight too small?"
                )
            if not self.pacing.in_use:
                return
            if self.pacing.unit_ready_at(unit) <= monotonic():
                self.pacing.begun(unit, monotonic())
                return
            hold.free()  # somebody asked this unit meanwhile

    def _give_back(self, unit: int, link: Link, hold: _Hold) -> None:
        """An exchange is over: its room is the next one's, on a new connection if this one is spoiled."""
        try:
            if self.pacing.in_use:
                self.pacing.ended(unit, monotonic())
            if not link.usable:
                self._retire(link, link.session.broken)
        finally:
            hold.free()

    def _checked(self, link: Link | None, until: float) -> Link:
        """The connection after a rest, if it is still up; else a new one."""
        if link is not None:
            link.check()
            if link.usable:
                return link
        link = self._connected(until)
        if self.pacing.in_use:
            self._rest(str(self._endpoint), self.pacing.link_ready_at(), until)
        return link

    def _rest(self, what: str, ready_at: float, until: float) -> None:
        """Wait until then, unless that is too late."""
        if ready_at:
            left_s = ready_at - monotonic()
            if left_s > 0:
                if ready_at >= until:
                    raise ModbusTimeoutError(f"{what} is spaced: it may be asked {left_s:.3g} s from now")
                sleep(left_s)

    # The connection

    def _forked(self) -> None:
        """This is a child of the process that connected: the connection stays the parent's."""
        self._begin()
        link, self._link = self._link, None
        if link is not None:
            link.disown()
        self._opener.leave()

    def connect(self) -> None:
        """Connect now. Idempotent; a closed client is open again.

        Raises:
            ConnectError: no connection within ``connect_timeout_s``.
        """
        if self._pid != getpid():
            self._forked()
        self._closed = False
        if not self.connected:
            self._connected(monotonic() + self._options.connect_timeout_s)

    def _connected(self, until: float) -> Link:
        """The connection, made by whoever needs it first; the others wait for the same."""
        making = False
        try:
            making = self._making.acquire(timeout=max(0.0, until - monotonic()))
            if not making:
                raise no_connection_error(self._endpoint, self._backoff.last_error)
            link = self._link
            if link is not None and link.usable:
                return link
            if link is not None:
                self._retire(link, link.session.broken or "replaced")
            return self._make(until)
        finally:
            if making:
                self._making.release()

    def _make(self, until: float) -> Link:
        """Make a new connection, after the back-off: at most half of the time that the caller has is spent on that."""
        sleep(self._backoff.pause_s(monotonic(), until))
        try:
            channel = self._opener.open(min(until, monotonic() + self._options.connect_timeout_s))
        except ConnectError as error:
            self._health.connect_failed(error)
            if monotonic() < until:  # else it had less time than connect_timeout_s, which is not its fault
                self._backoff.failed(monotonic(), error)
            raise
        link = self._link = self._new_link(channel)
        self._health.connected()
        self._backoff.connected(monotonic())
        self.pacing.connected(monotonic())
        if self._closed:  # by another thread, meanwhile
            self.disconnect()
            raise ClientClosedError(f"the client of {self._endpoint} was closed while it connected")
        return link

    def _new_link(self, channel: Channel) -> Link:
        if self._room == 1:
            self._newest = new_session(self._endpoint, self._options, ClientSession, self._newest)
            return Link(self._endpoint, self._newest, channel)
        shared = self._newest = new_session(self._endpoint, self._options, SharedSession, self._newest)
        return SharedLink(self._endpoint, shared, channel)

    def _retire(self, link: Link, reason: str) -> None:
        """A connection is over: close it, and count what it saw, once."""
        if self._link is not link:
            return
        self._link = None
        link.close(reason or "lost")
        statistics = link.session.statistics()
        replaced = "" if link.lost or link.reason == CLOSED else link.reason
        self._health.session_ended(statistics, replaced, by_peer=link.lost, error=link.error)
        answered = statistics.completed > 0
        self._backoff.ended(monotonic(), answered=answered, by_peer=link.lost or link.reason == "not_modbus")

    def disconnect(self) -> None:
        """End the connection; the next request makes a new one. Idempotent, in any thread."""
        if self._pid != getpid():
            self._forked()
        link = self._link
        if link is not None:
            self._retire(link, CLOSED)
        self._opener.close()

    def close(self) -> None:
        """End everything: what waits in other threads fails with ``ConnectionLostError``. Idempotent."""
        self._closed = True
        self.disconnect()
