"""What the servers are asked, and what the clients ask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from bench.clients.harness import CLIENTS, GATHERED, THREADS

__all__ = [
    "CASES",
    "CHURN_CONNECTIONS",
    "CLIENT_CASES",
    "GATHERED_READS",
    "IDLE_CONNECTIONS",
    "SEQUENTIAL_ASYNC",
    "SEQUENTIAL_SYNC",
    "Case",
    "ClientCase",
]


@dataclass(frozen=True, slots=True)
class Case:
    """A closed loop: so many connections, each with so many requests in flight.

    Args:
        connections: 1 or more.
        in_flight: requests in flight on each, 1..64.
        operation: ``read`` (function code 03) or ``write`` (10 hex).
        registers: in each request, 1..125, 123 to write.
    """

    connections: int
    in_flight: int
    operation: str
    registers: int

    @property
    def name(self) -> str:
        """Its key in the results."""
        return f"{self.connections}x{self.in_flight}-{self.operation}-{self.registers}"

    @property
    def title(self) -> str:
        """Words for people."""
        flight = "1 in flight" if self.in_flight == 1 else f"{self.in_flight} in flight"
        plural = "connection" if self.connections == 1 else "connections"
        return f"{self.connections} {plural}, {flight}, {self.operation} {self.registers}"

    @property
    def arguments(self) -> list[str]:
        """What the load generator is told, the time apart."""
        return ["closed", str(self.connections), str(self.in_flight), self.operation, str(self.registers)]


CASES: Final = (
    Case(1, 1, "read", 10),
    Case(50, 1, "read", 10),
    Case(500, 1, "read", 10),
    Case(1, 16, "read", 10),
    Case(50, 16, "read", 10),
    Case(500, 16, "read", 10),
    Case(50, 1, "read", 125),
    Case(50, 1, "write", 10),
)
CHURN_CONNECTIONS: Final = 50
"""Connect, read, close: so many at a time."""

IDLE_CONNECTIONS: Final = 10_000


@dataclass(frozen=True, slots=True)
class ClientCase:
    """Reads of 10 registers.

    Args:
        kind: ``async`` or ``sync``.
        mode: as the head of ``bench/clients/harness.py`` has it.
        words: for people.
    """

    kind: str
    mode: str
    words: str

    @property
    def name(self) -> str:
        """Its key in the results."""
        return f"{self.kind}-{self.mode}"

    @property
    def title(self) -> str:
        """Words for people."""
        return f"{self.kind}, {self.words}"


GATHERED_READS: Final = ClientCase("async", "gathered", f"1 connection, {GATHERED} reads gathered")
SEQUENTIAL_ASYNC: Final = ClientCase("async", "sequential", "1 connection, one read after another")
SEQUENTIAL_SYNC: Final = ClientCase("sync", "sequential", "1 connection, one read after another")
CLIENT_CASES: Final = (
    GATHERED_READS,
    SEQUENTIAL_ASYNC,
    ClientCase("async", "many", f"{CLIENTS} clients, each one read after another"),
    SEQUENTIAL_SYNC,
    ClientCase("sync", "threads", f"{THREADS} threads, a client each"),
)
