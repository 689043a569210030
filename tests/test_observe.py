from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from everbus.observe import NULL_OBSERVER, Event, EventKind, NullObserver, Observer, error_text


class Recorder:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.ticks: list[float] = []

    def notify(self, event: Event) -> None:
        self.events.append(event)

    def tick(self, now: float) -> None:
        self.ticks.append(now)


def test_the_kinds_are_labels_fit_for_counters() -> None:
    assert {kind.value for kind in EventKind} == {kind.name.lower() for kind in EventKind}
    assert f"{EventKind.CONNECTION_EVICTED}" == "connection_evicted"


def test_an_event_needs_no_more_than_its_kind() -> None:
    event = Event(EventKind.LISTENER_LOST)
    assert (event.peer, event.reason, event.detail, event.connection_id, event.error) == ("", "", "", 0, None)


def test_an_event_cannot_be_changed() -> None:
    name = "reason"
    with pytest.raises(FrozenInstanceError):
        setattr(Event(EventKind.LISTENER_LOST), name, "idle")


def test_an_observer_is_told_of_events_and_of_time() -> None:
    recorder = Recorder()
    observer: Observer = recorder
    event = Event(EventKind.FRAME_REJECTED, peer="192.0.2.7:40112", reason="length", connection_id=3)
    observer.notify(event)
    observer.tick(12.5)
    assert recorder.events == [event]
    assert recorder.ticks == [12.5]


@pytest.mark.parametrize("observer", [NULL_OBSERVER, NullObserver()])
def test_the_null_observer_takes_everything_and_keeps_nothing(observer: Observer) -> None:
    observer.notify(Event(EventKind.HANDLER_FAILED, error=ValueError()))
    observer.tick(1.0)
    assert not hasattr(observer, "__dict__")


class Unspeakable(Exception):
    """An error that has no words."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("error", "text"), [(ValueError("no such boiler"), "no such boiler"), (Unspeakable(), "<Unspeakable>")]
)
def test_an_error_says_what_it_can(error: Exception, text: str) -> None:
    assert error_text(error) == text
