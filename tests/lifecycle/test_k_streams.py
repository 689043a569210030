"""Group K, streams: vulnerabilities in how bytes become frames, and what connections leave behind.

Rows of group K of docs/faults.md, named by their numbers there; see test_k_vulnerabilities.py.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest

import everbus
from everbus import Bank, Limits, LocalDevice, Server
from everbus.client.endpoint import parse_endpoint
from tests.lifecycle.control import beside, quickest
from tests.lifecycle.programs import Program, program, serve
from tests.lifecycle.wire import READ, Answer, SpyFramer, Wire, adu, answers_in, u16, until, vectors

FREE_PORT = "tcp://127.0.0.1:0"
SOURCES = Path(everbus.__file__).parent


def listening_bank() -> tuple[Bank, list[object]]:
    """A bank, and the writes that it was told of."""
    bank = Bank()
    writes: list[object] = []
    bank.on_write(writes.append)
    return bank, writes


# --- V06: the length alone is the boundary ------------------------------------------------------


def model_of_stream(stream: bytes) -> tuple[list[tuple[int, int, bytes]], str]:
    """Frames of a stream by the length field alone, and what becomes of the rest."""
    frames: list[tuple[int, int, bytes]] = []
    while len(stream) >= 6:
        length = int.from_bytes(stream[4:6], "big")
        if stream[2:4] != b"\0\0" or not 2 <= length <= 254:
            return frames, "closed"
        if len(stream) < 6 + length:
            break
        frames.append((int.from_bytes(stream[:2], "big"), stream[6], stream[7 : 6 + length]))
        stream = stream[6 + length :]
    return frames, "waiting" if stream else "clean"


def streams_with_wrong_lengths(chance: random.Random, number: int) -> Iterator[bytes]:
    """Writes whose length field says less or more than their bytes."""
    for _ in range(number):
        stream = b""
        for _ in range(chance.randint(1, 6)):
            frame = bytearray(
                adu(b"\x06" + u16(chance.randrange(10), chance.randrange(1, 65536)), chance.randrange(65536))
            )
            if chance.random() < 0.4:
                frame[5] = max(0, frame[5] + chance.choice((-5, -4, -3, -2, -1, 1, 2, 6, 12, 13, 18)))
            stream += frame
        yield stream


async def test_v06_bytes_outside_the_declared_length_are_never_executed_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("everbus.aio.server.MbapFramer", SpyFramer)
    chance = random.Random(6)
    bank, writes = listening_bank()
    async with Server(bank, FREE_PORT) as server, beside(server):
        for stream in streams_with_wrong_lengths(chance, 400):
            frames, state = model_of_stream(stream)
            cuts = sorted(chance.sample(range(1, len(stream)), chance.randint(0, min(8, len(stream) - 1))))
            writes.clear()
            async with await Wire.to(server) as client:
                with suppress(ConnectionError):  # the server may close before the last piece is sent
                    for start, end in pairwise([0, *cuts, len(stream)]):
                        await client.send(stream[start:end])
                        await asyncio.sleep(0)
                        await asyncio.sleep(0)
                answers = await client.answers(len(frames))
                if state == "closed":
                    assert (await client.ended()).data == b""
            legal = [pdu for *_, pdu in frames if len(pdu) == 5 and pdu[0] == 6]
            assert len(writes) == len(legal)
            for (transaction, unit, pdu), answer in zip(frames, answers, strict=True):
                expected = pdu if pdu in legal else None
                assert answer[:2] == (transaction, unit)
                assert answer.pdu == expected or answer.pdu[0] == pdu[0] | 0x80, pdu.hex()


@pytest.mark.slow
@pytest.mark.requirement("TG-3.1.2-boundary")
async def test_v06_the_request_of_the_report_at_every_split() -> None:
    """Length 3 with six bytes behind it: a short request, and the start of another that lies."""
    stream = b"\x00\x01\x00\x00\x00\x03\x01" + b"\x06\x00\x01\x00\x03\x99"
    bank, writes = listening_bank()
    async with Server(bank, FREE_PORT, limits=Limits(frame_timeout_s=0.3)) as server, beside(server):
        clients = []
        for cut in range(len(stream)):
            client = await Wire.to(server)
            clients.append(client)
            await client.send(stream[:cut])
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            await client.send(stream[cut:])
            assert await client.answer() == (1, 1, b"\x86\x03")
        for client in clients:
            assert (await client.ended()).data == b""
            client.close()
        assert writes == []


# --- V09, V15: slow and cut ---------------------------------------------------------------------


async def cpu_over(duration_s: float) -> float:
    began = time.process_time()
    await asyncio.sleep(duration_s)
    return time.process_time() - began


@pytest.mark.slow
async def test_v09_half_frames_cost_no_processor_time_and_are_closed_at_the_deadline() -> None:
    limits = Limits(frame_timeout_s=1.2)
    async with Server(Bank(), FREE_PORT, limits=limits) as server:
        idle_s = await cpu_over(0.8)
        clients = [await Wire.to(server) for _ in range(50)]
        for number, client in enumerate(clients):
            await client.send(adu(READ)[: 1 + number % 11])
        await until(lambda: server.statistics().connections == 50)
        held_s = await cpu_over(0.8)
        assert held_s <= idle_s + 0.01 * 0.8
        for client in clients:
            assert (await client.ended()).after_s < 1.2 + limits.sweep_s + 0.5
            client.close()
        assert server.statistics().closed_by_reason == {"frame_timeout": 50}
        async with await Wire.to(server) as client:
            assert await quickest(client.round_trip_s) <= 0.05


SINK = """
import asyncio, json

