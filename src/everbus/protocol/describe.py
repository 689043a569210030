"""What a frame says, for logs, people and machines (spec.md 1.3, 1.11, 4.2, 5.5, 5.7).

A frame is valid if it is exactly one well-formed frame of its framing and nothing else, and its PDU
is one that the specification allows. Whether a device has what is asked for does not matter here.
A function code outside the table has no structure to judge: where the framing tells its length it is
well formed, and its bytes are shown as they are.

Where the framing or the direction is not given, each is tried and the reading with the strongest
evidence wins: a valid one before any other, then by how much of the frame fits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, Final, Literal, TypeAlias, get_args

from everbus.errors import PduError, UsageError
from everbus.protocol.codes import EXCEPTION_BIT, MAX_PDU_BYTES, exception_name, function_name
from everbus.protocol.framing.ascii import MAX_ADU_CHARACTERS
from everbus.protocol.framing.checksums import crc16, lrc8
from everbus.protocol.framing.mbap import HEADER_BYTES, MbapFramer
from everbus.protocol.framing.rtu import MAX_ADU_BYTES, MIN_ADU_BYTES, only_silence_ends
from everbus.protocol.pdu.base import NEED_MORE, UNPREDICTABLE, Pdu
from everbus.protocol.pdu.table import PUBLIC, FunctionTable

__all__ = ["Description", "Direction", "Framing", "describe"]

Framing: TypeAlias = Literal["ascii", "mbap", "rtu", "pdu"]
Direction: TypeAlias = Literal["request", "response"]

_LIMIT: Final = 160
_RTU_OVERHEAD: Final = MAX_ADU_BYTES - MAX_PDU_BYTES
_MODBUS_PROTOCOL: Final = b"\x00\x00"
_COLON: Final = b":"
_END: Final = b"\r\n"
_DIGITS: Final = b"0123456789ABCDEF"
_TEXT: Final = _DIGITS + _DIGITS.lower() + _END
_MIN_ASCII_DIGITS: Final = 6


@dataclass(frozen=True, slots=True)
class Description:
    """What a frame says.

    Args:
        valid: it is one well-formed frame and nothing else.
        framing: as given, or as concluded.
        direction: as given, or as concluded; None: nothing in the frame tells.
        transaction: MBAP transaction id, 0..65535.
        unit: unit identifier or serial address, 0..255.
        pdu: function code and data; None where the frame does not show where it is.
        function: function code of the request, in exceptions without the 0x80 bit.
        name: the function's name.
        fields: what the PDU says, by name; ``raw`` alone where it has no structure.
        error: why it is not valid.
    """

    valid: bool
    framing: Framing
    direction: Direction | None = None
    transaction: int | None = None
    unit: int | None = None
    pdu: bytes | None = None
    function: int | None = None
    name: str | None = None
    fields: dict[str, object] | None = None
    error: str | None = None

    def summary(self, limit: int = _LIMIT) -> str:
        """One printable line of at most ``limit`` characters."""
        parts: list[str] = [self.framing]
        if self.direction:
            parts.append(self.direction)
        if self.transaction is not None:
            parts.append(f"transaction {self.transaction}")
        if self.unit is not None:
            parts.append(f"unit {self.unit}")
        said = f"not valid: {self.error}" if self.error else self._content()
        text = ascii(f"{' '.join(parts)}: {said}")[1:-1]
        return text if len(text) <= limit else text[: max(limit - 3, 0)] + "..."

    def _content(self) -> str:
        fields = self.fields or {}
        code = fields.get("exception_code")
        if isinstance(code, int):
            return f"exception {code:02X} ({exception_name(code)}) to {self.name}"
        return " ".join([f"{self.name}", *(f"{name}={value}" for name, value in fields.items())])

    def as_dict(self) -> dict[str, object]:
        """What machines read: these names, the PDU as hexadecimal text, ``error`` only if there is one."""
        document: dict[str, object] = {
            "valid": self.valid,
            "framing": self.framing,
            "transaction": self.transaction,
            "unit": self.unit,
            "pdu": None if self.pdu is None else self.pdu.hex().upper(),
            "direction": self.direction,
            "function": self.function,
            "name": self.name,
            "fields": self.fields,
        }
        if self.error is not None:
            document["error"] = self.error
        return document


class _Evidence(IntEnum):
    """How much of the bytes speaks for a framing."""

    NOTHING = 0
    KNOWN_FUNCTION = 1
    SHORT_CUSTOM = 2
    """A bare PDU of a custom function, too short for any other framing."""
    HEADER = 3
    """Half of an MBAP header: protocol 0000, or the right length."""
    LENGTH = 4
    """The function code predicts exactly this length."""
    CHECKED = 5
    """A checksum, or a whole header, is right."""
    VALID = 6


@dataclass(frozen=True, slots=True)
class _Reading:
    """One attempt to read the bytes."""

    description: Description
    evidence: _Evidence = _Evidence.NOTHING
    structured: bool = False

    @property
    def weight(self) -> tuple[int, bool]:
        return self.evidence, self.structured


def describe(
    data: bytes | bytearray | memoryview,
    framing: Framing | Literal["auto"] = "auto",
    direction: Direction | Literal["auto"] = "auto",
    table: FunctionTable = PUBLIC,
) -> Description:
    """Say what a frame says.

    Args:
        data: its bytes, of an ASCII frame its characters with CR and LF.
        framing: what is around the PDU; ``pdu`` is nothing.
        direction: who sent it; ``auto`` prefers a request where both fit.
        table: the function codes that are known.

    Raises:
        UsageError: framing or direction is none of these.
    """
    frame = bytes(data)
    framings = _choices("framing", framing, get_args(Framing))
    directions = _choices("direction", direction, get_args(Direction))
    if framing == "auto" and not frame.startswith(_COLON):
        framings = framings[1:]
    readings = [_READERS[one](frame, way, table) for one in framings for way in directions]
    told = max(readings, key=lambda reading: reading.weight).description
    return replace(told, direction=None) if told.pdu is None and direction == "auto" else told


def _choices(name: str, given: str, known: tuple[Any, ...]) -> tuple[Any, ...]:
    if given == "auto":
        return known
    if given not in known:
        raise UsageError(f"{name} {given!r} is none of auto, {', '.join(known)}")
    return (given,)


def _no_frame(framing: Framing, way: Direction, error: str, evidence: _Evidence) -> _Reading:
    return _Reading(Description(False, framing, way, error=error), evidence)


def _with_pdu(told: Description, pdu: bytes, table: FunctionTable, evidence: _Evidence) -> _Reading:
    """Add what the PDU says; the evidence is that of the frame, should its PDU not be legal."""
    function = pdu[0] & ~EXCEPTION_BIT
    fields, error, structured = _content(pdu, told.direction, table)
    told = replace(
        told,
        valid=error is None,
        pdu=pdu,
        function=function,
        name=function_name(function),
        fields=fields,
        error=error,
    )
    return _Reading(told, evidence if error else _Evidence.VALID, structured)


def _content(pdu: bytes, way: Direction | None, table: FunctionTable) -> tuple[dict[str, object], str | None, bool]:
    """The fields of a PDU, what is wrong with it, and whether it has its structure."""
    raw: dict[str, object] = {"raw": pdu.hex()}
    exception = bool(pdu[0] & EXCEPTION_BIT)
    if way == "request" and exception:
        return raw, f"function code {pdu[0]:02X} is that of an exception response; a request has 01..7F", False
    if pdu[0] & ~EXCEPTION_BIT not in table and not (exception and len(pdu) == 2):
        return raw, None, False
    try:
        parsed = table.parse_request(pdu) if way == "request" else table.parse_response(pdu)
    except PduError as error:
        return raw, str(error), False
    try:
        if isinstance(parsed, Pdu):
            parsed.check()
    except PduError as error:
        return parsed.fields(), str(error), True
    return parsed.fields(), None, True


# --- framings ---------------------------------------------------------------------------------


def _read_pdu(frame: bytes, way: Direction, table: FunctionTable) -> _Reading:
    if not 1 <= len(frame) <= MAX_PDU_BYTES:
        return _no_frame("pdu", way, f"a PDU has 1..{MAX_PDU_BYTES} bytes, this one {len(frame)}", _Evidence.NOTHING)
    reading = _with_pdu(Description(False, "pdu", way), frame, table, _Evidence.NOTHING)
    if reading.structured:
        return reading if reading.description.valid else replace(reading, evidence=_Evidence.LENGTH)
    if not reading.description.valid:
        return replace(reading, evidence=_Evidence.KNOWN_FUNCTION)
    # Any bytes are the PDU of some custom function: this alone is no evidence.
    short = len(frame) <= HEADER_BYTES and 0 < frame[0] < EXCEPTION_BIT
    return replace(reading, evidence=_Evidence.SHORT_CUSTOM if short else _Evidence.NOTHING)


def _read_mbap(frame: bytes, way: Direction, table: FunctionTable) -> _Reading:
    framer = MbapFramer()
    found = framer.feed(frame)
    size = len(frame)
    if found and HEADER_BYTES + len(found[0].pdu) == size:
        told = Description(False, "mbap", way, found[0].transaction, found[0].unit)
        return _with_pdu(told, found[0].pdu, table, _Evidence.CHECKED)
    if found:
        problem = _follows(HEADER_BYTES + len(found[0].pdu), size)
    elif framer.fault is not None:
        problem = f"byte {2 if framer.fault.reason == 'protocol_id' else 4}: {framer.fault}"
    elif size < HEADER_BYTES:
        problem = f"cut off: the header has {HEADER_BYTES} bytes, {size} came"
    else:
        problem = f"cut off: the length at byte 4 makes {_declared(frame)} bytes, {size} came"
    half = frame[2:4] == _MODBUS_PROTOCOL or (size >= HEADER_BYTES and _declared(frame) == size)
    return _no_frame("mbap", way, problem, _Evidence.HEADER if half else _Evidence.NOTHING)


def _declared(frame: bytes) -> int:
    """The size that an MBAP header gives to its frame."""
    return HEADER_BYTES - 1 + (frame[4] << 8 | frame[5])


def _follows(end: int, size: int) -> str:
    return f"byte {end}: a frame ends before it, {size - end} more of {size} bytes follow"


def _read_rtu(frame: bytes, way: Direction, table: FunctionTable) -> _Reading:
    size = len(frame)
    if not MIN_ADU_BYTES <= size <= MAX_ADU_BYTES:
        problem = f"an RTU frame has {MIN_ADU_BYTES}..{MAX_ADU_BYTES} bytes, {size} came"
        return _no_frame("rtu", way, problem, _Evidence.NOTHING)
    good = crc16(frame) == 0
    pdu = frame[1:-2]
    predict = table.predict_request if way == "request" else table.predict_response
    length = predict(frame, 1, size - 2)
    evidence = _Evidence.KNOWN_FUNCTION if pdu[0] & ~EXCEPTION_BIT in table else _Evidence.NOTHING
    silence = length == UNPREDICTABLE or only_silence_ends(pdu, [length])
    if not silence and length + _RTU_OVERHEAD != size:
        problem, checked = _wrong_length(frame, way, length + _RTU_OVERHEAD if length != NEED_MORE else 0)
        return _no_frame("rtu", way, problem, _Evidence.CHECKED if checked else evidence)
    reading = _with_pdu(Description(False, "rtu", way, unit=frame[0]), pdu, table, _Evidence.CHECKED)
    if not good:
        fits = not silence and evidence is _Evidence.KNOWN_FUNCTION
        evidence = _Evidence.LENGTH if fits else evidence
        return _refused(reading, _crc_problem(frame), evidence)
    if silence and evidence is _Evidence.NOTHING:
        problem = f"byte 1: function code {pdu[0]:02X} is not known, so silence alone would end its frame"
        return _refused(reading, f"{problem}; the CRC over all {size} bytes is right", _Evidence.CHECKED)
    return reading


def _refused(reading: _Reading, problem: str, evidence: _Evidence) -> _Reading:
    """The same content in a frame that is not good."""
    return replace(reading, description=replace(reading.description, valid=False, error=problem), evidence=evidence)


def _crc_problem(frame: bytes) -> str:
    found, right = frame[-2:], crc16(frame[:-2]).to_bytes(2, "little")
    hint = ": its bytes are swapped" if found == right[::-1] else ""
    return f"byte {len(frame) - 2}: CRC {found.hex().upper()} is wrong, {right.hex().upper()} would be right{hint}"


def _wrong_length(frame: bytes, way: Direction, total: int) -> tuple[str, bool]:
    """What is wrong if the function code predicts ``total`` bytes, 0: more; and whether a CRC is right."""
    size = len(frame)
    if 0 < total < size and crc16(frame[:total]) == 0:
        return _follows(total, size), True
    what = f"{function_name(frame[1] & ~EXCEPTION_BIT)} {'exception' if frame[1] & EXCEPTION_BIT else way}"
    if 0 < total < size:
        problem = f"byte {total}: the {what} ends before it, {size - total} more of {size} bytes follow"
    else:
        problem = f"cut off: the {what} has {total or 'more'} bytes, {size} came"
    if crc16(frame) == 0:
        return f"{problem}; the CRC over all of them is right: the sender counts wrong", True
    return problem, False


def _read_ascii(frame: bytes, way: Direction, table: FunctionTable) -> _Reading:
    problem = _ascii_problem(frame)
    if problem is not None:
        text = frame.startswith(_COLON) and frame[1:2] in _TEXT
        return _no_frame("ascii", way, problem, _Evidence.CHECKED if text else _Evidence.NOTHING)
    body = bytes.fromhex(frame[1:-2].decode("ascii"))
    reading = _with_pdu(Description(False, "ascii", way, unit=body[0]), body[1:-1], table, _Evidence.CHECKED)
    right = lrc8(body[:-1])
    if body[-1] == right:
        return reading
    problem = f"byte {len(frame) - 4}: LRC {body[-1]:02X} is wrong, {right:02X} would be right"
    return _refused(reading, problem, _Evidence.CHECKED)


def _ascii_problem(frame: bytes) -> str | None:
    """What keeps these characters from being colon, digits of 3..255 bytes, CR and LF."""
    size = len(frame)
    if not frame.startswith(_COLON):
        if not frame:
            return "cut off: there is nothing"
        hint = ": bit 7 is set, the port is not on 7 data bits" if frame[0] & 0x7F == _COLON[0] else ""
        return f"byte 0: {frame[0]:02X} is not the colon that begins a frame{hint}"
    end = frame.find(_END)
    if end < 0:
        return _ascii_end_problem(frame)
    if end + len(_END) > MAX_ADU_CHARACTERS:
        return f"byte {MAX_ADU_CHARACTERS}: a frame has at most {MAX_ADU_CHARACTERS} characters"
    for at in range(1, end):
        if frame[at] not in _DIGITS:
            return f"byte {at}: {_wrong_digit(frame[at])}"
    digits = end - 1
    if digits % 2:
        return f"byte {end}: {digits} digits are not whole bytes"
    if digits < _MIN_ASCII_DIGITS:
        return f"byte {end}: unit, function code and LRC have 6 digits, here are {digits}"
    return _follows(end + len(_END), size) if end + len(_END) < size else None


def _ascii_end_problem(frame: bytes) -> str:
    last = len(frame) - 1
    if frame.endswith(b"\n"):
        return f"byte {last}: LF without the CR before it"
    if frame.endswith(b"\r"):
        return f"byte {last}: CR without the LF behind it"
    return "cut off: CR and LF are missing at the end"


def _wrong_digit(character: int) -> str:
    if character == _COLON[0]:
        return "a colon begins a new frame"
    text = ascii(chr(character))
    return f"{text} is lower case" if character in _DIGITS.lower() else f"{text} is not a hexadecimal digit"


_READERS: Final[dict[Framing, Callable[[bytes, Direction, FunctionTable], _Reading]]] = {
    "ascii": _read_ascii,
    "mbap": _read_mbap,
    "rtu": _read_rtu,
    "pdu": _read_pdu,
}
