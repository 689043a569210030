from __future__ import annotations

import asyncio
import errno
import os
import random
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
import uvloop

from everbus.aio.connection import Connection
from everbus.aio.server import Server
from everbus.aio.statistics import Drained, Forced, UdpStatistics
from everbus.aio.udp import UdpPort
from everbus.client.endpoint import parse_endpoint
from everbus.errors import ConnectError
from everbus.limits import Limits
from everbus.observe import EventKind
from everbus.protocol.framing.base import Frame
from everbus.protocol.pdu.registers import ReadHoldingRegistersResponse
from everbus.protocol.pdu.table import AnyRequest
from everbus.service.bank import Bank
from everbus.service.context import RequestContext
from everbus.service.handler import Answer
from everbus.service.policy_file import parse_policy
from everbus.service.units import Units, UnknownUnit
from everbus.testing import RecordingObserver
from tests.aio.wire import FAILED, READ, ZERO, Peer, adu, frames, peer, until, write_register

ANYWHERE = "udp://127.0.0.1:0"
BUSY = b"\x83\x06"
WITHIN_S = 5.0

# libuv opens a pipe once in a process and keeps it: before any test counts descriptors.
with asyncio.Runner(loop_factory=uvloop.new_event_loop) as _runner:
    _runner.run(asyncio.sleep(0))


class Asker:
    """A client that knows datagrams and nothing else."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    @property
    def name(self) -> str:
        host, port = self.sock.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def send(self, data: bytes) -> None:
        self.sock.send(data)

    async def answer(self) -> Frame:
        async with asyncio.timeout(WITHIN_S):
            (frame,) = frames(await asyncio.get_running_loop().sock_recv(self.sock, 1000))
        return frame

    async def ask(self, pdu: bytes = READ, unit: int = 1, transaction: int = 1) -> bytes:
        self.send(adu(transaction, unit, pdu))
        frame = await self.answer()
        assert (frame.unit, frame.transaction) == (unit, transaction)
        return frame.pdu

    def hears_nothing(self) -> bool:
        """Nothing is there to be read; what a server does within its turn would be."""
        try:
            self.sock.recv(1000)
        except BlockingIOError:
            return True
        return False


@contextmanager
def asker(url: str, host: str = "", source: tuple[str, int] | None = None) -> Iterator[Asker]:
    """A client of the server, or of another of its addresses; the kernel shows it answers from there alone."""
    endpoint = parse_endpoint(url)
    where = host or endpoint.host
    with socket.socket(socket.AF_INET6 if ":" in where else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        if source is not None:
            sock.bind(source)
        sock.connect((where, endpoint.port))
        yield Asker(sock)


def port_of(server: Server) -> UdpPort:
    (port,) = server._doors.ports
    assert isinstance(port, UdpPort)
    return port


def statistics(server: Server) -> UdpStatistics:
    return port_of(server).statistics()


class Slow:
    """Answers with the transaction id, when it is told to."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.begun: list[RequestContext] = []

    async def __call__(self, request: AnyRequest, context: RequestContext) -> Answer:
        self.begun.append(context)
        await self.go_on.wait()
        return ReadHoldingRegistersResponse.of([context.transaction])


