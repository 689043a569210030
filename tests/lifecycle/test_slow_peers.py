"""Peers that dawdle, never read, or ask for everything at once: faults C1 to C5."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from pathlib import Path

import pytest

from everbus.protocol.pdu.table import AnyRequest
from everbus.service.context import RequestContext
from everbus.service.handler import Answer
from everbus.service.local import LocalDevice
from tests.lifecycle.processes import ServerProcess, hosting
from tests.lifecycle.support import (
    Noise,
    Peer,
    answered,
    asking,
    closing,
    connect_all,
    measured,
    others_served,
    read_request,
    request,
    serving,
    until,
)

MIB = 1 << 20
FRAME_S = 0.4
FRAME_GONE_S = FRAME_S + 0.1 + 0.15
"""The timeout, a sweep period, and this machine."""


@pytest.mark.slow
async def test_c01_half_headers_are_gone_after_the_frame_timeout() -> None:
    """C1: 50 connections with three bytes, then silence."""
    async with serving(frame_timeout_s=FRAME_S) as served, others_served(served.port):
        with closing(await connect_all(served.port, 50)) as peers:
            for peer in peers:
                await peer.send(request()[:3])
            times = await asyncio.gather(*(peer.seconds_until_closed() for peer in peers))
        measured("C1", first_s=min(times), last_s=max(times))
        assert min(times) >= FRAME_S - 0.1
        assert max(times) <= FRAME_GONE_S
        assert served.statistics.closed_by_reason == {"frame_timeout": 50}
        await answered(served.port)


async def drip(peer: Peer, data: bytes, every_s: float) -> None:
    """One byte after the other."""
    with suppress(ConnectionError):
        for byte in data:
            await peer.send(bytes([byte]))
            await asyncio.sleep(every_s)


@pytest.mark.slow
async def test_c02_one_byte_at_a_time_is_gone_at_the_frame_timeout() -> None:
    """C2: it counts from the first byte, whatever comes after it."""
    async with serving(frame_timeout_s=FRAME_S) as served, others_served(served.port):
        with closing(await connect_all(served.port, 10)) as peers:
            async with asyncio.TaskGroup() as group:
                drips = [group.create_task(drip(peer, request(), 0.09)) for peer in peers]
                times = await asyncio.gather(*(peer.seconds_until_closed() for peer in peers))
                for task in drips:
                    task.cancel()
        assert min(times) >= FRAME_S - 0.1
        assert max(times) <= FRAME_GONE_S
        assert served.statistics.closed_by_reason == {"frame_timeout": 10}
        await answered(served.port)


@pytest.mark.slow
async def test_c02_two_hundred_of_them_cost_nothing(tmp_path: Path) -> None:
    """C2, V09: a byte per second each, with a frame timeout of 3 s: the processor has a rest."""
    with hosting(tmp_path, frame_timeout_s=3.0) as server, closing(await connect_all(server.port, 200)) as peers:
        async with others_served(server.port), asyncio.TaskGroup() as group:
            cpu, begun = server.cpu_s, time.monotonic()
            drips = [group.create_task(drip(peer, request(), 1.0)) for peer in peers]
            times = await asyncio.gather(*(peer.seconds_until_closed() for peer in peers))
            share = (server.cpu_s - cpu) / (time.monotonic() - begun)
            for task in drips:
                task.cancel()
        measured("C2", last_s=max(times), cpu=f"{share:.2%}")
        assert max(times) <= 3.0 + 0.75 + 0.25
        assert share <= 0.05  # of which the client beside it takes most
        assert server.statistics["closed_by_reason"]["frame_timeout"] == 200
        await answered(server.port)


@pytest.mark.slow
async def test_c02_each_frame_has_its_own_time() -> None:
    """C2: a client that is always in the middle of some frame, but finishes each in time, stays."""
    async with serving(frame_timeout_s=FRAME_S) as served:
        with await Peer.connect(served.port) as peer:
            await peer.send(request(1)[:5])
            for number in range(1, 6):
                await asyncio.sleep(FRAME_S / 2)
                await peer.send(request(number)[5:] + request(number + 1)[:5])
                assert await peer.answer() == (number, b"\x03\x02\x00\x00")
            assert await peer.seconds_until_closed() <= FRAME_GONE_S
        assert served.statistics.closed_by_reason == {"frame_timeout": 1}
        await answered(served.port)


@pytest.mark.slow
async def test_c02_the_time_does_not_run_while_we_do_not_read() -> None:
    """C2: the rest of the frame has arrived; that it is not read yet is our doing."""

    async def slow(call: AnyRequest, context: RequestContext) -> Answer:
        await asyncio.sleep(0.5)
        return device.handle(call, context)

    device = LocalDevice()
    async with serving(slow, frame_timeout_s=0.3, max_in_flight=1) as served:
        with await Peer.connect(served.port) as peer:
            await peer.send(request(1) + request(2) + request(3)[:6])
            await asyncio.sleep(0.05)
            await peer.send(request(3)[6:])
            assert [(await peer.answer())[0] for _ in range(3)] == [1, 2, 3]
        await until(lambda: served.statistics.connections == 0)
        assert served.statistics.closed_by_reason == {"peer_closed": 1}


class Flood:
    """A client that asks for as much as it can and never reads."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.sent = 0
        self.blocked_s = 0.0
        """When the server took no more for the first time, on the monotonic clock; 0: never."""
        self.ended_s = 0.0
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        data = read_request(1, 125) * 500
        while not self.ended_s:
            try:
                self.sent += self.peer.socket.send(data)
                await asyncio.sleep(0)
            except BlockingIOError:
                self.blocked_s = self.blocked_s or time.monotonic()
                await asyncio.sleep(0.01)
            except ConnectionError:
                self.ended_s = time.monotonic()


