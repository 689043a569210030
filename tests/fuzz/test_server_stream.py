"""Any bytes to a server give legal answers or a framing error, nothing else (V17, V25).

Seeded random and mutated streams through session, pipeline and local device, without a socket.
"""

from __future__ import annotations

import json
import random
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from struct import Struct
from time import thread_time

import pytest

from everbus.protocol.framing.base import Frame
from everbus.protocol.framing.mbap import MbapFramer
from everbus.service.context import ConnectionInfo
from everbus.service.pipeline import Pipeline
from everbus.service.units import Units
from tests.fuzz.serving import AllowAllSlowly, Conversation, Served, check_answer, device

HEADER = Struct(">HHHB")
VECTORS = json.loads((Path(__file__).parent.parent / "data" / "vectors.json").read_text())
REQUESTS = [bytes.fromhex(v["pdu_hex"]) for v in VECTORS if v["kind"] == "pdu" and v["direction"] == "request"]
ADUS = [bytes.fromhex(v["adu_hex"]) for v in VECTORS if v["kind"] == "adu"]


def adu(pdu: bytes, transaction: int, unit: int) -> bytes:
    return HEADER.pack(transaction, 0, len(pdu) + 1, unit) + pdu


def check_addressing(served: Served) -> None:
    """Every request has its answer, with its transaction, its unit and a true length."""
    for frame, answer in zip(served.frames, served.answers, strict=True):
        transaction, protocol, length, unit = HEADER.unpack_from(answer)
        assert (transaction, protocol, unit) == (frame.transaction, 0, frame.unit)
        assert length == len(answer) - 6


def cut(chance: random.Random, stream: bytes, most: int = 20) -> list[bytes]:
    places = sorted(chance.sample(range(len(stream) + 1), min(len(stream), chance.randint(0, most))))
    return [stream[start:end] for start, end in pairwise([0, *places, len(stream)])]


# --- streams ----------------------------------------------------------------------------------


def noise(chance: random.Random) -> bytes:
    """Random bytes."""
    return chance.randbytes(chance.randint(1, 600))


def framed_noise(chance: random.Random) -> bytes:
    """Good headers around random PDUs."""
    return b"".join(
        adu(
            chance.randbytes(chance.choice((1, 2, 3, 5, 6, 7, 12, 100, 253))),
            chance.randrange(65536),
            chance.randrange(256),
        )
        for _ in range(chance.randint(1, 10))
    )


def plausible(chance: random.Random) -> bytes:
    """Good headers around known function codes with random data of about the right size."""
    stream = b""
    for _ in range(chance.randint(1, 10)):
        seed = bytearray(chance.choice(REQUESTS))
        for _ in range(chance.randint(0, 4)):
            seed[chance.randrange(len(seed))] = chance.choice(
                (0, 1, 2, 6, 0x7D, 0x7E, 0x80, 0xFF, chance.randrange(256))
            )
        stream += adu(bytes(seed), chance.randrange(65536), chance.randrange(256))
    return stream


def mutated(chance: random.Random) -> bytes:
    """Valid frames with bytes changed, put in, taken out and doubled, headers included."""
    stream = bytearray(b"".join(adu(chance.choice(REQUESTS), n, n % 256) for n in range(chance.randint(1, 10))))
    for _ in range(chance.randint(1, 8)):
        at = chance.randrange(len(stream) + 1)
        size = chance.randint(1, 16)
        match chance.randrange(5):
            case 0:
                stream[at : at + 1] = chance.randbytes(1)
            case 1:
                stream[at:at] = chance.randbytes(size)
            case 2:
                del stream[at : at + size]
            case 3:
                stream[at:at] = stream[at : at + size]
            case _:
                stream[at : at + size] = chance.choice((b"\x00", b"\xff", b"\x80")) * size
    return bytes(stream)


def foreign(chance: random.Random) -> bytes:
    """Frames of every framing, glued."""
    return b"".join(chance.choices(ADUS, k=chance.randint(1, 6)))


STREAMS = [noise, framed_noise, plausible, mutated, foreign]
AMOUNT = 2000


