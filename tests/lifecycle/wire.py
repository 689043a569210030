"""Raw clients of a running server.

A server under test shares its event loop with its clients: what a client sends has arrived when
``send`` returns, and is read in the next turn of the loop.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar, NamedTuple, Self

from everbus import Server
from everbus.client.endpoint import Endpoint, parse_endpoint
from everbus.protocol.framing.base import Frame
from everbus.protocol.framing.mbap import MbapFramer
from everbus.protocol.pdu.registers import ReadHoldingRegistersRequest
from everbus.protocol.pdu.table import AnyRequest

__all__ = [
    "READ",
    "READ_MOST",
    "Answer",
    "Ended",
    "SpyFramer",
    "Wire",
    "address_of",
    "adu",
    "answers_in",
    "batches",
    "clock",
    "never_reading",
    "read",
    "u16",
    "until",
    "value",
    "vectors",
]

READ = bytes.fromhex("0300000001")
"""The request of every control: one holding register at address 0."""

READ_MOST = bytes.fromhex("030000007D")
"""The read with the longest answer: 259 bytes."""

_HEADER = struct.Struct(">HHHB")
_DATA_SEGMENTS_IN = 152
"""Where ``tcpi_data_segs_in`` stands in Linux's ``struct tcp_info``."""

_ids = count(1)


class Answer(NamedTuple):
    """One frame from the server."""

    transaction: int
    unit: int
    pdu: bytes


@dataclass(frozen=True)
class Ended:
    """How a connection ended.

    Args:
        data: what came before the end.
        after_s: how long it took from the call.
        reset: by RST, not by FIN.
    """

    data: bytes
    after_s: float
    reset: bool


def u16(*values: int) -> bytes:
    """Registers, high byte first."""
    return b"".join(value.to_bytes(2, "big") for value in values)


def read(address: int, count: int = 1) -> bytes:
    """The request of so many holding registers."""
    return b"\x03" + u16(address, count)


def value(*numbers: int) -> bytes:
    """The answer with these holding registers."""
    return bytes((0x03, 2 * len(numbers))) + u16(*numbers)


def adu(pdu: bytes, transaction: int = 1, unit: int = 1) -> bytes:
    """A Modbus TCP frame."""
    return _HEADER.pack(transaction & 0xFFFF, 0, len(pdu) + 1, unit) + pdu


def whole_frames(stream: bytes, most: int) -> tuple[list[Answer], bytes]:
    """The whole frames at the start of a stream, each of legal size, and the rest."""
    found: list[Answer] = []
    at = 0
    while len(found) < most and len(stream) - at >= _HEADER.size:
        transaction, protocol, length, unit = _HEADER.unpack_from(stream, at)
        assert protocol == 0, f"protocol {protocol} in {stream[at:].hex()}"
        assert 2 <= length <= 254, f"length {length} in {stream[at:].hex()}"
        end = at + 6 + length
        if end > len(stream):
            break
        found.append(Answer(transaction, unit, stream[at + 7 : end]))
        at = end
    return found, stream[at:]


def answers_in(stream: bytes) -> list[Answer]:
    """Every frame of a stream that holds whole ones and nothing else."""
    found, rest = whole_frames(stream, len(stream))
    assert rest == b"", f"cut off: {rest.hex()}"
    return found


