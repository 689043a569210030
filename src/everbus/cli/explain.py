"""``everbus explain``: what a frame says."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, BinaryIO, Final

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from everbus.cli.helping import HelpfulCommand
from everbus.cli.output import CommandFailure, ExitCode, write_json
from everbus.protocol.codes import (
    COIL_OFF,
    COIL_ON,
    EXCEPTION_BIT,
    ExceptionCode,
    FunctionCode,
    exception_name,
    function_name,
)
from everbus.protocol.describe import Description, describe
from everbus.protocol.framing.checksums import crc16, lrc8

__all__ = ["command"]

_STDIN: Final = "-"
_MAX_LINE_BYTES: Final = 65536
_MAX_WIDTH: Final = 100
_BYTES_PER_LINE: Final = 8
_HINT: Final = "two digits a byte, as in 0103006B0003; a Modbus ASCII frame as its text, from the colon on"

_COMMENT: Final = re.compile(r"(?:^|\s)#.*")
_ESCAPE: Final = re.compile(r"\\{1,2}([rn])")
_PREFIX: Final = re.compile(r"(?:0x|\\x)([0-9a-f](?![0-9a-f]))?", re.IGNORECASE)
_BETWEEN: Final = re.compile(r"[\s,;:'\"()\[\]{}-]+")
_NOT_HEX: Final = re.compile(r"[^0-9a-f]", re.IGNORECASE)

_FRAMINGS: Final = {"mbap": "Modbus TCP (MBAP)", "rtu": "RTU", "ascii": "ASCII", "pdu": "bare PDU"}
_TABLES: Final = {
    **dict.fromkeys((0x01, 0x05, 0x0F), ("coil", 0)),
    **dict.fromkeys((0x02,), ("discrete input", 1)),
    **dict.fromkeys((0x03, 0x06, 0x10, 0x16, 0x17, 0x18), ("holding register", 4)),
    **dict.fromkeys((0x04,), ("input register", 3)),
}
"""Function code to the table that its addresses are of, and the digit that stands for it."""

_ADDRESSES: Final = ("address", "read_address", "write_address", "fifo_address")
_QUANTITIES: Final = {"quantity": "address", "read_quantity": "read_address", "write_quantity": "write_address"}
_OBJECTS: Final = (
    *("VendorName", "ProductCode", "MajorMinorRevision", "VendorUrl"),
    *("ProductName", "ModelName", "UserApplicationName"),
)
_ADVICE: Final[dict[int, str]] = {
    ExceptionCode.ILLEGAL_FUNCTION: "the device does not have this function, or not now: use another one",
    ExceptionCode.ILLEGAL_DATA_ADDRESS: "not all of these addresses exist: they count from 0 here, in many manuals"
    " from 1; ask for fewer items",
    ExceptionCode.ILLEGAL_DATA_VALUE: "the request does not suit the device: ask for fewer items, look at the value",
    ExceptionCode.SERVER_DEVICE_FAILURE: "the device failed while it did this: look at the device, then try again",
    ExceptionCode.ACKNOWLEDGE: "accepted, and it takes long: ask later whether it is done, do not send it again",
    ExceptionCode.SERVER_DEVICE_BUSY: "the device is busy: try again after a pause",
    ExceptionCode.NEGATIVE_ACKNOWLEDGE: "the device cannot do this programming function",
    ExceptionCode.MEMORY_PARITY_ERROR: "the device's file memory failed its check: it needs service",
    ExceptionCode.GATEWAY_PATH_UNAVAILABLE: "the gateway has no way to this unit: look at its configuration and load",
    ExceptionCode.GATEWAY_TARGET_FAILED_TO_RESPOND: "the unit behind the gateway is silent: look at its address,"
    " wiring and power",
    ExceptionCode.EXTENDED: "the code behind it tells more: see the CANopen specification CiA 309-2",
}
_VENDOR_ADVICE: Final = "the device's manual tells what its own codes mean"


@click.command("explain", cls=HelpfulCommand)
@click.argument("hexadecimal", metavar="HEX|-", nargs=-1, required=True)
@click.option(
    "--framing",
    type=click.Choice(["auto", "pdu", "mbap", "rtu", "ascii"]),
    default="auto",
    show_default=True,
    help="What is around the PDU: mbap is that of Modbus TCP, pdu is nothing.",
)
@click.option(
    "--direction",
    type=click.Choice(["auto", "request", "response"]),
    default="auto",
    show_default=True,
    help="What it is; where both fit, auto takes it for a request.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
def command(hexadecimal: tuple[str, ...], as_json: bool, **how: Any) -> int:
    """Say what a frame says.

    HEX is the frame: with or without spaces, commas, colons or 0x between its bytes, or bytes as
    Python prints them; a Modbus ASCII frame also as its text, from the colon on. Several are joined.
    With - one frame a line is read from stdin, and one JSON document printed for each.

    A frame is valid if it is one well-formed frame and nothing else.

    Exit codes: 0 valid, 2 usage, 5 not valid.

    Examples:  everbus explain 000100000006010300000001  ·  everbus explain :1103006B00037E
    """
    if _STDIN in hexadecimal:
        return _explain_stdin(hexadecimal, how)
    try:
        frame = _parse(" ".join(hexadecimal))
    except ValueError as error:
        raise CommandFailure(ExitCode.USAGE, "usage", str(error), _HINT) from error
    told = describe(frame, **how)
    if as_json:
        write_json(_document(told))
    else:
        console = Console(highlight=False, soft_wrap=False)
        console.width = min(console.width, _MAX_WIDTH)
        with suppress(SystemExit):  # rich's answer to a reader that went away
            _show(frame, told, guessed=how["framing"] == "auto", console=console)
    return ExitCode.OK if told.valid else ExitCode.PROTOCOL


# --- what was given ---------------------------------------------------------------------------


def _parse(text: str) -> bytes:
    """The bytes that somebody wrote down.

    Raises:
        ValueError: these are none.
    """
    text = text.strip(" ")
    if text[:2].lower() in ("b'", 'b"'):
        return _parse_literal(text)
    if text.strip("'\" \t").startswith(":"):
        return _parse_ascii(text.strip("'\" \t"))
    digits = _BETWEEN.sub("", _PREFIX.sub(lambda found: f" 0{found[1]} " if found[1] else " ", text))
    wrong = _NOT_HEX.search(digits)
    if wrong is not None:
        raise ValueError(f"{wrong[0]!a} is not a hexadecimal digit")
    if len(digits) % 2:
        raise ValueError(f"{len(digits)} digits are not whole bytes")
    return bytes.fromhex(digits)


def _parse_literal(text: str) -> bytes:
    try:
        value = ast.literal_eval(text)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise ValueError(f"{text[:40]!a} is not a bytes literal of Python") from error
    if not isinstance(value, bytes):
        raise ValueError(f"{text[:40]!a} is not a bytes literal of Python")
    return value


def _parse_ascii(text: str) -> bytes:
    """The characters of an ASCII frame; its end may be escaped, or left out."""
    text = _ESCAPE.sub(lambda found: {"r": "\r", "n": "\n"}[found[1]], text)
    if not text.endswith(("\r", "\n")):
        text += "\r\n"
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError as error:
        raise ValueError(f"{text[error.start]!a} is no character of a Modbus ASCII frame") from error


# --- for machines -----------------------------------------------------------------------------


def _document(told: Description) -> dict[str, object]:
    document = {"ok": told.valid, **told.as_dict()}
    if told.error is not None:
        document["error"] = CommandFailure(ExitCode.PROTOCOL, "protocol", told.error).document()
    return document


def _explain_stdin(arguments: tuple[str, ...], how: Mapping[str, Any]) -> int:
    if len(arguments) > 1:
        raise click.UsageError(f"{_STDIN} reads frames from stdin and stands alone")
    if sys.stdin is None:
        raise CommandFailure(ExitCode.USAGE, "usage", "stdin is closed", "printf '%s' FRAME | everbus explain -")
    return _explain_lines(sys.stdin.buffer, how)


def _explain_lines(stream: BinaryIO, how: Mapping[str, Any]) -> int:
    """One frame a line in, one document a line out, each written before the next is read."""
    result = ExitCode.OK
    for number, line in enumerate(_lines(stream), 1):
        text = _COMMENT.sub("", line.decode("latin-1")).strip()
        if not text:
            continue
        try:
            document = _document(describe(_parse(text), **how))
        except ValueError as error:
            failure = CommandFailure(ExitCode.USAGE, "usage", f"line {number}: {error}")
            document = {"ok": False, "valid": False, "error": failure.document()}
        if not document["ok"]:
            result = ExitCode.PROTOCOL
        if not write_json(document):
            break
    return result


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """Lines of bounded length: what is longer comes without its rest, which cannot be a frame."""
    while line := stream.readline(_MAX_LINE_BYTES):
        yield line
        while len(line) == _MAX_LINE_BYTES and not line.endswith(b"\n"):
            line = stream.readline(_MAX_LINE_BYTES)


# --- for people -------------------------------------------------------------------------------


def _show(frame: bytes, told: Description, guessed: bool, console: Console) -> None:
    fields = told.fields or {}
    code = fields.get("exception_code")
    kind = "exception" if code is not None else told.direction or "frame"
    title = f"{_FRAMINGS[told.framing]} {kind}"
    console.print(Text(title, style="bold"))
    console.print(_table([(str(at), *cells) for at, *cells in _groups(frame, told.framing)]))
    if told.name is not None:
        console.print(Text(f"\n{told.name}", style="bold"))
        console.print(_table([("", name, _said(name, value, told)) for name, value in fields.items()]))
    if isinstance(code, int):
        console.print(Text(f"\ntry: {_ADVICE.get(code, _VENDOR_ADVICE)}"))
    if told.error is None:
        console.print(Text(f"\nvalid: one {title} and nothing else", style="bold green"))
        return
    console.print(Text(f"\nnot valid: {_printable(told.error)}", style="bold red"))
    if guessed:
        console.print(Text(f"taken for {_FRAMINGS[told.framing]}, which fits best; --framing takes it for another"))


def _table(rows: Sequence[Sequence[str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", min_width=4)
    for _ in rows[0][1:] if rows else ():
        table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _printable(text: str) -> str:
    """Text of a device or of a frame, without what a terminal would obey."""
    return ascii(text)[1:-1]


_Group = tuple[int, str, str, str]
"""Where it begins, its bytes, its name, and what it means."""


def _groups(frame: bytes, framing: str) -> list[_Group]:
    """The parts of a frame, as far as it goes."""
    size = len(frame)
    if framing == "ascii":
        return _ascii_groups(frame)
    if framing == "rtu" and size < 4:
        return [(0, frame.hex(" ").upper(), "", "too short for unit, function code and CRC")]
    groups: list[_Group] = []
    start = 0
    if framing == "mbap":
        groups, start = _header_groups(frame), 6
    if framing != "pdu":
        groups += _group(frame, start, start + 1, "unit", _unit(frame[start : start + 1], framing))
        start += 1
    end = size - 2 if framing == "rtu" else size
    groups += _group(frame, start, start + 1, "function", _function(frame[start : start + 1]))
    groups += _group(frame, start + 1, end, "data", _count(end - start - 1))
    if framing == "rtu":
        right = crc16(frame[:-2]).to_bytes(2, "little")
        says = "right" if frame[-2:] == right else f"wrong, {right.hex(' ').upper()} would be right"
        groups += _group(frame, end, size, "CRC", says)
    return groups


def _group(frame: bytes, start: int, end: int, name: str, says: str) -> list[_Group]:
    part = frame[start:end]
    lines = [part[at : at + _BYTES_PER_LINE].hex(" ").upper() for at in range(0, len(part), _BYTES_PER_LINE)]
    return [(start, "\n".join(lines), name, says)] if part else []


def _header_groups(frame: bytes) -> list[_Group]:
    transaction, protocol, length = (int.from_bytes(frame[at : at + 2], "big") for at in (0, 2, 4))
    follow = max(len(frame) - 6, 0)
    return [
        *_group(frame, 0, 2, "transaction", str(transaction)),
        *_group(frame, 2, 4, "protocol", "not Modbus, that is 0000" if protocol else "Modbus"),
        *_group(frame, 4, 6, "length", _count(length) if length == follow else f"{_count(length)}, {follow} follow"),
    ]


def _ascii_groups(frame: bytes) -> list[_Group]:
    text = frame.decode("latin-1")
    end = text.find("\r\n")
    try:
        body = bytes.fromhex(text[1:end])
    except ValueError:
        body = b""
    if len(body) < 3 or not text.startswith(":"):
        return [(0, _printable(text), "", "no whole line of digits from a colon to CR and LF")]
    right = lrc8(body[:-1])
    groups = [
        (0, ":", "start", ""),
        (1, text[1:3], "unit", _unit(body[:1], "ascii")),
        (3, text[3:5], "function", _function(body[1:2])),
        (5, text[5 : end - 2], "data", _count(len(body) - 3)),
        (end - 2, text[end - 2 : end], "LRC", "right" if body[-1] == right else f"wrong, {right:02X} would be right"),
        (end, _printable(text[end:]), "end", "CR and LF"),
    ]
    return [group for group in groups if group[1]]


def _count(size: int) -> str:
    return f"{size} byte{'' if size == 1 else 's'}"


def _unit(unit: bytes, framing: str) -> str:
    number = int.from_bytes(unit, "big")
    if framing == "mbap":
        return str(number)
    notes = {0: ": broadcast, nobody answers"} | dict.fromkeys(range(248, 256), ": reserved on serial lines")
    return f"{number}{notes.get(number, '')}"


def _function(code: bytes) -> str:
    number = int.from_bytes(code, "big")
    name = function_name(number & ~EXCEPTION_BIT)
    return f"exception of {name}" if number & EXCEPTION_BIT else name


# --- fields -----------------------------------------------------------------------------------


def _said(name: str, value: object, told: Description) -> str:
    """A field's value in words for people."""
    if isinstance(value, int):
        return _number(name, value, told)
    if not isinstance(value, list):
        return _printable(str(value))
    if name == "bits":
        text = "".join(map(str, value))
        return " ".join(text[at : at + 8] for at in range(0, len(text), 8))
    return ("\n" if any(isinstance(item, dict) for item in value) else " ").join(map(_item, value))


