"""A run's document as pictures: rates, latencies, what a connection costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, cast

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.cases import CASES, Case
from bench.contenders import FLOOR, OWN, OWN_UVLOOP
from bench.tables import names, shown

__all__ = ["draw"]

Document = dict[str, Any]

_COLOURS: Final = {OWN: "#0a7d55", OWN_UVLOOP: "#4cc38a", FLOOR: "#9aa0a6"}
_OTHERS: Final = ("#5b7db1", "#c0392b", "#d98324", "#8e5ea2")
_STYLE: Final = {"svg.hashsalt": "everbus", "svg.fonttype": "none", "font.size": 11.0}
_SHOWN: Final = (Case(1, 1, "read", 10), Case(50, 1, "read", 10), Case(500, 1, "read", 10), Case(50, 16, "read", 10))


def draw(document: Document, folder: Path) -> None:
    """Write ``rates.svg``, ``latency.svg`` and ``memory.svg``."""
    with mpl.rc_context(cast(Any, _STYLE)):
        _rates(document, folder / "rates.svg")
        _latency(document, folder / "latency.svg")
        _memory(document, folder / "memory.svg")


def _colour(document: Document, name: str) -> str:
    others = [other for other in names(document) if other not in _COLOURS]
    return _COLOURS.get(name) or _OTHERS[others.index(name) % len(_OTHERS)]


def _bars(axes: Axes, document: Document, case: Case) -> None:
    """Horizontal bars with their figures, one a server."""
    servers = names(document)[::-1]
    values = [document["cases"][case.name][name]["median"]["per_s"] / 1000 for name in servers]
    bars = axes.barh([shown(name) for name in servers], values, color=[_colour(document, name) for name in servers])
    axes.bar_label(bars, [f"{value:,.0f}" if value >= 10 else f"{value:.1f}" for value in values], padding=3)
    axes.set_title(case.title, loc="left", fontsize=12)
    axes.set_xlim(0, max(values) * 1.18)
    axes.spines[["top", "right"]].set_visible(False)


def _rates(document: Document, path: Path) -> None:
    figure = Figure(figsize=(11, 8.2), layout="constrained")
    for axes, case in zip(figure.subplots(2, 2).flat, _SHOWN, strict=True):
        _bars(axes, document, case)
        axes.set_xlabel("thousand requests a second")
    _title(figure, document, "Requests answered a second, each answer checked")
    _save(figure, path)


def _latency(document: Document, path: Path) -> None:
    figure = Figure(figsize=(11, 5.2), layout="constrained")
    cases = [case for case in CASES if case.operation == "read" and case.registers == 10]
    for axes, key, words in zip(
        figure.subplots(1, 2, sharey=True), ("p50_us", "p99_us"), ("median", "99th percentile"), strict=True
    ):
        for name in names(document):
            values = [document["cases"][case.name][name]["median"][key] for case in cases]
            own = name in _COLOURS
            axes.plot(range(len(cases)), values, marker="o" if own else "s", color=_colour(document, name),
                      linestyle="-" if own else "--", label=shown(name))  # fmt: skip
        axes.set_yscale("log")
        axes.set_xticks(range(len(cases)), [f"{case.connections} x {case.in_flight}" for case in cases])
        axes.set_xlabel("connections x requests in flight")
        axes.set_title(words, loc="left", fontsize=12)
        axes.grid(axis="y", color="#ddd")
        axes.spines[["top", "right"]].set_visible(False)
        if key == "p50_us":
            axes.set_ylabel("µs, logarithmic")
            axes.legend(frameon=False, fontsize=10)
    _title(figure, document, "Latency of a read of 10 registers")
    _save(figure, path)


def _memory(document: Document, path: Path) -> None:
    reached = [name for name in names(document) if document["idle"][name]["connections"]][::-1]
    if not reached:
        return
    figure = Figure(figsize=(8, 0.9 + 0.5 * len(reached)), layout="constrained")
    axes = figure.subplots()
    values: Sequence[float] = [document["idle"][name]["bytes_each"] / 1024 for name in reached]
    bars = axes.barh([shown(name) for name in reached], values, color=[_colour(document, name) for name in reached])
    axes.bar_label(bars, [f"{value:.1f}" for value in values], padding=3)
    axes.set_xlim(0, max(values) * 1.15)
    axes.set_xlabel("KiB of the server's memory for an idle connection, 10,000 of them")
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def _title(figure: Figure, document: Document, text: str) -> None:
    facts = document["about"]
    figure.suptitle(f"{text}\n{facts['date']}, {facts['machine']}, everbus {facts['everbus']}", fontsize=12.5)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    text = path.read_text(encoding="utf-8")
    path.write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n", encoding="utf-8")
