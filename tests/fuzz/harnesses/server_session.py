"""The server's session, the pipeline and a local device behind it: bytes in, answers out.

Invariants: any bytes give answers or, once, a framing error, and nothing else; nothing is reported as a
handler's failure. Every request has one answer, in order, with its transaction and unit: the answer that a
client's own session takes for its request, or to an illegal request the exception of the specification.
At most 259 bytes are held, an unfinished frame. Whole, split and byte by byte the answers are the same, and
they are the same by the short way of plain reads and by the long one.

Run it: ``python -m tests.fuzz.harnesses.server_session [libFuzzer's arguments] corpus-folder``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

from everbus.protocol.framing.mbap import MbapFramer
from tests.fuzz.driver import drive
from tests.fuzz.inputs import Vector, adus, bytewise, cut, pdus, stream_input, whole
from tests.fuzz.serving import AllowAllSlowly, Conversation

UNITS = (0, 1, 17, 255)


def check(data: bytes) -> None:
    """Let a server answer one stream."""
    pieces = cut(data)
    split = Conversation(units=UNITS).serve(piece.data for piece in pieces)
    for other in (
        Conversation(AllowAllSlowly(), UNITS).serve(piece.data for piece in whole(pieces)),
        Conversation(units=UNITS).serve(piece.data for piece in bytewise(pieces)),
    ):
        assert (other.frames, other.answers) == (split.frames, split.answers)
        assert (other.fault and other.fault.reason) == (split.fault and split.fault.reason)


def seeds(vectors: Iterable[Vector]) -> Iterator[bytes]:
    """Each two requests that follow, legal or not; and every frame."""
    vectors = list(vectors)
    build = MbapFramer().encode
    for number, (first, second) in enumerate(pairwise(pdus(vectors, "request"))):
        yield stream_input(build(1, first, number) + build(255, second, number + 1), (9,))
    for frame in adus(vectors, "mbap"):
        yield stream_input(frame, (7,))


if __name__ == "__main__":
    drive("tests.fuzz.harnesses.server_session")
