"""Who comes in when the server is full, and who goes: faults A3 to A7."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from everbus.observe import EventKind
from tests.lifecycle.support import (
    Peer,
    Served,
    answered,
    closing,
    connect_all,
    measured,
    others_served,
    serving,
    until,
)

REFUSED_S = 0.1
NEWBORN_S = 0.15
"""A connection younger than 0.1 s is not evicted."""


def address(number: int) -> str:
    """One of many addresses."""
    return f"127.0.1.{1 + number % 200}"


async def ask_all(peers: list[Peer]) -> int:
    """Everybody asks; how many were answered."""
    results = await asyncio.gather(*(peer.ask() for peer in peers), return_exceptions=True)
    return sum(result == 0 for result in results)


def evicted(served: Served) -> list[int]:
    """The numbers of the evicted connections, in order."""
    return [event.connection_id for event in served.observer.of(EventKind.CONNECTION_EVICTED)]


async def asks_and_leaves(port: int, source: str) -> bool:
    """A newcomer; whether it was served."""
    with await Peer.connect(port, source) as peer:
        return await peer.ask() == 0


async def all_left(served: Served, but: int = 0) -> None:
    """The server has seen that its clients are gone; until then their slots are taken."""
    await until(lambda: served.statistics.connections <= but, what="all clients gone")


async def refusal_s(port: int, source: str) -> float:
    """How long a newcomer hangs until it is closed, connecting included."""
    begun = time.monotonic()
    with await Peer.connect(port, source) as peer:
        assert await peer.until_closed() == b""
        return time.monotonic() - begun


async def test_a03_newcomers_to_a_full_busy_server_are_refused_at_once() -> None:
    """A3: 300 clients, a limit of 100, none of those inside idle for long."""
    async with serving(max_connections=100) as served:
        async with others_served(served.port, source="127.0.2.1"):
            with closing(await connect_all(served.port, 99, address)) as inside:
                assert await ask_all(inside) == 99
                one_by_one = [await refusal_s(served.port, address(number)) for number in range(100)]
                at_once = await asyncio.gather(*(refusal_s(served.port, address(n)) for n in range(100)))
                measured("A3", one_by_one_s=max(one_by_one), a_hundred_at_once_s=max(at_once))
                assert max(one_by_one) <= REFUSED_S
                assert sorted(at_once)[50] <= REFUSED_S
                assert max(at_once) <= 3 * REFUSED_S  # all hundred of them, by one core
                assert await ask_all(inside) == 99
                assert served.statistics.refused_by_reason == {"full": 200}
                assert served.statistics.connections == served.statistics.max_connections == 100
                assert evicted(served) == []
        await all_left(served)
        await answered(served.port)


@pytest.mark.slow
@pytest.mark.requirement("TG-4.2.1.2-oldest-unused")
async def test_a04_the_least_recently_active_idle_one_makes_room() -> None:
    """A4: a limit of 100, 100 idle over the threshold, 200 newcomers that leave after their answer."""
    async with serving(max_connections=100, evict_after_s=0.3) as served:
        with closing(await connect_all(served.port, 100, address)) as idle:
            assert await ask_all(idle) == 100
            await asyncio.sleep(0.1)
            for peer in reversed(idle):  # the last that connected is the least recently active one
                await peer.ask()
            await asyncio.sleep(0.4)
            answers = 0
            for wave in range(4):
                newcomers = [asks_and_leaves(served.port, address(50 * wave + number)) for number in range(50)]
                answers += sum(await asyncio.gather(*newcomers))
            assert answers == 200
            went = evicted(served)
            assert went == list(range(100, 100 - len(went), -1))
            assert 1 <= len(went) <= 50
            assert served.statistics.closed_by_reason["evicted_idle"] == len(went)
            assert served.statistics.refused_by_reason == {}
            assert served.statistics.requests == 400
            assert sum(peer.open for peer in idle) == 100 - len(went)
        await all_left(served)
        await answered(served.port)


@pytest.mark.parametrize(
    ("source", "reason"), [("127.0.0.1", "evicted_per_peer"), (address, "evicted_unused")], ids=["one", "many"]
)
async def test_a05_those_that_never_asked_go_first_and_oldest_first(source: Any, reason: str) -> None:
    """A5: silent connections fill the limit; workers stay."""
    async with serving(max_connections=20, max_connections_per_peer=20) as served:
        with closing(await connect_all(served.port, 5)) as workers, closing([]) as silent, closing([]) as more:
            assert await ask_all(workers) == 5
            silent.extend(await connect_all(served.port, 15, source))
            await asyncio.sleep(NEWBORN_S)
            for _ in range(15):
                peer = await Peer.connect(served.port)
                more.append(peer)
                await peer.ask()
            assert evicted(served) == list(range(6, 21))
            assert served.statistics.closed_by_reason == {reason: 15}
            assert await refusal_s(served.port, "127.0.0.1") <= REFUSED_S  # nobody is left that may go
            assert await ask_all(workers + more) == 20
        await all_left(served)
        await answered(served.port)


@pytest.mark.slow
async def test_a05_a_stream_of_silent_newcomers_does_not_touch_the_workers() -> None:
    """A5: they take each other's places, never a worker's."""
    async with serving(max_connections=20, max_connections_per_peer=20) as served:
        with closing(await connect_all(served.port, 10)) as workers, closing([]) as silent:
            assert await ask_all(workers) == 10
            async with asyncio.TaskGroup() as group:
                for number in range(100):
                    silent.append(await Peer.connect(served.port, address(number)))
                    if number % 10 == 0:
                        group.create_task(ask_all(workers))
                    await asyncio.sleep(0.01)
            assert await ask_all(workers) == 10
            assert not set(evicted(served)) & set(range(1, 11))
            turned_away = served.statistics.closed_by_reason["evicted_unused"]
            turned_away += served.statistics.refused_by_reason.get("full", 0)
            assert turned_away == 90
            await asyncio.sleep(NEWBORN_S)
            await answered(served.port)  # beside the silent ones that hold every other slot


async def test_a06_one_address_takes_no_more_than_its_share() -> None:
    """A6: the cap per peer holds, everybody else is served."""
    async with serving(max_connections=40, max_connections_per_peer=20) as served:
        with closing([]) as hog, closing([]) as others:
            hog.extend(await connect_all(served.port, 20, "127.0.0.2"))
            assert await ask_all(hog) == 20
            for number in range(40):
                assert await refusal_s(served.port, "127.0.0.2") <= REFUSED_S
                if number % 2:
                    others.append(await Peer.connect(served.port, address(number)))
                    await others[-1].ask()
            assert await ask_all(others) == len(others) == 20
            assert await ask_all(hog) == 20
            assert served.statistics.refused_by_reason == {"per_peer": 40}
            assert served.statistics.closed_by_reason == {}
            others.pop().close()
            await all_left(served, 39)
            await answered(served.port)


async def test_a06_an_address_over_its_cap_evicts_only_its_own() -> None:
    """A6: with its own connections idle for long, its newcomers take their places and no one else's."""
    async with serving(max_connections=40, max_connections_per_peer=10, evict_after_s=0.1) as served:
        with closing(await connect_all(served.port, 10, address)) as others, closing([]) as hog:
            assert await ask_all(others) == 10
            hog.extend(await connect_all(served.port, 10, "127.0.0.2"))
            assert await ask_all(hog) == 10
            await asyncio.sleep(0.2)
            for _ in range(10):
                hog.append(await Peer.connect(served.port, "127.0.0.2"))
                await hog[-1].ask()
            assert evicted(served) == list(range(11, 21))
            assert served.statistics.closed_by_reason == {"evicted_per_peer": 10}
            assert served.statistics.refused_by_reason == {}
            assert await ask_all(others) == 10
        await all_left(served)
        await answered(served.port)


