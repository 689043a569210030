"""No client at all: a blocking socket with a timeout, and struct. About the least that a sync client can do."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from struct import Struct

from bench.clients.harness import HOST, REGISTERS, TIMEOUT_S, Read, run_sync

REQUEST = Struct(">HHHBBHH")
ANSWER = Struct(f">HHHBBB{REGISTERS}H")
HEAD_FIELDS = 6


@contextmanager
def connect(port: int) -> Iterator[Read]:
    """A socket, connected."""
    with socket.create_connection((HOST, port)) as sock:
        sock.settimeout(TIMEOUT_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transactions = itertools.cycle(range(0x10000))

        def read(at: int) -> list[int]:
            sock.sendall(REQUEST.pack(next(transactions), 0, 6, 1, 3, at, REGISTERS))
            answer = sock.recv(260)
            while len(answer) < ANSWER.size:
                more = sock.recv(260)
                if not more:
                    raise ConnectionError("the connection was closed")
                answer += more
            return list(ANSWER.unpack(answer)[HEAD_FIELDS:])

        yield read


if __name__ == "__main__":
    run_sync(connect)
