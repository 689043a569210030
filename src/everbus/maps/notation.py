"""Points and values as people write them: ``[unit/]table@address[:count][/type[.bits]][:order][=value]``."""

from __future__ import annotations

import re
from typing import Final

from everbus.errors import ConfigurationError, UsageError
from everbus.maps.datatypes import BitRange, DataType, Scalar, Value
from everbus.maps.order import ABCD, Order
from everbus.maps.points import Point, Table

__all__ = ["parse_assignment", "parse_point", "parse_reference", "parse_value"]

_WHOLE: Final = re.compile("[+-]?(0[xX][0-9a-fA-F]+|[0-9]+)")
_EXAMPLES: Final = "h@100, i@0:10, 3/h@41/f32:CDAB, c@5, h@40/u16.3 or ref:40001"
_BOOLS: Final = {
    "1": True,
    "true": True,
    "on": True,
    "yes": True,
    "0": False,
    "false": False,
    "off": False,
    "no": False,
}


def parse_point(text: str) -> Point:
    """Read a point: ``[unit/]table@address[:count][/type[.bits]][:order]``.

    The table is ``c``, ``d``, ``i`` or ``h``, or ``coil``, ``discrete``, ``input``, ``holding``. The
    address is the 0-based PDU address; ``ref:40001`` in place of it, with or without the table, is a
    reference number, counted from 1, of five or six digits. Numbers may be hexadecimal, as 0x10. Bits are one
    number or two, as in ``u16.3`` and ``u16.4-7``.

    Raises:
        ConfigurationError: it is not one; the message says why and shows right ones.
    """
    place, equals, _ = text.partition("=")
    if equals:
        raise _wrong(text, "it has a value, and only a place is wanted", place)
    return _point(text)


def parse_assignment(text: str) -> tuple[Point, Value]:
    """Read a point and the value to write there: a point, ``=``, and what ``parse_value`` reads.

    Raises:
        ConfigurationError: it is not one; the message says why and shows right ones.
        InvalidRequestError: the value does not fit the point's type; the message names the limits.
    """
    place, equals, value = text.partition("=")
    if not equals:
        raise _wrong(text, "there is no value in it", f"{text}=1")
    point = _point(place)
    return point, parse_value(point, value)


def parse_value(point: Point, text: str) -> Value:
    """Read a value of a point's type.

    Bits are 1 or 0, true or false, on or off, yes or no. Whole numbers may be hexadecimal, as 0x10.
    Labels are written as they are. Bytes are hexadecimal. The values of a point with a count are
    separated by commas.

    Raises:
        ConfigurationError: it cannot be read.
        InvalidRequestError: it does not fit the type; the message names the limits.
    """
    value: Value
    if point.values == 1:
        value = _scalar(point, text)
    else:
        parts = text.split(",")
        if len(parts) != point.values:
            raise ConfigurationError(
                f"value {text!r}: {point} takes {point.values} of them, separated by commas, not {len(parts)}"
            )
        value = [_scalar(point, part.strip()) for part in parts]
    point.encode(value)
    return value


def parse_reference(text: str) -> tuple[Table, int]:
    """The table and 0-based address that a reference number of five or six digits means.

    Raises:
        ConfigurationError: it is not one.
    """
    tables = {str(table.digit): table for table in Table}
    number = int(text[1:]) if len(text) in (5, 6) and text.isascii() and text.isdigit() else 0
    if not 1 <= number <= 65536 or text[0] not in tables:
        raise ConfigurationError(
            f"{text!r} is not a reference number: it has 5 or 6 digits, starts with 0, 1, 3 or 4 and counts from 1"
        )
    return tables[text[0]], number - 1


def _point(text: str) -> Point:
    try:
        return _read(text.strip())
    except UsageError as error:
        hint = _EXAMPLES
        if text.isdigit():
            hint = f"h@{text} for holding register {text}, counted from 0, or ref:{text} if it is a reference number"
        raise _wrong(text, str(error), hint) from error


