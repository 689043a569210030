"""Runs the scripts of exchanges on an event loop, over one connection that it makes when it is needed.

What takes no waiting is done where it is found out: an answer ends its call as it arrives, and the room
that becomes free sends the next request in the same turn. A call's own task wakes up for what takes
waiting (connecting, pauses), and for the end.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from math import inf
from os import getpid
from time import monotonic
from typing import Any

from everbus.aio.calls import ASKED, OVER, QUEUED, YOURS, Call, Deadlines
from everbus.aio.connector import Connector
from everbus.aio.link import Link
from everbus.client.endpoint import Endpoint
from everbus.client.exchange import NOBODY, Ask, Exchange, Pause, Room, Script, exact, new_session, prepared, room
from everbus.client.health import Health
from everbus.client.options import ClientOptions
from everbus.client.pacing import Pacing
from everbus.errors import (
    ClientClosedError,
    ConnectionLostError,
    ModbusError,
    ModbusTimeoutError,
    ServerStateError,
)
from everbus.protocol.client_session import BROADCAST_UNIT, ClientSession, Completion
from everbus.protocol.pdu.table import AnyRequest
from everbus.protocol.values import check_unit

__all__ = ["Driver"]


class Driver:
    """Carries out the calls of one client: hands out room on its connection, and steps their scripts.

    Args:
        endpoint: the peer.
        options: the client's.
        health: is told of connections.
        exchange: makes the scripts.
    """

    def __init__(self, endpoint: Endpoint, options: ClientOptions, health: Health, exchange: Exchange) -> None:
        self._endpoint = endpoint
        self._options = options
        self._health = health
        self._exchange = exchange
        self._connector = Connector(endpoint, options, health, self._new_link)
        self.pacing: Pacing = self._connector.pacing
        self._exact = exact(endpoint, options)
        self._room = room(endpoint, options)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid: int = 0
        self._deadlines: Deadlines
        self._newest: ClientSession | None = None
        self._used = 0
        self._waiting: deque[Call] = deque()
        self._granting = False

    @property
    def persistent(self) -> bool:
        """Connect again by itself, not only when somebody asks; from ``connect`` on."""
        return self._connector.persistent

    @persistent.setter
    def persistent(self, persistent: bool) -> None:
        self._connector.persistent = persistent

    @property
    def connected(self) -> bool:
        """A connection is up, as far as anybody can know."""
        return self._connector.connected

    def check(self) -> bool:
        """Whether the connection is up; the loop notices an end by itself."""
        return self._connector.connected

    @property
    def session(self) -> ClientSession | None:
        """Of the connection that is up."""
        link = self._connector.link
        return link.session if link is not None else None

    def _new_link(self, lost: Callable[[Link], None]) -> Link:
        self._newest = new_session(self._endpoint, self._options, ClientSession, self._newest)
        return Link(self._endpoint, self._newest, self._answered, lost)

    # One call

    async def run(self, script: Script) -> Any:
        """Carry a script out; return what it returns, raise what it raises."""
        return await self.call(BROADCAST_UNIT, None, script)

    async def call(self, unit: int, request: AnyRequest | None, script: Script | None = None) -> Any:
        """Make a request, or carry a script out; return the response, or raise what the script raises.

        Cancelling it is safe at any point: what was queued is never sent, a late answer goes to nobody.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop or getpid() != self._pid:
            self._enter()
        call = self._begun(unit, request) if request is not None else self._begun_script(script)
        try:
            while call.state != OVER:
                if call.state == YOURS:
                    await self._do(call)
                else:
                    call.future = loop.create_future()
                    await call.future
        finally:
            if call.state != OVER:
                self._cancel(call)
        if call.error is None:
            return call.value
        try:
            raise call.error
        finally:
            call.error = None  # or it and its traceback keep each other

    def _begun(self, unit: int, request: AnyRequest) -> Call:
        """Send a request, or let it wait for its turn; nothing has to be decided yet."""
        pdu, careful = prepared(request)
        started = monotonic()
        until = started + (self._exchange.write_s if careful else self._exchange.read_s)
        call = Call(check_unit(unit), request, pdu, started, until)
        link = self._at_once()
        if link is not None:
            self._used += 1
            self._send(call, link)
        elif self._used >= self._room and not (self._connector.closed or self.pacing.in_use):
            self._queue(call)
        else:
            self._decide(call)
        return call

    def _begun_script(self, script: Script | None) -> Call:
        call = Call(BROADCAST_UNIT, None, b"", 0.0, 0.0)
        call.script = script
        self._step(call)
        return call

    def _send(self, call: Call, link: Link) -> None:
        """Send a request that has room; nothing had to be decided yet."""
        call.placed, call.link = True, link
        try:
            call.transaction, data = link.session.submit(call.unit, call.request, call.pdu)
            link.ask(call, call.transaction, data)
        except ConnectionLostError as lost:
            self._answered(call, None, lost)
        except ModbusError as error:
            self._over(call, None, error)
        else:
            if call.until < self._deadlines.at:
                self._deadlines.ring(call.until)

    def _answered(self, call: Call, completion: Completion | None, error: BaseException | None) -> None:
        """What came of a request: its answer, an error, or neither in time."""
        if call.script is None:
            if completion is not None and completion.error is None:
                self._health.succeeded(call.unit)
                self._over(call, completion.response, None)
                return
            self._decide(call)
        self._step(call, completion, error)

    def _decide(self, call: Call) -> None:
        """Something has to be decided: let the script do so, from where the call is."""
        session = call.link.session if call.link is not None else None
        transaction = call.transaction if session is not None else 0
        call.script = self._exchange.script(call.unit, call.request, call.started, session, transaction)
        call.step = next(call.script)

    def _step(self, call: Call, outcome: object = None, error: BaseException | None = None) -> None:
        """Tell a script what came of its last step, and carry out what takes no waiting."""
        assert call.script is not None
        while True:
            try:
                step = call.script.send(outcome) if error is None else call.script.throw(error)
            except StopIteration as end:
                self._over(call, end.value, None)
                return
            except Exception as failure:  # noqa: BLE001  the caller's
                self._over(call, None, failure)
                return
            outcome = error = None
            link = call.link
            if isinstance(step, Ask) and link is not None:
                try:
                    link.ask(call, step.transaction, step.data)
                except ConnectionLostError as lost:
                    error = lost
                    continue
                if step.transaction != NOBODY:
                    call.until = step.until
                    self._deadlines.ring(step.until)
                    return
                continue
            if call.placed:
                self._give_back(call)
            call.step, call.state = step, YOURS
            call.wake()
            return

    def _over(self, call: Call, value: Any, error: BaseException | None) -> None:
        call.state = OVER
        call.value, call.error = value, error
        if call.future is not None:
            call.wake()
        if call.placed:
            self._give_back(call)

    async def _do(self, call: Call) -> None:
        """Do in its own task what takes waiting."""
        step = call.step
        outcome = None
        try:
            if isinstance(step, Room):
                link = await self._take(call, step.unit, step.until)
                outcome = link.session
            elif isinstance(step, Pause):
                await asyncio.sleep(step.until - monotonic())
        except Exception as error:  # noqa: BLE001  the script decides
            self._step(call, None, error)
        else:
            self._step(call, outcome)

    def _cancel(self, call: Call) -> None:
        """Its task does not wait for it any more."""
        self._health.cancelled += 1
        if call.state == ASKED and call.link is not None:
            call.link.forget(call)
        if call.script is None:
            self._decide(call)
        if call.script is not None:
            call.script.close()
        self._over(call, None, None)

    # Room on the connection

    def _at_once(self) -> Link | None:
        """A connection with room for a request, if that takes no waiting."""
        link = self._connector.link
        if link is None or self._used >= self._room or self._waiting or self.pacing.in_use or self._connector.closed:
            return None
        if not self._exact:
            link.check()
        return link if link.usable else None

    def _queue(self, call: Call) -> None:
        """Let it wait for room."""
        call.state = QUEUED
        self._waiting.append(call)
        if call.until < self._deadlines.at:
            self._deadlines.ring(call.until)

    def _give_back(self, call: Call) -> None:
        """It needs its room no more: it is the next one's, on a new connection if this one is spoiled."""
        link, call.link, call.placed = call.link, None, False
        self._used -= 1
        if link is not None:
            if self.pacing.in_use:
                self.pacing.ended(call.unit, monotonic())
            if link.session.broken:
                link.close(link.session.broken)
        if self._waiting and not self._granting:
            self._grant()

    def _grant(self) -> None:
        """Give room to those who wait for it, first come, first served; what becomes free meanwhile too."""
        self._granting = True
        try:
            while self._waiting and self._used < self._room:
                call = self._waiting.popleft()
                if call.state != QUEUED:
                    continue
                self._used += 1
                call.placed = True
                link = self._connector.link
                if call.script is None and link is not None and link.usable and not self.pacing.in_use:
                    self._send(call, link)
                else:
                    self._yours(call)
        finally:
            self._granting = False

    def _yours(self, call: Call) -> None:
        """Its task goes on with what it waits for: room."""
        if call.script is None:
            self._decide(call)
        call.state = YOURS
        call.wake()

    def _expire(self, now: float) -> float:
        """End what has waited too long; tell when the next is."""
        link = self._connector.link
        for call in link.asked if link is not None else ():
            if call.until <= now and call.state == ASKED and link is not None:
                link.forget(call)
                self._answered(call, None, None)
        for call in [call for call in self._waiting if call.state == QUEUED and call.until <= now]:
            self._refuse(
                call,
                ModbusTimeoutError(
                    f"{self._endpoint}: {len(self._waiting)} requests wait for {self._room} to be answered, and this "
                    "one's time is over; is the device slower than that, is max_in_flight too small?"
                ),
            )
        waiting = link.asked if link is not None else []
        return min((call.until for call in (*waiting, *self._waiting) if call.state in (ASKED, QUEUED)), default=inf)

    def _refuse(self, call: Call, error: ModbusError) -> None:
        """It waits for room, and gets none."""
        call.refusal = error
        self._yours(call)

    async def _take(self, call: Call, unit: int, until: float) -> Link:
        """Get it a connection with room for a request, up and rested: first come, first served."""
        while True:
            if call.refusal is not None:
                refusal, call.refusal = call.refusal, None
                raise refusal
            if self._connector.closed:
                raise ServerStateError("this client is closed; connect() opens it again")
            if self.pacing.in_use and not call.placed:
                await self._rest(f"unit {unit} of {self._endpoint}", self.pacing.unit_ready_at(unit), until)
            if not call.placed:
                if self._used < self._room and not self._waiting:
                    self._used += 1
                    call.placed = True
                else:
                    call.until = until
                    self._queue(call)
                    call.future = asyncio.get_running_loop().create_future()
                    await call.future
                    continue
            if not self.pacing.in_use or self.pacing.unit_ready_at(unit) <= monotonic():
                break
            self._give_back(call)  # somebody asked this unit meanwhile
        call.link = link = await self._rested(unit, until)
        return link

    async def _rested(self, unit: int, until: float) -> Link:
        """The connection, made if need be, once its pauses are over."""
        if self.pacing.in_use:
            self.pacing.begun(unit, monotonic())
        link = await self._connector.ready(until)
        if self.pacing.in_use:
            await self._rest(str(self._endpoint), self.pacing.link_ready_at(), until)
        if not self._exact:
            link.check()
        return link if link.usable else await self._connector.ready(until)

    async def _rest(self, what: str, ready_at: float, until: float) -> None:
        """Wait until then, unless that is too late."""
        left_s = ready_at - monotonic()
        if left_s > 0:
            if ready_at >= until:
                raise ModbusTimeoutError(f"{what} is spaced: it may be asked {left_s:.3g} s from now")
            await asyncio.sleep(left_s)

    # The connection

    def _enter(self) -> None:
        """This is used in a running loop; what another one, or the parent of this process, has left is forgotten.

        Raises:
            ServerStateError: its connection is in another loop that may still run.
        """
        loop, pid = asyncio.get_running_loop(), getpid()
        if loop is not self._loop or pid != self._pid:
            self._connector.move(self._loop is not None and not self._loop.is_closed() and pid == self._pid)
            self._loop, self._pid = loop, pid
            self._deadlines = Deadlines(loop, self._expire)
            self._used = 0
            self._waiting.clear()

    async def connect(self) -> None:
        """Connect now. Idempotent; several at a time make one connection. Opens a closed client again.

        Raises:
            ConnectError: no connection within the time.
        """
        self._connector.closed = False
        self._enter()
        await self._connector.connect()

    async def wait_connected(self, timeout_s: float | None = None) -> None:
        """Wait until a connection is up.

        Raises:
            ModbusTimeoutError: not within the time.
        """
        self._enter()
        await self._connector.wait_connected(timeout_s)

    def listen(self, callback: Callable[[bool], object]) -> Callable[[], None]:
        """Call back with True when a connection is up, with False when it has ended; return a way to stop that."""
        return self._connector.listen(callback)

    async def disconnect(self) -> None:
        """End the connection; the next request makes a new one. Idempotent."""
        self._enter()
        await self._connector.disconnect()

    async def close(self) -> None:
        """End everything: what waits fails with ``ConnectionLostError``. Idempotent, in every state."""
        self._connector.closed = True
        self._enter()
        while self._waiting:
            call = self._waiting.popleft()
            if call.state == QUEUED:
                self._refuse(call, ClientClosedError(f"the client of {self._endpoint} was closed"))
        await self._connector.close()
        self._deadlines.close()
