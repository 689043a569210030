"""A pymodbus server with the content of the plan; prints its port, or the path of its serial one, when it is ready.

``pymodbus_server.py [SCHEME [PATH]]``: tcp, which it is without, udp, rtu+tcp or ascii+tcp; rtu or ascii and a path.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import Any

from pymodbus import FramerType, ModbusDeviceIdentification
from pymodbus.server import ModbusSerialServer, ModbusTcpServer, ModbusUdpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from tests.interop import plan


def bits(values: list[int]) -> list[SimData]:
    return [SimData(0, values=[bool(value) for value in values], datatype=DataType.BITS)]


def words(values: list[int]) -> list[SimData]:
    return [SimData(0, values=values, datatype=DataType.REGISTERS)]


def new_server(scheme: str, path: str, tables: Any) -> tuple[Any, int | str]:
    """A server, and where it is going to be."""
    framing = scheme.removesuffix("+tcp")
    more: dict[str, Any] = {
        "framer": FramerType(framing) if framing in ("rtu", "ascii") else FramerType.SOCKET,
        "identity": ModbusDeviceIdentification(info=plan.OBJECTS),
    }
    device = SimDevice(1, simdata=tables)
    if path:
        return ModbusSerialServer(device, port=path, baudrate=115200, **more), path
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM if scheme == "udp" else socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    kind = ModbusUdpServer if scheme == "udp" else ModbusTcpServer
    return kind(device, address=("127.0.0.1", port), **more), port


async def main(scheme: str = "tcp", path: str = "") -> None:
    tables = (
        bits(plan.coils(0, plan.ITEMS)),
        bits(plan.discrete_inputs(0, plan.ITEMS)),
        words(plan.holding_registers(0, plan.ITEMS)),
        words(plan.input_registers(0, plan.ITEMS)),
    )
    server, where = new_server(scheme, path, tables)
    await server.serve_forever(background=True)
    print(where, flush=True)
    await server.serving


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
