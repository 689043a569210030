"""``everbus soak``: prove that a Modbus TCP server leaks nothing, or convict it."""

from __future__ import annotations

import json
import math
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import click
import rich_click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from everbus.cli.output import CommandFailure, ExitCode, write_json
from everbus.client.endpoint import parse_endpoint
from everbus.errors import ConfigurationError, ConnectError
from everbus.resources import raise_descriptor_limit
from everbus.soak.runner import SoakOptions, SoakResult, soak
from everbus.soak.sampling import listeners
from everbus.soak.scenarios import SCENARIOS
from everbus.soak.verdicts import Figure, ProcessRecord, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from everbus.client.endpoint import Endpoint

__all__ = ["command"]

_DEFAULTS: Final = SoakOptions()
_OWN_DESCRIPTORS: Final = 64
_READY_S: Final = 20.0
_STOP_S: Final = 10.0
_LAST_LINES: Final = 5
_MAX_WIDTH: Final = 100
_PLOT_LINES: Final = 14
_STAGES: Final = {"cycles": "running", "pause": "pausing", "settling": "settling"}
_COLOURS: Final = {Verdict.CLEAN: "bold green", Verdict.LEAK: "bold red", Verdict.FAILING: "bold red"}
_SERVE: Final = ("-m", "everbus", "serve", "--listen", "tcp://127.0.0.1:0", "--log-format", "json")


@dataclass(frozen=True, slots=True)
class _Server:
    endpoint: Endpoint
    pid: int | None


