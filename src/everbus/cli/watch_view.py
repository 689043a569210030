"""What ``everbus watch`` shows on a terminal: a row a point, and what the values did."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from time import monotonic, sleep
from typing import Any, Final, NamedTuple, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from everbus.cli.asking import quality
from everbus.cli.watched import Sample, Watched, sparkline

__all__ = ["LiveView"]

_REFRESH_S: Final = 1.0
_GAP: Final = 2
_MOST_CELL: Final = 24
_LEAST_TREND: Final = 8
_MOST_TREND: Final = 40
_TOLD_APART: Final = 1e-6
"""Numbers that differ by less of their size are drawn as one."""

_LEAST_PLOT: Final = 8
_MOST_PLOT: Final = 20
_MOST_WIDTH: Final = 120
_MOST_NAMES: Final = 3
_MOST_ERRORS: Final = 3
_COLOURS: Final = ("cyan", "magenta", "yellow", "green", "blue", "red")
_STYLES: Final = {"GOOD": "green", "NO_DATA": "yellow"}
_OPTIONAL: Final = ("quality", "trend", "age", "min", "max", "reference", "type")
"""Columns that there is not always room for, the more important first."""


class _Column(NamedTuple):
    """A column of the table."""

    name: str
    cells: Sequence[Text]
    right: bool = False

    @property
    def width(self) -> int:
        return min(_MOST_CELL, max(len(self.name), *(cell.cell_len for cell in self.cells)))


class LiveView:
    """A table that is drawn anew with every sample, and every second in between. A context manager.

    Args:
        watched: its rows.
        title: how often, and whom we ask.
        plot: draw the values over time too, below the table or, on a low terminal, in its place.
        console: a terminal; by default stdout.
    """

    def __init__(
        self, watched: Sequence[Watched], title: str, *, plot: bool = False, console: Console | None = None
    ) -> None:
        self._watched = watched
        self._title = title
        self._console = console or Console(highlight=False)
        self._blocks = self._console.encoding.startswith("utf")
        self._plotext: Any = import_module("plotext") if plot and self._blocks else None
        self._counts = ""
        self._live = Live(console=self._console, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, sample: Sample) -> bool:
        """Show a sample, of which everything watched has taken note."""
        self._counts = f"sample {sample.number:,}, " + (f"{sample.skipped:,} skipped, " if sample.skipped else "")
        self._refresh()
        return True

    def wait_until(self, until: float) -> None:
        """Wait until then, in seconds of the monotonic clock; values grow old meanwhile."""
        while (left_s := until - monotonic()) > _REFRESH_S:
            sleep(_REFRESH_S)
            self._refresh()
        sleep(max(0.0, left_s))

    def _refresh(self) -> None:
        self._live.update(self.rendered(monotonic()), refresh=True)

    def rendered(self, now_s: float) -> RenderableType:
        """All of it, fitted to the terminal, at that time of the monotonic clock."""
        below = [*self._errors(), Text(self._counts + self._title, "dim", no_wrap=True, overflow="ellipsis")]
        room = self._console.height - 1 - sum(len(line.wrap(self._console, self._console.width)) for line in below)
        plot_lines = min(_MOST_PLOT, room - len(self._watched) - 2)
        if self._plotext is None:
            return Group(*self._table(room, now_s), *below)
        if plot_lines < _LEAST_PLOT:
            return Group(*self._drawn(room - 1), *below)
        return Group(*self._table(room, now_s), *self._drawn(plot_lines), *below)

    # The table

    def _table(self, room: int, now_s: float) -> Iterator[RenderableType]:
        """A row a point, as many as there is room for."""
        fit = max(1, room - 1)
        rows = self._watched if len(self._watched) <= fit else self._watched[: max(1, fit - 1)]
        table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="dim")
        columns = self._columns(rows, now_s)
        for column in columns:
            table.add_column(
                column.name,
                justify="right" if column.right else "left",
                no_wrap=True,
                overflow="ellipsis",
                width=column.width if column.name != "trend" else None,
            )
        for cells in zip(*(column.cells for column in columns), strict=True):
            table.add_row(*cells)
        yield table
        if len(rows) < len(self._watched):
            yield Text(f"and {len(self._watched) - len(rows)} more points", "dim")

    def _columns(self, rows: Sequence[Watched], now_s: float) -> list[_Column]:
        """Those that fit, in their order."""
        qualities = [quality(one.last) for one in rows]
        columns = [
            _Column("point", [Text(str(one.point)) for one in rows]),
            _Column("reference", [Text(one.point.reference) for one in rows]),
            _Column("type", [Text(str(one.point.type)) for one in rows]),
            _Column("value", [_value(one) for one in rows], right=True),
            _Column("trend", [Text()] * len(rows)),
            _Column("min", [Text(one.shown(one.least)) for one in rows], right=True),
            _Column("max", [Text(one.shown(one.most)) for one in rows], right=True),
            _Column("age", [Text(_age(one, now_s)) for one in rows], right=True),
            _Column("quality", [Text(word, _STYLES.get(word, "bold red")) for word in qualities]),
        ]
        widths = {column.name: column.width + _GAP for column in columns}
        widths["trend"] = _LEAST_TREND + _GAP
        left = self._console.width + _GAP - widths["point"] - widths["value"]
        chosen = {"point", "value"}
        for name in _OPTIONAL if self._blocks else [name for name in _OPTIONAL if name != "trend"]:
            if widths[name] > left:
                break
            left -= widths[name]
            chosen.add(name)
        trend = min(_MOST_TREND, _LEAST_TREND + left)
        columns[4] = _Column("trend", [Text(_trend(one, trend), "cyan") for one in rows])
        return [column for column in columns if column.name in chosen]

    def _errors(self) -> Iterator[Text]:
        """What cannot be read, why, and since when: a line for all the points of one request."""
        groups: dict[int, list[Watched]] = {}
        for one in self._watched:
            if one.last.error is not None:
                groups.setdefault(id(one.last.error), []).append(one)
        for group in list(groups.values())[:_MOST_ERRORS]:
            since = min(one.failing_since for one in group if one.failing_since is not None)
            names = "all points" if len(group) == len(self._watched) > 1 else _names(group)
            yield Text(f"{names}: since {since.astimezone():%H:%M:%S}: {group[0].last.error}", "red")
        if len(groups) > _MOST_ERRORS:
            yield Text(f"and {len(groups) - _MOST_ERRORS} more errors", "red")

    # The plot

    def _drawn(self, lines: int) -> Iterator[RenderableType]:
        """The numbers over time, and above them whose they are."""
        colours = {
            one: _COLOURS[place % len(_COLOURS)] for place, one in enumerate(self._watched) if one.least is not None
        }
        legend = Text("  ").join(Text(f"━ {one.point}", colour) for one, colour in colours.items())
        legend.no_wrap, legend.overflow = True, "ellipsis"
        yield legend
        figure = self._plotext.figure
        figure.clear()
        figure.theme("simple")
        figure.plot_size(min(self._console.width, _MOST_WIDTH), max(_LEAST_PLOT, lines))
        figure.legend(False)
        now = max((one.recent[-1][0] for one in colours), default=0.0)
        times: list[float] = []
        numbers: list[float] = []
        for one, colour in colours.items():
            marker = self._plotext.marker("braille", self._plotext.pixel(colour))
            recent = [(at_s - now, number) for at_s, number in one.recent]
            times += (recent[0][0], recent[-1][0])
            numbers += [number for _, number in recent if number is not None]
            figure.draw(_signal(figure, recent, marker))
        _scale(figure.ruler("x"), times, lambda at_s: f"{at_s:,.1f} s" if at_s else "now")
        _scale(figure.ruler("y"), numbers, "{:.6g}".format)
        yield Text.from_ansi(figure.build().string().rstrip())


def _scale(ruler: Any, values: Sequence[float], label: Callable[[float], str]) -> None:
    """From the least to the greatest, with a tick in the middle; around it where they are the same."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    least = max(abs(low), abs(high)) * _TOLD_APART or 1.0
    if high - low > least:
        ticks = [low, low + (high - low) / 2, high]
        ruler.lim(low, high)
    else:
        ticks = [low]
        ruler.lim(low - least, low + least)
    ruler.ticks(ticks, [label(tick) for tick in ticks])


def _signal(figure: Any, recent: Iterable[tuple[float, float | None]], marker: Any) -> Any:
    """A line through numbers, broken where there was none."""
    times: list[float] = []
    numbers: list[float] = []
    breaks: list[int] = []
    for at_s, number in recent:
        if number is None:
            breaks.append(len(numbers))
        else:
            times.append(at_s)
            numbers.append(number)
    signal = figure.signal(times, numbers, marker=marker)
    signal.lines()
    for place in breaks:
        signal.line(place, False)
    return signal


def _value(one: Watched) -> Text:
    """The value; a stale one is grey."""
    if one.last.error is not None:
        return Text(one.shown(one.value), "dim")
    return Text("not available" if one.value is None else one.shown(one.value), "bold")


def _age(one: Watched, now_s: float) -> str:
    return "" if one.value_at_s is None else f"{max(0.0, now_s - one.value_at_s):,.0f} s"


def _trend(one: Watched, width: int) -> str:
    return sparkline([number for _, number in list(one.recent)[-width:]])


def _names(group: Sequence[Watched]) -> str:
    more = len(group) - _MOST_NAMES
    names = ", ".join(str(one.point) for one in group[:_MOST_NAMES])
    return f"{names} and {more} more" if more > 0 else names
