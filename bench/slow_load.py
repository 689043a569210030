"""The load generator where there is no compiler: the same command line and output as ``load.c``, slower.

It may be what limits the fastest servers; the results say that it was used.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import sys
import time
from contextlib import ExitStack
from typing import Final

_SLOTS: Final = 64
_WRITE_AT: Final = 512
_PATIENCE_S: Final = 5.0
_WARM_SHARE: Final = 0.1
_LATE_S: Final = 0.3


class LoadError(Exception):
    """The server did not do its part."""


def connected(port: int) -> socket.socket:
    """A new connection."""
    sock = socket.create_connection(("127.0.0.1", port), _PATIENCE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def values(at: int, quantity: int) -> bytes:
    """What registers hold once ``prepare`` has written them."""
    return b"".join(((0x1234 + place * 0x0107) & 0xFFFF).to_bytes(2, "big") for place in range(at, at + quantity))


def read(at: int, quantity: int) -> tuple[bytes, bytes]:
    """A read and its answer, each from the function code on."""
    return struct.pack(">BHH", 3, at, quantity), struct.pack(">BB", 3, 2 * quantity) + values(at, quantity)


def write(at: int, quantity: int) -> tuple[bytes, bytes]:
    """A write and its answer."""
    head = struct.pack(">BHH", 16, at, quantity)
    return head + bytes([2 * quantity]) + values(at, quantity), head


def adu(transaction: int, pdu: bytes) -> bytes:
    """A frame to or from unit 1."""
    return struct.pack(">HHHB", transaction, 0, len(pdu) + 1, 1) + pdu


def exchange(sock: socket.socket, request: bytes, expected: bytes) -> None:
    """One request and its answer."""
    sock.sendall(adu(1, request))
    due = adu(1, expected)
    got = b""
    while len(got) < len(due):
        data = sock.recv(512)
        if not data:
            raise LoadError("the connection was closed")
        got += data
    if got != due:
        raise LoadError(f"a wrong answer: {got.hex()}")


def prepare(port: int) -> None:
    """Give the registers that are read their values."""
    with connected(port) as sock:
        for at in range(0, 320, 64):
            exchange(sock, *write(at, 64))


class Loop:
    """Connections with requests in flight, and what became of them."""

    def __init__(self, port: int, in_flight: int, operation: str, registers: int) -> None:
        ask = write if operation == "write" else read
        places = (_WRITE_AT + slot * 128 if operation == "write" else slot * 3 for slot in range(in_flight))
        self.exchanges = [ask(place, registers) for place in places]
        self.due = 7 + len(self.exchanges[0][1])
        self.port = port
        self.poll = select.epoll()
        self.sockets: dict[int, socket.socket] = {}
        self.rest: dict[int, bytes] = {}
        self.sent: dict[tuple[int, int], tuple[int, float]] = {}
        self.latencies: list[float] = []
        self.generation = 0

    def open(self, stack: ExitStack, connections: int) -> None:
        """Connect all, then ask on all."""
        stack.callback(self.poll.close)
        for _ in range(connections):
            sock = stack.enter_context(connected(self.port))
            exchange(sock, *read(0, 1))
            self.sockets[sock.fileno()] = sock
            self.rest[sock.fileno()] = b""
            self.poll.register(sock, select.EPOLLIN)
        for number in self.sockets:
            self.ask(number, range(len(self.exchanges)))

    def ask(self, number: int, slots: range | list[int]) -> None:
        """New requests for free slots, in one segment."""
        out = []
        for slot in slots:
            self.generation += 1
            transaction = (self.generation * _SLOTS + slot) & 0xFFFF
            self.sent[number, slot] = (transaction, time.perf_counter())
            out.append(adu(transaction, self.exchanges[slot][0]))
        self.sockets[number].sendall(b"".join(out))

    def take(self, number: int) -> list[int]:
        """Check what has come; return the slots that are free again."""
        data = self.sockets[number].recv(65536)
        if not data:
            raise LoadError("the connection was closed")
        data = self.rest[number] + data
        free = []
        while len(data) >= self.due:
            answer, data = data[: self.due], data[self.due :]
            transaction = int.from_bytes(answer[:2], "big")
            slot = transaction % _SLOTS
            asked, at = self.sent.pop((number, slot), (-1, 0.0))
            if asked != transaction or answer != adu(transaction, self.exchanges[slot][1]):
                raise LoadError(f"a wrong answer: {answer.hex()}")
            self.latencies.append(time.perf_counter() - at)
            free.append(slot)
        self.rest[number] = data
        return free

    def run(self, until: float) -> None:
        """Replace answers by requests."""
        while time.perf_counter() < until:
            ready = self.poll.poll(_PATIENCE_S)
            if not ready:
                raise LoadError(f"no answer for {_PATIENCE_S:g} s")
            for number, _ in ready:
                if free := self.take(number):
                    self.ask(number, free)

    def lost(self) -> int:
        """Requests that are still without an answer after some silence."""
        while self.sent and (ready := self.poll.poll(_LATE_S)):
            for number, _ in ready:
                self.take(number)
        if any(self.rest.values()):
            raise LoadError("an answer that breaks off, or is not what was asked for")
        return len(self.sent)


def percentile_us(ordered: list[float], share: float) -> float:
    """Of latencies in order."""
    return round(ordered[min(int(len(ordered) * share), len(ordered) - 1)] * 1e6, 1) if ordered else 0.0


def closed(loop: Loop, connections: int, seconds: float) -> object:
    """The closed loop."""
    prepare(loop.port)
    with ExitStack() as stack:
        loop.open(stack, connections)
        start = time.perf_counter()
        loop.run(start + _WARM_SHARE * seconds)
        loop.latencies.clear()
        begin, cpu = time.perf_counter(), time.process_time()
        loop.run(start + seconds)
        took, cpu = time.perf_counter() - begin, time.process_time() - cpu
        ordered = sorted(loop.latencies)
        return {
            "answered": len(ordered),
            "seconds": took,
            "lost": loop.lost(),
            "p50_us": percentile_us(ordered, 0.5),
            "p99_us": percentile_us(ordered, 0.99),
            "p999_us": percentile_us(ordered, 0.999),
            "cpu_s": cpu,
        }


def churn(port: int, connections: int, seconds: float) -> object:
    """Connect, read one register, close; so many at a time."""
    prepare(port)
    request, expected = read(0, 1)
    answered = 0
    begin, cpu = time.perf_counter(), time.process_time()
    while time.perf_counter() - begin < seconds:
        with ExitStack() as stack:
            group = [stack.enter_context(connected(port)) for _ in range(connections)]
            for sock in group:
                sock.sendall(adu(1, request))
            for sock in group:
                if sock.recv(512) != adu(1, expected):
                    raise LoadError("a wrong answer")
                answered += 1
    return {"answered": answered, "seconds": time.perf_counter() - begin, "cpu_s": time.process_time() - cpu}


def idle(port: int, connections: int) -> None:
    """Open so many, ask each once, wait for the end of the input."""
    prepare(port)
    with ExitStack() as stack:
        for _ in range(connections):
            exchange(stack.enter_context(connected(port)), *read(0, 1))
        print("ready", flush=True)
        while os.read(0, 1):
            pass


def main(arguments: list[str]) -> int:
    """As the head of ``load.c`` has it."""
    port, mode, *rest = arguments
    try:
        if mode == "closed":
            loop = Loop(int(port), int(rest[1]), rest[2], int(rest[3]))
            result = closed(loop, int(rest[0]), float(rest[4]))
        elif mode == "churn":
            result = churn(int(port), int(rest[0]), float(rest[1]))
        else:
            idle(int(port), int(rest[0]))
            return 0
    except (LoadError, OSError) as error:
        print(f"port {port}: {error}", file=sys.stderr)
        return 1
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