def _read(text: str) -> Point:
    unit = None
    head, slash, behind = text.partition("/")
    if slash and "@" not in head and not head.lower().startswith("ref:"):
        unit, text = _number("unit", head), behind
    place, slash, kind = text.partition("/")
    if slash:
        kind, colon, order = kind.partition(":")
    else:
        place, colon, order = _order_behind(place)
    table, address, count = _place(place)
    name, dot, bits = kind.partition(".")
    return Point(
        table,
        address,
        unit,
        type=DataType(name) if slash else DataType.BOOL if table.bits else DataType.U16,
        count=_number("count", count) if count else 1,
        bits=_bits(bits) if dot else None,
        order=Order.parse(order) if colon else ABCD,
    )


def _place(text: str) -> tuple[Table, int, str]:
    """Table, address and the text of the count."""
    name, at, rest = text.partition("@")
    if (rest if at else text)[:4].lower() == "ref:":
        number, _, count = (rest if at else text)[4:].partition(":")
        table, address = parse_reference(number)
        if at and Table(name) is not table:
            raise ConfigurationError(f"{number} is a reference number of {table.item}s, not of {Table(name).item}s")
        return table, address, count
    if not at:
        raise ConfigurationError("it names no table")
    digits, _, count = rest.partition(":")
    return Table(name), _number("address", digits), count


def _order_behind(place: str) -> tuple[str, str, str]:
    """Cut an order, or a colon without anything behind it, off the end of a place without a type."""
    front, colon, last = place.rpartition(":")
    return (front, colon, last) if colon and not last[:1].isdigit() else (place, "", "")


def _bits(text: str) -> BitRange:
    first, dash, last = text.partition("-")
    low = _number("bit", first)
    return BitRange(low, _number("bit", last) if dash else low)


def _number(what: str, text: str) -> int:
    try:
        return _whole(text)
    except ValueError as error:
        raise ConfigurationError(f"{what} {text!r} is not a whole number") from error


def _whole(text: str) -> int:
    """A whole number, decimal even with zeros in front, or hexadecimal behind 0x."""
    if not _WHOLE.fullmatch(text):
        raise ValueError(text)
    return int(text, 16) if "x" in text.lower() else int(text)


def _scalar(point: Point, text: str) -> Scalar:
    if point.type is DataType.STRING:
        return text
    if text in point.labels.values():
        return text
    try:
        if point.type is DataType.BOOL:
            return _BOOLS[text.lower()]
        if point.type is DataType.BYTES:
            return bytes.fromhex(text.removeprefix("0x"))
        return _numeric(point, text)
    except (KeyError, ValueError) as error:
        raise _wrong_value(point, text) from error


def _numeric(point: Point, text: str) -> float:
    scaled = (point.scale, point.offset) != (1, 0)
    try:
        return _whole(text)
    except ValueError:
        if point.type.floating or scaled:
            return float(text)
        raise


def _wrong_value(point: Point, text: str) -> ConfigurationError:
    wanted = {
        DataType.BOOL: "1 or 0, true or false, on or off",
        DataType.BYTES: "bytes in hexadecimal, as 00ff",
    }.get(point.type, "a number, as 21.5" if point.type.floating else "a whole number, as 21 or 0x15")
    labels = f", or one of {', '.join(point.labels.values())}" if point.labels else ""
    hint = ""
    if "," in text:
        count = text.count(",") + 1
        hint = f"; for {count} values give a count, as in {point.table[0]}@{point.address}:{count}"
    elif point.type.whole and "." in text:
        hint = "; for a value with a fraction give the type, as /f32"
    return ConfigurationError(f"value {text!r} does not read as {point.type}, which takes {wanted}{labels}{hint}")


def _wrong(text: str, problem: str, hint: str) -> ConfigurationError:
    return ConfigurationError(f"point {text!r}: {problem}; try {hint}")
