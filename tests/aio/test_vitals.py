from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from everbus.aio import vitals
from everbus.aio.vitals import Vitals, open_descriptors
from everbus.observe import EventKind
from everbus.testing import RecordingObserver
from tests.aio.wire import until


@contextmanager
def looking() -> Iterator[tuple[Vitals, RecordingObserver]]:
    observer = RecordingObserver()
    found = Vitals(observer)
    try:
        yield found, observer
    finally:
        found.stop()


async def test_d3_something_that_blocks_the_loop_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vitals, "_LAG_S", 0.05)
    with looking() as (found, observer):
        await asyncio.sleep(0)
        time.sleep(0.2)  # noqa: ASYNC251  that is what is tested
        await until(lambda: observer.of(EventKind.LOOP_LAGGED))
        assert 0.05 < found.max_lag_s < 5.0
        assert "blocked the event loop for " in observer.of(EventKind.LOOP_LAGGED)[0].detail


async def test_descriptors_that_become_scarce_are_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vitals, "_DESCRIPTOR_CHECK_S", 0.01)
    monkeypatch.setattr(vitals, "descriptor_limit", lambda: 100)
    count = 10
    monkeypatch.setattr(vitals, "descriptor_count", lambda: count)
    with looking() as (_, observer):
        await asyncio.sleep(0.03)
        assert observer.events == []
        count = 75
        await until(lambda: observer.of(EventKind.DESCRIPTORS_HIGH))
        await asyncio.sleep(0.03)
        assert len(observer.events) == 1
        count = 10
        await until(lambda: observer.of(EventKind.DESCRIPTORS_NORMAL))


async def test_where_descriptors_cannot_be_counted_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def none_left() -> int:
        asked.append(1)
        raise OSError(errno.ENFILE, os.strerror(errno.ENFILE))

    monkeypatch.setattr(vitals, "_DESCRIPTOR_CHECK_S", 0.01)
    monkeypatch.setattr(vitals, "descriptor_count", none_left)
    assert open_descriptors() is None
    with looking() as (_, observer):
        await until(lambda: len(asked) >= 3)
        assert observer.events == []
    asked.clear()
    await asyncio.sleep(0.03)
    assert asked == [], "it has stopped"
