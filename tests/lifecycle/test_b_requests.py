"""Group B, over the wire: whole frames whose PDU is not legal, or extreme.

Rows B5 and B10 of docs/faults.md; B2 to B4 and B8 of "More cases".
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from everbus import Bank, LocalDevice, Server
from everbus.observe import EventKind
from everbus.protocol.pdu.base import Response
from everbus.protocol.pdu.registers import ReadHoldingRegistersResponse
from everbus.protocol.pdu.table import PUBLIC, AnyRequest
from everbus.service.context import RequestContext
from everbus.service.files import FifoQueues, FileStore
from everbus.service.identification import Identification
from everbus.testing import RecordingObserver
from tests.lifecycle.control import beside
from tests.lifecycle.wire import READ, Wire, address_of, adu, u16, vectors

FREE_PORT = "tcp://127.0.0.1:0"
ITEMS = 100
REQUESTS = vectors("pdu", direction="request")


def bounded_bank() -> Bank:
    return Bank(coils=ITEMS, discrete_inputs=ITEMS, input_registers=ITEMS, holding_registers=ITEMS)


def over_full_queue() -> LocalDevice:
    queues = FifoQueues()
    for value in range(32):
        queues.push(0x04DE, value)
    return LocalDevice(queues=queues)


CONTEXTS: dict[str | None, Callable[[], LocalDevice]] = {
    None: LocalDevice,
    "server without that function code": LocalDevice,
    "server with registers 0..99": lambda: LocalDevice(bounded_bank()),
    "server with 100 registers 0..99": lambda: LocalDevice(bounded_bank()),
    "server with coils 0..99": lambda: LocalDevice(bounded_bank()),
    "server with 100 discrete inputs 0..99": lambda: LocalDevice(bounded_bank()),
    "server without coil 1185 (address 0x04A1)": lambda: LocalDevice(Bank(coils=[(0, 0x04A1), (0x04A2, 100)])),
    "queue at 0x04DE holds 32 values": over_full_queue,
}


# --- B5 ---------------------------------------------------------------------------------------


@pytest.mark.requirement("AP-4.5-answer", "AP-7-answered", "TG-4.2.1.1-open")
async def test_b5_every_request_is_answered_as_the_specification_says_and_the_connection_kept() -> None:
    for context, make_device in CONTEXTS.items():
        chosen = [vector for vector in REQUESTS if vector.get("context") == context]
        assert chosen
        async with Server(make_device(), FREE_PORT) as server, await Wire.to(server) as client:
            for vector in chosen:
                check_answer(vector, await client.ask(bytes.fromhex(vector["pdu_hex"])))
            assert (await client.ask(READ))[:2] == b"\x03\x02"
            statistics = server.statistics()
        assert (statistics.opened, statistics.handler_failures) == (1, {})
        assert statistics.exceptions == sum(vector["expect_exception"] > 0 for vector in chosen)


def check_answer(vector: dict[str, Any], answer: bytes) -> None:
    function_code = int(vector["pdu_hex"][:2], 16)
    if vector["expect_exception"]:
        assert answer == bytes((function_code | 0x80, vector["expect_exception"])), vector["name"]
    else:
        assert answer[0] == function_code, (vector["name"], answer.hex())
        PUBLIC.decode_response(answer)


@pytest.mark.requirement("AP-7-03")
async def test_b5_a_pdu_cut_off_or_drawn_out_anywhere_is_exception_03_and_the_next_is_answered() -> None:
    legal = [bytes.fromhex(v["pdu_hex"]) for v in REQUESTS if v["valid"] and "context" not in v]
    plain = [pdu for pdu in legal if pdu[0] not in (0x08, 0x2B)]
    wrong = [pdu[:size] for pdu in plain for size in range(1, len(pdu))]
    wrong += [pdu + tail for pdu in plain for tail in (b"\0", b"\xff\xff", pdu) if len(pdu + tail) <= 253]
    async with Server(LocalDevice(), FREE_PORT) as server, await Wire.to(server) as client:
        for pdu, answer in zip(wrong, await client.ask_all(wrong), strict=True):
            if len(pdu) > 1 or pdu[0] not in (0x07, 0x0B, 0x0C, 0x11):
                assert answer == bytes((pdu[0] | 0x80, 3)), pdu.hex()
        assert server.statistics().opened == 1


@pytest.mark.slow
@pytest.mark.requirement("AP-A-sub-functions", "AP-A-mei-types")
async def test_b5_reserved_sub_functions_are_exception_01() -> None:
    known = {0, 1, 2, 3, 10, 11, 12, 13, 14, 15, 16, 17, 18, 20}
    unknown = [sub for sub in range(65536) if sub not in known]
    mei = [number for number in range(256) if number != 0x0E]
    async with Server(LocalDevice(), FREE_PORT) as server, await Wire.to(server) as client:
        pdus = [b"\x08" + u16(sub, 0) for sub in unknown] + [bytes((0x2B, number, 1, 0)) for number in mei]
        answers = await client.ask_all(pdus)
        assert set(answers[: len(unknown)]) == {b"\x88\x01"}
        assert set(answers[len(unknown) :]) == {b"\xab\x01"}
        assert await client.ask(b"\x08" + u16(0, 0xA537)) == b"\x08" + u16(0, 0xA537)


# --- B2 of "More cases" --------------------------------------------------------------------------


@pytest.mark.requirement("AP-4.1-function-code")
async def test_m_b2_every_bare_function_code_is_answered(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "everbus")
    known = {*range(1, 7), 8, 0x0F, 0x10, *range(0x14, 0x19), 0x2B}
    bare = {0x07, 0x0B, 0x0C, 0x11}
    async with Server(Bank(), FREE_PORT) as server, beside(server), await Wire.to(server) as client:
        for code in range(256):
            answer = await client.ask(bytes((code,)), timeout_s=1.0)
            if code in bare:
                assert answer[0] == code
            else:
                assert answer == bytes((code | 0x80, 3 if code in known else 1)), code
        assert server.statistics().handler_failures == {}
    assert caplog.records == []


# --- B3 of "More cases": a model of spec.md 1.4, written apart from the code ----------------------


def model(pdu: bytes) -> int:
    """The exception that a device with 100 items of each table answers; 0: a normal response."""
    code = pdu[0]
    if code in (0x14, 0x15):
        return model_files(pdu)
    if len(pdu) != _fixed_size(pdu):
        return 3
    words = [int.from_bytes(pdu[at : at + 2], "big") for at in (1, 3, 5, 7) if at + 2 <= len(pdu)]
    if code == 0x18:
        return 0
    if code in (0x05, 0x06, 0x16):
        legal = code != 0x05 or words[1] in (0x0000, 0xFF00)
        return 3 if not legal else 0 if words[0] < ITEMS else 2
    most = {1: 2000, 2: 2000, 3: 125, 4: 125, 0x0F: 1968, 0x10: 123, 0x17: 125}[code]
    legal = 1 <= words[1] <= most
    if code == 0x17:
        legal &= 1 <= words[3] <= 121 and pdu[9] == 2 * words[3]
    elif code in (0x0F, 0x10):
        legal &= pdu[5] == ((words[1] + 7) // 8 if code == 0x0F else 2 * words[1])
    ranges = [words[0] + words[1], words[2] + words[3]] if code == 0x17 else [words[0] + words[1]]
    return 3 if not legal else 2 if max(ranges) > ITEMS else 0


def _fixed_size(pdu: bytes) -> int:
    """How long this request is if its byte count is right; -1: it ends before its byte count."""
    head = {0x0F: 6, 0x10: 6, 0x16: 7, 0x17: 10, 0x18: 3}.get(pdu[0], 5)
    if pdu[0] not in (0x0F, 0x10, 0x17):
        return head
    return head + pdu[head - 1] if len(pdu) >= head else -1


def model_files(pdu: bytes) -> int:
    """14 and 15, for a device with one file, 1, of 100 records."""
    least, most = (7, 0xF5) if pdu[0] == 0x14 else (9, 0xFB)
    if len(pdu) < 2 or len(pdu) != 2 + pdu[1] or not least <= pdu[1] <= most:
        return 3
    groups = []
    at = 2
    while at < len(pdu):
        head = pdu[at : at + 7]
        words = int.from_bytes(head[5:7], "big") if len(head) == 7 else 0
        at += 7 + (2 * words if pdu[0] == 0x15 else 0)
        if not words or at > len(pdu):
            return 3
        groups.append((head[0], int.from_bytes(head[1:3], "big"), int.from_bytes(head[3:5], "big"), words))
    if pdu[0] == 0x14 and sum(2 + 2 * words for *_, words in groups) > 0xF5:
        return 3
    legal = all(kind == 6 and file == 1 and record + words <= ITEMS for kind, file, record, words in groups)
    return 0 if legal else 2


ADDRESSES = (0, 1, 50, 98, 99, 100, 101, 0x7FFF, 0xFFFE, 0xFFFF)
FEW, MANY = (0, 1, 2, 7, 8, 9, 50, 99, 100, 101), (1967, 1968, 1969, 1999, 2000, 2001, 0x7FFF, 0x8001, 0xFFFF)
QUANTITIES = (*FEW, 120, 121, 122, 123, 124, 125, 126, 127, 128, 255, 256, *MANY)


def reads_and_singles() -> Iterator[bytes]:
    for code in (1, 2, 3, 4, 5, 6):
        for address in ADDRESSES:
            for quantity in (*QUANTITIES, 0xFF00, 0x00FF):
                head = bytes((code,)) + u16(address, quantity)
                yield from (head, head[:-1], head + b"\0")


def counted_writes() -> Iterator[bytes]:
    for code, most in ((0x0F, 1968), (0x10, 123)):
        for address in ADDRESSES:
            for quantity in QUANTITIES:
                right = (min(quantity, most) + 7) // 8 if code == 0x0F else 2 * min(quantity, most)
                for count in {right, max(0, right - 1), right + 1, 0, 255}:
                    for real in {right, max(0, right - 1), right + 1, 0}:
                        yield bytes((code,)) + u16(address, quantity) + bytes((count,)) + bytes(real)


def read_writes() -> Iterator[bytes]:
    for read_address, read_quantity in ((0, 1), (0, 100), (99, 2), (0, 125), (0, 126), (0, 0), (0xFFFF, 1)):
        for write_address in (0, 99, 100, 0xFFFF):
            for quantity in (0, 1, 2, 100, 101, 121, 122, 0xFFFF):
                right = 2 * min(quantity, 121)
                for count in {right, right + 1, max(0, right - 1), 0}:
                    for real in {right, right + 1, max(0, right - 1)}:
                        head = b"\x17" + u16(read_address, read_quantity, write_address, quantity)
                        yield head + bytes((count,)) + bytes(real)


def masks_and_queues() -> Iterator[bytes]:
    for address in ADDRESSES:
        yield from (b"\x16" + u16(address, 0xF2, 0x25), b"\x16" + u16(address, 0xF2), b"\x16" + u16(address, 1, 2, 3))
        yield from (b"\x18" + u16(address), b"\x18" + u16(address)[:1], b"\x18" + u16(address, 0))


def file_groups() -> Iterator[bytes]:
    chance = random.Random(3)
    for _ in range(6000):
        write = chance.random() < 0.5
        body = b""
        for _ in range(chance.choice((0, 1, 1, 1, 2, 3, 35, 36))):
            words = chance.choice((0, 1, 1, 2, 3, 60, 121, 122, 0xFFFF))
            kind, file = chance.choice((6, 6, 6, 6, 6, 7)), chance.choice((1, 1, 1, 1, 1, 0, 2, 0xFFFF))
            body += bytes((kind,)) + u16(file, chance.choice((0, 1, 98, 99, 100, 0x270F, 0xFFFF)), words)
            body += bytes(2 * words) if write and words < 200 else b""
        body = body[:251]
        count = min(255, max(0, len(body) + chance.choice((0, 0, 0, 0, 1, -1))))
        yield bytes((0x15 if write else 0x14, count)) + body


GRID = [reads_and_singles, counted_writes, read_writes, masks_and_queues, file_groups]


@pytest.mark.parametrize("cases", GRID, ids=lambda cases: cases.__name__)
@pytest.mark.requirement(
    "AP-6.1-order",
    "AP-6.2-order",
    "AP-6.3-order",
    "AP-6.4-order",
    "AP-6.5-order",
    "AP-6.11-order",
    "AP-6.12-order",
    "AP-6.14-order",
    "AP-6.15-order",
    "AP-6.17-order",
)
async def test_m_b3_a_grid_of_requests_answers_as_the_model(cases: Callable[[], Iterator[bytes]]) -> None:
    pdus = list(dict.fromkeys(pdu for pdu in cases() if len(pdu) <= 253))
    device = LocalDevice(bounded_bank(), files=FileStore({1: ITEMS}))
    async with Server(device, FREE_PORT) as server, await Wire.to(server) as client:
        answers = await client.ask_all(pdus)
        assert server.statistics().opened == 1
    kinds = set()
    for pdu, answer in zip(pdus, answers, strict=True):
        expected = model(pdu)
        kinds.add(expected)
        if expected:
            assert answer == bytes((pdu[0] | 0x80, expected)), pdu.hex()
        else:
            assert answer[0] == pdu[0], (pdu.hex(), answer.hex())
            PUBLIC.decode_response(answer)
    assert kinds >= ({0, 3} if cases is masks_and_queues else {0, 2, 3})


# --- B4 of "More cases" --------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.requirement("AP-6.5-value")
async def test_m_b4_a_coil_is_on_or_off_and_nothing_between() -> None:
    bank = Bank()
    writes: list[object] = []
    bank.on_write(writes.append)
    values = [value for value in range(65536) if value not in (0x0000, 0xFF00)]
    async with Server(bank, FREE_PORT) as server, await Wire.to(server) as client:
        assert set(await client.ask_all([b"\x05" + u16(7, value) for value in values], 256)) == {b"\x85\x03"}
        assert writes == []
        assert bank.read_coils(7) == [False]
        assert await client.ask(b"\x05" + u16(7, 0xFF00)) == b"\x05" + u16(7, 0xFF00)
        assert bank.read_coils(7) == [True]


# --- B8 of "More cases" --------------------------------------------------------------------------


async def its_address_later(request: AnyRequest, context: RequestContext) -> Response:
    await asyncio.sleep(0.001 * (context.transaction * 7919 % 13))
    return ReadHoldingRegistersResponse.of([address_of(request)])


async def ask_pipelined(server: Server, depth: int, rounds: int, chance: random.Random) -> int:
    """So many requests in flight at once, answered in any order: how many were right."""
    async with await Wire.to(server) as client:
        right = 0
        for _ in range(rounds):
            asked = {chance.randrange(65536): chance.randrange(65536) for _ in range(depth)}
            await client.send(b"".join(adu(b"\x03" + u16(value, 1), number) for number, value in asked.items()))
            for answer in await client.answers(len(asked)):
                assert answer.pdu == b"\x03\x02" + u16(asked.pop(answer.transaction))
                right += 1
            assert asked == {}
        return right


@pytest.mark.slow
@pytest.mark.requirement("TG-4.4.2.1-context")
async def test_m_b8_no_answer_of_a_slow_handler_goes_to_another_request() -> None:
    chance = random.Random(8)
    async with Server(its_address_later, FREE_PORT) as server, beside(server):
        totals = await asyncio.gather(*(ask_pipelined(server, 2 + n % 15, 50, chance) for n in range(25)))
    assert sum(totals) >= 10_000


@pytest.mark.requirement("TG-4.4.2-concurrent")
async def test_m_b8_the_answer_that_is_ready_first_leaves_first() -> None:
    events = {number: asyncio.Event() for number in range(16)}

    async def when_told(request: AnyRequest, context: RequestContext) -> Response:
        await events[address_of(request)].wait()
        return ReadHoldingRegistersResponse.of([address_of(request)])

    async with Server(when_told, FREE_PORT) as server, await Wire.to(server) as client:
        await client.send(b"".join(adu(b"\x03" + u16(number, 1), 100 + number) for number in range(16)))
        for number in reversed(range(16)):
            events[number].set()
            assert await client.answer() == (100 + number, 1, b"\x03\x02" + u16(number))


# --- B10 --------------------------------------------------------------------------------------


def crowded_device() -> LocalDevice:
    """Everything that it has to tell is as long as it may be."""
    queues = FifoQueues()
    for address, number in ((0, 0), (1, 1), (31, 31), (32, 32), (33, 500)):
        for value in range(number):
            queues.push(address, value)
    objects = {number: bytes((number,)) * 244 for number in (3, 4, 5, 6, *range(0x80, 0x100))}
    identification = Identification("v" * 244, "p" * 244, "r" * 244, objects)
    return LocalDevice(server_id=b"s" * 249, queues=queues, identification=identification)


@pytest.mark.requirement("AP-4.1-pdu-size")
async def test_b10_answers_are_whole_and_never_over_253_bytes_however_much_there_is_to_tell() -> None:
    observer = RecordingObserver()
    device = crowded_device()
    pdus = [b"\x18" + u16(address) for address in (0, 1, 31, 32, 33)]
    pdus += [bytes((0x2B, 0x0E, code, number)) for code in range(256) for number in range(0, 256, 5)]
    pdus += [b"\x11", b"\x0c", b"\x08\0\0" + bytes(250), b"\x08\0\0" + bytes(249)]
    for count in range(36):
        for words in (1, 2, 3, 7, 40, 120, 121, 122, 0x7FFF, 0xFFFF):
            groups = (b"\x06" + u16(1, 0, words)) * count
            pdus.append(bytes((0x14, len(groups))) + groups)
            written = (b"\x06" + u16(1, 0, words) + bytes(2 * min(words, 122))) * count
            pdus.append(bytes((0x15, min(len(written), 255))) + written[:251])
    async with Server(device, FREE_PORT, observer=observer) as server, await Wire.to(server) as client:
        answers = await client.ask_all(pdus)
        assert server.statistics().opened == 1
    for pdu, answer in zip(pdus, answers, strict=True):
        assert len(answer) <= 253
        response = PUBLIC.decode_response(answer)
        assert answer == response.encode(), pdu.hex()
    assert {len(answer) for answer in answers} >= {2, 5, 7, 67, 246, 253}
    assert observer.of(EventKind.HANDLER_FAILED) == []
    fifo = dict(zip(pdus, answers, strict=True))
    assert fifo[b"\x18\x00\x1f"] == b"\x18" + u16(64, 31, *range(31))
    assert fifo[b"\x18\x00\x20"] == fifo[b"\x18\x00\x21"] == b"\x98\x03"


@pytest.mark.requirement("AP-6.21-more")
async def test_b10_a_stream_of_identification_objects_ends_and_holds_every_object_once() -> None:
    async with Server(crowded_device(), FREE_PORT) as server, await Wire.to(server) as client:
        for code, expected in ((1, 3), (2, 7), (3, 135)):
            found: list[int] = []
            following = 0
            while True:
                answer = await client.ask(bytes((0x2B, 0x0E, code, following)))
                assert len(answer) <= 253
                found.append(answer[7])
                assert answer[6] == 1
                if not answer[4]:
                    break
                following = answer[5]
            assert len(found) == len(set(found)) == expected