def batches(items: Sequence[bytes], size: int) -> Iterator[Sequence[bytes]]:
    """Items in groups, to be pipelined."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


@cache
def _all_vectors() -> list[dict[str, Any]]:
    path = Path(__file__).parent.parent / "data" / "vectors.json"
    found: list[dict[str, Any]] = json.loads(path.read_text())
    return found


def vectors(kind: str, **having: object) -> list[dict[str, Any]]:
    """Test vectors of one kind, with these values."""
    found = [vector for vector in _all_vectors() if vector["kind"] == kind]
    return [vector for vector in found if all(vector[name] == value for name, value in having.items())]


class Wire:
    """A client that sends any bytes it likes."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._loop = asyncio.get_running_loop()
        self._rest = b""

    @classmethod
    async def to(cls, server: Server | str, source: str = "", buffer_bytes: int = 0) -> Self:
        """Connect to a server's first endpoint, from an address of 127.0.0.0/8, with small buffers."""
        where = parse_endpoint(server if isinstance(server, str) else server.endpoints[0])
        sock = socket.socket(_family(where))
        try:
            sock.setblocking(False)
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF) if buffer_bytes else ():
                sock.setsockopt(socket.SOL_SOCKET, option, buffer_bytes)
            if where.scheme == "tcp":
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if source:
                    sock.bind((source, 0))
            address = where.path if where.scheme == "unix" else (where.host, where.port)
            async with asyncio.timeout(10):
                await asyncio.get_running_loop().sock_connect(sock, address)
        except BaseException:
            sock.close()
            raise
        return cls(sock)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    async def send(self, data: bytes, timeout_s: float = 10.0) -> None:
        async with asyncio.timeout(timeout_s):
            await self._loop.sock_sendall(self.sock, data)

    async def answers(self, number: int, timeout_s: float = 10.0) -> list[Answer]:
        """The next so many frames."""
        found: list[Answer] = []
        async with asyncio.timeout(timeout_s):
            while True:
                more, self._rest = whole_frames(self._rest, number - len(found))
                found += more
                if len(found) == number:
                    return found
                self._rest += await self._received()

    async def answer(self, timeout_s: float = 10.0) -> Answer:
        """The next frame."""
        return (await self.answers(1, timeout_s))[0]

    async def _received(self) -> bytes:
        data = await self._loop.sock_recv(self.sock, 1 << 16)
        if not data:
            raise EOFError(f"closed after {self._rest.hex()}")
        return data

    async def ask(self, pdu: bytes, unit: int = 1, timeout_s: float = 10.0) -> bytes:
        """The PDU that answers one request; its transaction and unit are checked."""
        transaction = next(_ids) & 0xFFFF
        await self.send(adu(pdu, transaction, unit))
        answer = await self.answer(timeout_s)
        assert answer[:2] == (transaction, unit)
        return answer.pdu

    async def ask_all(self, pdus: Sequence[bytes], size: int = 64) -> list[bytes]:
        """The PDUs that answer many requests, pipelined; every transaction is checked."""
        found: list[bytes] = []
        for batch in batches(pdus, size):
            first = next(_ids)
            await self.send(b"".join(adu(pdu, first + number) for number, pdu in enumerate(batch)))
            for number, answer in enumerate(await self.answers(len(batch))):
                assert answer[:2] == (first + number & 0xFFFF, 1)
                found.append(answer.pdu)
        return found

    async def round_trip_s(self, request: bytes = READ) -> float:
        """How long one control request takes, which is answered."""
        began = clock()
        pdu = await self.ask(request)
        assert pdu[0] == request[0], pdu.hex()
        return clock() - began

    async def ended(self, timeout_s: float = 10.0) -> Ended:
        """Read until the server closes."""
        began = clock()
        data, self._rest = self._rest, b""
        async with asyncio.timeout(timeout_s):
            try:
                while piece := await self._loop.sock_recv(self.sock, 1 << 16):
                    data += piece
            except ConnectionError:
                return Ended(data, clock() - began, reset=True)
        return Ended(data, clock() - began, reset=False)

    async def open_for(self, duration_s: float) -> bool:
        """Whether it is still open, and silent, after this long."""
        try:
            await self.ended(duration_s)
        except TimeoutError:
            return True
        return False

    @property
    def data_segments(self) -> int:
        """TCP segments with data that came so far (Linux)."""
        info = self.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
        return int.from_bytes(info[_DATA_SEGMENTS_IN : _DATA_SEGMENTS_IN + 4], sys.byteorder)

    def half_close(self) -> None:
        """Send FIN."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Send RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        self.sock.close()


async def never_reading(server: Server | str) -> Wire:
    """A client that has asked for more than it takes: answers wait in the server, which reads no more."""
    wire = await Wire.to(server, "127.0.0.3", buffer_bytes=4096)
    burst = b"".join(adu(READ_MOST, index) for index in range(100))
    sent, progress = 0, perf_counter()
    while True:
        try:
            sent = (sent + wire.sock.send(burst[sent:])) % len(burst)
            progress = perf_counter()
        except BlockingIOError:
            if isinstance(server, str):
                stuck = perf_counter() - progress > 0.3
            else:
                stuck = server.statistics().unsent_bytes >= server.limits.write_high_water_bytes
            if stuck:
                return wire
        await asyncio.sleep(0)


def _family(where: Endpoint) -> socket.AddressFamily:
    if where.scheme == "unix":
        return socket.AF_UNIX
    return socket.AF_INET6 if ":" in where.host else socket.AF_INET


class SpyFramer(MbapFramer):
    """Notes what a server's reads give to its framers; put in the place of ``MbapFramer``."""

    __slots__ = ()
    reads: ClassVar[list[int]] = []

    def feed(self, data: bytes | bytearray | memoryview) -> list[Frame]:
        self.reads.append(len(data))
        return super().feed(data)

    @classmethod
    async def has_read(cls, total: int) -> None:
        """Wait until the server has read so many bytes."""
        await until(lambda: sum(cls.reads) >= total, every_s=0)


# --- time and memory --------------------------------------------------------------------------


def clock() -> float:
    """Seconds in which this thread ran or slept; when others had the processor it stands still (Linux).

    In-process, what is measured is then what the server did, not what else the machine was doing.
    """
    try:
        with open("/proc/thread-self/schedstat", "rb") as file:
            waited_ns = int(file.read().split()[1])
    except OSError:
        waited_ns = 0
    return perf_counter() - waited_ns / 1e9


async def until(condition: Callable[[], bool], timeout_s: float = 10.0, every_s: float = 0.002) -> None:
    """Wait for something that nobody announces."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(every_s)


def address_of(request: AnyRequest) -> int:
    """The address that a read asks for."""
    assert isinstance(request, ReadHoldingRegistersRequest)
    return request.address
