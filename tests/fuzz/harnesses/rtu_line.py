"""RTU framer of a server that shares its line with others, any bytes in any pieces.

Invariants: any bytes give frames and nothing else, never a fault. At most 256 bytes are held. Whole, split
and byte by byte, with the same silences, the frames and the counts are the same. A frame built again is
byte for byte what stood in the stream, and alone it is found again; what is missing between the frames is
lost, held, or the answer of another device.

Run it: ``python -m tests.fuzz.harnesses.rtu_line [libFuzzer's arguments] corpus-folder``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

from everbus.protocol.framing.rtu import RtuFramer
from tests.fuzz.driver import drive
from tests.fuzz.framing import check_framer
from tests.fuzz.inputs import SILENCE, Vector, adus, pairs, stream_input


def check(data: bytes) -> None:
    """Put the framer through one input."""
    check_framer(data, lambda: RtuFramer("line"), 256, drops_answers=True)


def seeds(vectors: Iterable[Vector]) -> Iterator[bytes]:
    """Requests with their answers, with and without a silence between; and each two frames that follow."""
    vectors = list(vectors)
    build = RtuFramer("line").encode
    for request, response in pairs(vectors):
        exchange = build(17, request), build(17, response)
        yield stream_input(b"".join(exchange) + exchange[0], (3,))
        yield stream_input(b"".join(exchange), (len(exchange[0]) % SILENCE | SILENCE,))
    for first, second in pairwise(adus(vectors, "rtu")):
        yield stream_input(first + second, (len(first) % SILENCE,))


if __name__ == "__main__":
    drive("tests.fuzz.harnesses.rtu_line")
