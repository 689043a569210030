"""Group B, over the wire: streams that are not whole, not single, or not Modbus.

Rows B1 to B4 and B9 of docs/faults.md; B1, B5 to B7 and B9 of "More cases".
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterator
from itertools import pairwise
from time import perf_counter
from typing import Any

import pytest

from everbus import Bank, Limits, Server
from everbus.protocol.pdu.base import Response
from everbus.protocol.pdu.registers import ReadHoldingRegistersResponse
from everbus.protocol.pdu.table import AnyRequest
from everbus.resources import memory_bytes
from everbus.service.context import RequestContext
from tests.lifecycle.control import beside, closing_time
from tests.lifecycle.wire import READ, Answer, SpyFramer, Wire, address_of, adu, answers_in, vectors

FREE_PORT = "tcp://127.0.0.1:0"
CLOSED, WAITING, CLEAN = "close connection", "need more bytes", "clean"
MBAP = {state: vectors("adu", framing="mbap", stream_state=state) for state in (CLOSED, WAITING, CLEAN)}
BEFORE, BEHIND = adu(READ, 0xAAAA, 0xAA), adu(READ, 0xBBBB, 0xBB)
READ_ONE = bytes.fromhex("03020000")


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[SpyFramer]]:
    """A server's framers note what they are fed."""
    monkeypatch.setattr("everbus.aio.server.MbapFramer", SpyFramer)
    SpyFramer.reads.clear()
    yield SpyFramer
    SpyFramer.reads.clear()


def stream_of(vector: dict[str, Any]) -> bytes:
    return bytes.fromhex(vector["adu_hex"])


def whom(vector: dict[str, Any]) -> list[tuple[int, int]]:
    return [(frame["transaction"], frame["unit"]) for frame in vector["stream_frames"]]


def addressed(answers: list[Answer]) -> list[tuple[int, int]]:
    return [answer[:2] for answer in answers]


async def send_split(wire: Wire, pieces: list[bytes], spy: type[SpyFramer]) -> None:
    """Each piece is read by the server on its own, which is checked."""
    spy.reads.clear()
    sent = 0
    for piece in pieces:
        await wire.send(piece)
        sent += len(piece)
        await spy.has_read(sent)
    assert spy.reads == [len(piece) for piece in pieces if piece]


def ways(stream: bytes) -> list[list[bytes]]:
    """Whole, byte by byte, and at every split."""
    bytewise = [stream[at : at + 1] for at in range(len(stream))]
    return [[stream], bytewise, *([stream[:at], stream[at:]] for at in range(1, len(stream)))]


