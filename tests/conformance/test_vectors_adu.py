"""Every adu vector, whole, byte by byte and at every split: the frames and the state it must lead to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from everbus.protocol.framing.ascii import AsciiFramer
from everbus.protocol.framing.base import Frame, Framer
from everbus.protocol.framing.mbap import MbapFramer
from everbus.protocol.framing.rtu import RtuFramer
from tests.vectors import Vector, each, of_kind

ADUS = of_kind("adu")

AFTER_SILENCE = {
    "rtu_lead_00_exc": [Frame(4, bytes.fromhex("8302"))],
    "rtu_echo_then_rsp": [Frame(17, bytes.fromhex("0306AE4156524340"))],
    "rtu_unknown_fc": [Frame(1, bytes.fromhex("410102"))],
}
"""What silence alone brings out, on a serial line and nowhere else.

In the first two, noise claims to be the front of a longer response, so the good one behind it waits
for silence, or for the claim to fail. In the last, a function code that no table knows: its vector
says that silence delimits it.
"""


def framer_for(vector: Vector) -> Framer:
    if vector["framing"] == "rtu":
        return RtuFramer(vector["direction"])
    return MbapFramer() if vector["framing"] == "mbap" else AsciiFramer()


def frames_of(vector: Vector) -> list[Frame]:
    return [
        Frame(frame["unit"], bytes.fromhex(frame["pdu_hex"]), frame.get("transaction", 0))
        for frame in vector["stream_frames"]
    ]


def ways_to_read(data: bytes) -> Iterator[list[bytes]]:
    """The same bytes in one read, in a read each, and in any two."""
    yield [data]
    yield [data[at : at + 1] for at in range(len(data))]
    for at in range(1, len(data)):
        yield [data[:at], data[at:]]


def state_of(framer: Framer) -> str:
    if framer.fault is not None:
        return "close connection"
    return "need more bytes" if framer.pending else "clean"


def good_for(vector: Vector) -> tuple[bytes, Frame]:
    pdu = bytes.fromhex("0600010003")
    return framer_for(vector).encode(9, pdu, 9), Frame(9, pdu, 9 if vector["framing"] == "mbap" else 0)


def test_the_vectors_are_there() -> None:
    assert len(ADUS) >= 117
    assert {vector["framing"] for vector in ADUS} == {"mbap", "rtu", "ascii"}


@each(ADUS)
def test_the_frames_of_a_vector(vector: Vector) -> None:
    silent = AFTER_SILENCE.get(vector["name"], [])
    for pieces in ways_to_read(bytes.fromhex(vector["adu_hex"])):
        framer = framer_for(vector)
        found = [frame for piece in pieces for frame in framer.feed(piece)]
        if vector["framing"] == "mbap":
            assert state_of(framer) == vector["stream_state"]
        assert framer.gap() == silent
        assert found == ([] if silent else frames_of(vector))
        counted = framer.statistics()
        assert counted.frames == len(found) + len(silent)
        if vector["framing"] != "mbap":
            used = sum(len(framer.encode(*frame)) for frame in found + silent)
            assert counted.discarded_bytes == len(vector["adu_hex"]) // 2 - used
            assert (framer.fault, framer.pending) == (None, 0)


@each([vector for vector in ADUS if vector["valid"]])
def test_a_valid_frame_between_two_others(vector: Vector) -> None:
    data, good = good_for(vector)
    for pieces in ways_to_read(data + bytes.fromhex(vector["adu_hex"]) + data):
        framer = framer_for(vector)
        found = [frame for piece in pieces for frame in framer.feed(piece)]
        assert found == [good, *frames_of(vector), good]
        assert (framer.fault, framer.pending) == (None, 0)


@pytest.mark.requirement("SL-2.4.2-frame-error")
@each([vector for vector in ADUS if not vector["valid"]])
def test_what_is_no_valid_frame_harms_neither_the_one_before_nor_the_one_after_silence(vector: Vector) -> None:
    data, good = good_for(vector)
    for pieces in ways_to_read(data + bytes.fromhex(vector["adu_hex"])):
        framer = framer_for(vector)
        found = [frame for piece in pieces for frame in framer.feed(piece)] + framer.gap()
        assert found == [good, *(AFTER_SILENCE.get(vector["name"]) or frames_of(vector))]
        if vector["framing"] != "mbap":
            assert framer.feed(data) == [good]
        elif state_of(framer) == "close connection":
            assert framer.feed(data) == []


@pytest.mark.requirement("SL-2.5.1.1-shared-line")
@each([vector for vector in ADUS if vector["framing"] == "rtu" and vector["direction"] == "request"])
def test_a_line_gives_out_the_same_requests(vector: Vector) -> None:
    for pieces in ways_to_read(bytes.fromhex(vector["adu_hex"])):
        framer = RtuFramer("line")
        found = [frame for piece in pieces for frame in framer.feed(piece)] + framer.gap()
        assert found == (AFTER_SILENCE.get(vector["name"]) or frames_of(vector))


@each([vector for vector in ADUS if vector["valid"]])
def test_a_valid_frame_is_built_byte_for_byte(vector: Vector) -> None:
    built = framer_for(vector).encode(vector["unit"], bytes.fromhex(vector["pdu_hex"]), vector["transaction"] or 0)
    assert built == bytes.fromhex(vector["adu_hex"])
