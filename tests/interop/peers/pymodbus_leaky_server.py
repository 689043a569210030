"""pymodbus 3.7.4's asyncio server, which opens a listening socket for every client that leaves; prints its port."""

from __future__ import annotations

import asyncio
import socket

from pymodbus.datastore import ModbusSequentialDataBlock, ModbusServerContext, ModbusSlaveContext
from pymodbus.server import StartAsyncTcpServer


async def main() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    device = ModbusSlaveContext(hr=ModbusSequentialDataBlock(0, [42] * 100))
    print(port, flush=True)
    await StartAsyncTcpServer(ModbusServerContext(slaves=device, single=True), address=("127.0.0.1", port))


if __name__ == "__main__":
    asyncio.run(main())
