from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from everbus.aio.client import AsyncClient
from everbus.aio.transport import SocketTransport
from everbus.errors import ConnectError, ConnectionLostError, ModbusTimeoutError
from everbus.testing import ScriptedPeer, scripted
from tests.aio.wire import until
from tests.rogue import ADDRESS, VALUES, bank, value


def quick(url: str, timeout_s: float = 0.1, **options: Any) -> AsyncClient:
    return AsyncClient(url, timeout_s=timeout_s, retries=0, **options)


async def test_answers_may_come_split_glued_doubled_and_in_drops() -> None:
    script = [scripted.duplicate(3), scripted.answer, scripted.drip(0.002), scripted.answer]
    with ScriptedPeer(script, device=bank()) as peer:
        async with quick(peer.url, 1.0) as client:
            for address in range(6):
                got = await client.unit(1).read_holding_registers(address, 2)
                assert got == [value(address), value(address + 1)]
            assert client.statistics().session.unknown == 2


async def test_a_name_is_looked_up_for_every_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedPeer(device=bank()) as first, ScriptedPeer(host="127.0.0.2", device=bank()) as second:
        here = [("127.0.0.1", int(first.url.rpartition(":")[2]))]

        async def look_up(*_: object, **__: object) -> list[object]:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", here[0])]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", look_up)
        async with AsyncClient("tcp://meter.example") as client:
            assert await client.unit(1).read_holding_registers(ADDRESS, 2) == VALUES
            here[0] = ("127.0.0.2", int(second.url.rpartition(":")[2]))
            await client.disconnect()
            assert await client.unit(1).read_holding_registers(ADDRESS, 2) == VALUES
        assert (first.connections, second.connections) == (1, 1)


async def test_a_look_up_that_hangs_costs_no_more_than_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    async def look_up(*_: object, **__: object) -> list[object]:
        await asyncio.Event().wait()
        return []

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", look_up)
    client = quick("tcp://meter.example", 0.1)
    started = time.monotonic()
    with pytest.raises(ConnectError):
        await client.unit(1).read_coils(0, 1)
    assert time.monotonic() - started < 1.0
    await client.close()


async def test_the_next_address_of_a_name_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedPeer(device=bank()) as peer:
        port = int(peer.url.rpartition(":")[2])

        async def look_up(*_: object, **__: object) -> list[object]:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in ("127.0.0.9", "127.0.0.1")]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", look_up)
        async with AsyncClient("tcp://meter.example") as client:
            assert await client.unit(1).read_holding_registers(ADDRESS, 2) == VALUES


async def test_it_speaks_over_ipv6_and_unix_sockets(tmp_path: Path) -> None:
    for host in ("::1", str(tmp_path / "modbus.sock")):
        with ScriptedPeer(device=bank(), host=host) as peer:
            async with AsyncClient(peer.url) as client:
                assert await client.unit(1).read_holding_registers(ADDRESS, 2) == VALUES


async def test_two_hundred_thousand_ids_wrap_and_an_open_one_is_never_used_again() -> None:
    with ScriptedPeer(device=bank()) as peer:
        async with quick(peer.url, 5.0, max_in_flight=16) as client:
            session = client._driver.session
            assert session is not None
            session._next = 65_530
            unit = client.unit(1)
            got = await asyncio.gather(*(unit.read_holding_registers(address, 1) for address in range(100)))
            assert got == [[value(address)] for address in range(100)]
            ids = [received.frame.transaction for received in peer.requests]
            assert ids[:8] == [65530, 65531, 65532, 65533, 65534, 65535, 0, 1]


async def test_what_a_peer_does_not_take_is_not_sent_to_it_later() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client = quick(f"tcp://127.0.0.1:{server.getsockname()[1]}", 0.1, max_in_flight=64)
        await client.connect()
        link = client._driver._connector.link
        assert link is not None
        assert isinstance(link._transport, SocketTransport)
        link._transport._unsent += b"what the socket did not take"
        with pytest.raises((ModbusTimeoutError, ConnectionLostError)):
            await client.unit(1).read_coils(0, 1)
        await until(lambda: client.statistics().replaced == {"takes_nothing": 1})
        await client.close()
