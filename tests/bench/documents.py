"""A run's document, made up."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from bench.cases import CASES, CLIENT_CASES, ClientCase
from bench.contenders import FLOOR, OWN, RAW
from tools.environments import PYMODBUS, TMODBUS

RATES = {OWN: 60_000.0, FLOOR: 100_000.0, PYMODBUS: 15_000.0, TMODBUS: 30_000.0}
KEYS = {"p50_us": 100.0, "p99_us": 200.0, "p999_us": 300.0, "server_cpu_us": 12.5, "memory_bytes": 26 << 20}
CLIENT_RATES = {
    "async": {OWN: 60_000.0, PYMODBUS: 10_000.0, TMODBUS: 15_000.0},
    "sync": {OWN: 18_000.0, RAW: 20_000.0, PYMODBUS: 16_000.0},
}


def client_figures(case: ClientCase) -> dict[str, Any]:
    """What every client does there."""
    latency = {} if case.mode == "gathered" else {"p50_us": 50.0, "p99_us": 90.0}
    return {
        name: {"median": {"per_s": rate, "client_cpu_us": 40.25, **latency}, "rounds": []}
        for name, rate in CLIENT_RATES[case.kind].items()
    }


def made_up(**changes: float) -> dict[str, Any]:
    """Every case alike, but for the rates of some servers."""
    rates = RATES | changes
    case = {name: {"median": {"per_s": rate, "lost": 0.0, **KEYS}, "rounds": []} for name, rate in rates.items()}
    seconds = {name: {"median": {"s": 0.25}, "rounds": []} for name in rates}
    idle: dict[str, Any] = {name: {"connections": 10_000, "bytes_each": 3000} for name in rates}
    idle[PYMODBUS] = {"connections": 0, "why": "refused"}
    about = {
        "date": "2026-01-02",
        "machine": "m, 2 cores",
        "versions": {OWN: "Python 3.11.7", FLOOR: "", PYMODBUS: "Python 3.11.7", TMODBUS: "Python 3.12.1"},
        "everbus": "1.0",
        "rounds": 5,
        "seconds": 1.0,
        "load_generator": "C",
        "pinned": True,
    }
    return {
        "about": about,
        "missing": {"libmodbus": "it is not there"},
        "cases": {one.name: deepcopy(case) for one in CASES},
        "churn": case,
        "import": seconds,
        "start": seconds,
        "idle": idle,
        "clients": {one.name: client_figures(one) for one in CLIENT_CASES},
        "command": {"median": {"cpu_ms": 120.0}, "rounds": []},
    }
