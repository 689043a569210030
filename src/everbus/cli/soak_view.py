"""What ``everbus soak`` shows on a terminal: how far a run is, and what it has shown."""

from __future__ import annotations

import math
import time
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from everbus.soak.verdicts import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from everbus.soak.asking import ClientRecord
    from everbus.soak.runner import SoakOptions, SoakResult
    from everbus.soak.verdicts import Figure, PoliteRecord, ProcessRecord

__all__ = ["progress_bar", "show_result"]

_MIB: Final = 1 << 20
_MAX_WIDTH: Final = 100
_PLOT_LINES: Final = 14
_STAGES: Final = {"cycles": "running", "pause": "pausing", "settling": "settling"}
_COLOURS: Final = {Verdict.CLEAN: "bold green", Verdict.LEAK: "bold red", Verdict.FAILING: "bold red"}


@contextmanager
def progress_bar(options: SoakOptions) -> Iterator[Callable[[str, int], None]]:
    """A bar on stderr, if that is a terminal, by cycles or by time.

    Args:
        options: of the run, resolved.

    Yields:
        What ``soak`` calls with the stage and the number of cycles.
    """
    columns = (TextColumn("{task.description:>9}"), BarColumn(), TextColumn("{task.fields[done]}"), TimeElapsedColumn())
    console = Console(stderr=True)
    begin = time.monotonic()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(_STAGES["cycles"], total=1.0, done="")

        def show(stage: str, cycles: int) -> None:
            share, done = _progress(options, cycles, time.monotonic() - begin)
            bar.update(task, description=_STAGES[stage], completed=share, done=done)

        yield show


def _progress(options: SoakOptions, cycles: int, at_s: float) -> tuple[float, str]:
    """Which share of the run is done, 0 to 1, and the same in words."""
    share, words = 0.0, f"{cycles:,} cycles"
    if options.cycles is not None:
        share, words = cycles / options.cycles, f"{cycles:,}/{options.cycles:,} cycles"
    if options.duration_s is not None:
        at_s = min(at_s, options.duration_s)
        share = max(share, at_s / options.duration_s)
        words = f"{at_s:,.0f}/{options.duration_s:,.0f} s, {words}"
    return share, words


def show_result(result: SoakResult, console: Console) -> None:
    """Print what a run has shown, the verdict last."""

    def say(text: str, style: str = "") -> None:
        console.print(Text(text, style), soft_wrap=not console.is_terminal)  # in a file a line stays a line

    say(_summary(result))
    if result.failed:
        say(f"failed: {_kinds(result.failures)}; the first: {result.first_failure}")
    if len(result.by_scenario) > 1:
        say(f"of these: {_shares(result)}")
    if result.polite is not None:
        say(_polite(result.polite))
    if result.client.clients:
        say(_client(result.client))
    if result.record is not None:
        console.print(_table(result.record))
        console.print(_plot(result.record, console))
    if result.new_listeners:
        say(_strangers(result))
    say(f"criterion: {result.criterion}")
    if len(result.findings) > 1:
        for finding in result.findings:
            say(f"- {finding}")
    say(_verdict(result), _COLOURS[result.verdict])


def _summary(result: SoakResult) -> str:
    options = result.options
    made = f"{result.cycles:,} of {options.cycles:,} cycles" if options.cycles else f"{result.cycles:,} cycles"
    time_taken = f" in {result.duration_s:,.0f} s" if options.duration_s else ""
    missed = f" ({result.rate_missed:,} were due and not begun)" if result.rate_missed else ""
    interrupted = ", interrupted" if result.interrupted else ""
    return (
        f"{options.scenario} on {result.endpoint}: {made}{time_taken}, {result.rate:,.0f} a second{missed}, "
        f"{result.failed:,} failed{_beside(result.turned_away, result.excused)}{interrupted}"
    )


def _beside(turned_away: int, excused: int) -> str:
    counts = ((turned_away, "turned away"), (excused, "excused"))
    return "".join(f", {count:,} {words}" for count, words in counts if count)


