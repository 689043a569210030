"""Connections that end in an awkward moment, or that should end by themselves: faults A12 and A14."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter
from typing import Any

import pytest

from everbus.observe import EventKind
from everbus.protocol.pdu.table import AnyRequest
from everbus.service.context import RequestContext
from everbus.service.handler import Answer
from everbus.service.local import LocalDevice
from tests.lifecycle.support import (
    Peer,
    Served,
    answered,
    closing,
    connect_all,
    measured,
    others_served,
    read_request,
    request,
    serving,
    until,
)

RST = struct.pack("ii", 1, 0)


class Waiting:
    """A handler that waits for unit 2 until it is let go; other units are answered at once."""

    def __init__(self) -> None:
        self.device = LocalDevice()
        self.go = asyncio.Event()
        self.begun = self.ended = self.cancelled = 0

    async def handle(self, request: AnyRequest, context: RequestContext) -> Answer:
        if context.unit == 2:
            await self._wait()
        return self.device.handle(request, context)

    async def _wait(self) -> None:
        self.begun += 1
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.ended += 1


def freed_once(served: Served) -> bool:
    """Every connection that was opened has ended, and has ended once."""
    opened = [event.connection_id for event in served.observer.of(EventKind.CONNECTION_OPENED)]
    ends = served.observer.of(EventKind.CONNECTION_CLOSED) + served.observer.of(EventKind.CONNECTION_EVICTED)
    return served.statistics.connections == 0 and Counter(opened) == Counter(event.connection_id for event in ends)


async def test_a12_lost_while_its_handlers_wait() -> None:
    """A12: by RST: the tasks are cancelled, the slots are free at once."""
    handler = Waiting()
    async with serving(handler) as served:
        for _ in range(5):
            peer = await Peer.connect(served.port)
            await peer.send(b"".join(request(number, unit=2) for number in range(1, 4)))
            await until(lambda: handler.begun % 3 == 0 and handler.begun > handler.ended)
            peer.reset()
            await until(lambda: freed_once(served))
        await until(lambda: handler.cancelled == 15)
        assert served.statistics.closed_by_reason == {"reset": 5}
        assert served.statistics.handler_failures == {}
        await answered(served.port)


async def test_a12_gone_by_fin_while_its_handler_waits() -> None:
    """A12: nobody can tell a FIN from a half-close: the answer is given, then the slot is free."""
    handler = Waiting()
    async with serving(handler) as served:
        peer = await Peer.connect(served.port)
        await peer.send(request(unit=2))
        await until(lambda: handler.begun == 1)
        peer.close()
        await asyncio.sleep(0.05)
        assert served.statistics.connections == 1
        handler.go.set()
        await until(lambda: freed_once(served))
        assert (handler.ended, handler.cancelled) == (1, 0)
        await answered(served.port)


@pytest.mark.parametrize("reads", [True, False], ids=["fin", "rst"])
async def test_a12_lost_while_its_write_is_pending(reads: bool) -> None:
    """A12: answers wait for a peer that goes: the slot is freed once, the answers are forgotten."""
    async with serving() as served:
        for _ in range(3):
            peer = await Peer.connect(served.port, receive_bytes=4096)
            sending = asyncio.create_task(peer.send(read_request(1, 125) * 20_000))
            await until(lambda: served.statistics.unsent_bytes > 0, what="answers that are not taken")
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            peer.close() if reads else peer.reset()
            await until(lambda: freed_once(served))
            assert served.statistics.unsent_bytes == 0
        assert served.statistics.closed_by_reason == {"reset": 3}  # bytes it did not read: RST in both cases
        await answered(served.port)


def connect_in_one_go(port: int, source: str, count: int) -> list[socket.socket]:
    """Clients that connect while the server's loop does not run: they are accepted in one turn."""
    found = []
    for _ in range(count):
        sock = socket.socket()
        sock.bind((source, 0))
        sock.connect(("127.0.0.1", port))
        found.append(sock)
    return found