@click.command("soak", cls=rich_click.RichCommand)
@click.argument("url", required=False)
@click.option(
    "--scenario",
    type=click.Choice(list(SCENARIOS)),
    default=_DEFAULTS.scenario,
    show_default=True,
    help="What a cycle does. churn: " + SCENARIOS["churn"].summary + ".",
)
@click.option(
    "--cycles",
    type=click.IntRange(1),
    default=_DEFAULTS.cycles,
    show_default=True,
    metavar="N",
    help="How often.",
)
@click.option(
    "--pause-at",
    type=click.IntRange(0),
    metavar="N",
    help="Pause after this cycle: some leaks show only a second later. Default: after half of them; 0: no pause.",
)
@click.option(
    "--pause",
    type=click.FloatRange(0),
    default=_DEFAULTS.pause_s,
    show_default=True,
    metavar="S",
    help="How long.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 1000),
    default=_DEFAULTS.concurrency,
    show_default=True,
    metavar="N",
    help="Connections at a time.",
)
@click.option(
    "--pid",
    type=click.IntRange(1),
    metavar="PID",
    help="The server's process: descriptors, listening sockets and memory of it and its children are shown.",
)
@click.option(
    "--grace",
    type=click.FloatRange(0),
    default=_DEFAULTS.grace_s,
    show_default=True,
    metavar="S",
    help="Wait at most so long for descriptors to close after the last cycle.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    default=_DEFAULTS.timeout_s,
    show_default=True,
    metavar="S",
    help="For each connection, and for each answer.",
)
@click.option(
    "--unit",
    type=click.IntRange(0, 255),
    default=_DEFAULTS.unit,
    show_default=True,
    metavar="N",
    help="The unit that is asked.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
def command(url: str | None, pid: int | None, as_json: bool, **given: Any) -> int:
    """Prove that a Modbus TCP server leaks nothing, or convict it.

    URL is any server, in any language: tcp://host[:port], host[:port], unix:///path. Without one,
    everbus starts its own and looks at that. A server is clean if every cycle is answered, and its
    descriptors and listening sockets do not grow with the cycles.

    Exit codes: 0 clean, 1 convicted, 2 usage, 3 cannot connect at the start, 130 interrupted.

    Examples:  everbus soak  ·  everbus soak tcp://127.0.0.1:5020 --pid 4711 --cycles 400 --pause-at 200
    """
    options = SoakOptions(
        pause_s=given.pop("pause"), grace_s=given.pop("grace"), timeout_s=given.pop("timeout"), **given
    )
    raise_descriptor_limit(options.concurrency + _OWN_DESCRIPTORS)
    if url is None and pid is not None:
        raise click.UsageError("--pid goes with the URL of its server: everbus soak URL --pid PID")
    with (
        _terminated_like_interrupted(),
        _own_server() if url is None else nullcontext(_named(url, pid)) as server,
    ):
        result = _run(server, options)
    if result.record is None:
        _note("without --pid PID nobody looked at the server's descriptors")
    if as_json:
        write_json(result.document())
        click.echo(result.reason, err=True)
    else:
        with suppress(SystemExit):  # rich's answer to a reader that went away; the verdict stands
            _report(result, Console(highlight=False))
    return ExitCode.OK if result.verdict is Verdict.CLEAN else ExitCode.EXCEPTION


def _named(url: str, pid: int | None) -> _Server:
    endpoint = parse_endpoint(url)
    if endpoint.scheme == "tcp" and endpoint.port == 0:
        raise ConfigurationError(f"{url!r}: port 0 is no port to connect to")
    return _Server(endpoint, pid)


def _run(server: _Server, options: SoakOptions) -> SoakResult:
    columns = (TextColumn("{task.description:>9}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    try:
        _warn_of_a_stranger(server)
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task(_STAGES["cycles"], total=options.cycles)

            def show(stage: str, cycles: int) -> None:
                bar.update(task, description=_STAGES[stage], completed=cycles)

            return soak(server.endpoint, options, server.pid, show)
    except ConnectError as error:
        hint = f"is a server running at {server.endpoint}? everbus serve starts one on port 5020"
        raise CommandFailure(ExitCode.CANNOT_CONNECT, "cannot_connect", str(error), hint) from error
    except ProcessLookupError as error:
        hint = "the pid of the server, as ps or pgrep -f NAME shows it"
        raise CommandFailure(ExitCode.USAGE, "usage", f"--pid: {error}", hint) from error
    except PermissionError as error:
        raise CommandFailure(ExitCode.USAGE, "usage", f"--pid: {error}", "sudo, or no --pid") from error


def _warn_of_a_stranger(server: _Server) -> None:
    """A wrong --pid would prove the wrong process clean."""
    if server.pid is None or server.endpoint.scheme != "tcp":
        return
    addresses = listeners(server.pid)
    if not any(address.endswith(f":{server.endpoint.port}") for address in addresses):
        _note(f"process {server.pid} does not listen on port {server.endpoint.port}: is it the right one?")


def _note(text: str) -> None:
    click.echo(f"note: {text}", err=True)


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM and a closed terminal end the run as Ctrl-C does: no server of ours is left behind."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {name: signal.signal(getattr(signal, name), interrupt) for name in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


# --- a server of its own ----------------------------------------------------------------------


@contextmanager
def _own_server() -> Iterator[_Server]:
    """``everbus serve`` as a process on a free port; stopped and reaped whatever happens."""
    process = subprocess.Popen(
        [sys.executable, *_SERVE],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl-C is for us; we stop it
    )
    log = _ServerLog(process)
    try:
        yield _Server(parse_endpoint(log.ready_url()), process.pid)
    finally:
        _stop(process)
        log.join()


def _stop(process: subprocess.Popen[str]) -> None:
    try:
        process.terminate()
        process.wait(_STOP_S)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        process.kill()
        process.wait()


class _ServerLog(threading.Thread):
    """Reads what our server writes on stderr, so that it never waits for us; keeps the last lines."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        super().__init__(name="everbus-soak-log", daemon=True)
        self._process = process
        self._ready: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._last: deque[str] = deque(maxlen=_LAST_LINES)
        self.start()

    def ready_url(self) -> str:
        """Where it listens, once it says that it is ready.

        Raises:
            CommandFailure: it ended instead, or said nothing in time.
        """
        with suppress(queue.Empty):
            if url := self._ready.get(timeout=_READY_S):
                return url
        said = " | ".join(self._last) or "nothing"
        raise CommandFailure(
            ExitCode.CANNOT_CONNECT,
            "cannot_connect",
            f"the server of our own did not start; it said: {said}",
            "everbus serve, or give the URL of a server",
        )

    def run(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as lines:
            for line in lines:
                self._last.append(line.strip())
                if url := _url_in(line):
                    self._ready.put(url)
        self._ready.put("")


def _url_in(line: str) -> str:
    """The first endpoint of the line that says that the server is ready; empty in any other."""
    try:
        said = json.loads(line)
        return str(said["endpoints"][0]) if said["event"] == "ready" else ""
    except (ValueError, LookupError, TypeError):
        return ""


# --- for people -------------------------------------------------------------------------------


def _report(result: SoakResult, console: Console) -> None:
    def say(text: str, style: str = "") -> None:
        console.print(Text(text, style), soft_wrap=not console.is_terminal)  # in a file a line stays a line

    made = f"{result.cycles:,} of {result.options.cycles:,} cycles, {result.rate:,.0f} a second"
    say(f"{result.options.scenario} on {result.endpoint}: {made}, {result.failed:,} failed")
    if result.failed:
        kinds = (f"{count:,} {kind.replace('_', ' ')}" for kind, count in result.failures.items() if count)
        say(f"failed: {', '.join(kinds)}; the first: {result.first_failure}")
    if result.record is not None:
        console.print(_table(result.record))
        console.print(_plot(result.record, console))
    if result.new_listeners:
        say(_strangers(result))
    say(result.reason, _COLOURS[result.verdict])


def _table(record: ProcessRecord) -> Table:
    table = Table(title=f"process {record.pid} and its children", title_justify="left", title_style="")
    for name in ("", "start", "peak", "end", "growth"):
        table.add_column(name, justify="right" if name else "left")
    for name, figure in (("descriptors", record.descriptors), ("listening sockets", record.listeners)):
        table.add_row(name, *(f"{value:,}" for value in _values(figure)), f"{figure.growth:+,}")
    memory = record.memory
    mebibytes = (f"{value / 2**20:,.1f}" for value in _values(memory))
    table.add_row("memory, MiB", *mebibytes, f"{memory.growth / 2**20:+,.1f}")
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
