"""Raw clients, others that ask meanwhile, and servers beside the test: what the faults are made of.

Nothing here uses everbus's own protocol code: the bytes are written by hand.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Self

from everbus.aio.server import Server
from everbus.aio.statistics import ServerStatistics
from everbus.limits import Limits
from everbus.service.bank import Bank
from everbus.service.local import LocalDevice
from everbus.service.units import UnitSource
from everbus.testing import RecordingObserver

_LOG = logging.getLogger("everbus.tests.lifecycle")

HEADER = struct.Struct(">HHHB")
OTHERS_S = 0.05
"""Clients beside a fault are answered within this time."""

_ANSWER_BYTES = 11
_WAIT_S = 10.0
"""No single step of a raw client takes longer."""


def request(transaction: int = 1, pdu: bytes = b"\x03\x00\x00\x00\x01", unit: int = 1) -> bytes:
    """A request: by default, read holding register 0."""
    return HEADER.pack(transaction, 0, len(pdu) + 1, unit) + pdu


def read_request(transaction: int, quantity: int) -> bytes:
    """Read holding registers from 0 on; the answer has 9 + 2 * quantity bytes."""
    return request(transaction, struct.pack(">BHH", 3, 0, quantity))


def measured(row: str, **figures: object) -> None:
    """Note what a test saw: shown by ``pytest --log-cli-level=INFO``."""
    _LOG.info("%s: %s", row, ", ".join(f"{name} {value}" for name, value in figures.items()))


class Peer:
    """A client without manners: it sends what it is told, and no more."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.asked = 0

    @classmethod
    async def connect(
        cls, port: int, source: str = "127.0.0.1", host: str = "127.0.0.1", receive_bytes: int | None = None
    ) -> Self:
        """Connect from an address of 127.0.0.0/8.

        Args:
            port, host: whom.
            source: the address that the server sees.
            receive_bytes: the size of the receive buffer, for those that never read.
        """
        sock = socket.socket()
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if receive_bytes is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            sock.bind((source, 0))
            async with asyncio.timeout(_WAIT_S):
                await asyncio.get_running_loop().sock_connect(sock, (host, port))
        except BaseException:
            sock.close()
            raise
        await asyncio.sleep(0)  # a connection over the loopback waits for nothing: let others have a turn
        return cls(sock)

    async def send(self, data: bytes) -> None:
        async with asyncio.timeout(_WAIT_S):
            await asyncio.get_running_loop().sock_sendall(self.socket, data)

    async def receive(self, count: int) -> bytes:
        """Exactly so many bytes; ConnectionError if the server closes before."""
        data = bytearray()
        async with asyncio.timeout(_WAIT_S):
            while len(data) < count:
                chunk = await asyncio.get_running_loop().sock_recv(self.socket, count - len(data))
                if not chunk:
                    raise ConnectionError(f"closed after {bytes(data).hex(' ') or 'nothing'}")
                data += chunk
        return bytes(data)

    async def answer(self) -> tuple[int, bytes]:
        """The next answer: its transaction and its PDU."""
        transaction, protocol, length, _unit = HEADER.unpack(await self.receive(HEADER.size))
        assert protocol == 0
        return transaction, await self.receive(length - 1)

    async def ask(self) -> int:
        """Read holding register 0."""
        self.asked = self.asked % 0xFFFF + 1
        await self.send(request(self.asked))
        transaction, pdu = await self.answer()
        assert transaction == self.asked, f"transaction {transaction} answers {self.asked}"
        assert pdu[:2] == b"\x03\x02", f"answer {pdu.hex(' ')}"
        return int.from_bytes(pdu[2:], "big")

    async def until_closed(self, within_s: float = _WAIT_S) -> bytes:
        """What comes until the server closes, by FIN or RST; TimeoutError if it does not."""
        data = bytearray()
        async with asyncio.timeout(within_s):
            with suppress(ConnectionError):
                while chunk := await asyncio.get_running_loop().sock_recv(self.socket, 65536):
                    data += chunk
        return bytes(data)

    async def seconds_until_closed(self, within_s: float = _WAIT_S) -> float:
        """How long the server takes from now on to close."""
        begun = time.monotonic()
        await self.until_closed(within_s)
        return time.monotonic() - begun

    @property
    def open(self) -> bool:
        """The server has not closed, as far as is known now; what it sent stays unread."""
        try:
            return bool(self.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except BlockingIOError:
            return True
        except OSError:
            return False

    def finish(self) -> None:
        """Send FIN: no more requests."""
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Close by RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def closing(peers: list[Peer]) -> Iterator[list[Peer]]:
    """Close them all at the end; more may be added meanwhile."""
    try:
        yield peers
    finally:
        for peer in peers:
            peer.close()


async def connect_all(port: int, count: int, source: str | Callable[[int], str] = "127.0.0.1") -> list[Peer]:
    """So many clients, one after the other."""
    sources = [source if isinstance(source, str) else source(number) for number in range(count)]
    return [await Peer.connect(port, each) for each in sources]


async def answered(port: int, host: str = "127.0.0.1", source: str = "127.0.0.1") -> None:
    """The control request that ends every test: a new client is served, without a restart.

    Three requests, the best of which shows what the server takes.
    """
    times = []
    begun = time.monotonic()
    with await Peer.connect(port, source, host) as peer:
        for _ in range(3):
            await peer.ask()
            times.append(time.monotonic() - begun)
            begun = time.monotonic()
    assert min(times) <= OTHERS_S, f"the control requests took {times} s"


async def until(condition: Callable[[], bool], within_s: float = 5.0, what: str = "") -> float:
    """Wait until something is so; how long that took. AssertionError if it does not come."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < within_s, f"not within {within_s} s: {what or condition}"
        await asyncio.sleep(0.005)
    return time.monotonic() - begun


class Noise:
    """How late this machine wakes up a thread that sleeps: no bound can be kept better than that."""

    def __init__(self) -> None:
        self.worst_s = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        begun = time.monotonic()
        while not self._over.wait(0.005):
            self.worst_s = max(self.worst_s, time.monotonic() - begun - 0.005)
            begun = time.monotonic()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


@dataclass
class Others:
    """Clients beside a fault: how they fared."""

    latencies: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def worst_s(self) -> float:
        return max(self.latencies, default=0.0)

    def share_s(self, share: float) -> float:
        """The latency that this share of the requests kept, 0.99 for p99."""
        return sorted(self.latencies)[min(len(self.latencies) - 1, int(share * len(self.latencies)))]

    async def ask(self, peer: Peer, every_s: float) -> None:
        """Ask again and again, until cancelled."""
        try:
            while True:
                begun = time.monotonic()
                await peer.ask()
                self.latencies.append(time.monotonic() - begun)
                await asyncio.sleep(every_s)
        except (OSError, AssertionError) as error:
            self.failures.append(repr(error))


@asynccontextmanager
async def asking(
    port: int, count: int = 1, every_s: float = 0.02, source: str = "127.0.0.1", host: str = "127.0.0.1"
) -> AsyncIterator[Others]:
    """Clients that ask all the time, in this loop; the caller looks at how they fared."""
    others = Others()
    with closing([]) as peers:
        for _ in range(count):
            peers.append(await Peer.connect(port, source, host))
        tasks = [asyncio.create_task(others.ask(peer, every_s)) for peer in peers]
        try:
            yield others
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


class Bystander(threading.Thread):
    """A client that asks all the time, from a thread of its own: a busy test does not delay it."""

    def __init__(self, others: Others, port: int, source: str, every_s: float) -> None:
        super().__init__(daemon=True)
        self.over = threading.Event()
        self._others = others
        self._port = port
        self._source = source
        self._every_s = every_s

    def run(self) -> None:
        address = ("127.0.0.1", self._port)
        try:
            with socket.create_connection(address, _WAIT_S, source_address=(self._source, 0)) as sock:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                while not self.over.wait(self._every_s):
                    self._ask(sock)
        except (OSError, AssertionError) as error:
            self._others.failures.append(repr(error))

    def _ask(self, sock: socket.socket) -> None:
        transaction = len(self._others.latencies) % 0x10000
        begun = time.monotonic()
        sock.sendall(request(transaction))
        data = b""
        while len(data) < _ANSWER_BYTES:
            chunk = sock.recv(_ANSWER_BYTES - len(data))
            assert chunk, "the server closed"
            data += chunk
        self._others.latencies.append(time.monotonic() - begun)
        assert data[:2] == transaction.to_bytes(2, "big"), f"{data.hex(' ')} answers {transaction}"


@asynccontextmanager
async def others_served(
    port: int, every_s: float = 0.02, source: str = "127.0.0.1", bound_s: float = OTHERS_S
) -> AsyncIterator[Others]:
    """Around a fault: a client beside it is answered throughout, each time within the bound.

    The control is the lateness of a sleeping thread in the same time, which is nobody's fault here.
    Where the fault takes work to provoke, the server belongs in a process of its own.
    """
    others = Others()
    bystander = Bystander(others, port, source, every_s)
    with Noise() as noise:
        bystander.start()
        try:
            await until(lambda: len(others.latencies) >= 5 or bool(others.failures), what="the first answers")
            yield others
            before = len(others.latencies)
            await until(lambda: len(others.latencies) > before or bool(others.failures), what="the last answer")
        finally:
            bystander.over.set()
            await until(lambda: not bystander.is_alive(), 2 * _WAIT_S)
    assert not others.failures, f"a client beside the fault: {others.failures}"
    assert others.worst_s <= bound_s + 2 * noise.worst_s, (
        f"a client beside the fault waited {others.worst_s:.3f} s (p99 {others.share_s(0.99):.3f} s), "
        f"a sleeping thread {noise.worst_s:.3f} s"
    )


@dataclass(frozen=True)
class Served:
    """A server in the test's own loop."""

    server: Server
    observer: RecordingObserver
    port: int

    @property
    def statistics(self) -> ServerStatistics:
        return self.server.statistics()


@asynccontextmanager
async def serving(handler: UnitSource | None = None, **limits: Any) -> AsyncIterator[Served]:
    """A server with short limits; at the end nobody is left in it."""
    observer = RecordingObserver()
    units = handler if handler is not None else LocalDevice(Bank())
    server = Server(units, "tcp://127.0.0.1:0", limits=Limits(**limits), observer=observer)
    async with server:
        yield Served(server, observer, int(server.endpoints[0].rpartition(":")[2]))
    statistics = server.statistics()
    assert statistics.connections == 0
    assert statistics.opened == statistics.closed == sum(statistics.closed_by_reason.values())
    assert statistics.listeners == 0
    assert statistics.unsent_bytes == 0
