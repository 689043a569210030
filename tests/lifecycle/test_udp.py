"""Group G, UDP: forged addresses and floods, rows G7 and G8 of docs/faults.md."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from time import perf_counter

import pytest

from everbus import Bank, Limits, Server
from everbus.aio.statistics import UdpStatistics
from everbus.client.endpoint import parse_endpoint
from everbus.observe import NULL_OBSERVER
from everbus.resources import memory_bytes
from tests.lifecycle.support import measured, request

IP_PKTINFO = 8
SOURCES = 10_000
BATCH = 50
MIB = 1 << 20


def forged(sock: socket.socket, number: int, data: bytes, port: int) -> None:
    """Send a datagram that comes from the n-th address of 127.0.0.0/8."""
    source = (0x7F01_0000 + number).to_bytes(4, "big")
    sock.sendmsg(
        [data], [(socket.IPPROTO_IP, IP_PKTINFO, struct.pack("=i4s4s", 0, source, source))], 0, ("127.0.0.1", port)
    )


async def ask(sock: socket.socket, port: int, transaction: int) -> float:
    """Demand an answer; how long it took."""
    loop = asyncio.get_running_loop()
    began = perf_counter()
    await loop.sock_sendto(sock, request(transaction), ("127.0.0.1", port))
    async with asyncio.timeout(5.0):
        answer = await loop.sock_recv(sock, 300)
    assert answer[:2] == transaction.to_bytes(2, "big")
    assert answer[7:] == b"\x03\x02\0\0"
    return perf_counter() - began


@pytest.mark.slow
async def test_g7_ten_thousand_forged_sources_leave_nothing_behind() -> None:
    limits = Limits(max_udp_peers=500)
    noise = random.Random(7)
    async with Server(Bank(), "udp://127.0.0.1:0", limits=limits, observer=NULL_OBSERVER) as server:
        port = parse_endpoint(server.endpoints[0]).port
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flood,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as polite,
        ):
            flood.bind(("0.0.0.0", 0))
            polite.setblocking(False)
            worst_s, held = 0.0, []
            for first in range(0, SOURCES, BATCH):
                for number in range(first, first + BATCH):
                    forged(flood, number, request(number), port)
                    forged(flood, number, noise.randbytes(noise.randrange(300)), port)
                worst_s = max(worst_s, await ask(polite, port, first % 0xFFFF))
                held.append(memory_bytes())
        found = server.statistics()
        measured("G7", requests=found.requests, worst_s=worst_s, grown_bytes=held[-1] - held[len(held) // 4])
        assert found.requests == SOURCES + SOURCES // BATCH
        assert sum(found.rejected_frames.values()) == SOURCES
        assert worst_s < 0.05
        assert held[-1] - held[len(held) // 4] < MIB
        port_statistics = found.ports[server.endpoints[0]]
        assert isinstance(port_statistics, UdpStatistics)
        assert (port_statistics.peers, port_statistics.in_flight) == (limits.max_udp_peers, 0)
