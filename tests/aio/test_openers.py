"""Clients over everything that is not plain TCP: TLS, UDP, ASCII and RTU over TCP."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from everbus.aio.client import AsyncClient
from everbus.aio.server import Server
from everbus.client.endpoint import Endpoint, TlsFiles, parse_endpoint
from everbus.errors import ConfigurationError, ConnectError, ConnectionLostError, ModbusError, ModbusTimeoutError
from everbus.service.local import LocalDevice
from tests.aio.secure import plant
from tests.rogue import ADDRESS, VALUES, bank


@pytest.mark.parametrize("scheme", ["udp", "rtu+tcp", "ascii+tcp"])
@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
async def test_every_framing_and_family_is_spoken(scheme: str, host: str) -> None:
    server = Server(LocalDevice(bank()), f"{scheme}://{host}:0")
    async with server, AsyncClient(server.endpoints[0]) as client:
        assert await client.unit(1).read_holding_registers(ADDRESS, 2) == VALUES
        await client.unit(1).write_register(500, 7)
        assert await client.unit(1).read_holding_registers(500, 1) == [7]


# UDP


async def test_many_are_in_flight_over_udp() -> None:
    server = Server(LocalDevice(bank()), "udp://127.0.0.1:0")
    async with server, AsyncClient(server.endpoints[0], max_in_flight=16) as client:
        got = await asyncio.gather(*(client.unit(1).read_holding_registers(ADDRESS, 2) for _ in range(100)))
        assert got == [VALUES] * 100


@contextmanager
def datagrams(answer: Callable[[bytes], list[bytes]]) -> Iterator[str]:
    """A peer that answers each datagram with some."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)

        def arrived() -> None:
            asked, whose = sock.recvfrom(512)
            for one in answer(asked):
                sock.sendto(one, whose)

        loop.add_reader(sock, arrived)
        try:
            yield f"udp://127.0.0.1:{sock.getsockname()[1]}"
        finally:
            loop.remove_reader(sock)


def right(asked: bytes) -> bytes:
    """The answer to a read of one register: its own address."""
    return asked[:4] + bytes((0, 5, asked[6], 3, 2)) + asked[8:10]


async def test_bad_datagrams_cost_nothing() -> None:
    def answer(asked: bytes) -> list[bytes]:
        return [b"", b"\0", right(asked)[:-1], right(asked) + b"\0", bytes(300), right(asked)]

    with datagrams(answer) as url:
        async with AsyncClient(url, timeout_s=1.0, retries=0) as client:
            for address in range(5):
                assert await client.unit(1).read_holding_registers(address, 1) == [address]
            assert client.statistics().connects == 1


async def test_an_answer_that_comes_too_late_is_dropped() -> None:
    kept: list[bytes] = []

    def answer(asked: bytes) -> list[bytes]:
        kept.append(right(asked))
        return [] if len(kept) == 1 else [kept[0], kept[-1]]

    with datagrams(answer) as url:
        async with AsyncClient(url, timeout_s=0.1, retries=0) as client:
            with pytest.raises(ModbusTimeoutError):
                await client.unit(1).read_holding_registers(1, 1)
            assert await client.unit(1).read_holding_registers(2, 1) == [2]
            assert client.statistics().session.late == 1


async def test_a_lost_datagram_is_asked_for_again() -> None:
    lost = iter([True])

    with datagrams(lambda asked: [] if next(lost, False) else [right(asked)]) as url:
        async with AsyncClient(url, timeout_s=0.2, retries=1) as client:
            assert await client.unit(1).read_holding_registers(9, 1) == [9]
            assert client.statistics().retries == 1


async def test_where_nobody_listens_udp_says_so() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    client = AsyncClient(f"udp://127.0.0.1:{port}", timeout_s=1.0, retries=0)
    with pytest.raises(ConnectionLostError, match="refused"):
        await client.unit(1).read_holding_registers(0, 1)
    await client.close()


# TLS


def secured(files: TlsFiles) -> Server:
    return Server(LocalDevice(bank()), Endpoint("tls", "127.0.0.1", 0, tls=files))


def toward(server: Server, files: TlsFiles, host: str = "127.0.0.1") -> Endpoint:
    return replace(parse_endpoint(server.endpoints[0]), tls=files, host=host)


async def test_reads_and_writes_over_tls() -> None:
    server = secured(plant().server)
    async with server, AsyncClient(toward(server, plant().client), max_in_flight=8) as client:
        got = await asyncio.gather(*(client.unit(1).read_holding_registers(ADDRESS, 2) for _ in range(50)))
        assert got == [VALUES] * 50
        await client.unit(1).write_registers(500, list(range(120)))
        assert await client.unit(1).read_holding_registers(500, 120) == list(range(120))
        assert client.statistics().connects == 1


async def test_a_server_with_another_name_is_refused() -> None:
    async with secured(plant().server) as server:
        client = AsyncClient(toward(server, plant().client, host="localhost"), timeout_s=2.0, retries=0)
        with pytest.raises(ConnectError, match="certificate"):
            await client.unit(1).read_holding_registers(0, 1)
        await client.close()


@pytest.mark.parametrize("who", ["nobody", "stranger"])
async def test_who_is_refused_by_the_server_is_told_why(who: str) -> None:
    files: TlsFiles = getattr(plant(), who)
    async with secured(plant().server) as server:
        client = AsyncClient(toward(server, replace(files, ca=plant().client.ca)), timeout_s=2.0, retries=0)
        with pytest.raises(ModbusError, match=r"certificate|CA"):
            await client.unit(1).read_holding_registers(0, 1)
        await client.close()


async def test_a_plain_server_is_no_tls_server() -> None:
    async with Server(LocalDevice(bank()), "tcp://127.0.0.1:0") as server:
        endpoint = replace(parse_endpoint(server.endpoints[0]), scheme="tls", tls=plant().client)
        client = AsyncClient(endpoint, timeout_s=2.0, retries=0)
        with pytest.raises(ConnectError):
            await client.unit(1).read_holding_registers(0, 1)
        await client.close()


async def test_a_peer_that_never_shakes_hands_costs_no_more_than_the_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = Endpoint("tls", "127.0.0.1", silent.getsockname()[1], tls=plant().client)
        client = AsyncClient(endpoint, connect_timeout_s=0.1)
        with pytest.raises(ConnectError, match=r"within 0\.1 s"):
            await client.connect()
        await client.close()


def test_files_that_cannot_be_used_are_refused_when_the_client_is_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nothing"):
        AsyncClient(f"tls://plc.example?ca={tmp_path}/nothing.pem")


@pytest.mark.slow
async def test_new_certificates_are_used_by_the_next_connection(tmp_path: Path) -> None:
    names = {part: tmp_path / f"{part}.pem" for part in ("cert", "key", "ca")}

    def use(files: TlsFiles) -> TlsFiles:
        for part, path in names.items():
            shutil.copy(getattr(files, part), path)
        return TlsFiles(**{part: str(path) for part, path in names.items()})

    async with secured(plant().server) as server:
        client = AsyncClient(toward(server, use(replace(plant().stranger, ca=plant().client.ca))), retries=0)
        with pytest.raises(ModbusError):
            await client.unit(1).read_holding_registers(ADDRESS, 2)
        use(plant().client)
        await asyncio.sleep(1.1)  # the files are looked at once a second
        assert await client.unit(1).read_holding_registers(ADDRESS, 2) == VALUES
        await client.close()
