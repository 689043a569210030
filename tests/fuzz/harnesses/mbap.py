"""MBAP framer, any bytes in any pieces.

Invariants: any bytes give frames or, once, a framing error, and nothing else. At most 259 bytes are held,
an unfinished frame. Whole, split and byte by byte the frames, counts and the fault are the same; silences
change nothing. A frame built again is byte for byte what stood in the stream, and every byte is accounted
for. Behind the fault nothing is given out.

Run it: ``python -m tests.fuzz.harnesses.mbap [libFuzzer's arguments] corpus-folder``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

from everbus.protocol.framing.mbap import MbapFramer
from tests.fuzz.driver import drive
from tests.fuzz.framing import check_framer
from tests.fuzz.inputs import Vector, adus, stream_input


def check(data: bytes) -> None:
    """Put the framer through one input."""
    check_framer(data, MbapFramer, 259)


def seeds(vectors: Iterable[Vector]) -> Iterator[bytes]:
    """Each frame whole and split, and each with the next behind it."""
    frames = list(adus(vectors, "mbap"))
    for frame in frames:
        yield stream_input(frame)
        yield stream_input(frame, (3, 4))
    for first, second in pairwise(frames):
        yield stream_input(first + second, (len(first) % 128, 5))


if __name__ == "__main__":
    drive("tests.fuzz.harnesses.mbap")
