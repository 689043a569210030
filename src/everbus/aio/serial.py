"""A server's serial port: one owner, which opens it again whenever the device comes back."""

from __future__ import annotations

import asyncio
import errno
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from random import random
from time import monotonic
from typing import Any, Final

from everbus.aio.serial_line import Pauses, SerialLine
from everbus.aio.statistics import PortState, SerialStatistics
from everbus.client.endpoint import Endpoint
from everbus.client.retry import Backoff
from everbus.errors import ConfigurationError, ConnectError, ConnectionLostError, ServerStateError
from everbus.limits import Limits
from everbus.observe import Event, EventKind, Observer, error_text
from everbus.ports import Port, open_port
from everbus.protocol.framing.ascii import AsciiFramer
from everbus.protocol.framing.rtu import RtuFramer
from everbus.protocol.framing.timing import BETWEEN_FRAMES, silent_interval_s
from everbus.protocol.pdu.table import PUBLIC, FunctionTable
from everbus.service.context import ConnectionInfo
from everbus.service.multidrop import Multidrop
from everbus.service.pipeline import Pipeline

__all__ = ["SerialListener", "SerialOptions"]

_LEAST_RTU_GAP_S: Final = 0.05
"""A pause that certainly ends a frame: adapters deliver in lumps, 16 ms apart and more."""

_LAST_S: Final = 1.0
_MOST_S: Final = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SerialOptions:
    """How a server behaves on its serial ports.

    Args:
        wait_for_port: a port that cannot be opened at start is tried again and again, as one that
            was lost; else the start fails.
        most_backoff_s: the longest pause between two tries.
        turnaround_s: silence before an answer; None: 3.5 characters for RTU, none for ASCII. Some
            masters need more until they listen.
        ascii_gap_s: how long an ASCII frame may pause; 1 s by the specification, 4 to 5 s behind
            slow links.

    Raises:
        ConfigurationError: a duration is not one.
    """

    wait_for_port: bool = False
    most_backoff_s: float = 2.0
    turnaround_s: float | None = None
    ascii_gap_s: float = 1.0

    def __post_init__(self) -> None:
        for name, least in (("most_backoff_s", 0.001), ("turnaround_s", 0.0), ("ascii_gap_s", 0.001)):
            value = getattr(self, name)
            if value is None and name == "turnaround_s":
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= _MOST_S:
                raise ConfigurationError(f"{name} is a number of {least:g} to {_MOST_S:g}, not {value!r}")


