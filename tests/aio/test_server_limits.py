from __future__ import annotations

import asyncio
import errno
import os
import socket
import subprocess
import sys
import time
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from everbus.aio.server import Server
from everbus.aio.transport import Sockets
from everbus.errors import ConfigurationError, ServerStateError
from everbus.limits import Limits
from everbus.observe import Event, EventKind
from everbus.protocol.pdu.registers import ReadHoldingRegistersResponse
from everbus.protocol.pdu.table import AnyRequest
from everbus.resources import descriptor_count
from everbus.service.bank import Bank
from everbus.service.context import RequestContext
from everbus.service.handler import Answer
from everbus.testing import RecordingObserver
from tests.aio.servers import ANYWHERE, QUICK, Slow, descriptors_limited_to, peer_of
from tests.aio.wire import FAILED, ZERO, adu, loop_complaints, peer, read_holding, until

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
            listener = server._doors.listeners[0]
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
            first, second = server._doors.listeners
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
