"""Groups B and G, what comes over a serial line: noise, other devices, echoes, broadcasts (rows B7, B8, G4 to G6)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter, process_time

import pytest

from everbus import Bank, Server
from everbus.observe import EventKind
from everbus.protocol.framing.ascii import AsciiFramer
from everbus.protocol.framing.rtu import RtuFramer
from everbus.service.local import LocalDevice
from everbus.testing import RecordingObserver
from tests.lifecycle.support import measured
from tests.lifecycle.wire import READ, read, u16, until, value
from tests.ports import Device, plugged_in

OURS, SECOND, OTHER = 1, 2, 9
ZERO = value(0)
GAP_S = 0.05
encode = RtuFramer("request").encode
ascii_encode = AsciiFramer().encode


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    with plugged_in(tmp_path) as found:
        yield found


def devices() -> dict[int, Bank]:
    """Two, whose registers hold their addresses."""
    return {unit: numbered() for unit in (OURS, SECOND)}


def numbered() -> Bank:
    bank = Bank()
    bank.write_holding_registers(0, range(200))
    return bank


# --- B7 -----------------------------------------------------------------------------------------


def disturbed(chance: random.Random, frame: bytes, rate: float) -> bytes:
    """A frame of which some bytes are others, more, or missing."""
    out = bytearray()
    for byte in frame:
        if chance.random() >= rate:
            out.append(byte)
        elif chance.random() < 2 / 3:
            out += chance.randbytes(chance.choice((1, 2)))
    return bytes(out)


def noise(chance: random.Random, most: int) -> bytes:
    return chance.randbytes(chance.randint(0, most))


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.001, 0.01, 0.05, 0.2])
@pytest.mark.requirement("SL-2.5.1.1-resync", "SL-2.4.2-frame-error")
async def test_b7_every_good_frame_in_noise_is_answered_and_no_other(device: Device, rate: float) -> None:
    chance = random.Random(f"B7 {rate}")
    good = bad = 0
    slowest_s = 0.0
    async with Server(devices(), device.endpoint()) as server:
        for _ in range(60):
            address, count, unit = chance.randrange(75), chance.randint(1, 125), chance.choice((OURS, SECOND))
            frame = encode(unit, read(address, count))
            sent = disturbed(chance, frame, rate)
            most = round(rate * 256)
            device.send(noise(chance, most) + sent + noise(chance, most))
            answer = encode(unit, value(*range(address, address + count)))
            began = perf_counter()
            if sent == frame:
                good += 1
                assert await device.receive(len(answer)) == answer
                slowest_s = max(slowest_s, perf_counter() - began)
            else:
                bad += 1
                assert await device.receive(1, GAP_S + 0.02) == b""
        assert server.statistics().requests == good
    measured("B7", noise=rate, answered=good, not_answered=bad, slowest_ms=round(1000 * slowest_s))


async def test_b7_a_good_frame_follows_a_bad_one(device: Device) -> None:
    observer = RecordingObserver()
    async with Server(devices(), device.endpoint(), observer=observer):
        for wrong in (encode(OURS, read(1))[:-1] + b"\0", encode(OURS, read(1))[:-2], b"\0" * 9, b"\xff" * 300):
            device.send(wrong + encode(OURS, read(7)))
            assert await device.receive(7) == encode(OURS, value(7))
    assert len(observer.of(EventKind.FRAME_REJECTED)) == 4


def conversations(chance: random.Random) -> list[tuple[bytes, bytes]]:
    """Requests to another device and its answers, of every kind, some of which look like our requests."""
    count, address = chance.randint(1, 100), chance.choice((0, 3, chance.randrange(0x10000)))
    data, word, place = chance.randbytes(2 * count), chance.randbytes(2), address.to_bytes(2, "big")
    bits = chance.randbytes((count + 7) // 8)
    return [
        (b"\x01" + place + u16(count), bytes((1, len(bits))) + bits),
        (b"\x03" + place + u16(count), bytes((3, len(data))) + data),
        (b"\x04" + place + u16(count), b"\x84\x02"),
        (b"\x05" + place + b"\xff\0", b"\x05" + place + b"\xff\0"),
        (b"\x06" + place + word, b"\x06" + place + word),
        (b"\x07", b"\x07\x01"),
        (b"\x08\0\0" + word, b"\x08\0\0" + word),
        (b"\x0f" + place + u16(count) + bytes((len(bits),)) + bits, b"\x0f" + place + u16(count)),
        (b"\x10" + place + u16(count) + bytes((len(data),)) + data, b"\x10" + place + u16(count)),
        (b"\x11", b"\x11\x03\x01\x02\xff"),
        (b"\x16" + place + word + word, b"\x16" + place + word + word),
        (b"\x17" + place + u16(count) + place + u16(1) + b"\x02" + word, bytes((0x17, len(data))) + data),
        (b"\x2b\x0e\x01\x00", b"\x2b\x0e\x01\x01\x00\x00\x01\x00\x03ABB"),
    ]


async def test_b7_requests_right_behind_other_devices_answers_are_found(device: Device) -> None:
    chance = random.Random("B7 others")
    told = 0
    async with Server(devices(), device.endpoint()) as server:
        for request, answer in (pair for _ in range(3) for pair in conversations(chance)):
            told += 1
            device.send(encode(OTHER, request))
            if chance.random() < 0.5:
                await asyncio.sleep(0)
            whole = encode(OTHER, answer) + encode(OURS, read(told))
            cut = chance.randrange(len(whole))
            device.send(whole[:cut])
            await asyncio.sleep(0)
            device.send(whole[cut:])
            assert await device.receive(7) == encode(OURS, value(told))
        assert server.statistics().requests == told
        assert server.statistics().rejected_frames == {}


@pytest.mark.slow
async def test_b7_noise_costs_linear_time(device: Device) -> None:
    """The server reads as fast as a line of 20 Mbit/s could send, and answers afterwards."""
    chance = random.Random("B7 time")
    async with Server(devices(), device.endpoint()) as server:
        spent = []
        for size in (1 << 20, 1 << 21):
            data, at = chance.randbytes(size), 0
            began = process_time()
            while at < size:
                try:
                    at += device.send_some(data[at : at + 4096])
                except BlockingIOError:
                    await asyncio.sleep(0)
            requests = server.statistics().requests
            await device.silence(0.1)
            spent.append(process_time() - began)
            assert server.statistics().requests == requests
            device.send(encode(OURS, read(3)))
            assert await device.receive(7) == encode(OURS, value(3))
    measured("B7", first_s=round(spent[0], 2), twice_s=round(spent[1], 2))
    assert spent[0] < 2
    assert spent[1] < 2.6 * spent[0]


# --- B8 -----------------------------------------------------------------------------------------

FRAME = ascii_encode(OURS, read(7))
WRONG = {
    "lower case": FRAME.lower(),
    "no CR": FRAME.replace(b"\r", b""),
    "colon inside": FRAME[:7] + b":" + FRAME[7:],
    "too long": b":" + b"0" * 600 + b"\r\n",
    "no digit": FRAME.replace(b"0", b"G", 1),
    "odd": FRAME[:-3] + b"\r\n",
    "bad LRC": FRAME[:-4] + b"00\r\n",
    "too short": b":01\r\n",
    "nothing": b":\r\n",
    "binary": bytes(range(0x3B, 0x100)),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.requirement("SL-2.5.2-digits", "SL-2.5.2.1-colon", "SL-2.5.2.2-bad", "SL-2.4.2-frame-error")
async def test_b8_a_wrong_ascii_frame_is_dropped_and_the_next_found(device: Device, wrong: str) -> None:
    answer = ascii_encode(OURS, value(7))
    async with Server(devices(), device.endpoint("ascii")) as server:
        device.send(WRONG[wrong] + FRAME)
        assert await device.receive(len(answer)) == answer
        assert server.statistics().requests == 1
        if wrong != "binary":
            assert sum(server.statistics().rejected_frames.values()) >= 1


# --- G4 to G6 -----------------------------------------------------------------------------------


async def test_g4_stray_bytes_and_echoes_are_ignored(device: Device) -> None:
    async with Server({OURS: numbered()}, device.endpoint(echo=True)) as server:
        for count in range(1, 6):
            device.send(b"\0" * (count % 3) + encode(OURS, read(count)))
            answer = await device.receive(7)
            assert answer == encode(OURS, value(count))
            device.send(answer)  # the echo
        write = encode(OURS, b"\x06" + u16(3, 77))
        device.send(write)
        assert await device.receive(8) == write
        device.send(write)  # an echo, although it looks like the request
        await device.silence()
        assert server.statistics().requests == 6


async def test_g5_broadcasts_are_executed_in_silence(device: Device) -> None:
    first, second = LocalDevice(), LocalDevice()
    async with Server({OURS: first, SECOND: second}, device.endpoint()) as server:
        device.send(encode(0, b"\x10" + u16(5, 2) + b"\x04" + u16(11, 22)))
        await until(lambda: server.statistics().requests == 1)
        device.send(encode(0, READ))
        await until(lambda: server.statistics().requests == 2)
        await device.silence()
        for unit in (OURS, SECOND):
            device.send(encode(unit, read(5, 2)))
            assert await device.receive(9) == encode(unit, value(11, 22))
        for code, count in ((0x0B, 5), (0x0D, 1), (0x0E, 6), (0x0F, 2)):  # of the first device
            device.send(encode(OURS, b"\x08" + u16(code, 0)))
            assert await device.receive(8) == encode(OURS, b"\x08" + u16(code, count))


async def test_g6_listen_only_mode_is_silence_until_a_restart(device: Device) -> None:
    async with Server(devices(), device.endpoint()):
        for asked in (b"\x08" + u16(4, 0), READ, b"\x06" + u16(0, 5), b"\x08" + u16(0, 5)):
            device.send(encode(OURS, asked))
            await device.silence(0.02)
        device.send(encode(SECOND, READ))
        assert await device.receive(7) == encode(SECOND, ZERO)
        device.send(encode(OURS, b"\x08" + u16(1, 0)))
        await device.silence(0.02)
        device.send(encode(OURS, READ))
        assert await device.receive(7) == encode(OURS, ZERO)
