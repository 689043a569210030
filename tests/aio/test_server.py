from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from everbus.aio.server import Server
from everbus.aio.statistics import Drained
from everbus.client.endpoint import Endpoint
from everbus.errors import ConfigurationError, ConnectError, ServerStateError
from everbus.limits import Limits
from everbus.logs import LogObserver
from everbus.protocol.pdu.registers import ReadHoldingRegistersResponse
from everbus.protocol.pdu.table import AnyRequest
from everbus.service.bank import Bank
from everbus.service.context import RequestContext
from everbus.service.handler import Answer
from everbus.service.local import LocalDevice
from tests.aio.servers import ANYWHERE, QUICK, Slow, another_thread, busy, serves
from tests.aio.wire import FAILED, NOT_MODBUS, READ, ZERO, adu, connect, peer, until, write_register

# Serving


async def test_it_serves_inside_its_block() -> None:
    server = Server(Bank(), ANYWHERE)
    assert not serves(server)
    async with server as entered:
        assert entered is server
        assert serves(server)
        (url,) = server.endpoints
        assert repr(server) == f"<Server serving {url}>"
        async with peer(url) as one:
            assert await one.ask(write_register(42)) == write_register(42)
            assert await one.ask() == b"\x03\x02\x00\x2a"
    assert not serves(server)
    with pytest.raises(ConnectionRefusedError):
        await connect(url)


@pytest.mark.requirement("TG-4.2.1.1-port-502")
async def test_by_default_it_listens_where_nobody_else_can_reach_it() -> None:
    assert repr(Server(Bank())) == "<Server new tcp://127.0.0.1:5020>"