def until_closed(stream: bytes, vector: dict[str, Any]) -> list[list[bytes]]:
    """The ways of a stream that is closed on, without those that end before the bad header has come,
    and without what nobody reads behind it."""
    fatal = sum(6 + len(frame["pdu_hex"]) // 2 + 1 for frame in vector["stream_frames"]) + 6
    found = []
    for pieces in ways(stream):
        at, kept = 0, []
        for piece in pieces:
            if at >= fatal:
                break
            kept.append(piece)
            at += len(piece)
        found.append(kept)
    return found


# --- B1 ---------------------------------------------------------------------------------------


async def test_b1_streams_of_whole_frames_are_answered_at_any_split(spy: type[SpyFramer]) -> None:
    async with Server(Bank(), FREE_PORT) as server, await Wire.to(server) as client:
        for vector in MBAP[CLEAN]:
            stream, expected = stream_of(vector), whom(vector)
            for pieces in ways(stream):
                await send_split(client, pieces, spy)
                assert addressed(await client.answers(len(expected))) == expected, vector["name"]
            await client.send(BEFORE + stream + BEHIND)
            found = addressed(await client.answers(len(expected) + 2))
            assert found == [(0xAAAA, 0xAA), *expected, (0xBBBB, 0xBB)], vector["name"]
        assert server.statistics().rejected_frames == {}


async def test_b1_streams_that_cannot_be_trusted_are_closed_at_any_split(spy: type[SpyFramer]) -> None:
    total = 0
    async with Server(Bank(), FREE_PORT) as server:
        for vector in MBAP[CLOSED]:
            stream, expected = stream_of(vector), whom(vector)
            for pieces in until_closed(stream, vector):
                async with await Wire.to(server) as client:
                    await send_split(client, pieces, spy)
                    answers = answers_in((await client.ended()).data)
                assert addressed(answers) == expected, (vector["name"], pieces)
                total += 1
            async with await Wire.to(server) as client:
                await client.send(BEFORE + stream + BEHIND)
                answers = answers_in((await client.ended()).data)
            assert addressed(answers) == [(0xAAAA, 0xAA), *expected], vector["name"]
            total += 1
        statistics = server.statistics()
        assert sum(statistics.rejected_frames.values()) == total
        assert statistics.closed_by_reason == statistics.rejected_frames


@pytest.mark.slow
async def test_b1_unfinished_frames_are_waited_for_until_the_frame_timeout(spy: type[SpyFramer]) -> None:
    limits = Limits(frame_timeout_s=0.5)
    waiting: list[tuple[str, Wire, float]] = []
    async with Server(Bank(), FREE_PORT, limits=limits) as server:
        for vector in MBAP[WAITING]:
            expected = whom(vector)
            for pieces in ways(stream_of(vector)):
                client = await Wire.to(server)
                waiting.append((vector["name"], client, perf_counter()))
                await send_split(client, pieces, spy)
                assert addressed(await client.answers(len(expected))) == expected, vector["name"]
        for name, client, began in waiting:
            ended = await client.ended()
            client.close()
            assert ended.data == b"", name
            assert 0.5 <= perf_counter() - began < 0.5 + limits.sweep_s + 1.0, name
        assert server.statistics().closed_by_reason == {"frame_timeout": len(waiting)}


async def test_b1_unfinished_frames_that_are_finished_are_answered() -> None:
    async with Server(Bank(), FREE_PORT) as server, await Wire.to(server) as client:
        [vector] = [vector for vector in MBAP[WAITING] if vector["name"] == "mbap_trunc_body"]
        await client.send(stream_of(vector))
        assert await client.open_for(0.05)
        await client.send(b"\x01" + BEHIND)
        assert addressed(await client.answers(2)) == [(1, 255), (0xBBBB, 0xBB)]


# --- B2, and B1 of "More cases" ------------------------------------------------------------------

LENGTHS = {f"length {length}": b"\x00\x01\x00\x00" + length.to_bytes(2, "big") for length in (0, 1, 255, 256, 65535)}
PROTOCOLS = {
    f"protocol {protocol:04X}": b"\x00\x01" + protocol.to_bytes(2, "big") + b"\x00\x06"
    for protocol in (1, 2, 0xFF, 0x100, 0x1234, 0x8000, 0xFFFF)
}


async def test_b2_bad_headers_are_closed_on_at_once_and_counted() -> None:
    for name, header in (LENGTHS | PROTOCOLS).items():
        async with Server(Bank(), FREE_PORT) as server, beside(server) as control:
            closing = await closing_time(server, adu(READ, 0x0C0C, 3) + header)
            assert answers_in(closing.data) == [Answer(0x0C0C, 3, READ_ONE)], name
            assert closing.after_s <= control.allowed_s, name
            reason = "length" if name.startswith("length") else "protocol_id"
            assert server.statistics().rejected_frames == {reason: 3}, name


@pytest.mark.requirement("TG-4.4.2.1-protocol")
async def test_b2_every_protocol_id_but_zero_is_closed_on() -> None:
    chosen = sorted({1 << bit for bit in range(16)} | set(random.Random(2).sample(range(1, 65536), 200)))
    async with Server(Bank(), FREE_PORT) as server, beside(server):
        for protocol in chosen:
            async with await Wire.to(server) as client:
                await client.send(b"\x00\x01" + protocol.to_bytes(2, "big") + b"\x00\x06\x01" + READ)
                assert (await client.ended()).data == b""
        assert server.statistics().rejected_frames == {"protocol_id": len(chosen)}


async def test_b2_a_bad_header_is_closed_on_before_its_body_comes() -> None:
    async with Server(Bank(), FREE_PORT) as server, await Wire.to(server) as client:
        await client.send(b"\x00\x01\x00\x00\xff")
        assert await client.open_for(0.05)
        await client.send(b"\xff")
        assert (await client.ended(1.0)).data == b""


# --- B3 ---------------------------------------------------------------------------------------

FOREIGN = {
    "an HTTP request": b"GET / HTTP/1.1\r\nHost: plc\r\n\r\n",
    "a TLS handshake": bytes.fromhex("1603010200010001fc0303") + bytes(506),
    "an SSH banner": b"SSH-2.0-OpenSSH_9.2\r\n",
    "a Modbus RTU frame": bytes.fromhex("1103006B00037687"),
    "a Modbus ASCII frame": b":1103006B00037E\r\n",
}
OTHER_HTTP = [("an HTTP request", f"{method} /x HTTP/1.1\r\n\r\n".encode()) for method in ("POST", "HEAD", "PUT")]


async def test_b3_other_protocols_are_closed_on_and_named_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "everbus")
    for name, stream in [*FOREIGN.items(), *OTHER_HTTP]:
        async with Server(Bank(), FREE_PORT) as server, beside(server) as control:
            caplog.clear()
            await closing_time(server, stream, tries=1)
            assert [name in record.message for record in caplog.records] == [True], caplog.text
            closing = await closing_time(server, stream)
        assert closing.data == b"", name
        assert closing.after_s <= control.allowed_s, name


