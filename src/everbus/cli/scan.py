"""``everbus scan``: which units answer behind an endpoint."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from time import monotonic, sleep
from typing import Final

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from everbus.cli.asking import NumberRange, error_document, failure_of
from everbus.cli.helping import HelpfulCommand
from everbus.cli.output import CommandFailure, ExitCode, write_json, write_line, write_table
from everbus.errors import (
    ConnectError,
    ExceptionResponseError,
    ModbusError,
    ModbusTimeoutError,
    NetworkError,
    PeerError,
    UsageError,
)
from everbus.protocol.codes import ExceptionCode, exception_name
from everbus.sync.client import Client
from everbus.sync.unit import Unit

__all__ = ["command"]

_GATEWAY: Final = (ExceptionCode.GATEWAY_PATH_UNAVAILABLE, ExceptionCode.GATEWAY_TARGET_FAILED_TO_RESPOND)
_MOST_UNIT: Final = 255
_MOST_ON_A_LINE: Final = 32
"""Devices on a serial line without repeaters: when more answer, it is one that ignores the unit."""


class Outcome(StrEnum):
    """What came of asking one unit."""

    ANSWERED = "answered"
    EXCEPTION = "exception"
    WRONG = "wrong answer"
    SILENT = "silent"
    GATEWAY = "gateway exception"
    LOST = "connection lost"

    @property
    def there(self) -> bool:
        """Something answers for the unit."""
        return self in (Outcome.ANSWERED, Outcome.EXCEPTION, Outcome.WRONG)


@dataclass(frozen=True, slots=True)
class Found:
    """One unit.

    Args:
        unit: whom we asked.
        outcome: what came of it.
        register: holding register 0, if that was the answer.
        server_id: what function 11 told, if the register was refused.
        error: how the read of the register ended otherwise.
    """

    unit: int
    outcome: Outcome
    register: int | None = None
    server_id: bytes | None = None
    error: ModbusError | None = None

    @property
    def detail(self) -> str:
        """What there is to say about it."""
        if self.register is not None:
            return f"holding register 0 (reference 400001) is {self.register}"
        if not isinstance(self.error, ExceptionResponseError):
            return str(self.error) if self.outcome is Outcome.WRONG else ""
        refusal = f"exception {self.error.code:02X}: {exception_name(self.error.code)}"
        if self.server_id is None:
            return refusal
        return f"server id {str(self.server_id)[1:]}; holding register 0: {refusal}"

    def document(self) -> dict[str, object]:
        """For programs."""
        document: dict[str, object] = {"unit": self.unit, "outcome": self.outcome, "there": self.outcome.there}
        if self.register is not None:
            document["register"] = self.register
        if self.server_id is not None:
            document["server_id"] = self.server_id.hex()
        if self.error is not None:
            document["error"] = error_document(self.error)
        return document


class _Units(click.ParamType[list[int]]):
    """Numbers and ranges of units, as in ``1-10,20``."""

    name = "units"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        units: set[int] = set()
        for part in str(value).split(","):
            first, dash, last = part.partition("-")
            low, high = first.strip(), (last if dash else first).strip()
            if not (low.isdecimal() and high.isdecimal() and int(low) <= int(high) <= _MOST_UNIT):
                self.fail(f"{value!r} is not numbers and ranges of 0..{_MOST_UNIT}, as 1-10,20", param, ctx)
            units.update(range(int(low), int(high) + 1))
        return sorted(units)


@click.command("scan", cls=HelpfulCommand)
@click.argument("url")
@click.option(
    "--units", type=_Units(), default="1-247", show_default=True, metavar="N-M,...", help="Whom to ask; 0 to 255."
)
@click.option(
    "--rate",
    type=NumberRange(0, min_open=True),
    default=20.0,
    show_default=True,
    metavar="N",
    help="Requests a second at most.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=float,
    default=0.5,
    show_default=True,
    metavar="S",
    help="For each request; slow serial lines behind a gateway need more.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
def command(url: str, units: list[int], rate: float, timeout_s: float, as_json: bool) -> int:
    """Find the units that answer behind an endpoint.

    Each unit is asked for one holding register and, if it refuses that, for its server id. One that
    answers is there, be it with an exception; one that is silent is not, nor one that a gateway says
    not to reach (exceptions 0A and 0B). Nothing is written.

    Exit codes: 0 units found, 1 a gateway says that there are none, 2 usage, 3 cannot connect,
    4 no unit answers, 5 protocol error, 7 the connection was lost for good before the end.

    Examples:
        everbus scan tcp://192.0.2.7:502

        everbus scan 192.0.2.7 --units 1-10,247 --timeout 2 --json
    """
    with Client(url, timeout_s=timeout_s, retries=0) as client:
        found, failure = _gather(client, units, rate)
    late = client.statistics().session.late
    if failure is None and not any(one.outcome.there for one in found):
        failure = _nobody(found, late)
    if as_json:
        write_json(_document(str(client.endpoint), found, late, failure))
    else:
        _show(found, late)
    if failure is not None:
        write_line(failure.lines())
    return failure.code if failure is not None else ExitCode.OK


def _gather(client: Client, units: list[int], rate: float) -> tuple[list[Found], CommandFailure | None]:
    """What was found, and what ended it before its time."""
    found: list[Found] = []
    try:
        for one in _shown_progress(_scan(client, units, rate), len(units)):
            found.append(one)  # noqa: PERF402  what was found before it ends early counts
    except ConnectError as error:
        failure = failure_of(error, [])
        failure.code = ExitCode.PARTIAL if found else failure.code
    except KeyboardInterrupt:
        failure = CommandFailure(ExitCode.INTERRUPTED, "interrupted", "interrupted")
    else:
        return found, None
    failure.message += f" ({len(found)} of {len(units)} units were asked before it)"
    return found, failure


def _shown_progress(units: Iterator[Found], total: int) -> Iterator[Found]:
    """The same, with a bar on stderr if that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description:>9}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield from bar.track(units, total=total, description="scanning")


