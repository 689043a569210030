"""tmodbus' async client on its bare transport, which nothing mends: all reads that are gathered are in flight."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tmodbus.client import AsyncModbusClient
from tmodbus.transport import AsyncTcpTransport

from bench.clients.harness import HOST, REGISTERS, TIMEOUT_S, AsyncRead, run_async


@asynccontextmanager
async def connect(port: int) -> AsyncIterator[AsyncRead]:
    """A client, connected."""
    async with AsyncModbusClient(AsyncTcpTransport(HOST, port, timeout=TIMEOUT_S), unit_id=1) as client:
        yield lambda at: client.read_holding_registers(at, REGISTERS)


if __name__ == "__main__":
    run_async(connect)
