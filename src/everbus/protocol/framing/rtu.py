"""RTU frames on any byte stream: unit, PDU, CRC (SL 2.5.1; spec.md 1.11, 5.4, 5.5, 6.1).

Nothing marks where a frame begins or ends, and over TCP or USB silence cannot be measured. So the
length is predicted from the function code, and the CRC over exactly that many bytes decides. A
candidate that is still incomplete waits; one that is wrong costs its first byte, and the search
goes on at the next.

The search is linear whatever arrives. The register is run over the stream once and its state kept
behind each byte. A CRC is affine, ``crc(a, i..j) = state[j] ^ A(state[i] ^ FFFF)`` where ``A``
advances a register by ``j - i`` zero bytes, so whether any run of bytes is a good frame takes two
table look-ups, however long it is.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Final, Literal, TypeAlias, get_args

from everbus.errors import FramingError, UsageError
from everbus.protocol.codes import EXCEPTION_BIT, MAX_PDU_BYTES, DiagnosticCode, FunctionCode
from everbus.protocol.framing.base import Frame, FramerStatistics
from everbus.protocol.framing.checksums import CRC_TABLE, crc16
from everbus.protocol.pdu.base import NEED_MORE, UNPREDICTABLE
from everbus.protocol.pdu.table import PUBLIC, FunctionTable

__all__ = ["MAX_ADU_BYTES", "MIN_ADU_BYTES", "Direction", "RtuFramer", "only_silence_ends"]

Direction: TypeAlias = Literal["request", "response", "line"]

_OVERHEAD: Final = 3
"""Unit and CRC."""

MIN_ADU_BYTES: Final = 1 + _OVERHEAD
MAX_ADU_BYTES: Final = MAX_PDU_BYTES + _OVERHEAD

_BROADCAST: Final = 0
_LOOPBACK: Final = bytes((FunctionCode.DIAGNOSTICS, *DiagnosticCode.RETURN_QUERY_DATA.to_bytes(2, "big")))

_SLICE_BYTES: Final = 4096
"""What is searched at once: bounds the memory for states, whatever was fed."""

_PLAIN: Final = tuple(FunctionCode(code) for code in range(1, 7))
_PLAIN_BYTES: Final = 8
_ALIKE: Final = FunctionCode.WRITE_SINGLE_COIL
"""From here on, an answer to one of these looks like its request."""

_NOTHING: Final = 0
_WAIT: Final = -1
"""Instead of a frame's length: no good frame begins here; or perhaps one, more bytes will tell."""

_Bytes: TypeAlias = bytes | bytearray | memoryview
_Predict: TypeAlias = Callable[[_Bytes, int, int], int]
_Shape: TypeAlias = tuple[int, "array[int]", "array[int]"]
"""A frame's length where its function code tells it, else 0; and what that many zeros do to a register."""


@cache
def _advance(count: int) -> tuple[array[int], array[int]]:
    """What ``count`` zero bytes do to a register, preset included, for its low and its high byte.

    At most one entry a frame length is ever made, of 1 KiB each.
    """
    zeros = bytes(count)
    bits = [crc16(zeros, 1 << bit) for bit in range(16)]
    low = array("H", [crc16(zeros)])
    high = array("H", [0])
    for bit in range(8):
        low.extend([entry ^ bits[bit] for entry in low])
        high.extend([entry ^ bits[bit + 8] for entry in high])
    return low, high


_VARIABLE: Final[_Shape] = (0, *_advance(0))
"""The function code alone does not tell the length: the rules must be asked."""


def only_silence_ends(pdu: bytes, predictions: list[int]) -> bool:
    """Whether nothing in a PDU tells its length: silence alone ends it on a serial line.

    So it is with function codes that no table knows, with 2B/0D, and with 08/00 of several words.

    Args:
        pdu: the function code and its data, 1..253 bytes.
        predictions: its length, 1..253, or UNPREDICTABLE, by each rule that might apply.
    """
    if pdu[0] & EXCEPTION_BIT:
        return False
    if all(length == UNPREDICTABLE for length in predictions):
        return True
    return pdu.startswith(_LOOPBACK) and len(pdu) % 2 == 1 and len(pdu) > max(predictions)


