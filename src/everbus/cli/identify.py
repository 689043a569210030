"""``everbus identify``: what a device says of itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import click

from everbus.cli.asking import client_options, error_document, failure_of, open_client, shown
from everbus.cli.helping import HelpfulCommand
from everbus.cli.output import ExitCode, write_json, write_line, write_table
from everbus.errors import (
    ConnectError,
    ExceptionResponseError,
    ModbusError,
    ModbusTimeoutError,
    NetworkError,
    PeerError,
)
from everbus.maps.datatypes import DataType
from everbus.maps.points import Point, Table, reference
from everbus.protocol.codes import exception_name
from everbus.sync.unit import Unit

__all__ = ["command"]

_LEVELS: Final = {1: "basic", 2: "regular", 3: "extended"}
_OBJECTS: Final = (
    "vendor name",
    "product code",
    "revision",
    "vendor URL",
    "product name",
    "model name",
    "application name",
)
_MARKER: Final = int.from_bytes(b"SunS", "big")
_MARKER_AT: Final = (40000, 0, 50000)
"""Where SunSpec's marker may be, in the order in which its own tools look; PDU addresses."""

_COMMON_MODEL: Final = 1
_COMMON_TEXTS: Final = {
    "manufacturer": (4, 16),
    "model": (20, 16),
    "options": (36, 8),
    "version": (44, 8),
    "serial": (52, 16),
}
"""Texts of the common model: registers behind the marker's place, and how many."""


@dataclass(frozen=True, slots=True)
class Part:
    """One question, and what came of it.

    Args:
        source: ``11``, ``2B/0E`` or ``SunSpec``.
        what: which part of it.
        document: what was found, for programs; empty: nothing.
        lines: the same for people: names and values.
        error: how it ended otherwise.
    """

    source: str
    what: str
    document: dict[str, object] = field(default_factory=dict)
    lines: tuple[tuple[str, str], ...] = ()
    error: ModbusError | None = None

    def as_dict(self) -> dict[str, object]:
        """For programs."""
        document = {"source": self.source, "what": self.what, "found": bool(self.document), **self.document}
        if self.error is not None:
            document["error"] = error_document(self.error)
        return document

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """For people: source, name and value of everything that there is to say."""
        for name, value in self.lines:
            yield self.source, name, value
        if isinstance(self.error, ExceptionResponseError):
            yield self.source, self.what, f"refused, exception {self.error.code:02X}: {exception_name(self.error.code)}"
        elif self.error is not None:
            yield self.source, self.what, "silent" if isinstance(self.error, ModbusTimeoutError) else str(self.error)
        elif not self.lines:
            yield self.source, self.what, "nothing more" if self.document else "no marker"


@click.command("identify", cls=HelpfulCommand)
@click.argument("url")
@client_options
def command(url: str, unit: int, timeout_s: float, retries: int, as_json: bool) -> int:
    """Ask a device what it is.

    It is asked for its server id (function 11), its identification (2B/0E, as far as it goes) and
    SunSpec's marker, in holding registers 40000, 0 and 50000, with the common model behind it. Many
    devices have none or one of these; what one refuses is told, and the next is asked.

    Exit codes: 0 it said something, 1 it refused everything, 2 usage, 3 cannot connect, 4 timeout,
    5 protocol error.

    Examples:
        everbus identify tcp://192.0.2.7:502

        everbus identify 192.0.2.7 --unit 3 --json
    """
    with open_client(url, timeout_s, retries) as client:
        parts = list(_parts(client.unit(unit)))
    failure = None
    errors = [part.error for part in parts if part.error is not None]
    if not any(part.document for part in parts):
        failure = failure_of(errors[0], [])
        failure.message = f"the device does not say what it is; the first answer: {failure.message}"
    if as_json:
        document: dict[str, object] = {"ok": failure is None, "endpoint": str(client.endpoint), "unit": unit}
        document["parts"] = [part.as_dict() for part in parts]
        if failure is not None:
            document["error"] = failure.document()
        write_json(document)
    else:
        write_table([row for part in parts for row in part.rows()])
    if failure is not None:
        write_line(failure.lines())
    return failure.code if failure is not None else ExitCode.OK


def _parts(unit: Unit) -> Iterator[Part]:
    yield _server_id(unit)
    yield from _identification(unit)
    try:
        yield from _sunspec(unit)
    except ConnectError as error:  # it was there before: what it said counts
        yield Part("SunSpec", "marker", error=error)


def _server_id(unit: Unit) -> Part:
    try:
        data = unit.report_server_id()
    except (PeerError, NetworkError, ModbusTimeoutError) as error:
        return Part("11", "server id", error=error)
    text = _text(data)
    return Part("11", "server id", {"text": text, "data": data.hex()}, (("server id", f"{text}  ({data.hex(' ')})"),))


def _identification(unit: Unit) -> Iterator[Part]:
    """Level by level, until one is refused; what an earlier level had is not told again."""
    known: dict[int, bytes] = {}
    for level, name in _LEVELS.items():
        try:
            objects = unit.read_device_identification(level)
        except (PeerError, NetworkError, ModbusTimeoutError) as error:
            yield Part("2B/0E", name, error=error)
            return
        new = {number: value for number, value in sorted(objects.items()) if known.get(number) != value}
        known |= objects
        document: dict[str, object] = {
            "objects": [
                {"id": number, "name": _object_name(number), "text": _text(value), "data": value.hex()}
                for number, value in new.items()
            ]
        }
        yield Part(
            "2B/0E", name, document, tuple((_object_name(number), _text(value)) for number, value in new.items())
        )


def _object_name(number: int) -> str:
    return _OBJECTS[number] if number < len(_OBJECTS) else f"object {number:02X}"


def _sunspec(unit: Unit) -> Iterator[Part]:
    for address in _MARKER_AT:
        (marker,) = unit.read_points([Point(Table.HOLDING, address, type=DataType.U32)])
        what = f"holding register {address} (reference {reference(Table.HOLDING, address)})"
        if marker.value == _MARKER:
            yield _common_model(unit, address, what)
            return
        yield Part("SunSpec", what, error=marker.error)
        if isinstance(marker.error, ModbusTimeoutError):
            return  # silent to a read here, silent to all of them


def _common_model(unit: Unit, address: int, what: str) -> Part:
    """What stands behind a marker: mostly the common model, the device's name plate."""
    points = [Point(Table.HOLDING, address + 2)]
    for name, (behind, count) in _COMMON_TEXTS.items():
        points.append(Point(Table.HOLDING, address + behind, name=name, type=DataType.BYTES, count=count))
    found: dict[str, object] = {"address": address, "reference": reference(Table.HOLDING, address)}
    number, *texts = unit.read_points(points)
    error = number.error
    lines = [("marker", what)]
    if number.value == _COMMON_MODEL:
        for text in texts:
            error = error or text.error
            if isinstance(text.value, bytes):
                said = _text(text.value.partition(b"\0")[0])
                found[text.point.name] = said
                lines.append((text.point.name, said))
    elif number.value is not None:
        found["first_model"] = number.value
        lines.append(("first model", f"{shown(number.point, number.value)}, not the common one"))
    return Part("SunSpec", what, found, tuple(lines), error)


def _text(data: bytes) -> str:
    """Bytes of a device as text that does nothing to a terminal."""
    text = data.rstrip(b"\0 ").decode("utf-8", errors="backslashreplace")
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
