from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from everbus.aio.server import Server
from everbus.aio.statistics import Drained
from everbus.client.endpoint import parse_endpoint
from everbus.limits import Limits
from everbus.protocol.framing.ascii import AsciiFramer
from everbus.protocol.framing.base import Frame, Framer
from everbus.protocol.framing.rtu import RtuFramer
from everbus.protocol.pdu.registers import ReadHoldingRegistersResponse
from everbus.protocol.pdu.table import AnyRequest
from everbus.service.bank import Bank
from everbus.service.context import RequestContext
from everbus.service.handler import Answer
from everbus.service.local import LocalDevice
from everbus.service.units import UnitSource
from tests.aio.wire import READ, ZERO, loop_complaints, read_holding, until, write_register

FRAMINGS = ["rtu", "ascii"]
QUICK = Limits(frame_gap_s=0.05)
WITHIN_S = 5.0


def request_framer(framing: str) -> Framer:
    return RtuFramer("request") if framing == "rtu" else AsciiFramer()


def request(framing: str, pdu: bytes = READ, unit: int = 1) -> bytes:
    return request_framer(framing).encode(unit, pdu)


@dataclass
class Master:
    """The client's end: it knows frames and nothing else."""

    server: Server
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    framer: Framer
    framing: str

    def send(self, *pieces: bytes) -> None:
        self.writer.write(b"".join(pieces))

    async def answers(self, count: int) -> list[Frame]:
        """So many answers, and nothing behind them."""
        found: list[Frame] = []
        async with asyncio.timeout(WITHIN_S):
            while len(found) < count:
                data = await self.reader.read(4096)
                assert data, f"closed after {len(found)} of {count} answers"
                found += self.framer.feed(data)
        assert len(found) == count
        assert self.framer.pending == 0
        return found

    async def ask(self, pdu: bytes = READ, unit: int = 1) -> bytes:
        self.send(request(self.framing, pdu, unit))
        (frame,) = await self.answers(1)
        assert frame.unit == unit
        return frame.pdu

    def lost(self) -> dict[str, int]:
        return self.server.statistics().rejected_frames


@asynccontextmanager
async def master(handler: UnitSource, framing: str, limits: Limits = QUICK) -> AsyncIterator[Master]:
    async with Server(handler, f"{framing}+tcp://127.0.0.1:0", limits=limits) as server:
        endpoint = parse_endpoint(server.endpoints[0])
        assert endpoint.scheme == f"{framing}+tcp"
        reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
        framer = RtuFramer("response") if framing == "rtu" else AsciiFramer()
        try:
            yield Master(server, reader, writer, framer, framing)
        finally:
            writer.close()
            await writer.wait_closed()


class Slow:
    """Answers a read with its address, when it is told to; and knows how many it answers at once."""

    def __init__(self) -> None:
        self.gates: dict[int, asyncio.Event] = {}
        self.begun: list[int] = []
        self.running = 0
        self.most = 0

    async def __call__(self, request: AnyRequest, context: RequestContext) -> Answer:
        address: int = request.address  # type: ignore[attr-defined]  # these tests read registers
        self.begun.append(address)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.gates.setdefault(address, asyncio.Event()).wait()
        finally:
            self.running -= 1
        return ReadHoldingRegistersResponse.of([address])


# Requests and answers


@pytest.mark.parametrize("framing", FRAMINGS)
async def test_it_answers_in_the_frames_that_it_is_asked_in(framing: str) -> None:
    async with master({7: Bank()}, framing) as line:
        assert await line.ask(write_register(42), 7) == write_register(42)
        assert await line.ask(READ, 7) == b"\x03\x02\0\x2a"
        assert await line.ask(read_holding(0, 126), 7) == b"\x83\x03"
        assert await line.ask(read_holding(0, 125), 7) == b"\x03\xfa\0\x2a" + bytes(248)
        assert await line.ask(b"\x08\0\x04\0\0", 7) == b"\x88\x01", "one client could silence everybody"
        assert line.server.statistics().requests == 5
        assert line.lost() == {}


@pytest.mark.parametrize("framing", FRAMINGS)
async def test_how_the_network_splits_and_glues_frames_does_not_matter(framing: str) -> None:
    wire = b"".join(request(framing, read_holding(address, 1)) for address in range(3))
    async with master(Bank(), framing) as line:
        for at in range(1, len(wire)):
            line.send(wire[:at])
            await asyncio.sleep(0)
            line.send(wire[at:])
            assert [frame.pdu for frame in await line.answers(3)] == [ZERO] * 3
        for byte in wire:
            line.send(bytes((byte,)))
            await asyncio.sleep(0)
        assert len(await line.answers(3)) == 3
        assert line.lost() == {}


