"""Connections that come and go: faults A1, A2, V19 and V20. What goes leaves nothing behind."""

from __future__ import annotations

import asyncio
import random
import threading
from pathlib import Path

import pytest

from everbus.protocol.pdu.table import AnyRequest
from everbus.resources import descriptors, listening_addresses
from everbus.service.context import RequestContext
from everbus.service.handler import Answer
from everbus.service.local import LocalDevice
from tests.lifecycle.processes import hosting
from tests.lifecycle.support import (
    Peer,
    answered,
    connect_all,
    measured,
    others_served,
    request,
    serving,
    until,
)

MIB = 1 << 20


async def read_and_leave(port: int) -> None:
    with await Peer.connect(port) as peer:
        assert await peer.ask() == 0


@pytest.mark.slow
async def test_a01_2048_cycles_with_a_pause_leave_nothing(tmp_path: Path) -> None:
    """A1: the loop that killed pymodbus 3.7.4, with the pause that shows its leak."""
    with hosting(tmp_path) as server:
        for _ in range(200):  # what is loaded and allocated once is there now
            await read_and_leave(server.port)
        await asyncio.sleep(0.2)
        kinds, listening, memory = server.descriptors, server.listening, server.memory
        assert kinds.listening == 1
        for _ in range(2):
            for _ in range(1024):
                await read_and_leave(server.port)
            await asyncio.sleep(1.5)
            assert server.descriptors == kinds
            assert server.listening == listening
        grown = server.memory - memory
        measured("A1", grown_bytes=grown, descriptors=kinds.total)
        assert grown <= MIB // 2, f"memory grew by {grown} bytes"
        found = server.statistics
        assert (found["opened"], found["closed"], found["connections"]) == (2248, 2248, 0)
        assert found["closed_by_reason"] == {"peer_closed": 2248}
        await answered(server.port)


async def reset_in_frames(port: int, count: int) -> None:
    for number in range(count):
        peer = await Peer.connect(port)
        if number % 2:
            await peer.send(request()[: 1 + number % 11])
        peer.reset()
        if number % 20 == 0:
            await asyncio.sleep(0.005)  # some 2000 a second, as in C6


@pytest.mark.slow
async def test_a02_3000_resets_leave_nothing(tmp_path: Path) -> None:
    """A2: closed by RST, half of them in the middle of a frame; the log stays small and calm."""
    with hosting(tmp_path) as server:
        for peer in await connect_all(server.port, 400):  # memory for a crowd is there from now on
            await peer.ask()
            peer.reset()
        await until(lambda: server.statistics["connections"] == 0)
        kinds, listening, memory = server.descriptors, server.listening, server.memory
        async with others_served(server.port) as others:
            await reset_in_frames(server.port, 3000)
        await until(lambda: server.statistics["connections"] == 0)
        assert server.descriptors == kinds
        assert server.listening == listening
        grown = server.memory - memory
        measured("A2", grown_bytes=grown, log_bytes=server.log_bytes, others_worst_s=others.worst_s)
        assert grown <= MIB
        found = server.statistics
        assert found["closed_by_reason"]["reset"] == 3400
        assert found["opened"] == found["closed"]
        await answered(server.port)
        assert server.log_bytes < 5000
        assert not any(word in server.log_text for word in ("WARNING", "ERROR", "Traceback"))


async def slow(call: AnyRequest, context: RequestContext) -> Answer:
    """Answers after 20 ms, so that some leave while their request is in progress."""
    await asyncio.sleep(0.02)
    return DEVICE.handle(call, context)


DEVICE = LocalDevice()


async def leave_somewhere(port: int, dice: random.Random) -> None:
    """Connect, and be gone at a random point of a request, by FIN or RST."""
    peer = await Peer.connect(port)
    point = dice.choice(("before", "within", "asked", "waited", "answered"))
    if point == "within":
        await peer.send(request()[: dice.randint(1, 11)])
    elif point != "before":
        await peer.send(request() * dice.choice((1, 1, 3)))
    if point == "waited":
        await asyncio.sleep(dice.random() * 0.03)
    elif point == "answered":
        await peer.answer()
    peer.reset() if dice.random() < 0.5 else peer.close()


async def churn(port: int, cycles: int, dice: random.Random, at_once: int = 20) -> None:
    left = iter(range(cycles))

    async def worker() -> None:
        for _ in left:
            await leave_somewhere(port, dice)

    await asyncio.gather(*(worker() for _ in range(at_once)))


@pytest.mark.slow
async def test_v19_5000_connections_that_leave_anywhere() -> None:
    """V19: descriptors, tasks, threads, listeners as at the start, and no slot taken."""
    async with serving(slow, max_connections=200, max_connections_per_peer=200) as served:
        await churn(served.port, 100, random.Random(1))
        await until(lambda: served.statistics.connections == 0)
        tasks, threads = len(asyncio.all_tasks()), threading.active_count()
        kinds, listening = descriptors(), listening_addresses()
        async with others_served(served.port, bound_s=0.15) as others:  # in one loop with all that churn
            await churn(served.port, 5000, random.Random(19))
        measured("V19", closed=served.statistics.closed_by_reason, others_worst_s=others.worst_s)
        await until(lambda: served.statistics.connections == 0)
        await asyncio.sleep(1.2)
        assert len(asyncio.all_tasks()) == tasks
        assert threading.active_count() == threads
        assert descriptors() == kinds
        assert listening_addresses() == listening
        statistics = served.statistics
        assert statistics.opened == statistics.closed == 5101
        assert set(statistics.closed_by_reason) <= {"peer_closed", "reset"}
        assert statistics.handler_failures == {}
        await answered(served.port)


@pytest.mark.slow
async def test_v20_objects_do_not_pile_up(tmp_path: Path) -> None:
    """V20: no thread, no task, no object stays for a connection that has gone."""
    with hosting(tmp_path) as server:
        found = []
        for cycles in (500, 5000):
            await churn(server.port, cycles, random.Random(20))
            await until(lambda: server.statistics["connections"] == 0)
            found.append(server.do("objects"))
        before, after = found
        measured("V20", before=before, after=after)
        assert (after["threads"], after["tasks"]) == (before["threads"], before["tasks"])
        assert abs(after["objects"] - before["objects"]) <= 50, found
        await answered(server.port)
