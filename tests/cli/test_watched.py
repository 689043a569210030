from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from everbus.cli.watched import Sample, Schedule, Watched, sparkline
from everbus.errors import ConnectError, ExceptionResponseError, ModbusError
from everbus.maps.datatypes import Value
from everbus.maps.notation import parse_point
from everbus.maps.planner import Reading

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
MISSING = ExceptionResponseError(2, 3)
GONE = ConnectError("nobody there")

# --- when ---------------------------------------------------------------------------------------


def test_samples_are_due_at_whole_intervals_from_the_start() -> None:
    schedule = Schedule(0.5)
    assert [schedule.due_s(now) for now in (0.001, 0.02, 0.52, 1.4999)] == [0.0, 0.5, 1.0, 1.5]
    assert schedule.skipped == 0


def test_what_is_missed_is_skipped_and_counted() -> None:
    schedule = Schedule(1.0)
    assert [schedule.due_s(now) for now in (0.0, 3.2, 4.1, 4.2, 6.5)] == [0.0, 4.0, 5.0, 6.0, 7.0]
    assert schedule.skipped == 3


def test_the_first_is_never_skipped() -> None:
    schedule = Schedule(0.01)
    assert (schedule.due_s(5.0), schedule.skipped) == (0.0, 0)


def test_an_end_by_number_counts_what_was_taken() -> None:
    schedule = Schedule(1.0, count=2)
    assert [schedule.due_s(now) for now in (0.0, 5.5, 6.5, 7.0)] == [0.0, 6.0, None, None]
    assert schedule.skipped == 5


@pytest.mark.parametrize(("duration_s", "taken"), [(0.001, 1), (1.0, 1), (1.1, 2), (3.0, 3)])
def test_an_end_by_time(duration_s: float, taken: int) -> None:
    schedule = Schedule(1.0, duration_s=duration_s)
    due = [schedule.due_s(float(now)) for now in range(5)]
    assert due == [float(at) for at in range(taken)] + [None] * (5 - taken)
    assert schedule.skipped == 0


def test_what_would_be_due_after_the_end_is_not_skipped() -> None:
    schedule = Schedule(1.0, duration_s=3.0)
    assert [schedule.due_s(now) for now in (0.0, 100.0, 200.0)] == [0.0, None, None]
    assert schedule.skipped == 2


# --- what ---------------------------------------------------------------------------------------


def watched(text: str, *outcomes: Value | ModbusError) -> Watched:
    """After these values and errors, a second apart."""
    one = Watched(parse_point(text))
    for second, outcome in enumerate(outcomes):
        failed = isinstance(outcome, ModbusError)
        reading = Reading(one.point, error=outcome) if failed else Reading(one.point, outcome)  # type: ignore[arg-type]
        one.take(reading, Sample(second + 1, 0, NOON + timedelta(seconds=second), 100.0 + second, [reading]))
    return one


def test_numbers_are_summed_up() -> None:
    one = watched("h@0", 3, 1, 8)
    assert (one.read, one.failed, one.least, one.most, one.value, one.value_at_s) == (3, 0, 1, 8, 8, 102.0)
    assert one.row() == ("h@0", "3 read", "0 failed", "min 1", "mean 4", "max 8")
    assert list(one.recent) == [(100.0, 3), (101.0, 1), (102.0, 8)]
    assert one.first_failure is None


def test_a_value_stays_while_readings_fail_and_grows_old() -> None:
    one = watched("h@0", 7, GONE, MISSING, MISSING)
    assert (one.value, one.value_at_s, one.read, one.failed) == (7, 100.0, 1, 3)
    assert one.failing_since == NOON + timedelta(seconds=2)  # as it does now
    assert one.first_failure is not None
    assert one.first_failure.error is GONE
    assert [number for _, number in one.recent] == [7, None, None, None]


@pytest.mark.parametrize("outcomes", [(5, GONE), (GONE, GONE, GONE), (MISSING, 5, GONE, GONE)])
def test_since_when_it_fails(outcomes: tuple[Value | ModbusError, ...]) -> None:
    since = max((place for place, outcome in enumerate(outcomes) if outcome is not GONE), default=-1) + 1
    one = watched("h@0", *outcomes)
    assert one.failing_since == NOON + timedelta(seconds=since)
    assert watched("h@0", *outcomes, 1).failing_since is None


@pytest.mark.parametrize("value", ["text", None, float("inf"), float("nan"), 10**400, b"\x01"])
def test_what_is_no_number_that_can_be_drawn_is_in_no_sum(value: Value) -> None:
    one = watched("h@0", value, 4)
    assert (one.least, one.most, one.read) == (4, 4, 2)
    assert [number for _, number in one.recent] == [None, 4]


def test_a_point_that_was_never_a_number_has_none_in_its_row() -> None:
    assert watched("h@0:2/string", "on").row() == ("h@0:2/string", "1 read", "0 failed", "", "", "")


def test_values_look_as_read_shows_them() -> None:
    one = watched("i@0/f32", 21.299999237060547, None)
    assert (one.shown(one.most), one.shown(one.value)) == ("21.3", "")
    assert watched("c@0", True, False).row()[3:] == ("min 0", "mean 0.5", "max 1")


@pytest.mark.parametrize(
    ("values", "blocks"),
    [
        ([], ""),
        ([5], "▁"),
        ([5, 5, None, 5], "▁▁ ▁"),
        ([None, None], "  "),
        (list(range(8)), "▁▂▃▄▅▆▇█"),
        ([0, 100, 50], "▁█▅"),
        ([1e289, -1e289], "█▁"),
        ([2**63, 2**63 + 1], "▁█"),
        ([0.0, 5e-323], "▁█"),
    ],
)
def test_a_sparkline(values: list[float | None], blocks: str) -> None:
    assert sparkline(values) == blocks
