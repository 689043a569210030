from __future__ import annotations

import logging
from typing import cast

import pytest

from everbus.logs import LogObserver
from everbus.observe import Event, EventKind

REFUSED = EventKind.CONNECTION_REFUSED
FAILED = EventKind.HANDLER_FAILED


class Lines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def texts(self) -> list[str]:
        return [record.getMessage() for record in self.records]

    @property
    def levels(self) -> list[str]:
        return [record.levelname for record in self.records]

    @property
    def traced(self) -> list[BaseException | None]:
        """The errors whose tracebacks were written."""
        traced = [record for record in self.records if "Traceback" in record.getMessage()]
        return [cast(Event, record.__dict__["event"]).error for record in traced]


def observer(level: int = logging.DEBUG, lines: int = 3) -> tuple[LogObserver, Lines]:
    logger = logging.Logger("of this test alone", level)
    kept = Lines()
    logger.addHandler(kept)
    return LogObserver(logger, lines=lines), kept


def test_an_event_is_a_line_that_says_what_who_and_why() -> None:
    log, kept = observer()
    log.notify(Event(REFUSED, "192.0.2.7:40112", "full", "closed at once", 17))
    log.notify(Event(REFUSED, reason="rate"))
    log.notify(Event(EventKind.LISTENER_OPENED, "tcp://127.0.0.1:502"))
    assert kept.texts == [
        "connection refused (full): 192.0.2.7:40112, connection 17, closed at once",
        "connection refused (rate)",
        "listener opened: tcp://127.0.0.1:502",
    ]


def test_the_event_itself_goes_along_for_formatters_that_want_it() -> None:
    log, kept = observer()
    event = Event(REFUSED, reason="full")
    log.notify(event)
    assert kept.records[0].event is event  # type: ignore[attr-defined]


def test_by_default_it_writes_to_the_logger_of_the_server() -> None:
    logger = logging.getLogger("everbus.server")
    kept = Lines()
    logger.addHandler(kept)
    try:
        LogObserver().notify(Event(EventKind.LISTENER_LOST, reason="closed"))
    finally:
        logger.removeHandler(kept)
    assert kept.texts == ["listener lost (closed)"]


@pytest.mark.parametrize(
    ("kind", "reason", "level"),
    [
        (EventKind.CONNECTION_OPENED, "", "DEBUG"),
        (EventKind.CONNECTION_CLOSED, "peer_closed", "DEBUG"),
        (EventKind.CONNECTION_CLOSED, "reset", "DEBUG"),
        (EventKind.CONNECTION_CLOSED, "idle", "INFO"),
        (EventKind.CONNECTION_CLOSED, "frame_timeout", "INFO"),
        (EventKind.CONNECTION_CLOSED, "forced", "INFO"),
        (EventKind.LISTENER_OPENED, "start", "DEBUG"),
        (EventKind.LISTENER_OPENED, "again", "WARNING"),
        (EventKind.LISTENER_LOST, "closed", "ERROR"),
        (EventKind.PORT_OPENED, "start", "DEBUG"),
        (EventKind.PORT_OPENED, "again", "WARNING"),
        (EventKind.PORT_LOST, "", "ERROR"),
        (EventKind.PORT_FAILED, "ENOENT", "WARNING"),
        (EventKind.ANSWER_ABANDONED, "overtaken", "WARNING"),
        (EventKind.DESCRIPTORS_NORMAL, "70%", "INFO"),
        (EventKind.DESCRIPTORS_HIGH, "70%", "WARNING"),
        (EventKind.CONNECTION_EVICTED, "evicted", "WARNING"),
        (EventKind.FRAME_REJECTED, "length", "WARNING"),
        (EventKind.HANDLER_FAILED, "ValueError", "ERROR"),
        (EventKind.HANDLER_TIMED_OUT, "TimeoutError", "WARNING"),
    ],
)
def test_how_bad_it_is(kind: EventKind, reason: str, level: str) -> None:
    log, kept = observer()
    log.notify(Event(kind, reason=reason))
    assert kept.levels == [level]


def test_every_kind_of_event_can_be_written() -> None:
    log, kept = observer()
    for kind in EventKind:
        log.notify(Event(kind))
    assert len(kept.texts) == len(EventKind)


def test_what_the_logger_does_not_want_is_not_counted_either() -> None:
    log, kept = observer(logging.WARNING)
    for _ in range(10):
        log.notify(Event(EventKind.CONNECTION_CLOSED, reason="reset"))
    log.tick(100.0)
    assert (kept.texts, log.suppressed) == ([], 0)


def test_of_each_kind_and_reason_the_first_few_are_written_and_the_rest_counted() -> None:
    log, kept = observer()
    log.tick(1000.0)
    for _ in range(10_000):
        log.notify(Event(REFUSED, reason="full"))
        log.notify(Event(REFUSED, reason="rate"))
    assert len(kept.texts) == 6
    assert log.suppressed == 2 * 9_997
    log.tick(1009.9)
    assert len(kept.texts) == 6
    log.tick(1010.0)
    assert kept.texts[6:] == [
        "connection refused (full): 9997 more were not written",
        "connection refused (rate): 9997 more were not written",
    ]


