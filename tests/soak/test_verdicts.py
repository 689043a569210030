"""Judgement from made-up runs: pure, no clock, no process."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everbus.soak.verdicts import Figure, Judgement, ProcessRecord, Sample, Verdict, judge

NO_FAILURES = {"refused": 0, "timeout": 0, "bad_answer": 0}


def record(samples: list[tuple[int, int, int]], *, ended: bool = False, settled_s: float = 3.0) -> ProcessRecord:
    """A process with these samples of (cycle, descriptors, listeners), 0.1 s apart."""
    taken = tuple(
        Sample(number / 10, cycle, descriptors, listeners, 20_000_000)
        for number, (cycle, descriptors, listeners) in enumerate(samples)
    )
    descriptors = [sample.descriptors for sample in taken]
    listeners = [sample.listeners for sample in taken]
    return ProcessRecord(
        pid=7,
        descriptors=Figure(descriptors[0], max(descriptors), descriptors[-1]),
        listeners=Figure(listeners[0], max(listeners), listeners[-1]),
        memory=Figure(20_000_000, 20_000_000, 20_000_000),
        samples=taken,
        settled_s=settled_s,
        ended=ended,
    )


def test_flat_is_clean() -> None:
    flat = record([(0, 8, 1), (200, 9, 1), (400, 8, 1)])
    assert judge(400, NO_FAILURES, flat) == Judgement(
        Verdict.CLEAN, "clean: all 400 cycles answered, 8 descriptors at the start and 8 at the end"
    )


def test_fewer_than_at_the_start_is_clean() -> None:
    assert judge(400, NO_FAILURES, record([(0, 90, 1), (200, 9, 1), (400, 8, 1)])).verdict is Verdict.CLEAN


def test_without_a_process_it_says_so() -> None:
    assert judge(400, NO_FAILURES, None) == Judgement(
        Verdict.CLEAN, "clean: all 400 cycles answered, seen from the client's side only"
    )


def test_listening_sockets_of_the_incumbent() -> None:
    """As measured: nothing until a second later, then one for each cycle."""
    seen = record([(0, 7, 1), (200, 7, 1), (200, 207, 201), (400, 207, 201), (400, 407, 401)])
    assert judge(400, NO_FAILURES, seen) == Judgement(
        Verdict.LEAK,
        "leak: 400 listening sockets more than at the start after 400 cycles, 1.00 per cycle, "
        "still there 3.0 s after the last",
    )


def test_descriptors_that_stay() -> None:
    seen = record([(0, 7, 1), (200, 107, 1), (400, 207, 1)], settled_s=2.52)
    assert judge(400, NO_FAILURES, seen).reason == (
        "leak: 200 descriptors more than at the start after 400 cycles, 0.50 per cycle, "
        "still there 2.5 s after the last"
    )


def test_what_is_opened_once_is_no_leak() -> None:
    """A pool of 40 that the first connection makes, whatever passes in the middle."""
    seen = record([(0, 7, 1), (10, 47, 1), (190, 90, 1), (210, 47, 1), (400, 47, 1)])
    assert judge(400, NO_FAILURES, seen) == Judgement(
        Verdict.CLEAN,
        "clean: all 400 cycles answered, 40 descriptors more than at the start, which do not grow with the cycles",
    )


def test_connections_in_the_middle_do_not_hide_a_slow_leak() -> None:
    """With 50 at a time the middle is high, but for one sample."""
    seen = record([(0, 7, 1), (900, 60, 1), (1024, 17, 1), (1100, 65, 1), (2048, 27, 1)])
    assert judge(2048, NO_FAILURES, seen).verdict is Verdict.LEAK


def test_a_run_too_quick_for_a_sample_in_the_middle() -> None:
    assert judge(50, NO_FAILURES, record([(0, 7, 1), (50, 57, 1)])).verdict is Verdict.LEAK


def test_a_leak_of_a_server_that_answers_nothing() -> None:
    seen = record([(0, 7, 1), (0, 57, 1), (0, 107, 1)])
    assert judge(100, {"timeout": 100}, seen).verdict is Verdict.LEAK


@pytest.mark.parametrize(
    ("cycles", "growth", "verdict"),
    [
        (100, 4, Verdict.CLEAN),
        (100, 5, Verdict.LEAK),
        (100_000, 199, Verdict.CLEAN),
        (100_000, 200, Verdict.LEAK),
    ],
)
def test_how_many_descriptors_prove_a_leak(cycles: int, growth: int, verdict: Verdict) -> None:
    seen = record([(0, 10, 1), (cycles, 10 + growth, 1)])
    assert judge(cycles, NO_FAILURES, seen).verdict is verdict


@pytest.mark.parametrize(("growth", "verdict"), [(1, Verdict.CLEAN), (2, Verdict.LEAK)])
def test_how_many_listening_sockets_prove_a_leak(growth: int, verdict: Verdict) -> None:
    seen = record([(0, 10, 1), (100, 10 + growth, 1 + growth)])
    assert judge(100, NO_FAILURES, seen).verdict is verdict


def test_one_failure_is_failing() -> None:
    assert judge(400, {"refused": 0, "timeout": 2, "bad_answer": 1}, record([(0, 8, 1), (397, 8, 1)])) == Judgement(
        Verdict.FAILING, "failing: 3 of 400 cycles failed (2 timeout, 1 bad answer)"
    )


def test_a_server_that_is_gone() -> None:
    assert judge(213, {"refused": 113}, None, gone=True).reason == (
        "failing: 113 of 213 cycles failed (113 refused); "
        "there was no good answer any more, so the run was stopped early"
    )


def test_a_leak_is_named_before_the_failures_it_leads_to() -> None:
    seen = record([(0, 7, 1), (125, 131, 125), (249, 256, 250)])
    assert judge(300, {"timeout": 51}, seen) == Judgement(
        Verdict.LEAK,
        "leak: 249 listening sockets more than at the start after 300 cycles, 0.83 per cycle, "
        "still there 3.0 s after the last; 51 of 300 cycles failed (51 timeout)",
    )


def test_a_process_that_ended() -> None:
    assert judge(100, {"reset": 1}, record([(0, 8, 1), (99, 9, 1)], ended=True)) == Judgement(
        Verdict.FAILING, "failing: process 7 ended after 100 cycles"
    )


def test_a_process_that_ended_full_of_descriptors() -> None:
    assert judge(250, {"reset": 1}, record([(0, 8, 1), (249, 256, 1)], ended=True)).reason == (
        "failing: process 7 ended after 250 cycles, with 248 descriptors more than at the start"
    )


@given(st.integers(20, 5000), st.integers(1, 3), st.integers(3, 60))
def test_any_steady_leak_is_convicted(cycles: int, per_cycle: int, looks: int) -> None:
    seen = record([(cycles * at // looks, 8 + per_cycle * cycles * at // looks, 1) for at in range(looks + 1)])
    assert judge(cycles, NO_FAILURES, seen).verdict is Verdict.LEAK


@given(st.integers(20, 5000), st.lists(st.integers(0, 1000), min_size=3, max_size=60))
def test_whatever_passes_and_is_gone_is_clean(cycles: int, extra: list[int]) -> None:
    middle = [(cycles * at // len(extra), 8 + more, 1) for at, more in enumerate(extra)]
    seen = record([(0, 8, 1), *middle, (cycles, 8, 1)])
    assert judge(cycles, NO_FAILURES, seen).verdict is Verdict.CLEAN
