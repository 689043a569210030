from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from everbus.aio.transport import Sockets, SocketTransport
from tests.aio.wire import loop_complaints, until

BIG = bytes(4 << 20)
"""More than any socket's buffers take."""


class Heard(asyncio.BufferedProtocol):
    """Writes down what its transport tells it."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.data = b""
        self.ends: list[Exception | None] = []
        self.buffer = bytearray(1000)
        self.stays_open = False
        self.failure: BaseException | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.told.append("made")

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self.failure is not None:
            raise self.failure
        self.data += self.buffer[:nbytes]

    def eof_received(self) -> bool:
        self.told.append("eof")
        return self.stays_open

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.ends.append(exc)


class Pair:
    """A transport with its protocol, and the other end of its socket."""

    def __init__(self) -> None:
        self.sockets = Sockets(asyncio.get_running_loop())
        self.sock, self.peer = socket.socketpair()
        self.sock.setblocking(False)
        self.peer.settimeout(5.0)
        self.protocol = Heard()
        self.transport: SocketTransport = self.sockets.attach(self.sock, self.protocol)
        self.number = self.sock.fileno()

    async def ended(self) -> Exception | None:
        await until(lambda: bool(self.protocol.ends))
        (error,) = self.protocol.ends
        assert self.sock.fileno() == -1
        assert self.number not in self.sockets
        assert self.transport.is_closing()
        return error


@contextmanager
def opened() -> Iterator[Pair]:
    pair = Pair()
    with pair.peer:
        yield pair
        if not pair.protocol.ends:
            pair.transport.abort()
            pair.transport._ended(None)


async def test_what_arrives_is_given_to_the_protocol_in_order() -> None:
    with opened() as pair:
        assert pair.number in pair.sockets
        pair.peer.sendall(b"a" * 1500)
        await until(lambda: len(pair.protocol.data) == 1500)
        pair.peer.sendall(b"b")
        await until(lambda: pair.protocol.data.endswith(b"ab"))
        assert pair.protocol.told == ["made"]
        assert pair.transport.is_reading()


async def test_what_is_written_goes_out_at_once() -> None:
    with opened() as pair:
        pair.transport.write(b"one")
        pair.transport.write(bytearray(b"two"))
        pair.transport.write(memoryview(b"three"))
        assert pair.peer.recv(100) == b"onetwothree"
        assert pair.transport.get_write_buffer_size() == 0


async def test_what_the_socket_does_not_take_is_sent_later_and_in_order() -> None:
    with opened() as pair:
        pair.transport.set_write_buffer_limits(high=1000)
        assert pair.transport.get_write_buffer_limits() == (250, 1000)
        pair.transport.write(BIG)
        pair.transport.write(b"end")
        unsent = pair.transport.get_write_buffer_size()
        assert 3 < unsent < len(BIG)
        assert pair.protocol.told == ["made", "pause"]
        received = b""
        while not received.endswith(b"end"):
            received += await asyncio.to_thread(pair.peer.recv, 1 << 20)
        assert received == BIG + b"end"
        assert pair.protocol.told == ["made", "pause", "resume"]
        assert pair.transport.get_write_buffer_size() == 0


async def test_reading_may_pause() -> None:
    with opened() as pair:
        pair.transport.pause_reading()
        pair.transport.pause_reading()
        assert not pair.transport.is_reading()
        pair.peer.sendall(b"wait")
        await asyncio.sleep(0.02)
        assert pair.protocol.data == b""
        pair.transport.resume_reading()
        pair.transport.resume_reading()
        await until(lambda: pair.protocol.data == b"wait")


async def test_close_sends_what_is_unsent_first() -> None:
    with opened() as pair:
        pair.transport.write(BIG)
        pair.transport.close()
        pair.transport.close()
        pair.transport.write(b"too late")
        pair.transport.resume_reading()
        assert not pair.transport.is_reading()
        assert pair.protocol.ends == []
        received = 0
        while data := await asyncio.to_thread(pair.peer.recv, 1 << 20):
            received += len(data)
        assert received == len(BIG)
        assert await pair.ended() is None


async def test_close_tells_in_a_turn_of_its_own() -> None:
    with opened() as pair:
        pair.transport.close()
        assert pair.protocol.ends == []
        assert await pair.ended() is None
        assert pair.peer.recv(10) == b""


async def test_abort_loses_what_is_unsent() -> None:
    with opened() as pair:
        pair.transport.write(BIG)
        pair.transport.close()
        pair.transport.abort()
        pair.transport.abort()
        assert pair.transport.get_write_buffer_size() == 0
        assert await pair.ended() is None


async def test_the_end_of_the_peer_closes_it() -> None:
    with opened() as pair:
        pair.peer.shutdown(socket.SHUT_WR)
        assert await pair.ended() is None
        assert pair.protocol.told == ["made", "eof"]


async def test_a_protocol_may_answer_after_the_end_of_the_peer() -> None:
    with opened() as pair:
        pair.protocol.stays_open = True
        pair.peer.shutdown(socket.SHUT_WR)
        await until(lambda: "eof" in pair.protocol.told)
        await asyncio.sleep(0.02)
        assert pair.protocol.told == ["made", "eof"]
        pair.transport.write(b"answer")
        assert pair.peer.recv(10) == b"answer"
        pair.transport.close()
        assert await pair.ended() is None


async def test_a_reset_is_told_with_its_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        peer = socket.create_connection(server.getsockname())
        sock, _ = server.accept()
        sock.setblocking(False)
        protocol = Heard()
        Sockets(asyncio.get_running_loop()).attach(sock, protocol)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        await until(lambda: bool(protocol.ends))
        assert isinstance(protocol.ends[0], ConnectionResetError)


@pytest.mark.parametrize("unsent", [False, True])
async def test_writing_to_nobody_is_told_with_its_error(unsent: bool) -> None:
    with opened() as pair:
        pair.transport.pause_reading()
        if unsent:
            pair.transport.write(BIG)
        pair.peer.close()
        pair.transport.write(b"hello?")
        assert isinstance(await pair.ended(), BrokenPipeError if not unsent else OSError)


async def test_a_protocol_that_fails_loses_its_own_connection() -> None:
    with loop_complaints() as complaints, opened() as pair:
        pair.protocol.failure = ZeroDivisionError("a mistake")
        pair.peer.sendall(b"x")
        assert await pair.ended() is pair.protocol.failure
        assert [type(complaint["exception"]) for complaint in complaints] == [ZeroDivisionError]


async def test_a_number_that_is_another_sockets_by_now_is_that_ones() -> None:
    with opened() as pair:
        one, two = socket.socketpair()
        os.dup2(one.fileno(), pair.number)  # somebody closes our descriptor, and its number is used again
        one.close()
        one = socket.socket(fileno=pair.number)
        one.setblocking(False)
        newcomer = Heard()
        transport = pair.sockets.attach(one, newcomer)
        with two:
            await until(lambda: bool(pair.protocol.ends))
            error = pair.protocol.ends[0]
            assert isinstance(error, OSError)
            assert error.errno == errno.EBADF
            two.sendall(b"hello")
            await until(lambda: newcomer.data == b"hello")
            transport.write(b"and you")
            assert two.recv(100) == b"and you"
            assert pair.number in pair.sockets
            transport.close()
            await until(lambda: bool(newcomer.ends))


async def test_it_says_what_it_is() -> None:
    with opened() as pair:
        assert repr(pair.transport) == f"<SocketTransport {pair.number} open>"
        assert pair.transport.get_extra_info("socket") is pair.sock
        assert pair.transport.get_extra_info("peername", "unknown") == "unknown"
        pair.transport.close()
        assert repr(pair.transport) == f"<SocketTransport {pair.number} closing>"
        await pair.ended()