class RtuFramer:
    """Incremental parser of an RTU stream; holds at most 256 bytes.

    Args:
        direction: what the stream carries. ``request``: a server's private stream; ``response``:
            a client's; ``line``: a server on a line that others share. There, requests and the
            responses of other devices are both followed, and requests to any unit given out.
        table: the function codes whose lengths are known.

    Raises:
        UsageError: the direction is none of these.
    """

    __slots__ = (
        "_answers",
        "_at",
        "_checksum_errors",
        "_discarded",
        "_expected",
        "_frames",
        "_held",
        "_line",
        "_malformed",
        "_plain",
        "_predictors",
        "_shapes",
        "_states",
        "_whole",
    )

    def __init__(self, direction: Direction, table: FunctionTable = PUBLIC) -> None:
        if direction not in get_args(Direction):
            raise UsageError(f"direction {direction!r} is none of {', '.join(get_args(Direction))}")
        self._line = direction == "line"
        self._predictors, self._shapes = _rules(direction, table)
        self._plain = direction != "response" and table.agrees(PUBLIC, _PLAIN)
        self._held = b""
        self._states = [0]
        self._at = 0
        self._whole = True
        self._expected: tuple[int, int] | None = None
        self._frames = self._checksum_errors = self._malformed = self._discarded = self._answers = 0

    @property
    def fault(self) -> FramingError | None:
        """Never set: the next good frame is found."""
        return None

    @property
    def pending(self) -> int:
        return len(self._held)

    @property
    def pending_transaction(self) -> None:
        """Serial frames have no transaction id."""

    def feed(self, data: _Bytes) -> list[Frame]:
        if self._plain and len(data) == _PLAIN_BYTES and not self._held and self._is_plain(data):
            self._frames += 1
            return [Frame(data[0], bytes(data[1:-2]))]
        frames: list[Frame] = []
        for start in range(0, len(data), _SLICE_BYTES):
            part = data[start : start + _SLICE_BYTES]
            crc = self._states[-1]
            self._states += [crc := crc >> 8 ^ CRC_TABLE[crc & 0xFF ^ byte] for byte in part]
            self._held += part
            self._scan(frames, silence=False)
        return frames

    def _is_plain(self, data: _Bytes) -> bool:
        """Whether this is one request of 01 to 06 and nothing else, as it nearly always is."""
        code, count = data[1], data[2]
        if code not in _PLAIN or crc16(data):
            return False
        if self._line:
            key = (data[0], code)
            size = count + _OVERHEAD + 2 if code < _ALIKE else _PLAIN_BYTES
            if (size < _PLAIN_BYTES and not crc16(data[:size])) or (size == _PLAIN_BYTES and self._expected == key):
                return False  # it is, or begins with, what may be another device's answer
            self._expected = None if key[0] == _BROADCAST else key
        return True

    def gap(self) -> list[Frame]:
        frames: list[Frame] = []
        if self._is_one_frame():
            self._receive(frames, self._held)
        else:
            self._scan(frames, silence=True)
            self._lose(0, len(self._held))
        self._held = b""
        self._states = [0]
        self._at = 0
        self._whole = True
        self._expected = None
        return frames

    def encode(self, unit: int, pdu: bytes, transaction: int = 0) -> bytes:
        """The whole frame. On a line it is the answer that was expected next: nobody else sends one."""
        self._expected = None
        body = bytes((unit,)) + pdu
        return body + crc16(body).to_bytes(2, "little")

    def statistics(self) -> FramerStatistics:
        return FramerStatistics(self._frames, self._checksum_errors, self._malformed, self._discarded, self._answers)

    def _scan(self, frames: list[Frame], silence: bool) -> None:
        """Take the good frames out of what is held, and keep what may become one.

        Bytes searched in vain are kept while they may be a frame that only silence ends.
        """
        start, at = 0, self._at
        while True:
            at, total = self._find(at, silence)
            if not total:
                break
            self._lose(start, at)
            start, at = at + total, at + total
            self._receive(frames, self._held[at - total : at])
            self._whole = True
        if not self._whole or len(self._held) - start > MAX_ADU_BYTES:
            self._lose(start, at)
            start = at
        self._held = self._held[start:]
        self._states = self._states[start:]
        self._at = at - start

    def _find(self, at: int, silence: bool) -> tuple[int, int]:
        """Where the next good frame begins and its length; or where to go on later, and 0."""
        buffer, states, shapes = self._held, self._states, self._shapes
        size = len(buffer)
        for position in range(at, size - 1):
            shape = shapes[buffer[position + 1]]
            if shape is None:
                continue
            total, low, high = shape
            if not total:
                total = self._ask(position)
            elif position + total > size:
                total = _WAIT
            else:
                state = states[position]
                if states[position + total] != low[state & 0xFF] ^ high[state >> 8]:
                    continue
            if total > 0:
                return position, total
            if total == _WAIT and not silence:
                return position, 0
        return max(at, size - 1), 0

    def _ask(self, position: int) -> int:
        """Length of the good frame that begins here; or WAIT, or NOTHING.

        Of two it is the shorter: that is complete first, and how reads are split must not matter.
        """
        held, first = self._held, position + 1
        size = len(held)
        end = min(size, first + MAX_PDU_BYTES)
        verdict = _NOTHING
        for predict in self._predictors:
            length = predict(held, first, end)
            if length == NEED_MORE:
                waits = end - first < MAX_PDU_BYTES
            elif 0 < length <= MAX_PDU_BYTES:
                total = length + _OVERHEAD
                waits = position + total > size
                if not waits and (verdict <= 0 or total < verdict) and self._is_good(position, total):
                    verdict = total
            else:
                continue
            if waits and verdict == _NOTHING:
                verdict = _WAIT
        return verdict

    def _is_good(self, position: int, total: int) -> bool:
        low, high = _advance(total)
        state = self._states[position]
        return self._states[position + total] == low[state & 0xFF] ^ high[state >> 8]

    def _receive(self, frames: list[Frame], frame: bytes) -> None:
        """Give out a good frame, unless it is another device's answer on a line."""
        if self._line and self._is_answer(frame):
            self._answers += 1
            return
        self._frames += 1
        frames.append(Frame(frame[0], frame[1:-2]))

    def _is_answer(self, frame: bytes) -> bool:
        """Tell the two directions apart by length; where they look alike, an answer follows its request."""
        end = len(frame) - 2
        as_request, as_response = (predict(frame, 1, end) == end - 1 for predict in self._predictors)
        key = (frame[0], frame[1])
        answer = as_response and (not as_request or self._expected == key)
        self._expected = None if answer or frame[0] == _BROADCAST else key
        return answer

    def _is_one_frame(self) -> bool:
        """Whether all that came between two silences is one frame that nothing else delimits."""
        held = self._held
        if not (self._whole and MIN_ADU_BYTES <= len(held) <= MAX_ADU_BYTES):
            return False
        end = len(held) - 2
        predictions = [predict(held, 1, end) for predict in self._predictors]
        return only_silence_ends(held[1:end], predictions) and self._is_good(0, len(held))

    def _lose(self, start: int, end: int) -> None:
        """Count bytes that belong to no good frame; once for all bytes up to the next frame or silence."""
        if start == end:
            return
        self._discarded += end - start
        self._expected = None  # what was lost may have been the answer: rather a request too many than one lost
        if self._whole:
            first, size = start + 1, len(self._held)
            most = min(size - first - 2, MAX_PDU_BYTES)
            if any(0 < predict(self._held, first, size) <= most for predict in self._predictors):
                self._checksum_errors += 1
            else:
                self._malformed += 1
            self._whole = False


@lru_cache(maxsize=16)
def _rules(direction: Direction, table: FunctionTable) -> tuple[list[_Predict], list[_Shape | None]]:
    """How long frames are: what predicts it, and what their function codes alone tell. It takes 220 us."""
    predictors: list[_Predict] = []
    if direction != "response":
        predictors.append(table.predict_request)
    if direction != "request":
        predictors.append(table.predict_response)
    return predictors, [_shape(code, predictors) for code in range(256)]


def _shape(code: int, predictors: list[_Predict]) -> _Shape | None:
    """What frames with this function code look like; None: nothing tells how long they are."""
    lengths = {predict(bytes((code,)), 0, 1) for predict in predictors} - {UNPREDICTABLE}
    if not lengths:
        return None
    length = lengths.pop()
    if lengths or length == NEED_MORE:
        return _VARIABLE
    total = length + _OVERHEAD
    return (total, *_advance(total)) if total <= MAX_ADU_BYTES else None
