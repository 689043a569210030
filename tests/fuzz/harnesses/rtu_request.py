"""RTU framer of a server, any bytes in any pieces.

Invariants: any bytes give frames and nothing else, never a fault. At most 256 bytes are held. Whole, split
and byte by byte, with the same silences, the frames and the counts are the same. A frame built again is
byte for byte what stood in the stream, alone it is found again, and every byte is accounted for.

Run it: ``python -m tests.fuzz.harnesses.rtu_request [libFuzzer's arguments] corpus-folder``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from everbus.protocol.framing.rtu import RtuFramer
from tests.fuzz.driver import drive
from tests.fuzz.framing import check_framer
from tests.fuzz.inputs import SILENCE, Vector, adus, pdus, stream_input


def check(data: bytes) -> None:
    """Put the framer through one input."""
    check_framer(data, lambda: RtuFramer("request"), 256)


def seeds(vectors: Iterable[Vector]) -> Iterator[bytes]:
    """Each frame whole, and behind a torn one; each PDU in a frame of its own."""
    for frame in adus(vectors, "rtu", "request"):
        yield stream_input(frame)
        yield stream_input(frame[:3] + frame, (1, 4))
    for pdu in pdus(vectors, "request"):
        yield stream_input(RtuFramer("request").encode(1, pdu), (5 | SILENCE, 2))


if __name__ == "__main__":
    drive("tests.fuzz.harnesses.rtu_request")
