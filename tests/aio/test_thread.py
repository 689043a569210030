from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

import everbus
from everbus.aio.statistics import Drained, Forced
from everbus.aio.thread import ThreadedServer, serve_in_thread
from everbus.client.endpoint import parse_endpoint
from everbus.errors import ConfigurationError, ConnectError, ModbusTimeoutError, ServerStateError, UsageError
from everbus.limits import Limits
from everbus.protocol.pdu.registers import ReadHoldingRegistersResponse
from everbus.protocol.pdu.table import AnyRequest
from everbus.service.bank import Bank
from everbus.service.context import RequestContext
from everbus.service.handler import Answer
from tests.aio.wire import READ, ZERO, adu, frames, read_holding, write_register

ANYWHERE = "tcp://127.0.0.1:0"
LIMITS = Limits(stop_timeout_s=0.3)


class Client:
    """Asks a server, blocking."""

    def __init__(self, server: ThreadedServer) -> None:
        endpoint = parse_endpoint(server.endpoints[0])
        self.sock = socket.create_connection((endpoint.host, endpoint.port), 5.0)

    def ask(self, pdu: bytes = READ) -> bytes:
        self.sock.sendall(adu(1, 1, pdu))
        head = self._exactly(7)
        (frame,) = frames(head + self._exactly(int.from_bytes(head[4:6], "big") - 1))
        return frame.pdu

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = self.sock.recv(count - len(data))
            assert piece, "the server closed"
            data += piece
        return data

    def is_closed(self) -> bool:
        try:
            return self.sock.recv(1) == b""
        except ConnectionError:
            return True


@contextmanager
def client(server: ThreadedServer) -> Iterator[Client]:
    found = Client(server)
    try:
        yield found
    finally:
        found.sock.close()


def test_it_serves_until_its_block_ends() -> None:
    with serve_in_thread(Bank(), ANYWHERE) as server:
        with client(server) as one:
            assert one.ask() == ZERO
        assert "serving" in repr(server.server)
    assert "stopped" in repr(server.server)
    assert not [thread for thread in threading.enumerate() if thread.name == "everbus-server"]


def test_it_is_at_the_top_level_and_takes_what_a_server_takes() -> None:
    assert everbus.serve_in_thread is serve_in_thread
    with serve_in_thread({7: Bank()}, ANYWHERE, ANYWHERE, limits=LIMITS) as server:
        assert len(server.endpoints) == 2
        assert server.server.limits.stop_timeout_s == 0.3


def test_what_cannot_start_raises_where_it_was_started_and_leaves_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(ConnectError, match="in use"):
        serve_in_thread(Bank(), ANYWHERE, f"tcp://127.0.0.1:{other.getsockname()[1]}")
    with pytest.raises(ConfigurationError):
        serve_in_thread(5, ANYWHERE)  # type: ignore[arg-type]


def test_statistics_can_be_read_from_here() -> None:
    with serve_in_thread(Bank(), ANYWHERE) as server, client(server) as one:
        one.ask()
        one.ask()
        found = server.statistics()
        assert (found.connections, found.opened, found.requests) == (1, 1, 2)


def test_stopping_says_how_it_ended_however_often_it_is_asked() -> None:
    server = serve_in_thread(Bank(), ANYWHERE)
    with client(server) as one:
        one.ask()
        assert server.stop() == Drained(1)
        assert one.is_closed()
    assert server.stop() == Drained(1)
    with server:
        pass
    assert server.statistics().listeners == 0


def test_stopping_from_many_threads_at_once() -> None:
    server = serve_in_thread(Bank(), ANYWHERE)
    results: list[object] = []
    with client(server) as one:
        one.ask()
        threads = [threading.Thread(target=lambda: results.append(server.stop())) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10.0)
    assert results == [Drained(1)] * 8


def test_a_stop_of_the_server_itself_ends_the_thread() -> None:
    server = serve_in_thread(Bank(), ANYWHERE)
    assert asyncio.run(server.server.stop()) == Drained(0)
    server._thread.join(5.0)
    assert not server._thread.is_alive()
    assert server.stop() == Drained(0)


def test_the_server_can_be_stopped_again_after_its_loop_has_gone() -> None:
    server = serve_in_thread(Bank(), ANYWHERE)
    with client(server) as one:
        one.ask()
        server.stop()
    assert asyncio.run(server.server.stop()) == Drained(1)
    server.server.request_stop(at_once=True)


def test_a_server_that_was_used_before_cannot_be_started_again() -> None:
    server = serve_in_thread(Bank(), ANYWHERE)
    server.stop()
    with pytest.raises(ServerStateError, match="build a new one"):
        ThreadedServer(server.server)


