"""Counts the cycles of a run, and says when the next one is due."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Final

from everbus.soak.target import CycleFailedError, FailureKind

__all__ = ["Clock", "Tally"]

_GONE_FAILURES: Final = 5
_GONE_S: Final = 5.0
"""After so many failures in a row, over so long a time, the server is plainly gone."""

_SILENT: Final = frozenset({FailureKind.REFUSED, FailureKind.TIMEOUT, FailureKind.RESET, FailureKind.OTHER})
"""Failures of a server that may be gone; with the others it still does something."""

_BEHIND_S: Final = 0.5
"""Cycles that are due for longer than this are given up: a server that comes back meets no burst."""


class Tally:
    """What became of the cycles; shared by the workers.

    ``answered`` cycles were well, ``turned_away`` of them without an answer, as the server may;
    ``failures`` counts the others by kind, ``cycles_of`` and ``failed_of`` by scenario. Beside
    them, counting neither way, are those ``excused``, which failed while this machine was late, and
    by scenario those that the end of the run ``cut_short``. ``gone``: the server is plainly gone.
    """

    def __init__(self) -> None:
        self.answered: int = 0
        self.turned_away: int = 0
        self.excused: int = 0
        self.cut_short: Counter[str] = Counter()
        self.failures: Counter[FailureKind] = Counter()
        self.cycles_of: Counter[str] = Counter()
        self.failed_of: Counter[str] = Counter()
        self.first_failure: str = ""
        self.gone: bool = False
        self._lock = threading.Lock()
        self._streak = 0
        self._last_answer = time.monotonic()

    @property
    def cycles(self) -> int:
        """Cycles that came to their end, failed ones included."""
        return self.answered + self.failures.total()

    def answer(self, part: str, turned_away: bool = False) -> None:
        """A cycle of this scenario was well."""
        with self._lock:
            self.answered += 1
            self.turned_away += turned_away
            self.cycles_of[part] += 1
            self._streak = 0
            self._last_answer = time.monotonic()

    def excuse(self) -> None:
        """A cycle failed, and this machine may be the reason."""
        with self._lock:
            self.excused += 1

    def cut(self, part: str) -> None:
        """The end of the run came in the middle of a cycle of this scenario."""
        with self._lock:
            self.cut_short[part] += 1

    def failure(self, part: str, number: int, error: CycleFailedError) -> None:
        """A cycle of this scenario failed."""
        with self._lock:
            self.failures[error.kind] += 1
            self.cycles_of[part] += 1
            self.failed_of[part] += 1
            self.first_failure = self.first_failure or f"cycle {number}: {error}"
            self._streak = self._streak + 1 if error.kind in _SILENT else 0
            silent_s = time.monotonic() - self._last_answer
            self.gone = self._streak >= _GONE_FAILURES and silent_s >= _GONE_S


class Clock:
    """When each cycle is due. Not safe for threads by itself.

    ``missed`` counts cycles that were given up, as they would have come too late.

    Args:
        rate: cycles a second; None: each is due at once.
    """

    def __init__(self, rate: float | None) -> None:
        self.missed: int = 0
        self._step_s = 1 / rate if rate else 0.0
        self._due = time.monotonic()

    def restart(self) -> None:
        """The next cycle is due now."""
        self._due = time.monotonic()

    def next(self) -> float:
        """When the next cycle is due."""
        if not self._step_s:
            return time.monotonic()
        behind_s = time.monotonic() - self._due
        if behind_s > _BEHIND_S:
            given_up = int(behind_s / self._step_s)
            self.missed += given_up
            self._due += given_up * self._step_s
        self._due += self._step_s
        return self._due - self._step_s
