"""Group F: TLS handshakes that stall in numbers, certificates that change under load; rows F3, F7 of docs/faults.md."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from time import perf_counter

import pytest

from everbus import Bank, Limits, Server
from everbus.client.endpoint import Endpoint, TlsFiles, parse_endpoint
from everbus.observe import EventKind
from everbus.resources import memory_bytes
from everbus.testing import RecordingObserver
from everbus.tls import client_context
from tests.aio.secure import plant
from tests.lifecycle.support import OTHERS_S, closing, connect_all, measured, request, until

STALLED = 100
EVERY_S = 0.005


class Polite:
    """A TLS client that asks all the time, and must be answered each time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.asked = 0
        self.worst_s = 0.0

    async def ask(self, due: float) -> None:
        """Ask, and count the time from when it should have been done: waiting for the loop is waiting."""
        self._writer.write(request(self.asked & 0xFFFF))
        async with asyncio.timeout(5.0):
            answer = await self._reader.readexactly(11)
        assert answer[7:] == b"\x03\x02\0\0"
        self.asked += 1
        self.worst_s = max(self.worst_s, perf_counter() - due)

    async def go_on(self) -> None:
        due = perf_counter()
        while True:
            await self.ask(due)
            due = max(due, perf_counter() - EVERY_S) + EVERY_S
            await asyncio.sleep(due - perf_counter())


@asynccontextmanager
async def polite(server: Server) -> AsyncIterator[Polite]:
    where = parse_endpoint(server.endpoints[0])
    context = client_context(plant().client)
    reader, writer = await asyncio.open_connection(where.host, where.port, ssl=context)
    try:
        yield Polite(reader, writer)
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)


@asynccontextmanager
async def asking(server: Server) -> AsyncIterator[Polite]:
    """Such a client, at it for the length of a block."""
    async with polite(server) as found:
        task = asyncio.create_task(found.go_on())
        try:
            yield found
            assert not task.done(), "it was not answered"
        finally:
            task.cancel()
            await asyncio.wait([task])


def hello() -> bytes:
    """What a client says first."""
    outgoing = ssl.MemoryBIO()
    client = client_context(plant().client).wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="127.0.0.1")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def anywhere(files: TlsFiles) -> Endpoint:
    return Endpoint("tls", "127.0.0.1", tls=files)


@pytest.mark.slow
async def test_f3_a_hundred_stalled_handshakes_keep_nobody_waiting() -> None:
    limits = Limits(handshake_timeout_s=2.0, max_connections=200, max_connections_per_peer=200)
    async with Server(Bank(), anywhere(plant().server), limits=limits) as server, asking(server) as client:
        port = parse_endpoint(server.endpoints[0]).port
        stalled = await connect_all(port, STALLED)
        with closing(stalled):
            first = hello()
            for number, peer in enumerate(stalled):
                await peer.send(first[: len(first) * (number % 4) // 3])
            await until(lambda: server.statistics().connections == STALLED + 1)
            async with polite(server) as newcomer:
                await newcomer.ask(perf_counter())
            gone_s = await until(lambda: server.statistics().connections == 1)
        measured("F3", worst_s=client.worst_s, asked=client.asked, gone_s=gone_s)
        assert client.worst_s < OTHERS_S
        assert gone_s < limits.handshake_timeout_s + 2 * limits.sweep_s
        assert server.statistics().closed_by_reason["handshake_timeout"] >= STALLED // 2


def contents(files: TlsFiles) -> dict[str, bytes]:
    return {part: Path(getattr(files, part)).read_bytes() for part in ("cert", "key", "ca")}


@pytest.mark.slow
async def test_f7_certificates_that_change_under_load_drop_no_connection(tmp_path: Path) -> None:
    paths = {part: tmp_path / part for part in ("cert", "key", "ca")}
    whole = contents(plant().server)
    for part, data in whole.items():
        paths[part].write_bytes(data)
    files = TlsFiles(**{part: str(path) for part, path in paths.items()})
    observer = RecordingObserver()
    async with Server(Bank(), anywhere(files), observer=observer) as server, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(asking(server)) for _ in range(5)]
        for data in (whole["cert"][:200], whole["cert"], b"", whole["cert"]):
            paths["cert"].write_bytes(data)
            await asyncio.sleep(1.05)  # they are looked at once a second
            async with polite(server) as newcomer:
                await newcomer.ask(perf_counter())
        assert min(client.asked for client in clients) > 100
        await until(lambda: server.statistics().connections == 5)
        assert server.statistics().handshake_failures == {}
    assert len(observer.of(EventKind.CERTIFICATES_REJECTED)) == 2
    assert len(observer.of(EventKind.CERTIFICATES_RELOADED)) == 2


@pytest.mark.slow
def test_a_connection_costs_no_more_than_48_kib() -> None:
    """What docs/security.md says: 200 idle connections that have asked once, in a process of their own."""
    url = str(Endpoint("tls", "127.0.0.1", 0, tls=plant().server))
    context = client_context(plant().client)
    command = [sys.executable, "-m", "everbus", "serve", "--listen", url]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server, ExitStack() as clients:
        clients.callback(server.terminate)
        assert server.stderr is not None
        port = int(server.stderr.readline().partition("127.0.0.1:")[2].partition("?")[0])

        def connect(count: int) -> None:
            for _ in range(count):
                sock = clients.enter_context(socket.create_connection(("127.0.0.1", port), 5.0))
                one = clients.enter_context(context.wrap_socket(sock, server_hostname="127.0.0.1"))
                one.sendall(request(1))
                assert one.recv(100)

        connect(50)  # what is allocated once
        before = memory_bytes(server.pid)
        connect(200)
        each = (memory_bytes(server.pid) - before) / 200
        measured("TLS", bytes_each=each)
        assert each < 48 * 1024