@pytest.mark.parametrize("make", STREAMS, ids=lambda make: make.__name__)
def test_any_stream_gives_legal_answers_or_a_fault(make: Callable[[random.Random], bytes]) -> None:
    chance = random.Random(make.__name__)
    frames = faults = 0
    conversation = Conversation()
    for _ in range(AMOUNT):
        served = conversation.serve(cut(chance, make(chance)))
        check_addressing(served)
        frames += len(served.frames)
        if served.fault is not None:
            faults += 1
            assert served.fault.reason in ("protocol_id", "length")
            assert conversation.serve([adu(REQUESTS[0], 1, 1)]).frames == []
            conversation = Conversation()
    assert frames or make is noise
    assert faults or make in (framed_noise, plausible)


def test_a_stream_is_answered_alike_whole_and_in_any_pieces() -> None:
    chance = random.Random(11)
    for turn in range(400):
        stream = STREAMS[1 + turn % 4](chance)
        whole = Conversation().serve([stream])
        bytewise = Conversation().serve([stream[at : at + 1] for at in range(len(stream))])
        pieces = Conversation().serve(cut(chance, stream))
        for other in (bytewise, pieces):
            assert (other.frames, other.answers) == (whole.frames, whole.answers)
            assert (other.fault is None) == (whole.fault is None)


def test_plain_reads_get_the_same_answer_by_the_short_way_and_by_the_long_way() -> None:
    chance = random.Random(12)
    short, long = Pipeline(Units(device())), Pipeline(Units(device()), AllowAllSlowly())
    for _ in range(5000):
        address = chance.choice((0, 99, 200, 999, 1000, 2000, 65535, chance.randrange(65536)))
        quantity = chance.choice((0, 1, 2, 125, 126, 2000, 2001, chance.randrange(2100)))
        frame = Frame(1, bytes((chance.randint(1, 4),)) + address.to_bytes(2, "big") + quantity.to_bytes(2, "big"))
        info = ConnectionInfo(1)
        answer = short.answer(frame, info)
        assert answer == long.answer(frame, info), frame
        assert isinstance(answer, bytes)
        check_answer(frame, answer)


# --- memory and time --------------------------------------------------------------------------


def test_a_stream_of_anything_leaves_no_memory_behind() -> None:
    chance = random.Random(13)
    for make in STREAMS:
        conversation = Conversation()
        tracemalloc.start()
        try:
            conversation.serve([make(chance)])
            before, _ = tracemalloc.get_traced_memory()
            total = 0
            while total < 1 << 16:
                stream = make(chance)
                total += len(stream)
                if conversation.serve(cut(chance, stream)).fault is not None:
                    conversation.renew()
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert after - before < 300_000, make.__name__  # files hold at most 100,000 bytes of it


SIZE = 1 << 16


def large_streams() -> Iterator[tuple[str, bytes]]:
    chance = random.Random(25)
    yield "noise", chance.randbytes(SIZE)
    yield "zeros", bytes(SIZE)
    yield "ones", b"\xff" * SIZE
    yield "smallest frames", adu(b"\x07", 1, 1) * (SIZE // 8)
    yield "reads", adu(bytes.fromhex("0300000001"), 1, 1) * (SIZE // 12)
    yield "largest frames", adu(bytes(253), 1, 1) * (SIZE // 260)
    yield "half a frame at the end", adu(bytes.fromhex("0300000001"), 1, 1) * (SIZE // 12) + b"\x00\x01\x00\x00"
    for make in STREAMS:
        stream = b""
        while len(stream) < SIZE:
            stream += make(chance)
        yield make.__name__, stream[:SIZE]


def decode_s(stream: bytes) -> float:
    """Processor time that the framer takes for a stream."""
    framer = MbapFramer()
    began = thread_time()
    framer.feed(stream)
    return thread_time() - began


def control_s() -> float:
    """What the least work costs on this machine, now: to take as many frames apart as there may be."""
    stream = adu(b"\x07", 1, 1) * (SIZE // 8)
    began = thread_time()
    found = [(HEADER.unpack_from(stream, at), stream[at + 7 : at + 8]) for at in range(0, len(stream), 8)]
    assert len(found) == SIZE // 8
    return thread_time() - began


def test_64_kib_of_anything_are_decoded_in_five_milliseconds() -> None:
    for name, stream in large_streams():
        tries = [(decode_s(stream), control_s()) for _ in range(9)]
        took_s, least_s = (min(times) for times in zip(*tries, strict=True))
        assert took_s < max(0.005, 3 * least_s), name
