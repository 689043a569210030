"""Bounded records of samples, and looks at real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everbus.resources import descriptor_count
from everbus.soak.sampling import Holding, Sampler, Series, listeners, look
from everbus.soak.verdicts import Figure, Sample
from tests.soak.servers import running

if TYPE_CHECKING:
    from collections.abc import Callable

HELD = Holding(8, 1, 1000)


def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


# --- series -----------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=300), st.integers(2, 20))
def test_a_series_is_bounded_and_exact_where_it_matters(values: list[int], keep: int) -> None:
    series = Series(keep)
    samples = [Sample(number / 10, number, value, value // 2, value * 3) for number, value in enumerate(values)]
    for sample in samples:
        series.add(sample)
    kept = series.samples
    assert len(kept) <= keep
    assert kept[0] is samples[0]
    assert kept[-1] is samples[-1]
    assert list(kept) == sorted(kept, key=lambda sample: sample.at_s)
    record = series.record(7, 3.0, ended=False)
    assert record.descriptors == Figure(values[0], max(values), values[-1])
    assert record.memory == Figure(values[0] * 3, max(values) * 3, values[-1] * 3)
    assert record.listeners.peak == max(values) // 2
    assert (record.pid, record.settled_s, record.ended, record.samples) == (7, 3.0, False, kept)


def test_what_is_kept_is_spread_evenly() -> None:
    series = Series(8)
    for number in range(1000):
        series.add(Sample(float(number), number, 1, 1, 1))
    gaps = {later.cycle - sooner.cycle for sooner, later in zip(series.samples, series.samples[1:-1], strict=False)}
    assert len(gaps) == 1


# --- looking ----------------------------------------------------------------------------------


def test_a_process_is_looked_at_with_its_children() -> None:
    with running("leaks_in_child") as server:
        before, addresses = look(server.pid), listeners(server.pid)
        assert addresses == {str(server.endpoint).removeprefix("tcp://"): 1}
        subprocess.run(
            [sys.executable, "-c", f"import socket; socket.create_connection(('127.0.0.1', {server.endpoint.port}))"],
            check=True,
        )
        until(lambda: look(server.pid).descriptors >= before.descriptors + 4)
        assert look(server.pid).memory_bytes > before.memory_bytes + 1_000_000
        assert look(server.pid).listeners == before.listeners


def test_the_process_that_looks_is_left_out() -> None:
    """It may be a child of the one it looks at, as where a shell's pid is given."""
    child = """
import os
from everbus.soak.sampling import look
before = look(os.getppid()).descriptors
held = [os.dup(0) for _ in range(50)]
print(look(os.getppid()).descriptors - before)
"""
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    done = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0"]


def test_looking_leaves_no_descriptor() -> None:
    look(os.getpid())
    before = descriptor_count()
    for _ in range(20):
        look(os.getpid())
        listeners(os.getpid())
    assert descriptor_count() == before


@pytest.mark.parametrize("ask", [look, listeners])
def test_a_process_that_has_ended(ask: Callable[[int], object]) -> None:
    with running("clean") as server:
        pass
    with pytest.raises(ProcessLookupError):
        ask(server.pid)


# --- sampler ----------------------------------------------------------------------------------


class Eyes:
    """Returns what it is told, and can be told to raise."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.looks = 0

    def __call__(self) -> Holding:
        self.looks += 1
        if self.error is not None:
            raise self.error
        return HELD


def test_a_sampler_takes_the_first_sample_at_once_and_goes_on() -> None:
    eyes, cycles = Eyes(), iter(range(10**9))
    sampler = Sampler(eyes, lambda: next(cycles), interval_s=0.001)
    threads = threading.active_count()
    sampler.start()
    try:
        assert sampler.series.samples[0].cycle == 0
        until(lambda: eyes.looks > 20)
    finally:
        sampler.stop()
    assert threading.active_count() == threads
    looks = eyes.looks
    assert [sample.cycle for sample in sampler.series.samples] == list(range(looks))
    last = sampler.sample()
    assert last is not None
    assert (last.cycle, last.descriptors, last.listeners, last.memory_bytes) == (looks, 8, 1, 1000)
    assert not sampler.ended


def test_the_end_of_the_process_ends_the_sampling_and_is_told_once() -> None:
    eyes, told = Eyes(), []
    sampler = Sampler(eyes, lambda: 0, on_end=lambda: told.append(1), interval_s=0.001).start()
    eyes.error = ProcessLookupError()
    until(lambda: sampler.ended)
    sampler.stop()
    assert sampler.sample() is None
    assert told == [1]
    assert sampler.series.samples[-1].descriptors == 8


def test_a_look_that_fails_for_a_while_is_left_out() -> None:
    eyes = Eyes()
    sampler = Sampler(eyes, lambda: 0, interval_s=0.001).start()
    try:
        eyes.error = OSError("too many open files")
        looks = eyes.looks
        until(lambda: eyes.looks > looks + 3)
        eyes.error = None
        looks = eyes.looks
        until(lambda: eyes.looks > looks + 3)
    finally:
        sampler.stop()


def test_a_failing_look_at_the_start_is_an_error() -> None:
    eyes = Eyes()
    eyes.error = PermissionError()
    with pytest.raises(PermissionError):
        Sampler(eyes, lambda: 0).start()


@pytest.mark.slow
def test_slow_looks_are_wide_apart() -> None:
    times: list[float] = []

    def slow() -> Holding:
        time.sleep(0.05)
        times.append(time.monotonic())
        return HELD

    sampler = Sampler(slow, lambda: 0, interval_s=0.001).start()
    until(lambda: len(times) >= 4)
    sampler.stop()
    assert times[3] - times[2] > 0.2