def _number(name: str, value: int, told: Description) -> str:
    fields, table = told.fields or {}, _TABLES.get(told.function or 0)
    start = fields.get(_QUANTITIES.get(name, ""))
    if table is not None and name in _ADDRESSES:
        return _reference(table, value, 1)
    if table is not None and isinstance(start, int) and value:
        return f"{value}: {_reference(table, start, value)}"
    if name == "exception_code":
        return f"{value:02X} {exception_name(value)}"
    if name == "function":
        return f"{value:02X} {function_name(value)}"
    if name == "value" and told.function == FunctionCode.WRITE_SINGLE_COIL:
        return {COIL_ON: "FF00 on", COIL_OFF: "0000 off"}.get(value, f"{value:04X}")
    return str(value) if value < 10 else f"{value} (hex {value:X})"


def _reference(table: tuple[str, int], address: int, count: int) -> str:
    """A range in both notations: 0-based addresses, and the six digits of many manuals."""
    name, digit = table
    last = address + count - 1
    if count == 1:
        return f"{name} {address} = reference {digit}{address + 1:05}"
    return f"{name}s {address}..{last} = references {digit}{address + 1:05}..{digit}{last + 1:05}"


def _item(item: object) -> str:
    if not isinstance(item, dict):
        return str(item)
    parts = [f"{name} {_printable(str(value))}" for name, value in item.items()]
    number = item.get("id")
    if isinstance(number, int) and number < len(_OBJECTS):
        parts[0] += f" ({_OBJECTS[number]})"
    return ", ".join(parts)
