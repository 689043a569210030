"""ASCII framer that takes what some devices send, any bytes in any pieces.

Invariants: any bytes give frames and nothing else, never a fault. At most 512 characters are held. Whole,
split and byte by byte, with the same silences, the frames and the counts are the same. A frame built again
is found again; what the strict framer takes, this one takes too.

Run it: ``python -m tests.fuzz.harnesses.ascii_lenient [libFuzzer's arguments] corpus-folder``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from everbus.protocol.framing.ascii import AsciiFramer
from tests.fuzz.driver import drive
from tests.fuzz.framing import check_framer
from tests.fuzz.inputs import SILENCE, Vector, adus, stream_input


def check(data: bytes) -> None:
    """Put the framer through one input."""
    check_framer(data, lambda: AsciiFramer(lenient=True), 512, forgives=True)


def seeds(vectors: Iterable[Vector]) -> Iterator[bytes]:
    """Each frame as it is, in lower case, and with CR or LF alone at its end."""
    for frame in adus(vectors, "ascii"):
        yield stream_input(frame)
        yield stream_input(frame.lower(), (2, 4 | SILENCE, 1))
        yield stream_input(frame.replace(b"\r\n", b"\r") + frame.replace(b"\r\n", b"\n"), (7,))


if __name__ == "__main__":
    drive("tests.fuzz.harnesses.ascii_lenient", most_bytes=600)
