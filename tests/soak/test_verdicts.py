"""Judgement from made-up runs: pure, no clock, no process."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everbus.soak.scenarios import SCENARIOS
from everbus.soak.verdicts import Beside, Figure, Judgement, PoliteRecord, ProcessRecord, Sample, Verdict, judge

MIB = 1 << 20
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
        Verdict.CLEAN, "clean: none of 400 cycles failed, 8 descriptors at the start and 8 at the end"
    )


def test_fewer_than_at_the_start_is_clean() -> None:
    assert judge(400, NO_FAILURES, record([(0, 90, 1), (200, 9, 1), (400, 8, 1)])).verdict is Verdict.CLEAN


def test_without_a_process_it_says_so() -> None:
    assert judge(400, NO_FAILURES, None) == Judgement(
        Verdict.CLEAN, "clean: none of 400 cycles failed, seen from the client's side only"
    )


def test_listening_sockets_of_the_incumbent() -> None:
    """As measured: nothing until a second later, then one for each cycle."""
    seen = record([(0, 7, 1), (200, 7, 1), (200, 207, 201), (400, 207, 201), (400, 407, 401)])
    finding = (
        "400 listening sockets more than at the start after 400 cycles, 1.00 per cycle, "
        "still there 3.0 s after the last"
    )
    assert judge(400, NO_FAILURES, seen) == Judgement(Verdict.LEAK, f"leak: {finding}", (finding,))


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
        "clean: none of 400 cycles failed, 40 descriptors more than at the start, which do not grow with the cycles",
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
    finding = "3 of 400 cycles failed (2 timeout, 1 bad answer)"
    assert judge(400, {"refused": 0, "timeout": 2, "bad_answer": 1}, record([(0, 8, 1), (397, 8, 1)])) == Judgement(
        Verdict.FAILING, f"failing: {finding}", (finding,)
    )


def test_a_run_without_a_cycle_proves_nothing() -> None:
    for descriptors in (8, 80):
        seen = record([(0, 8, 1), (0, descriptors, 1)])
        assert judge(0, NO_FAILURES, seen).findings == ("not one cycle came to its end",)


def test_a_server_that_is_gone() -> None:
    assert judge(213, {"refused": 113}, None, gone=True).reason == (
        "failing: 113 of 213 cycles failed (113 refused); "
        "there was no good answer any more, so the run was stopped early"
    )


def test_a_leak_is_named_before_the_failures_it_leads_to() -> None:
    seen = record([(0, 7, 1), (125, 131, 125), (249, 256, 250)])
    leak = (
        "249 listening sockets more than at the start after 300 cycles, 0.83 per cycle, "
        "still there 3.0 s after the last"
    )
    trouble = "51 of 300 cycles failed (51 timeout)"
    assert judge(300, {"timeout": 51}, seen) == Judgement(Verdict.LEAK, f"leak: {leak}; {trouble}", (leak, trouble))


def test_a_process_that_ended() -> None:
    judgement = judge(100, {"reset": 1}, record([(0, 8, 1), (99, 9, 1)], ended=True))
    assert judgement.verdict is Verdict.FAILING
    assert judgement.findings == ("process 7 ended after 100 cycles", "1 of 100 cycles failed (1 reset)")
    assert judgement.reason == f"failing: {'; '.join(judgement.findings)}"


def test_a_process_that_ended_full_of_descriptors() -> None:
    assert judge(250, NO_FAILURES, record([(0, 8, 1), (249, 256, 1)], ended=True)).reason == (
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


# --- memory -----------------------------------------------------------------------------------


def remembering(samples: list[tuple[int, float]], *, peak: float = 0.0) -> ProcessRecord:
    """A process with these samples of (cycle, MiB) and nothing else to tell."""
    taken = tuple(Sample(at / 10, cycle, 8, 1, round(mib * MIB)) for at, (cycle, mib) in enumerate(samples))
    held = [sample.memory_bytes for sample in taken]
    memory = Figure(held[0], max(*held, round(peak * MIB)), held[-1])
    return ProcessRecord(7, Figure(8, 8, 8), Figure(1, 1, 1), memory, taken, 3.0)


def steady(cycles: int, per_cycle: float, at_first: float = 20.0) -> ProcessRecord:
    return remembering([(at * cycles // 40, at_first + at * cycles // 40 * per_cycle / MIB) for at in range(41)])


def test_two_kilobytes_for_each_cycle_are_a_leak() -> None:
    finding = "memory grew by 11.4 MiB in the last 6000 of 10000 cycles, 2000 bytes per cycle, and went on growing"
    judgement = judge(10_000, NO_FAILURES, steady(10_000, 2000))
    assert judgement == Judgement(Verdict.LEAK, f"leak: {finding}", (finding,))


@pytest.mark.parametrize(
    ("cycles", "per_cycle", "verdict"),
    [
        (2048, 2000, Verdict.CLEAN),  # 2 MiB in the later half: heaps do that
        (6000, 2000, Verdict.LEAK),
        (100_000, 80, Verdict.CLEAN),
        (1_000_000, 40, Verdict.CLEAN),  # 20 MiB, and 40 bytes for each cycle
        (1_000_000, 80, Verdict.LEAK),
    ],
)
def test_how_much_memory_proves_a_leak(cycles: int, per_cycle: int, verdict: Verdict) -> None:
    assert judge(cycles, NO_FAILURES, steady(cycles, per_cycle)).verdict is verdict


@pytest.mark.parametrize(
    "samples",
    [
        pytest.param([(0, 20), (100, 90), (5000, 90), (7500, 91), (10_000, 92)], id="warm-up"),
        pytest.param([(0, 20), (5000, 20), (7500, 20), (9000, 40), (10_000, 40)], id="a step late"),
        pytest.param([(0, 20), (5000, 20), (6500, 40), (7500, 40), (10_000, 40)], id="a step in the middle"),
        pytest.param([(0, 20), (5000, 40), (5500, 60), (7500, 55), (10_000, 30)], id="given back"),
        pytest.param([(0, 20), (10_000, 90)], id="nothing seen in the middle"),
        pytest.param([(0, 20), (0, 30), (0, 50)], id="no cycle"),
    ],
)
def test_memory_that_does_not_go_on_growing(samples: list[tuple[int, float]]) -> None:
    assert judge(10_000, NO_FAILURES, remembering(samples)).verdict is Verdict.CLEAN


def test_what_is_under_way_hides_no_leak() -> None:
    """Each sample but those at rest has up to 3 MiB of unsent answers on top."""
    samples = [(at * 100, 20 + at / 5 + at % 4) for at in range(101)]
    assert judge(10_000, NO_FAILURES, remembering(samples)).verdict is Verdict.LEAK


def test_a_bound_of_memory_holds_at_any_time() -> None:
    passing = remembering([(0, 20), (50, 30), (100, 20)], peak=36.5)
    assert judge(100, NO_FAILURES, passing).verdict is Verdict.CLEAN
    assert judge(100, NO_FAILURES, passing, most_growth_bytes=17 * MIB).verdict is Verdict.CLEAN
    finding = "memory rose to 16.5 MiB above the start, which is more than 16 MiB"
    assert judge(100, NO_FAILURES, passing, most_growth_bytes=16 * MIB) == Judgement(
        Verdict.FAILING, f"failing: {finding}", (finding,)
    )


@pytest.mark.parametrize(
    ("concurrency", "mib", "verdict"),
    [
        (8, 16.0, Verdict.CLEAN),
        (8, 16.1, Verdict.FAILING),
        (64, 16.1, Verdict.FAILING),
        (70, 17.5, Verdict.CLEAN),
        (70, 17.6, Verdict.FAILING),
        (1000, 250.0, Verdict.CLEAN),
        (1000, 250.1, Verdict.FAILING),
    ],
)
def test_slow_readers_many_at_a_time_may_hold_more(concurrency: int, mib: float, verdict: Verdict) -> None:
    bound = SCENARIOS["slow-reader"].growth_bound(concurrency)
    seen = remembering([(0, 20), (50, 20), (100, 20)], peak=20 + mib)
    judgement = judge(100, NO_FAILURES, seen, most_growth_bytes=bound)
    assert judgement.verdict is verdict
    words = f"which is more than {max(16, concurrency / 4):g} MiB"
    assert judgement.reason.endswith(words) is (verdict is Verdict.FAILING)


# --- beside the cycles ------------------------------------------------------------------------


def test_a_clean_run_is_not_silent_about_what_convicts_nobody() -> None:
    beside = Beside(turned_away=7, excused=2, unjudged={"half-open": 30.0, "slow-reader": 10.0})
    assert judge(100, NO_FAILURES, None, beside=beside) == Judgement(
        Verdict.CLEAN,
        "clean: none of 100 cycles failed, 7 of them were turned away, 2 more excused, as this machine itself was "
        "late, too short a run to judge half-open (that takes 30 s) and slow-reader (that takes 10 s), "
        "seen from the client's side only",
    )


def test_a_run_of_excuses_acquits_nobody() -> None:
    finding = "not one cycle came to its end (5 excused, as this machine itself was late)"
    assert judge(0, NO_FAILURES, None, beside=Beside(excused=5)) == Judgement(
        Verdict.FAILING, f"failing: {finding}", (finding,)
    )


# --- polite clients ---------------------------------------------------------------------------


def polite(**changes: object) -> PoliteRecord:
    made: dict[str, object] = {
        "clients": 4,
        "requests": 1000,
        "failures": {},
        "first_failure": "",
        "excused": 0,
        "late_s": 0.25,
        "late": 0,
        "p50_s": 0.001,
        "p99_s": 0.004,
        "worst_s": 0.9,
        "own_worst_s": 0.005,
    }
    return PoliteRecord(**(made | changes))  # type: ignore[arg-type]


def test_polite_clients_that_are_served_are_named() -> None:
    assert judge(100, NO_FAILURES, None, polite=polite()).reason == (
        "clean: none of 100 cycles failed, seen from the client's side only, 1000 polite requests answered, "
        "the slowest in 900 ms"
    )
    assert judge(100, NO_FAILURES, None, polite=polite(excused=3)).reason.endswith("in 900 ms, 3 more excused")


def test_one_polite_request_that_fails_convicts() -> None:
    finding = "1 of 1000 polite requests failed (1 bad answer)"
    assert judge(100, NO_FAILURES, None, polite=polite(failures={"bad_answer": 1})) == Judgement(
        Verdict.FAILING, f"failing: {finding}", (finding,)
    )


def test_polite_clients_that_were_never_answered_convict() -> None:
    silent = polite(requests=0, p50_s=None, p99_s=None, worst_s=None)
    assert judge(100, NO_FAILURES, None, polite=silent).findings == ("no polite client had an answer",)


@pytest.mark.parametrize(
    ("requests", "late", "late_s", "verdict"),
    [
        (1000, 9, 0.25, Verdict.CLEAN),
        (1000, 10, 0.25, Verdict.FAILING),
        (1000, 500, None, Verdict.CLEAN),
        (100, 7, 0.25, Verdict.CLEAN),  # fewer than two of each of the four clients
        (100, 8, 0.25, Verdict.FAILING),
        (100_000, 999, 0.25, Verdict.CLEAN),
    ],
)
def test_how_many_late_answers_convict(requests: int, late: int, late_s: float | None, verdict: Verdict) -> None:
    judgement = judge(100, NO_FAILURES, None, polite=polite(requests=requests, late=late, late_s=late_s))
    assert judgement.verdict is verdict
    assert judgement.reason.startswith("clean: ") or judgement.reason == (
        f"failing: {late} polite requests took over 250 ms or were held up by one that did, {requests} were made; "
        "the worst took 900 ms, while this machine itself was late by 5 ms at most"
    )