@pytest.mark.parametrize("framing", FRAMINGS)
async def test_answers_leave_in_the_order_of_the_requests_whatever_their_handlers_do(framing: str) -> None:
    slow = Slow()
    async with master({1: slow, 2: Bank()}, framing) as line:
        pdus = [read_holding(address, 1) for address in (5, 6)]
        line.send(
            request(framing, READ, 2), request(framing, pdus[0]), request(framing, READ, 2), request(framing, pdus[1])
        )
        assert (await line.answers(1))[0] == Frame(2, ZERO)
        slow.gates[6] = asyncio.Event()
        slow.gates[6].set()
        await asyncio.sleep(0.01)
        assert slow.begun == [5]
        slow.gates[5].set()
        found = await line.answers(3)
        assert found == [Frame(1, b"\x03\x02\0\x05"), Frame(2, ZERO), Frame(1, b"\x03\x02\0\x06")]
        assert slow.most == 1


@pytest.mark.parametrize("framing", FRAMINGS)
async def test_half_a_request_behind_one_that_waits_is_not_lost(framing: str) -> None:
    slow = Slow()
    wire = request(framing, read_holding(9, 1))
    async with master(slow, framing, Limits(frame_gap_s=0.02)) as line:
        line.send(request(framing, read_holding(8, 1)), wire[:5])
        await until(lambda: slow.begun == [8])
        await asyncio.sleep(0.06)  # nobody reads meanwhile: that is no silence
        slow.gates[8].set()
        assert len(await line.answers(1)) == 1
        line.send(wire[5:])
        await until(lambda: slow.begun == [8, 9])
        slow.gates[9].set()
        assert await line.answers(1) == [Frame(1, b"\x03\x02\0\x09")]
        assert line.lost() == {}


@pytest.mark.parametrize("framing", FRAMINGS)
async def test_a_request_for_a_device_elsewhere_is_not_answered(framing: str) -> None:
    async with master({1: Bank(), 2: Bank()}, framing) as line:
        line.send(request(framing, READ, 3), request(framing, b"\x63", 3) if framing == "ascii" else b"")
        assert await line.ask(READ, 2) == ZERO


@pytest.mark.parametrize("framing", FRAMINGS)
async def test_g5_a_broadcast_is_carried_out_by_every_device_and_answered_by_none(framing: str) -> None:
    devices = {1: LocalDevice(), 2: LocalDevice()}
    async with master(devices, framing) as line:
        line.send(request(framing, write_register(7), 0), request(framing, READ, 0))
        assert await line.ask(READ, 1) == await line.ask(READ, 2) == b"\x03\x02\0\x07"
        for device in devices.values():
            assert device.diagnostics.no_responses == 2
            assert device.diagnostics.bus_exceptions == 1


async def test_a_broadcast_waits_for_the_handlers_of_all() -> None:
    begun: list[int] = []
    go_on = asyncio.Event()

    async def handler(request: AnyRequest, context: RequestContext) -> Answer:
        begun.append(context.unit)
        await go_on.wait()
        raise ValueError("nobody is told")

    def other(request: AnyRequest, context: RequestContext) -> object:
        return handler(request, context)

    async with master({1: handler, 2: other, 3: Bank()}, "rtu") as line:  # type: ignore[dict-item]  # it is awaitable
        line.send(request("rtu", write_register(7), 0), request("rtu", READ, 3))
        await until(lambda: begun == [1, 2])
        assert line.server.statistics().requests == 2
        go_on.set()
        assert await line.answers(1) == [Frame(3, b"\x03\x02\0\x07")]
        assert line.server.statistics().handler_failures == {"ValueError": 2}


async def test_a_new_ascii_delimiter_is_valid_for_what_comes_next() -> None:
    async with master(Bank(), "ascii") as line:
        assert await line.ask(b"\x08\0\x03\x23\0") == b"\x08\0\x03\x23\0"
        line.send(request("ascii")[:-1], b"#")
        assert await line.reader.readuntil(b"#") == b":010302000" + b"0FA\r#"
        assert line.lost() == {}


# Noise


def damaged(framing: str) -> bytes:
    """A request whose checksum is wrong."""
    wire = bytearray(request(framing))
    wire[4] ^= 1
    return bytes(wire)


@pytest.mark.parametrize("framing", FRAMINGS)
async def test_b7_behind_a_wrong_checksum_the_good_frame_is_found_and_the_connection_stays(framing: str) -> None:
    device = LocalDevice()
    async with master(device, framing) as line:
        for number in range(1, 4):
            line.send(damaged(framing), request(framing), request(framing))
            assert [frame.pdu for frame in await line.answers(2)] == [ZERO, ZERO]
            assert line.lost() == {"checksum": number}
        assert device.diagnostics.bus_comm_errors == 3
        found = line.server.statistics()
        assert (found.opened, found.closed, found.requests) == (1, 0, 6)


@pytest.mark.parametrize(
    "broken",
    [b":0103000000Z1FB\r\n", b":010300000001fb\r\n", b":01:", b":0103000000\r\n", b":01" + b"0" * 600],
    ids=["not hex", "lower case", "colon inside", "short", "over-long"],
)
async def test_b8_behind_what_is_no_ascii_frame_the_next_one_is_found(broken: bytes) -> None:
    async with master(Bank(), "ascii") as line:
        line.send(broken)
        assert await line.ask() == ZERO
        assert sum(line.lost().values()) == 1