class Faulty:
    """A socket whose calls fail as they are told to."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.receive_errors: list[int] = []
        self.send_errors: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def recvmsg(self, *arguments: int) -> Any:
        if self.receive_errors:
            code = self.receive_errors.pop()
            raise OSError(code, os.strerror(code))
        return self._sock.recvmsg(*arguments)

    def sendmsg(self, *arguments: Any) -> int:
        if self.send_errors:
            code = self.send_errors.pop()
            raise OSError(code, os.strerror(code))
        return self._sock.sendmsg(*arguments)


def made_faulty(server: Server) -> Faulty:
    port = port_of(server)
    assert port._socket is not None
    faulty = Faulty(port._socket)
    port._socket = faulty  # type: ignore[assignment]  # it quacks
    return faulty


@asynccontextmanager
async def udp(handler: Any, url: str = ANYWHERE, **limits: Any) -> AsyncIterator[tuple[Server, Asker]]:
    async with Server(handler, url, limits=Limits(**limits), observer=RecordingObserver()) as server:
        with asker(server.endpoints[0]) as one:
            yield server, one


# Serving


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
async def test_it_answers_one_datagram_with_one(host: str) -> None:
    async with Server(Bank(), f"udp://{host}:0") as server:
        for url in server.endpoints:
            assert url.startswith("udp://")
            with asker(url) as one:
                assert await one.ask(write_register(42), 7, 0xABCD) == write_register(42)
                assert await one.ask() == b"\x03\x02\0\x2a"
                assert await one.ask(b"\x03\0\0\0\x7e") == b"\x83\x03"
                assert await one.ask(b"\x08\0\x04\0\0") == b"\x88\x01", "one client could silence everybody"
        found = server.statistics()
        assert (found.requests, found.exceptions) == (4 * len(server.endpoints), 2 * len(server.endpoints))
        assert (found.listeners, found.connections, found.opened) == (len(server.endpoints), 0, 0)


@pytest.mark.parametrize(("url", "asked"), [("udp://0.0.0.0:0", "127.0.0.77"), ("udp://[::]:0", "::1")])
async def test_an_answer_leaves_from_the_address_that_was_asked(url: str, asked: str) -> None:
    async with Server(Bank(), url) as server:
        with asker(server.endpoints[0], asked) as one:
            assert await one.ask() == ZERO


async def test_a_handler_is_told_who_asks() -> None:
    seen: list[RequestContext] = []

    def handler(request: AnyRequest, context: RequestContext) -> Answer:
        seen.append(context)
        return ReadHoldingRegistersResponse.of([0])

    async with udp(handler) as (server, one):
        with asker(server.endpoints[0], source=("127.0.0.9", 0)) as two:
            for who in (one, two, one):
                await who.ask()
            assert [context.peer for context in seen] == [one.name, two.name, one.name]
        assert [context.connection.host for context in seen] == ["127.0.0.1", "127.0.0.9", "127.0.0.1"]
        assert {context.connection.endpoint for context in seen} == set(server.endpoints)
        assert [context.connection_id for context in seen] == [1, 2, 1]
        assert statistics(server) == UdpStatistics(True, 0, requests=3, in_flight=0, peers=2, forgotten=0)


async def test_beside_tcp_it_reaches_the_same_device() -> None:
    async with Server(Bank(), "tcp://127.0.0.1:0", ANYWHERE) as server:
        stream, datagrams = server.endpoints
        async with peer(stream) as one:
            with asker(datagrams) as two:
                await two.ask(write_register(7))
                assert await one.ask() == b"\x03\x02\0\x07"
                assert await two.ask() == b"\x03\x02\0\x07"
        assert server.statistics().requests == 3


async def test_a_policy_decides() -> None:
    class ReadOnly:
        unconditional = False

        def allows(self, request: AnyRequest, context: RequestContext) -> bool:
            return request.function_code == 3

    async with Server(Bank(), ANYWHERE, policy=ReadOnly()) as server:
        with asker(server.endpoints[0]) as one:
            assert await one.ask(write_register(1)) == b"\x86\x01"
            assert await one.ask() == ZERO


async def test_a_peer_that_the_policy_refuses_gets_no_answer() -> None:
    policy = parse_policy('[peers]\nrefuse = "127.0.0.2"\n[[rule]]\nname = "all"\nfunctions = "all"\n')
    async with Server(Bank(), ANYWHERE, policy=policy) as server:
        with asker(server.endpoints[0]) as one, asker(server.endpoints[0], source=("127.0.0.2", 0)) as refused:
            refused.send(adu(1))
            assert await one.ask() == ZERO
            assert refused.hears_nothing()
        assert server.statistics().rejected_frames == {"policy": 1}
        assert statistics(server).peers == 1


@pytest.mark.slow
def test_it_serves_on_uvloop_too() -> None:
    async def main() -> None:
        slow = Slow()
        async with Server({1: Bank(), 2: slow}, "udp://0.0.0.0:0", limits=Limits(handler_timeout_s=0.2)) as server:
            with asker(server.endpoints[0], "127.0.0.5") as one:
                assert await one.ask() == ZERO
                assert await one.ask(unit=2) == FAILED
                one.send(adu(1)[:5])
                assert await one.ask() == ZERO
                os.close(port_of(server).fileno())
                await until(lambda: server.statistics().relistens == 1)
                assert await one.ask() == ZERO
                assert await server.stop() == Drained(0)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


# Peers


async def test_g7_answers_go_to_whoever_asked_though_the_ids_are_the_same() -> None:
    slow = Slow()
    async with udp(slow) as (server, one):
        with asker(server.endpoints[0]) as two:
            for transaction in (5, 6):
                one.send(adu(transaction))
                two.send(adu(transaction + 10, unit=2))
                one.send(adu(transaction)[:9])  # cut off: it must not become the start of somebody's request
            await until(lambda: len(slow.begun) == 4)
            assert statistics(server).in_flight == 4
            slow.go_on.set()
            assert sorted([await one.answer() for _ in range(2)]) == [Frame(1, bytes((3, 2, 0, n)), n) for n in (5, 6)]
            assert sorted([await two.answer() for _ in range(2)]) == [
                Frame(2, bytes((3, 2, 0, n)), n) for n in (15, 16)
            ]
            assert one.hears_nothing()
            assert two.hears_nothing()
        assert server.statistics().rejected_frames == {"cut_off": 2}


async def test_one_peer_cannot_take_the_time_of_the_others() -> None:
    slow = Slow()
    async with udp({1: slow, 2: Bank()}, max_in_flight=2) as (server, greedy):
        for transaction in range(4):
            greedy.send(adu(transaction))
        assert [(await greedy.answer()).pdu for _ in range(2)] == [BUSY, BUSY]
        assert server.statistics().refused_requests == {"max_in_flight": 2}
        with asker(server.endpoints[0]) as other:
            assert await other.ask(unit=2) == ZERO
            other.send(adu(9))
            await until(lambda: len(slow.begun) == 3)
            slow.go_on.set()
            assert (await other.answer()).pdu == b"\x03\x02\0\x09"
        assert sorted([(await greedy.answer()).transaction for _ in range(2)]) == [0, 1]
        slow.begun.clear()
        assert await greedy.ask(transaction=3) == b"\x03\x02\0\x03", "its turn has come again"


async def test_all_peers_together_have_a_bound_too() -> None:
    slow = Slow()
    async with udp(slow, max_udp_in_flight=3) as (server, one):
        with asker(server.endpoints[0]) as two:
            for transaction in (1, 2):
                one.send(adu(transaction))
                two.send(adu(transaction))
            assert (await two.answer()) == Frame(1, BUSY, 2)
            assert server.statistics().refused_requests == {"max_udp_in_flight": 1}
            slow.go_on.set()
            assert {(await one.answer()).transaction for _ in range(2)} == {1, 2}
            assert (await two.answer()).transaction == 1


async def test_of_the_peers_the_one_that_was_silent_longest_is_forgotten() -> None:
    seen: list[tuple[str, int]] = []

    def handler(request: AnyRequest, context: RequestContext) -> Answer:
        seen.append((context.connection.host, context.connection_id))
        return ReadHoldingRegistersResponse.of([0])

    async with udp(handler, max_udp_peers=2) as (server, _):
        for number in (2, 3, 2, 4, 2, 3):
            with asker(server.endpoints[0], source=(f"127.0.0.{number}", 40_404)) as one:
                await one.ask()
        numbers = [
            (f"127.0.0.{number}", peer_id) for number, peer_id in ((2, 1), (3, 2), (2, 1), (4, 3), (2, 1), (3, 4))
        ]
        assert seen == numbers
        assert (statistics(server).peers, statistics(server).forgotten) == (2, 2)


# What is not answered


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"\0", "cut_off"),
        (adu(1)[:-1], "cut_off"),
        (adu(1)[:6], "cut_off"),
        (adu(1) + b"\0", "several"),
        (adu(1) + adu(2), "several"),
        (adu(1) + adu(2)[:-1], "several"),
        (b"\0\1\0\1\0\6\1\3\0\0\0\1", "protocol_id"),
        (b"\0\1\0\0\0\1\1", "length"),
        (b"\0\1\0\0\xff\xff\1\3", "length"),
        (adu(1, pdu=bytes(253)) + b"\0", "too_long"),
        (bytes(1400), "too_long"),
        (adu(1, pdu=b"\x83\x02"), "answer"),
        (b"GET / HTTP/1.1\r\n\r\n", "protocol_id"),
    ],
)
async def test_g8_what_is_not_one_request_is_dropped_and_counted(data: bytes, reason: str) -> None:
    async with udp(Bank()) as (server, one):
        with asker(server.endpoints[0]) as other:
            other.send(data)
            assert await one.ask() == ZERO
            assert other.hears_nothing()
            assert server.statistics().rejected_frames == {reason: 1}
            assert await other.ask() == ZERO
        assert server.statistics().requests == 2
        assert statistics(server).peers == 2


async def test_b6_any_datagram_is_one_request_or_none() -> None:
    noise = random.Random(8)
    seen: set[str] = set()
    async with udp(Bank()) as (server, one):
        port = port_of(server)
        for _ in range(3000):
            data = bytearray(
                adu(noise.randrange(0x10000), noise.randrange(256), noise.randbytes(noise.choice((1, 5, 253))))
            )
            for _ in range(noise.randrange(3)):
                data[noise.randrange(8)] = noise.choice((0, 1, 6, noise.randrange(256)))
            data = data[: noise.choice((len(data), noise.randrange(len(data))))]
            good = len(data) >= 8 and data[2:4] == b"\0\0" and int.from_bytes(data[4:6]) == len(data) - 6
            frame = port._frame(bytes(data), 0)
            seen.add(frame if isinstance(frame, str) else "request")
            assert isinstance(frame, Frame) == (good and data[7] < 0x80)
        assert await one.ask() == ZERO
    assert seen == {"request", "answer", "several", "cut_off", "empty", "protocol_id", "length"}


async def test_a_server_is_not_answered_or_two_would_answer_each_other_for_ever() -> None:
    async with udp(Bank()) as (server, one):
        own = parse_endpoint(server.endpoints[0]).port
        with asker(server.endpoints[0], source=("127.0.0.2", own)) as other:
            other.send(adu(1, pdu=write_register(7)))
            assert await one.ask() == ZERO
            assert other.hears_nothing()
        assert server.statistics().rejected_frames == {"server_port": 1}


async def test_a_unit_that_is_not_here_may_be_silent() -> None:
    async with udp(Units({1: Bank()}, UnknownUnit.SILENT)) as (server, one):
        one.send(adu(1, unit=2))
        assert await one.ask(transaction=2) == ZERO
        assert server.statistics().requests == 2


async def test_what_is_for_many_hosts_is_not_answered() -> None:
    async with udp(Bank(), "udp://0.0.0.0:0") as (server, one):
        port = parse_endpoint(server.endpoints[0]).port
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.setblocking(False)
            other.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            other.sendto(adu(1), ("127.255.255.255", port))
            await until(lambda: server.statistics().rejected_frames == {"not_unicast": 1})
            assert Asker(other).hears_nothing()
        assert await one.ask() == ZERO


@pytest.mark.parametrize("host", ["127.255.255.255", "224.0.0.1"])
async def test_nor_is_it_where_the_socket_has_that_address_alone(host: str) -> None:
    async with Server(Bank(), f"udp://{host}:0") as server:
        port = parse_endpoint(server.endpoints[0]).port
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.setblocking(False)
            other.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            other.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
            other.sendto(adu(1), (host, port))
            await asyncio.sleep(0.02)
            assert Asker(other).hears_nothing()


async def test_what_is_for_many_hosts_is_not_answered_on_ipv6() -> None:
    async with udp(Bank(), "udp://[::]:0") as (server, one):
        asked = socket.inet_pton(socket.AF_INET6, "ff02::1") + bytes(4)  # the loopback has no such addresses
        told = [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, asked)]
        port_of(server)._receive(adu(1), told, 0, (*one.sock.getsockname()[:2], 0, 0))
        assert server.statistics().rejected_frames == {"not_unicast": 1}
        assert await one.ask() == ZERO


# Handlers


async def test_d2_a_handler_that_takes_too_long_is_exception_04_and_its_result_is_discarded() -> None:
    slow = Slow()
    async with udp(slow, handler_timeout_s=0.05) as (server, one):
        assert await one.ask() == FAILED
        assert server.statistics().handler_failures == {"ModbusTimeoutError": 1}
        await until(lambda: not port_of(server).abandoned)
        slow.go_on.set()
        assert await one.ask(transaction=7) == b"\x03\x02\0\x07"
        assert one.hears_nothing()


# The socket


async def test_an_answer_that_cannot_be_sent_is_counted_and_no_more() -> None:
    async with udp(Bank()) as (server, one):
        made_faulty(server).send_errors = [errno.EAGAIN, errno.EPERM, errno.EAGAIN]
        for transaction in range(3):
            one.send(adu(transaction))
        assert await one.ask(transaction=3) == ZERO
        assert server.statistics().abandoned_answers == {"EAGAIN": 2, "EPERM": 1}


async def test_an_answer_that_nobody_takes_is_no_harm() -> None:
    async with udp(Bank()) as (server, one):
        with asker(server.endpoints[0]) as gone:
            gone.send(adu(1))
        made_faulty(server).receive_errors = [errno.ECONNREFUSED, errno.ENOMEM]
        assert await one.ask() == ZERO
        assert server.statistics().accept_errors == {"receive ECONNREFUSED": 1, "receive ENOMEM": 1}


def close(number: int) -> Iterator[None]:
    os.close(number)
    yield


def replace(number: int) -> Iterator[None]:
    other, _ = os.pipe()
    os.dup2(other, number)
    os.close(other)
    yield
    os.close(_)
    os.close(number)


@pytest.mark.parametrize(("lose", "problem"), [(close, "closed"), (replace, "replaced")])
async def test_a11_a_socket_that_is_lost_is_bound_again(lose: Callable[[int], Iterator[None]], problem: str) -> None:
    async with udp(Bank(), handler_timeout_s=0.2) as (server, one):
        assert await one.ask() == ZERO
        loss = lose(port_of(server).fileno())
        next(loss)
        await until(lambda: server.statistics().relistens == 1)
        assert await one.ask() == ZERO
        assert isinstance(port_of(server)._observer._behind, RecordingObserver)  # type: ignore[attr-defined]
        assert next(loss, None) is None
        found = server.statistics()
        assert (found.listeners, found.relistens, found.requests) == (1, 1, 2)


async def test_a_connection_under_the_number_of_the_lost_socket_is_served() -> None:
    async with Server(Bank(), "tcp://127.0.0.1:0", ANYWHERE, limits=Limits(handler_timeout_s=0.2)) as server:
        stream, datagrams = server.endpoints
        lost = port_of(server).fileno()
        where = parse_endpoint(stream)
        with socket.create_connection((where.host, where.port)) as sock:  # accepted when the number is free
            os.close(lost)
            sock.setblocking(False)
            one = Peer(*await asyncio.open_connection(sock=sock))
            assert await one.ask() == ZERO
            (connection,) = [member for member in server._registry if isinstance(member, Connection)]
            assert connection._transport is not None
            assert connection._transport.get_extra_info("socket").fileno() == lost
            await until(lambda: server.statistics().relistens == 1)
            assert await one.ask() == ZERO
            with asker(datagrams) as two:
                assert await two.ask() == ZERO
            await one.close()


async def test_it_tries_until_the_address_is_there_again() -> None:
    async with udp(Bank(), handler_timeout_s=0.2) as (server, one):
        os.close(port_of(server).fileno())
        where = parse_endpoint(server.endpoints[0])
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind((where.host, where.port))
            await until(lambda: server.statistics().accept_errors.get("relisten EADDRINUSE", 0) >= 2)
            assert server.statistics().listeners == 0
        await until(lambda: server.statistics().listeners == 1)
        assert await one.ask() == ZERO


async def test_what_is_finished_while_the_socket_is_lost_is_counted() -> None:
    slow = Slow()
    async with udp(slow, handler_timeout_s=2.0) as (server, one):
        one.send(adu(1))
        await until(lambda: len(slow.begun) == 1)
        port = port_of(server)
        os.close(port.fileno())
        assert port._socket is not None
        port._let_go(port._socket)
        slow.go_on.set()
        await until(lambda: server.statistics().abandoned_answers == {"EBADF": 1})


async def test_an_address_that_cannot_be_had_is_an_error_and_nothing_is_left_open() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        taken = f"udp://127.0.0.1:{other.getsockname()[1]}"
        server = Server(Bank(), ANYWHERE, "tcp://127.0.0.1:0", taken)
        with pytest.raises(ConnectError, match=f"cannot listen on {taken}: the address is in use"):
            await server.start()
    assert [str(port) for port in server._doors.ports] == [f"<UdpPort {server.endpoints[0]} closed>"]
    with pytest.raises(ConnectError, match="this machine does not have that address"):
        await Server(Bank(), "udp://192.0.2.1:5020").start()


# The end


async def test_a_stop_answers_what_has_arrived_by_then() -> None:
    async with udp(Bank()) as (server, one):
        one.send(adu(1))
        assert await server.stop() == Drained(0)
        assert (await one.answer()).pdu == ZERO
        one.send(adu(2))
        await asyncio.sleep(0)
        with pytest.raises(ConnectionRefusedError):
            one.sock.recv(100)
        assert not statistics(server).listening


async def test_a_stop_waits_for_handlers() -> None:
    slow = Slow()
    async with udp(slow) as (server, one):
        one.send(adu(7))
        await until(lambda: len(slow.begun) == 1)
        stopping = asyncio.create_task(server.stop())
        await asyncio.sleep(0.02)
        slow.go_on.set()
        assert await stopping == Drained(0)
        assert (await one.answer()).pdu == b"\x03\x02\0\x07"


async def test_a_stop_waits_for_handlers_whatever_was_answered_before() -> None:
    slow = Slow()
    slow.go_on.set()
    async with udp(slow) as (server, one):
        assert await one.ask() == b"\x03\x02\0\x01"
        slow.go_on.clear()
        one.send(adu(7))
        await until(lambda: len(slow.begun) == 2)
        stopping = asyncio.create_task(server.stop())
        await asyncio.sleep(0.02)
        slow.go_on.set()
        assert await stopping == Drained(0)
        assert (await one.answer()).pdu == b"\x03\x02\0\x07"


async def test_a_stop_lets_the_time_of_handlers_run_out() -> None:
    slow = Slow()
    async with udp(slow, handler_timeout_s=0.1) as (server, one):
        one.send(adu(7))
        await until(lambda: len(slow.begun) == 1)
        assert await server.stop() == Drained(0)
        assert (await one.answer()).pdu == FAILED


@pytest.mark.parametrize("hurry", [False, True])
async def test_a_stop_ends_at_its_deadline_or_in_a_hurry(hurry: bool) -> None:
    slow = Slow()
    async with udp(slow, stop_timeout_s=30.0 if hurry else 0.05) as (server, one):
        one.send(adu(7))
        await until(lambda: len(slow.begun) == 1)
        server.request_stop()
        await asyncio.sleep(0.01)
        if hurry:
            server.request_stop(at_once=True)
        async with asyncio.timeout(WITHIN_S):
            assert await server.stop() == Forced(0, 1)
        assert one.hears_nothing()


async def test_a_handler_may_stop_its_server() -> None:
    ends: list[object] = []

    async def handler(request: AnyRequest, context: RequestContext) -> Answer:
        ends.append(await server.stop())
        return ReadHoldingRegistersResponse.of([0])

    server = Server(handler, ANYWHERE)
    async with server:
        with asker(server.endpoints[0]) as one:
            one.send(adu(1))
            async with asyncio.timeout(WITHIN_S):
                assert await server.serve_forever() == Drained(0)
            assert one.hears_nothing()
        await until(lambda: ends == [Drained(0)])


async def test_a_socket_that_is_lost_is_not_closed_by_the_stop() -> None:
    async with udp(Bank(), handler_timeout_s=100.0) as (server, _):
        loss = replace(port_of(server).fileno())
        next(loss)
        assert await server.stop() == Drained(0)
        assert next(loss, None) is None


async def test_what_happens_is_told() -> None:
    observer = RecordingObserver()
    async with Server(Bank(), ANYWHERE, observer=observer) as server:
        (opened,) = observer.of(EventKind.LISTENER_OPENED)
        assert (opened.peer, opened.reason) == (server.endpoints[0], "start")
        with asker(server.endpoints[0]) as one:
            one.send(adu(1) * 2)
            await until(lambda: observer.of(EventKind.FRAME_REJECTED))
            (dropped,) = observer.of(EventKind.FRAME_REJECTED)
            assert (dropped.peer, dropped.reason) == (one.name, "several")
            assert "24 bytes" in dropped.detail
