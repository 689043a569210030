"""pymodbus' async client; of reads that are gathered it has one in flight at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pymodbus.client import AsyncModbusTcpClient

from bench.clients.harness import HOST, REGISTERS, TIMEOUT_S, AsyncRead, run_async


@asynccontextmanager
async def connect(port: int) -> AsyncIterator[AsyncRead]:
    """A client, connected."""
    async with AsyncModbusTcpClient(HOST, port=port, timeout=TIMEOUT_S) as client:

        async def read(at: int) -> list[int]:
            answer = await client.read_holding_registers(at, count=REGISTERS, device_id=1)
            registers: list[int] = answer.registers
            return registers

        yield read


if __name__ == "__main__":
    run_async(connect)
