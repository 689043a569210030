"""Pictures of soak runs, drawn from result documents: one run as a whole, and several side by side.

The same document gives the same SVG, byte for byte: it holds no date and no random identifiers, and
its text stays text. Lines differ in style as well as in colour.
"""

from __future__ import annotations

import math
from importlib import import_module
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from everbus.soak.drawing import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    RED,
    axes_at,
    count_ticks,
    drawing,
    picture_kind,
    plain,
    rendered,
    sheet,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_comparison", "plot_run", "write_plot"]

_MIB: Final = 1 << 20
_VERDICT_COLOURS: Final = {"clean": GREEN}
_COLOURS: Final = (GREEN, RED, BLUE, PURPLE)
_DASHES: Final = ("-", "--", "-.", ":")
_TIME_UNITS: Final = ((1, "s"), (60, "min"), (3600, "h"))

_LEGEND: Final = 0.34
"""Inches above each panel, for its legend."""

_BINS: Final = 60
_FEW: Final = 30
"""Up to so many samples each one is marked."""

_LABELS_WIDTH: Final = 2.4
_LABEL_HEIGHT: Final = 0.42
_COMPARISON_HEIGHT: Final = 2.6


class _Panel(NamedTuple):
    """One of the stacked diagrams: its height in inches, the label of its axis, who draws it."""

    height: float
    label: str
    draw: Callable[[Axes], None]


def write_plot(document: Mapping[str, Any], path: Path) -> None:
    """Write the picture of one run.

    Args:
        document: as ``SoakResult.document()`` gives it.
        path: where to; .png or .svg.

    Raises:
        ConfigurationError: the name ends in something else, or matplotlib is missing.
        OSError: the file cannot be written.
    """
    path.write_bytes(plot_run(document, picture_kind(path)))


def plot_run(document: Mapping[str, Any], kind: str) -> bytes:
    """The picture of one run: what the process held, the cycles a second, how the polite clients fared.

    Args:
        document: as ``SoakResult.document()`` gives it.
        kind: ``png`` or ``svg``.

    Raises:
        ConfigurationError: matplotlib is missing.
    """
    verdict = document["verdict"]
    title = f"{document['scenario']} on {document['endpoint']}: {verdict}"
    reason = str(document["reason"]).removeprefix(f"{verdict}: ")
    panels = _panels(document)
    with drawing():
        height = sum(_LEGEND + panel.height for panel in panels)
        figure, top = sheet(height, title, reason, _VERDICT_COLOURS.get(verdict, RED))
        _stack(figure, panels, document, top)
        return rendered(figure, kind)


def plot_comparison(
    documents: Mapping[str, Mapping[str, Any]],
    kind: str,
    title: str = "Open descriptors of the server over the cycles",
) -> bytes:
    """The descriptors of several runs over their cycles, each line with its name, last figure and verdict.

    Args:
        documents: results by the name that their line gets; those that have no samples are left out.
        kind: ``png`` or ``svg``.
        title: above it.

    Raises:
        ConfigurationError: matplotlib is missing.
    """
    runs = {name: document for name, document in documents.items() if document["samples"]}
    height = max(_COMPARISON_HEIGHT, _LABEL_HEIGHT * len(runs))
    with drawing():
        figure, top = sheet(height + 0.1, title)
        axes = axes_at(figure, top + 0.1, height, _LABELS_WIDTH)
        for (colour, style), document in zip(_styles(len(runs)), runs.values(), strict=True):
            cycles, counts = ([sample[column] for sample in document["samples"]] for column in (1, 2))
            axes.plot(cycles, counts, style, color=colour, linewidth=2.4, clip_on=False)
        axes.set(xlabel="cycles", ylabel="open descriptors", ylim=(0, None))
        axes.set_xlim(0, max((sample[1] for run in runs.values() for sample in run["samples"]), default=1) or 1)
        for axis in (axes.xaxis, axes.yaxis):
            count_ticks(axis, 6)
        _label_lines(axes, runs, height)
        return rendered(figure, kind)


# --- one run ----------------------------------------------------------------------------------