async def watch_memory(server: ServerProcess, seconds: float) -> int:
    """The most that its memory is above the start in that time."""
    start = most = server.memory
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        await asyncio.sleep(0.02)
        most = max(most, server.memory)
    return most - start


@pytest.mark.slow
async def test_c03_requests_without_reading_the_answers(tmp_path: Path) -> None:
    """C3: for 8 s: reading pauses, memory is bounded, it is closed at the write timeout."""
    with hosting(tmp_path, write_timeout_s=4.0) as server:
        for _ in range(2):  # a busy server has its memory already
            with await Peer.connect(server.port) as peer:
                await peer.send(read_request(1, 125) * 2000)
                await peer.receive(2000 * 259)
        begun = time.monotonic()
        async with others_served(server.port) as others:
            with await Peer.connect(server.port) as peer:
                flood = Flood(peer)
                grown = await watch_memory(server, 8.0)
                await flood.task
        measured("C3", grown_bytes=grown, sent=flood.sent, blocked_after_s=flood.blocked_s - begun)
        measured("C3", closed_after_s=flood.ended_s - flood.blocked_s, others_worst_s=others.worst_s)
        assert flood.blocked_s, "the server never stopped reading"
        assert flood.blocked_s - begun < 3.0
        assert grown < MIB, f"the process grew by {grown} bytes after {flood.sent} bytes of requests"
        assert 4.0 - 0.5 <= flood.ended_s - flood.blocked_s <= 4.0 + 1.0 + 0.5
        await until(lambda: server.statistics["closed_by_reason"].get("write_timeout") == 1)
        assert server.statistics["unsent_bytes"] == 0
        await answered(server.port)


@pytest.mark.slow
async def test_c03_fifty_of_them_cost_a_quarter_of_a_megabyte_each(tmp_path: Path) -> None:
    """C3: bounded for many too."""
    with hosting(tmp_path, write_timeout_s=2.0) as server:
        with closing(await connect_all(server.port, 50)) as peers:
            floods = [Flood(peer) for peer in peers]
            grown = await watch_memory(server, 3.0)
            await asyncio.gather(*(flood.task for flood in floods))
        assert all(flood.blocked_s for flood in floods)
        measured("C3", fifty_grown_bytes=grown)
        assert grown <= 50 * MIB // 4, f"the process grew by {grown} bytes"
        assert server.statistics["closed_by_reason"]["write_timeout"] == 50
        await answered(server.port)


@pytest.mark.slow
async def test_c03_reading_a_byte_now_and_then_is_not_reading(tmp_path: Path) -> None:
    """C3: the answers stay above the high-water mark: it is closed at the write timeout."""
    with hosting(tmp_path, write_timeout_s=0.6) as server:
        async with others_served(server.port):
            with await Peer.connect(server.port, receive_bytes=4096) as peer:
                flood = Flood(peer)
                await until(lambda: flood.blocked_s > 0)
                while not flood.ended_s:
                    assert time.monotonic() - flood.blocked_s < 2.0
                    with suppress(ConnectionError):
                        await peer.receive(1)
                    await asyncio.sleep(0.05)
        await until(lambda: server.statistics["closed_by_reason"].get("write_timeout") == 1)
        await answered(server.port)