async def test_a12_gone_before_it_was_admitted() -> None:
    """A12: RST or FIN between the kernel's queue and the first turn of the connection."""
    async with serving(max_connections=300, max_connections_per_peer=300) as served:
        for number, sock in enumerate(connect_in_one_go(served.port, "127.0.0.1", 200)):
            if number % 2:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
            sock.close()
        await until(lambda: served.statistics.opened == 200 and freed_once(served))
        assert served.statistics.closed_by_reason == {"peer_closed": 100, "reset": 100}
        await answered(served.port)


async def test_a12_evicted_while_it_is_admitted() -> None:
    """A12: a priority peer in the same turn takes the place of one that has no transport yet."""
    limits: dict[str, Any] = {"max_connections": 16, "max_connections_per_peer": 16, "max_priority_connections": 4}
    async with serving(**limits, priority_peers=frozenset({"127.0.0.9"})) as served:
        ordinary = connect_in_one_go(served.port, "127.0.0.1", 16)
        priority = connect_in_one_go(served.port, "127.0.0.9", 4)
        with closing([Peer(sock) for sock in ordinary]) as peers, closing([Peer(sock) for sock in priority]) as first:
            for peer in peers + first:
                peer.socket.setblocking(False)
            await until(lambda: served.statistics.closed_by_reason == {"evicted_for_priority": 4})
            results = await asyncio.gather(*(peer.ask() for peer in peers + first), return_exceptions=True)
            assert [result == 0 for result in results] == [False] * 4 + [True] * 16
            assert served.statistics.connections == 16
        await until(lambda: freed_once(served))
        await answered(served.port)


async def test_a12_stopped_while_they_are_admitted() -> None:
    """A12: the server stops between accept and the first turn of its connections."""
    async with serving(max_connections=100) as served:
        with closing([Peer(sock) for sock in connect_in_one_go(served.port, "127.0.0.1", 50)]) as peers:
            for peer in peers:
                peer.socket.setblocking(False)
            await asyncio.sleep(0)
            await served.server.stop()
            await asyncio.gather(*(peer.until_closed(1.0) for peer in peers))
        assert freed_once(served)


@pytest.mark.slow
async def test_a14_idle_for_too_long() -> None:
    """A14: the idle one goes within one sweep period, the one that asked just before stays."""
    async with serving(idle_timeout_s=0.6) as served:  # swept every 0.15 s
        sweep_s = served.server.limits.sweep_s
        with closing(await connect_all(served.port, 3)) as peers:
            silent, idle, active = peers
            await asyncio.gather(idle.ask(), active.ask())

            async def asks_now_and_then() -> None:
                for _ in range(4):
                    await asyncio.sleep(0.3)
                    await active.ask()

            gone_s, idle_s, _ = await asyncio.gather(
                silent.seconds_until_closed(), idle.seconds_until_closed(), asks_now_and_then()
            )
            measured("A14", timeout_s=0.6, sweep_s=sweep_s, gone_s=gone_s, idle_s=idle_s)
            for seconds in (gone_s, idle_s):
                assert 0.55 <= seconds <= 0.6 + sweep_s + 0.1
            assert active.open
            assert served.statistics.closed_by_reason == {"idle": 2}
            assert 0.5 <= await active.seconds_until_closed() <= 0.6 + sweep_s + 0.1
        assert served.statistics.closed_by_reason == {"idle": 3}
        await answered(served.port)


@pytest.mark.slow
async def test_a14_a_request_in_progress_is_not_idleness() -> None:
    """A14: whoever waits for an answer longer than the idle timeout is not idle."""
    handler = Waiting()
    async with serving(handler, idle_timeout_s=0.2, handler_timeout_s=5.0) as served:
        async with others_served(served.port):
            with await Peer.connect(served.port) as peer:
                await peer.send(request(7, unit=2))
                await asyncio.sleep(0.5)
                assert peer.open
                handler.go.set()
                assert await peer.answer() == (7, b"\x03\x02\x00\x00")
                assert 0.15 <= await peer.seconds_until_closed() <= 0.4
        assert served.statistics.closed_by_reason["idle"] == 1
        await answered(served.port)
