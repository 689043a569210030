"""Counts every event by kind and reason, and passes it on."""

from __future__ import annotations

from collections import Counter

from everbus.observe import Event, EventKind, Observer

__all__ = ["Tally"]


class Tally:
    """An observer that counts, in front of another one.

    Args:
        behind: told everything after it was counted.
    """

    __slots__ = ("_behind", "counts", "observer_failures")

    def __init__(self, behind: Observer) -> None:
        self._behind = behind
        self.counts: Counter[tuple[EventKind, str]] = Counter()
        self.observer_failures: int = 0
        """How often the observer behind raised; a server does not fall over its own log."""

    def notify(self, event: Event) -> None:
        """Count an event and pass it on."""
        self.counts[event.kind, event.reason] += 1
        try:
            self._behind.notify(event)
        except Exception:  # noqa: BLE001  somebody else's code, in the middle of an accept or a close
            self.observer_failures += 1

    def tick(self, now: float) -> None:
        """Pass on."""
        try:
            self._behind.tick(now)
        except Exception:  # noqa: BLE001  as above
            self.observer_failures += 1

    def by_reason(self, *kinds: EventKind) -> dict[str, int]:
        """How often, by reason, events of these kinds happened."""
        found: Counter[str] = Counter()
        for (kind, reason), count in list(self.counts.items()):  # any thread may ask
            if kind in kinds:
                found[reason] += count
        return dict(found)

    def total(self, *kinds: EventKind) -> int:
        """How often events of these kinds happened."""
        return sum(self.by_reason(*kinds).values())
