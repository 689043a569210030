"""The figures of a process, its descriptor limit, and the watcher."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everbus import processes, resources
from everbus.errors import ConfigurationError
from everbus.observe import Event, EventKind
from everbus.resources import (
    DEFAULT_DESCRIPTOR_LIMIT,
    DescriptorAlarm,
    Descriptors,
    DescriptorWatcher,
    descriptor_count,
    descriptor_limit,
    descriptors,
    listening_addresses,
    memory_bytes,
    process_tree,
    raise_descriptor_limit,
)

if TYPE_CHECKING:
    from pathlib import Path


def in_another_process(script: str) -> str:
    """What a script prints that changes the limits of its process, or uses them up."""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    return done.stdout.strip()


# --- figures ----------------------------------------------------------------------------------


def test_one_listening_socket_shows_in_every_figure() -> None:
    count, kinds = descriptor_count(), descriptors()
    assert count == kinds.total
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert descriptor_count() == count + 1
        assert descriptors() == kinds + Descriptors(total=1, listening=1)
        assert f"127.0.0.1:{server.getsockname()[1]}" in listening_addresses(os.getpid())
    assert descriptors() == kinds


def test_listening_addresses_are_sorted_and_may_repeat(tmp_path: Path) -> None:
    before = list(listening_addresses())
    with socket.socket() as first, socket.socket() as second:
        for member in (first, second):
            member.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        first.bind(("127.0.0.1", 0))
        first.listen()
        second.bind(first.getsockname())
        second.listen()
        address = f"127.0.0.1:{first.getsockname()[1]}"
        assert list(listening_addresses()) == sorted([*before, address, address])


def test_memory_and_tree_of_this_process() -> None:
    assert memory_bytes() > 1_000_000
    assert process_tree(os.getpid())[0] == os.getpid()


def test_with_no_descriptor_left_the_count_is_the_limit() -> None:
    script = """
import os, resource
from everbus.resources import descriptor_count, descriptors
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
descriptor_count()
held = []
try:
    while True:
        held.append(os.dup(0))
except OSError:
    pass
print(descriptor_count())
try:
    descriptors()
except OSError as error:
    print(error.errno)
"""
    assert in_another_process(script).split() == ["64", str(errno.EMFILE)]


def test_no_descriptor_left_to_look_at_another_process_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> list[str]:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(os, "listdir", refuse)
    assert descriptor_count() == descriptor_limit()
    with pytest.raises(OSError, match="too many"):
        descriptor_count(os.getppid())


def test_where_there_is_no_proc_psutil_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "isdir", lambda path: False)
    processes.this_system.cache_clear()
    try:
        assert descriptor_count() > 0
        assert isinstance(processes.this_system(), processes.PsutilSystem)
    finally:
        processes.this_system.cache_clear()


# --- limits -----------------------------------------------------------------------------------


def test_raising_goes_as_far_as_needed_and_allowed_and_never_down() -> None:
    script = """
import resource
from everbus.resources import descriptor_limit, raise_descriptor_limit
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 300))
print(descriptor_limit())
for wanted in (50, 200, 150, 1000):
    print(raise_descriptor_limit(wanted), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""
    assert in_another_process(script).splitlines() == [
        "100",
        "100 100 300",
        "200 200 300",
        "200 200 300",
        "300 300 300",
    ]


class EndlessLimits:
    """A ``resource`` module of a system without bounds, that may say no."""

    RLIMIT_NOFILE = 7
    RLIM_INFINITY = -1

    def __init__(self, soft: int, refuses: bool = False) -> None:
        self.limits = (soft, self.RLIM_INFINITY)
        self.refuses = refuses

    def getrlimit(self, which: int) -> tuple[int, int]:
        return self.limits

    def setrlimit(self, which: int, limits: tuple[int, int]) -> None:
        if self.refuses:
            raise ValueError("current limit exceeds maximum limit")
        self.limits = limits


def test_an_endless_hard_limit_stays_endless(monkeypatch: pytest.MonkeyPatch) -> None:
    endless = EndlessLimits(256)
    monkeypatch.setitem(sys.modules, "resource", endless)
    assert raise_descriptor_limit(5000) == 5000
    assert endless.limits == (5000, EndlessLimits.RLIM_INFINITY)


def test_a_system_that_allows_less_than_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", EndlessLimits(256, refuses=True))
    assert raise_descriptor_limit(5000) == 256


def test_an_endless_soft_limit_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", EndlessLimits(-1, refuses=True))
    assert descriptor_limit() == 1_048_576
    assert raise_descriptor_limit(5000) == 1_048_576


def test_where_there_are_no_limits_the_default_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)
    assert descriptor_limit() == DEFAULT_DESCRIPTOR_LIMIT
    assert raise_descriptor_limit(5000) == DEFAULT_DESCRIPTOR_LIMIT


