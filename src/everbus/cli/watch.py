"""``everbus watch``: values of points, again and again."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from time import monotonic, sleep
from typing import Final

import click

from everbus.cli.asking import (
    NumberRange,
    client_options,
    exit_code,
    open_client,
    part,
    quality,
    readings_document,
    shown,
    tell,
)
from everbus.cli.helping import HelpfulCommand
from everbus.cli.output import CommandFailure, ExitCode, aligned, write_json, write_line, write_text
from everbus.cli.signals import terminated_like_interrupted
from everbus.cli.watched import Sample, Schedule, Watched
from everbus.errors import ConnectError
from everbus.maps.notation import parse_point
from everbus.maps.planner import Reading
from everbus.maps.points import Point
from everbus.sync.unit import Unit

__all__ = ["command"]

_STDOUT: Final = "-"
_MOST_INTERVAL_S: Final = 86_400
_MOST_DURATION_S: Final = 1_000_000_000

_Writer = Callable[[Sample], bool]
"""Shows a sample somewhere; False: nobody reads there any more."""


@click.command("watch", cls=HelpfulCommand)
@click.argument("url")
@click.argument("points", metavar="POINT...", nargs=-1, required=True)
@click.option(
    "--interval",
    "interval_s",
    type=NumberRange(0.01, _MOST_INTERVAL_S),
    default=1.0,
    show_default=True,
    metavar="S",
    help="From one sample to the next.",
)
@click.option("--count", type=click.IntRange(1), metavar="N", help="End after so many samples.")
@click.option(
    "--duration",
    "duration_s",
    type=NumberRange(0, _MOST_DURATION_S, min_open=True),
    metavar="S",
    help="No sample begins so long after the first, or later.",
)
@click.option("--fail", is_flag=True, help="End at the first sample that has an error.")
@click.option(
    "--csv", "csv_file", metavar="FILE", help="Write a row a sample, at once, over what is there; - is stdout."
)
@click.option("--plot", is_flag=True, help="Draw the values over time too; on a terminal.")
@partial(client_options, json_help="Print JSON Lines on stdout: one document a sample.")
def command(
    url: str,
    points: tuple[str, ...],
    *,
    unit: int,
    timeout_s: float,
    retries: int,
    interval_s: float,
    count: int | None,
    duration_s: float | None,
    fail: bool,
    csv_file: str | None,
    plot: bool,
    as_json: bool,
) -> int:
    """Read points of a device again and again.

    URL and POINT are as for everbus read; a point with a count is shown value by value. On a
    terminal there is a table: each value with its trend, the least and the greatest so far, its age
    and its quality. Elsewhere a sample is a line. Where something cannot be read it says why, and a
    connection that is lost is made again: the watch goes on.

    Samples begin at whole intervals from the first. What is due while one takes longer is skipped
    and counted. At the end, or at Ctrl-C, a summary goes to stderr.

    CSV has the time (UTC), and a column a value, empty where it could not be read. With --json each
    line is a document: the number of the sample, how many were skipped before it, and the points as
    everbus read tells them.

    Exit codes: 0 all was read, 2 usage, 3 cannot connect at the start, 7 some was read and some not,
    130 Ctrl-C. Where nothing was read, and with --fail: 1 a Modbus exception, 3 no connection,
    4 timeout, 5 protocol error.

    Examples:
        everbus watch 192.0.2.7 h@0:4 i@10/f32 --plot

        everbus watch 192.0.2.7 h@0:4 --interval 10 --duration 3600 --csv log.csv
    """
    live = _is_live(csv_file, plot=plot, as_json=as_json)
    asked = [parse_point(text) for text in points]
    singles = [single for point in asked for single in _singles(point)]
    watch = _Watch(
        [Watched(point) for point in (asked if as_json else singles)], Schedule(interval_s, count, duration_s)
    )
    with terminated_like_interrupted(), ExitStack() as stack:
        if csv_file is not None:
            watch.writers.append(_csv(watch.watched, stack.enter_context(_opened(csv_file))))
        if as_json:
            watch.writers.append(_write_document)
        client = stack.enter_context(open_client(url, timeout_s, retries))
        if live:
            from everbus.cli.watch_view import LiveView  # noqa: PLC0415  where it is not shown it is not loaded

            title = f"every {interval_s:g} s, unit {unit} of {client.endpoint}"
            view = stack.enter_context(LiveView(watch.watched, title, plot=plot))
            watch.writers.append(view.show)
            watch.wait_until = view.wait_until
        elif not watch.writers:
            watch.writers.append(_write_line)
        if not live:
            watch.writers.append(_Notes().write)
        watch.run(client.unit(unit), fail=fail)
    return watch.summed_up(fail=fail, told=not live)


def _is_live(csv_file: str | None, *, plot: bool, as_json: bool) -> bool:
    """Whether the table is shown: on a terminal that nothing else goes to."""
    if csv_file == _STDOUT and as_json:
        raise click.UsageError("--csv - and --json both want stdout; --csv FILE goes with --json")
    live = sys.stdout is not None and sys.stdout.isatty() and not as_json and csv_file != _STDOUT
    if plot and not live:
        raise click.UsageError("--plot draws on a terminal, beside the table; --csv FILE keeps the values for others")
    return live


def _singles(point: Point) -> list[Point]:
    """A point for each of its values."""
    return [point] if point.values == 1 else [part(point, place, 1) for place in range(point.values)]


class _Watch:
    """Takes samples, and sums them up.

    Args:
        watched: what is read.
        schedule: when.
    """

    def __init__(self, watched: list[Watched], schedule: Schedule) -> None:
        self.watched = watched
        self.writers: list[_Writer] = []
        self.wait_until: Callable[[float], None] = _sleep_until
        self._schedule = schedule
        self._samples = 0
        self._failed = 0
        self._took_s = 0.0
        self._last: Sequence[Reading] = ()
        self._interrupted = False

    def run(self, unit: Unit, *, fail: bool) -> None:
        """Take samples until the last, the first that has an error if that ends it, or Ctrl-C."""
        started = monotonic()
        try:
            while (due_s := self._schedule.due_s(monotonic() - started)) is not None:
                self.wait_until(started + due_s)
                sample = self._sample(unit)
                if not all(write(sample) for write in self.writers) or (fail and sample.failed):
                    break
        except KeyboardInterrupt:
            self._interrupted = True
        self._took_s = monotonic() - started

    def _sample(self, unit: Unit) -> Sample:
        points = [one.point for one in self.watched]
        try:
            self._last = unit.read_points(points)
        except ConnectError as error:
            self._last = [Reading(point, error=error) for point in points]
        self._samples += 1
        sample = Sample(self._samples, self._schedule.skipped, datetime.now(UTC), monotonic(), self._last)
        self._failed += sample.failed
        for one, reading in zip(self.watched, self._last, strict=True):
            one.take(reading, sample)
        return sample

    def summed_up(self, *, fail: bool, told: bool) -> int:
        """Print the summary on stderr; return the exit code.

        Args:
            fail: the last sample says how it ended, if it failed.
            told: what failed was told when it did.
        """
        samples = f"{self._samples:,} sample{'' if self._samples == 1 else 's'} in {self._took_s:,.1f} s"
        write_line(f"{samples}, {self._failed:,} with errors, {self._schedule.skipped:,} skipped")
        for line in aligned([one.row() for one in self.watched]):
            write_line(line)
        failures = [one.first_failure for one in self.watched if one.first_failure is not None]
        if not told:
            tell(failures)
        if self._interrupted:
            return ExitCode.INTERRUPTED
        if not failures:
            return ExitCode.OK
        if fail:
            failures = [reading for reading in self._last if reading.error is not None]
        elif any(one.read for one in self.watched):
            return ExitCode.PARTIAL
        assert failures[0].error is not None
        return exit_code(failures[0].error)[0]


class _Notes:
    """Tells on stderr what cannot be read any more, or for another reason, and what can be again."""

    def __init__(self) -> None:
        self._failing: dict[int, tuple[str, float]] = {}

    def write(self, sample: Sample) -> bool:
        """Tell what is new; it is no matter whether anybody reads it."""
        new: list[Reading] = []
        for place, reading in enumerate(sample.readings):
            before, since_s = self._failing.pop(place, ("", sample.at_s))
            if reading.error is not None:
                self._failing[place] = quality(reading), since_s
                if quality(reading) != before:
                    new.append(reading)
            elif before:
                write_line(f"{reading.point}: read again, after {sample.at_s - since_s:,.1f} s")
        tell(new)
        return True


def _sleep_until(until: float) -> None:
    sleep(max(0.0, until - monotonic()))


def _write_document(sample: Sample) -> bool:
    first = {"ok": not sample.failed, "sample": sample.number, "skipped": sample.skipped}
    return write_json(first | readings_document(sample.readings, sample.at))


def _write_line(sample: Sample) -> bool:
    cells = (_cell(reading) for reading in sample.readings)
    return write_text("  ".join((sample.at.astimezone().isoformat(timespec="milliseconds"), *cells)))


def _cell(reading: Reading) -> str:
    if reading.value is None:
        return f"{reading.point} {quality(reading)}"
    return f"{reading.point}={shown(reading.point, reading.value)}"


def _csv(watched: Sequence[Watched], write: Callable[[str], bool]) -> _Writer:
    """A writer of rows; the heading is written now."""
    write(_row("timestamp", *(str(one.point) for one in watched)))

    def write_row(sample: Sample) -> bool:
        at = sample.at.isoformat(timespec="milliseconds")
        values = ("" if reading.value is None else shown(reading.point, reading.value) for reading in sample.readings)
        return write(_row(at, *values))

    return write_row


def _row(*cells: str) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()


@contextmanager
def _opened(path: str) -> Iterator[Callable[[str], bool]]:
    """Writes lines to a file, each at once; ``-`` is stdout.

    Raises:
        CommandFailure: it cannot be written.
    """
    if path == _STDOUT:
        yield write_text
        return

    def write(text: str) -> bool:
        with _told(path):
            file.write(f"{text}\n".encode())
        return True

    with _told(path):
        file = open(path, "wb", buffering=0)  # noqa: SIM115
    with file:
        yield write


@contextmanager
def _told(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CommandFailure(ExitCode.USAGE, "output", f"cannot write {path}: {error.strerror}") from error