@pytest.mark.slow
@pytest.mark.requirement("TG-4.2.1.2-priority")
async def test_a07_priority_peers_come_in_and_stay() -> None:
    """A7: 0 refusals up to ``max_priority_connections``; the least recently active ordinary one goes."""
    limits: dict[str, Any] = {"max_connections": 20, "max_connections_per_peer": 20, "evict_after_s": 0.2}
    first = "127.0.0.9"
    async with serving(**limits, priority_peers=frozenset({first}), max_priority_connections=5) as served:
        with closing(await connect_all(served.port, 20)) as ordinary, closing([]) as priority:
            assert await ask_all(ordinary) == 20
            await asyncio.sleep(0.06)
            for peer in reversed(ordinary):
                await peer.ask()
            for _ in range(5):
                priority.append(await Peer.connect(served.port, first))
                await priority[-1].ask()
            assert evicted(served) == [20, 19, 18, 17, 16]
            assert served.statistics.refused_by_reason == {}
            assert served.statistics.closed_by_reason == {"evicted_for_priority": 5}
            assert served.statistics.connections == 20
            for _ in range(2):
                await asyncio.sleep(0.3)  # everybody is idle over the threshold now
                for number in range(15):
                    ordinary.append(await Peer.connect(served.port, address(number)))
                    await ordinary[-1].ask()
            assert await refusal_s(served.port, address(16)) <= REFUSED_S  # only the priority peers are idle
            assert not set(evicted(served)) & set(range(21, 26))
            assert await ask_all(priority) == 5
            assert served.statistics.connections == 20
        await all_left(served)
        await answered(served.port)


async def test_a07_beyond_its_number_a_priority_peer_is_an_ordinary_one() -> None:
    """A7: the third of two is refused like anybody, as nobody may be evicted for it."""
    limits: dict[str, Any] = {"max_connections": 16, "max_connections_per_peer": 16}
    first = "127.0.0.9"
    async with serving(**limits, priority_peers=frozenset({first}), max_priority_connections=2) as served:
        with closing(await connect_all(served.port, 16)) as ordinary, closing([]) as priority:
            assert await ask_all(ordinary) == 16
            priority.extend(await connect_all(served.port, 2, first))
            assert await ask_all(priority) == 2
            assert await refusal_s(served.port, first) <= REFUSED_S
            assert served.statistics.refused_by_reason == {"full": 1}
            assert await ask_all(priority) == 2
            assert await ask_all(ordinary) == 14
            assert served.statistics.connections == 16
        await all_left(served)
        await answered(served.port)
