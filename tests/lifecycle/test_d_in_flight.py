"""Group D, requests in flight: how many run at once, and what becomes of them when their client leaves.

Rows D4 and D5 of docs/faults.md; C7 and C8 of "More cases".
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable
from typing import Any

import pytest

from everbus import Bank, Limits, Server
from everbus.protocol.pdu.base import Response
from everbus.protocol.pdu.registers import ReadHoldingRegistersResponse
from everbus.protocol.pdu.table import AnyRequest
from everbus.service.context import RequestContext
from everbus.service.handler import Answer
from tests.lifecycle.control import beside, quickest
from tests.lifecycle.wire import READ, Wire, address_of, adu, read, until, value

FREE_PORT = "tcp://127.0.0.1:0"
FAILED = b"\x83\x04"


# --- D4 ---------------------------------------------------------------------------------------


class Counting:
    """Answers later, and knows how many run at once."""

    def __init__(self, delay_s: float) -> None:
        self.delay_s = delay_s
        self.running = 0
        self.most = 0

    async def __call__(self, request: AnyRequest, context: RequestContext) -> Response:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(self.delay_s)
        finally:
            self.running -= 1
        return ReadHoldingRegistersResponse.of([address_of(request)])


@pytest.mark.parametrize(("number", "delay_s"), [(17, 0.05), (1000, 0.002)])
@pytest.mark.requirement("TG-4.4.2.1-no-slot")
async def test_d4_sixteen_requests_run_at_once_and_the_others_are_answered_in_the_end(
    number: int, delay_s: float
) -> None:
    handler = Counting(delay_s)
    async with Server(handler, FREE_PORT) as server, await Wire.to(server) as client:
        await client.send(b"".join(adu(read(index), index) for index in range(number)))
        answers = await client.answers(number, timeout_s=20)
        assert sorted(answers) == [(index, 1, value(index)) for index in range(number)]
        assert await client.ask(read(4)) == value(4)
    assert handler.most == 16


@pytest.mark.slow
async def test_d4_reading_pauses_while_sixteen_requests_run() -> None:
    handler = Counting(0.3)
    async with Server(handler, FREE_PORT) as server, await Wire.to(server) as client:
        first = b"".join(adu(read(index), index) for index in range(16))
        await client.send(first)
        await until(lambda: handler.running == 16)
        await client.send(b"".join(adu(read(index), index) for index in range(16, 2000)))
        await asyncio.sleep(0.1)
        assert server.statistics().requests == 16
        assert len(await client.answers(16)) == 16
        await until(lambda: server.statistics().requests > 16)


@pytest.mark.slow
async def test_d4_a_frame_cut_by_the_pause_is_not_late_while_nobody_reads_it() -> None:
    limits = Limits(frame_timeout_s=0.2, idle_timeout_s=0.4)
    async with Server(Counting(0.03), FREE_PORT, limits=limits) as server, await Wire.to(server) as client:
        number = 700  # one read ends inside a frame; what is behind it waits for over a second
        await client.send(b"".join(adu(read(index), index) for index in range(number)))
        answers = await client.answers(number, timeout_s=20)
        assert sorted(answers) == [(index, 1, value(index)) for index in range(number)]


async def test_d4_one_future_may_answer_several_requests() -> None:
    """A handler that asks a device once for all who ask meanwhile."""
    pending: list[asyncio.Future[Answer]] = []

    def shared(request: AnyRequest, context: RequestContext) -> Awaitable[Answer]:
        if not pending:
            pending.append(asyncio.get_running_loop().create_future())
        return pending[0]

    async with Server(shared, FREE_PORT) as server, await Wire.to(server) as one, await Wire.to(server) as other:
        await one.send(adu(READ, 1) + adu(READ, 2) + adu(READ, 3))
        await other.send(adu(READ, 4))
        await until(lambda: server.statistics().requests == 4)
        pending[0].set_result(ReadHoldingRegistersResponse.of([42]))
        assert sorted(await one.answers(3, timeout_s=2.0)) == [(number, 1, value(42)) for number in (1, 2, 3)]
        assert await other.answers(1, timeout_s=2.0) == [(4, 1, value(42))]


async def test_d4_one_client_that_leaves_does_not_take_a_shared_answer_from_another() -> None:
    pending: list[asyncio.Future[Answer]] = []

    def shared(request: AnyRequest, context: RequestContext) -> Awaitable[Answer]:
        if not pending:
            pending.append(asyncio.get_running_loop().create_future())
        return asyncio.shield(pending[0])

    async with Server(shared, FREE_PORT) as server, await Wire.to(server) as one, await Wire.to(server) as other:
        await one.send(adu(READ, 1))
        await other.send(adu(READ, 2))
        await until(lambda: server.statistics().requests == 2)
        one.reset()
        await until(lambda: server.statistics().connections == 1)
        pending[0].set_result(ReadHoldingRegistersResponse.of([42]))
        assert await other.answers(1, timeout_s=2.0) == [(2, 1, value(42))]


class Endless:
    """Never answers address 0, and knows how that ended; answers others at once."""

    def __init__(self) -> None:
        self.started = 0
        self.cancelled = 0

    async def __call__(self, request: AnyRequest, context: RequestContext) -> Response:
        if address_of(request) == 0:
            self.started += 1
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled += 1
        return ReadHoldingRegistersResponse.of([address_of(request)])


# --- D5, and C7 and C8 of "More cases" -----------------------------------------------------------


def leave(client: Wire, how: str) -> None:
    if how == "fin_and_reset":
        client.half_close()
    client.reset()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["reset", "fin_and_reset"])
async def test_d5_the_handlers_of_a_client_that_leaves_are_cancelled(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    handler = Endless()
    limits = Limits(frame_timeout_s=0.2)
    async with Server(handler, FREE_PORT, limits=limits) as server, beside(server, read(2)):
        expected = 0
        for number in range(1, 31):
            client = await Wire.to(server)
            expected += number % 15 + 1
            await client.send(b"".join(adu(read(0), index) for index in range(number % 15 + 1)))
            await until(lambda: handler.started == expected)  # noqa: B023  it is awaited here
            began = time.perf_counter()
            leave(client, how)
            await until(lambda: handler.cancelled == handler.started, timeout_s=2.0)
            assert time.perf_counter() - began < 0.2 + limits.sweep_s
        assert server.statistics().connections == 1
    assert handler.started == 240
    assert caplog.records == []


async def test_d5_the_handlers_of_a_client_that_leaves_are_cancelled_while_nothing_is_read_from_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With sixteen requests in flight reading pauses; the sweep notices who has gone."""
    caplog.set_level(logging.INFO)
    handler = Endless()
    limits = Limits(frame_timeout_s=0.2)
    async with Server(handler, FREE_PORT, limits=limits) as server:
        for number in (16, 17, 100):
            client = await Wire.to(server)
            await client.send(b"".join(adu(read(0), index) for index in range(number)))
            await until(lambda: handler.started - handler.cancelled == 16)
            client.reset()
            await until(lambda: handler.started == handler.cancelled, timeout_s=2.0)
            await until(lambda: server.statistics().connections == 0)
    assert handler.started == 48
    assert caplog.records == []


async def test_m_c8_an_answer_to_a_client_that_has_left_is_discarded_without_a_word(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    handler = Counting(0.02)
    async with Server(handler, FREE_PORT) as server:
        for _ in range(30):
            client = await Wire.to(server)
            await client.send(adu(read(1), 1) + adu(read(2), 2))
            await until(lambda: handler.running == 2)
            client.reset()
        await until(lambda: server.statistics().connections == 0)
        await asyncio.sleep(0.05)
    assert caplog.records == []


@pytest.mark.parametrize("handler", [Bank(), Counting(0.005)], ids=["bank", "slow"])
async def test_m_c7_a_half_closed_connection_is_answered_and_closed(handler: Any) -> None:
    async def until_closed() -> float:
        async with await Wire.to(server) as client:
            await client.send(adu(read(3), 1) + adu(read(4), 2))
            client.half_close()
            assert [answer.transaction for answer in await client.answers(2)] == [1, 2]
            ended = await client.ended()
            assert (ended.data, ended.reset) == (b"", False)
            return ended.after_s

    async with Server(handler, FREE_PORT) as server, beside(server):
        assert await quickest(until_closed) <= 0.1
