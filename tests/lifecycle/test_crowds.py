"""Very many at once: faults A15, C6 and C7."""

from __future__ import annotations

import asyncio
import logging
import re
import resource
import socket
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from everbus.logs import LogObserver
from everbus.observe import Event, EventKind
from tests.lifecycle.processes import ServerProcess, hosting, script
from tests.lifecycle.support import (
    Noise,
    Others,
    Peer,
    answered,
    asking,
    closing,
    connect_all,
    measured,
    others_served,
    read_request,
    request,
    until,
)

CROWD = 10_000
PER_CONNECTION_BYTES = 4096
QUICK_S = 0.005


@pytest.fixture
def many_descriptors() -> Iterator[int]:
    """Room for 10,000 sockets, here and in what is started from here."""
    wanted = CROWD + 2048
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), max(hard, wanted)))
    except (OSError, ValueError) as error:
        pytest.skip(f"this machine allows {hard} descriptors, {wanted} are needed: {error}")
    yield wanted
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard if max(hard, wanted) == hard else wanted))


async def asked_for(port: int, seconds: float) -> Others:
    """How a polite client fares."""
    async with asking(port, every_s=0.005) as polite:
        await asyncio.sleep(seconds)
    assert polite.failures == []
    return polite


@pytest.mark.slow
async def test_a15_10000_idle_connections(many_descriptors: int, tmp_path: Path) -> None:
    """A15: under 4 KiB each, a sweep under 5 ms, the polite client's p99 under 5 ms."""
    limits: dict[str, Any] = {"max_connections": 12_000, "max_connections_per_peer": 12_000}
    with hosting(tmp_path, **limits, frame_timeout_s=0.2) as server:  # swept every 0.05 s
        control = await asked_for(server.port, 2.0)
        await until(lambda: server.statistics["connections"] == 0)
        kinds, memory = server.descriptors, server.memory
        with closing(await connect_all(server.port, CROWD, lambda number: f"127.0.4.{1 + number % 50}")) as crowd:
            await until(lambda: server.statistics["connections"] == CROWD)
            each = (server.memory - memory) / CROWD
            sweeps = server.do("sweep", 100)
            polite = await asked_for(server.port, 3.0)
            for peer in crowd[:: CROWD // 100]:
                assert await peer.ask() == 0
            after_use = (server.memory - memory) / CROWD
            assert server.statistics["closed_by_reason"] == {"peer_closed": 2}
            assert server.statistics["peak_connections"] == CROWD + 1
        await until(lambda: server.statistics["connections"] == 0)
        p99_s, control_s = polite.share_s(0.99), control.share_s(0.99)
        measured("A15", bytes_each=each, after_use=after_use, p99_s=p99_s, control_s=control_s)
        measured("A15", sweep_s=statistics.median(sweeps), worst_sweep_s=max(sweeps))
        assert max(each, after_use) < PER_CONNECTION_BYTES
        assert statistics.median(sweeps) < QUICK_S
        assert p99_s < QUICK_S + 2 * control_s
        assert server.descriptors == kinds
        await answered(server.port)


@pytest.mark.slow
async def test_a06_a_burst_of_1000_connects_finds_room_in_the_queue(many_descriptors: int, tmp_path: Path) -> None:
    """A burst of a thousand connects in less than a second: the backlog takes them, none is tried twice."""
    with hosting(tmp_path, max_connections=2000, max_connections_per_peer=2000) as server, closing([]) as burst:

        async def one() -> float:
            begun = time.monotonic()
            burst.append(await Peer.connect(server.port))
            return time.monotonic() - begun

        begun = time.monotonic()
        taken = sorted([await one() for _ in range(1000)])
        measured("burst of 1000", seconds=time.monotonic() - begun, p99_s=taken[990], worst_s=taken[-1])
        assert taken[-1] < 0.5
        assert await asyncio.gather(*(peer.ask() for peer in burst)) == [0] * 1000
        await answered(server.port)


@pytest.mark.slow
async def test_c06_2000_connects_a_second(tmp_path: Path) -> None:
    """C6: for 5 s from 4 addresses: accepts are bounded in each turn, so that others have theirs."""
    with hosting(tmp_path) as server:
        kinds = server.descriptors
        async with asking(server.port, 4, every_s=0.01) as control:
            await asyncio.sleep(1.0)
        with Noise() as noise:
            async with asking(server.port, 4, every_s=0.01) as polite:
                with script(Path(__file__).with_name("storm.py"), server.port, 2000, 5.0) as storm:
                    assert storm.stdout is not None
                    line = await asyncio.to_thread(storm.stdout.readline)
        connects, failed, seconds = (float(word) for word in line.split())
        await until(lambda: server.statistics["connections"] == 0)
        p99_s, control_s = polite.share_s(0.99), control.share_s(0.99)
        measured("C6", rate=connects / seconds, p99_s=p99_s, worst_s=polite.worst_s, control_s=control_s)
        assert polite.failures == control.failures == []
        assert failed == 0
        assert connects / seconds >= 1000, f"the storm made only {connects / seconds:.0f} a second"
        assert p99_s < 0.05 + 2 * (control_s + noise.worst_s)
        found = server.statistics
        assert found["opened"] + sum(found["refused_by_reason"].values()) == connects + 8
        assert found["accept_errors"] == {}
        assert server.descriptors == kinds
        await answered(server.port)


async def half_frame(port: int, source: str) -> None:
    with await Peer.connect(port, source) as peer:
        await peer.send(request()[:3])
        await peer.until_closed()


async def half_close(port: int, source: str) -> None:
    with await Peer.connect(port, source) as peer:
        await peer.send(request())
        peer.finish()
        assert len(await peer.until_closed()) == 11


async def reset(port: int, source: str) -> None:
    peer = await Peer.connect(port, source)
    await peer.send(request() * 10)
    peer.reset()


async def not_modbus(port: int, source: str) -> None:
    with await Peer.connect(port, source) as peer:
        await peer.send(b"GET / HTTP/1.1\r\n\r\n")
        await peer.until_closed()


async def never_reads(port: int, source: str) -> None:
    with await Peer.connect(port, source, receive_bytes=2048) as peer:
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        with suppress(ConnectionError):
            while True:
                await peer.send(read_request(1, 125) * 1000)


FLOODS: dict[str, tuple[Callable[[int, str], Awaitable[None]], int, int]] = {
    "half frames": (half_frame, 10_000, 500),
    "half closes": (half_close, 10_000, 50),
    "resets": (reset, 10_000, 50),
    "not Modbus": (not_modbus, 10_000, 50),
    "never read": (never_reads, 200, 50),
}
"""What they do, how often, how many at once."""


@pytest.mark.slow
@pytest.mark.parametrize("flood", FLOODS)
async def test_c07_a_flood_makes_a_short_log(flood: str, tmp_path: Path) -> None:
    """C7: each of it ten thousand times, on real sockets: under 50 kB, with a count of the rest."""
    action, times, at_once = FLOODS[flood]
    limits: dict[str, Any] = {"max_connections": 1000, "max_connections_per_peer": 1000}
    with hosting(tmp_path, **limits, frame_timeout_s=0.2, write_timeout_s=0.3) as server:
        left = iter(range(times))

        async def worker() -> None:
            for number in left:
                await action(server.port, f"127.0.5.{1 + number % 200}")

        await asyncio.gather(*(worker() for _ in range(at_once)))
        await until(lambda: server.statistics["connections"] == 0)
        assert server.statistics["opened"] == times
        await answered(server.port)
    measured("C7", flood=flood, log_bytes=server.log_bytes)
    assert server.log_bytes < 50_000
    if flood in ("half frames", "not Modbus", "never read"):  # the others are nobody's fault
        assert told(server) >= times  # a busy machine's own troubles may stand there too


def suppressed(lines: list[str]) -> list[int]:
    """The counts, in a log, of what was not written."""
    return [int(found[1]) for line in lines if (found := re.search(r"(\d+) more were not written", line))]


def told(server: ServerProcess) -> int:
    """How many events a log tells of, in lines of their own or in a count."""
    lines = server.log_text.splitlines()
    counts = suppressed(lines)
    return len(lines) - len(counts) + sum(counts)


@pytest.mark.slow
async def test_c07_refusals_make_a_short_log(tmp_path: Path) -> None:
    """C7: ten thousand newcomers to a full server."""
    with hosting(tmp_path, max_connections=16, max_connections_per_peer=16) as server:
        with closing(await connect_all(server.port, 15)) as inside:
            await asyncio.gather(*(peer.ask() for peer in inside))
            async with others_served(server.port):
                left = iter(range(10_000))

                async def worker() -> None:
                    for number in left:
                        with await Peer.connect(server.port, f"127.0.5.{1 + number % 200}") as peer:
                            await peer.until_closed()

                await asyncio.gather(*(worker() for _ in range(20)))
        assert server.statistics["refused_by_reason"] == {"full": 10_000}
        await until(lambda: server.statistics["connections"] == 0)
        await answered(server.port)
    assert server.log_bytes < 50_000
    assert told(server) >= 10_000


@pytest.mark.slow
def test_c07_every_kind_of_event_ten_thousand_times(tmp_path: Path) -> None:
    """C7: whatever can be told, told ten thousand times in a minute: under 50 kB of log each."""
    logger = logging.getLogger("everbus.test.flood")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    for kind in EventKind:
        path = tmp_path / f"{kind.value}.log"
        handler = logging.FileHandler(path, encoding="utf-8")
        logger.addHandler(handler)
        try:
            observer = LogObserver(logger)
            for number in range(10_000):
                peer = f"192.0.2.{number % 250}:{number}"
                error = ValueError(f"number {number}")
                observer.notify(Event(kind, peer, "a reason", "details of it " * 10, number, error))
                observer.tick(number * 60 / 10_000)
            observer.tick(1000.0)
        finally:
            logger.removeHandler(handler)
            handler.close()
        assert path.stat().st_size < 50_000
        lines = path.read_text(encoding="utf-8").splitlines()
        if lines:
            assert sum(suppressed(lines)) == observer.suppressed
            assert observer.suppressed > 9_000
