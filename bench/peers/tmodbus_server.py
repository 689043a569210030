"""tmodbus' asyncio TCP server over a list of 4096 registers: ``tmodbus_server.py PORT``."""

import asyncio
import sys

from tmodbus.pdu import ReadHoldingRegistersPDU, WriteMultipleRegistersPDU
from tmodbus.server import AsyncTcpServer, ModbusRequestRouter

image = [0] * 4096
router = ModbusRequestRouter()


@router.register(ReadHoldingRegistersPDU)  # type: ignore[untyped-decorator]
async def read(_: int, request: ReadHoldingRegistersPDU) -> list[int]:
    """A slice of the image."""
    return image[request.start_address : request.start_address + request.quantity]


@router.register(WriteMultipleRegistersPDU)  # type: ignore[untyped-decorator]
async def write(_: int, request: WriteMultipleRegistersPDU) -> int:
    """The values go into the image."""
    image[request.start_address : request.start_address + len(request.values)] = request.values
    return len(request.values)


asyncio.run(AsyncTcpServer("127.0.0.1", router, port=int(sys.argv[1])).serve_forever())
