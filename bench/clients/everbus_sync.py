"""everbus's sync client."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from bench.clients.harness import HOST, REGISTERS, TIMEOUT_S, Read, run_sync
from everbus import Client


@contextmanager
def connect(port: int) -> Iterator[Read]:
    """A client, connected."""
    with Client(f"tcp://{HOST}:{port}", timeout_s=TIMEOUT_S) as client:
        unit = client.unit(1)
        yield lambda at: unit.read_holding_registers(at, REGISTERS)


if __name__ == "__main__":
    run_sync(connect)
