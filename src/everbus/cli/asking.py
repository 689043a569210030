"""What the commands that ask a device have in common: how it is reached, and how values and failures are shown."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from math import isfinite, isnan
from typing import Any, Final

import click

from everbus.cli.output import CommandFailure, ExitCode, write_line
from everbus.errors import (
    ConfigurationError,
    ExceptionResponseError,
    FramingError,
    ModbusError,
    ModbusTimeoutError,
    NetworkError,
)
from everbus.maps.datatypes import DataType, Value
from everbus.maps.notation import parse_reference
from everbus.maps.planner import Reading
from everbus.maps.points import Point, reference
from everbus.protocol.codes import ExceptionCode, FunctionCode
from everbus.sync.client import Client

__all__ = [
    "NumberRange",
    "advice",
    "client_options",
    "described",
    "error_document",
    "exit_code",
    "failure_of",
    "json_value",
    "open_client",
    "part",
    "quality",
    "readings_document",
    "shown",
    "tell",
]

_READS: Final = range(FunctionCode.READ_COILS, FunctionCode.READ_INPUT_REGISTERS + 1)
_PACKED: Final = {DataType.F16: (">e", 3), DataType.F32: (">f", 6)}
"""How ``struct`` packs a float, and the digits that it certainly keeps."""


class NumberRange(click.FloatRange):
    """A number of a range; one that is not a number is in none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if isnan(number):
            self.fail(f"{value} is not a number.", param, ctx)
        return number


