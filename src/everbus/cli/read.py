"""``everbus read``: values of points."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

import click

from everbus.cli.asking import client_options, exit_code, open_client, part, readings_document, shown, tell
from everbus.cli.helping import HelpfulCommand
from everbus.cli.output import ExitCode, write_json, write_table
from everbus.maps.notation import parse_point
from everbus.maps.planner import Reading
from everbus.maps.points import Point

__all__ = ["command"]

_VALUES_PER_ROW: Final = 10


@click.command("read", cls=HelpfulCommand)
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
    failed = [reading.error for reading in readings if reading.error is not None]
    if as_json:
        write_json(readings_document(readings, datetime.now(UTC)))
    else:
        write_table([row for reading in readings if reading.error is None for row in _rows(reading)])
    if not failed:
        return ExitCode.OK
    tell(readings)
    return exit_code(failed[0])[0] if len(failed) == len(readings) else ExitCode.PARTIAL


def _rows(reading: Reading) -> Iterator[tuple[str, str, str, str]]:
    """Point, reference number, value, registers in hexadecimal; a long list in several rows, each a point."""
    point, values = reading.point, reading.value
    if not isinstance(values, list):
        yield str(point), point.reference, shown(point, values), _registers(point, reading.raw)
        return
    size = point.items // point.values
    for start in range(0, point.values, _VALUES_PER_ROW):
        some = values[start : start + _VALUES_PER_ROW]
        row = part(point, start, len(some))
        raw = reading.raw[start * size : (start + len(some)) * size]
        yield str(row), row.reference, shown(row, some), _registers(row, raw)


def _registers(point: Point, raw: Sequence[int]) -> str:
    return "" if point.table.bits else " ".join(f"{register:04X}" for register in raw)