def _kinds(failures: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {kind.replace('_', ' ')}" for kind, count in failures.items() if count)


def _shares(result: SoakResult) -> str:
    return ", ".join(
        f"{count.cycles:,} {name}" + (f" ({count.failed:,} failed)" if count.failed else "")
        for name, count in result.by_scenario.items()
    )


def _polite(polite: PoliteRecord) -> str:
    failed = f"{polite.failed:,} failed"
    if polite.failed:
        failed += f" ({_kinds(polite.failures)}; the first: {polite.first_failure})"
    excused = _beside(0, polite.excused)
    words = f"polite clients ({polite.clients:,}): {polite.requests:,} requests, {failed}{excused}"
    for name, value in (("median", polite.p50_s), ("99 of 100 within", polite.p99_s), ("slowest", polite.worst_s)):
        if value is not None:
            words += f", {name} {1000 * value:,.1f} ms"
    return f"{words}; this machine itself was late by {1000 * polite.own_worst_s:,.1f} ms at most"


def _client(client: ClientRecord) -> str:
    replaced = sum(client.replaced.values())
    return (
        f"everbus clients, polite and in cycles ({client.clients:,}): {client.calls:,} requests, "
        f"{client.retries:,} sent again; "
        f"{client.connects:,} connections, {client.lost:,} lost, {replaced:,} given up; "
        f"answers: {client.late:,} late, {client.unknown:,} unknown, {client.mismatched:,} mismatched"
    )


def _verdict(result: SoakResult) -> str:
    """The reason; of several findings, which stand above it, the first."""
    more = len(result.findings) - 1
    return f"{result.verdict}: {result.findings[0]}; and {more} more" if more > 0 else result.reason


def _table(record: ProcessRecord) -> Table:
    table = Table(title=f"process {record.pid} and its children", title_justify="left", title_style="")
    for name in ("", "start", "peak", "end", "growth"):
        table.add_column(name, justify="right" if name else "left")
    for name, figure in (("descriptors", record.descriptors), ("listening sockets", record.listeners)):
        table.add_row(name, *(f"{value:,}" for value in _values(figure)), f"{figure.growth:+,}")
    memory = record.memory
    mebibytes = (f"{value / _MIB:,.1f}" for value in _values(memory))
    table.add_row("memory, MiB", *mebibytes, f"{memory.growth / _MIB:+,.1f}")
    return table


def _values(figure: Figure) -> tuple[int, int, int]:
    return figure.start, figure.peak, figure.end


def _plot(record: ProcessRecord, console: Console) -> Text:
    """Descriptors over time; empty where the output cannot show it."""
    if not console.encoding.startswith("utf"):
        return Text()
    plotext: Any = import_module("plotext")
    figure = plotext.figure
    figure.clear()
    figure.theme("simple")
    figure.plot_size(min(console.width, _MAX_WIDTH), _PLOT_LINES)
    figure.title("open descriptors over time")
    times = [sample.at_s for sample in record.samples]
    line = figure.signal(times, [sample.descriptors for sample in record.samples], marker="braille")
    line.lines()
    figure.draw(line)
    for axis, ticks, unit in (("x", _ticks(times[-1]), " s"), ("y", _ticks(record.descriptors.peak, 1), "")):
        figure.ruler(axis).lim(0, ticks[-1])
        figure.ruler(axis).ticks(ticks, [f"{tick:g}{unit}" for tick in ticks])
    return Text.from_ansi(figure.build().string())


def _ticks(top: float, least: float = 0) -> list[float]:
    """Round numbers from 0 to ``top`` or a little above, ``least`` apart or more."""
    top = max(top, 1.0)
    whole = 10.0 ** math.floor(math.log10(top))
    step = max(least, next(whole * part for part in (2, 1, 0.5, 0.2) if top >= 4 * whole * part))
    return [step * number for number in range(math.ceil(top / step) + 1)]


def _strangers(result: SoakResult) -> str:
    shown = ", ".join(result.new_listeners)
    more = result.record.listeners.growth - len(result.new_listeners) if result.record else 0
    return f"listening at the end and not at the start: {shown}" + (f" and {more:,} more" if more > 0 else "")
