"""pyModbusTCP's client."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pyModbusTCP.client import ModbusClient

from bench.clients.harness import HOST, REGISTERS, TIMEOUT_S, Read, run_sync


@contextmanager
def connect(port: int) -> Iterator[Read]:
    """A client, connected."""
    client = ModbusClient(host=HOST, port=port, unit_id=1, timeout=TIMEOUT_S)
    client.open()
    yield lambda at: client.read_holding_registers(at, REGISTERS)
    client.close()


if __name__ == "__main__":
    run_sync(connect)