@pytest.mark.parametrize("handler", [Bank(), LocalDevice(), {1: Bank()}, lambda request, context: request.respond()])
async def test_whatever_can_answer_may_be_given(handler: Any) -> None:
    async with Server(handler, ANYWHERE) as server, peer(server.endpoints[0]) as one:
        assert await one.ask(write_register(42)) == write_register(42)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((5, ANYWHERE), "cannot answer requests"),
        (({}, ANYWHERE), "no unit has a handler"),
        ((Bank(), "ftp://127.0.0.1"), "scheme 'ftp'"),
        ((Bank(), "tcp://127.0.0.1:99999"), "99999"),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_built(arguments: Any, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        Server(*arguments)


@pytest.mark.requirement("TG-4.2.1.1-transactions")
async def test_sixteen_requests_in_one_segment_get_sixteen_answers() -> None:
    async with Server(Bank(), ANYWHERE) as server, peer(server.endpoints[0]) as one:
        one.send(b"".join(map(adu, range(16))))
        assert [(await one.answer()).transaction for _ in range(16)] == list(range(16))


@pytest.mark.requirement("TG-4.2.1.1-port-configurable")
async def test_several_endpoints_reach_the_same_device(tmp_path: Path) -> None:
    path = tmp_path / "modbus.sock"
    endpoints: list[str | Endpoint] = [ANYWHERE, Endpoint("tcp", host="127.0.0.2"), f"unix://{path}", "tcp://[::1]:0"]
    async with Server(Bank(), *endpoints) as server:
        assert server.statistics().listeners == 4
        assert server.endpoints[2] == f"unix://{path}"
        assert server.endpoints[3].startswith("tcp://[::1]:")
        for value, url in enumerate(server.endpoints, 1):
            async with peer(url) as writer:
                await writer.ask(write_register(value))
            for other in server.endpoints:
                async with peer(other) as reader:
                    assert await reader.ask() == bytes((3, 2, 0, value))
    assert not path.exists()


async def test_a_handler_is_told_who_asks(tmp_path: Path) -> None:
    seen: list[RequestContext] = []

    def handler(request: AnyRequest, context: RequestContext) -> Answer:
        seen.append(context)
        return ReadHoldingRegistersResponse.of([0])

    async with Server(handler, ANYWHERE, "tcp://[::1]:0", f"unix://{tmp_path}/socket") as server:
        ports = []
        for url in server.endpoints:
            async with peer(url) as one:
                await one.ask(unit=17, transaction=0xABCD)
                ports.append(one.writer.get_extra_info("sockname")[1:2])
        assert [context.peer for context in seen[:2]] == [f"127.0.0.1:{ports[0][0]}", f"[::1]:{ports[1][0]}"]
        assert [context.connection.host for context in seen] == ["127.0.0.1", "::1", ""]
        assert [context.connection.endpoint for context in seen] == list(server.endpoints)
        assert [context.connection_id for context in seen] == [1, 2, 3]
        assert {(context.unit, context.transaction) for context in seen} == {(17, 0xABCD)}


@pytest.mark.requirement("SEC-R-24")
async def test_a_policy_decides() -> None:
    class ReadOnly:
        unconditional = False

        def allows(self, request: AnyRequest, context: RequestContext) -> bool:
            return request.function_code == 3

    async with Server(Bank(), ANYWHERE, policy=ReadOnly()) as server, peer(server.endpoints[0]) as one:
        assert await one.ask(write_register(1)) == bytes.fromhex("8601")
        assert await one.ask() == ZERO


async def test_two_servers_in_one_process_share_nothing() -> None:
    quick = Limits(max_connections=16)
    async with Server(Bank(), ANYWHERE) as first, Server(Bank(), ANYWHERE, limits=quick) as second:
        async with peer(first.endpoints[0]) as one, peer(second.endpoints[0]) as two:
            await one.ask(write_register(7))
            await one.ask(b"\x08\0\0\0\0")
            assert await two.ask() == ZERO
            two.send(NOT_MODBUS)
            assert await two.end() == "eof"
            assert await one.ask() == b"\x03\x02\0\x07"
            await until(lambda: second.statistics().connections == 0)
            one_stat, two_stat = first.statistics(), second.statistics()
            assert (one_stat.requests, two_stat.requests) == (3, 1)
            assert (one_stat.rejected_frames, two_stat.rejected_frames) == ({}, {"protocol_id": 1})
            assert (one_stat.max_connections, two_stat.max_connections) == (1024, 16)
        await first.stop()
        async with peer(second.endpoints[0]) as two:
            assert await two.ask() == ZERO


@pytest.mark.slow
def test_it_serves_on_uvloop_too() -> None:
    async def main() -> None:
        slow = Slow()
        async with Server({1: Bank(), 2: slow}, ANYWHERE, limits=QUICK) as server, peer(server.endpoints[0]) as one:
            one.send(b"".join(map(adu, range(16))))
            assert [(await one.answer()).transaction for _ in range(16)] == list(range(16))
            assert await one.ask(unit=2) == FAILED
            one.send(adu(1)[:5])
            assert await one.end() == "eof"
            async with peer(server.endpoints[0]) as two:
                await two.ask()
                two.writer.write_eof()
                assert await two.end() == "eof"
            listener = server._doors.listeners[0]
            assert listener._socket is not None
            listener._socket.shutdown(socket.SHUT_RDWR)
            await until(lambda: listener.relistens == 1)
            async with peer(server.endpoints[0]) as three:
                assert await three.ask() == ZERO
            async with peer(server.endpoints[0]) as four:
                await four.ask(unit=1)
                four.send(adu(9, 2))
                four.writer.write_eof()
                assert (await four.answer()).pdu == FAILED  # the sweep has looked at it meanwhile
                assert await four.end() == "eof"
            async with peer(server.endpoints[0]) as five:
                await five.ask()
                assert await server.stop() == Drained(1)
                assert await five.end() == "eof"

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


# Start


async def test_a_server_starts_once() -> None:
    async with Server(Bank(), ANYWHERE) as server:
        with pytest.raises(ServerStateError, match=r"is serving.*build a new one"):
            await server.start()
    with pytest.raises(ServerStateError, match=r"is stopped.*build a new one"):
        await server.start()
    with pytest.raises(ServerStateError, match="is stopped"):
        await server.serve_forever()


async def test_a_taken_port_leaves_nothing_open() -> None:
    async with Server(Bank(), ANYWHERE) as first:
        second = Server(Bank(), ANYWHERE, first.endpoints[0])
        with pytest.raises(ConnectError, match="in use"):
            async with second:
                pass
        assert second.statistics().listeners == 0
        assert await second.stop() == Drained(0)


async def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(ConnectError, match="no-such-host"):
        await Server(Bank(), "tcp://no-such-host.invalid:0").start()


async def test_a_start_that_is_cancelled_leaves_nothing() -> None:
    server = Server(Bank(), "tcp://localhost:0")
    task = asyncio.create_task(server.start())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not serves(server)
    assert await server.stop() == Drained(0)


# Serving for ever


async def test_serving_for_ever_starts_and_says_how_it_ended() -> None:
    server = Server(Bank(), ANYWHERE)
    serving = asyncio.create_task(server.serve_forever())
    await until(lambda: serves(server))
    async with peer(server.endpoints[0]) as one:
        await one.ask()
        assert await server.stop() == Drained(1)
        assert await serving == Drained(1)


async def test_serving_for_ever_after_a_start() -> None:
    async with Server(Bank(), ANYWHERE) as server:
        serving = asyncio.create_task(server.serve_forever())
        async with peer(server.endpoints[0]) as one:
            await one.ask()
        server.request_stop()
        assert await serving == Drained(0)


async def test_serving_for_ever_joins_a_stop_that_is_under_way() -> None:
    slow = Slow()
    server = Server(slow, ANYWHERE)
    await server.start()
    async with busy(server, slow):
        stop = asyncio.create_task(server.stop())
        await asyncio.sleep(0)
        serving = asyncio.create_task(server.serve_forever())
        await asyncio.sleep(0.02)
        slow.go_on.set()
        assert await stop == await serving == Drained(1)


async def test_cancelling_it_stops_the_server() -> None:
    slow = Slow()
    server = Server(slow, ANYWHERE)
    serving = asyncio.create_task(server.serve_forever())
    await until(lambda: serves(server))
    async with busy(server, slow) as peers:
        serving.cancel()
        await asyncio.sleep(0.02)
        assert not serving.done()
        slow.go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await serving
        assert (await peers[0].answer()).pdu == ZERO
    assert await server.stop() == Drained(1)


async def test_a_start_that_fails_ends_serving_for_ever() -> None:
    async with Server(Bank(), ANYWHERE) as first:
        with pytest.raises(ConnectError):
            await Server(Bank(), first.endpoints[0]).serve_forever()


async def test_an_error_in_its_block_stops_it() -> None:
    server = Server(Bank(), ANYWHERE)
    with pytest.raises(ValueError, match="of the program"):
        async with server:
            raise ValueError("a mistake of the program")
    assert not serves(server)
    assert server.statistics().listeners == 0


# Statistics and logs


async def test_statistics_tell_what_has_happened() -> None:
    async def failing(request: AnyRequest, context: RequestContext) -> Answer:
        raise KeyError("no such thing")

    async with Server({1: Bank(), 2: failing}, ANYWHERE, limits=QUICK) as server:
        url = server.endpoints[0]
        async with peer(url) as one:
            await one.ask()
            assert await one.ask(b"\x03\xff\xff\0\2") == bytes.fromhex("8302")
            assert await one.ask(unit=2) == FAILED
            found = server.statistics()
            assert (found.connections, found.opened, found.closed, found.requests) == (1, 1, 0, 3)
            assert found.exceptions == 2
            assert found.handler_failures == {"KeyError": 1}
        async with peer(url) as other:
            other.send(NOT_MODBUS)
            await other.end()
        await until(lambda: server.statistics().connections == 0)
        found = server.statistics()
        assert found.rejected_frames == {"protocol_id": 1}
        assert found.closed_by_reason == {"peer_closed": 1, "protocol_id": 1}
        assert (found.opened, found.closed, found.peak_connections) == (2, 2, 1)
        assert (found.accept_errors, found.refused_by_reason, found.relistens) == ({}, {}, 0)
        assert (found.unsent_bytes, found.observer_failures, found.listeners) == (0, 0, 1)
    assert server.statistics().listeners == 0
    assert server.statistics().opened == 2


async def test_a_connection_that_is_reset_is_told_as_such() -> None:
    async with Server(Bank(), ANYWHERE) as server:
        async with peer(server.endpoints[0]) as one:
            await one.ask()
        await until(lambda: server.statistics().connections == 0)
        with socket.create_connection(("127.0.0.1", int(server.endpoints[0].rpartition(":")[2]))) as sock:
            await until(lambda: server.statistics().connections == 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await until(lambda: server.statistics().connections == 0)
        assert server.statistics().closed_by_reason == {"peer_closed": 1, "reset": 1}


async def test_what_was_suppressed_is_told_at_the_end() -> None:
    texts: list[str] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            texts.append(record.getMessage())

    logger = logging.Logger("of this test alone", logging.INFO)
    logger.addHandler(Lines())
    async with Server(Bank(), ANYWHERE, observer=LogObserver(logger, lines=1)) as server:
        for _ in range(4):
            async with peer(server.endpoints[0]) as one:
                one.send(NOT_MODBUS)
                await one.end()
    assert [text for text in texts if "more" in text] == ["frame rejected (protocol_id): 3 more were not written"]


async def test_it_needs_a_running_loop_only_to_start() -> None:
    built: list[Server] = []
    with another_thread(lambda: built.append(Server(Bank(), ANYWHERE))):
        pass
    async with built[0] as server, peer(server.endpoints[0]) as one:
        assert await one.ask(READ) == ZERO


async def test_what_a_user_calls_attach_is_left_alone() -> None:
    class Device:
        """Looks as if it could take a server's lock and observer over, but keeps no data here."""

        attached: tuple[object, ...] = ()

        def attach(self, *given: object) -> None:
            self.attached = given

        def handle(self, request: AnyRequest, context: RequestContext) -> Answer | Awaitable[Answer]:
            return ReadHoldingRegistersResponse.of([0])

    device = Device()
    async with Server(device, ANYWHERE) as server, peer(server.endpoints[0]) as one:
        assert await one.ask() == ZERO
        assert device.attached == ()
