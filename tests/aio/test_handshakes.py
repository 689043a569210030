from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic

import pytest

from everbus.aio.handshakes import Handshakes
from everbus.aio.server import Server
from everbus.aio.statistics import Drained
from everbus.aio.transport import Sockets
from everbus.client.endpoint import Endpoint, TlsFiles, parse_endpoint
from everbus.errors import ConfigurationError
from everbus.limits import Limits
from everbus.observe import EventKind
from everbus.protocol.pdu.registers import ReadHoldingRegistersResponse
from everbus.protocol.pdu.table import AnyRequest
from everbus.service.bank import Bank
from everbus.service.context import RequestContext
from everbus.service.handler import Answer
from everbus.testing import RecordingObserver
from everbus.tls import TlsOptions, client_context
from tests.aio.secure import plant
from tests.aio.wire import NOT_MODBUS, ZERO, Peer, adu, connect, peer, read_holding, until

QUICK = Limits(handshake_timeout_s=0.3, stop_timeout_s=0.4, write_timeout_s=0.3)


def anywhere(files: TlsFiles | None = None) -> Endpoint:
    return Endpoint("tls", host="127.0.0.1", tls=files or plant().server)


async def secured(server: Server, files: str = "client", version: ssl.TLSVersion | None = None) -> Peer:
    """A client of asyncio's own TLS."""
    context = client_context(getattr(plant(), files))
    if version is not None:
        context.minimum_version = context.maximum_version = version
    endpoint = parse_endpoint(server.endpoints[0])
    return Peer(*await asyncio.open_connection(endpoint.host, endpoint.port, ssl=context))


@asynccontextmanager
async def closing(made: Peer) -> AsyncIterator[Peer]:
    try:
        yield made
    finally:
        made.writer.transport.abort()
        await asyncio.sleep(0)


def handshakes_of(server: Server) -> Handshakes:
    assert server._reception is not None
    return server._reception._handshakes


def plain(server: Server) -> str:
    return server.endpoints[0].partition("?")[0].replace("tls", "tcp")


def hello() -> bytes:
    """What a client says first."""
    outgoing = ssl.MemoryBIO()
    client = client_context(plant().client).wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="127.0.0.1")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


class Asked:
    """Answers, and keeps who asked."""

    def __init__(self) -> None:
        self.who: list[tuple[str | None, str | None]] = []

    def __call__(self, request: AnyRequest, context: RequestContext) -> Answer:
        self.who.append((context.subject, context.role))
        return ReadHoldingRegistersResponse.of([0])


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_f6_requests_in_many_records_and_many_in_one_come_with_subject_and_role(version: ssl.TLSVersion) -> None:
    asked, observer = Asked(), RecordingObserver()
    async with Server(asked, anywhere(), observer=observer) as server:
        async with closing(await secured(server, version=version)) as client:
            assert await client.ask() == ZERO
            for byte in adu(2):  # a record each
                client.send(bytes((byte,)))
            client.send(b"".join(map(adu, range(3, 403))))  # many in one, and over several
            assert [(await client.answer()).transaction for _ in range(401)] == list(range(2, 403))
            assert server.statistics().connections == 1
        await until(lambda: server.statistics().connections == 0)
    assert set(asked.who) == {("CN=alice", "operator")}
    assert observer.of(EventKind.HANDSHAKE_FAILED) == []


@pytest.mark.parametrize(("files", "reason"), [("nobody", "no_certificate"), ("stranger", "unknown_ca")])
async def test_f1_who_is_refused_is_closed_before_anything_is_read(files: str, reason: str) -> None:
    asked, observer = Asked(), RecordingObserver()
    async with Server(asked, anywhere(), observer=observer) as server:
        async with closing(await secured(server, files)) as client:
            client.send(adu(1))
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await client.answer()
        await until(lambda: server.statistics().connections == 0)
        assert server.statistics().closed_by_reason == {"handshake": 1}
    assert observer.reasons(EventKind.HANDSHAKE_FAILED) == [reason]
    assert asked.who == []


async def test_f4_a_role_that_is_none_is_told_and_the_client_served_without() -> None:
    asked, observer = Asked(), RecordingObserver()
    async with (
        Server(asked, anywhere(), observer=observer) as server,
        closing(await secured(server, "odd")) as client,
    ):
        assert await client.ask() == ZERO
    assert asked.who == [("CN=odd", None)]
    assert observer.reasons(EventKind.ROLE_REJECTED) == ["duplicate"]
    assert "CN=odd: the certificate has 2 role extensions" in observer.of(EventKind.ROLE_REJECTED)[0].detail


