"""Cycles counted, and when the next one is due."""

from __future__ import annotations

import time

import pytest

from everbus.soak import tally as tally_module
from everbus.soak.tally import Clock, Tally
from everbus.soak.target import CycleFailedError, FailureKind


def failed(tally: Tally, kind: FailureKind, times: int = 1) -> None:
    for _ in range(times):
        tally.failure("churn", tally.cycles + 1, CycleFailedError(kind, f"it was {kind}"))


def test_everything_is_counted() -> None:
    tally = Tally()
    tally.answer("churn")
    tally.answer("flood")
    failed(tally, FailureKind.TIMEOUT)
    failed(tally, FailureKind.RESET, 2)
    assert (tally.answered, tally.cycles) == (2, 5)
    tally.answer("flood", turned_away=True)
    assert (tally.answered, tally.turned_away, tally.cycles) == (3, 1, 6)
    tally.excuse()
    tally.cut("half-open")
    assert (tally.excused, tally.cut_short, tally.cycles) == (1, {"half-open": 1}, 6)
    assert tally.failures == {FailureKind.TIMEOUT: 1, FailureKind.RESET: 2}
    assert tally.cycles_of == {"churn": 4, "flood": 2}
    assert tally.failed_of == {"churn": 3}
    assert tally.first_failure == "cycle 3: it was timeout"
    assert not tally.gone


@pytest.mark.parametrize(
    ("kind", "times", "gone"),
    [
        (FailureKind.REFUSED, 5, True),
        (FailureKind.TIMEOUT, 5, True),
        (FailureKind.REFUSED, 4, False),
        (FailureKind.HELD, 50, False),
        (FailureKind.DEAF, 50, False),
        (FailureKind.BAD_ANSWER, 50, False),
    ],
)
def test_a_server_is_gone_after_failures_in_a_row(
    monkeypatch: pytest.MonkeyPatch, kind: FailureKind, times: int, gone: bool
) -> None:
    monkeypatch.setattr(tally_module, "_GONE_S", 0.0)
    tally = Tally()
    failed(tally, kind, times)
    assert tally.gone is gone


def test_it_is_not_gone_before_some_time_has_passed_nor_after_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    tally = Tally()
    failed(tally, FailureKind.REFUSED, 50)
    assert not tally.gone
    monkeypatch.setattr(tally_module, "_GONE_S", 0.0)
    tally.answer("churn")
    failed(tally, FailureKind.REFUSED, 4)
    assert not tally.gone


def test_without_a_rate_each_is_due_at_once() -> None:
    clock = Clock(None)
    for _ in range(3):
        assert clock.next() <= time.monotonic()
    assert clock.missed == 0


def test_with_a_rate_they_are_due_in_even_steps() -> None:
    clock = Clock(10.0)
    clock.restart()
    first = clock.next()
    assert [clock.next() - first for _ in range(3)] == pytest.approx([0.1, 0.2, 0.3])


def test_what_comes_far_too_late_is_given_up() -> None:
    clock = Clock(100.0)
    clock._due -= 0.3
    begin = time.monotonic()
    assert clock.next() == pytest.approx(begin - 0.3, abs=0.05)
    assert clock.missed == 0
    clock._due -= 1.0
    assert clock.next() == pytest.approx(begin, abs=0.05)
    assert clock.missed == pytest.approx(129, abs=5)