def test_a_handler_that_hangs_is_forced() -> None:
    async def handler(request: AnyRequest, context: RequestContext) -> Answer:
        await asyncio.Event().wait()
        raise AssertionError("not reached")

    server = serve_in_thread(handler, ANYWHERE, limits=LIMITS)
    with client(server) as one:
        one.sock.sendall(adu(1))
        while not server.statistics().requests:
            time.sleep(0.005)
        started = time.monotonic()
        assert server.stop() == Forced(1, 1)
        assert time.monotonic() - started < 3.0
        assert one.is_closed()


def test_stop_from_a_handler_is_a_request() -> None:
    def handler(request: AnyRequest, context: RequestContext) -> Answer:
        results.append(server.stop())
        return ReadHoldingRegistersResponse.of([0])

    results: list[object] = []
    server = serve_in_thread(handler, ANYWHERE)
    with client(server) as one:
        assert one.ask() == ZERO
        assert one.is_closed()
    assert server.stop() == Drained(1)
    assert len(results) == 1


@pytest.mark.slow
def test_a_handler_that_blocks_the_loop_is_an_error_not_a_hang() -> None:
    release = threading.Event()
    begun = threading.Event()

    def handler(request: AnyRequest, context: RequestContext) -> Answer:
        begun.set()
        release.wait(60.0)
        return ReadHoldingRegistersResponse.of([0])

    server = serve_in_thread(handler, ANYWHERE, limits=Limits(stop_timeout_s=0.0))
    with client(server) as one:
        one.sock.sendall(adu(1))
        assert begun.wait(5.0)
        with pytest.raises(ModbusTimeoutError, match="a handler blocks its loop"):
            server.stop()
        release.set()
        assert isinstance(server.stop(), Drained | Forced)


def test_what_ended_the_loop_is_told_by_stop() -> None:
    def handler(request: AnyRequest, context: RequestContext) -> Answer:
        raise SystemExit(7)

    server = serve_in_thread(handler, ANYWHERE, limits=LIMITS)
    with client(server) as one:
        one.sock.sendall(adu(1))
        assert one.is_closed()
    server._thread.join(5.0)
    with pytest.raises(SystemExit, match="7"):
        server.stop()
    assert server.statistics().listeners == 0


# Banks and threads


@pytest.mark.slow
def test_a_transaction_is_seen_whole_or_not_at_all() -> None:
    bank = Bank()
    stop = threading.Event()
    failures: list[object] = []

    def write() -> None:
        value = 0
        while not stop.is_set():
            value = (value + 1) % 0x10000
            with bank.transaction():
                for address in range(20):
                    bank.write_holding_registers(address, [value])

    with serve_in_thread(bank, ANYWHERE) as server, client(server) as one:
        writers = [threading.Thread(target=write) for _ in range(2)]
        for writer in writers:
            writer.start()
        try:
            for _ in range(300):
                pdu = one.ask(read_holding(0, 20))
                values = {pdu[2 + 2 * at : 4 + 2 * at] for at in range(20)}
                if len(values) != 1:
                    failures.append(values)
        finally:
            stop.set()
            for writer in writers:
                writer.join(5.0)
    assert failures == []


def test_a_transaction_keeps_requests_waiting_and_may_be_nested() -> None:
    bank = Bank()
    with serve_in_thread(bank, ANYWHERE) as server, client(server) as one:
        with bank.transaction() as held, bank.transaction():
            assert held is bank
            one.sock.sendall(adu(1, 1, write_register(7)) + adu(2))
            time.sleep(0.05)
            assert bank.read_holding_registers(0) == [0]
            bank.write_holding_registers(0, [5])
        assert one._exactly(12) == adu(1, 1, write_register(7))
        assert one._exactly(11)[-2:] == b"\0\7"
        assert bank.read_holding_registers(0) == [7]


def test_a_transaction_needs_a_server_or_a_lock() -> None:
    bank = Bank()
    with pytest.raises(UsageError, match="no lock yet"), bank.transaction():
        pass
    with serve_in_thread(bank, ANYWHERE), bank.transaction():
        bank.write_coils(0, [True])


def test_two_servers_in_two_threads_may_share_a_bank_and_its_lock() -> None:
    bank = Bank()
    results: list[bytes] = []
    with ExitStack() as stack:
        servers = [stack.enter_context(serve_in_thread(bank, ANYWHERE)) for _ in range(2)]
        one, two = [stack.enter_context(client(server)) for server in servers]
        one.ask(write_register(42))
        assert two.ask() == b"\x03\x02\0\x2a"
        with bank.transaction():
            threads = [threading.Thread(target=lambda c=c: results.append(c.ask())) for c in (one, two)]
            for thread in threads:
                thread.start()
            time.sleep(0.05)
            assert results == []
        for thread in threads:
            thread.join(5.0)
    assert len(results) == 2
