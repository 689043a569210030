"""Frames of serial lines: one of each function code, cut up as one likes, and found again by a plain search."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from hypothesis import strategies as st

from everbus.protocol.framing.base import Frame
from everbus.protocol.framing.checksums import crc16
from everbus.protocol.framing.rtu import (
    Direction,
    RtuFramer,
    only_silence_ends,
)
from everbus.protocol.pdu.base import NEED_MORE, UNPREDICTABLE
from everbus.protocol.pdu.table import PUBLIC

DIRECTIONS: tuple[Direction, ...] = ("request", "response", "line")

READ = Frame(17, bytes.fromhex("03006B0003"))
ANSWER = Frame(17, bytes.fromhex("0306AE4156524340"))
WRITE = Frame(17, bytes.fromhex("0600010003"))
OURS = Frame(1, bytes.fromhex("0300000001"))
REFUSAL = Frame(17, bytes.fromhex("8302"))

Rule = Callable[[bytes, int, int], int]
RULES: dict[Direction, Rule] = {"request": PUBLIC.predict_request, "response": PUBLIC.predict_response}

PDUS: dict[Direction, list[bytes]] = {
    "request": [
        bytes.fromhex(text)
        for text in (
            "0100130013",
            "0200C40016",
            "03006B0003",
            "0400080001",
            "0500ACFF00",
            "0600010003",
            "07",
            "080000A537",
            "0B",
            "0C",
            "0F0013000A02CD01",
            "100001000204000A0102",
            "11",
            "140E0600040001000206000300090002",
            "150D0600040007000306AF04BE100D",
            "16000400F20025",
            "1700030006000E00030600FF00FF00FF",
            "1804DE",
            "2B0E0100",
        )
    ],
    "response": [
        bytes.fromhex(text)
        for text in (
            "0103CD6B05",
            "020101",
            "0306022B00000064",
            "0402000A",
            "0500ACFF00",
            "0600010003",
            "076D",
            "080000A537",
            "0BFFFF0108",
            "0C080000010801212000",
            "0F0013000A",
            "1000010002",
            "110212FF",
            "140C05060DFE0020050633CD0040",
            "150D0600040007000306AF04BE100D",
            "16000400F20025",
            "170400FE0ACD",
            "180006000201B81284",
            "2B0E01810001010006666F6F626172",
            "8302",
            "AB03",
            "ABFF00060DEC06020000",
        )
    ],
}
"""A PDU of each function code whose length can be predicted."""


_SENDER = RtuFramer("request")


def adu(frame: Frame) -> bytes:
    return _SENDER.encode(frame.unit, frame.pdu)


def frames_of(pdus: list[bytes], last_unit: int = 255) -> st.SearchStrategy[Frame]:
    return st.builds(Frame, st.integers(0, last_unit), st.sampled_from(pdus), st.just(0))


def fed(framer: RtuFramer, pieces: list[bytes]) -> list[Frame]:
    return [frame for piece in pieces for frame in framer.feed(piece)]


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


def singly(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def good_total(data: bytes, at: int, rule: Rule, silent: bool) -> int | None:
    """Length of the good frame at a place, 0 if there is none, None if more bytes will tell; by computing."""
    length = rule(data, at + 1, min(len(data), at + 254))
    if length > 253 or length == UNPREDICTABLE or (length == NEED_MORE and len(data) >= at + 254):
        return 0
    if length == NEED_MORE or at + length + 3 > len(data):
        return 0 if silent else None
    return 0 if crc16(data[at : at + length + 3]) else length + 3


def searched(data: bytes, rule: Rule, silent: bool = False, at: int = 0) -> list[Frame]:
    """The frames of a stream that silence ends, by trying each place: first as they come, then at the end."""
    frames: list[Frame] = []
    start = at
    while at < len(data) - 1:
        total = good_total(data, at, rule, silent)
        if total is None:
            break
        if total:
            frames.append(Frame(data[at], data[at + 1 : at + total - 2]))
            start = at + total
        at += total or 1
    if silent:
        return frames
    rest = data[start:]
    if 4 <= len(rest) <= 256 and crc16(rest) == 0 and only_silence_ends(rest[1:-2], [rule(rest, 1, len(rest) - 2)]):
        return [*frames, Frame(rest[0], rest[1:-2])]
    return frames + searched(data, rule, True, at)