def _scan(client: Client, units: Iterable[int], rate: float) -> Iterator[Found]:
    pace = _Pace(rate)
    for number in units:
        yield _ask(client.unit(number), pace)


class _Pace:
    """Lets so many requests a second go, evenly."""

    def __init__(self, rate: float) -> None:
        self._every_s = 1 / rate
        self._next = monotonic()

    def wait(self) -> None:
        now = monotonic()
        if now < self._next:
            sleep(self._next - now)
        self._next = max(now, self._next) + self._every_s


def _ask(unit: Unit, pace: _Pace) -> Found:
    pace.wait()
    try:
        return Found(unit.number, Outcome.ANSWERED, unit.read_holding_registers(0, 1)[0])
    except (UsageError, ConnectError):
        raise
    except ExceptionResponseError as error:
        if error.code in _GATEWAY:
            return Found(unit.number, Outcome.GATEWAY, error=error)
        return _ask_who(unit, pace, error)
    except ModbusError as error:
        return Found(unit.number, _outcome(error), error=error)


def _ask_who(unit: Unit, pace: _Pace, refusal: ExceptionResponseError) -> Found:
    """A unit that refuses the register is there; perhaps it says what it is."""
    pace.wait()
    try:
        return Found(unit.number, Outcome.ANSWERED, server_id=unit.report_server_id(), error=refusal)
    except (PeerError, NetworkError, ModbusTimeoutError):
        return Found(unit.number, Outcome.EXCEPTION, error=refusal)


def _outcome(error: ModbusError) -> Outcome:
    if isinstance(error, ModbusTimeoutError):
        return Outcome.SILENT
    return Outcome.LOST if isinstance(error, NetworkError) else Outcome.WRONG


def _nobody(found: list[Found], late: int) -> CommandFailure:
    """No unit is there: it ends as most of them did."""
    failures = [failure_of(one.error, []) for one in found if one.error is not None]
    codes = [failure.code for failure in failures]
    failure = failures[codes.index(max(codes, key=codes.count))]
    failure.message = f"none of {len(found)} units is there; the first such: {failure.message}"
    if late:
        failure.hint = "a longer --timeout: answers came too late"
    elif failure.code in (ExitCode.TIMEOUT, ExitCode.EXCEPTION):
        failure.hint = "other --units, or a longer --timeout"
    return failure


def _alike(found: list[Found]) -> bool:
    """More units answer in the same way than it would be if there were several."""
    if len(found) < 2 or not all(one.outcome.there for one in found):
        return False
    if len({one.outcome for one in found}) > 1:
        return False
    return len(found) > _MOST_ON_A_LINE or len({one.detail for one in found}) == 1


def _document(endpoint: str, found: list[Found], late: int, failure: CommandFailure | None) -> dict[str, object]:
    document: dict[str, object] = {
        "ok": failure is None,
        "endpoint": endpoint,
        "units": [one.document() for one in found],
        "ignores_unit": _alike(found),
        "late_answers": late,
    }
    if failure is not None:
        document["error"] = failure.document()
    return document


def _show(found: list[Found], late: int) -> None:
    """A line for each run of units of which there is the same to say."""
    rows = []
    for (outcome, detail), run in groupby(found, lambda one: (one.outcome, one.detail)):
        rows.append((_spelled([one.unit for one in run]), str(outcome), detail))
    write_table(rows)
    there = sum(one.outcome.there for one in found)
    write_line(f"{there} of {len(found)} units are there")
    if _alike(found):
        write_line("all units answer alike: the device ignores the unit, as most do that are no gateways")
    if late:
        write_line(f"answers that came too late: {late}; a longer --timeout may find more")


def _spelled(units: list[int]) -> str:
    """Units in order as numbers and ranges: ``1-3,7``."""
    runs = [
        [unit for _, unit in run] for _, run in groupby(enumerate(units), lambda numbered: numbered[1] - numbered[0])
    ]
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
