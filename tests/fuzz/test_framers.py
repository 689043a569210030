"""Good frames are found in any noise, in bounded memory and linear time (faults.md B1, B6, B7, B8).

That any bytes in any pieces give the same frames or nothing is the harnesses' matter.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from random import Random
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everbus.protocol.framing.ascii import AsciiFramer
from everbus.protocol.framing.base import Frame, Framer
from everbus.protocol.framing.checksums import crc16
from everbus.protocol.framing.mbap import MbapFramer
from everbus.protocol.framing.rtu import Direction, RtuFramer

FRAMERS: dict[str, tuple[Callable[[], Framer], int]] = {
    "mbap": (MbapFramer, 259),
    "ascii": (AsciiFramer, 512),
    "ascii, lenient": (lambda: AsciiFramer(lenient=True), 512),
    "rtu request": (lambda: RtuFramer("request"), 256),
    "rtu response": (lambda: RtuFramer("response"), 256),
    "rtu line": (lambda: RtuFramer("line"), 256),
}
"""Each framer, and the most it may hold."""

OURS = 1
NOISE_RATES = (0.001, 0.01, 0.05, 0.2)
SEED = 6

NOISE_BYTES = 2_000_000
ROUNDS = 8
S_PER_10_MB = 6.0
LINEAR = 2.2
TOO_QUICK_TO_MEASURE_S = 0.005


each_framer = pytest.mark.parametrize("name", FRAMERS)


def chunks(data: bytes, random: Random, most: int = 1500) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        size = random.randint(1, most)
        yield data[at : at + size]
        at += size


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(ends)]


def frames_to(unit: int, count: int, random: Random) -> list[Frame]:
    """Requests of many lengths, each another one."""
    frames = []
    for number in range(count):
        head = number.to_bytes(2, "big")
        data = random.randbytes(2 * random.randint(1, 60))
        pdus = (
            b"\x03" + head + b"\x00\x01",
            b"\x06" + head + data[:2],
            b"\x10" + head + (len(data) // 2).to_bytes(2, "big") + bytes((len(data),)) + data,
            b"\x16" + head + data[:1] * 4,
            b"\x2b\x0e" + head,
        )
        frames.append(Frame(unit, random.choice(pdus)))
    return frames


def adu(frame: Frame) -> bytes:
    return RtuFramer("request").encode(frame.unit, frame.pdu)


# --- good frames ------------------------------------------------------------------------------


@each_framer
@given(units=st.lists(st.integers(0, 255), max_size=8), places=st.lists(st.integers(0, 500), max_size=10))
@settings(deadline=None, max_examples=50)
def test_what_is_sent_is_received(name: str, units: list[int], places: list[int]) -> None:
    build, _ = FRAMERS[name]
    # On a line the second of two writes would be the echo of the first.
    pdu = bytes.fromhex("0300010003" if name == "rtu line" else "0600010003")
    sent = [Frame(unit, pdu) for unit in units]
    stream = b"".join(build().encode(frame.unit, frame.pdu) for frame in sent)
    framer = build()
    assert [frame for piece in cut(stream, places) for frame in framer.feed(piece)] == sent
    assert framer.pending == 0


# --- good frames in noise (B7, B8) --------------------------------------------------------------


@pytest.mark.parametrize("direction", ["request", "line"])
def test_every_good_frame_before_a_silence_is_found(direction: Direction) -> None:
    random = Random(SEED)
    framer = RtuFramer(direction)
    for frame in frames_to(OURS, 2000, random):
        data = random.randbytes(random.randint(0, 40)) + adu(frame) + random.randbytes(random.randint(0, 3))
        found = [one for chunk in chunks(data, random, 50) for one in framer.feed(chunk)]
        assert frame in found + framer.gap()
        assert framer.pending == 0


@pytest.mark.parametrize("direction", ["request", "line"])
def test_every_good_frame_is_found_once_256_bytes_of_noise_have_followed(direction: Direction) -> None:
    random = Random(SEED)
    framer = RtuFramer(direction)
    for frame in frames_to(OURS, 2000, random):
        assert frame in framer.feed(adu(frame) + random.randbytes(256))


@pytest.mark.parametrize("rate", NOISE_RATES)
def test_every_good_frame_is_found_between_damaged_ones_without_silence(rate: float) -> None:
    random = Random(SEED)
    sent = frames_to(OURS, 3000, random)
    stream, good = damaged(sent, rate, random)
    framer = RtuFramer("request")
    found = [frame for chunk in chunks(stream, random) for frame in framer.feed(chunk)] + framer.gap()
    assert [frame for frame in found if frame in good] == good
    assert len(good) < len(sent)
    assert len(found) - len(good) <= 1  # one run of noise in 65536 has a good CRC


@pytest.mark.parametrize("rate", [0, *NOISE_RATES])
def test_every_request_to_us_is_found_in_the_traffic_of_others(rate: float) -> None:
    random = Random(SEED)
    ours = frames_to(OURS, 600, random)
    framer = RtuFramer("line")
    found: list[Frame] = []
    good: list[Frame] = []
    for frame in ours:
        others = [adu(other) + answer_to(other, random) for other in frames_to(random.randint(2, 9), 2, random)]
        noisy, _ = damage(b"".join(others), rate, random)
        data, unharmed = damaged([frame], rate, random)
        good += unharmed
        for chunk in chunks(noisy + data, random):
            for request in framer.feed(chunk):
                found.append(request)
                if request.unit == OURS:
                    framer.encode(OURS, b"\x83\x04")
    found += framer.gap()
    assert [frame for frame in found if frame.unit == OURS and frame in good] == good


def test_every_good_ascii_frame_is_found_between_damaged_ones() -> None:
    random = Random(SEED)
    text = AsciiFramer().encode
    for rate in NOISE_RATES:
        sent = frames_to(OURS, 2000, random)
        pieces = [damage(text(frame.unit, frame.pdu), rate, random) for frame in sent]
        good = [frame for frame, (_, harmed) in zip(sent, pieces, strict=True) if not harmed]
        framer = AsciiFramer()
        stream = b"".join(data for data, _ in pieces)
        found = [frame for chunk in chunks(stream, random) for frame in framer.feed(chunk)]
        assert [frame for frame in found if frame in good] == good
        assert len(found) - len(good) <= len(sent) // 100  # an LRC of 8 bits misses one error in 256


def damage(data: bytes, rate: float, random: Random) -> tuple[bytes, bool]:
    """The bytes with noise in place of some, and whether there is any."""
    hit = [at for at in range(len(data)) if random.random() < rate]
    noisy = bytearray(data)
    for at in hit:
        noisy[at] ^= random.randint(1, 255)
    return bytes(noisy), bool(hit)


def damaged(frames: list[Frame], rate: float, random: Random) -> tuple[bytes, list[Frame]]:
    """RTU frames on a noisy line, and those that are still good."""
    pieces = [damage(adu(frame), rate, random) for frame in frames]
    good = [frame for frame, (_, harmed) in zip(frames, pieces, strict=True) if not harmed]
    return b"".join(data for data, _ in pieces), good


def answer_to(request: Frame, random: Random) -> bytes:
    """What a device might answer, as bytes; sometimes nothing."""
    data = random.randbytes(2 * random.randint(1, 60))
    answers = {
        0x03: b"\x03" + bytes((len(data),)) + data,
        0x10: request.pdu[:5],
        0x2B: b"\x2b\x0e\x01\x01\x00\x00\x01\x00\x04" + data[:2] * 2,
    }
    pdu = random.choice([answers.get(request.pdu[0], request.pdu), bytes((request.pdu[0] | 0x80, 2)), b""])
    return adu(Frame(request.unit, pdu)) if pdu else b""


# --- time (B6) ----------------------------------------------------------------------------------


def seconds(build: Callable[[], Framer], most: int, data: bytes, random: Random) -> float:
    """Processor time for these bytes in random chunks; a framer with a fault is replaced, as its connection is."""
    pieces = list(chunks(data, random))
    framer = build()
    started = time.process_time()
    for piece in pieces:
        framer.feed(piece)
        if framer.fault is not None:
            framer = build()
        elif framer.pending > most:
            pytest.fail(f"{framer.pending} bytes are held")
    framer.gap()
    return time.process_time() - started


def control(data: bytes) -> float:
    """Processor time of the plainest loop over these bytes, measured beside: this machine, this moment."""
    started = time.process_time()
    crc16(data)
    return time.process_time() - started


@pytest.mark.slow
@pytest.mark.timeout(300)
@each_framer
def test_noise_takes_under_6_s_for_10_mb(name: str, record_property: Callable[[str, object], None]) -> None:
    random = Random(SEED)
    taken = plain = 0.0
    for _ in range(ROUNDS):
        data = random.randbytes(NOISE_BYTES // ROUNDS)
        plain += control(data)
        taken += seconds(*FRAMERS[name], data, random)
    share = NOISE_BYTES / 10_000_000
    record_property("s_per_10_mb", taken / share)
    record_property("control_s_per_10_mb", plain / share)
    # Where the control alone is slow the machine is: then so many times the control.
    assert taken / share < max(S_PER_10_MB, 10 * plain / share)


HOSTILE = {
    "noise": Random(SEED).randbytes(4096),
    "exceptions": b"\x83",
    "claims of 255 bytes": b"\x01\x10\x00\x00\x00\x00\xf6",
    "candidates everywhere": b"\x03",
    "long lists of objects": bytes.fromhex("2B0E01010000FF0000"),
    "colons": b":",
    "empty lines": b":\r\n",
    "headers of the longest frame": bytes.fromhex("0001000000FE01"),
}


@pytest.mark.slow
@pytest.mark.parametrize("pattern", HOSTILE)
@each_framer
def test_twice_the_bytes_cost_twice_the_time(name: str, pattern: str) -> None:
    random = Random(SEED)
    size = 20_000
    data = (HOSTILE[pattern] * (2 * size // len(HOSTILE[pattern]) + 1))[: 2 * size]
    ratios = []
    for _ in range(7):
        # One right after the other: the machine's own pace changes from second to second.
        once = seconds(*FRAMERS[name], data[:size], random)
        ratios.append(seconds(*FRAMERS[name], data, random) / max(once, TOO_QUICK_TO_MEASURE_S))
    assert median(ratios) < LINEAR
