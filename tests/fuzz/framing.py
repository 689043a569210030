"""What every framer keeps, whatever bytes it is fed; each invariant by its number in the harnesses.

1. Any bytes give frames or a fault, nothing else: no other exception, no frame that cannot be.
2. Memory is bounded: of an unfinished frame no more is held than the largest one has.
3. Whole, split and byte by byte, a stream gives the same frames, the same counts and the same fault.
4. Nothing is invented: each frame, built again, stands in the stream, in order; and fed alone it is found.
5. Every byte is accounted for: it belongs to a frame, is held, or was counted as discarded.
6. Behind a fault nothing is given out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from everbus.errors import FramingError
from everbus.protocol.framing.base import Frame, Framer, FramerStatistics
from tests.fuzz.inputs import Piece, bytewise, cut, whole

__all__ = ["check_framer"]


@dataclass
class _Seen:
    """What came of a stream, silence by silence."""

    frames: list[list[Frame]] = field(default_factory=lambda: [[]])
    counts: list[FramerStatistics] = field(default_factory=list)
    pending: int = 0
    fault: str | None = None


def check_framer(
    data: bytes,
    make: Callable[[], Framer],
    most_pending: int,
    *,
    drops_answers: bool = False,
    forgives: bool = False,
) -> None:
    """Put a framer through one input.

    Args:
        data: as ``inputs`` has it.
        make: makes a new framer.
        most_pending: the most that it may ever hold, in bytes.
        drops_answers: some good frames are followed and not given out: bytes are missing in its counts.
        forgives: what it takes may differ from what it builds.
    """
    pieces = cut(data)
    seen = _feed(make(), pieces, most_pending)
    for way in (whole, bytewise):
        other = _feed(make(), way(pieces), most_pending)
        assert other == seen, f"{way.__name__}: {other} is not {seen}"
    builder = make()
    frames = [frame for burst in seen.frames for frame in burst]
    found = [builder.encode(frame.unit, frame.pdu, frame.transaction) for frame in frames]
    if not forgives:
        _check_order(b"".join(piece.data for piece in pieces), found)
    if not (forgives or drops_answers):
        taken = sum(map(len, found))
        lost = seen.counts[-1].discarded_bytes
        fed = sum(len(piece.data) for piece in pieces)
        assert taken + lost + seen.pending == fed, f"{fed} bytes: {taken} taken, {lost} lost, {seen.pending} held"
    for frame, wire in zip(frames, found, strict=True):
        again = builder.feed(wire) + builder.gap()
        assert again == [frame], f"{wire.hex()} gives {again}, not {frame}"


def _feed(framer: Framer, pieces: Iterable[Piece], most_pending: int) -> _Seen:
    seen = _Seen()
    for piece in pieces:
        buffer = bytearray(piece.data)
        _take(seen, framer, framer.feed(memoryview(buffer)))
        buffer[:] = bytes(len(buffer))  # what is kept must be a copy
        assert framer.pending <= most_pending, f"{framer.pending} bytes are held"
        if piece.silence:
            _take(seen, framer, framer.gap())
            seen.counts.append(framer.statistics())
            seen.frames.append([])
    seen.counts.append(framer.statistics())
    assert seen.counts[-1].frames == sum(map(len, seen.frames)), seen
    seen.pending = framer.pending
    return seen


def _take(seen: _Seen, framer: Framer, frames: list[Frame]) -> None:
    assert not (frames and seen.fault), f"{frames} behind a fault"
    for frame in frames:
        assert type(frame) is Frame
        assert 0 <= frame.unit <= 0xFF, frame
        assert 0 <= frame.transaction <= 0xFFFF, frame
        assert type(frame.pdu) is bytes, frame
        assert 1 <= len(frame.pdu) <= 253, frame
    seen.frames[-1] += frames
    if framer.fault is not None:
        assert type(framer.fault) is FramingError
        seen.fault = framer.fault.reason


def _check_order(stream: bytes, found: list[bytes]) -> None:
    at = 0
    for wire in found:
        start = stream.find(wire, at)
        assert start >= 0, f"{wire.hex()} does not stand in {stream[at:].hex()}"
        at = start + len(wire)
