"""``everbus read``: values of points."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import groupby
from typing import Final

import click
import rich_click

from everbus.cli.asking import advice, client_options, error_document, exit_code, open_client, reading_document, shown
from everbus.cli.output import ExitCode, write_json, write_line
from everbus.errors import ModbusError
from everbus.maps.notation import parse_point
from everbus.maps.planner import Reading
from everbus.maps.points import Point

__all__ = ["command"]

_VALUES_PER_ROW: Final = 10


@click.command("read", cls=rich_click.RichCommand)
@click.argument("url")
@click.argument("points", metavar="POINT...", nargs=-1, required=True)
@client_options
def command(url: str, points: tuple[str, ...], unit: int, timeout_s: float, retries: int, as_json: bool) -> int:
    """Read points of a device.

    URL is tcp://HOST[:502], rtu+tcp://HOST:PORT, unix:///PATH, or a bare host. A POINT is
    [unit/]table@address[:count][/type][:order], where the table is c, d, i or h and addresses count
    from 0: h@0, h@100:10, i@0/f32:CDAB, 3/c@8. A reference number is marked: ref:40001. Neighbours
    share a request; a block that the device refuses is read in parts.

    Each line of the result is a point, its reference number, its value and its registers in
    hexadecimal; a long list is several lines.

    Exit codes: 0 all read, 1 a Modbus exception, 2 usage, 3 cannot connect, 4 timeout,
    5 protocol error, 7 some were read and some not.

    Examples:
        everbus read 192.0.2.7 h@0:4

        everbus read tcp://192.0.2.7:502 i@0/f32 c@8 --unit 3 --json
    """
    wanted = [parse_point(text) for text in points]
    with open_client(url, timeout_s, retries) as client:
        readings = client.unit(unit).read_points(wanted)
    failed = [(reading.error, reading.point) for reading in readings if reading.error is not None]
    if as_json:
        now = datetime.now(UTC)
        error = {"error": _error(failed, len(readings))} if failed else {}
        write_json({"ok": not failed, **error, "points": [reading_document(reading, now) for reading in readings]})
    else:
        _show([reading for reading in readings if reading.error is None])
    if not failed:
        return ExitCode.OK
    _tell(failed)
    return exit_code(failed[0][0])[0] if len(failed) == len(readings) else ExitCode.PARTIAL


def _error(failed: Sequence[tuple[ModbusError, Point]], count: int) -> dict[str, object]:
    """The first error where all points have one, or that some have."""
    if len(failed) == count:
        return error_document(failed[0][0])
    message = f"{len(failed)} of {count} points could not be read; the first: {failed[0][0]}"
    return {"kind": "partial", "code": int(ExitCode.PARTIAL), "message": message}


def _tell(failed: Sequence[tuple[ModbusError, Point]]) -> None:
    """What went wrong, for people: once for all the points of one request."""
    for _, group in groupby(failed, key=lambda one: id(one[0])):
        same = list(group)
        error, first = same[0]
        hint = advice(error, [first])
        names = ", ".join(str(point) for _, point in same)
        write_line(f"error: {names}: {error}" + (f"\n  try: {hint}" if hint else ""))


def _show(readings: Iterable[Reading]) -> None:
    rows = [row for reading in readings for row in _rows(reading)]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)).rstrip())


def _rows(reading: Reading) -> Iterator[tuple[str, str, str, str]]:
    """Point, reference number, value, registers in hexadecimal; a long list in several rows, each a point."""
    point, values = reading.point, reading.value
    if not isinstance(values, list):
        yield str(point), point.reference, shown(point, values), _registers(point, reading.raw)
        return
    size = point.items // point.values
    for start in range(0, point.values, _VALUES_PER_ROW):
        some = values[start : start + _VALUES_PER_ROW]
        part = replace(point, address=point.address + start * size, count=len(some))
        raw = reading.raw[start * size : (start + len(some)) * size]
        yield str(part), part.reference, shown(part, some), _registers(part, raw)


def _registers(point: Point, raw: Sequence[int]) -> str:
    return "" if point.table.bits else " ".join(f"{register:04X}" for register in raw)
