"""``everbus soak``: prove that a Modbus TCP server leaks nothing, or convict it."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, Final

import click
import rich_click
from rich.console import Console

from everbus.cli.output import CommandFailure, ExitCode, write_json
from everbus.cli.signals import terminated_like_interrupted
from everbus.cli.soak_server import SoakedServer, named_server, own_server
from everbus.cli.soak_view import progress_bar, show_result
from everbus.errors import ConnectError
from everbus.resources import raise_descriptor_limit
from everbus.soak.drawing import ensure_drawable, ensure_writable, picture_kind
from everbus.soak.plots import write_plot
from everbus.soak.report import check_report, write_report
from everbus.soak.runner import SoakOptions, SoakResult, soak
from everbus.soak.sampling import listeners
from everbus.soak.scenarios import SCENARIOS
from everbus.soak.verdicts import Verdict

__all__ = ["command"]

_DEFAULTS: Final = SoakOptions()
_OWN_DESCRIPTORS: Final = 64
_SCENARIOS: Final = "\n\n".join(f"{name}: {scenario.summary}." for name, scenario in SCENARIOS.items())


@click.command("soak", cls=rich_click.RichCommand, epilog=f"Scenarios, what one cycle does:\n\n{_SCENARIOS}")
@click.argument("url", required=False)
@click.option(
    "--scenario",
    type=click.Choice(list(SCENARIOS)),
    default=_DEFAULTS.scenario,
    show_default=True,
    metavar="NAME",
    help="What a cycle does; the scenarios are listed below.",
)
@click.option("--cycles", type=click.IntRange(1), metavar="N", help="End after so many cycles.")
@click.option(
    "--duration",
    "duration_s",
    type=click.FloatRange(0.1),
    metavar="S",
    help="End after so many seconds. Without --cycles and --duration the scenario has an end of its own.",
)
@click.option(
    "--rate",
    type=click.FloatRange(0.01, 100_000),
    metavar="N",
    help="Cycles started a second. Default: the scenario's own.",
)
@click.option(
    "--concurrency", type=click.IntRange(1, 1000), metavar="N", help="Cycles at a time. Default: the scenario's own."
)
@click.option(
    "--polite",
    type=click.IntRange(0, 100),
    metavar="N",
    help="Clients beside it that do nothing wrong and must be served well. Default: the scenario's own.",
)
@click.option(
    "--hold",
    "hold_s",
    type=click.FloatRange(0.1, 3600),
    default=_DEFAULTS.hold_s,
    show_default=True,
    metavar="S",
    help="How long a server may hold what it should have given up.",
)
@click.option(
    "--pause-at",
    type=click.IntRange(0),
    metavar="N",
    help="Pause after this cycle: some leaks show only a second later. Default: after half of --cycles; 0: no pause.",
)
@click.option(
    "--pause",
    "pause_s",
    type=click.FloatRange(0),
    default=_DEFAULTS.pause_s,
    show_default=True,
    metavar="S",
    help="How long.",
)
@click.option(
    "--pid",
    type=click.IntRange(1),
    metavar="PID",
    help="The server's process: descriptors, listening sockets and memory of it and its children are shown.",
)
@click.option(
    "--grace",
    "grace_s",
    type=click.FloatRange(0),
    default=_DEFAULTS.grace_s,
    show_default=True,
    metavar="S",
    help="Wait at most so long for descriptors to close after the last cycle.",
)
@click.option(
    "--timeout",
    "timeout_s",
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
@click.option("--plot", type=click.Path(path_type=Path), metavar="FILE", help="Draw the run over time: .png or .svg.")
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write a report with the picture and the raw samples: .html, or .md with its files beside it.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
def command(
    url: str | None, pid: int | None, plot: Path | None, report: Path | None, as_json: bool, **given: Any
) -> int:
    """Prove that a Modbus TCP server leaks nothing and serves well what else comes, or convict it.

    URL is any server, in any language: tcp://host[:port], host[:port], unix:///path. Without one,
    everbus starts its own and looks at that. A server is clean if no cycle fails, its descriptors,
    listening sockets and memory do not grow with the cycles, and polite clients are served well
    meanwhile. What else a scenario demands is printed with the verdict.

    Ctrl-C ends the run early and judges what was seen; once more, it ends at once.

    Exit codes: 0 clean, 1 convicted, 2 usage, 3 cannot connect at the start, 130 interrupted.

    Examples:  everbus soak  ·  everbus soak tcp://127.0.0.1:5020 --pid 4711 --cycles 400 --pause-at 200
    ·  everbus soak --scenario mixed --duration 600 --report soak.html
    """
    options = SoakOptions(**given).resolved()
    if url is None and pid is not None:
        raise click.UsageError("--pid goes with the URL of its server: everbus soak URL --pid PID")
    _check_files(plot, report)
    raise_descriptor_limit((options.concurrency or 0) + (options.polite or 0) + _OWN_DESCRIPTORS)
    with (
        terminated_like_interrupted(),
        own_server() if url is None else nullcontext(named_server(url, pid)) as server,
    ):
        result = _run(server, options)
    if result.record is None:
        _note("without --pid PID nobody looked at the server's descriptors")
    if as_json:
        write_json(result.document())
        click.echo(result.reason, err=True)
    else:
        with suppress(SystemExit):  # rich's answer to a reader that went away; the verdict stands
            show_result(result, Console(highlight=False))
    written = _write_files(result, plot, report)
    if result.interrupted:
        return ExitCode.INTERRUPTED
    if result.verdict is not Verdict.CLEAN:
        return ExitCode.EXCEPTION
    return ExitCode.OK if written else ExitCode.USAGE


def _run(server: SoakedServer, options: SoakOptions) -> SoakResult:
    try:
        _warn_of_a_stranger(server)
        with progress_bar(options) as show:
            return soak(server.endpoint, options, server.pid, show)
    except ConnectError as error:
        hint = f"is a server running at {server.endpoint}? everbus serve starts one on port 5020"
        raise CommandFailure(ExitCode.CANNOT_CONNECT, "cannot_connect", str(error), hint) from error
    except ProcessLookupError as error:
        hint = "the pid of the server, as ps or pgrep -f NAME shows it"
        raise CommandFailure(ExitCode.USAGE, "usage", f"--pid: {error}", hint) from error
    except PermissionError as error:
        raise CommandFailure(ExitCode.USAGE, "usage", f"--pid: {error}", "sudo, or no --pid") from error


def _warn_of_a_stranger(server: SoakedServer) -> None:
    """A wrong --pid would prove the wrong process clean."""
    if server.pid is None or server.endpoint.scheme != "tcp":
        return
    addresses = listeners(server.pid)
    if not any(address.endswith(f":{server.endpoint.port}") for address in addresses):
        _note(f"process {server.pid} does not listen on port {server.endpoint.port}: is it the right one?")


def _note(text: str) -> None:
    click.echo(f"note: {text}", err=True)


# --- files ------------------------------------------------------------------------------------


def _check_files(plot: Path | None, report: Path | None) -> None:
    """What could not be written after an hour is told before it.

    Raises:
        ConfigurationError: a file could not be written.
    """
    if plot is not None:
        picture_kind(plot)
        ensure_drawable()
        ensure_writable(plot)
    if report is not None:
        check_report(report)


def _write_files(result: SoakResult, plot: Path | None, report: Path | None) -> bool:
    """Write what was asked for; False if a file could not be written, which is told."""
    document = result.document()
    written = True
    for path, write in ((plot, write_plot), (report, write_report)):
        if path is None:
            continue
        try:
            write(document, path)
        except OSError as error:
            _note(f"{path} could not be written: {error}")
            written = False
        else:
            _note(f"{path} is written")
    return written
