"""``everbus probe``: everything that the registers at an address can mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import click

from everbus.cli.asking import client_options, described, error_document, failure_of, json_value, open_client, shown
from everbus.cli.helping import HelpfulCommand
from everbus.cli.output import CommandFailure, ExitCode, write_json, write_line, write_table
from everbus.errors import PeerError
from everbus.maps.datatypes import DataType, Value
from everbus.maps.notation import parse_point
from everbus.maps.order import ABCD, BADC, CDAB, DCBA, Order
from everbus.maps.planner import Reading
from everbus.maps.points import Point
from everbus.protocol.codes import ITEMS_PER_TABLE
from everbus.protocol.values import pack_registers

__all__ = ["command"]

_NEIGHBOURS: Final = (-1, 0, 1)
_WIDEST: Final = 4
"""Registers of the widest types, and of the text that is tried."""

_BYTE_ORDERS: Final = (ABCD, BADC)
_ORDERS: Final = (ABCD, CDAB, BADC, DCBA)
_LAYOUTS: Final = tuple(
    (kind, count, order)
    for kind, count, orders in (
        *((kind, 1, _BYTE_ORDERS) for kind in (DataType.I8, DataType.U8, DataType.I16, DataType.U16, DataType.F16)),
        *((kind, 1, _ORDERS) for kind in (DataType.I32, DataType.U32, DataType.F32)),
        *((kind, 1, _ORDERS) for kind in (DataType.I64, DataType.U64, DataType.F64)),
        (DataType.BCD, 1, _BYTE_ORDERS),
        (DataType.BCD, 2, _ORDERS),
        (DataType.STRING, _WIDEST, _BYTE_ORDERS),
    )
    for order in orders
)
"""What is tried, in this order; bool and bytes would say nothing more."""

_LEAST_NORMAL: Final = {DataType.F16: 2.0**-14, DataType.F32: 2.0**-126, DataType.F64: 2.0**-1022}
_SMALL: Final = 1e-6
_LARGE: Final = 1e10
"""Between these are the measurements that are not in an odd unit."""

_SHORT_TEXT: Final = 2


class Meaning(NamedTuple):
    """What some registers mean in one type and order.

    Args:
        point: where, and as what.
        value: None: there is none, as with what is not a number.
        plausible: it looks like what a device would say.
    """

    point: Point
    value: Value
    plausible: bool


@click.command("probe", cls=HelpfulCommand)
@click.argument("url")
@click.argument("point")
@client_options
def command(url: str, point: str, unit: int, timeout_s: float, retries: int, as_json: bool) -> int:
    """Show all that the registers at an address can mean.

    The registers of POINT, as h@100 or i@0, are read with their neighbours, and shown in every type
    and order, from one address before to one behind: the way out when a value is off by one, or its
    words or bytes are swapped. What stands left of a value can be put behind the place, as in
    h@100/f32:CDAB.

    An asterisk is behind what looks plausible: floats that are finite, not denormal and of a size
    that measurements have; whole numbers that do not need all of their bits; text. Zero says
    nothing, and has none.

    Exit codes: 0 something was read, 1 a Modbus exception, 2 usage, 3 cannot connect, 4 timeout,
    5 protocol error.

    Examples:
        everbus probe tcp://192.0.2.7:502 h@100

        everbus probe 192.0.2.7 ref:30001 --unit 3 --json
    """
    place = parse_point(point)
    if place.table.bits:
        hint = f"everbus read URL {place}"
        raise CommandFailure(ExitCode.USAGE, "usage", f"a {place.table.item} is one bit and means nothing else", hint)
    starts = [place.address + by for by in _NEIGHBOURS if 0 <= place.address + by < ITEMS_PER_TABLE]
    wanted = range(starts[0], min(starts[-1] + _WIDEST, ITEMS_PER_TABLE))
    with open_client(url, timeout_s, retries) as client:
        readings = client.unit(unit).read_points(Point(place.table, address, place.unit) for address in wanted)
    registers = {reading.point.address: reading.raw[0] for reading in readings if reading.error is None}
    if not registers:
        own = next(reading for reading in readings if reading.point.address == place.address)
        assert own.error is not None
        raise failure_of(own.error, [own.point])
    rows = [[_meaning(place, start, layout, registers) for start in starts] for layout in _LAYOUTS]
    if as_json:
        found = [meaning for row in rows for meaning in row if meaning is not None]
        write_json(_document(str(client.endpoint), readings, found))
    else:
        _show([reading for reading in readings if reading.point.address in starts], rows)
    return ExitCode.OK


def _meaning(
    place: Point, start: int, layout: tuple[DataType, int, Order], registers: Mapping[int, int]
) -> Meaning | None:
    """None: not all of its registers could be read."""
    kind, count, order = layout
    items = range(start, start + (count if kind.spans else max(1, kind.width // 16)))
    if any(address not in registers for address in items):
        return None
    point = Point(place.table, start, place.unit, type=kind, count=count, order=order)
    try:
        value = point.decode(pack_registers([registers[address] for address in items]))
    except PeerError:  # digits that are none
        value = None
    return Meaning(point, value, _plausible(point, value))


def _plausible(point: Point, value: Value) -> bool:
    if isinstance(value, str):
        return len(value) > _SHORT_TEXT and value.isprintable() and "\\x" not in value
    if not isinstance(value, int | float) or not value:
        return False
    if isinstance(value, float):
        return max(_SMALL, _LEAST_NORMAL[point.type]) <= abs(value) < _LARGE
    # A wrong order fills the upper bits: a value of 32 bits is taken up to eight decimal digits.
    return point.type is DataType.BCD or abs(value) < 10 ** (point.type.width // 4)


def _document(endpoint: str, readings: Sequence[Reading], found: Sequence[Meaning]) -> dict[str, object]:
    return {
        "ok": True,
        "endpoint": endpoint,
        "registers": [_register(reading) for reading in readings],
        "values": [
            described(meaning.point)
            | {
                "count": meaning.point.count,
                "order": str(meaning.point.order),
                "value": json_value(meaning.value),
                "plausible": meaning.plausible,
            }
            for meaning in found
        ],
    }


def _register(reading: Reading) -> dict[str, object]:
    point = reading.point
    document: dict[str, object] = {"address": point.address, "reference": point.reference, "raw": None}
    if reading.error is not None:
        return document | {"error": error_document(reading.error)}
    return document | {"raw": reading.raw[0]}


def _show(starts: Sequence[Reading], rows: Sequence[Sequence[Meaning | None]]) -> None:
    """A column for each address, a line for each type and order."""
    table = [
        ["", *(f"{reading.point} ({reading.point.reference})  " for reading in starts)],
        ["register", *("-  " if reading.error else f"{reading.raw[0]:04X}  " for reading in starts)],
    ]
    for (kind, count, order), row in zip(_LAYOUTS, rows, strict=True):
        label = (f":{count}" if count > 1 else "") + f"/{kind}" + ("" if order == ABCD else f":{order}")
        table.append([label, *map(_cell, row)])
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    write_table([(label, *map(str.rjust, cells, widths[1:])) for label, *cells in table])
    for reading in starts:
        if reading.error is not None:
            write_line(f"{reading.point}: {reading.error}")


def _cell(meaning: Meaning | None) -> str:
    if meaning is None:
        return ""
    text = "-" if meaning.value is None else shown(meaning.point, meaning.value)
    return text + (" *" if meaning.plausible else "  ")
