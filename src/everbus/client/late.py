"""Answers that may still come on a line without transaction ids, to requests that nobody waits for any more.

A late answer of a unit looks like the answer to the next request to the same unit. So a unit that owes
one is asked nothing else until it has had twice the time that it was given; the same request may be
repeated at once, as whichever answer comes first answers it.
"""

from __future__ import annotations

__all__ = ["LateAnswers"]


class LateAnswers:
    """Who owes an answer, on one line that outlives its sessions."""

    __slots__ = ("_owed",)

    def __init__(self) -> None:
        self._owed: dict[int, tuple[bytes, float]] = {}

    def ready_at(self, unit: int, pdu: bytes, now: float) -> float:
        """When a unit may be asked this; 0: now."""
        owed = self._owed.get(unit)
        if owed is None:
            return 0.0
        asked, until = owed
        if until <= now:
            del self._owed[unit]
            return 0.0
        return 0.0 if asked == pdu else until

    def sent(self, unit: int, until: float) -> None:
        """A unit is asked, and may answer until then; if it owes the answer to the same already, it owes two."""
        owed = self._owed.get(unit)
        if owed is not None:
            self._owed[unit] = (owed[0], max(owed[1], until))

    def unanswered(self, unit: int, pdu: bytes, until: float) -> None:
        """Nobody waits for this answer any more; it may come until then."""
        owed = self._owed.get(unit)
        self._owed[unit] = (pdu, until if owed is None else max(owed[1], until))
