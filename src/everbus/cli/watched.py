"""What has been seen of points that are read again and again, and when the next reading is due."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from datetime import datetime
from math import ceil
from typing import Final, NamedTuple

from everbus.cli.asking import quality, shown
from everbus.maps.datatypes import Value
from everbus.maps.planner import Reading
from everbus.maps.points import Point

__all__ = ["Sample", "Schedule", "Watched", "sparkline"]

_KEPT: Final = 600
_LARGE: Final = 1e290
_BLOCKS: Final = "▁▂▃▄▅▆▇█"


class Sample(NamedTuple):
    """What was read at one time.

    Args:
        number: 1 and up.
        skipped: how many were due before it and left out.
        at: when the answers were there.
        at_s: the same in seconds of the monotonic clock.
        readings: one a point.
    """

    number: int
    skipped: int
    at: datetime
    at_s: float
    readings: Sequence[Reading]

    @property
    def failed(self) -> bool:
        """Some of it could not be read."""
        return any(reading.error is not None for reading in self.readings)


class Schedule:
    """Says when samples are due: at whole intervals from the start, so that they do not drift.

    What is due while a sample takes long is skipped and counted, not caught up with.

    Args:
        interval_s: from one to the next, above 0.
        count: how many there are; None: no end.
        duration_s: none is due so long after the start, or later; None: no end.
    """

    def __init__(self, interval_s: float, count: int | None = None, duration_s: float | None = None) -> None:
        self._interval_s = interval_s
        self._left = count
        self._end = None if duration_s is None else ceil(duration_s / interval_s)
        self._next = 0
        self.skipped: int = 0

    def due_s(self, now_s: float) -> float | None:
        """When the next sample is due, or None after the last; both in seconds from the start."""
        if self._left == 0:
            return None
        number = max(self._next, ceil(now_s / self._interval_s)) if self._next else 0
        if self._end is not None:
            number = min(number, self._end)
        self.skipped += number - self._next
        self._next = number
        if number == self._end:
            return None
        self._next += 1
        if self._left is not None:
            self._left -= 1
        return number * self._interval_s


class Watched:
    """What has been seen of one point.

    Args:
        point: which.
    """

    def __init__(self, point: Point) -> None:
        self.point = point
        self.last: Reading = Reading(point)
        """The last reading, good or not."""
        self.value: Value = None
        """The last value that was read; stale while readings fail."""
        self.value_at_s: float | None = None
        """When that was, in seconds of the monotonic clock."""
        self.failing_since: datetime | None = None
        """When readings began to fail as the last did; None: it was good."""
        self.first_failure: Reading | None = None
        self.read: int = 0
        self.failed: int = 0
        self.recent: deque[tuple[float, float | None]] = deque(maxlen=_KEPT)
        """Seconds of the monotonic clock and numbers; None: no number was read."""
        self.least: float | None = None
        self.most: float | None = None
        self._numbers = 0
        self._total: float = 0

    def take(self, reading: Reading, sample: Sample) -> None:
        """Take note of the next reading."""
        if quality(reading) != quality(self.last) or self.failing_since is None:
            self.failing_since = sample.at
        self.last = reading
        if reading.error is not None:
            self.failed += 1
            self.first_failure = self.first_failure or reading
            self.recent.append((sample.at_s, None))
            return
        self.read += 1
        self.value, self.value_at_s, self.failing_since = reading.value, sample.at_s, None
        number = _number(reading.value)
        self.recent.append((sample.at_s, number))
        if number is not None:
            self.least = number if self.least is None else min(self.least, number)
            self.most = number if self.most is None else max(self.most, number)
            self._numbers += 1
            self._total += number

    def row(self) -> tuple[str, ...]:
        """What a summary says of it."""
        counts = (str(self.point), f"{self.read} read", f"{self.failed} failed")
        if self.least is None or self.most is None:
            return (*counts, "", "", "")
        mean = self._total / self._numbers
        return (*counts, f"min {self.shown(self.least)}", f"mean {mean:.6g}", f"max {self.shown(self.most)}")

    def shown(self, value: Value) -> str:
        """A value for people; empty if there is none."""
        return "" if value is None else shown(self.point, value)


def _number(value: Value) -> float | None:
    """What can be drawn: a finite number, and so are sums and differences of such."""
    return value if isinstance(value, (int, float)) and abs(value) < _LARGE else None


def sparkline(values: Iterable[float | None]) -> str:
    """Numbers as blocks, the least the lowest; a blank where there is none."""
    values = list(values)
    numbers = [value for value in values if value is not None]
    low = min(numbers, default=0)
    span, top = max(numbers, default=0) - low, len(_BLOCKS) - 1
    return "".join(
        " " if value is None else _BLOCKS[round(top * (value - low) / span) if span else 0] for value in values
    )
