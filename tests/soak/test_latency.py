"""Percentiles and courses of made-up durations: pure."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everbus.soak.latency import Histogram, Timeline

DURATIONS = st.lists(st.floats(1e-5, 100), min_size=1, max_size=200)


def filled(durations: list[float]) -> Histogram:
    histogram = Histogram()
    for seconds in durations:
        histogram.add(seconds)
    return histogram


@given(DURATIONS, st.floats(0.01, 1))
def test_a_percentile_is_right_within_some_percent(durations: list[float], share: float) -> None:
    exact = sorted(durations)[math.ceil(share * len(durations)) - 1]
    assert filled(durations).percentile(share) == pytest.approx(exact, rel=0.045)


@given(DURATIONS)
def test_the_worst_is_exact_and_nothing_is_worse(durations: list[float]) -> None:
    histogram = filled(durations)
    assert (histogram.count, histogram.worst_s) == (len(durations), max(durations))
    found = histogram.percentile(1.0)
    assert found is not None
    assert found <= max(durations)


@given(DURATIONS, DURATIONS)
def test_two_together_are_as_one(some: list[float], more: list[float]) -> None:
    histogram = filled(some)
    histogram.merge(filled(more))
    both = filled(some + more)
    assert (histogram.count, histogram.worst_s) == (both.count, both.worst_s)
    assert histogram.percentile(0.5) == both.percentile(0.5)


def test_of_nothing_there_is_no_percentile() -> None:
    histogram = Histogram()
    histogram.merge(Histogram())
    assert histogram.percentile(0.5) is histogram.worst_s is None
    histogram.add(0.0)
    assert histogram.percentile(0.5) == 0.0


def test_a_course_has_a_sample_for_each_stretch_in_which_there_was_something() -> None:
    timeline = Timeline()
    for at_s, took_s in ((0.1, 0.001), (0.9, 0.004), (0.95, 0.002), (3.5, 0.5)):
        timeline.answered(at_s, took_s)
    timeline.failed(3.6)
    timeline.failed(5.0)
    first, second, third = timeline.samples()
    assert (first.at_s, first.requests, first.failed, first.worst_s) == (1.0, 3, 0, 0.004)
    assert first.p50_s == pytest.approx(0.002, rel=0.05)
    assert (second.at_s, second.requests, second.failed, second.worst_s) == (4.0, 2, 1, 0.5)
    assert (third.at_s, third.requests, third.failed, third.p50_s, third.worst_s) == (6.0, 1, 1, None, None)


@given(st.lists(st.tuples(st.floats(0, 5000), st.booleans()), max_size=100), st.integers(2, 10))
def test_a_course_is_bounded_and_loses_nothing(events: list[tuple[float, bool]], keep: int) -> None:
    timeline = Timeline(keep=keep)
    for at_s, good in events:
        if good:
            timeline.answered(at_s, at_s / 1000)
        else:
            timeline.failed(at_s)
    samples = timeline.samples()
    assert len(samples) <= keep
    assert sum(sample.requests for sample in samples) == len(events)
    assert sum(sample.failed for sample in samples) == sum(not good for _, good in events)
    assert [sample.at_s for sample in samples] == sorted({sample.at_s for sample in samples})
    assert all(at_s < samples[-1].at_s for at_s, _ in events)
    worst = [sample.worst_s for sample in samples if sample.worst_s is not None]
    assert max(worst, default=0) == max((at_s / 1000 for at_s, good in events if good), default=0)
