"""Raw bytes for the tests of the hosts: frames, and a client that knows nothing but sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from time import monotonic

from everbus.client.endpoint import Endpoint, parse_endpoint
from everbus.protocol.framing.base import Frame
from everbus.protocol.framing.mbap import MbapFramer

READ = bytes.fromhex("0300000001")
"""Read holding register 0."""

ZERO = bytes.fromhex("03020000")
"""The answer to that from a new bank."""

FAILED = bytes.fromhex("8304")
"""Exception 04, server device failure."""

NOT_MODBUS = b"GET / HTTP/1.1\r\n\r\n"


def adu(transaction: int, unit: int = 1, pdu: bytes = READ) -> bytes:
    return MbapFramer().encode(unit, pdu, transaction)


def write_register(value: int, address: int = 0) -> bytes:
    return b"\x06" + address.to_bytes(2, "big") + value.to_bytes(2, "big")


def read_holding(address: int, count: int) -> bytes:
    return b"\x03" + address.to_bytes(2, "big") + count.to_bytes(2, "big")


def frames(data: bytes) -> list[Frame]:
    """The frames in some bytes, which must be whole ones."""
    framer = MbapFramer()
    found = framer.feed(data)
    assert (framer.pending, framer.fault) == (0, None), f"not whole frames: {data.hex(' ')}"
    return found


class Peer:
    """One end of a connection to a server under test."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self, within_s: float = 5.0) -> Frame:
        """The next answer."""
        async with asyncio.timeout(within_s):
            head = await self.reader.readexactly(7)
            body = await self.reader.readexactly(int.from_bytes(head[4:6], "big") - 1)
        (frame,) = frames(head + body)
        return frame

    async def ask(self, pdu: bytes = READ, unit: int = 1, transaction: int = 1) -> bytes:
        """The PDU that answers one request."""
        self.send(adu(transaction, unit, pdu))
        frame = await self.answer()
        assert (frame.unit, frame.transaction) == (unit, transaction)
        return frame.pdu

    async def end(self, within_s: float = 5.0) -> str:
        """Wait for the other side to close: ``eof`` or ``reset``; nothing else may come."""
        async with asyncio.timeout(within_s):
            try:
                data = await self.reader.read(1)
            except ConnectionError:
                return "reset"
        assert data == b"", f"not the end: {data!r}"
        return "eof"

    async def close(self) -> None:
        self.writer.close()
        with suppress(ConnectionError):  # the server was quicker
            await self.writer.wait_closed()


async def connect(url: str | Endpoint, local: str | None = None) -> Peer:
    """Connect to a server, for TCP from a local address of choice."""
    endpoint = url if isinstance(url, Endpoint) else parse_endpoint(url)
    if endpoint.scheme == "unix":
        return Peer(*await asyncio.open_unix_connection(endpoint.path))
    source = (local, 0) if local else None
    return Peer(*await asyncio.open_connection(endpoint.host, endpoint.port, local_addr=source))


@asynccontextmanager
async def peer(url: str | Endpoint, local: str | None = None) -> AsyncIterator[Peer]:
    """A connection for the length of a block."""
    found = await connect(url, local)
    try:
        yield found
    finally:
        await found.close()


async def until(true: Callable[[], object], within_s: float = 5.0) -> None:
    """Wait until something is true; fail if that takes too long."""
    deadline = monotonic() + within_s
    while not true():
        assert monotonic() < deadline, f"still not true after {within_s} s"
        await asyncio.sleep(0.005)


@contextmanager
def loop_complaints() -> Iterator[list[dict[str, object]]]:
    """What callbacks and forgotten futures of the running loop raise, collected."""
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    found: list[dict[str, object]] = []
    loop.set_exception_handler(lambda _, context: found.append(context))
    try:
        yield found
    finally:
        loop.set_exception_handler(before)
