"""The document of a run, from made-up results: pure."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, replace
from datetime import UTC, datetime

from everbus import __version__
from everbus.soak.options import SoakOptions
from everbus.soak.result import PartCount, SoakResult
from everbus.soak.scenarios import ALWAYS, SCENARIOS
from everbus.soak.verdicts import Figure, PoliteRecord, PoliteSample, ProcessRecord, Sample, Verdict
from tests.soak.documents import BUSY_CLIENTS

RECORD = ProcessRecord(
    pid=7,
    descriptors=Figure(8, 12, 9),
    listeners=Figure(1, 1, 1),
    memory=Figure(2000, 4000, 3000),
    samples=(Sample(0.0, 0, 8, 1, 2000), Sample(1.23456, 60, 9, 1, 3000)),
    settled_s=2.5123,
)
POLITE = PoliteRecord(
    clients=2,
    requests=40,
    failures={"timeout": 1},
    first_failure="polite request 7: no answer: timed out",
    excused=4,
    late_s=0.25,
    late=3,
    p50_s=0.00112345678,
    p99_s=0.2,
    worst_s=0.3,
    own_worst_s=0.01,
    samples=(PoliteSample(1.0, 20, 0, 0.001, 0.3), PoliteSample(2.0, 1, 1, None, None)),
)
OPTIONS = SoakOptions(scenario="mixed", duration_s=60.0, rate=200.0).resolved()
RESULT = SoakResult(
    verdict=Verdict.FAILING,
    reason="failing: this; that",
    findings=("this", "that"),
    endpoint="tcp://127.0.0.1:5020",
    options=OPTIONS,
    started=datetime(2026, 11, 25, 1, 2, 3, 456, tzinfo=UTC),
    duration_s=60.00456,
    interrupted=False,
    cycles=600,
    failures={"refused": 0, "timeout": 2, "held": 3},
    first_failure="cycle 9: it was held",
    turned_away=8,
    excused=6,
    by_scenario={"churn": PartCount(500, 2), "half-open": PartCount(100, 3)},
    rate=10.04,
    rate_missed=77,
    record=RECORD,
    polite=POLITE,
    client=BUSY_CLIENTS,
    new_listeners=("127.0.0.1:4001",),
)


def test_the_document_of_a_run() -> None:
    document = json.loads(json.dumps(RESULT.document()))
    assert document.pop("machine").endswith(platform.python_version())
    assert document == {
        "ok": False,
        "verdict": "failing",
        "reason": "failing: this; that",
        "criterion": f"{SCENARIOS['mixed'].criterion} {ALWAYS}",
        "findings": ["this", "that"],
        "endpoint": "tcp://127.0.0.1:5020",
        "scenario": "mixed",
        "everbus": __version__,
        "started": "2026-11-25T01:02:03+00:00",
        "duration_s": 60.0,
        "interrupted": False,
        "requested": None,
        "concurrency": 48,
        "cycles": 600,
        "failed": 5,
        "failures": {"refused": 0, "timeout": 2, "held": 3},
        "first_failure": "cycle 9: it was held",
        "turned_away": 8,
        "excused": 6,
        "by_scenario": {"churn": {"cycles": 500, "failed": 2}, "half-open": {"cycles": 100, "failed": 3}},
        "rate": 10.0,
        "rate_asked": 200.0,
        "rate_missed": 77,
        "new_listeners": ["127.0.0.1:4001"],
        "pid": 7,
        "descriptors": {"start": 8, "peak": 12, "end": 9},
        "listeners": {"start": 1, "peak": 1, "end": 1},
        "memory": {"start": 2000, "peak": 4000, "end": 3000},
        "settled_s": 2.51,
        "samples": [[0.0, 0, 8, 1, 2000], [1.235, 60, 9, 1, 3000]],
        "polite": {
            "clients": 2,
            "requests": 40,
            "failed": 1,
            "failures": {"timeout": 1},
            "first_failure": "polite request 7: no answer: timed out",
            "excused": 4,
            "late": 3,
            "p50_s": 0.001123,
            "p99_s": 0.2,
            "worst_s": 0.3,
            "own_worst_s": 0.01,
            "samples": [[1.0, 20, 0, 0.001, 0.3], [2.0, 1, 1, None, None]],
        },
        "client": {
            "clients": 1200,
            "calls": 9000,
            "retries": 0,
            "connects": 1211,
            "connect_failures": 2,
            "lost": 7,
            "replaced": {"partial": 3, "silent": 1},
            "late": 5,
            "unknown": 0,
            "mismatched": 0,
        },
        "options": asdict(OPTIONS),
    }


def test_the_document_without_a_process_and_without_polite_clients() -> None:
    bare = replace(RESULT, record=None, polite=None, verdict=Verdict.CLEAN, findings=(), new_listeners=())
    document = bare.document()
    assert document["ok"] is True
    for name in ("pid", "descriptors", "listeners", "memory", "settled_s", "polite"):
        assert document[name] is None
    assert document["samples"] == document["new_listeners"] == document["findings"] == []


def test_the_options_in_it_are_those_of_the_run() -> None:
    options = RESULT.document()["options"]
    assert (options["concurrency"], options["polite"], options["cycles"], options["hold_s"]) == (48, 4, None, 30.0)