async def test_b3_an_rtu_read_of_address_zero_is_closed_on_at_the_frame_timeout(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "everbus")
    limits = Limits(frame_timeout_s=0.3)
    async with Server(Bank(), FREE_PORT, limits=limits) as server, beside(server):
        async with await Wire.to(server) as client:
            began = perf_counter()
            await client.send(bytes.fromhex("010300000040443A"))
            assert (await client.ended()).data == b""
        assert 0.3 <= perf_counter() - began < 0.3 + limits.sweep_s + 0.5
        assert [record.levelname for record in caplog.records] == ["INFO"]
        assert "frame_timeout" in caplog.text


# --- B4, and B7 of "More cases" ------------------------------------------------------------------

MIXED = [
    ("0300000002", "030400000000"),
    ("0100000003", "010100"),
    ("0400010001", "04020000"),
    ("0200000009", "02020000"),
    ("050005FF00", "050005FF00"),
    ("0600061234", "0600061234"),
    ("0F0008000201FF", "0F00080002"),
    ("10000A00010200FF", "10000A0001"),
    ("16000BFFFF0000", "16000BFFFF0000"),
    ("17000C0001000C000102ABCD", "1702ABCD"),
    ("080000A537", "080000A537"),
    ("2B0E0400", "2B0E04810000010007" + b"everbus".hex()),
    ("0300000000", "8303"),
    ("63", "E301"),
]


def mixed(number: int) -> tuple[bytes, list[Answer]]:
    """So many requests of many kinds, each with ids of its own, and their answers."""
    stream, expected = b"", []
    for index in range(number):
        request, answer = MIXED[index % len(MIXED)]
        stream += adu(bytes.fromhex(request), 0xF000 + index, index)
        expected.append(Answer(0xF000 + index, index, bytes.fromhex(answer)))
    return stream, expected


@pytest.mark.parametrize("number", [16, 64])
async def test_b4_the_requests_of_one_segment_are_answered_in_one_write(number: int, spy: type[SpyFramer]) -> None:
    stream, expected = mixed(number)
    async with Server(Bank(), FREE_PORT) as server, await Wire.to(server) as client:
        assert len(await client.ask(READ)) == 4
        segments = client.data_segments
        await send_split(client, [stream], spy)
        assert await client.answers(number) == expected
        assert client.data_segments == segments + 1


async def test_b4_a_whole_receive_buffer_of_requests_is_answered_in_one_write(spy: type[SpyFramer]) -> None:
    async with Server(Bank(), FREE_PORT) as server, await Wire.to(server) as client:
        segments = client.data_segments
        number = 8192 // 12
        await send_split(client, [b"".join(adu(READ, index) for index in range(number))], spy)
        assert await client.answers(number) == [Answer(index, 1, READ_ONE) for index in range(number)]
        assert client.data_segments == segments + 1


