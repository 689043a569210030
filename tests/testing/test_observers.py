from __future__ import annotations

from everbus.observe import Event, EventKind
from everbus.testing import RecordingObserver


def test_it_keeps_everything_in_order() -> None:
    observer = RecordingObserver()
    events = [
        Event(EventKind.CONNECTION_OPENED, "a"),
        Event(EventKind.CONNECTION_CLOSED, "a", "idle"),
        Event(EventKind.CONNECTION_OPENED, "b"),
        Event(EventKind.CONNECTION_CLOSED, "b", "reset"),
    ]
    for event in events:
        observer.notify(event)
    observer.tick(1.0)
    observer.tick(2.0)
    assert observer.events == events
    assert observer.ticks == 2
    assert observer.of(EventKind.CONNECTION_OPENED) == [events[0], events[2]]
    assert observer.reasons(EventKind.CONNECTION_CLOSED) == ["idle", "reset"]
    assert (observer.of(EventKind.LOOP_LAGGED), observer.reasons(EventKind.LOOP_LAGGED)) == ([], [])


def test_two_of_them_share_nothing() -> None:
    first, second = RecordingObserver(), RecordingObserver()
    first.notify(Event(EventKind.CONNECTION_OPENED))
    assert second.events == []
