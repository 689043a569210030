from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from everbus.aio.client import AsyncClient
from everbus.errors import (
    ConnectError,
    ConnectionLostError,
    InvalidRequestError,
    ModbusError,
    ModbusTimeoutError,
)
from everbus.protocol.pdu.registers import ReadHoldingRegistersRequest, WriteSingleRegisterRequest
from everbus.testing import ScriptedPeer, scripted
from everbus.testing.scripted import Step
from tests.rogue import ADDRESS, ROGUES, VALUES, bank, value


def quick(url: str, timeout_s: float = 0.1, **options: Any) -> AsyncClient:
    return AsyncClient(url, timeout_s=timeout_s, retries=0, **options)


@pytest.mark.parametrize("max_in_flight", [1, pytest.param(16, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ROGUES)
async def test_a_wrong_answer_is_an_error_and_the_next_call_is_right(name: str, max_in_flight: int) -> None:
    step, error = ROGUES[name]
    with ScriptedPeer([step], device=bank()) as peer:
        async with quick(peer.url, 0.12, max_in_flight=max_in_flight) as client:
            unit = client.unit(1)
            with pytest.raises(error):
                await unit.read_holding_registers(ADDRESS, 2)
            assert await unit.read_holding_registers(ADDRESS, 2) == VALUES
            assert await unit.read_holding_registers(8, 1) == [value(8)]


@pytest.mark.parametrize("framing", ["mbap", "rtu"])
async def test_ten_late_answers_in_a_row_never_give_a_wrong_value(framing: Any) -> None:
    with ScriptedPeer([scripted.late(0.05)] * 10, device=bank(), framing=framing) as peer:
        async with quick(peer.url, 0.03) as client:
            unit = client.unit(1)
            for address in range(10):
                with pytest.raises((ModbusTimeoutError, ConnectError)):
                    await unit.read_holding_registers(address, 1)
            client.require_timeout(2.0)
            for address in range(10, 40):
                assert await unit.read_holding_registers(address, 1) == [value(address)]
            found = client.statistics()
            assert (found.session.late > 0) == (framing == "mbap")
            assert (found.replaced.get("abandoned", 0) > 0) == (framing == "rtu")


@pytest.mark.slow
@pytest.mark.parametrize(("framing", "max_in_flight"), [("mbap", 1), ("mbap", 16), ("rtu", 1)])
async def test_no_wrong_value_in_ten_thousand_mixed_calls(framing: Any, max_in_flight: int) -> None:
    chance = random.Random(7)
    odd: list[Step] = [
        scripted.late(0.01),
        scripted.duplicate(),
        scripted.silent,
        scripted.wrong_unit(3),
        scripted.close,
    ]
    wrong = answered = 0

    def script(turn: scripted.Turn) -> None:
        (chance.choice(odd) if chance.random() < 0.02 else scripted.answer)(turn)

    with ScriptedPeer(script, device=bank(), framing=framing) as peer:
        async with quick(peer.url, 0.05, max_in_flight=max_in_flight) as client:
            unit = client.unit(1)

            async def work(first: int) -> None:
                nonlocal wrong, answered
                for number in range(625):
                    address = (first * 625 + number) % 900
                    try:
                        got = await unit.read_holding_registers(address, 1)
                    except ModbusError:
                        continue
                    answered += 1
                    wrong += got != [value(address)]

            async with asyncio.TaskGroup() as group:
                for first in range(16):
                    group.create_task(work(first))
    assert wrong == 0
    assert answered > 500


async def test_many_requests_in_flight_get_their_own_answers_in_any_order() -> None:
    chance = random.Random(3)

    def script(turn: scripted.Turn) -> None:
        scripted.late(chance.random() * 0.01)(turn)

    with ScriptedPeer(script, device=bank()) as peer:
        async with quick(peer.url, 5.0, max_in_flight=16) as client:
            unit = client.unit(1)
            got = await asyncio.gather(*(unit.read_holding_registers(address, 1) for address in range(300)))
            assert got == [[value(address)] for address in range(300)]
            assert peer.connections == 1
            open_at_once = peer.requests[15].at
            assert peer.requests[16].at > open_at_once


async def test_a_read_is_repeated_within_its_deadline_and_a_write_is_not() -> None:
    with ScriptedPeer([scripted.reset, scripted.answer, scripted.close], device=bank()) as peer:
        async with AsyncClient(peer.url, timeout_s=2.0) as client:
            unit = client.unit(1)
            assert await unit.read_holding_registers(ADDRESS, 2) == VALUES
            with pytest.raises(ConnectionLostError):
                await unit.write_register(0, 1)
            assert client.statistics().retries == 1
        assert [received.frame.pdu[0] for received in peer.requests] == [3, 3, 6]


async def test_a_silent_unit_costs_the_others_little() -> None:
    def script(turn: scripted.Turn) -> None:
        (scripted.silent if turn.frame.unit == 5 else scripted.answer)(turn)

    with ScriptedPeer(script, device=bank()) as peer:
        async with quick(peer.url, 0.2, max_in_flight=16) as client:
            async with asyncio.TaskGroup() as group:
                silent = group.create_task(_ends(client.unit(5).read_coils(0, 1)))
                others = [
                    group.create_task(client.unit(unit).read_holding_registers(ADDRESS, 2))
                    for unit in (1, 2, 3, 4, 6, 7, 8, 9, 10)
                ]
            assert isinstance(silent.result(), ModbusTimeoutError)
            assert all(task.result() == VALUES for task in others)
            assert peer.connections == 1
            units = client.statistics().units
            assert (units[5].silent_for, units[6].answered) == (1, 1)


async def _ends(call: Any) -> object:
    try:
        return await call
    except ModbusError as error:
        return error


async def test_a_broadcast_is_not_waited_for() -> None:
    with ScriptedPeer([scripted.silent]) as peer:
        async with AsyncClient(peer.url) as client:
            await client.broadcast(WriteSingleRegisterRequest(0, 1))
            with pytest.raises(InvalidRequestError):
                await client.broadcast(ReadHoldingRegistersRequest(0, 0))
            assert await client.unit(1).read_coils(0, 1) == [False]
        assert [received.frame.unit for received in peer.requests] == [0, 1]