# --- the watcher (A16) ------------------------------------------------------------------------


def test_one_alarm_each_way() -> None:
    watcher = DescriptorWatcher(100)
    assert watcher.check(69) == []
    assert watcher.check(70) == [DescriptorAlarm(0.7, True, 70, 100)]
    assert watcher.check(89) == []
    assert watcher.check(90) == [DescriptorAlarm(0.9, True, 90, 100)]
    assert watcher.check(100) == []
    assert watcher.check(86) == []
    assert watcher.check(84) == [DescriptorAlarm(0.9, False, 84, 100)]
    assert watcher.check(65) == []
    assert watcher.check(64) == [DescriptorAlarm(0.7, False, 64, 100)]
    assert watcher.check(0) == []


def test_a_jump_over_both_tells_both_in_order() -> None:
    watcher = DescriptorWatcher(100)
    assert [alarm.threshold for alarm in watcher.check(95)] == [0.7, 0.9]
    assert [alarm.threshold for alarm in watcher.check(1)] == [0.9, 0.7]


def test_usage_that_hovers_does_not_flap() -> None:
    watcher = DescriptorWatcher(1000)
    alarms = [alarm for used in (699, 701) * 100 for alarm in watcher.check(used)]
    assert len(alarms) == 1


def test_an_alarm_as_an_event() -> None:
    high, normal = DescriptorAlarm(0.7, True, 750, 1024), DescriptorAlarm(0.7, False, 600, 1024)
    assert high.event == Event(
        EventKind.DESCRIPTORS_HIGH,
        reason="70%",
        detail="750 of 1024 descriptors in use, at or above 70%",
    )
    assert normal.event == Event(
        EventKind.DESCRIPTORS_NORMAL,
        reason="70%",
        detail="600 of 1024 descriptors in use, back below 70%",
    )


LIMITS = st.integers(1, 5000)
THRESHOLDS = st.lists(st.integers(10, 100), min_size=1, max_size=4, unique=True).map(
    lambda percents: tuple(percent / 100 for percent in sorted(percents))
)
HYSTERESES = st.integers(0, 9).map(lambda percent: percent / 100)


@given(LIMITS, THRESHOLDS, HYSTERESES, st.lists(st.floats(0, 1.2), max_size=60))
def test_alarms_alternate_and_are_true(
    limit: int, thresholds: tuple[float, ...], hysteresis: float, walk: list[float]
) -> None:
    watcher = DescriptorWatcher(limit, thresholds, hysteresis)
    high = dict.fromkeys(thresholds, False)
    for share in walk:
        used = round(share * limit)
        for alarm in watcher.check(used):
            assert alarm.high is not high[alarm.threshold]
            high[alarm.threshold] = alarm.high
            assert (alarm.used, alarm.limit) == (used, limit)
        for threshold, is_high in high.items():
            if used / limit >= threshold:
                assert is_high
            elif used / limit < threshold - hysteresis:
                assert not is_high
        assert watcher.check(used) == []


@given(st.lists(st.integers(6500, 8999), max_size=60))
def test_within_the_hysteresis_there_is_one_alarm_at_most(walk: list[int]) -> None:
    watcher = DescriptorWatcher(10_000)
    assert sum(len(watcher.check(used)) for used in walk) <= 1


@pytest.mark.parametrize(
    ("limit", "thresholds", "hysteresis", "message"),
    [
        (0, (0.7,), 0.05, "descriptor limit"),
        (10, (), 0.05, "thresholds"),
        (10, (0.9, 0.7), 0.05, "thresholds"),
        (10, (0.7, 0.7), 0.05, "thresholds"),
        (10, (0.0, 0.7), 0.0, "thresholds"),
        (10, (0.7, 1.1), 0.05, "thresholds"),
        (10, (0.7,), -0.1, "hysteresis"),
        (10, (0.7,), 0.7, "hysteresis"),
    ],
)
def test_a_watcher_that_cannot_work_is_not_built(
    limit: int, thresholds: tuple[float, ...], hysteresis: float, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        DescriptorWatcher(limit, thresholds, hysteresis)


def test_the_public_names_are_there() -> None:
    assert all(hasattr(resources, name) for name in resources.__all__)