class SerialListener:
    """Owns one serial port, and opens it again when it was lost. It holds one descriptor at most.

    Args:
        endpoint: an ``rtu`` or ``ascii`` one: the port and how it is set.
        pipeline: makes answers of what handlers give.
        devices: who answer.
        limits: of handlers.
        observer: told of the port's loss and return, and of what the line is told of.
        table: the function codes whose lengths are known.
        options: how it behaves.
        connection_id: its number among the server's connections.

    Raises:
        ConfigurationError: the endpoint is no serial port.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        pipeline: Pipeline,
        devices: Multidrop,
        limits: Limits,
        observer: Observer,
        *,
        table: FunctionTable = PUBLIC,
        options: SerialOptions | None = None,
        connection_id: int = 0,
    ) -> None:
        if endpoint.serial is None:
            raise ConfigurationError(f"{endpoint} is no serial port")
        self.endpoint: Endpoint = endpoint
        self._settings = endpoint.serial
        self._options = options or SerialOptions()
        self._observer = observer
        self._loop = asyncio.get_running_loop()
        self._worker = ThreadPoolExecutor(1, "everbus-port")  # drivers may take their time
        self._line = SerialLine(
            ConnectionInfo(connection_id, endpoint.path, endpoint=str(endpoint), serial=True),
            RtuFramer("line", table) if endpoint.framing == "rtu" else AsciiFramer(),
            pipeline,
            devices,
            wire=self,
            limits=limits,
            pauses=self._pauses(),
            observer=observer,
        )
        self._backoff = Backoff(random, self._options.most_backoff_s)
        self._state: PortState = "new"
        self._port: Port | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._closing = False
        self._whole = True
        self._answers_before = 0
        self._problem = ""
        self._opened = self._lost = self._failed = self._echo_errors = 0

    def __repr__(self) -> str:
        return f"<SerialListener {self.endpoint} {self._state}>"

    def _pauses(self) -> Pauses:
        rtu = self.endpoint.framing == "rtu"
        between_frames_s = silent_interval_s(BETWEEN_FRAMES, self._settings.baudrate)
        turnaround_s = self._options.turnaround_s
        if turnaround_s is None:
            turnaround_s = between_frames_s if rtu else 0.0
        return Pauses(max(between_frames_s, _LEAST_RTU_GAP_S) if rtu else self._options.ascii_gap_s, turnaround_s)

    @property
    def listening(self) -> bool:
        """Its port is open."""
        return self._port is not None

    @property
    def reopened(self) -> int:
        """How often it was lost and opened again."""
        return max(0, self._opened - 1)

    @property
    def requests(self) -> int:
        """Requests to units here."""
        return self._line.requests

    @property
    def abandoned(self) -> set[asyncio.Future[object]]:
        """Cancelled handlers that have not ended yet."""
        return self._line.abandoned

    def fileno(self) -> int:
        """Its port's descriptor; -1: it has none now."""
        return self._port.fileno() if self._port is not None else -1

    def statistics(self) -> SerialStatistics:
        """A snapshot of what it has done."""
        line = self._line
        heard = line.statistics()
        return SerialStatistics(
            state=self._state,
            opened=self._opened,
            lost=self._lost,
            failed=self._failed,
            problem=self._problem,
            requests=line.requests,
            broadcasts=line.broadcasts,
            answers=line.answers,
            unanswered=dict(line.unanswered),
            foreign=line.foreign,
            checksum_errors=heard.checksum_errors,
            malformed=heard.malformed,
            discarded_bytes=heard.discarded_bytes,
            echo_errors=self._echo_errors + (self._port.echo_errors if self._port is not None else 0),
            overruns=line.overruns,
        )

    # The port

    async def open(self) -> None:
        """Open the port and serve it from now on, whatever becomes of it.

        Raises:
            ConnectError: it cannot be opened, and ``wait_for_port`` is not set.
            ConfigurationError: serialx is not installed.
            ServerStateError: it was opened before.
        """
        if self._state != "new":
            raise ServerStateError(f"{self!r} serves once")
        self._state = "opening"
        try:
            self._attach(await self._open())
        except ConnectError as error:
            if not self._options.wait_for_port:
                self._worker.shutdown(wait=False)
                raise
            self._note_failure(error)
        except BaseException:
            self._worker.shutdown(wait=False)
            raise
        self._supervisor = self._loop.create_task(self._supervise())
        try:
            await asyncio.sleep(0)  # it has begun: even if it is cancelled it closes the port
        except BaseException:
            await self.close()
            raise

    async def _open(self) -> Port:
        opening = self._loop.run_in_executor(self._worker, open_port, self.endpoint.path, self._settings)
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_late)
            raise

    async def _supervise(self) -> None:
        """Own the port while it is there, open it again when it is not, until ``close``."""
        try:
            while self._port is not None or not self._closing:
                if self._port is None:
                    await self._open_again()
                else:
                    await self._keep(self._port)
        finally:
            self._worker.shutdown(wait=False)

    async def _open_again(self) -> None:
        """One try to open the port, after the pause that the tries before it want."""
        pause_s = self._backoff.not_before - monotonic()
        if pause_s > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), pause_s)
            return
        try:
            self._attach(await self._open())
        except Exception as error:  # noqa: BLE001  whatever a driver does: an owner that ended would never come back
            self._note_failure(error)

    def _note_failure(self, error: Exception) -> None:
        self._state = "lost"
        self._failed += 1
        self._problem = error_text(error)
        self._backoff.failed(monotonic())
        cause = error.__cause__
        name = errno.errorcode.get(cause.errno or 0, "unknown") if isinstance(cause, OSError) else "unknown"
        self._notify(EventKind.PORT_FAILED, name, error)

    def _attach(self, port: Port) -> None:
        """Serve an open port from now on."""
        self._port = port
        self._state = "open"
        self._problem = ""
        self._answers_before = self._line.answers
        self._backoff.connected(monotonic())
        self._loop.add_reader(port.fileno(), self._on_readable)
        self._notify(EventKind.PORT_OPENED, "again" if self._opened else "start")
        self._opened += 1

    async def _keep(self, port: Port) -> None:
        """Close the port, once, when it is lost or ``close`` wants it back."""
        try:
            await self._news.wait()
        finally:
            self._unwatch(port)
            self._port = None
            self._echo_errors += port.echo_errors
            closing = self._loop.run_in_executor(self._worker, port.close)
        await closing
        if not self._closing:
            self._news.clear()
            self._backoff.ended(monotonic(), answered=self._line.answers > self._answers_before, by_peer=True)

    def _on_readable(self) -> None:
        port = self._port
        assert port is not None
        try:
            data = port.read()
        except ConnectionLostError as error:
            self._lose(port, error)
        else:
            if data:
                self._line.receive(data)

    def send(self, frame: bytes) -> bool:
        """Send a frame; whether the port took it. Called by the line."""
        port = self._port
        if port is None:
            return False
        try:
            whole = port.write(frame)
        except ConnectionLostError as error:
            self._lose(port, error)
            return False
        if port.must_drain:
            self._loop.run_in_executor(self._worker, port.drain).add_done_callback(partial(self._drained, port))
        return whole

    def _drained(self, port: Port, draining: asyncio.Future[None]) -> None:
        error = None if draining.cancelled() else draining.exception()
        if isinstance(error, ConnectionLostError):
            self._lose(port, error)

    def _lose(self, port: Port, error: ConnectionLostError) -> None:
        """The device is gone: its port is not used any more, and closed by its owner."""
        if port is not self._port or self._state != "open":
            return
        self._state = "lost"
        self._lost += 1
        self._problem = error_text(error)
        self._unwatch(port)
        self._notify(EventKind.PORT_LOST, "", error)
        self._line.interrupt()
        self._news.set()

    def _unwatch(self, port: Port) -> None:
        with suppress(RuntimeError):  # somebody else closed it, and a transport in this loop has its number by now
            self._loop.remove_reader(port.fileno())

    def new_overruns(self) -> int:
        """Characters that were lost since this was asked last. Called by the line."""
        return self._port.new_overruns() if self._port is not None else 0

    def _notify(self, kind: EventKind, reason: str, error: Exception | None = None) -> None:
        detail = error_text(error) if error is not None else ""
        self._observer.notify(Event(kind, self.endpoint.path, reason, detail, error=error))

    # Its owner's

    def sweep(self, now: float) -> None:
        """Give up handlers whose time is over; notice that somebody else closed the descriptor."""
        self._line.sweep(now)
        port = self._port
        if port is not None and not port.is_ours:
            self._lose(port, ConnectionLostError(f"somebody else closed the descriptor of {port.path}"))

    def exempt(self, future: asyncio.Future[Any]) -> None:
        """Give up the request whose handler this is: it is not waited for, and stays unanswered."""
        self._line.exempt(future)

    async def close(self, timeout_s: float = 0.0) -> bool:
        """Read no more, let what is under way end, close the port for good; whether nothing was cut off.

        Args:
            timeout_s: how long what is under way has; 0 also cuts short a close that is under way.
        """
        if self._port is not None:
            self._unwatch(self._port)
        if timeout_s <= 0:
            self._line.idle.set()
        elif self._line.busy:
            self._line.idle.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._line.idle.wait(), timeout_s)
        self._whole = self._whole and not self._line.busy
        self._closing = True
        self._line.close()
        self._news.set()
        if self._supervisor is not None:
            _, hanging = await asyncio.wait([self._supervisor], timeout=_LAST_S)
            for supervisor in hanging:  # in a driver: the thread closes the port when that lets it go
                supervisor.cancel()
        self._state = "closed"
        return self._whole


def _close_late(opening: asyncio.Future[Port]) -> None:
    """Nobody waits for this port any more."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