def client_options(
    command: Callable[..., Any], json_help: str = "Print one JSON document on stdout."
) -> Callable[..., Any]:
    """Add the options that say how a device is reached."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help=json_help),
        click.option("--retries", type=click.IntRange(0), default=1, show_default=True, help="For reads only."),
        click.option(
            "--timeout",
            "timeout_s",
            type=float,
            default=3.0,
            show_default=True,
            metavar="S",
            help="For each request, retries included.",
        ),
        click.option("--unit", type=click.IntRange(0, 255), default=1, show_default=True, help="Whom to ask."),
    ):
        command = option(command)
    return command


def open_client(url: str, timeout_s: float, retries: int) -> Client:
    """A client for a command; it connects when it is entered."""
    return Client(url, timeout_s=timeout_s, connect_timeout_s=timeout_s, retries=retries)


def described(point: Point) -> dict[str, object]:
    """A point for programs."""
    return {
        "point": str(point),
        "table": str(point.table),
        "address": point.address,
        "reference": point.reference,
        "type": str(point.type),
    }


def part(point: Point, first: int, count: int) -> Point:
    """Some values of a point that has many, as a point."""
    return replace(point, address=point.address + first * (point.items // point.values), count=count)


def json_value(value: Value) -> object:
    """A value for programs: bytes in hexadecimal; null for floats that JSON has not, infinite ones and NaN."""
    if isinstance(value, list):
        return [json_value(item) for item in value]
    if isinstance(value, bytes):
        return value.hex()
    return None if isinstance(value, float) and not isfinite(value) else value


def shown(point: Point, value: Value) -> str:
    """A value for people; a list with blanks, and a dash for what is not available."""
    if isinstance(value, list):
        return " ".join("-" if item is None else shown(point, item) for item in value)
    if value is None:
        return "not available"
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float):
        return _shortest(point.type, value)
    if isinstance(value, str):
        return value if value.isprintable() else ascii(value)  # a device's text must not drive the terminal
    return str(int(value))


def _shortest(kind: DataType, value: float) -> str:
    """The fewest digits that mean this float in its type: 21.3, where an f32 is 21.299999237060547."""
    layout, digits = _PACKED.get(kind, ("", 0))
    if not layout or not isfinite(value) or value.is_integer():
        return str(value)
    text = f"{value:.{digits}g}"
    while struct.pack(layout, float(text)) != struct.pack(layout, value):
        digits += 1
        text = f"{value:.{digits}g}"
    return str(float(text))


def readings_document(readings: Sequence[Reading], at: datetime) -> dict[str, object]:
    """Readings for programs: ``ok``, ``error`` if one has one, and ``points``."""
    failed = [(reading.error, reading.point) for reading in readings if reading.error is not None]
    document: dict[str, object] = {"ok": not failed}
    if failed:
        document["error"] = _overall(failed, len(readings)).document()
    return document | {"points": [_reading(reading, at) for reading in readings]}


def _overall(failed: Sequence[tuple[ModbusError, Point]], count: int) -> CommandFailure:
    """The first error where all points have one, or that some have."""
    first, point = failed[0]
    if len(failed) == count:
        return failure_of(first, [point])
    message = f"{len(failed)} of {count} points could not be read; the first: {first}"
    return CommandFailure(ExitCode.PARTIAL, "partial", message)


def _reading(reading: Reading, at: datetime) -> dict[str, object]:
    document = described(reading.point) | {
        "value": json_value(reading.value),
        "raw": list(reading.raw),
        "quality": quality(reading),
        "timestamp": at.astimezone(UTC).isoformat(timespec="milliseconds"),
    }
    if reading.error is not None:
        document["error"] = failure_of(reading.error, [reading.point]).document()
    return document


def quality(reading: Reading) -> str:
    """GOOD if nothing in the value is null, NO_DATA if something is; or what kept it from being read."""
    error = reading.error
    if error is None:
        values = reading.value if isinstance(reading.value, list) else [reading.value]
        return "NO_DATA" if any(json_value(value) is None for value in values) else "GOOD"
    if isinstance(error, ExceptionResponseError):
        return "MISSING" if error.code == ExceptionCode.ILLEGAL_DATA_ADDRESS else "REFUSED"
    return "OFFLINE" if isinstance(error, (ModbusTimeoutError, NetworkError)) else "BAD"


def error_document(error: ModbusError) -> dict[str, object]:
    """An error for programs, without advice."""
    return _failure(error, "").document()


def exit_code(error: ModbusError) -> tuple[ExitCode, str]:
    """How a command ends that ended with this, and what programs call it."""
    if isinstance(error, ExceptionResponseError):
        return ExitCode.EXCEPTION, "modbus_exception"
    if isinstance(error, ModbusTimeoutError):
        return ExitCode.TIMEOUT, "timeout"
    if isinstance(error, NetworkError) and not _not_modbus(error):
        return ExitCode.CANNOT_CONNECT, "cannot_connect"
    return ExitCode.PROTOCOL, "protocol"


def _not_modbus(error: ModbusError) -> bool:
    """The connection was ended because of what came through it."""
    return isinstance(error.__cause__, FramingError)


def tell(readings: Iterable[Reading]) -> None:
    """What could not be read, for people: once for all the points of one request."""
    groups: dict[int, tuple[ModbusError, list[Point]]] = {}
    for reading in readings:
        if reading.error is not None:
            groups.setdefault(id(reading.error), (reading.error, []))[1].append(reading.point)
    for error, points in groups.values():
        failure = failure_of(error, points)
        failure.message = f"{', '.join(map(str, points))}: {failure.message}"
        write_line(failure.lines())


def failure_of(error: ModbusError, points: Sequence[Point]) -> CommandFailure:
    """The end of a command that could do nothing, with what to try about these points."""
    return _failure(error, advice(error, points))


def _failure(error: ModbusError, hint: str) -> CommandFailure:
    exception = error.code if isinstance(error, ExceptionResponseError) else None
    return CommandFailure(*exit_code(error), str(error), hint, exception)


def advice(error: ModbusError, points: Sequence[Point]) -> str:
    """What to try about an error of these points; empty: nothing that is known."""
    if isinstance(error, ModbusTimeoutError):
        return "another --unit, or a longer --timeout"
    if not isinstance(error, ExceptionResponseError):
        return "rtu+tcp:// in place of tcp://, if it is Modbus at all" if _not_modbus(error) else ""
    if error.code in (ExceptionCode.GATEWAY_PATH_UNAVAILABLE, ExceptionCode.GATEWAY_TARGET_FAILED_TO_RESPOND):
        return "another --unit: the gateway is there, the unit behind it is not"
    if error.code == ExceptionCode.ILLEGAL_DATA_VALUE:
        reading = error.function_code in _READS
        return f"{'fewer at once' if reading else 'another value'}: the device's manual says what it takes"
    if error.code == ExceptionCode.ILLEGAL_FUNCTION and error.function_code == FunctionCode.MASK_WRITE_REGISTER:
        return "the whole register: the device cannot change a part of one"
    if error.code == ExceptionCode.ILLEGAL_FUNCTION and points:
        return f"another table: the device has no {points[0].table.item}s, or does not do this with them"
    return _elsewhere(points[0]) if error.code == ExceptionCode.ILLEGAL_DATA_ADDRESS and points else ""


def _elsewhere(point: Point) -> str:
    """Where a point that the device does not serve may be meant to be."""
    first, last = point.address, point.range.end - 1
    if first == last:
        where = f"{point.table.item} {first} (reference {point.reference}) is not served"
    else:
        references = f"references {point.reference} to {reference(point.table, last)}"
        where = f"not all of {point.table.item}s {first} to {last} ({references}) are served"
    if _looks_like_reference(point):
        return f"ref:{first}, if that is a reference number; {where}"
    if not first:
        return f"another table or a higher address; {where}"
    before = replace(point, address=first - 1)
    return f"{before} (reference {before.reference}), if your manual counts from 1; {where}"


def _looks_like_reference(point: Point) -> bool:
    try:
        return parse_reference(str(point.address))[0] is point.table
    except ConfigurationError:
        return False