# --- B5 and B6 of "More cases" -------------------------------------------------------------------


async def test_m_b5_what_comes_before_garbage_is_answered_and_nothing_behind_it() -> None:
    async with Server(Bank(), FREE_PORT) as server, beside(server) as control:
        garbage = b"\xde\xad\xbe\xef\xfe\xed"
        closing = await closing_time(server, BEFORE + garbage + BEHIND)
        assert answers_in(closing.data) == [Answer(0xAAAA, 0xAA, READ_ONE)]
        assert closing.after_s <= control.allowed_s
        assert server.statistics().requests - len(control.before) - len(control.during) <= 4


async def test_m_b5_a_slow_answer_to_what_came_before_garbage_is_sent_too() -> None:
    async def slow(request: AnyRequest, context: RequestContext) -> Response:
        await asyncio.sleep(0.05)
        return ReadHoldingRegistersResponse.of([address_of(request)])

    async with Server(slow, FREE_PORT) as server, await Wire.to(server) as client:
        await client.send(BEFORE + b"\xde\xad\xbe\xef\xfe\xed" + BEHIND)
        ended = await client.ended()
        assert answers_in(ended.data) == [Answer(0xAAAA, 0xAA, READ_ONE)]
        assert server.statistics().requests == 1


async def test_m_b6_twenty_frames_at_every_split_answer_as_one_piece() -> None:
    stream, expected = mixed(20)
    async with Server(Bank(), FREE_PORT) as server:
        async with await Wire.to(server) as client:
            for pieces in ways(stream):
                for piece in pieces:
                    await client.send(piece)
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)
                assert await client.answers(20) == expected
        assert server.statistics().rejected_frames == {}


async def test_m_b6_random_pieces_answer_as_one(spy: type[SpyFramer]) -> None:
    chance = random.Random(6)
    async with Server(Bank(), FREE_PORT) as server, await Wire.to(server) as client:
        for _ in range(200):
            stream, expected = mixed(chance.randint(1, 40))
            cuts = sorted(chance.sample(range(1, len(stream)), min(len(stream) - 1, chance.randint(0, 30))))
            pieces = [stream[start:end] for start, end in pairwise([0, *cuts, len(stream)])]
            await send_split(client, pieces, spy)
            assert await client.answers(len(expected)) == expected


# --- B9 ---------------------------------------------------------------------------------------


async def test_b9_a_response_is_answered_as_the_request_that_it_is_not() -> None:
    """Its structure is wrong for a request, or its code is none: an exception, and the next is served."""
    responses = [bytes.fromhex(v["pdu_hex"]) for v in vectors("pdu", direction="response")]
    async with Server(Bank(), FREE_PORT) as server, await Wire.to(server) as client:
        answers = await client.ask_all(responses)
        for response, answer in zip(responses, answers, strict=True):
            assert answer[0] & 0x7F == response[0] & 0x7F
            if response[0] & 0x80:
                assert answer == bytes((response[0], 1))
        assert await client.ask(READ) == READ_ONE
        assert server.statistics().rejected_frames == {}


async def send_all(client: Wire, piece: bytes, total: int) -> None:
    for _ in range(total // len(piece)):
        await client.send(piece)
        await asyncio.sleep(0)


async def test_m_b9_a_flood_behind_a_bad_header_is_not_read(spy: type[SpyFramer]) -> None:
    async with Server(Bank(), FREE_PORT) as server, beside(server):
        for start in (b"\x00", b"\xff", b"GET / HTTP/1.1\r\n", b"\x16\x03\x01"):
            spy.reads.clear()
            flood = start.ljust(65536, start[-1:])
            before = memory_bytes()
            async with await Wire.to(server) as client:
                with pytest.raises(ConnectionError):
                    await send_all(client, flood, 24 << 20)
            assert sum(size for size in spy.reads if size != 12) <= 8192, start
            assert memory_bytes() - before <= 1 << 20, start
