"""The network goes away, with and without saying so: faults A11 (addresses) and A13."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest

from tests.lifecycle.netns import (
    SERVER_ADDRESS,
    Cable,
    cabled,
    inside,
    run,
    socket_in,
    why_no_namespaces,
)
from tests.lifecycle.processes import ServerProcess, hosting
from tests.lifecycle.support import Peer, closing, measured, read_request, request, until

pytestmark = pytest.mark.slow

KEEPALIVE: Final[dict[str, Any]] = {
    "keepalive_idle_s": 1,
    "keepalive_interval_s": 1,
    "keepalive_probes": 2,
    "user_timeout_s": 3.0,
}
DEAD_S = 3.0
"""What these amount to: idle for a second, then two probes a second apart."""


@pytest.fixture
def cable() -> Iterator[Cable]:
    if reason := why_no_namespaces():
        pytest.skip(reason)
    with cabled() as cable:
        yield cable


async def connect(cable: Cable, port: int) -> Peer:
    """A client in the client's namespace."""
    sock = socket_in(cable.client)
    sock.setblocking(False)
    try:
        async with asyncio.timeout(5.0):
            await asyncio.get_running_loop().sock_connect(sock, (SERVER_ADDRESS, port))
    except BaseException:
        sock.close()
        raise
    return Peer(sock)


def unplug(cable: Cable) -> None:
    run("ip", "-n", cable.client, "link", "set", "cable", "down")


def swallow(cable: Cable) -> None:
    """The client's packets vanish, and no device says anything."""
    inside(cable.client, "ip", "route", "add", "blackhole", f"{SERVER_ADDRESS}/32")


def unplug_at_the_server(cable: Cable) -> None:
    run("ip", "-n", cable.server, "link", "set", "cable", "down")


CUTS = {"unplugged": unplug, "swallowed": swallow, "unplugged here": unplug_at_the_server}


async def seconds_until_dead(server: ServerProcess, begun: float) -> float:
    await until(lambda: server.statistics["connections"] == 0, 3 * DEAD_S, "the dead peer is gone")
    return time.monotonic() - begun


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.requirement("TG-4.2.2-dead-peer")
async def test_a13_an_idle_peer_that_is_cut_off(cable: Cable, cut: str, tmp_path: Path) -> None:
    """A13: keepalive ends it within the configured time and a fifth, and says why."""
    with hosting(tmp_path, host=SERVER_ADDRESS, namespace=cable.server, **KEEPALIVE) as server:
        with await connect(cable, server.port) as peer:
            await peer.ask()
            begun = time.monotonic()
            CUTS[cut](cable)
            taken = await seconds_until_dead(server, begun)
        measured("A13", cut=cut, taken_s=taken)
        assert taken <= DEAD_S * 1.2, f"{taken:.2f} s"
        assert server.statistics["closed_by_reason"] == {"dead_peer": 1}
        assert server.statistics["relistens"] == 0


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.requirement("TG-4.2.2-dead-peer")
async def test_a13_a_peer_that_is_cut_off_with_an_answer_in_flight(cable: Cable, cut: str, tmp_path: Path) -> None:
    """A13: the user timeout ends it within the configured time and a fifth, and says why."""
    with hosting(tmp_path, host=SERVER_ADDRESS, namespace=cable.server, **KEEPALIVE, write_timeout_s=60.0) as server:
        with await connect(cable, server.port) as peer:
            await peer.ask()
            sending = asyncio.create_task(peer.send(read_request(1, 125) * 20_000))
            await until(lambda: server.statistics["unsent_bytes"] > 0, what="answers in flight")
            begun = time.monotonic()
            CUTS[cut](cable)
            taken = await seconds_until_dead(server, begun)
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
        measured("A13", cut=cut, taken_s=taken)
        assert taken <= DEAD_S * 1.2, f"{taken:.2f} s"
        assert server.statistics["closed_by_reason"] == {"dead_peer": 1}


async def test_a13_a_living_idle_peer_stays(cable: Cable, tmp_path: Path) -> None:
    """A13: the control: with the cable in, nobody who is merely silent is taken for dead."""
    with hosting(tmp_path, host=SERVER_ADDRESS, namespace=cable.server, **KEEPALIVE) as server:
        peer = await connect(cable, server.port)
        with peer:
            await peer.ask()
            await asyncio.sleep(DEAD_S * 1.5)
            assert await peer.ask() == 0
            assert server.statistics["closed_by_reason"] == {}


async def test_a13_others_do_not_notice(cable: Cable, tmp_path: Path) -> None:
    """A13: ten dead peers: a client on the server's own side is answered all the time."""
    with hosting(tmp_path, host=SERVER_ADDRESS, namespace=cable.server, **KEEPALIVE) as server:
        sock = socket_in(cable.server)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (SERVER_ADDRESS, server.port))
        with Peer(sock) as other, closing([]) as peers:
            for _ in range(10):
                peers.append(await connect(cable, server.port))
                await peers[-1].ask()
            swallow(cable)
            worst = 0.0
            while server.statistics["connections"] > 1:
                begun = time.monotonic()
                await other.ask()
                worst = max(worst, time.monotonic() - begun)
                await asyncio.sleep(0.02)
            assert worst <= 0.1
        assert server.statistics["closed_by_reason"]["dead_peer"] == 10


async def test_a11_the_address_goes_away_and_comes_back(cable: Cable, tmp_path: Path) -> None:
    """A11: the same listener serves again, and nothing is told of it."""
    with hosting(tmp_path, host=SERVER_ADDRESS, namespace=cable.server, frame_timeout_s=0.2) as server:
        with await connect(cable, server.port) as peer:
            await peer.ask()
        before = server.listening
        for _ in range(3):
            run("ip", "-n", cable.server, "address", "delete", f"{SERVER_ADDRESS}/30", "dev", "cable")
            await asyncio.sleep(0.3)
            assert server.listening == before
            with suppress(OSError), await connect_within(cable, server.port, 0.3):
                pytest.fail("there is nobody at that address")
            run("ip", "-n", cable.server, "address", "add", f"{SERVER_ADDRESS}/30", "dev", "cable")
            await until_reachable(cable, server.port)
            assert server.listening == before
        found = server.statistics
        assert (found["relistens"], found["listeners"], found["accept_errors"]) == (0, 1, {})
        events = server.do("events")
        assert events["listener_opened"] == 1
        assert "listener_lost" not in events
        assert server.log_text == ""


async def connect_within(cable: Cable, port: int, seconds: float) -> Peer:
    async with asyncio.timeout(seconds):
        return await connect(cable, port)


async def until_reachable(cable: Cable, port: int) -> None:
    """A client in the other namespace is served again."""
    deadline = time.monotonic() + 5.0
    while True:
        try:
            with await connect_within(cable, port, 1.0) as peer:
                await peer.send(request(1))
                assert (await peer.answer())[0] == 1
                return
        except OSError:
            assert time.monotonic() < deadline, "not reachable again"
            await asyncio.sleep(0.05)