def _panels(document: Mapping[str, Any]) -> list[_Panel]:
    """The diagrams for which there is something to show, from the top."""
    panels = []
    if document["samples"]:
        panels += [
            _Panel(1.5, "count", lambda axes: _draw_descriptors(axes, document)),
            _Panel(1.0, "MiB", lambda axes: _draw_memory(axes, document)),
            _Panel(1.0, "cycles / s", lambda axes: _draw_rate(axes, document["samples"])),
        ]
    polite = document["polite"]
    if polite and polite["samples"]:
        panels += [
            _Panel(1.5, "ms", lambda axes: _draw_latency(axes, polite)),
            _Panel(0.8, "failures", lambda axes: _draw_failures(axes, polite)),
        ]
    return panels or [_Panel(0.8, "", _draw_nothing)]


def _stack(figure: Figure, panels: Sequence[_Panel], document: Mapping[str, Any], top: float) -> None:
    """Draw the panels one below the other, all over the same time."""
    end_s, scale_s, unit = _time_axis(document)
    settled_s = document["settled_s"]
    stack: list[Axes] = []
    for panel in panels:
        axes = axes_at(figure, top + _LEGEND, panel.height)
        panel.draw(axes)
        axes.set_ylabel(panel.label)
        axes.set_xlim(0, end_s)
        axes.xaxis.set_major_locator(
            import_module("matplotlib.ticker").MultipleLocator(_step(end_s / scale_s) * scale_s)
        )
        axes.xaxis.set_major_formatter(lambda at_s, _: f"{at_s / scale_s:g}")
        axes.tick_params(labelbottom=panel is panels[-1])
        if settled_s:
            axes.axvspan(max(document["samples"][-1][0] - settled_s, 0), end_s, color="#eeeeee", zorder=0)
        if axes.lines or axes.collections or axes.patches:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
        stack.append(axes)
        top += _LEGEND + panel.height
    stack[-1].set_xlabel(f"time, {unit}" + (" (grey: after the last cycle)" if settled_s else ""))
    figure.align_ylabels(stack)


def _time_axis(document: Mapping[str, Any]) -> tuple[float, float, str]:
    """When the last sample was taken, in seconds; the seconds of the unit to show it in; that unit."""
    polite = document["polite"] or {"samples": []}
    times = [row[0] for row in (*document["samples"][-1:], *polite["samples"][-1:])]
    end_s = max(times, default=0.0) or 1.0
    scale_s, unit = next((known for known in _TIME_UNITS if end_s < 180 * known[0]), _TIME_UNITS[-1])
    return end_s, scale_s, unit


def _step(top: float) -> float:
    """A round distance between the ticks of an axis that ends at ``top``: five to ten of them."""
    whole = 10.0 ** math.floor(math.log10(top))
    return next(whole * part for part in (2, 1, 0.5, 0.2, 0.1) if top >= 5 * whole * part)


def _draw_descriptors(axes: Axes, document: Mapping[str, Any]) -> None:
    for column, key, words, colour, style in (
        (2, "descriptors", "descriptors", BLUE, "-"),
        (3, "listeners", "listening sockets", ORANGE, "--"),
    ):
        figure = document[key]
        label = f"{words}: {figure['start']:,} → {figure['end']:,}, peak {figure['peak']:,}"
        _line(axes, [(row[0], row[column]) for row in document["samples"]], style, colour, label)
    axes.set_ylim(0, 1.08 * max(document["descriptors"]["peak"], 1))
    count_ticks(axes.yaxis, 5)


def _draw_memory(axes: Axes, document: Mapping[str, Any]) -> None:
    start, peak, end = (document["memory"][key] / _MIB for key in ("start", "peak", "end"))
    label = f"memory: {start:,.1f} → {end:,.1f} MiB, peak {peak:,.1f}"
    points = [(row[0], row[4] / _MIB) for row in document["samples"]]
    _line(axes, points, "-", PURPLE, label)
    low, high = min(value for _, value in points), max(value for _, value in points)
    margin = max(0.1 * (high - low), 0.1 * high, 0.5)  # a page more or less is no mountain
    axes.set_ylim(max(low - margin, 0), high + margin)
    axes.yaxis.set_major_locator(import_module("matplotlib.ticker").MaxNLocator(4))
    axes.yaxis.set_major_formatter("{x:,g}")


def _draw_rate(axes: Axes, samples: Sequence[Sequence[float]]) -> None:
    edges, rates = _rates(samples)
    axes.stairs(rates, edges, baseline=None, color=GREEN, linewidth=1.8, label="answered cycles a second")
    axes.set_ylim(0, 1.1 * max(*rates, 1.0))
    count_ticks(axes.yaxis, 4)


