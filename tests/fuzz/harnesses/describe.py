"""``describe``, any bytes as any framing in any direction.

The input: a byte that chooses framing and direction, ``auto`` included; then the frame.

Invariants: any bytes give a description, nothing else; it is JSON, and one printable line of at most 160
characters. It is valid, or says why not. A valid frame built again is the very bytes that were given, and the
framer of its kind takes them for that frame and nothing else; its PDU is one that the table decodes, or of a
function that no table knows. What is valid as it is called is valid when nobody says what it is, but for a bare
PDU of an unknown function, which any bytes are.

Run it: ``python -m tests.fuzz.harnesses.describe [libFuzzer's arguments] corpus-folder``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import product
from typing import Any, Final, get_args

from everbus.protocol.codes import EXCEPTION_BIT
from everbus.protocol.describe import Description, Direction, Framing, describe
from everbus.protocol.framing.ascii import AsciiFramer
from everbus.protocol.framing.base import Frame, Framer
from everbus.protocol.framing.mbap import MbapFramer
from everbus.protocol.framing.rtu import RtuFramer
from everbus.protocol.pdu.table import PUBLIC
from tests.fuzz.driver import drive
from tests.fuzz.inputs import Vector, direction_of

KINDS: Final[list[tuple[Any, Any]]] = list(product(("auto", *get_args(Framing)), ("auto", *get_args(Direction))))


def check(data: bytes) -> None:
    """Describe one frame."""
    framing, direction = KINDS[data[0] % len(KINDS)] if data else KINDS[0]
    frame = data[1:]
    told = describe(frame, framing, direction)
    document = told.as_dict()
    assert json.loads(json.dumps(document)) == document
    line = told.summary()
    assert len(line) <= 160, line
    assert line.isascii(), line
    assert line.isprintable(), line
    assert told.valid == (told.error is None), told
    assert framing in ("auto", told.framing), told
    assert direction in ("auto", told.direction), told
    if told.valid:
        _check_valid(frame, told)
        if told.framing != "pdu" or told.function in PUBLIC:
            assert describe(frame).valid, told


def seeds(vectors: Iterable[Vector]) -> Iterator[bytes]:
    """Each frame and each PDU, called what it is; and one in three by no name."""
    for number, vector in enumerate(vectors):
        if vector["kind"] in ("adu", "pdu"):
            kind = vector.get("framing", "pdu"), direction_of(vector)
            frame = bytes.fromhex(vector["adu_hex" if "adu_hex" in vector else "pdu_hex"] or "")
            yield bytes((KINDS.index(kind),)) + frame
            if number % 3 == 0:
                yield b"\0" + frame


def _check_valid(frame: bytes, told: Description) -> None:
    pdu, direction = told.pdu, told.direction
    assert pdu is not None
    assert direction is not None
    assert told.function == pdu[0] & ~EXCEPTION_BIT
    if told.function in PUBLIC:
        (PUBLIC.decode_request if direction == "request" else PUBLIC.decode_response)(pdu)
    if told.framing == "pdu":
        assert pdu == frame
        return
    framers: dict[Framing, Framer] = {"mbap": MbapFramer(), "ascii": AsciiFramer(), "rtu": RtuFramer(direction)}
    framer = framers[told.framing]
    assert told.unit is not None
    expected = Frame(told.unit, pdu, told.transaction or 0)
    assert framer.encode(*expected) == frame
    assert framer.feed(frame) + framer.gap() == [expected]


if __name__ == "__main__":
    drive("tests.fuzz.harnesses.describe", most_bytes=600)