async def test_a_socket_that_cannot_be_watched_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no room for another watch")

    monkeypatch.setattr(Sockets, "attach", fail)
    async with Server(Bank(), anywhere()) as server, peer(plain(server)) as client:
        assert await client.end() == "eof"
        assert len(handshakes_of(server)) == server.statistics().connections == 0


async def test_certificates_of_clients_can_be_left_alone() -> None:
    asked = Asked()
    async with (
        Server(asked, anywhere(), tls=TlsOptions(clients="none")) as server,
        closing(await secured(server, "nobody")) as client,
    ):
        assert await client.ask() == ZERO
    assert asked.who == [(None, None)]


@pytest.mark.parametrize("data", [adu(1), NOT_MODBUS])
async def test_f2_other_bytes_are_refused_within_50_ms(data: bytes) -> None:
    observer = RecordingObserver()
    async with Server(Bank(), anywhere(), observer=observer) as server, peer(plain(server)) as client:
        began = monotonic()
        client.send(data)
        await client.reader.read()  # an alert, then the end
        assert monotonic() - began < 0.05
    assert observer.reasons(EventKind.HANDSHAKE_FAILED) == ["not_tls"]


async def test_an_end_and_a_reset_within_the_handshake() -> None:
    observer = RecordingObserver()
    async with Server(Bank(), anywhere(), observer=observer) as server:
        for sent in (b"", hello()[:50]):
            async with peer(plain(server)) as client:
                client.send(sent)
                client.writer.write_eof()
                assert await client.end() == "eof"
        gone = await connect(plain(server))
        gone.send(hello())
        await until(lambda: server.statistics().connections == 1)
        gone.writer.transport.abort()
        await until(lambda: server.statistics().connections == 0)
    assert observer.reasons(EventKind.HANDSHAKE_FAILED)[:2] == ["closed", "closed"]


@pytest.mark.parametrize("size", [0, 50, 10_000])
async def test_f3_stalled_handshakes_end_in_time_and_delay_nobody(size: int) -> None:
    """They count as connections do, and others are answered meanwhile."""
    limits = replace(QUICK, max_handshakes=8, max_connections=20, max_connections_per_peer=20)
    async with Server(Bank(), anywhere(), limits=limits) as server, closing(await secured(server)) as client:
        stalled = [await connect(plain(server)) for _ in range(8)]
        for one in stalled:
            one.send(hello()[:size])
        await until(lambda: server.statistics().connections == 9)
        began = monotonic()
        assert await client.ask() == ZERO
        assert monotonic() - began < 0.05
        for one in stalled:
            await one.reader.read()
            await one.close()
        assert monotonic() - began < 1
        assert await client.ask() == ZERO
        assert server.statistics().closed_by_reason == {"handshake_timeout": 8}


async def test_a_newcomer_takes_the_place_of_the_handshake_that_stalled_longest() -> None:
    limits = Limits(max_handshakes=2)
    async with Server(Bank(), anywhere(), limits=limits) as server:
        stalled = [await connect(plain(server)) for _ in range(3)]
        for one in stalled:
            one.send(hello())
        await until(lambda: len(handshakes_of(server)._running) == 2)
        waits = asyncio.ensure_future(secured(server))
        await asyncio.sleep(0.05)
        assert not waits.done()
        for transport in handshakes_of(server)._running:
            handshakes_of(server)._running[transport] -= 1.0  # as if they were a second old
        async with closing(await secured(server)) as client, closing(await waits) as other:
            assert await client.ask() == await other.ask() == ZERO
        assert server.statistics().closed_by_reason["evicted_handshake"] >= 1
        for one in stalled:
            await one.close()


async def test_those_that_wait_begin_when_others_are_over() -> None:
    limits = Limits(max_handshakes=1)
    async with Server(Bank(), anywhere(), limits=limits) as server:
        clients = await asyncio.gather(*(secured(server) for _ in range(5)))
        for client in clients:
            async with closing(client):
                assert await client.ask() == ZERO
    assert server.statistics().closed_by_reason.keys() <= {"reset", "peer_closed"}


