"""An observer that keeps what it is told."""

from __future__ import annotations

from everbus.observe import Event, EventKind

__all__ = ["RecordingObserver"]


class RecordingObserver:
    """Keeps every event, in order, in ``events``."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.ticks: int = 0

    def notify(self, event: Event) -> None:
        """Keep an event."""
        self.events.append(event)

    def tick(self, now: float) -> None:
        """Count."""
        self.ticks += 1

    def of(self, kind: EventKind) -> list[Event]:
        """The events of one kind, in order."""
        return [event for event in self.events if event.kind is kind]

    def reasons(self, kind: EventKind) -> list[str]:
        """The reasons of the events of one kind, in order."""
        return [event.reason for event in self.of(kind)]
