"""``everbus write``: set points."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NamedTuple

import click

from everbus.cli.asking import client_options, described, failure_of, json_value, open_client, shown
from everbus.cli.helping import HelpfulCommand
from everbus.cli.output import CommandFailure, ExitCode, fail, write_json, write_line, write_table
from everbus.errors import ConnectError, ModbusError, ModbusTimeoutError, NetworkError
from everbus.maps.datatypes import Value
from everbus.maps.notation import parse_assignment
from everbus.maps.points import Point
from everbus.maps.requests import write_request
from everbus.sync.unit import Unit

__all__ = ["command"]


class _Assignment(NamedTuple):
    point: Point
    value: Value

    @property
    def document(self) -> dict[str, object]:
        return described(self.point) | {"value": json_value(self.value)}


@click.command("write", cls=HelpfulCommand)
@click.argument("url")
@click.argument("assignments", metavar="POINT=VALUE...", nargs=-1, required=True)
@click.option("--verify", is_flag=True, help="Read back what was written, and compare.")
@click.option("--yes", is_flag=True, help="Do not ask; needed where nobody can be asked.")
@click.option("--dry-run", is_flag=True, help="Show the requests as PDUs, send nothing.")
@client_options
def command(
    url: str,
    assignments: tuple[str, ...],
    *,
    unit: int,
    timeout_s: float,
    retries: int,
    verify: bool,
    yes: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Write points of a device.

    POINT is as for everbus read; coils and holding registers can be written. Values are numbers
    (0x for hexadecimal), true and false for bits, text for strings, lists with commas where the
    point has a count. Each point is one request, in their order; the first that fails ends it. A
    write is never repeated by itself.

    On a terminal it asks before it writes. Exit codes: 0 written, 1 a Modbus exception, 2 usage,
    3 cannot connect, 4 timeout, 5 protocol error, 6 written and not verified, 7 some were written
    and some not, 130 you said no.

    Examples:
        everbus write 192.0.2.7 h@100=42 --verify

        everbus write 192.0.2.7 c@8=true h@0/f32=21.5 h@10:3=1,2,3 --yes
    """
    client = open_client(url, timeout_s, retries)
    wanted = [_Assignment(*parse_assignment(text)) for text in assignments]
    pdus = [write_request(*one).encode().hex().upper() for one in wanted]  # all of them fit, or nothing is sent
    if dry_run:
        _rehearse(wanted, pdus, as_json)
        return ExitCode.OK
    if not yes:
        _confirm(f"unit {unit} of {client.endpoint}", wanted)
    with client:
        return _write(client.unit(unit), wanted, verify=verify, as_json=as_json)


def _rehearse(wanted: Sequence[_Assignment], pdus: Sequence[str], as_json: bool) -> None:
    if as_json:
        points = [one.document | {"pdu": pdu} for one, pdu in zip(wanted, pdus, strict=True)]
        write_json({"ok": True, "dry_run": True, "points": points})
    else:
        _show(wanted, pdus)


def _confirm(device: str, wanted: Sequence[_Assignment]) -> None:
    """Ask whoever is there."""
    if sys.stdin is None or not sys.stdin.isatty():
        message = "nobody can be asked whether to write: stdin is no terminal; nothing was written"
        raise CommandFailure(ExitCode.USAGE, "usage", message, "--yes, or --dry-run")
    for point, value in wanted:
        write_line(f"{point} ({point.table.item} {point.address}, reference {point.reference}) = {shown(point, value)}")
    if not click.confirm(f"Write this to {device}?", err=True):
        raise CommandFailure(ExitCode.INTERRUPTED, "interrupted", "nothing was written")


def _write(unit: Unit, wanted: Sequence[_Assignment], *, verify: bool, as_json: bool) -> int:
    done: list[dict[str, object]] = []
    failure: CommandFailure | None = None
    for one in wanted:
        try:
            unit.write(*one)
            failure = _checked(unit, one) if verify else None
        except ModbusError as error:
            failure = _not_written(error, one.point)
            break
        except KeyboardInterrupt:
            message = f"interrupted; {one.point} may have been written or not"
            failure = CommandFailure(ExitCode.INTERRUPTED, "interrupted", message)
            break
        done.append(one.document | ({"verified": failure is None} if verify else {}))
        if failure is not None:
            break
    if failure is not None and len(wanted) > 1:
        _count(failure, len(done), len(wanted))
    if as_json:
        told = {} if failure is None else {"error": failure.document()}
        write_json({"ok": failure is None, **told, "points": done})
    else:
        _show([one for one, told in zip(wanted, done, strict=False) if told.get("verified", True)])
    return ExitCode.OK if failure is None else fail(failure, as_json=False)


def _not_written(error: ModbusError, point: Point) -> CommandFailure:
    failure = failure_of(error, [point])
    failure.message = f"{point}: {error}"
    if isinstance(error, (ModbusTimeoutError, NetworkError)) and not isinstance(error, ConnectError):
        failure.message = f"{point} may have been written or not: {error}"
        failure.hint = "everbus read, before you write it again"
    return failure


def _checked(unit: Unit, one: _Assignment) -> CommandFailure | None:
    """Read back what was written; the failure if it is not there."""
    point, value = one
    try:
        found = unit.read(point)
    except ModbusError as error:
        message = f"{point}: it was written, and cannot be read back: {error}"
        return CommandFailure(ExitCode.REFUSED, "not_verified", message)
    if found == point.decode(point.encode(value)):  # as the point would hold it: rounded, padded
        return None
    message = f"{point}: the device confirmed {shown(point, value)}, and holds {shown(point, found)}"
    hint = "what the device's manual allows; some round, limit or drop what they are sent"
    return CommandFailure(ExitCode.REFUSED, "not_verified", message, hint)


def _count(failure: CommandFailure, done: int, wanted: int) -> None:
    """Say how many of several points were written."""
    failure.message += f" ({done} of {wanted} points were written)"
    if done and failure.code not in (ExitCode.REFUSED, ExitCode.INTERRUPTED):
        failure.code, failure.kind = ExitCode.PARTIAL, "partial"


def _show(points: Sequence[_Assignment], behind: Sequence[str] = ()) -> None:
    """A line a point: as asked, reference number, value; and what else is given."""
    rows = [(str(point), point.reference, shown(point, value)) for point, value in points]
    write_table([(*row, last) for row, last in zip(rows, behind or [""] * len(rows), strict=True)])
