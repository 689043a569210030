"""What a terminal shows of a run."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console

from everbus.cli import soak_view
from everbus.cli.soak_view import progress_bar, show_result
from everbus.soak.result import PartCount
from everbus.soak.runner import SoakOptions, SoakResult
from everbus.soak.verdicts import Figure, PoliteRecord, ProcessRecord, Sample, Verdict
from tests.soak.documents import BUSY_CLIENTS, NO_CLIENTS

MIB = 1 << 20


def result(options: SoakOptions | None = None, **changes: Any) -> SoakResult:
    """A clean run of 1200 cycles that nobody looked at; ``changes`` replace fields."""
    fields: dict[str, Any] = {
        "verdict": Verdict.CLEAN,
        "reason": "clean: none of 1200 cycles failed",
        "findings": (),
        "endpoint": "tcp://127.0.0.1:5020",
        "options": (options or SoakOptions(cycles=1200)).resolved(),
        "started": datetime(2026, 11, 25, tzinfo=UTC),
        "duration_s": 12.0,
        "cycles": 1200,
        "failures": {},
        "first_failure": "",
        "turned_away": 0,
        "excused": 0,
        "by_scenario": {"churn": PartCount(1200, 0)},
        "rate": 100.0,
        "rate_missed": 0,
        "interrupted": False,
        "record": None,
        "polite": None,
        "client": NO_CLIENTS,
        "new_listeners": (),
    }
    return SoakResult(**fields | changes)


def record(**changes: Any) -> ProcessRecord:
    fields: dict[str, Any] = {
        "pid": 4711,
        "descriptors": Figure(8, 1500, 9),
        "listeners": Figure(1, 1, 1),
        "memory": Figure(20 * MIB, 30 * MIB, 25 * MIB),
        "samples": (Sample(0.0, 0, 8, 1, 20 * MIB), Sample(12.0, 1200, 9, 1, 25 * MIB)),
        "settled_s": 2.5,
    }
    return ProcessRecord(**fields | changes)


def shown(what: SoakResult) -> list[str]:
    """The lines in a file, where none is wrapped."""
    console = Console(file=io.StringIO(), highlight=False, width=80)
    show_result(what, console)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_a_clean_run_that_nobody_looked_at() -> None:
    first, criterion, last = shown(result())
    assert first == "churn on tcp://127.0.0.1:5020: 1,200 of 1,200 cycles, 100 a second, 0 failed"
    assert criterion == f"criterion: {result().criterion}"
    assert last == "clean: none of 1200 cycles failed"


def test_a_run_by_time() -> None:
    options = SoakOptions(scenario="mixed", duration_s=12.0)
    parts = {"churn": PartCount(1000, 2), "reset": PartCount(200, 0)}
    lines = shown(
        result(
            options,
            failures={"timeout": 2, "reset": 0},
            first_failure="cycle 31: no answer",
            by_scenario=parts,
            rate_missed=9,
        )
    )
    assert lines[:3] == [
        "mixed on tcp://127.0.0.1:5020: 1,200 cycles in 12 s, 100 a second (9 were due and not begun), 2 failed",
        "failed: 2 timeout; the first: cycle 31: no answer",
        "of these: 1,000 churn (2 failed), 200 reset",
    ]


def test_an_interrupted_run_says_so() -> None:
    assert shown(result(interrupted=True))[0].endswith(", 0 failed, interrupted")


def test_what_counts_against_nobody_is_shown() -> None:
    assert shown(result(turned_away=1500, excused=2))[0].endswith(", 0 failed, 1,500 turned away, 2 excused")


def test_polite_clients() -> None:
    polite = PoliteRecord(
        clients=4,
        requests=1000,
        failures={"timeout": 1, "bad_answer": 2},
        first_failure="no answer",
        excused=0,
        late_s=0.25,
        late=0,
        p50_s=0.0004,
        p99_s=0.0123,
        worst_s=1.5,
        own_worst_s=0.002,
    )
    assert shown(result(polite=polite))[1] == (
        "polite clients (4): 1,000 requests, 3 failed (1 timeout, 2 bad answer; the first: no answer), median 0.4 ms, "
        "99 of 100 within 12.3 ms, slowest 1,500.0 ms; this machine itself was late by 2.0 ms at most"
    )
    silent = PoliteRecord(
        clients=1, requests=0, failures={}, first_failure="", excused=5, late_s=None, late=0, p50_s=None, p99_s=None,
        worst_s=None, own_worst_s=0.0,
    )  # fmt: skip
    assert shown(result(polite=silent))[1] == (
        "polite clients (1): 0 requests, 0 failed, 5 excused; this machine itself was late by 0.0 ms at most"
    )


def test_what_our_own_clients_counted() -> None:
    assert shown(result(client=BUSY_CLIENTS))[1] == (
        "everbus clients, polite and in cycles (1,200): 9,000 requests, 0 sent again; "
        "1,211 connections, 7 lost, 4 given up; answers: 5 late, 0 unknown, 0 mismatched"
    )


def test_the_process_as_a_table_and_a_plot() -> None:
    lines = shown(result(record=record()))
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]
    assert rows[:3] == [
        ["descriptors", "8", "1,500", "9", "+1"],
        ["listening sockets", "1", "1", "1", "+0"],
        ["memory, MiB", "20.0", "30.0", "25.0", "+5.0"],
    ]
    assert "open descriptors over time" in "\n".join(lines)


def test_new_listeners() -> None:
    lines = shown(result(record=record(listeners=Figure(1, 13, 13)), new_listeners=("127.0.0.1:1", "127.0.0.1:2")))
    assert "listening at the end and not at the start: 127.0.0.1:1, 127.0.0.1:2 and 10 more" in lines


def test_of_several_findings_each_has_a_line() -> None:
    convicted: dict[str, Any] = {"verdict": Verdict.LEAK, "reason": "leak: one; two; three"}
    assert shown(result(**convicted, findings=("one", "two", "three")))[2:] == [
        "- one",
        "- two",
        "- three",
        "leak: one; and 2 more",
    ]
    assert shown(result(verdict=Verdict.LEAK, reason="leak: one", findings=("one",)))[2:] == ["leak: one"]


@pytest.mark.parametrize(
    ("options", "cycles", "at_s", "share", "words"),
    [
        (SoakOptions(cycles=2000), 500, 99.0, 0.25, "500/2,000 cycles"),
        (SoakOptions(duration_s=60.0), 5000, 15.0, 0.25, "15/60 s, 5,000 cycles"),
        (SoakOptions(duration_s=60.0), 5000, 61.0, 1.0, "60/60 s, 5,000 cycles"),
        (SoakOptions(cycles=100, duration_s=60.0), 50, 15.0, 0.5, "15/60 s, 50/100 cycles"),
        (SoakOptions(cycles=100, duration_s=60.0), 5, 15.0, 0.25, "15/60 s, 5/100 cycles"),
    ],
)
def test_how_far_a_run_is(options: SoakOptions, cycles: int, at_s: float, share: float, words: str) -> None:
    assert soak_view._progress(options.resolved(), cycles, at_s) == (share, words)


def test_where_there_is_no_terminal_there_is_no_bar(capfd: pytest.CaptureFixture[str]) -> None:
    with progress_bar(SoakOptions().resolved()) as show:
        show("cycles", 7)
        show("settling", 7)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("top", "least", "ticks"),
    [
        (0, 1, [0, 1]),
        (3, 1, [0, 1, 2, 3]),
        (9, 1, [0, 2, 4, 6, 8, 10]),
        (407, 1, [0, 100, 200, 300, 400, 500]),
        (2055, 1, [0, 500, 1000, 1500, 2000, 2500]),
        (0.3, 0, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (4.6, 0, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_ticks_are_round(top: float, least: float, ticks: list[float]) -> None:
    assert soak_view._ticks(top, least) == pytest.approx(ticks)