@pytest.mark.slow
async def test_c03_the_whole_server_has_a_cap_too(tmp_path: Path) -> None:
    """C3: over ``max_buffered_bytes`` of unsent answers the connection with the most is closed."""
    cap = 300_000
    with hosting(tmp_path, write_timeout_s=30.0, max_buffered_bytes=cap) as server:
        async with others_served(server.port):
            with closing([await Peer.connect(server.port, receive_bytes=4096) for _ in range(4)]) as peers:
                floods = [Flood(peer) for peer in peers]
                await until(lambda: server.statistics["closed_by_reason"].get("buffer_limit", 0) >= 2)
                await until(lambda: all(flood.blocked_s or flood.ended_s for flood in floods))
                assert 0 < server.statistics["unsent_bytes"] <= cap
                assert server.statistics["closed_by_reason"]["buffer_limit"] < 4
                for flood in floods:
                    flood.task.cancel()
        await until(lambda: server.statistics["connections"] == 0)
        await answered(server.port)


@pytest.mark.slow
async def test_c04_a_burst_of_10000_requests_gets_one_turn_at_a_time(tmp_path: Path) -> None:
    """C4: 20 polite clients beside it; five bursts, so that there is something to measure."""
    with hosting(tmp_path) as server:
        burst = b"".join(request(number) for number in range(10_000))
        async with asking(server.port, 20, every_s=0.01) as control:
            await asyncio.sleep(1.0)
        with Noise() as noise:
            async with asking(server.port, 20, every_s=0.01) as polite:
                with await Peer.connect(server.port) as peer:
                    for _ in range(5):
                        await peer.send(burst)
                        last = await peer.receive(10_000 * 11)
                        assert last[-11:-9] == (9_999).to_bytes(2, "big")
                        await asyncio.sleep(0.1)
        assert polite.failures == control.failures == []
        measured("C4", p99_s=polite.share_s(0.99), worst_s=polite.worst_s, control_p99_s=control.share_s(0.99))
        allowed = 0.02 + 2 * (control.share_s(0.99) + noise.worst_s)
        assert polite.share_s(0.99) <= allowed, (
            f"p99 {polite.share_s(0.99):.4f} s of {len(polite.latencies)}, control {control.share_s(0.99):.4f} s"
        )
        assert server.statistics["requests"] >= 50_000
        await answered(server.port)


async def test_c05_half_closed_after_its_requests() -> None:
    """C5: FIN behind the requests: they are answered, then it closes."""
    async with serving() as served:
        for count in (1, 16, 2000):
            with await Peer.connect(served.port) as peer:
                await peer.send(b"".join(request(number) for number in range(count)))
                peer.finish()
                begun = time.monotonic()
                data = await peer.until_closed()
                assert len(data) == 11 * count
                assert data[-11:-9] == (count - 1).to_bytes(2, "big")
                assert time.monotonic() - begun <= 0.1 + count * 0.0002
        await until(lambda: served.statistics.closed_by_reason == {"peer_closed": 3})
        await answered(served.port)


async def test_c05_half_closed_while_handlers_wait() -> None:
    """C5: twenty slow requests, more than may be in flight, then FIN: all twenty are answered."""

    async def slow(call: AnyRequest, context: RequestContext) -> Answer:
        await asyncio.sleep(0.02)
        return device.handle(call, context)

    device = LocalDevice()
    async with serving(slow) as served:
        with await Peer.connect(served.port) as peer:
            await peer.send(b"".join(request(number) for number in range(20)))
            peer.finish()
            data = await peer.until_closed(2.0)
            found = sorted(int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 11))
            assert found == list(range(20))
        await until(lambda: served.statistics.closed_by_reason == {"peer_closed": 1})
        await answered(served.port)


async def test_c05_half_closed_within_a_frame() -> None:
    """C5, V15: FIN in the middle of a frame: nothing more can come, so it closes at once."""
    async with serving() as served:
        with await Peer.connect(served.port) as peer:
            await peer.send(request()[:7])
            await asyncio.sleep(0.02)
            peer.finish()
            assert await peer.seconds_until_closed() <= 0.1
        await answered(served.port)
