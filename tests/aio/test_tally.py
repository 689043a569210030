from __future__ import annotations

from typing import cast

import pytest

from everbus.aio.tally import Tally
from everbus.observe import NULL_OBSERVER, Event, EventKind
from everbus.testing import RecordingObserver

CLOSED = EventKind.CONNECTION_CLOSED
EVICTED = EventKind.CONNECTION_EVICTED
REFUSED = EventKind.CONNECTION_REFUSED


def tally(*events: tuple[EventKind, str]) -> Tally:
    found = Tally(NULL_OBSERVER)
    for kind, reason in events:
        found.notify(Event(kind, reason=reason))
    return found


def test_everything_is_passed_on_in_order() -> None:
    behind = RecordingObserver()
    front = Tally(behind)
    events = [Event(CLOSED, reason="idle"), Event(REFUSED), Event(CLOSED, reason="idle")]
    for event in events:
        front.notify(event)
    front.tick(1.0)
    assert behind.events == events
    assert behind.ticks == 1
    assert front.observer_failures == 0


def test_events_are_counted_by_kind_and_reason() -> None:
    found = tally((CLOSED, "idle"), (CLOSED, "reset"), (CLOSED, "idle"), (EVICTED, "evicted"), (REFUSED, "idle"))
    assert found.by_reason(CLOSED) == {"idle": 2, "reset": 1}
    assert found.by_reason(CLOSED, EVICTED) == {"idle": 2, "reset": 1, "evicted": 1}
    assert found.by_reason(CLOSED, REFUSED) == {"idle": 3, "reset": 1}
    assert found.by_reason(EventKind.LOOP_LAGGED) == {}
    assert (found.total(CLOSED), found.total(CLOSED, EVICTED), found.total(EventKind.LOOP_LAGGED)) == (3, 4, 0)


def test_what_it_gives_out_is_a_snapshot() -> None:
    found = tally((CLOSED, "idle"))
    before = found.by_reason(CLOSED)
    before["idle"] = 7
    found.notify(Event(CLOSED, reason="reset"))
    assert before == {"idle": 7}
    assert found.by_reason(CLOSED) == {"idle": 1, "reset": 1}


class Raising(RecordingObserver):
    def notify(self, event: Event) -> None:
        super().notify(event)
        raise ValueError("an observer must not raise")

    def tick(self, now: float) -> None:
        super().tick(now)
        raise OSError("disk full")


def test_an_observer_that_raises_is_counted_and_told_again() -> None:
    behind = Raising()
    front = Tally(behind)
    for _ in range(3):
        front.notify(Event(CLOSED, reason="idle"))
        front.tick(0.0)
    assert (len(behind.events), behind.ticks, front.observer_failures) == (3, 3, 6)
    assert front.by_reason(CLOSED) == {"idle": 3}


def test_an_observer_that_ends_the_program_may() -> None:
    class Leaving(RecordingObserver):
        def notify(self, event: Event) -> None:
            raise SystemExit(1)

    with pytest.raises(SystemExit):
        Tally(Leaving()).notify(Event(CLOSED))


def test_reading_while_another_thread_counts() -> None:
    found = tally((CLOSED, "idle"), (REFUSED, "full"))

    class Meanwhile:
        """Equal to no kind; looking at it lets another event happen."""

        __hash__ = None  # type: ignore[assignment]

        def __eq__(self, other: object) -> bool:
            found.notify(Event(EVICTED, reason=f"number {len(found.counts)}"))
            return False

    assert found.by_reason(cast(EventKind, Meanwhile())) == {}
    assert found.total(EVICTED) == 2
