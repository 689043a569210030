"""MBAP, the frame of Modbus TCP: transaction, protocol, length, unit (TG 3.1.3; spec.md 4.1, 4.2).

The length field alone is the frame boundary: it is consumed whole, whatever the PDU inside needs,
or bytes behind a short PDU would be read as the next request (libmodbus issues 848 and 867).
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from everbus.errors import FramingError
from everbus.protocol.codes import MAX_PDU_BYTES
from everbus.protocol.framing.base import Frame, FramerStatistics

__all__ = ["HEADER_BYTES", "MAX_ADU_BYTES", "MbapFramer"]

HEADER_BYTES: Final = 7
MAX_ADU_BYTES: Final = HEADER_BYTES + MAX_PDU_BYTES

_HEADER: Final = Struct(">HHHB")
_PLAIN: Final = Struct(">HHHB5s")
"""A frame around a PDU of five bytes: every request of 01 to 06."""

_PLAIN_BYTES: Final = _PLAIN.size

_new: Final = tuple.__new__
"""Builds a named tuple without a call in Python: this is the hot path of every server."""

_MIN_LENGTH: Final = 2
_MAX_LENGTH: Final = 1 + MAX_PDU_BYTES
_PLAIN_LENGTH: Final = 6
_LENGTH_END: Final = 6
"""Protocol and length stand in the first six bytes: a bad header is known before its unit comes."""

_FOREIGN: Final = (
    (b"\x16\x03", "a TLS handshake"),
    (b"SSH-", "an SSH banner"),
    (b"GET ", "an HTTP request"),
    (b"POST ", "an HTTP request"),
    (b"HEAD ", "an HTTP request"),
    (b"PUT ", "an HTTP request"),
    (b"OPTIONS ", "an HTTP request"),
    (b":", "a Modbus ASCII frame"),
)


class MbapFramer:
    """Incremental parser of a Modbus TCP stream; holds at most one unfinished frame of 260 bytes."""

    __slots__ = ("_discarded", "_frames", "_rest", "fault", "pending")

    def __init__(self) -> None:
        self._rest = b""
        self._frames = 0
        self._discarded = 0
        self.pending: int = 0
        self.fault: FramingError | None = None

    @property
    def pending_transaction(self) -> int | None:
        return self._rest[0] << 8 | self._rest[1] if self.pending > 1 else None

    def feed(self, data: bytes | bytearray | memoryview) -> list[Frame]:
        if self.fault is not None:
            self._discarded += len(data)
            return []
        buffer = self._rest + data if self._rest else bytes(data)
        size = len(buffer)
        frames = _plain_frames(buffer) if size % _PLAIN_BYTES == 0 else []
        at = len(frames) * _PLAIN_BYTES
        while size - at >= HEADER_BYTES:
            transaction, protocol, length, unit = _HEADER.unpack_from(buffer, at)
            if protocol or not _MIN_LENGTH <= length <= _MAX_LENGTH:
                break
            end = at + _LENGTH_END + length
            if end > size:
                break
            frames.append(_new(Frame, (unit, buffer[at + HEADER_BYTES : end], transaction)))
            at = end
        if at < size or self.pending:
            self._keep(buffer[at:])
        self._frames += len(frames)
        return frames

    def _keep(self, rest: bytes) -> None:
        """Hold the rest of the bytes, unless its header already shows that it is not Modbus."""
        if len(rest) >= _LENGTH_END:
            protocol = rest[2] << 8 | rest[3]
            length = rest[4] << 8 | rest[5]
            if protocol:
                self.fault = _not_modbus(rest, "protocol_id", f"protocol id {protocol:04X} is not 0000")
            elif not _MIN_LENGTH <= length <= _MAX_LENGTH:
                self.fault = _not_modbus(rest, "length", f"length {length} is outside 2..254")
        if self.fault:
            self._discarded += len(rest)
            rest = b""
        self._rest = rest
        self.pending = len(self._rest)

    def gap(self) -> list[Frame]:
        """Silence means nothing on TCP: the rest of the frame may still come."""
        return []

    def encode(self, unit: int, pdu: bytes, transaction: int = 0) -> bytes:
        return _HEADER.pack(transaction, 0, len(pdu) + 1, unit) + pdu

    def statistics(self) -> FramerStatistics:
        return FramerStatistics(self._frames, malformed=1 if self.fault else 0, discarded_bytes=self._discarded)


def _plain_frames(buffer: bytes) -> list[Frame]:
    """The frames in the buffer if all of them are plain ones, else none: these cost half of it so."""
    if len(buffer) == _PLAIN_BYTES:
        transaction, protocol, length, unit, pdu = _PLAIN.unpack(buffer)
        return [_new(Frame, (unit, pdu, transaction))] if length == _PLAIN_LENGTH and not protocol else []
    frames = [
        _new(Frame, (unit, pdu, transaction))
        for transaction, protocol, length, unit, pdu in _PLAIN.iter_unpack(buffer)
        if length == _PLAIN_LENGTH and not protocol
    ]
    return frames if len(frames) * _PLAIN_BYTES == len(buffer) else []


def _not_modbus(rest: bytes, reason: str, problem: str) -> FramingError:
    looks_like = next((name for start, name in _FOREIGN if rest.startswith(start)), None)
    if looks_like is None and reason == "protocol_id" and 1 <= rest[1] <= 0x18:
        looks_like = "a Modbus RTU frame"
    hint = f"; it looks like {looks_like}" if looks_like else ""
    return FramingError(reason, f"{problem}{hint} (first bytes {rest[:8].hex(' ')})")
