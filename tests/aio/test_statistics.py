from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

import everbus
from everbus.aio.statistics import Drained, Forced


def test_how_it_ended_can_be_told_apart_and_compared() -> None:
    assert Drained(3) == Drained(3) != Drained(4)
    assert Forced(3, 1) == Forced(3, 1) != Forced(3, 2)
    endings: list[Drained | Forced] = [Drained(3), Forced(3, 0)]
    assert endings[0] != endings[1]
    assert [isinstance(ended, Drained) for ended in endings] == [True, False]


def test_they_stand_at_the_top_level() -> None:
    assert (everbus.Drained, everbus.Forced) == (Drained, Forced)


def test_nobody_changes_history() -> None:
    ended = Drained(3)
    with pytest.raises(FrozenInstanceError):
        ended.connections = 4  # type: ignore[misc]