def _rates(samples: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    """Cycles a second in equal parts of the time: the edges of the parts, and the rate in each."""
    times, cycles = [row[0] for row in samples], [row[1] for row in samples]
    span_s = times[-1] - times[0]
    parts = max(1, min(_BINS, len(samples) // 4))
    if not span_s:
        return [times[0], times[0] + 1.0], [0.0]
    edges = [times[0] + span_s * number / parts for number in range(parts + 1)]
    made = import_module("numpy").interp(edges, times, cycles)
    return edges, [float(later - before) * parts / span_s for before, later in pairwise(made)]


def _draw_latency(axes: Axes, polite: Mapping[str, Any]) -> None:
    samples = polite["samples"]
    known = [1000 * value for row in samples for value in row[3:5] if value]
    for column, key, words, colour, style in (
        (3, "p50_s", "polite clients: median", BLUE, "-"),
        (4, "worst_s", "slowest", ORANGE, "--"),
    ):
        label = words if polite[key] is None else f"{words} {1000 * polite[key]:,.1f} ms"
        _line(axes, [(row[0], 1000 * (row[column] or math.nan)) for row in samples], style, colour, label)
    axes.set_yscale("log")
    low, high = math.floor(math.log10(0.8 * min(known, default=2))), math.ceil(math.log10(max(known, default=2)))
    axes.set_ylim(10.0**low, 10.0 ** max(high, low + 1))
    ticker = import_module("matplotlib.ticker")
    axes.yaxis.set_major_locator(ticker.LogLocator(numticks=5))
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.yaxis.set_minor_formatter(ticker.NullFormatter())


def _draw_failures(axes: Axes, polite: Mapping[str, Any]) -> None:
    failed = [(row[0], row[2]) for row in polite["samples"] if row[2]]
    label = f"polite requests that failed: {polite['failed']:,} of {polite['requests']:,}"
    axes.vlines([at_s for at_s, _ in failed], 0, [count for _, count in failed], color=RED, linewidth=2.4, label=label)
    axes.set_ylim(0, 1.15 * max((count for _, count in failed), default=1))
    count_ticks(axes.yaxis, 3)


def _draw_nothing(axes: Axes) -> None:
    axes.set_axis_off()
    axes.text(
        0.5, 0.5, "nobody looked at the server's process: there are no samples", ha="center", transform=axes.transAxes
    )


def _line(axes: Axes, points: Sequence[tuple[float, float]], style: str, colour: str, label: str) -> None:
    marker = "o" if len(points) <= _FEW else None
    axes.plot(
        *zip(*points, strict=True), style, color=colour, label=label, marker=marker, markersize=3.5, clip_on=False
    )


# --- a comparison -----------------------------------------------------------------------------


def _styles(count: int) -> list[tuple[str, str]]:
    """Colour and dashes of each line: neighbours differ in both."""
    turns = (divmod(number, len(_COLOURS)) for number in range(count))
    return [(_COLOURS[place], _DASHES[(place + turn) % len(_DASHES)]) for turn, place in turns]


def _label_lines(axes: Axes, runs: Mapping[str, Mapping[str, Any]], height: float) -> None:
    """Each line's label right of its end, moved up or down as far as it must be."""
    top = axes.get_ylim()[1]
    ends = [document["samples"][-1][2] / top for document in runs.values()]
    for name, (colour, dashes), end, place in zip(
        runs, _styles(len(runs)), ends, _apart(ends, _LABEL_HEIGHT / height), strict=True
    ):
        document = runs[name]
        last = document["samples"][-1]
        axes.annotate(
            f"{plain(name)}\n{last[2]:,} at the end, {document['verdict']}",
            (last[1] / axes.get_xlim()[1], end),
            (1.07, place),
            xycoords="axes fraction",
            textcoords="axes fraction",
            color=colour,
            weight="bold",
            va="center",
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linestyle": dashes,
                "linewidth": 1.8,
                "relpos": (0, 0.5),
                "shrinkA": 3,
                "shrinkB": 0,
            },
            annotation_clip=False,
        )


def _apart(wanted: Sequence[float], distance: float) -> list[float]:
    """Places of 0 to 1 near those wanted, in their order, each ``distance`` from the next."""
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    places = [0.0] * len(wanted)
    lowest = distance / 2
    for rank, number in enumerate(order):
        highest = 1 - distance * (len(order) - rank - 0.5)
        places[number] = min(max(wanted[number], lowest), max(highest, lowest))
        lowest = places[number] + distance
    return places
