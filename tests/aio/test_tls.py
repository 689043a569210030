from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from everbus.aio.tls import ClientHandshake, TlsTransport
from everbus.aio.transport import Sockets, SocketTransport
from everbus.tls import client_context, handshake_failure, peer_identity, server_context
from tests.aio.secure import HOST, plant
from tests.aio.wire import until

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
EACH_VERSION = pytest.mark.parametrize("version", VERSIONS, ids=lambda version: str(version.name))


class End(asyncio.BufferedProtocol):
    """One end: what it was told, and what it got. It owns its own handshake."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context
        self.events: list[str] = []
        self.received = bytearray()
        self.error: BaseException | None = None
        self.stays = False
        self.transport: TlsTransport
        self._view = memoryview(bytearray(64))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.events.append("made")

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        assert 0 < nbytes <= len(self._view)
        self.received += self._view[:nbytes]

    def eof_received(self) -> bool:
        self.events.append("eof")
        return self.stays

    def pause_writing(self) -> None:
        self.events.append("pause")

    def resume_writing(self) -> None:
        self.events.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.events.append("lost" if exc is None else "reset")
        self.error = self.error or exc

    # HandshakeOwner

    def arrived(self, transport: TlsTransport) -> None:
        transport.shake(self.context)

    def established(self, transport: TlsTransport) -> None:
        self.events.append("established")

    def failed(self, transport: TlsTransport, error: Exception) -> None:
        self.events.append("failed")
        self.error = error
        transport.close()

    def lost(self, transport: TlsTransport, error: Exception | None) -> None:
        self.events.append("never")


class Link:
    """Two ends, connected."""

    def __init__(self, server: ssl.SSLContext, client: ssl.SSLContext) -> None:
        self.server, self.client = End(server), End(client)
        self.sockets = Sockets(asyncio.get_running_loop())
        self.raw: list[SocketTransport] = []
        view = memoryview(bytearray(1000))
        for end, sock in zip((self.server, self.client), socket.socketpair(), strict=True):
            sock.setblocking(False)
            end.transport = TlsTransport(end, end, view)
            self.raw.append(self.sockets.attach(sock, end.transport))
        self.client.transport.shake(client, server_hostname=HOST)

    @property
    def over(self) -> bool:
        return all(end.events[-1:] in (["lost"], ["reset"], ["never"]) for end in (self.server, self.client))


@asynccontextmanager
async def linked(
    version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3, files: str = "client", *, established: bool = True
) -> AsyncIterator[Link]:
    context = client_context(getattr(plant(), files))
    context.minimum_version = context.maximum_version = version
    link = Link(server_context(plant().server), context)
    try:
        if established:
            await until(lambda: link.client.events == link.server.events == ["established"])
            for _ in range(4):
                await asyncio.sleep(0)  # the tickets of TLS 1.3 are read
        yield link
    finally:
        for raw in link.raw:
            raw.abort()
        await until(lambda: link.over)


@EACH_VERSION
async def test_bytes_go_both_ways(version: ssl.TLSVersion) -> None:
    async with linked(version) as link:
        large = bytes(range(256)) * 300  # several records, more than the buffers
        link.client.transport.write(b"a question")
        link.server.transport.write(large)
        await until(lambda: link.server.received == b"a question" and link.client.received == large)
        tls = link.server.transport.get_extra_info("ssl_object")
        assert peer_identity(tls).role == "operator"
        assert link.server.transport.get_extra_info("socket").fileno() > 0
        assert link.server.transport.get_extra_info("peername", "nobody knows") == "nobody knows"


@EACH_VERSION
async def test_a_handshake_that_fails_is_told_to_both_ends(version: ssl.TLSVersion) -> None:
    async with linked(version, "nobody", established=False) as link:
        await until(lambda: link.over)
        assert link.server.events == ["failed", "never"]
        assert link.server.error is not None
        assert handshake_failure(link.server.error).reason == "no_certificate"
        late = version == ssl.TLSVersion.TLSv1_3
        assert link.client.events == (["established", "reset"] if late else ["failed", "never"])
        assert link.client.error is not None
        assert handshake_failure(link.client.error).reason == ("no_certificate" if late else "no_agreement")


async def test_an_end_within_the_handshake() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    end = End(server_context(plant().server))
    with theirs:
        Sockets(asyncio.get_running_loop()).attach(ours, TlsTransport(end, end, memoryview(bytearray(1000))))
        theirs.send(b"\x16\x03\x01")
        theirs.shutdown(socket.SHUT_WR)
        await until(lambda: end.events == ["failed", "never"])
    assert end.error is not None
    assert handshake_failure(end.error).reason == "closed"


async def test_a_handshake_can_be_held_back() -> None:
    async with linked(established=False) as link:
        arrived: list[TlsTransport] = []
        link.server.arrived = arrived.append  # type: ignore[method-assign, assignment]
        await until(lambda: arrived)
        link.server.transport.hold()
        await asyncio.sleep(0.01)
        assert link.client.events == []
        link.server.transport.shake(link.server.context)
        await until(lambda: link.client.events == link.server.events == ["established"])


async def test_a_record_in_parts() -> None:
    async with linked() as link:
        tls = link.client.transport.tls
        assert tls is not None
        tls.write(b"in parts")
        record = link.client.transport._outgoing.read()
        for part in (record[:3], record[3:20], record[20:]):
            assert link.server.received == b""
            link.raw[1].write(part)
            await asyncio.sleep(0.005)
        assert link.server.received == b"in parts"


@EACH_VERSION
async def test_a_close_is_announced(version: ssl.TLSVersion) -> None:
    async with linked(version) as link:
        link.client.transport.write(b"the last words")
        link.client.transport.close()
        link.client.transport.write(b"nothing behind them")
        assert link.client.transport.is_closing()
        await until(lambda: link.over)
        assert link.server.received == b"the last words"
        assert link.server.events[:2] == ["established", "eof"]
        assert link.client.events == ["established", "lost"]


@EACH_VERSION
async def test_who_has_something_to_say_stays_when_the_other_has_not(version: ssl.TLSVersion) -> None:
    async with linked(version) as link:
        link.server.stays = True
        assert link.client.transport.tls is not None
        with pytest.raises(ssl.SSLWantReadError):
            link.client.transport.tls.unwrap()
        link.client.transport._flush()
        await until(lambda: "eof" in link.server.events)
        assert not link.server.transport.is_closing()
        link.server.transport.close()
        await until(lambda: link.over)
        assert link.server.events == ["established", "eof", "lost"]


async def test_a_connection_that_is_cut_off_ends_as_a_plain_one() -> None:
    async with linked() as link:
        link.raw[1].close()  # without a word of TLS
        await until(lambda: link.over)
        assert link.server.events == ["established", "eof", "lost"]


async def test_an_abort_says_nothing() -> None:
    async with linked() as link:
        link.client.transport.write(bytes(10_000_000))
        link.client.transport.abort()
        await until(lambda: link.over)
        assert link.client.events[-1] == "lost"


async def test_bytes_that_were_changed_on_the_way_end_it() -> None:
    async with linked() as link:
        link.raw[1].write(b"\x17\x03\x03\x00\x20" + bytes(32))
        await until(lambda: link.over)
        assert link.server.received == b""
        assert link.server.events == link.client.events == ["established", "reset"]
        assert isinstance(link.server.error, ssl.SSLError)


async def test_who_does_not_want_to_read_gets_nothing_until_he_does() -> None:
    async with linked() as link:
        link.server.transport.pause_reading()
        assert not link.server.transport.is_reading()
        link.client.transport.write(bytes(500))
        await asyncio.sleep(0.01)
        assert link.server.received == b""
        link.server.transport.resume_reading()
        await until(lambda: len(link.server.received) == 500)


async def test_what_was_decrypted_too_early_waits() -> None:
    async with linked() as link:
        updated = link.server.buffer_updated

        def once(nbytes: int) -> None:
            updated(nbytes)
            link.server.transport.pause_reading()

        link.server.buffer_updated = once  # type: ignore[method-assign]
        link.client.transport.write(bytes(200))
        await until(lambda: len(link.server.received) == 64)
        await asyncio.sleep(0.01)
        assert len(link.server.received) == 64
        link.server.buffer_updated = updated  # type: ignore[method-assign]
        link.server.transport.resume_reading()
        await until(lambda: len(link.server.received) == 200)


async def test_a_peer_that_does_not_read_makes_us_pause() -> None:
    async with linked() as link:
        link.client.transport.pause_reading()
        link.server.transport.set_write_buffer_limits(high=10_000)
        assert link.server.transport.get_write_buffer_limits() == (2500, 10_000)
        while "pause" not in link.server.events:
            link.server.transport.write(bytes(10_000))
        assert link.server.transport.get_write_buffer_size() > 10_000
        link.client.transport.resume_reading()
        await until(lambda: link.server.events[1:] == ["pause", "resume"])
        assert set(link.client.received) == {0}


async def test_a_protocol_that_fails_costs_its_connection() -> None:
    found: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: found.append(context["exception"]))
    async with linked() as link:
        link.server.buffer_updated = lambda nbytes: 1 // 0  # type: ignore[method-assign, assignment]
        link.client.transport.write(b"x")
        await until(lambda: link.over)
        assert link.server.events == ["established", "reset"]
    assert isinstance(found[0], ZeroDivisionError)


# Clients


async def secure(client: End, files: str = "client", server: ssl.SSLContext | None = None) -> End:
    """Run a client's handshake with a server; return the server."""
    sockets = Sockets(asyncio.get_running_loop())
    ours, theirs = socket.socketpair()
    far = End(server or server_context(plant().server))
    for sock in (ours, theirs):
        sock.setblocking(False)
    far.transport = TlsTransport(far, far, memoryview(bytearray(1000)))
    sockets.attach(theirs, far.transport)
    try:
        await ClientHandshake(client).run(sockets, ours, client_context(getattr(plant(), files)), HOST)
        await until(lambda: far.events)
    finally:
        far.transport.abort()
        await until(lambda: far.events[-1:] in (["lost"], ["never"]))
    return far