def between(rng: random.Random, rate: float, frames: list[bytes]) -> tuple[bytes, list[bool]]:
    """The frames with noise between them: so many of all bytes."""
    wire = bytearray()
    for frame in frames:
        wire += rng.randbytes(sum(rng.random() < rate / (1 - rate) for _ in frame)) + frame
    return bytes(wire), [True] * len(frames)


def inside(rng: random.Random, rate: float, frames: list[bytes]) -> tuple[bytes, list[bool]]:
    """The frames with so many of their bytes changed; and which of them are still good."""
    wire, good = bytearray(), []
    for frame in frames:
        changed = bytes(byte ^ rng.randrange(1, 256) if rng.random() < rate else byte for byte in frame)
        wire += changed
        good.append(changed == frame)
    return bytes(wire), good


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.05, 0.2])
@pytest.mark.parametrize("noise", [between, inside])
@pytest.mark.parametrize("framing", FRAMINGS)
async def test_b7_every_good_frame_is_found_in_noise(
    framing: str, noise: Callable[[random.Random, float, list[bytes]], tuple[bytes, list[bool]]], rate: float
) -> None:
    rng = random.Random(f"{framing} {noise.__name__} {rate} 2")  # one by chance in 65,536 is good, and is not here
    bank = Bank()
    bank.write_holding_registers(0, list(range(300)))
    frames = [request(framing, read_holding(address, 1)) for address in range(300)]
    wire, good = noise(rng, rate, frames)
    wanted = [address for address in range(300) if good[address]]
    async with master({1: bank}, framing, Limits(frame_gap_s=0.2)) as line:
        at = 0
        while at < len(wire):
            size = rng.randrange(1, 200)
            line.send(wire[at : at + size])
            at += size
            await asyncio.sleep(0)
        found = await line.answers(len(wanted))
        assert [int.from_bytes(frame.pdu[2:]) for frame in found] == wanted
        assert await line.ask() == ZERO, "the silence has ended what the noise began"
        assert line.server.statistics().opened == 1


# Silence


async def test_noise_that_looks_like_the_start_of_a_long_frame_ends_with_the_silence() -> None:
    start = b"\x01\x10\0\0\0\x7b\xf6"
    async with master(Bank(), "rtu") as line:
        assert await line.ask() == ZERO
        line.send(start, request("rtu"))
        assert await line.answers(1) == [Frame(1, ZERO)]
        assert line.lost() == {"checksum": 1} or line.lost() == {"malformed": 1}
        line.send(start)
        await until(lambda: sum(line.lost().values()) == 2)
        assert await line.ask() == ZERO


async def test_a_frame_that_silence_alone_ends_is_answered() -> None:
    async with master(Bank(), "rtu") as line:
        assert await line.ask(b"\x63\x01\x02\x03") == b"\xe3\x01"
        assert line.lost() == {}


async def test_half_an_ascii_frame_is_given_up_after_the_silence() -> None:
    async with master(Bank(), "ascii") as line:
        line.send(request("ascii")[:9])
        await until(lambda: line.lost() == {"malformed": 1})
        line.send(request("ascii")[9:])
        assert await line.ask() == ZERO


async def test_bytes_that_keep_coming_are_no_silence() -> None:
    wire = request("rtu")
    async with master(Bank(), "rtu", Limits(frame_gap_s=0.06)) as line:
        for byte in wire[:-1]:
            line.send(bytes((byte,)))
            await asyncio.sleep(0.015)
        line.send(wire[-1:])
        assert await line.answers(1) == [Frame(1, ZERO)]
        assert line.lost() == {}


async def test_half_a_frame_costs_no_connection() -> None:
    limits = Limits(frame_gap_s=0.3, frame_timeout_s=0.05)
    async with master(Bank(), "rtu", limits) as line:
        line.send(request("rtu")[:5])
        await asyncio.sleep(0.2)
        line.send(request("rtu")[5:])
        assert await line.answers(1) == [Frame(1, ZERO)]


# The end


@pytest.mark.parametrize("held", [b"", request("rtu")[:5]], ids=["idle", "half a frame"])
async def test_a_stop_leaves_nothing_behind(held: bytes) -> None:
    with loop_complaints() as complaints:
        async with master(Bank(), "rtu", Limits(frame_gap_s=0.05)) as line:
            await line.ask()
            line.send(held)
            await asyncio.sleep(0.01)
            assert await line.server.stop() == Drained(1)
            assert await line.reader.read() == b""
        await asyncio.sleep(0.06)
    assert complaints == []


async def test_a_stop_waits_for_the_answer_that_is_under_way() -> None:
    slow = Slow()
    async with master(slow, "rtu") as line:
        line.send(request("rtu", read_holding(5, 1)), request("rtu")[:3])
        await until(lambda: slow.begun == [5])
        stopping = asyncio.create_task(line.server.stop())
        await asyncio.sleep(0.1)
        slow.gates[5].set()
        assert await line.answers(1) == [Frame(1, b"\x03\x02\0\x05")]
        assert await stopping == Drained(1)
