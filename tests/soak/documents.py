"""Result documents, as runs give them, for what shows them."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Any

from everbus.soak.asking import ClientRecord

MIB = 1 << 20
NO_CLIENTS = ClientRecord(
    clients=0,
    calls=0,
    retries=0,
    connects=0,
    connect_failures=0,
    lost=0,
    replaced={},
    late=0,
    unknown=0,
    mismatched=0,
)
BUSY_CLIENTS = replace(
    NO_CLIENTS,
    clients=1200,
    calls=9000,
    connects=1211,
    connect_failures=2,
    lost=7,
    replaced={"partial": 3, "silent": 1},
    late=5,
)


def document(**changes: Any) -> dict[str, Any]:
    """Ten seconds of a clean ``churn``, seen from the process too; ``changes`` replace keys."""
    samples = [[at_s / 4, min(at_s * 25, 800), 8 + at_s % 2, 1, 25 * MIB + at_s * 4096] for at_s in range(41)]
    made = {
        "ok": True,
        "verdict": "clean",
        "reason": "clean: none of 800 cycles failed, 8 descriptors at the start and 8 at the end",
        "criterion": "Every cycle is answered. Descriptors and listening sockets do not grow with the cycles.",
        "findings": [],
        "endpoint": "tcp://127.0.0.1:5020",
        "pid": 4711,
        "scenario": "churn",
        "requested": 800,
        "concurrency": 1,
        "cycles": 800,
        "failed": 0,
        "failures": {"refused": 0, "timeout": 0, "reset": 0, "bad_answer": 0, "other": 0},
        "first_failure": "",
        "turned_away": 0,
        "excused": 0,
        "rate": 100.0,
        "rate_asked": None,
        "rate_missed": 0,
        "interrupted": False,
        "everbus": "1.2.3",
        "machine": "Linux, x86_64, 2 cores, CPython 3.11.7",
        "started": "2026-11-25T01:02:03+00:00",
        "duration_s": 10.0,
        "options": {"scenario": "churn", "cycles": 800, "duration_s": 10.5, "rate": None, "polite": 0, "unit": 1},
        "by_scenario": {"churn": {"cycles": 800, "failed": 0}},
        "descriptors": {"start": 8, "peak": 9, "end": 8},
        "listeners": {"start": 1, "peak": 1, "end": 1},
        "memory": {"start": 25 * MIB, "peak": 25 * MIB + 163840, "end": 25 * MIB + 163840},
        "new_listeners": [],
        "settled_s": 2.0,
        "samples": samples,
        "polite": None,
        "client": asdict(BUSY_CLIENTS),
    }
    return made | changes


def polite(seconds: int = 10, failed_at: int = -1) -> dict[str, Any]:
    """What polite clients saw, one sample a second."""
    samples: list[list[float | None]] = [
        [float(at_s), 40, 0, 0.0008 + 0.0003 * math.sin(at_s), 0.012 + 0.01 * math.sin(at_s / 3) ** 2]
        for at_s in range(1, seconds + 1)
    ]
    if failed_at >= 0:
        samples[failed_at] = [float(failed_at + 1), 4, 3, None, None]
    failed = sum(int(row[2] or 0) for row in samples)
    return {
        "clients": 4,
        "requests": 40 * seconds,
        "failed": failed,
        "failures": {"timeout": failed} if failed else {},
        "first_failure": "request 17: no answer: timed out" if failed else "",
        "excused": 0,
        "late": 0,
        "p50_s": 0.0008,
        "p99_s": 0.018,
        "worst_s": 0.022,
        "own_worst_s": 0.001,
        "samples": samples,
    }


def conviction() -> dict[str, Any]:
    """A server that leaks one descriptor and one listening socket in each cycle, and loses polite requests."""
    samples = [[at_s / 4, at_s * 25, 8 + at_s * 50, 1 + at_s * 25, 25 * MIB + at_s * 40960] for at_s in range(41)]
    return document(
        ok=False,
        verdict="leak",
        reason="leak: 1000 listening sockets more than at the start after 1000 cycles, 1.00 per cycle, "
        "still there 2.0 s after the last; 3 of 1000 cycles failed (3 timeout)",
        findings=[
            "1000 listening sockets more than at the start after 1000 cycles, 1.00 per cycle",
            "3 of 1000 cycles failed (3 timeout)",
        ],
        cycles=1000,
        failed=3,
        by_scenario={"churn": {"cycles": 1000, "failed": 3}},
        failures={"refused": 0, "timeout": 3, "reset": 0, "bad_answer": 0, "other": 0},
        first_failure="cycle 31: no answer: timed out",
        descriptors={"start": 8, "peak": 2008, "end": 2008},
        listeners={"start": 1, "peak": 1001, "end": 1001},
        memory={"start": 25 * MIB, "peak": 25 * MIB + 1638400, "end": 25 * MIB + 1638400},
        new_listeners=["127.0.0.1:40001", "127.0.0.1:40002"],
        samples=samples,
        polite=polite(failed_at=6),
    )


def unseen(**changes: Any) -> dict[str, Any]:
    """The same from the client's side only."""
    nothing: dict[str, Any] = {
        "pid": None,
        "samples": [],
        "descriptors": None,
        "listeners": None,
        "memory": None,
        "settled_s": None,
    }
    return document(**nothing | changes)
