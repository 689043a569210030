"""MBAP over UDP: a datagram is one whole frame, or none at all.

Nothing is carried from one datagram to the next, so a bad one costs nobody else anything: the stream
of datagrams has no fault.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from everbus.protocol.framing.base import Frame, FramerStatistics
from everbus.protocol.framing.mbap import HEADER_BYTES, MAX_ADU_BYTES

__all__ = ["DatagramFramer"]

_HEADER: Final = Struct(">HHHB")
_LENGTH_END: Final = 6


class DatagramFramer:
    """Parser of datagrams: each ``feed`` is one."""

    __slots__ = ("_discarded", "_frames", "_malformed")

    fault: None = None
    """Never: the next datagram begins anew."""
    pending: int = 0
    """Nothing is kept."""
    pending_transaction: int | None = None
    """Nothing is kept."""

    def __init__(self) -> None:
        self._frames = self._malformed = self._discarded = 0

    def feed(self, data: bytes | bytearray | memoryview) -> list[Frame]:
        datagram = bytes(data)
        if HEADER_BYTES < len(datagram) <= MAX_ADU_BYTES:
            transaction, protocol, length, unit = _HEADER.unpack_from(datagram)
            if not protocol and length == len(datagram) - _LENGTH_END:
                self._frames += 1
                return [Frame(unit, datagram[HEADER_BYTES:], transaction)]
        self._malformed += 1
        self._discarded += len(datagram)
        return []

    def gap(self) -> list[Frame]:
        """Nothing is held."""
        return []

    def encode(self, unit: int, pdu: bytes, transaction: int = 0) -> bytes:
        return _HEADER.pack(transaction, 0, len(pdu) + 1, unit) + pdu

    def statistics(self) -> FramerStatistics:
        return FramerStatistics(self._frames, malformed=self._malformed, discarded_bytes=self._discarded)
