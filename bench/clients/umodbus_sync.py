"""uModbus' client functions on a blocking socket with a timeout, which is the caller's business there."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from umodbus.client import tcp

from bench.clients.harness import HOST, REGISTERS, TIMEOUT_S, Read, run_sync


@contextmanager
def connect(port: int) -> Iterator[Read]:
    """A socket, connected."""
    with socket.create_connection((HOST, port)) as sock:
        sock.settimeout(TIMEOUT_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield lambda at: tcp.send_message(tcp.read_holding_registers(1, at, REGISTERS), sock)


if __name__ == "__main__":
    run_sync(connect)