def test_a_new_period_writes_again() -> None:
    log, kept = observer(lines=1)
    for start in (0.0, 10.0, 20.0):
        log.tick(start)
        for _ in range(3):
            log.notify(Event(REFUSED, reason="full"))
    assert len([text for text in kept.texts if text == "connection refused (full)"]) == 3
    assert len([text for text in kept.texts if "2 more" in text]) == 2
    assert log.suppressed == 6


def test_what_was_suppressed_is_told_as_loudly_as_it_would_have_been() -> None:
    log, kept = observer(lines=1)
    for kind in (EventKind.CONNECTION_OPENED, REFUSED, FAILED):
        log.notify(Event(kind))
        log.notify(Event(kind))
    log.tick(100.0)
    assert kept.levels[3:] == ["DEBUG", "WARNING", "ERROR"]


@pytest.mark.parametrize(
    ("kind", "line"),
    [(EventKind.ACCEPT_FAILED, "accept failed (EMFILE)"), (EventKind.PORT_FAILED, "port failed (EMFILE)")],
)
def test_of_errors_of_accept_and_open_one_line_is_enough(kind: EventKind, line: str) -> None:
    log, kept = observer(lines=3)
    for _ in range(5):
        log.notify(Event(kind, reason="EMFILE"))
    log.tick(100.0)
    assert kept.texts == [line, f"{line}: 4 more were not written"]


def test_where_nothing_was_suppressed_nothing_is_said() -> None:
    log, kept = observer()
    log.notify(Event(REFUSED, reason="full"))
    log.tick(100.0)
    log.tick(200.0)
    assert len(kept.texts) == 1


def test_the_last_tick_of_one_server_does_not_silence_another() -> None:
    """At its end a server ticks with infinity, to have what was suppressed written."""
    log, kept = observer(lines=1)
    log.tick(1000.0)
    for _ in range(3):
        log.notify(Event(REFUSED, reason="full"))
    log.tick(float("inf"))
    assert "2 more" in kept.texts[-1]
    for _ in range(3):
        log.notify(Event(REFUSED, reason="full"))
    assert kept.texts[-1] == "connection refused (full)"
    log.tick(1030.0)
    assert "2 more" in kept.texts[-1]
    log.notify(Event(REFUSED, reason="full"))
    assert kept.texts[-1] == "connection refused (full)"


def failure(kind: type[Exception], text: str, unit: int = 1) -> Event:
    try:
        raise kind(text)
    except kind as error:
        return Event(FAILED, reason=kind.__name__, detail=f"function 03, unit {unit}: {error}", error=error)


def test_a_traceback_is_written_once_for_each_kind_of_failure() -> None:
    log, kept = observer(lines=100)
    events = [failure(ValueError, "a"), failure(ValueError, "a"), failure(KeyError, "a"), failure(ValueError, "a")]
    for event in events:
        log.notify(event)
    assert kept.traced == [events[0].error, events[2].error]
    assert len(kept.texts) == 4


def test_the_place_of_a_failure_is_where_it_was_raised_not_where_it_was_caught() -> None:
    def read(device: dict[str, int]) -> int:
        return device["no such thing"]

    def write(device: dict[str, int]) -> None:
        device["value"] = device["no such thing either"]

    log, kept = observer(lines=100)
    for work in (read, write, read, write):
        try:
            work({})
        except KeyError as error:
            log.notify(Event(FAILED, reason="KeyError", error=error))
    assert len(kept.traced) == 2


def test_the_same_failure_in_every_unit_is_one_kind() -> None:
    log, kept = observer(lines=100)
    for unit in range(50):
        log.notify(failure(ValueError, "a", unit))
    assert len(kept.traced) == 1


def test_a_traceback_comes_with_a_line_that_is_written_never_with_one_that_is_not() -> None:
    log, kept = observer(lines=1)
    unseen: list[Event] = []
    log.notify(failure(ValueError, "a"))
    for _ in range(2):
        unseen.append(failure(ValueError, "from another place"))
        unseen[-1].error.__traceback__ = None  # type: ignore[union-attr]
        log.notify(unseen[-1])
    log.tick(100.0)
    log.notify(unseen[-1])
    assert kept.traced[1:] == [unseen[-1].error]


def test_tracebacks_are_bounded_however_many_kinds_there_are() -> None:
    log, kept = observer(lines=1000)
    for number in range(200):
        log.notify(failure(type(f"Error{number}", (Exception,), {}), f"number {number}"))
    assert len(kept.texts) == 200
    assert len(kept.traced) == 20


def test_no_other_event_and_no_failure_without_an_error_has_a_traceback() -> None:
    log, kept = observer()
    log.notify(Event(EventKind.ACCEPT_FAILED, reason="EMFILE", error=OSError(24, "too many")))
    log.notify(Event(FAILED, reason="strange"))
    assert kept.traced == []
    assert len(kept.texts) == 2


def test_an_error_that_cannot_be_printed_can_be_logged() -> None:
    class NoName(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words for it")

    log, kept = observer()
    log.notify(Event(FAILED, reason="NoName", error=NoName()))
    assert len(kept.traced) == 1
    assert logging.Formatter().format(kept.records[0])
