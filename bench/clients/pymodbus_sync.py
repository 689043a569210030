"""pymodbus' sync client."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pymodbus.client import ModbusTcpClient

from bench.clients.harness import HOST, REGISTERS, TIMEOUT_S, Read, run_sync


@contextmanager
def connect(port: int) -> Iterator[Read]:
    """A client, connected."""
    with ModbusTcpClient(HOST, port=port, timeout=TIMEOUT_S) as client:
        yield lambda at: client.read_holding_registers(at, count=REGISTERS, device_id=1).registers


if __name__ == "__main__":
    run_sync(connect)
