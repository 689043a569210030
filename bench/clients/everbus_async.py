"""everbus's async client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bench.clients.harness import HOST, IN_FLIGHT, REGISTERS, TIMEOUT_S, AsyncRead, run_async
from everbus import AsyncClient


@asynccontextmanager
async def connect(port: int) -> AsyncIterator[AsyncRead]:
    """A client, connected."""
    async with AsyncClient(f"tcp://{HOST}:{port}", timeout_s=TIMEOUT_S, max_in_flight=IN_FLIGHT) as client:
        unit = client.unit(1)
        yield lambda at: unit.read_holding_registers(at, REGISTERS)


if __name__ == "__main__":
    run_async(connect)
