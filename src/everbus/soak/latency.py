"""How long answers took: percentiles and a course over time, in bounded memory. Pure."""

from __future__ import annotations

import math
from collections import Counter
from typing import Final

from everbus.soak.verdicts import PoliteSample

__all__ = ["Histogram", "Timeline"]

_PER_OCTAVE: Final = 16
"""Buckets between a time and its double: a percentile is right within 4.5 %."""

_LEAST_S: Final = 1e-6


class Histogram:
    """Durations counted in buckets; the longest is exact."""

    def __init__(self) -> None:
        self.count: int = 0
        self.worst_s: float | None = None
        self._buckets = Counter[int]()

    def add(self, seconds: float) -> None:
        """Take in one duration."""
        self.count += 1
        self.worst_s = max(self.worst_s or 0.0, seconds)
        self._buckets[round(_PER_OCTAVE * math.log2(max(seconds, _LEAST_S)))] += 1

    def merge(self, other: Histogram) -> None:
        """Take in all of another's."""
        self.count += other.count
        if other.worst_s is not None:
            self.worst_s = max(self.worst_s or 0.0, other.worst_s)
        self._buckets.update(other._buckets)

    def percentile(self, share: float) -> float | None:
        """The duration that this share of all does not exceed; None where there is none.

        Args:
            share: 0..1.
        """
        if self.worst_s is None:
            return None
        rest = math.ceil(share * self.count)
        for bucket in sorted(self._buckets):
            rest -= self._buckets[bucket]
            if rest <= 0:
                return min(math.exp2(bucket / _PER_OCTAVE), self.worst_s)
        return self.worst_s


class _Stretch:
    def __init__(self) -> None:
        self.failed = 0
        self.answered = Histogram()

    def merge(self, other: _Stretch) -> None:
        self.failed += other.failed
        self.answered.merge(other.answered)


class Timeline:
    """Answers and failures over time, by stretches of one length, which doubles when they become too many.

    Args:
        stretch_s: their length at first.
        keep: stretches kept at most, 2 or more.
    """

    def __init__(self, stretch_s: float = 1.0, keep: int = 400) -> None:
        self._stretch_s = stretch_s
        self._keep = keep
        self._stretches: dict[int, _Stretch] = {}

    def answered(self, at_s: float, took_s: float) -> None:
        """An answer that came at ``at_s``, 0 or more."""
        self._at(at_s).answered.add(took_s)

    def failed(self, at_s: float) -> None:
        """A failure at ``at_s``, 0 or more."""
        self._at(at_s).failed += 1

    def _at(self, at_s: float) -> _Stretch:
        while at_s >= self._keep * self._stretch_s:
            self._stretch_s *= 2
            halved: dict[int, _Stretch] = {}
            for number, stretch in self._stretches.items():
                halved.setdefault(number // 2, _Stretch()).merge(stretch)
            self._stretches = halved
        return self._stretches.setdefault(int(at_s // self._stretch_s), _Stretch())

    def samples(self) -> tuple[PoliteSample, ...]:
        """Those stretches in which there was something, in order."""
        return tuple(
            PoliteSample(
                (number + 1) * self._stretch_s,
                stretch.answered.count + stretch.failed,
                stretch.failed,
                stretch.answered.percentile(0.5),
                stretch.answered.worst_s,
            )
            for number, stretch in sorted(self._stretches.items())
        )
