from __future__ import annotations

import asyncio

import pytest

from everbus.errors import ExceptionResponseError
from everbus.protocol.pdu.bits import ReadCoilsRequest, ReadCoilsResponse
from everbus.protocol.pdu.registers import (
    ReadHoldingRegistersRequest,
    ReadHoldingRegistersResponse,
    WriteSingleRegisterRequest,
)
from everbus.protocol.pdu.table import AnyRequest, FunctionTable
from everbus.service.bank import Bank
from everbus.service.context import RequestContext
from everbus.service.handler import SILENT, Answer
from everbus.testing import ask

READ = ReadHoldingRegistersRequest(0, 2)


async def test_a_bank_answers_as_it_would_a_client() -> None:
    bank = Bank()
    bank.write_holding_registers(0, [1, 2])
    response = await ask(bank, READ)
    assert response is not None
    assert response.registers == [1, 2]
    assert await ask(bank, WriteSingleRegisterRequest(1, 7)) == WriteSingleRegisterRequest(1, 7).respond()
    assert bank.read_holding_registers(1) == [7]


async def test_a_handler_that_needs_time_is_awaited() -> None:
    async def handler(request: AnyRequest, context: RequestContext) -> Answer:
        await asyncio.sleep(0.01)
        return ReadHoldingRegistersResponse.of([context.unit, 0])

    response = await ask(handler, READ, unit=17)
    assert response is not None
    assert response.registers == [17, 0]


async def test_it_is_asked_as_by_a_peer_named_test() -> None:
    seen: list[RequestContext] = []

    def handler(request: AnyRequest, context: RequestContext) -> Answer:
        seen.append(context)
        return ReadHoldingRegistersResponse.of([0, 0])

    await ask(handler, READ)
    assert (seen[0].unit, seen[0].peer, seen[0].connection_id) == (1, "test", 1)


async def test_exceptions_raise_as_they_would_at_a_client() -> None:
    bank = Bank(holding_registers=1)
    with pytest.raises(ExceptionResponseError) as caught:
        await ask(bank, READ)
    assert (caught.value.code, caught.value.function_code) == (2, 3)


async def failing_later(request: AnyRequest, context: RequestContext) -> Answer:
    raise KeyError("no such thing")


def failing(request: AnyRequest, context: RequestContext) -> Answer:
    raise KeyError("no such thing")


def nonsense(request: AnyRequest, context: RequestContext) -> Answer:
    return ReadHoldingRegistersResponse.of([1, 2, 3])


async def nonsense_later(request: AnyRequest, context: RequestContext) -> Answer:
    return ReadCoilsResponse(b"\0")


@pytest.mark.parametrize("handler", [failing, failing_later, nonsense, nonsense_later])
async def test_failures_and_nonsense_are_exception_04_as_on_the_wire(handler: object) -> None:
    with pytest.raises(ExceptionResponseError) as caught:
        await ask(handler, READ)  # type: ignore[arg-type]  # functions of both kinds
    assert caught.value.code == 4


async def silent_later(request: AnyRequest, context: RequestContext) -> Answer:
    return SILENT


async def test_silence_is_none() -> None:
    assert await ask(lambda request, context: SILENT, READ) is None
    assert await ask(silent_later, READ) is None


async def test_units_are_told_apart() -> None:
    with pytest.raises(ExceptionResponseError) as caught:
        await ask({5: Bank()}, READ, unit=6)
    assert caught.value.code == 0x0B
    assert await ask({5: Bank()}, READ, unit=5) is not None


async def test_the_table_is_the_servers() -> None:
    small = FunctionTable.of(ReadHoldingRegistersRequest)
    assert await ask(Bank(), READ, table=small) is not None
    assert await ask(Bank(), ReadCoilsRequest(0, 1)) is not None
    with pytest.raises(ExceptionResponseError) as caught:
        await ask(Bank(), ReadCoilsRequest(0, 1), table=small)
    assert caught.value.code == 1
