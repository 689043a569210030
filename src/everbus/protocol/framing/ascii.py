"""ASCII frames: colon, hexadecimal of unit, PDU and LRC, CR, LF (SL 2.5.2; spec.md 5.7).

A colon always begins a new frame, so a stream is in step again at the next one. What comes before
a colon is ignored. How long a frame may pause (1 s by default) is the host's rule: it calls ``gap``.
"""

from __future__ import annotations

from binascii import unhexlify
from typing import Final

from everbus.errors import FramingError, UsageError
from everbus.protocol.codes import MAX_PDU_BYTES, NOT_A_DELIMITER
from everbus.protocol.framing.base import Frame, FramerStatistics
from everbus.protocol.framing.checksums import lrc8

__all__ = ["LINE_FEED", "MAX_ADU_CHARACTERS", "AsciiFramer"]

LINE_FEED: Final = 0x0A

MAX_ADU_CHARACTERS: Final = 1 + 2 * (1 + MAX_PDU_BYTES + 1) + 2
_MIN_DIGITS: Final = 6
"""Of unit, function code and LRC."""

_COLON: Final = b":"
_RETURN: Final = b"\r"


class AsciiFramer:
    """Incremental parser of an ASCII stream; holds at most 512 characters of an unfinished frame.

    Args:
        delimiter: the character that ends a frame behind CR; function 08/03 changes it.
        lenient: also accept what some devices send: lower case, and CR or the delimiter alone at
            the end. What is sent is always strict.

    Raises:
        UsageError: the delimiter is outside 0..255, or occurs inside frames.
    """

    __slots__ = ("_checksum_errors", "_delimiter", "_discarded", "_frames", "_held", "_lenient", "_malformed")

    def __init__(self, delimiter: int = LINE_FEED, lenient: bool = False) -> None:
        self.delimiter = delimiter
        self._lenient = lenient
        self._held = b""
        self._frames = self._checksum_errors = self._malformed = self._discarded = 0

    @property
    def delimiter(self) -> int:
        """The character that ends a frame, 0..255."""
        return self._delimiter[0]

    @delimiter.setter
    def delimiter(self, character: int) -> None:
        if not 0 <= character <= 255:
            raise UsageError(f"delimiter {character} is not a character of 0..255")
        if character in NOT_A_DELIMITER:
            raise UsageError(f"delimiter {chr(character)!r} occurs inside frames: it cannot end them")
        self._delimiter = bytes((character,))

    @property
    def fault(self) -> FramingError | None:
        """Never set: the next colon begins a frame."""
        return None

    @property
    def pending(self) -> int:
        return len(self._held)

    @property
    def pending_transaction(self) -> None:
        """Serial frames have no transaction id."""

    def feed(self, data: bytes | bytearray | memoryview) -> list[Frame]:
        buffer = self._held + data
        frames: list[Frame] = []
        at = 0
        while (start := buffer.find(_COLON, at)) >= 0:
            self._ignore(buffer[at:start])
            limit = start + MAX_ADU_CHARACTERS
            end, size = self._end(buffer, start, limit)
            restart = buffer.rfind(_COLON, start + 1, end)
            if restart > 0:
                self._malformed += buffer.count(_COLON, start, restart)
                self._discarded += restart - start
                at = restart
            elif size:
                self._take(frames, buffer[start:end], size)
                at = end + size
            elif len(buffer) >= limit:
                self._lose(MAX_ADU_CHARACTERS)
                at = limit
            else:
                self._held = buffer[start:]
                return frames
        self._ignore(buffer[at:])
        self._held = b""
        return frames

    def gap(self) -> list[Frame]:
        if self._held:
            self._lose(len(self._held))
            self._held = b""
        return []

    def encode(self, unit: int, pdu: bytes, transaction: int = 0) -> bytes:
        body = bytes((unit,)) + pdu
        text = (body + bytes((lrc8(body),))).hex().upper()
        return _COLON + text.encode("ascii") + _RETURN + self._delimiter

    def statistics(self) -> FramerStatistics:
        return FramerStatistics(self._frames, self._checksum_errors, self._malformed, self._discarded)

    def _end(self, buffer: bytes, start: int, limit: int) -> tuple[int, int]:
        """Where the end of this frame stands and how many characters it has; ``limit`` and 0: not there."""
        if not self._lenient:
            end = buffer.find(_RETURN + self._delimiter, start, limit)
            return (end, 2) if end >= 0 else (limit, 0)
        ends = [buffer.find(mark, start, limit) for mark in (_RETURN, self._delimiter)]
        end = min((end for end in ends if end >= 0), default=-1)
        return (end, 1) if end >= 0 else (limit, 0)

    def _take(self, frames: list[Frame], text: bytes, end_size: int) -> None:
        """Give out the frame that this text is, from its colon up to its end; or count why it is none."""
        body = self._body(text[1:])
        if body and not sum(body) & 0xFF:
            self._frames += 1
            frames.append(Frame(body[0], body[1:-1]))
            return
        self._discarded += len(text) + end_size
        if body:
            self._checksum_errors += 1
        else:
            self._malformed += 1

    def _body(self, digits: bytes) -> bytes:
        """Unit, PDU and LRC; nothing if these are not the digits of so many bytes."""
        if len(digits) < _MIN_DIGITS or not (self._lenient or digits == digits.upper()):
            return b""
        try:
            return unhexlify(digits)
        except ValueError:
            return b""

    def _ignore(self, text: bytes) -> None:
        """Count what came outside frames; to the lenient, the rest of a line's end is not a loss."""
        self._discarded += len(text.translate(None, _RETURN + self._delimiter) if self._lenient else text)

    def _lose(self, count: int) -> None:
        """Count an unfinished frame that will not be finished."""
        self._malformed += 1
        self._discarded += count