async def test_a_stop_does_not_wait_for_handshakes() -> None:
    server = Server(Bank(), anywhere())
    await server.start()
    async with peer(plain(server)) as client:
        client.send(hello())
        await until(lambda: len(handshakes_of(server)._running) == 1)
        began = monotonic()
        assert await server.stop() == Drained(1)
        assert monotonic() - began < 0.3
        await client.reader.read()
    assert len(handshakes_of(server)) == 0


async def test_a_client_that_never_reads_is_cut_off() -> None:
    limits = Limits(write_timeout_s=0.2, write_high_water_bytes=10_000)
    async with Server(Bank(), anywhere(), limits=limits) as server:
        async with closing(await secured(server)) as client:
            client.reader._transport.pause_reading()  # type: ignore[attr-defined]
            while server.statistics().connections:
                client.send(b"".join(adu(number, pdu=read_holding(0, 125)) for number in range(500)))
                await asyncio.sleep(0.01)
        assert server.statistics().closed_by_reason == {"write_timeout": 1}


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_f5_a_resumed_session_keeps_its_role(version: ssl.TLSVersion) -> None:
    asked = Asked()
    async with Server(asked, anywhere()) as server:
        where = parse_endpoint(server.endpoints[0])
        context = client_context(plant().client)
        context.minimum_version = context.maximum_version = version
        assert await asyncio.to_thread(resumed, context, (where.host, where.port)) == [False, True]
    assert asked.who == [("CN=alice", "operator")] * 2


def resumed(context: ssl.SSLContext, where: tuple[str, int]) -> list[bool]:
    """Ask twice, the second time in the session of the first; whether each was one that is resumed."""
    found, session = [], None
    for _ in range(2):
        with (
            socket.create_connection(where) as sock,
            context.wrap_socket(sock, server_hostname=where[0], session=session) as client,
        ):
            client.sendall(adu(1))
            assert client.recv(300).endswith(ZERO)
            session = client.session
            found.append(bool(client.session_reused))
    return found


@pytest.fixture
def copied(tmp_path: Path) -> TlsFiles:
    """The server's files, to be changed."""
    for part in ("cert", "key", "ca"):
        (tmp_path / part).write_bytes(Path(getattr(plant().server, part)).read_bytes())
    return TlsFiles(**{part: str(tmp_path / part) for part in ("cert", "key", "ca")})


async def test_bytes_that_were_changed_on_the_way_end_the_connection() -> None:
    async with Server(Bank(), anywhere()) as server, closing(await secured(server)) as client:
        assert await client.ask() == ZERO
        sock = client.writer.get_extra_info("socket")
        os.write(sock.fileno(), b"\x17\x03\x03\x00\x20" + bytes(32))
        await until(lambda: server.statistics().connections == 0)
        assert server.statistics().closed_by_reason == {"tls_error": 1}


async def test_two_endpoints_of_the_same_files_and_a_plain_one() -> None:
    async with Server(Bank(), anywhere(), anywhere(), "tcp://127.0.0.1:0") as server:
        assert len(handshakes_of(server)._certificates) == 1
        async with peer(server.endpoints[2]) as one, closing(await secured(server)) as other:
            assert await one.ask() == await other.ask() == ZERO


async def test_files_that_cannot_be_used_stop_the_start() -> None:
    with pytest.raises(ConfigurationError, match="no-such cannot be read"):
        await Server(Bank(), anywhere(replace(plant().server, key="no-such"))).start()


async def test_f7_new_files_are_used_by_the_next_handshake(copied: TlsFiles, tmp_path: Path) -> None:
    """Connections stay; what is half written changes nothing."""
    observer = RecordingObserver()
    async with Server(Bank(), anywhere(copied), observer=observer) as server, closing(await secured(server)) as client:
        certificates = next(iter(handshakes_of(server)._certificates.values()))
        whole = (tmp_path / "cert").read_bytes()
        for data in (whole[:100], whole):
            (tmp_path / "cert").write_bytes(data)
            certificates._look_at = 0
            async with closing(await secured(server)) as other:
                assert await other.ask() == ZERO
        assert await client.ask() == ZERO
    assert observer.reasons(EventKind.CERTIFICATES_REJECTED) == ["kept_old"]
    assert observer.reasons(EventKind.CERTIFICATES_RELOADED) == ["changed"]
