"""Serial ports for the links of clients.

The port stays open from one link to the next: to close it would drop DTR, and reset some devices. So
where a link on a network is replaced, a serial line is left alone until it is quiet: what is still
under way then belongs to nobody.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING

from everbus.client.endpoint import Endpoint, SerialSettings
from everbus.client.pacing import Silence
from everbus.errors import ConnectionLostError
from everbus.ports import Port, open_port

if TYPE_CHECKING:
    from collections.abc import Iterable

    from everbus.aio.link import Link

__all__ = ["PortOpener", "PortTransport"]


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
        self._closing: asyncio.Future[None] | None = None

    async def open(self, link: Link, within_s: float) -> None:
        """Connect a link to the port: opened if it is not, else as soon as the line is quiet.

        Raises:
            ConnectError: it cannot be opened.
            ModbusTimeoutError: it is not quiet within the time.
        """
        until = monotonic() + within_s
        loop = asyncio.get_running_loop()
        port = self._port
        if port is None:
            await self._closed()
            port = self._port = await _opened(self._endpoint.path, self._settings)
        else:
            await self._quiet(port, until)
        link.connection_made(PortTransport(loop, port, link, self))

    async def _quiet(self, port: Port, until: float) -> None:
        """Throw away what arrives until nothing does for a while; the rest of it is the next caller's, if need be."""
        while True:
            try:
                if port.read():
                    self._silence.broken(monotonic())
            except ConnectionLostError:
                return  # the link will be told of it
            left_s = self._silence.left_s(monotonic(), until)
            if not left_s:
                return
            await asyncio.sleep(left_s)

    def rest(self) -> None:
        """A link is over: from now on the line has to be quiet for a while."""
        self._silence.broken(monotonic())

    def lost(self, port: Port) -> None:
        """The device is gone."""
        if port is self._port:
            self._let_go(port)

    def _let_go(self, port: Port) -> None:
        """Close it in a thread: a driver that still sends holds that up."""
        self._port = None
        self._closing = asyncio.get_running_loop().run_in_executor(None, port.close)

    async def _closed(self) -> None:
        """Wait until the port before is closed: there is one descriptor at most."""
        if self._closing is not None:
            await asyncio.shield(self._closing)

    async def close(self) -> None:
        """Let the port go. Idempotent."""
        if self._port is not None:
            self._let_go(self._port)
        await self._closed()

    def leave(self) -> None:
        """Let go of this copy of the descriptor: the lock and the device stay the parent's."""
        port, self._port = self._port, None
        self._closing = None
        if port is not None:
            with suppress(OSError):
                os.close(port.fileno())


async def _opened(path: str, settings: SerialSettings) -> Port:
    """Open a port in a thread, as drivers take their time; whoever is cancelled leaves nothing open."""
    opening = asyncio.get_running_loop().run_in_executor(None, open_port, path, settings)
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_close_late)
        raise


def _close_late(opening: asyncio.Future[Port]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


class PortTransport(asyncio.Transport):
    """A link's use of a port, from when it is made until it is aborted; see ``LinkTransport``.

    Args:
        loop: the running loop.
        port: open, and nobody else's.
        link: gets what arrives.
        opener: owns the port.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, port: Port, link: Link, opener: PortOpener) -> None:
        super().__init__()
        self._loop = loop
        self._port = port
        self._link = link
        self._opener = opener
        self._closing = False
        self._draining: asyncio.Future[None] | None = None
        loop.add_reader(port.fileno(), self._receive)

    def _receive(self) -> None:
        try:
            data = self._port.read()
        except ConnectionLostError as error:
            self._lost(error)
            return
        while data and not self._closing:
            buffer = self._link.get_buffer(-1)
            size = min(len(data), len(buffer))
            buffer[:size] = data[:size]
            data = data[size:]
            self._link.buffer_updated(size)

    def read_now(self) -> None:
        """Give the link what has arrived, without waiting for the loop's next turn."""
        if not self._closing:
            self._receive()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send one frame. What the driver does not take at once is lost: with a pause inside it would be no frame."""
        if self._closing:
            return
        try:
            self._port.write(bytes(data))
        except ConnectionLostError as error:
            self._lost(error)
            return
        if self._port.must_drain:
            self._draining = self._loop.run_in_executor(None, self._drain)

    def _drain(self) -> None:
        with suppress(ConnectionLostError):  # reading tells
            self._port.drain()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """Send frames; on a line there is one at a time."""
        for data in list_of_data:
            self.write(data)

    def get_write_buffer_size(self) -> int:
        """Nothing is kept."""
        return 0

    def is_closing(self) -> bool:
        """The link does not use the port any more."""
        return self._closing

    def abort(self) -> None:
        """Stop using the port; it stays open. Idempotent."""
        self._end(None)

    def leave(self) -> None:
        """Stop using the port without a word to its loop."""
        self._closing = True

    def _lost(self, error: ConnectionLostError) -> None:
        self._end(error)
        self._opener.lost(self._port)

    def _end(self, error: Exception | None) -> None:
        if not self._closing:
            self._closing = True
            self._opener.rest()
            if self._port.is_ours:
                self._loop.remove_reader(self._port.fileno())
            self._loop.call_soon(self._link.connection_lost, error)
