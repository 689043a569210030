"""ASCII framer, any bytes in any pieces.

Invariants: any bytes give frames and nothing else, never a fault. At most 512 characters are held. Whole,
split and byte by byte, with the same silences, the frames and the counts are the same. A frame built again
is byte for byte what stood in the stream, alone it is found again, and every byte is accounted for.

Run it: ``python -m tests.fuzz.harnesses.ascii [libFuzzer's arguments] corpus-folder``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from everbus.protocol.framing.ascii import AsciiFramer
from tests.fuzz.driver import drive
from tests.fuzz.framing import check_framer
from tests.fuzz.inputs import SILENCE, Vector, adus, stream_input


def check(data: bytes) -> None:
    """Put the framer through one input."""
    check_framer(data, AsciiFramer, 512)


def seeds(vectors: Iterable[Vector]) -> Iterator[bytes]:
    """Each frame whole, and behind a torn one with and without a silence."""
    for frame in adus(vectors, "ascii"):
        yield stream_input(frame)
        yield stream_input(frame[:6] + frame, (2, 4 | SILENCE, 1))
        yield stream_input(frame[:6] + frame, (7,))


if __name__ == "__main__":
    drive("tests.fuzz.harnesses.ascii", most_bytes=600)
