"""Group D, handlers: what they raise, answer and block, and that servers share nothing.

Rows D1 to D3, D9 and D10 of docs/faults.md; D5 of "More cases".
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from everbus import Bank, ExceptionResponseError, Limits, LocalDevice, Server
from everbus.observe import EventKind
from everbus.protocol.codes import ExceptionCode
from everbus.protocol.pdu.base import ExceptionResponse, Response
from everbus.protocol.pdu.bits import ReadCoilsResponse
from everbus.protocol.pdu.registers import ReadHoldingRegistersResponse, ReadInputRegistersResponse
from everbus.protocol.pdu.table import AnyRequest
from everbus.service.context import RequestContext
from everbus.service.handler import Answer
from everbus.testing import RecordingObserver
from tests.lifecycle.control import beside
from tests.lifecycle.wire import READ, Wire, address_of, adu, read, until, value

FREE_PORT = "tcp://127.0.0.1:0"
FAILED = b"\x83\x04"

Script = Callable[[], Any]


class Scripted:
    """Does at each address what a script says, at once or later; elsewhere it answers the address."""

    def __init__(self, scripts: list[Script], *, later: bool = False) -> None:
        self.scripts = scripts
        self.later = later

    def handle(self, request: AnyRequest, context: RequestContext) -> Answer | Awaitable[Answer]:
        return self._later(request) if self.later else self._now(request)

    def _now(self, request: AnyRequest) -> Answer:
        address = address_of(request)
        if address < len(self.scripts):
            answer: Answer = self.scripts[address]()
            return answer
        return ReadHoldingRegistersResponse.of([address])

    async def _later(self, request: AnyRequest) -> Answer:
        await asyncio.sleep(0)
        return self._now(request)


class SpeechlessError(Exception):
    """Cannot say what is wrong."""

    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


class Speechless(ReadHoldingRegistersResponse):
    """Nor can this."""

    def __repr__(self) -> str:
        raise RuntimeError("no words")


def raising(error: BaseException) -> Script:
    def script() -> None:
        raise error

    return script


def answering(answer: object) -> Script:
    return lambda: answer


# --- D1 and D9 --------------------------------------------------------------------------------

RAISED = [
    raising(error)
    for error in (
        ValueError("broken"),
        KeyError(7),
        ZeroDivisionError(),
        OSError(5, "input/output error"),
        ConnectionResetError(),
        TimeoutError(),
        AssertionError(),
        StopIteration(),
        StopAsyncIteration(),
        RecursionError(),
        MemoryError(),
        NotImplementedError(),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        ExceptionGroup("several", [ValueError(), TypeError()]),
        asyncio.CancelledError(),
        GeneratorExit(),
        SpeechlessError(),
    )
]
NONSENSE = [
    answering(answer)
    for answer in (
        None,
        42,
        b"\x03\x02\x00\x01",
        [1],
        object(),
        ReadHoldingRegistersResponse,
        ReadHoldingRegistersResponse(b""),
        ReadHoldingRegistersResponse(b"\0"),
        ReadHoldingRegistersResponse(b"\0\0\0\0"),
        ReadHoldingRegistersResponse(bytes(254)),
        ReadHoldingRegistersResponse(bytes(70000)),
        ReadHoldingRegistersResponse(None),  # type: ignore[arg-type]
        ReadHoldingRegistersResponse("ab"),  # type: ignore[arg-type]
        ReadHoldingRegistersResponse([1, 2]),  # type: ignore[arg-type]
        Speechless(b"\0"),
        ReadInputRegistersResponse(b"\0\0"),
        ReadCoilsResponse(b"\0"),
        ExceptionResponse(0x04, 2),
        ExceptionResponse(0x03, 0),
        ExceptionResponse(0x03, 256),
        ExceptionResponse(0x03, 2, b"x"),
    )
] + [lambda: ReadHoldingRegistersResponse.of([65536]), lambda: ReadHoldingRegistersResponse.of([-1])]


@pytest.mark.parametrize("later", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("scripts", [RAISED, NONSENSE], ids=["raises", "answers_nonsense"])
async def test_d1_a_handler_that_fails_is_exception_04_and_the_connection_is_kept(
    scripts: list[Script], later: bool
) -> None:
    observer = RecordingObserver()
    async with (
        Server(Scripted(scripts, later=later), FREE_PORT, observer=observer) as server,
        beside(server, read(1000)) as control,
        await Wire.to(server) as client,
    ):
        answers = [await client.ask(read(number), timeout_s=2.0) for number in range(len(scripts))]
        assert [number for number, answer in enumerate(answers) if answer != FAILED] == []
        assert await client.ask(read(1000)) == value(1000)
        statistics = server.statistics()
        assert statistics.closed == 0
        assert sum(statistics.handler_failures.values()) == len(scripts)
        assert len(observer.of(EventKind.HANDLER_FAILED)) + len(observer.of(EventKind.HANDLER_TIMED_OUT)) == len(
            scripts
        )
        assert control.during


async def test_d1_what_a_handler_raises_on_purpose_is_its_own_code() -> None:
    codes = [ExceptionCode.ILLEGAL_DATA_ADDRESS, ExceptionCode.SERVER_DEVICE_BUSY, 0x80, 0xFF]
    scripts = [raising(ExceptionResponseError(code)) for code in codes]
    scripts += [answering(ExceptionResponse(0x03, int(code))) for code in codes]
    for later in (False, True):
        async with Server(Scripted(scripts, later=later), FREE_PORT) as server, await Wire.to(server) as client:
            answers = [await client.ask(read(number)) for number in range(len(scripts))]
            assert answers == [bytes((0x83, code)) for code in codes * 2]
            assert server.statistics().handler_failures == {}


@pytest.mark.parametrize("later", [False, True], ids=["sync", "async"])
async def test_d1_the_traceback_of_each_kind_is_written_once(later: bool, caplog: pytest.LogCaptureFixture) -> None:
    scripts = [raising(ValueError("one")), raising(KeyError("two"))]
    async with Server(Scripted(scripts, later=later), FREE_PORT) as server, await Wire.to(server) as client:
        for _ in range(50):
            assert await client.ask(read(0)) == FAILED
            assert await client.ask(read(1)) == FAILED
    lines = [record.message for record in caplog.records if "Traceback" in record.message]
    assert len(lines) == 2
    assert [name in line for name, line in zip(("ValueError", "KeyError"), lines, strict=True)] == [True, True]
    assert caplog.text.count("Traceback") == 2


async def test_m_d5_a_handler_that_fails_all_the_time_costs_little_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    scripts = [raising(ValueError("the sensor is gone")), lambda: 1 / 0]
    async with Server(Scripted(scripts), FREE_PORT) as server, await Wire.to(server) as client:
        answers = await client.ask_all([read(number % 2) for number in range(10_000)])
        assert set(answers) == {FAILED}
        assert sum(server.statistics().handler_failures.values()) == 10_000
    assert len(caplog.text) < 10_000


async def test_m_d5_a_failure_with_a_long_message_costs_little_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    scripts = [raising(ValueError("x" * 1_000_000)), raising(LookupError("forged\nERROR everbus all is lost"))]
    async with Server(Scripted(scripts), FREE_PORT) as server, await Wire.to(server) as client:
        assert set(await client.ask_all([read(number % 2) for number in range(100)])) == {FAILED}
    assert len(caplog.text) < 20_000
    assert "\nERROR everbus all is lost" not in caplog.text


# --- D2 ---------------------------------------------------------------------------------------


class Stuck:
    """Never answers address 0, and notes how that ended; answers 1 late; other addresses at once."""

    def __init__(self, late_s: float = 0.0) -> None:
        self.started = 0
        self.cancelled = 0
        self.late_s = late_s

    async def __call__(self, request: AnyRequest, context: RequestContext) -> Response:
        address = address_of(request)
        if address == 0:
            self.started += 1
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        if address == 1:
            try:
                await asyncio.sleep(self.late_s)
            except asyncio.CancelledError:
                await asyncio.sleep(self.late_s)
        return ReadHoldingRegistersResponse.of([address])


@pytest.mark.slow
async def test_d2_a_handler_that_never_returns_is_exception_04_and_others_of_its_connection_go_on() -> None:
    limits = Limits(handler_timeout_s=0.4)
    handler, observer = Stuck(), RecordingObserver()
    async with Server(handler, FREE_PORT, limits=limits, observer=observer) as server, await Wire.to(server) as client:
        began = time.perf_counter()
        await client.send(adu(read(0), 500))
        others = [await client.ask(read(number)) for number in range(2, 102)]
        assert others == [value(number) for number in range(2, 102)]
        assert time.perf_counter() - began < 0.4
        assert await client.answer() == (500, 1, FAILED)
        assert 0.38 < time.perf_counter() - began < 0.4 + limits.sweep_s + 0.5
        await until(lambda: handler.cancelled == 1)
        assert observer.reasons(EventKind.HANDLER_TIMED_OUT) == ["ModbusTimeoutError"]
        assert await client.ask(read(5)) == value(5)


@pytest.mark.slow
async def test_d2_a_late_result_is_discarded() -> None:
    handler = Stuck(late_s=0.15)
    limits = Limits(handler_timeout_s=0.1)
    async with Server(handler, FREE_PORT, limits=limits) as server, await Wire.to(server) as client:
        await client.send(adu(read(1), 600))
        assert await client.answer() == (600, 1, FAILED)
        assert await client.open_for(0.4)
        assert await client.ask(read(7)) == value(7)


async def test_d2_all_sixteen_slots_stuck_are_free_again_after_the_timeout() -> None:
    handler = Stuck()
    limits = Limits(handler_timeout_s=0.3)
    async with Server(handler, FREE_PORT, limits=limits) as server, await Wire.to(server) as client:
        await client.send(b"".join(adu(read(0), number) for number in range(16)) + adu(read(9), 16))
        answers = await client.answers(17)
        assert {answer.transaction: answer.pdu for answer in answers} == dict.fromkeys(range(16), FAILED) | {
            16: value(9)
        }
        await until(lambda: handler.cancelled == 16)
        assert [await client.ask(read(3)) for _ in range(32)] == [value(3)] * 32


# --- D3 ---------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_d3_a_handler_that_blocks_the_loop_is_seen_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    def block() -> Response:
        time.sleep(1.0)
        return ReadHoldingRegistersResponse.of([0])

    async with Server(Scripted([block]), FREE_PORT) as server, await Wire.to(server) as client:
        assert await client.ask(read(5)) == value(5)
        assert await client.ask(read(0)) == value(0)
        await until(lambda: server.statistics().loop_lags > 0, timeout_s=2.0)
        statistics = server.statistics()
    assert statistics.loop_lags == 1
    assert 0.25 < statistics.max_loop_lag_s < 1.5
    assert ["blocked the event loop" in record.message for record in caplog.records] == [True]


@pytest.mark.slow
async def test_d3_a_loop_that_is_not_blocked_is_not_reported() -> None:
    async with Server(Bank(), FREE_PORT) as server, await Wire.to(server) as client:
        for _ in range(20):
            await client.ask(READ)
            await asyncio.sleep(0.02)
        assert server.statistics().loop_lags == 0


# --- D9 ---------------------------------------------------------------------------------------


async def test_d9_memory_that_runs_out_in_a_handler_is_exception_04() -> None:
    def hungry() -> Response:
        return ReadHoldingRegistersResponse(bytes(1 << 62))

    for later in (False, True):
        async with Server(Scripted([hungry], later=later), FREE_PORT) as server, beside(server, read(1)):
            async with await Wire.to(server) as client:
                assert [await client.ask(read(0)) for _ in range(20)] == [FAILED] * 20
                assert await client.ask(read(1)) == value(1)
            assert server.statistics().handler_failures == {"MemoryError": 20}


async def test_d9_memory_that_runs_out_in_a_callback_leaves_the_write_confirmed() -> None:
    bank = Bank()
    bank.on_write(lambda write: raising(MemoryError())())
    async with Server(bank, FREE_PORT) as server, await Wire.to(server) as client:
        assert await client.ask(bytes.fromhex("0600010007")) == bytes.fromhex("0600010007")
        assert bank.read_holding_registers(1) == [7]
        assert server.statistics().handler_failures == {"write_callback": 1}


# --- D10 --------------------------------------------------------------------------------------


async def test_d10_two_servers_and_four_clients_of_one_process_share_nothing() -> None:
    first, second = LocalDevice(server_id=b"first"), LocalDevice(server_id=b"second")
    async with Server(first, FREE_PORT) as one, Server({1: second}, FREE_PORT) as two:
        clients = [await Wire.to(server) for server in (one, one, two, two)]
        write = bytes.fromhex("0600070001")
        assert await clients[0].ask(write) == write
        assert [await client.ask(bytes.fromhex("0300070001")) for client in clients] == [value(1)] * 2 + [value(0)] * 2
        names = [await client.ask(b"\x11") for client in clients]
        assert names == [b"\x11\x06first\xff"] * 2 + [b"\x11\x07second\xff"] * 2
        assert [await client.ask(READ, unit=9) for client in clients] == [value(0)] * 2 + [b"\x83\x0b"] * 2
        counters = [await client.ask(bytes.fromhex("08000B0000")) for client in clients]
        assert [int.from_bytes(counter[3:], "big") for counter in counters] == [8, 9, 5, 6]
        clients[0].reset()
        await until(lambda: one.statistics().connections == 1)
        figures = [(s.statistics().opened, s.statistics().requests, s.statistics().exceptions) for s in (one, two)]
        assert figures == [(2, 9, 0), (2, 8, 2)]
        await one.stop()
        assert await clients[2].ask(READ) == value(0)
        for client in clients:
            client.close()
