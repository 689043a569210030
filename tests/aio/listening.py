"""A listener, what it hands over, and clients of it."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from everbus.aio.listener import Listener
from everbus.client.endpoint import Endpoint
from everbus.limits import Limits
from everbus.observe import EventKind
from everbus.testing import RecordingObserver
from tests.aio.wire import until

ANY_PORT = Endpoint("tcp", host="127.0.0.1", port=0)


class Door:
    """A listener, and what it hands over."""

    def __init__(
        self,
        endpoint: Endpoint = ANY_PORT,
        kind: type[Listener] = Listener,
        limits: Limits | None = None,
        make_room: Callable[[], bool] = lambda: False,
    ) -> None:
        self.observer = RecordingObserver()
        self.delivered: list[socket.socket] = []
        self.addresses: list[Any] = []
        self.on_deliver: Callable[[], object] = lambda: None
        self.in_use: set[int] = set()
        told = self.in_use.__contains__
        self.listener = kind(endpoint, limits or Limits(), self.observer, self._deliver, make_room, in_use=told)

    def _deliver(self, sock: socket.socket, address: Any, by: Listener) -> None:
        assert by is self.listener
        assert sock.gettimeout() == 0.0
        self.delivered.append(sock)
        self.addresses.append(address)
        self.on_deliver()

    @property
    def port(self) -> int:
        return self.listener.endpoint.port

    @property
    def number(self) -> int:
        """The listening descriptor."""
        assert self.listener._socket is not None
        return self.listener._socket.fileno()

    def reasons(self, kind: EventKind) -> list[str]:
        return self.observer.reasons(kind)

    def close(self) -> None:
        self.listener.close()
        for sock in self.delivered:
            sock.close()


def listens(door: Door) -> bool:
    return door.listener.listening


@contextmanager
def opened(door: Door) -> Iterator[Door]:
    door.listener.open()
    try:
        yield door
    finally:
        door.close()


@contextmanager
def client(door: Door) -> Iterator[socket.socket]:
    """A client whose connect needs nobody to accept: the kernel does it."""
    endpoint = door.listener.endpoint
    family = {"unix": socket.AF_UNIX}.get(endpoint.scheme, socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET)
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(2.0)
        sock.connect(endpoint.path if endpoint.scheme == "unix" else (endpoint.host, endpoint.port))
        sock.setblocking(False)
        yield sock


async def ended(sock: socket.socket) -> bool:
    """Whether the other end closes a connection soon."""
    try:
        async with asyncio.timeout(2.0):
            return await asyncio.get_running_loop().sock_recv(sock, 1) == b""
    except ConnectionError:
        return True


async def serves(door: Door) -> None:
    """Demand that the next client is handed over."""
    before = len(door.delivered)
    with client(door):
        await until(lambda: len(door.delivered) > before)


def unix(path: Path) -> Door:
    return Door(Endpoint("unix", path=str(path)))


class FlakySocket(socket.socket):
    """A listening socket whose accept fails as a script says."""

    script: Iterator[int]
    accepts = 0

    def accept(self) -> tuple[socket.socket, Any]:
        self.accepts += 1
        number = next(self.script, 0)
        if number:
            raise OSError(number, os.strerror(number))
        return super().accept()
