"""A pymodbus server with the content of the plan; prints its port."""

from __future__ import annotations

import asyncio
import socket

from pymodbus import ModbusDeviceIdentification
from pymodbus.server import StartAsyncTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from tests.interop import plan


def bits(values: list[int]) -> list[SimData]:
    return [SimData(0, values=[bool(value) for value in values], datatype=DataType.BITS)]


def words(values: list[int]) -> list[SimData]:
    return [SimData(0, values=values, datatype=DataType.REGISTERS)]


async def main() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    tables = (
        bits(plan.coils(0, plan.ITEMS)),
        bits(plan.discrete_inputs(0, plan.ITEMS)),
        words(plan.holding_registers(0, plan.ITEMS)),
        words(plan.input_registers(0, plan.ITEMS)),
    )
    identity = ModbusDeviceIdentification(info=plan.OBJECTS)
    print(port, flush=True)
    await StartAsyncTcpServer(SimDevice(1, simdata=tables), address=("127.0.0.1", port), identity=identity)


if __name__ == "__main__":
    asyncio.run(main())
