"""A tmodbus server with the content of the plan, for unit 1; prints its port when it is ready.

``tmodbus_server.py [SCHEME]``: tcp, which it is without, udp or rtu+tcp.

tmodbus brings the messages and the dispatch, its user the data: here lists of the plan's values.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from tmodbus import pdu
from tmodbus.exceptions import IllegalDataAddressError
from tmodbus.server import AsyncRtuOverTcpServer, AsyncTcpServer, AsyncUdpServer, ModbusRequestRouter

from tests.interop import plan

Handler = Callable[[int, Any], Awaitable[Any]]

COILS = [bool(bit) for bit in plan.coils(0, plan.ITEMS)]
DISCRETE_INPUTS = [bool(bit) for bit in plan.discrete_inputs(0, plan.ITEMS)]
HOLDING_REGISTERS = plan.holding_registers(0, plan.ITEMS)
INPUT_REGISTERS = plan.input_registers(0, plan.ITEMS)
router = ModbusRequestRouter()


def part(table: list[Any], request: Any, address: int, count: int) -> slice:
    """Where these items are."""
    if address + count > len(table):
        raise IllegalDataAddressError(request.function_code)
    return slice(address, address + count)


def on(kind: type) -> Callable[[Handler], Handler]:
    """Register a handler for one kind of request to unit 1."""

    def register(handler: Handler) -> Handler:
        router.register(kind, unit_id=1)(handler)
        return handler

    return register


def reading(kind: type, table: list[Any]) -> None:
    @on(kind)
    async def read(unit: int, request: Any) -> Any:
        return table[part(table, request, request.start_address, request.quantity)]


def writing_one(kind: type, table: list[Any]) -> None:
    @on(kind)
    async def write(unit: int, request: Any) -> Any:
        table[part(table, request, request.address, 1)] = [request.value]
        return request.value


def writing_many(kind: type, table: list[Any]) -> None:
    @on(kind)
    async def write(unit: int, request: Any) -> Any:
        table[part(table, request, request.start_address, len(request.values))] = request.values
        return len(request.values)


reading(pdu.ReadCoilsPDU, COILS)
reading(pdu.ReadDiscreteInputsPDU, DISCRETE_INPUTS)
reading(pdu.ReadHoldingRegistersPDU, HOLDING_REGISTERS)
reading(pdu.ReadInputRegistersPDU, INPUT_REGISTERS)
writing_one(pdu.WriteSingleCoilPDU, COILS)
writing_one(pdu.WriteSingleRegisterPDU, HOLDING_REGISTERS)
writing_many(pdu.WriteMultipleCoilsPDU, COILS)
writing_many(pdu.WriteMultipleRegistersPDU, HOLDING_REGISTERS)


@on(pdu.MaskWriteRegisterPDU)
async def mask(unit: int, request: Any) -> Any:
    here = part(HOLDING_REGISTERS, request, request.address, 1)
    current = HOLDING_REGISTERS[request.address]
    HOLDING_REGISTERS[here] = [(current & request.and_mask) | (request.or_mask & ~request.and_mask & 0xFFFF)]
    return request.and_mask, request.or_mask


@on(pdu.ReadWriteMultipleRegistersPDU)
async def read_write(unit: int, request: Any) -> Any:
    read = part(HOLDING_REGISTERS, request, request.read_start_address, request.read_quantity)
    write = part(HOLDING_REGISTERS, request, request.write_start_address, len(request.write_values))
    HOLDING_REGISTERS[write] = request.write_values
    return HOLDING_REGISTERS[read]


@on(pdu.ReadExceptionStatusPDU)
async def exception_status(unit: int, request: Any) -> Any:
    return plan.EXCEPTION_STATUS


SERVERS: dict[str, Any] = {"tcp": AsyncTcpServer, "udp": AsyncUdpServer, "rtu+tcp": AsyncRtuOverTcpServer}


async def main(scheme: str = "tcp") -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM if scheme == "udp" else socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = SERVERS[scheme]("127.0.0.1", router, port=port)
    await server.start()
    print(port, flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
