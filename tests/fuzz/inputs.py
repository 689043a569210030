"""How the harnesses read their inputs: where a stream is cut, where the line falls silent, then the stream.

The first byte, modulo 16, says how many pieces are cut off the front of the stream; so many bytes follow,
one a piece: its size in the low seven bits, and whether the line is silent behind it in the high bit. Then
the stream itself; what is left of it is the last piece.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

__all__ = [
    "SILENCE",
    "Piece",
    "Vector",
    "adus",
    "bytewise",
    "cut",
    "direction_of",
    "pairs",
    "pdus",
    "stream_input",
    "whole",
]

Vector = dict[str, Any]
"""One object of tests/data/vectors.json."""

_MOST_CUTS = 16
SILENCE = 0x80


class Piece(NamedTuple):
    """What one read gives, and whether the line is silent behind it."""

    data: bytes
    silence: bool


def stream_input(stream: bytes, cuts: Sequence[int] = ()) -> bytes:
    """The input for a stream and up to 15 cuts: sizes of 0..127, 128 more where silence follows."""
    assert len(cuts) < _MOST_CUTS
    return bytes((len(cuts), *cuts)) + stream


def cut(data: bytes) -> list[Piece]:
    """The pieces that an input asks for."""
    count = data[0] % _MOST_CUTS if data else 0
    at = 1 + count
    pieces = []
    for byte in data[1:at]:
        size = byte & ~SILENCE
        pieces.append(Piece(data[at : at + size], bool(byte & SILENCE)))
        at += size
    return [*pieces, Piece(data[at:], False)]


def whole(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """The same stream with the same silences, and no cut anywhere else."""
    held = b""
    for piece in pieces:
        held += piece.data
        if piece.silence:
            yield Piece(held, True)
            held = b""
    yield Piece(held, False)


def bytewise(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """The same stream with the same silences, a byte at a time."""
    for piece in pieces:
        for byte in piece.data:
            yield Piece(bytes((byte,)), False)
        if piece.silence:
            yield Piece(b"", True)


def direction_of(vector: Vector) -> str:
    """``request`` or ``response``: an exception is one."""
    return "request" if vector["direction"] == "request" else "response"


def pdus(vectors: Iterable[Vector], direction: str) -> Iterator[bytes]:
    """The PDUs of one direction among the vectors, legal and illegal."""
    for vector in vectors:
        if vector["kind"] == "pdu" and direction_of(vector) == direction:
            yield bytes.fromhex(vector["pdu_hex"])


def adus(vectors: Iterable[Vector], framing: str, direction: str = "") -> Iterator[bytes]:
    """The frames of one framing among the vectors, good and bad; of one direction, if one is given."""
    for vector in vectors:
        if vector["kind"] == "adu" and vector["framing"] == framing and direction in ("", direction_of(vector)):
            yield bytes.fromhex(vector["adu_hex"])


def pairs(vectors: Iterable[Vector]) -> Iterator[tuple[bytes, bytes]]:
    """Requests with the responses that answer them, and with some that do not."""
    known = list(vectors)
    requests = {vector["name"]: vector["pdu_hex"] for vector in known if vector["kind"] == "pdu"}
    for vector in known:
        if vector["kind"] == "pdu" and "pair" in vector:
            yield bytes.fromhex(requests[vector["pair"]]), bytes.fromhex(vector["pdu_hex"])
        elif vector["kind"] == "pair":
            yield bytes.fromhex(vector["request_pdu_hex"]), bytes.fromhex(vector["response_pdu_hex"])
