from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import uvloop

from everbus.aio import server as server_module
from everbus.aio.logs import LogObserver
from everbus.aio.server import Server
from everbus.aio.statistics import Drained, Forced
from everbus.aio.transport import Sockets
from everbus.client.endpoint import Endpoint
from everbus.errors import ConfigurationError, ConnectError, ServerStateError, UsageError
from everbus.limits import Limits
from everbus.observe import Event, EventKind
from everbus.protocol.pdu.registers import ReadHoldingRegistersResponse
from everbus.protocol.pdu.table import AnyRequest
from everbus.resources import descriptor_count
from everbus.service.bank import Bank
from everbus.service.context import RequestContext
from everbus.service.handler import Answer
from everbus.service.local import LocalDevice
from everbus.testing import RecordingObserver
from tests.aio.wire import (
    FAILED,
    NOT_MODBUS,
    READ,
    ZERO,
    Peer,
    adu,
    connect,
    loop_complaints,
    peer,
    read_holding,
    until,
    write_register,
)

ANYWHERE = "tcp://127.0.0.1:0"
QUICK = Limits(idle_timeout_s=30.0, frame_timeout_s=0.2, write_timeout_s=0.3, handler_timeout_s=0.2, stop_timeout_s=0.4)


# libuv opens a pipe once in a process and keeps it: before any test counts descriptors.
with asyncio.Runner(loop_factory=uvloop.new_event_loop) as _runner:
    _runner.run(asyncio.sleep(0))


