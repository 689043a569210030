"""What is promised, as ratios of medians within one run, and whether a run shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from bench.cases import (
    CHURN_CONNECTIONS,
    GATHERED_READS,
    IDLE_CONNECTIONS,
    SEQUENTIAL_ASYNC,
    SEQUENTIAL_SYNC,
    Case,
    ClientCase,
)
from bench.contenders import FLOOR, OWN, RAW
from tools.environments import PYMODBUS, TMODBUS

__all__ = ["CLIENT_PROMISES", "PROMISES", "Promise", "client_ratio", "per_s", "ratio"]

Document = dict[str, Any]


def per_s(document: Document, case: Case, name: str) -> float | None:
    """Requests a second, the median; None if that server took no part."""
    found = document["cases"][case.name].get(name)
    return float(found["median"]["per_s"]) if found else None


def ratio(document: Document, case: Case, peer: str, name: str = OWN) -> float | None:
    """How many times the rate of a peer; None if one of them took no part."""
    ours, theirs = per_s(document, case, name), per_s(document, case, peer)
    return ours / theirs if ours and theirs else None


def client_ratio(document: Document, case: ClientCase, peer: str) -> float | None:
    """How many times the reads a second of a peer our client reaches; None if one of them took no part."""
    found = document["clients"].get(case.name, {})
    ours, theirs = (found.get(name) for name in (OWN, peer))
    return ours["median"]["per_s"] / theirs["median"]["per_s"] if ours and theirs else None


def _churn(document: Document) -> float | None:
    ours, theirs = (document["churn"].get(name) for name in (OWN, PYMODBUS))
    return ours["median"]["per_s"] / theirs["median"]["per_s"] if ours and theirs else None


def _size(document: Document) -> float | None:
    small, large = (per_s(document, Case(50, 1, "read", registers), OWN) for registers in (10, 125))
    return small / large if small and large else None


def _idle(document: Document) -> float | None:
    cost = document["idle"][OWN].get("bytes_each")
    return cost / 1024 if cost is not None else None


def _command(document: Document) -> float | None:
    measured = document["command"]
    return float(measured["median"]["cpu_ms"]) if measured else None


@dataclass(frozen=True, slots=True)
class Promise:
    """One line of what is promised.

    Args:
        what: words.
        value: reads it from a document; None if it was not measured.
        bound: the least that must be reached, or the most that may be.
        aim: what is aimed at.
        at_most: smaller is better.
    """

    what: str
    value: Callable[[Document], float | None]
    bound: float
    aim: float
    at_most: bool = False

    def verdict(self, document: Document) -> str:
        """``aim reached``, ``reached``, ``MISSED`` or ``not measured``."""
        value = self.value(document)
        if value is None:
            return "not measured"
        sign = -1 if self.at_most else 1
        if sign * value >= sign * self.aim:
            return "aim reached"
        return "reached" if sign * value >= sign * self.bound else "MISSED"


def _against(case: Case, peer: str) -> Callable[[Document], float | None]:
    return lambda document: ratio(document, case, peer)


def _client(case: ClientCase, peer: str) -> Callable[[Document], float | None]:
    return lambda document: client_ratio(document, case, peer)


_ONE: Final = Case(50, 1, "read", 10)
_MANY: Final = Case(50, 16, "read", 10)
_ALONE: Final = Case(1, 1, "read", 10)

PROMISES: Final = (
    Promise("50 connections, 1 in flight: rate against the C floor", _against(_ONE, FLOOR), 0.50, 0.60),
    Promise("the same against pymodbus", _against(_ONE, PYMODBUS), 3.2, 4.0),
    Promise("the same against tmodbus", _against(_ONE, TMODBUS), 1.4, 1.8),
    Promise("50 connections, 16 in flight: rate against pymodbus", _against(_MANY, PYMODBUS), 15, 30),
    Promise("the same against tmodbus", _against(_MANY, TMODBUS), 6, 12),
    Promise("1 connection, 1 in flight: rate against pymodbus", _against(_ALONE, PYMODBUS), 1.15, 1.25),
    Promise(f"connect, read, close, {CHURN_CONNECTIONS} at a time: rate against pymodbus", _churn, 1.25, 1.5),
    Promise("125 registers against 10: time of a request", _size, 1.3, 1.15, at_most=True),
    Promise(f"an idle connection among {IDLE_CONNECTIONS:,}: KiB", _idle, 4.0, 3.0, at_most=True),
)

CLIENT_PROMISES: Final = (
    Promise(
        "async client, 3000 reads gathered, 16 in flight: rate against pymodbus",
        _client(GATHERED_READS, PYMODBUS),
        5,
        6.5,
    ),
    Promise("the same against tmodbus", _client(GATHERED_READS, TMODBUS), 3, 4),
    Promise(
        "async client, one read after another: rate against pymodbus", _client(SEQUENTIAL_ASYNC, PYMODBUS), 1.05, 1.2
    ),
    Promise(
        "sync client, one read after another: rate against a raw socket", _client(SEQUENTIAL_SYNC, RAW), 0.90, 0.95
    ),
    Promise("the same against pymodbus", _client(SEQUENTIAL_SYNC, PYMODBUS), 1.0, 1.1),
    Promise("`everbus read` of one register, start to exit: ms of processor time", _command, 150, 110, at_most=True),
)
