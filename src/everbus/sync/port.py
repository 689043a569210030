"""Serial ports for the links of blocking clients.

The port stays open from one link to the next: to close it would drop DTR, and reset some devices. So
where a link on a network is replaced, a serial line is left alone until it is quiet: what is still
under way then belongs to nobody.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from threading import Lock
from time import monotonic, sleep

from everbus.client.endpoint import Endpoint, SerialSettings
from everbus.client.pacing import Silence
from everbus.errors import ConnectionLostError
from everbus.ports import Port, open_port

__all__ = ["PortChannel", "PortOpener"]


class PortOpener:
    """Owns the serial port of one client.

    Args:
        endpoint: names it.
        settings: how it is set.
    """

    def __init__(self, endpoint: Endpoint, settings: SerialSettings) -> None:
        self._endpoint = endpoint
        self._settings = settings
        self._port: Port | None = None
        self._silence = Silence(str(endpoint))
        self._lock = Lock()
        """Held by whoever uses or closes the port: the number of a closed one may be another file's."""

    def open(self, until: float) -> PortChannel:
        """A channel to the port: opened if it is not, else as soon as the line is quiet.

        Raises:
            ConnectError: it cannot be opened.
            ModbusTimeoutError: it is not quiet until then.
        """
        port = self._port
        if port is not None:
            with suppress(ConnectionLostError):
                self._wait_for_silence(port, until)
                return PortChannel(self, port)
        port = self._port = open_port(self._endpoint.path, self._settings)
        return PortChannel(self, port)

    def _wait_for_silence(self, port: Port, until: float) -> None:
        """Throw away what arrives until nothing does; a caller without the time leaves the rest to the next one."""
        while True:
            if self.read(port):
                self._silence.broken(monotonic())
            left_s = self._silence.left_s(monotonic(), until)
            if not left_s:
                return
            sleep(left_s)

    def read(self, port: Port) -> bytes:
        """What has arrived.

        Raises:
            ConnectionLostError: the device is gone, or somebody closed the port.
        """
        with self._lock:
            self._check(port)
            try:
                return port.read()
            except ConnectionLostError:
                self._let_go()
                raise

    def write(self, port: Port, frame: bytes) -> None:
        """Send a frame. What the driver does not take at once is lost: with a pause inside it would be no frame.

        Raises:
            ConnectionLostError: the device is gone, or somebody closed the port.
        """
        with self._lock:
            self._check(port)
            try:
                port.write(frame)
                if port.must_drain:
                    port.drain()
            except ConnectionLostError:
                self._let_go()
                raise

    def _check(self, port: Port) -> None:
        if port is not self._port:
            raise ConnectionLostError(f"the serial port {port.path} was closed")

    def _let_go(self) -> None:
        port, self._port = self._port, None
        if port is not None:
            port.close()

    def rest(self) -> None:
        """A link is over: from now on the line has to be quiet for a while."""
        self._silence.broken(monotonic())

    def close(self) -> None:
        """Let the port go. Idempotent, in any thread."""
        with self._lock:
            self._let_go()

    def leave(self) -> None:
        """Let go of this process's copy of the descriptor: the lock and the device stay the parent's."""
        self._lock = Lock()
        port, self._port = self._port, None
        if port is not None:
            with suppress(OSError):
                os.close(port.fileno())


class PortChannel:
    """A link's use of a port, which stays open behind it; see ``Channel``.

    Args:
        opener: owns the port.
        port: open.
    """

    def __init__(self, opener: PortOpener, port: Port) -> None:
        self._opener = opener
        self._port = port

    def fileno(self) -> int:
        """Of the port."""
        return self._port.fileno()

    def send(self, data: bytes, /) -> int:
        """Send a whole frame."""
        self._opener.write(self._port, data)
        return len(data)

    def recv(self, _size: int, /) -> bytes:
        """What has arrived, 1..4096 bytes."""
        data = self._opener.read(self._port)
        if not data:
            raise BlockingIOError(errno.EAGAIN, "nothing but our own echo")
        return data

    def shutdown(self, _how: int, /) -> None:
        """The port stays open."""

    def close(self) -> None:
        """The port stays open."""
        self._opener.rest()