class Slow:
    """Answers when told to, or never."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.begun = 0
        self.cancelled = 0

    async def __call__(self, request: AnyRequest, context: RequestContext) -> Answer:
        self.begun += 1
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return ReadHoldingRegistersResponse.of([0])


@asynccontextmanager
async def peer_of(server: Server) -> AsyncIterator[Peer]:
    async with peer(server.endpoints[0]) as found:
        yield found


@asynccontextmanager
async def busy(server: Server, slow: Slow, count: int = 1) -> AsyncIterator[list[Peer]]:
    """Clients with a request in progress each."""
    async with AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(peer(server.endpoints[0])) for _ in range(count)]
        for one in peers:
            one.send(adu(1))
        await until(lambda: slow.begun == count)
        yield peers


def serves(server: Server) -> bool:
    return server.serving


@contextmanager
def descriptors_limited_to(most: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


# Serving


async def test_it_serves_inside_its_block() -> None:
    server = Server(Bank(), ANYWHERE)
    assert not serves(server)
    async with server as entered:
        assert entered is server
        assert serves(server)
        (url,) = server.endpoints
        assert repr(server) == f"<Server serving {url}>"
        async with peer(url) as one:
            assert await one.ask(write_register(42)) == write_register(42)
            assert await one.ask() == b"\x03\x02\x00\x2a"
    assert not serves(server)
    with pytest.raises(ConnectionRefusedError):
        await connect(url)


@pytest.mark.requirement("TG-4.2.1.1-port-502")
async def test_by_default_it_listens_where_nobody_else_can_reach_it() -> None:
    assert repr(Server(Bank())) == "<Server new tcp://127.0.0.1:5020>"


@pytest.mark.parametrize("handler", [Bank(), LocalDevice(), {1: Bank()}, lambda request, context: request.respond()])
async def test_whatever_can_answer_may_be_given(handler: Any) -> None:
    async with Server(handler, ANYWHERE) as server, peer(server.endpoints[0]) as one:
        assert await one.ask(write_register(42)) == write_register(42)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((5, ANYWHERE), "cannot answer requests"),
        (({}, ANYWHERE), "no unit has a handler"),
        ((Bank(), "ftp://127.0.0.1"), "scheme 'ftp'"),
        ((Bank(), "tcp://127.0.0.1:99999"), "99999"),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_built(arguments: Any, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        Server(*arguments)


@pytest.mark.requirement("TG-4.2.1.1-transactions")
async def test_sixteen_requests_in_one_segment_get_sixteen_answers() -> None:
    async with Server(Bank(), ANYWHERE) as server, peer(server.endpoints[0]) as one:
        one.send(b"".join(map(adu, range(16))))
        assert [(await one.answer()).transaction for _ in range(16)] == list(range(16))


@pytest.mark.requirement("TG-4.2.1.1-port-configurable")
async def test_several_endpoints_reach_the_same_device(tmp_path: Path) -> None:
    path = tmp_path / "modbus.sock"
    endpoints: list[str | Endpoint] = [ANYWHERE, Endpoint("tcp", host="127.0.0.2"), f"unix://{path}", "tcp://[::1]:0"]
    async with Server(Bank(), *endpoints) as server:
        assert server.statistics().listeners == 4
        assert server.endpoints[2] == f"unix://{path}"
        assert server.endpoints[3].startswith("tcp://[::1]:")
        for value, url in enumerate(server.endpoints, 1):
            async with peer(url) as writer:
                await writer.ask(write_register(value))
            for other in server.endpoints:
                async with peer(other) as reader:
                    assert await reader.ask() == bytes((3, 2, 0, value))
    assert not path.exists()


async def test_a_handler_is_told_who_asks(tmp_path: Path) -> None:
    seen: list[RequestContext] = []

    def handler(request: AnyRequest, context: RequestContext) -> Answer:
        seen.append(context)
        return ReadHoldingRegistersResponse.of([0])

    async with Server(handler, ANYWHERE, "tcp://[::1]:0", f"unix://{tmp_path}/socket") as server:
        ports = []
        for url in server.endpoints:
            async with peer(url) as one:
                await one.ask(unit=17, transaction=0xABCD)
                ports.append(one.writer.get_extra_info("sockname")[1:2])
        assert [context.peer for context in seen[:2]] == [f"127.0.0.1:{ports[0][0]}", f"[::1]:{ports[1][0]}"]
        assert [context.connection.host for context in seen] == ["127.0.0.1", "::1", ""]
        assert [context.connection.endpoint for context in seen] == list(server.endpoints)
        assert [context.connection_id for context in seen] == [1, 2, 3]
        assert {(context.unit, context.transaction) for context in seen} == {(17, 0xABCD)}


@pytest.mark.requirement("SEC-R-24")
async def test_a_policy_decides() -> None:
    class ReadOnly:
        unconditional = False

        def allows(self, request: AnyRequest, context: RequestContext) -> bool:
            return request.function_code == 3

    async with Server(Bank(), ANYWHERE, policy=ReadOnly()) as server, peer(server.endpoints[0]) as one:
        assert await one.ask(write_register(1)) == bytes.fromhex("8601")
        assert await one.ask() == ZERO


async def test_two_servers_in_one_process_share_nothing() -> None:
    quick = Limits(max_connections=16)
    async with Server(Bank(), ANYWHERE) as first, Server(Bank(), ANYWHERE, limits=quick) as second:
        async with peer(first.endpoints[0]) as one, peer(second.endpoints[0]) as two:
            await one.ask(write_register(7))
            await one.ask(b"\x08\0\0\0\0")
            assert await two.ask() == ZERO
            two.send(NOT_MODBUS)
            assert await two.end() == "eof"
            assert await one.ask() == b"\x03\x02\0\x07"
            await until(lambda: second.statistics().connections == 0)
            one_stat, two_stat = first.statistics(), second.statistics()
            assert (one_stat.requests, two_stat.requests) == (3, 1)
            assert (one_stat.rejected_frames, two_stat.rejected_frames) == ({}, {"protocol_id": 1})
            assert (one_stat.max_connections, two_stat.max_connections) == (1024, 16)
        await first.stop()
        async with peer(second.endpoints[0]) as two:
            assert await two.ask() == ZERO


@pytest.mark.slow
def test_it_serves_on_uvloop_too() -> None:
    async def main() -> None:
        slow = Slow()
        async with Server({1: Bank(), 2: slow}, ANYWHERE, limits=QUICK) as server, peer(server.endpoints[0]) as one:
            one.send(b"".join(map(adu, range(16))))
            assert [(await one.answer()).transaction for _ in range(16)] == list(range(16))
            assert await one.ask(unit=2) == FAILED
            one.send(adu(1)[:5])
            assert await one.end() == "eof"
            async with peer(server.endpoints[0]) as two:
                await two.ask()
                two.writer.write_eof()
                assert await two.end() == "eof"
            listener = server._listeners[0]
            assert listener._socket is not None
            listener._socket.shutdown(socket.SHUT_RDWR)
            await until(lambda: listener.relistens == 1)
            async with peer(server.endpoints[0]) as three:
                assert await three.ask() == ZERO
            async with peer(server.endpoints[0]) as four:
                await four.ask(unit=1)
                four.send(adu(9, 2))
                four.writer.write_eof()
                assert (await four.answer()).pdu == FAILED  # the sweep has looked at it meanwhile
                assert await four.end() == "eof"
            async with peer(server.endpoints[0]) as five:
                await five.ask()
                assert await server.stop() == Drained(1)
                assert await five.end() == "eof"

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


# Limits


async def test_limits_are_settled_and_lowered_to_what_the_process_can_hold() -> None:
    observer = RecordingObserver()
    with descriptors_limited_to(descriptor_count() + 150):
        server = Server(Bank(), ANYWHERE, limits=Limits(max_connections=100_000), observer=observer)
        assert server.limits.max_connections == 100_000
        async with server:
            usable = server.limits.max_connections
            assert 16 <= usable <= 150 - 64 + 32
            assert server.limits.max_connections_per_peer == usable // 2
            assert server.limits.max_priority_connections == usable // 4
            assert server.statistics().max_connections == usable
            (event,) = observer.of(EventKind.LIMIT_LOWERED)
            assert event.reason == "descriptors"
            assert "100000" in event.detail
            assert str(usable) in event.detail


async def test_limits_that_fit_are_not_lowered() -> None:
    observer = RecordingObserver()
    async with Server(Bank(), ANYWHERE, limits=Limits(max_connections=20), observer=observer) as server:
        assert server.limits.max_connections == 20
        assert observer.of(EventKind.LIMIT_LOWERED) == []


async def test_a_server_that_could_serve_nobody_does_not_start() -> None:
    server = Server(Bank(), ANYWHERE)
    with descriptors_limited_to(descriptor_count() + 40), pytest.raises(ConfigurationError, match="raise the limit"):
        await server.start()
    assert server.endpoints == ()
    with pytest.raises(ServerStateError, match="stopped"):
        await server.start()


@pytest.mark.requirement("TG-4.2.1.2-oldest-unused")
async def test_when_full_the_newcomer_is_served_and_the_oldest_that_never_asked_goes() -> None:
    limits = Limits(max_connections=3, max_connections_per_peer=3)
    async with Server(Bank(), ANYWHERE, limits=limits) as server, AsyncExitStack() as stack:
        url = server.endpoints[0]
        hosts = ("127.0.0.2", "127.0.0.3", "127.0.0.4")
        first, second, third = [await stack.enter_async_context(peer(url, host)) for host in hosts]
        await until(lambda: server.statistics().connections == 3)
        await first.ask()
        await asyncio.sleep(0.15)  # the newborn are spared
        async with peer(url) as newcomer:
            assert await newcomer.ask() == ZERO
            assert await second.end() in ("eof", "reset")
            assert await first.ask() == ZERO
            assert await third.ask() == ZERO
        found = server.statistics()
        assert found.closed_by_reason["evicted_unused"] == 1
        assert (found.peak_connections, found.opened) == (3, 4)


@pytest.mark.requirement("TG-4.2.1.2-all-used")
async def test_when_full_and_all_are_active_the_newcomer_is_closed_at_once() -> None:
    limits = Limits(max_connections=2, max_connections_per_peer=2)
    async with Server(Bank(), ANYWHERE, limits=limits) as server, AsyncExitStack() as stack:
        url = server.endpoints[0]
        peers = [await stack.enter_async_context(peer(url, f"127.0.0.{number}")) for number in (2, 3)]
        for one in peers:
            await one.ask()
        for _ in range(3):
            async with peer(url) as refused:
                assert await refused.end() in ("eof", "reset")
        for one in peers:
            assert await one.ask() == ZERO
        found = server.statistics()
        assert found.refused_by_reason == {"full": 3}
        assert (found.opened, found.connections, found.closed) == (2, 2, 0)


@pytest.mark.requirement("TG-4.2.1.2-maximum")
async def test_one_peer_cannot_lock_out_the_others(tmp_path: Path) -> None:
    limits = Limits(max_connections=6)
    async with Server(Bank(), ANYWHERE, f"unix://{tmp_path}/socket", limits=limits) as server:
        url, unix = server.endpoints
        async with AsyncExitStack() as stack:
            greedy = [await stack.enter_async_context(peer(url, "127.0.0.2")) for _ in range(3)]
            for one in greedy:
                await one.ask()
            async with peer(url, "127.0.0.2") as refused:
                assert await refused.end() in ("eof", "reset")
            assert server.statistics().refused_by_reason == {"per_peer": 1}
            for other in ("127.0.0.3", "127.0.0.4"):
                polite = await stack.enter_async_context(peer(url, other))
                assert await polite.ask() == ZERO
            local = await stack.enter_async_context(peer(unix))
            assert await local.ask() == ZERO


async def test_a_peer_that_connects_too_often_is_refused() -> None:
    limits = Limits(max_connects_per_peer_per_s=2.0)
    async with Server(Bank(), ANYWHERE, limits=limits) as server:
        url = server.endpoints[0]
        for _ in range(2):
            async with peer(url) as one:
                assert await one.ask() == ZERO
        async with peer(url) as refused, peer(url, "127.0.0.2") as other:
            assert await refused.end() in ("eof", "reset")
            assert await other.ask() == ZERO
        assert server.statistics().refused_by_reason == {"rate": 1}


@pytest.mark.requirement("TG-4.2.1.2-priority-accepted")
async def test_priority_peers_come_in_when_it_is_full() -> None:
    limits = Limits(max_connections=2, max_connections_per_peer=2, priority_peers=frozenset({"127.0.0.9"}))
    async with Server(Bank(), ANYWHERE, limits=limits) as server, AsyncExitStack() as stack:
        url = server.endpoints[0]
        first, second = [await stack.enter_async_context(peer(url)) for _ in range(2)]
        await second.ask()
        await first.ask()
        async with peer(url, "127.0.0.9") as vip:
            assert await vip.ask() == ZERO
            assert await second.end() in ("eof", "reset")
            assert await first.ask() == ZERO


# Time


@pytest.mark.slow
@pytest.mark.requirement("TG-4.2.1.1-close")
async def test_idle_connections_are_closed_and_those_that_ask_stay() -> None:
    limits = Limits(idle_timeout_s=0.4)
    async with Server(Bank(), ANYWHERE, limits=limits) as server:
        async with peer(server.endpoints[0]) as idle, peer(server.endpoints[0]) as active:
            stop = time.monotonic() + 0.9
            while time.monotonic() < stop:
                assert await active.ask() == ZERO
                await asyncio.sleep(0.05)
            assert await idle.end() == "eof"
            assert await active.ask() == ZERO
        assert server.statistics().closed_by_reason["idle"] == 1


async def test_half_a_frame_does_not_hold_a_slot() -> None:
    async with Server(Bank(), ANYWHERE, limits=QUICK) as server, peer(server.endpoints[0]) as one:
        await one.ask()
        started = time.monotonic()
        for byte in adu(1)[:4]:
            one.send(bytes([byte]))
            await asyncio.sleep(0.02)
        assert await one.end() in ("eof", "reset")
        assert time.monotonic() - started < 2.0
        await until(lambda: server.statistics().closed_by_reason == {"frame_timeout": 1})


@pytest.mark.slow
async def test_a_peer_that_never_reads_is_closed_and_others_are_served() -> None:
    server = Server(Bank(), ANYWHERE, limits=QUICK)
    async with server, peer_of(server) as deaf, peer_of(server) as polite:
        deaf.writer.transport.pause_reading()  # type: ignore[attr-defined]  # asyncio's transports can
        request = adu(1, 1, read_holding(0, 125)) * 500
        while not server.statistics().closed_by_reason:
            if deaf.writer.transport.get_write_buffer_size() < 100_000:
                deaf.send(request)
            assert await polite.ask() == ZERO
            assert server.statistics().unsent_bytes < 1_000_000
            await asyncio.sleep(0.01)
        assert server.statistics().closed_by_reason == {"write_timeout": 1}
        assert server.statistics().unsent_bytes == 0


async def test_a_handler_that_hangs_is_answered_for() -> None:
    slow = Slow()
    async with Server({1: slow, 2: Bank()}, ANYWHERE, limits=QUICK) as server, peer(server.endpoints[0]) as one:
        one.send(adu(1))
        assert await one.ask(unit=2, transaction=2) == ZERO
        assert (await one.answer()).pdu == FAILED
        await until(lambda: slow.cancelled == 1)
        found = server.statistics()
        assert found.handler_failures == {"ModbusTimeoutError": 1}
        assert found.exceptions == 1


@pytest.mark.slow
async def test_a_handler_that_blocks_the_loop_is_noticed() -> None:
    def handler(request: AnyRequest, context: RequestContext) -> Answer:
        time.sleep(0.5)
        return ReadHoldingRegistersResponse.of([0])

    observer = RecordingObserver()
    async with Server(handler, ANYWHERE, limits=QUICK, observer=observer) as server, peer(server.endpoints[0]) as one:
        assert await one.ask() == ZERO
        await until(lambda: server.statistics().loop_lags >= 1)
        assert server.statistics().max_loop_lag_s >= 0.25
        assert "blocked the event loop" in observer.of(EventKind.LOOP_LAGGED)[0].detail


async def test_the_observer_is_ticked_and_may_raise() -> None:
    class Raising(RecordingObserver):
        def notify(self, event: Event) -> None:
            super().notify(event)
            raise ValueError("an observer must not raise")

        def tick(self, now: float) -> None:
            super().tick(now)
            raise OSError("disk full")

    observer = Raising()
    async with Server(Bank(), ANYWHERE, limits=QUICK, observer=observer) as server:
        async with peer(server.endpoints[0]) as one:
            assert await one.ask() == ZERO
            await until(lambda: observer.ticks >= 3)
            one.send(adu(1)[:3])
            assert await one.end() in ("eof", "reset")
        found = server.statistics()
        assert found.observer_failures >= 5
        assert found.closed_by_reason == {"frame_timeout": 1}


@pytest.mark.slow
async def test_descriptors_that_run_short_are_told_once_each_way() -> None:
    observer = RecordingObserver()
    with descriptors_limited_to(400):
        async with Server(Bank(), ANYWHERE, observer=observer):
            held = [os.dup(0) for _ in range(290 - descriptor_count())]
            try:
                await until(lambda: observer.of(EventKind.DESCRIPTORS_HIGH))
            finally:
                for number in held:
                    os.close(number)
            await until(lambda: observer.of(EventKind.DESCRIPTORS_NORMAL))
    assert observer.reasons(EventKind.DESCRIPTORS_HIGH) == ["70%"]
    assert observer.reasons(EventKind.DESCRIPTORS_NORMAL) == ["70%"]


# Descriptors and listeners


async def test_a_lost_listening_socket_is_noticed_by_the_sweep() -> None:
    observer = RecordingObserver()
    async with Server(Bank(), ANYWHERE, limits=QUICK, observer=observer) as server:
        url = server.endpoints[0]
        async with peer(url) as before:
            await before.ask()
            listener = server._listeners[0]
            assert listener._socket is not None
            os.close(listener._socket.fileno())
            await until(lambda: server.statistics().relistens == 1)
            assert server.endpoints == (url,)
            assert await before.ask() == ZERO
            async with peer(url) as after:
                assert await after.ask() == ZERO
        assert server.statistics().listeners == 1
        assert observer.reasons(EventKind.LISTENER_LOST) == ["closed"]


async def test_the_sweep_survives_a_connection_under_the_number_of_a_lost_listener() -> None:
    with loop_complaints() as complaints:
        observer = RecordingObserver()
        async with Server(Bank(), ANYWHERE, ANYWHERE, limits=QUICK, observer=observer) as server:
            first, second = server._listeners
            assert first._socket is not None
            number = first._socket.fileno()
            program = "import socket, sys; s = socket.create_connection(('127.0.0.1', int(sys.argv[1]))); s.recv(1)"
            child = subprocess.Popen([sys.executable, "-c", program, str(second.endpoint.port)])
            with child:
                os.close(number)  # the next accept gets it
                await until(lambda: server.statistics().opened == 1, 10.0)
                await until(lambda: server.statistics().relistens == 1)
                ticks = observer.ticks
                await until(lambda: observer.ticks > ticks + 3)
                for url in server.endpoints:
                    async with peer(url) as one:
                        assert await one.ask() == ZERO
                child.kill()
            await until(lambda: server.statistics().listeners == 2)
    assert complaints == []


async def test_out_of_descriptors_it_serves_on_and_recovers() -> None:
    """Something else in the process takes all descriptors: newcomers are refused, never left hanging."""
    observer = RecordingObserver()
    async with Server(Bank(), ANYWHERE, limits=Limits(idle_timeout_s=2.0), observer=observer) as server:
        url = server.endpoints[0]
        port = int(url.rpartition(":")[2])
        async with peer(url) as before:
            assert await before.ask() == ZERO
            newcomers = [socket.socket() for _ in range(3)]
            held: list[int] = []
            with descriptors_limited_to(descriptor_count() + 40):
                with suppress(OSError):
                    while True:
                        held.append(os.dup(0))
                try:
                    for sock in newcomers:
                        sock.setblocking(False)
                        sock.connect_ex(("127.0.0.1", port))
                    loop = asyncio.get_running_loop()
                    async with asyncio.timeout(5.0):
                        assert await loop.sock_recv(newcomers[0], 1) == b""
                    assert await before.ask() == ZERO
                    assert server.statistics().accept_errors["EMFILE"] >= 1
                    assert server.statistics().refused_by_reason["descriptors"] >= 1
                finally:
                    for number in held:
                        os.close(number)
            for sock in newcomers:
                sock.close()
            async with peer(url) as after:
                assert await after.ask() == ZERO
        assert server.statistics().listeners == 1


async def test_a_socket_that_cannot_be_set_up_gives_its_slot_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def attach(*_: object) -> None:
        raise OSError(errno.ENOSPC, "the system watches too many already")

    observer = RecordingObserver()
    async with Server(Bank(), ANYWHERE, observer=observer) as server:
        monkeypatch.setattr(Sockets, "attach", attach)
        async with peer(server.endpoints[0]) as one:
            assert await one.end() in ("eof", "reset")
        found = server.statistics()
        assert (found.connections, found.opened, found.closed) == (0, 1, 1)
        assert found.closed_by_reason == {"setup": 1}
        assert found.accept_errors == {"setup": 1}
        monkeypatch.undo()
        async with peer(server.endpoints[0]) as two:
            assert await two.ask() == ZERO


# Start


async def test_a_server_starts_once() -> None:
    async with Server(Bank(), ANYWHERE) as server:
        with pytest.raises(ServerStateError, match=r"is serving.*build a new one"):
            await server.start()
    with pytest.raises(ServerStateError, match=r"is stopped.*build a new one"):
        await server.start()
    with pytest.raises(ServerStateError, match="is stopped"):
        await server.serve_forever()


async def test_a_taken_port_leaves_nothing_open() -> None:
    async with Server(Bank(), ANYWHERE) as first:
        second = Server(Bank(), ANYWHERE, first.endpoints[0])
        with pytest.raises(ConnectError, match="in use"):
            async with second:
                pass
        assert second.statistics().listeners == 0
        assert await second.stop() == Drained(0)


async def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(ConnectError, match="no-such-host"):
        await Server(Bank(), "tcp://no-such-host.invalid:0").start()


async def test_a_start_that_is_cancelled_leaves_nothing() -> None:
    server = Server(Bank(), "tcp://localhost:0")
    task = asyncio.create_task(server.start())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not serves(server)
    assert await server.stop() == Drained(0)


# Stop


async def test_idle_connections_close_at_once() -> None:
    server = Server(Bank(), ANYWHERE)
    await server.start()
    async with peer(server.endpoints[0]) as one, peer(server.endpoints[0]) as two:
        await one.ask()
        await two.ask()
        started = time.monotonic()
        assert await server.stop() == Drained(2)
        assert time.monotonic() - started < 1.0
        assert await one.end() == await two.end() == "eof"
        assert await server.stop() == Drained(2)
    found = server.statistics()
    assert found.closed_by_reason == {"stopping": 2}
    assert (found.connections, found.listeners, found.requests) == (0, 0, 2)


async def test_busy_connections_close_after_their_answer() -> None:
    slow = Slow()
    server = Server(slow, ANYWHERE)
    await server.start()
    async with busy(server, slow, 3) as peers:
        stop = asyncio.create_task(server.stop())
        await asyncio.sleep(0.05)
        assert not stop.done()
        assert not serves(server)
        slow.go_on.set()
        assert await stop == Drained(3)
        for one in peers:
            assert (await one.answer()).pdu == ZERO
            assert await one.end() == "eof"


async def test_what_has_arrived_when_it_stops_is_answered() -> None:
    server = Server(Bank(), ANYWHERE)
    await server.start()
    async with peer(server.endpoints[0]) as one:
        await one.ask()
        one.send(adu(2))  # sent at once: it is in the server's receive buffer before anything else runs
        assert await server.stop() == Drained(1)
        assert (await one.answer()).transaction == 2
        assert await one.end() == "eof"


async def test_at_the_deadline_the_rest_is_cut_off() -> None:
    slow = Slow()
    server = Server({1: slow, 2: Bank()}, ANYWHERE, limits=Limits(stop_timeout_s=0.3))
    await server.start()
    async with busy(server, slow, 2) as peers, peer(server.endpoints[0]) as idle:
        await idle.ask(unit=2)
        started = time.monotonic()
        assert await server.stop() == Forced(3, 2)
        assert 0.29 <= time.monotonic() - started < 2.0
        assert await idle.end() == "eof"
        for one in peers:
            assert await one.end() in ("eof", "reset")
    assert slow.cancelled == 2
    assert server.statistics().closed_by_reason == {"stopping": 1, "forced": 2}
    assert await server.stop() == Forced(3, 2)


async def test_a_timeout_of_its_own_is_possible_for_one_stop() -> None:
    slow = Slow()
    server = Server(slow, ANYWHERE, limits=Limits(stop_timeout_s=60.0))
    await server.start()
    with pytest.raises(UsageError, match="cannot be negative"):
        await server.stop(-1.0)
    assert serves(server)
    async with busy(server, slow):
        started = time.monotonic()
        assert await server.stop(0.1) == Forced(1, 1)
        assert time.monotonic() - started < 2.0


async def test_a_stop_at_once_cuts_off_only_what_is_busy() -> None:
    server = Server(Bank(), ANYWHERE)
    await server.start()
    async with peer(server.endpoints[0]) as one, peer(server.endpoints[0]) as two:
        await one.ask()
        await two.ask()
        assert await server.stop(0) == Drained(2)
    slow = Slow()
    server = Server({1: slow, 2: Bank()}, ANYWHERE)
    await server.start()
    async with busy(server, slow), peer(server.endpoints[0]) as idle:
        await idle.ask(unit=2)
        assert await server.stop(0) == Forced(2, 1)


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 50])
async def test_a_second_stop_hurries_the_first(turns: int) -> None:
    slow = Slow()
    server = Server(slow, ANYWHERE, limits=Limits(stop_timeout_s=60.0))
    await server.start()
    async with busy(server, slow):
        first = asyncio.create_task(server.stop())
        for _ in range(turns):
            await asyncio.sleep(0)
        started = time.monotonic()
        assert await server.stop(0) == Forced(1, 1)
        assert await first == Forced(1, 1)
        assert time.monotonic() - started < 2.0


async def test_any_number_of_hurried_stops_is_one_stop() -> None:
    with loop_complaints() as complaints:
        slow = Slow()
        server = Server(slow, ANYWHERE, limits=Limits(stop_timeout_s=60.0))
        await server.start()
        async with busy(server, slow):
            server.request_stop()
            for _ in range(10):
                server.request_stop(at_once=True)
                await asyncio.sleep(0)
            assert await server.stop() == Forced(1, 1)
        server.request_stop(at_once=True)
    assert complaints == []


async def test_a_second_stop_without_hurry_waits_with_the_first() -> None:
    slow = Slow()
    server = Server(slow, ANYWHERE, limits=Limits(stop_timeout_s=60.0))
    await server.start()
    async with busy(server, slow):
        stops = [asyncio.create_task(server.stop(timeout)) for timeout in (None, 0.01, None)]
        await asyncio.sleep(0.1)
        assert not any(stop.done() for stop in stops)
        slow.go_on.set()
        assert await asyncio.gather(*stops) == [Drained(1)] * 3


async def test_a_stop_that_is_cancelled_goes_on() -> None:
    slow = Slow()
    server = Server(slow, ANYWHERE)
    await server.start()
    async with busy(server, slow):
        stop = asyncio.create_task(server.stop())
        await asyncio.sleep(0.02)
        stop.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stop
        slow.go_on.set()
        assert await server.stop() == Drained(1)


async def test_stopping_what_never_started_is_nothing() -> None:
    server = Server(Bank(), ANYWHERE)
    assert server.statistics().connections == 0
    assert await server.stop() == await server.stop() == Drained(0)
    with pytest.raises(ServerStateError, match="is stopped"):
        await server.start()
    other = Server(Bank(), ANYWHERE)
    other.request_stop()
    with pytest.raises(ServerStateError, match="is stopped"):
        await other.serve_forever()


@pytest.mark.parametrize("way", ["stop", "request"])
async def test_a_stop_while_names_are_resolved_ends_the_start(way: str) -> None:
    server = Server(Bank(), "tcp://localhost:0")
    start = asyncio.create_task(server.start())
    await asyncio.sleep(0)
    with pytest.raises(ServerStateError, match="is starting"):
        await server.serve_forever()
    if way == "stop":
        assert await server.stop() == Drained(0)
    else:
        server.request_stop()
    with pytest.raises(ServerStateError, match="stopped while it was starting"):
        await start
    assert server.endpoints == ()


async def test_a_stop_during_start_is_not_lost() -> None:
    class Stopping(RecordingObserver):
        def notify(self, event: Event) -> None:
            if event.kind is EventKind.LISTENER_OPENED:
                server.request_stop()

    server = Server(Bank(), ANYWHERE, observer=Stopping())
    with pytest.raises(ServerStateError, match="stopped while it was starting"):
        await server.start()
    assert not serves(server)
    assert server.statistics().listeners == 0


@contextmanager
def another_thread(work: Callable[[], object]) -> Iterator[list[object]]:
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    try:
        yield results
    finally:
        thread.join(10.0)
        assert not thread.is_alive()


async def test_stop_from_another_thread() -> None:
    slow = Slow()
    server = Server(slow, ANYWHERE)
    await server.start()
    async with busy(server, slow):
        with another_thread(lambda: asyncio.run(server.stop())) as results:
            await until(lambda: not serves(server))
            slow.go_on.set()
            await until(lambda: results)
        assert results == [Drained(1)]
        assert await server.stop() == Drained(1)


async def test_a_request_to_stop_from_another_thread() -> None:
    server = Server(Bank(), ANYWHERE)
    serving = asyncio.create_task(server.serve_forever())
    await until(lambda: serves(server))
    with another_thread(server.request_stop):
        assert await serving == Drained(0)


def test_stop_from_another_loop_after_the_end() -> None:
    async def serve() -> Server:
        async with Server(Bank(), ANYWHERE) as server, peer(server.endpoints[0]) as one:
            await one.ask()
            await server.stop()
        return server

    server = asyncio.run(serve())
    assert asyncio.run(server.stop()) == Drained(1)
    server.request_stop()


async def test_stop_from_a_handler() -> None:
    results: list[object] = []

    async def handler(request: AnyRequest, context: RequestContext) -> Answer:
        results.append(await server.stop())
        return ReadHoldingRegistersResponse.of([0])

    server = Server({1: handler, 2: Bank()}, ANYWHERE, limits=Limits(stop_timeout_s=60.0, handler_timeout_s=60.0))
    await server.start()
    async with peer(server.endpoints[0]) as one, peer(server.endpoints[0]) as other:
        await other.ask(unit=2)
        one.send(adu(1, 1))
        assert await one.end() == "eof"
        assert await other.end() == "eof"
        await until(lambda: results)
    assert results == [Drained(2)]


async def test_requests_held_behind_the_one_that_stops_are_answered() -> None:
    async def handler(request: AnyRequest, context: RequestContext) -> Answer:
        if context.transaction == 1:
            await server.stop()
        return ReadHoldingRegistersResponse.of([0])

    limits = Limits(max_in_flight=1, stop_timeout_s=60.0, handler_timeout_s=60.0)
    server = Server(handler, ANYWHERE, limits=limits)
    await server.start()
    async with peer(server.endpoints[0]) as one:
        one.send(adu(1) + adu(2) + adu(3))
        assert [(await one.answer()).transaction for _ in range(2)] == [2, 3]
        assert await one.end() == "eof"
    assert await server.stop() == Drained(1)


async def test_where_descriptors_cannot_be_counted_it_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left() -> int:
        raise OSError(errno.ENFILE, "Too many open files in system")

    monkeypatch.setattr(server_module, "descriptor_count", none_left)
    async with Server(Bank(), ANYWHERE) as server, peer(server.endpoints[0]) as one:
        assert await one.ask() == ZERO
        server._watch_timer.cancel()
        server._watch_descriptors()
        assert server.limits.max_connections == 1024


async def test_a_reset_behind_a_half_close_ends_the_handler() -> None:
    slow = Slow()
    async with Server(slow, ANYWHERE, limits=Limits(idle_timeout_s=1.0)) as server:
        with socket.create_connection(("127.0.0.1", int(server.endpoints[0].rpartition(":")[2]))) as sock:
            sock.sendall(adu(1))
            await until(lambda: slow.begun == 1)
            sock.shutdown(socket.SHUT_WR)
            await asyncio.sleep(0.05)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await until(lambda: slow.cancelled == 1)
        assert server.statistics().connections == 0


async def test_two_handlers_may_stop_it() -> None:
    async def handler(request: AnyRequest, context: RequestContext) -> Answer:
        results.append(await server.stop())
        return ReadHoldingRegistersResponse.of([0])

    results: list[object] = []
    server = Server(handler, ANYWHERE, limits=Limits(stop_timeout_s=60.0, handler_timeout_s=60.0))
    await server.start()
    async with peer(server.endpoints[0]) as one, peer(server.endpoints[0]) as other:
        one.send(adu(1) + adu(2))
        other.send(adu(3))
        assert await one.end() == await other.end() == "eof"
        await until(lambda: len(results) == 3)
    assert results == [Drained(2)] * 3


async def test_a_handler_may_ask_for_the_stop_and_answer() -> None:
    def handler(request: AnyRequest, context: RequestContext) -> Answer:
        server.request_stop()
        return ReadHoldingRegistersResponse.of([0])

    async with Server(handler, ANYWHERE) as server, peer(server.endpoints[0]) as one:
        assert await one.ask() == ZERO
        assert await one.end() == "eof"


@pytest.mark.slow
async def test_a_handler_that_will_not_end_does_not_hold_up_the_stop() -> None:
    release = asyncio.Event()

    async def stubborn(request: AnyRequest, context: RequestContext) -> Answer:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        return ReadHoldingRegistersResponse.of([0])

    server = Server(stubborn, ANYWHERE, limits=Limits(stop_timeout_s=0.1))
    await server.start()
    async with peer(server.endpoints[0]) as one:
        one.send(adu(1))
        await until(lambda: server.statistics().requests)
        started = time.monotonic()
        assert await server.stop() == Forced(1, 1)
        assert time.monotonic() - started < 3.0
        release.set()


async def test_nobody_is_admitted_once_it_stops() -> None:
    slow = Slow()
    server = Server(slow, ANYWHERE)
    await server.start()
    url = server.endpoints[0]
    async with busy(server, slow):
        stop = asyncio.create_task(server.stop())
        await asyncio.sleep(0.02)
        with pytest.raises(ConnectionRefusedError):
            await connect(url)
        slow.go_on.set()
        await stop


# Serving for ever


async def test_serving_for_ever_starts_and_says_how_it_ended() -> None:
    server = Server(Bank(), ANYWHERE)
    serving = asyncio.create_task(server.serve_forever())
    await until(lambda: serves(server))
    async with peer(server.endpoints[0]) as one:
        await one.ask()
        assert await server.stop() == Drained(1)
        assert await serving == Drained(1)


async def test_serving_for_ever_after_a_start() -> None:
    async with Server(Bank(), ANYWHERE) as server:
        serving = asyncio.create_task(server.serve_forever())
        async with peer(server.endpoints[0]) as one:
            await one.ask()
        server.request_stop()
        assert await serving == Drained(0)


async def test_serving_for_ever_joins_a_stop_that_is_under_way() -> None:
    slow = Slow()
    server = Server(slow, ANYWHERE)
    await server.start()
    async with busy(server, slow):
        stop = asyncio.create_task(server.stop())
        await asyncio.sleep(0)
        serving = asyncio.create_task(server.serve_forever())
        await asyncio.sleep(0.02)
        slow.go_on.set()
        assert await stop == await serving == Drained(1)


async def test_cancelling_it_stops_the_server() -> None:
    slow = Slow()
    server = Server(slow, ANYWHERE)
    serving = asyncio.create_task(server.serve_forever())
    await until(lambda: serves(server))
    async with busy(server, slow) as peers:
        serving.cancel()
        await asyncio.sleep(0.02)
        assert not serving.done()
        slow.go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await serving
        assert (await peers[0].answer()).pdu == ZERO
    assert await server.stop() == Drained(1)


async def test_a_start_that_fails_ends_serving_for_ever() -> None:
    async with Server(Bank(), ANYWHERE) as first:
        with pytest.raises(ConnectError):
            await Server(Bank(), first.endpoints[0]).serve_forever()


async def test_an_error_in_its_block_stops_it() -> None:
    server = Server(Bank(), ANYWHERE)
    with pytest.raises(ValueError, match="of the program"):
        async with server:
            raise ValueError("a mistake of the program")
    assert not serves(server)
    assert server.statistics().listeners == 0


# Statistics and logs


async def test_statistics_tell_what_has_happened() -> None:
    async def failing(request: AnyRequest, context: RequestContext) -> Answer:
        raise KeyError("no such thing")

    async with Server({1: Bank(), 2: failing}, ANYWHERE, limits=QUICK) as server:
        url = server.endpoints[0]
        async with peer(url) as one:
            await one.ask()
            assert await one.ask(b"\x03\xff\xff\0\2") == bytes.fromhex("8302")
            assert await one.ask(unit=2) == FAILED
            found = server.statistics()
            assert (found.connections, found.opened, found.closed, found.requests) == (1, 1, 0, 3)
            assert found.exceptions == 2
            assert found.handler_failures == {"KeyError": 1}
        async with peer(url) as other:
            other.send(NOT_MODBUS)
            await other.end()
        await until(lambda: server.statistics().connections == 0)
        found = server.statistics()
        assert found.rejected_frames == {"protocol_id": 1}
        assert found.closed_by_reason == {"peer_closed": 1, "protocol_id": 1}
        assert (found.opened, found.closed, found.peak_connections) == (2, 2, 1)
        assert (found.accept_errors, found.refused_by_reason, found.relistens) == ({}, {}, 0)
        assert (found.unsent_bytes, found.observer_failures, found.listeners) == (0, 0, 1)
    assert server.statistics().listeners == 0
    assert server.statistics().opened == 2


async def test_a_connection_that_is_reset_is_told_as_such() -> None:
    async with Server(Bank(), ANYWHERE) as server:
        async with peer(server.endpoints[0]) as one:
            await one.ask()
        await until(lambda: server.statistics().connections == 0)
        with socket.create_connection(("127.0.0.1", int(server.endpoints[0].rpartition(":")[2]))) as sock:
            await until(lambda: server.statistics().connections == 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await until(lambda: server.statistics().connections == 0)
        assert server.statistics().closed_by_reason == {"peer_closed": 1, "reset": 1}


async def test_what_was_suppressed_is_told_at_the_end() -> None:
    texts: list[str] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            texts.append(record.getMessage())

    logger = logging.Logger("of this test alone", logging.INFO)
    logger.addHandler(Lines())
    async with Server(Bank(), ANYWHERE, observer=LogObserver(logger, lines=1)) as server:
        for _ in range(4):
            async with peer(server.endpoints[0]) as one:
                one.send(NOT_MODBUS)
                await one.end()
    assert [text for text in texts if "more" in text] == ["frame rejected (protocol_id): 3 more were not written"]


async def test_it_needs_a_running_loop_only_to_start() -> None:
    built: list[Server] = []
    with another_thread(lambda: built.append(Server(Bank(), ANYWHERE))):
        pass
    async with built[0] as server, peer(server.endpoints[0]) as one:
        assert await one.ask(READ) == ZERO


async def test_what_a_user_calls_attach_is_left_alone() -> None:
    class Device:
        """Looks as if it could take a server's lock and observer over, but keeps no data here."""

        attached: tuple[object, ...] = ()

        def attach(self, *given: object) -> None:
            self.attached = given

        def handle(self, request: AnyRequest, context: RequestContext) -> Answer | Awaitable[Answer]:
            return ReadHoldingRegistersResponse.of([0])

    device = Device()
    async with Server(device, ANYWHERE) as server, peer(server.endpoints[0]) as one:
        assert await one.ask() == ZERO
        assert device.attached == ()