class Sink(asyncio.BufferedProtocol):
    view = memoryview(bytearray(8192))

    def connection_made(self, transport):
        self.transport = transport

    def get_buffer(self, sizehint):
        return self.view

    def buffer_updated(self, nbytes):
        if self.view[nbytes - 1] == 0xFF:
            self.transport.write(b"done")

async def main():
    server = await asyncio.get_running_loop().create_server(Sink, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    print(json.dumps({"endpoints": [f"tcp://127.0.0.1:{port}"]}), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def byte_by_byte_s(running: Program, stream: bytes, answer_bytes: int) -> float:
    """Processor time of a server that gets a stream in segments of one byte."""
    where = parse_endpoint(await running.ready())
    with socket.create_connection((where.host, where.port), 60) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        before = running.cpu_s
        for at in range(len(stream)):
            client.send(stream[at : at + 1])
        while answer_bytes > 0:
            data = client.recv(1 << 16)
            assert data
            answer_bytes -= len(data)
        return running.cpu_s - before


@pytest.mark.slow
async def test_v15_a_mebibyte_in_segments_of_one_byte_costs_what_the_loop_costs(tmp_path: Path) -> None:
    write = adu(b"\x10" + u16(0, 123) + b"\xf6" + bytes(246))
    number = (1 << 20) // len(write)
    async with serve(tmp_path / "log") as running, program(tmp_path / "sink", "-c", SINK) as sink:
        cost_s = await byte_by_byte_s(running, write * number, 12 * number)
        least_s = await byte_by_byte_s(sink, bytes(len(write) * number) + b"\xff", 4)
    assert cost_s < max(2.0, 1.5 * least_s)


async def test_v15_a_fin_inside_a_frame_closes_at_once_and_costs_nothing() -> None:
    async with Server(Bank(), FREE_PORT) as server, beside(server):
        for size in range(1, 12):

            async def closing_s(part: bytes = adu(READ)[:size]) -> float:
                async with await Wire.to(server) as client:
                    await client.send(part)
                    await asyncio.sleep(0)
                    client.half_close()
                    ended = await client.ended()
                    assert ended.data == b""
                    return ended.after_s

            assert await quickest(closing_s) <= 0.1
    async with Server(Bank(), FREE_PORT) as server:
        async with await Wire.to(server) as client:
            await client.send(adu(READ)[:5])
            client.half_close()
            await client.ended()
        assert await cpu_over(0.3) <= 0.02


# --- V17, V24, V25: fuzz ------------------------------------------------------------------------


def mutated(chance: random.Random, seeds: list[bytes]) -> bytes:
    """Valid frames with a few bytes changed, cut, doubled or filled in."""
    stream = bytearray(b"".join(chance.choices(seeds, k=chance.randint(1, 8))))
    for _ in range(chance.randint(0, 6)):
        at = chance.randrange(len(stream) + 1)
        kind = chance.randrange(5)
        if kind == 0 and at < len(stream):
            stream[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            stream[at:at] = chance.randbytes(chance.randint(1, 8))
        elif kind == 2:
            del stream[at : at + chance.randint(1, 8)]
        elif kind == 3:
            stream[at:at] = stream[at : at + chance.randint(1, 32)]
        else:
            stream[at : at + 1] = chance.choice((b"\x00", b"\xff", b"\x7f", b"\x80"))
    return bytes(stream) or b"\x00"


def seed_frames() -> list[bytes]:
    pdus = [bytes.fromhex(vector["pdu_hex"]) for vector in vectors("pdu", direction="request")]
    return [adu(pdu, number, number % 256) for number, pdu in enumerate(pdus)]


@pytest.mark.parametrize("cases", [400, pytest.param(5000, marks=pytest.mark.slow)])
async def test_v17_v24_after_every_fuzz_case_a_control_request_is_answered(cases: int) -> None:
    chance, seeds = random.Random(24), seed_frames()
    slowest: list[float] = []
    async with Server(LocalDevice(), FREE_PORT, limits=Limits(frame_timeout_s=0.2)) as server:
        async with beside(server, most_growth_bytes=8 << 20) as control, await Wire.to(server, "127.0.0.5") as polite:
            for number in range(cases):
                stream = mutated(chance, seeds)
                client = await Wire.to(server, f"127.0.0.{6 + number % 20}")
                await client.send(stream)
                client.half_close()
                answers = answers_in((await client.ended()).data)
                frames, _ = model_of_stream(stream)
                assert [answer[:2] for answer in answers] == [frame[:2] for frame in frames], stream.hex()
                client.close()
                slowest.append(await polite.round_trip_s())
        statistics = server.statistics()
    assert statistics.handler_failures == {}
    assert statistics.accept_errors == {}
    assert sorted(slowest)[-1 - cases // 100] <= control.allowed_s


PATTERNS = {
    "zeros": bytes(65536),
    "ones": b"\xff" * 65536,
    "headers": b"\x00\x01\x00\x00\x00\x02\x01" * 9362,
    "reads": adu(READ) * 5461,
    "exceptions": adu(b"\x63") * 8192,
    "largest": adu(b"\x08\x00\x00" + bytes(250)) * 252,
    "half": adu(READ) * 5460 + adu(READ)[:11],
}


@pytest.mark.slow
async def test_v25_64_kib_of_anything_hold_nobody_up() -> None:
    patterns = {**PATTERNS, "noise": random.Random(25).randbytes(65536)}
    async with Server(Bank(), FREE_PORT, limits=Limits(frame_timeout_s=0.3)) as server, beside(server):
        for pattern in patterns.values():
            for _ in range(10):
                async with await Wire.to(server) as client:
                    with suppress(ConnectionError):
                        await client.send(pattern)
                        client.half_close()
                    await client.ended()


# --- V20: nothing is kept of a connection -------------------------------------------------------


async def come_and_go(server: Server, number: int, chance: random.Random) -> None:
    """Connect and leave at a random point: before a request, inside one, before its answer, after it."""
    for index in range(number):
        client = await Wire.to(server, f"127.0.{1 + index // 250 % 250}.{1 + index % 250}")
        point = chance.randrange(5)
        if point == 1:
            await client.send(adu(READ)[: chance.randint(1, 11)])
        elif point >= 2:
            await client.send(adu(READ))
        if point >= 3:
            await client.answer()
        client.close() if point == 4 else client.reset()


async def objects_after(server: Server, number: int, chance: random.Random) -> tuple[int, int]:
    """Objects and threads alive once so many connections have come and gone.

    The loop keeps some cancelled timers of this test's own time limits for a while.
    """
    await come_and_go(server, number, chance)
    await until(lambda: server.statistics().connections == 0)
    await asyncio.sleep(0.1)
    gc.collect()
    timers = (asyncio.TimerHandle, contextvars.Context)
    alive = sum(not isinstance(found, timers) for found in gc.get_objects())
    return alive, threading.active_count()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", [1000, pytest.param(100_000, marks=[pytest.mark.slow, pytest.mark.patient])])
async def test_v20_nothing_is_kept_of_connections_that_came_and_went(number: int) -> None:
    chance = random.Random(20)
    async with Server(Bank(), FREE_PORT) as server:
        before = await objects_after(server, 1000, chance)
        after = await objects_after(server, number, chance)
        assert server.statistics().opened == server.statistics().closed == 1000 + number
    assert abs(after[0] - before[0]) <= 50
    assert after[1] == before[1]


# --- V22, V23: coalesced and interleaved --------------------------------------------------------


@pytest.mark.requirement("TG-3.1.2-stream")
async def test_v22_every_frame_of_a_segment_is_answered() -> None:
    async with Server(Bank(), FREE_PORT) as server, beside(server), await Wire.to(server) as client:
        for number in range(1, 65):
            await client.send(b"".join(adu(READ, 1000 * number + index, index) for index in range(number)))
            expected = [Answer(1000 * number + index & 0xFFFF, index, b"\x03\x02\x00\x00") for index in range(number)]
            assert await client.answers(number) == expected


@pytest.mark.requirement("TG-4.2.1.1-clients", "TG-4.4.2.3-connection")
async def test_v23_the_halves_of_two_clients_do_not_meet() -> None:
    chance = random.Random(23)
    bank = Bank()
    bank.write_holding_registers(0, list(range(1000)))
    async with (
        Server(bank, FREE_PORT) as server,
        beside(server),
        await Wire.to(server) as one,
        await Wire.to(server) as other,
    ):
        for turn in range(500):
            frames = [adu(b"\x03" + u16(turn + number, 1), turn, 10 + number) for number in (0, 1)]
            cuts = [chance.randint(1, 11) for _ in frames]
            for part in (0, 1):
                for client, frame, cut in zip((one, other), frames, cuts, strict=True):
                    await client.send(frame[:cut] if part == 0 else frame[cut:])
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)
            answers = [await one.answer(), await other.answer()]
            assert answers == [(turn, 10 + number, b"\x03\x02" + u16(turn + number)) for number in (0, 1)]