async def test_a_client_waits_for_its_handshake() -> None:
    end = End(client_context(plant().client))
    far = await secure(end)
    assert far.events == ["established", "lost"]
    await until(lambda: end.events[-1:] in (["lost"], ["reset"]))
    assert end.events[0] == "made"


async def test_a_client_that_fails_is_never_made() -> None:
    end = End(client_context(plant().client))
    other = server_context(plant().server)
    other.load_cert_chain(plant().stranger.cert, plant().stranger.key)
    with pytest.raises(ssl.SSLCertVerificationError):
        await secure(end, server=other)
    assert end.events == []


async def test_a_client_whose_peer_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    end = End(client_context(plant().client))
    monkeypatch.setattr(End, "arrived", lambda self, transport: transport.abort())
    with pytest.raises(ConnectionResetError):
        await secure(end)
    assert end.events == []


async def test_a_client_that_is_cancelled_while_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    end = End(client_context(plant().client))
    monkeypatch.setattr(End, "arrived", lambda self, transport: transport.hold())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await secure(end)
    assert end.events == []


async def test_a_handshake_that_nobody_waits_for_makes_nothing() -> None:
    """It may be over in the very turn in which whoever waits was cancelled."""
    async with linked() as link:
        end = End(link.client.context)
        handshake = ClientHandshake(end)
        handshake._over.cancel()
        handshake.established(link.client.transport)
        handshake.failed(link.client.transport, ssl.SSLError())
        handshake.lost(link.client.transport, None)
        assert link.client.transport.is_closing()
    assert end.events == []


async def test_who_cannot_wait_reads_at_once_or_leaves() -> None:
    async with linked() as link:
        link.client.transport.write(b"now")
        link.server.transport.read_now()
        assert link.server.received == b"now"
