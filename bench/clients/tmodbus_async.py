"""tmodbus' async client as its documentation makes one; of reads that are gathered it has one in flight at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tmodbus import create_async_tcp_client

from bench.clients.harness import HOST, REGISTERS, TIMEOUT_S, AsyncRead, run_async


@asynccontextmanager
async def connect(port: int) -> AsyncIterator[AsyncRead]:
    """A client, connected."""
    async with create_async_tcp_client(HOST, port, unit_id=1, timeout=TIMEOUT_S) as client:
        yield lambda at: client.read_holding_registers(at, REGISTERS)


if __name__ == "__main__":
    run_async(connect)
