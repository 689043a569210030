"""Group K: what has brought other Modbus stacks down, each over a socket.

Rows of group K of docs/faults.md, named by their numbers there. Beside each, another client is
answered within 50 ms, before, during and after, by the same server, and memory stays.
"""

from __future__ import annotations

import ast
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import everbus
from everbus import Bank, LocalDevice, Server
from everbus.protocol.pdu.base import Response
from everbus.protocol.pdu.registers import ReadHoldingRegistersResponse
from everbus.protocol.pdu.table import AnyRequest
from everbus.service.context import RequestContext
from tests.lifecycle.control import beside, closing_time, quickest
from tests.lifecycle.programs import descriptors_for, program
from tests.lifecycle.wire import READ, Wire, answers_in, clock, u16, vectors

FREE_PORT = "tcp://127.0.0.1:0"
SOURCES = Path(everbus.__file__).parent


def listening_bank() -> tuple[Bank, list[object]]:
    """A bank, and the writes that it was told of."""
    bank = Bank()
    writes: list[object] = []
    bank.on_write(writes.append)
    return bank, writes


class Recording:
    """Keeps the requests that reach a handler."""

    def __init__(self) -> None:
        self.seen: list[AnyRequest] = []

    def __call__(self, request: AnyRequest, context: RequestContext) -> Response:
        if request.function_code == 0x03:
            return ReadHoldingRegistersResponse.of([0])
        self.seen.append(request)
        raise LookupError("a request that should not have come")


# --- V01, V02, V11, V12, V16: counts that lie ---------------------------------------------------


def counts_that_lie() -> Iterator[tuple[bytes, bool]]:
    """Writes with every quantity, byte count and real length of a grid; and whether they agree."""
    coils = (0, 1, 2, 7, 8, 9, 15, 16, 17, 24, 100, 800, 1960, 1961, 1968, 1969, 1976, 2040, 0x7FFF, 0x8000, 0xFFFF)
    registers = (0, 1, 2, 3, 4, 8, 60, 120, 121, 122, 123, 124, 127, 128, 255, 256, 0x7FFF, 0x8000, 0xFFFF)
    sizes = (0, 1, 2, 3, 4, 5, 6, 8, 16, 32, 100, 120, 128, 200, 240, 241, 242, 243, 244, 245, 246, 247)
    for quantity in coils:
        for count in (*sizes, 250, 255):
            for real in sizes:
                agree = 1 <= quantity <= 1968 and count == real == (quantity + 7) // 8
                yield b"\x0f" + u16(0, quantity) + bytes((count,)) + bytes(real), agree
    for quantity in registers:
        for count in (*sizes, 250, 255):
            for real in sizes:
                agree = 1 <= quantity <= 123 and count == real == 2 * quantity
                yield b"\x10" + u16(0, quantity) + bytes((count,)) + bytes(real), agree
                if real <= 243:
                    agree = 1 <= quantity <= 121 and count == real == 2 * quantity
                    yield b"\x17" + u16(0, 1, 0, quantity) + bytes((count,)) + bytes(real), agree


async def test_v01_a_write_is_executed_only_if_quantity_byte_count_and_length_agree() -> None:
    cases = list(counts_that_lie())
    assert len(cases) > 20_000
    bank, writes = listening_bank()
    async with Server(bank, FREE_PORT) as server, beside(server), await Wire.to(server) as client:
        answers = await client.ask_all([pdu for pdu, _ in cases])
    for (pdu, agree), answer in zip(cases, answers, strict=True):
        assert answer[:2] == (pdu[:2] if agree else bytes((pdu[0] | 0x80, 3))) or (agree and pdu[0] == 0x17), pdu.hex()
        assert (answer[0] < 0x80) == agree, pdu.hex()
    assert len(writes) == sum(agree for _, agree in cases)


async def test_v02_both_ranges_of_17_are_checked_before_anything_is_written() -> None:
    bank = Bank(holding_registers=[(0, 10), (100, 10)])
    writes: list[object] = []
    bank.on_write(writes.append)
    ranges = [(0, 1), (9, 1), (100, 10), (9, 2), (10, 1), (99, 2), (110, 1), (0xFFFF, 1), (0xFFFF, 2), (50, 60)]
    exist = {(0, 1), (9, 1), (100, 10)}
    executed = 0
    async with Server(bank, FREE_PORT) as server, beside(server), await Wire.to(server) as client:
        for read in ranges:
            for write in ranges:
                pdu = b"\x17" + u16(*read, *write) + bytes((2 * write[1],)) + b"\xab\xcd" * write[1]
                answer = await client.ask(pdu)
                legal = read in exist and write in exist
                executed += legal
                assert answer[:2] == (bytes((0x17, 2 * read[1])) if legal else b"\x97\x02"), pdu.hex()
                assert len(writes) == executed


async def test_v11_a_request_that_is_not_whole_never_reaches_the_handler() -> None:
    whole = b"\x17" + u16(0, 2, 4, 3) + b"\x06" + u16(1, 2, 3)
    broken = [whole[:size] for size in range(1, len(whole))]
    broken += [whole + bytes(extra) for extra in range(1, 20)]
    broken += [whole[:9] + bytes((count,)) + whole[10:] for count in range(256) if count != 6]
    broken += [
        bytes.fromhex(v["pdu_hex"])
        for v in vectors("pdu", direction="request", expect_exception=3)
        if "context" not in v
    ]
    handler = Recording()
    async with Server(handler, FREE_PORT) as server, beside(server), await Wire.to(server) as client:
        for pdu, answer in zip(broken, await client.ask_all(broken), strict=True):
            assert answer == bytes((pdu[0] | 0x80, 3)), pdu.hex()
        assert handler.seen == []
        assert await client.ask(whole) == b"\x97\x04"
        assert len(handler.seen) == 1


async def test_v12_records_that_would_not_fit_an_answer_are_refused_at_every_count() -> None:
    cases: list[tuple[bytes, bytes]] = []
    for number in range(36):
        for words in (1, 2, 3, 5, 8, 13, 40, 60, 120, 121, 122, 123, 0x3FFF, 0x7FFF, 0x8000, 0xFFFF):
            groups = (b"\x06" + u16(1, 0, words)) * number
            fits = number > 0 and number * (2 + 2 * words) <= 0xF5
            size = number * (2 + 2 * words)
            cases.append((bytes((0x14, len(groups))) + groups, bytes((0x14, size)) if fits else b"\x94\x03"))
            data = (b"\x06" + u16(1, 0, words) + bytes(2 * words)) * number if words < 124 else groups
            fits = words < 124 and 9 <= len(data) <= 251
            pdu = bytes((0x15, min(len(data), 255))) + data
            cases.append((pdu[:253], pdu[:2] if fits else b"\x95\x03"))
    async with Server(LocalDevice(), FREE_PORT) as server, beside(server), await Wire.to(server) as client:
        answers = await client.ask_all([pdu for pdu, _ in cases])
    assert [(pdu.hex(), answer[:2]) for (pdu, _), answer in zip(cases, answers, strict=True)] == [
        (pdu.hex(), expected) for pdu, expected in cases
    ]
    assert max(map(len, answers)) <= 253


def quantities(step: int) -> list[tuple[bytes, int]]:
    """Reads of every quantity but the legal ones, and the function code."""
    found = []
    for code, most in ((1, 2000), (2, 2000), (3, 125), (4, 125)):
        chosen = {0, most + 1, 127, 128, 255, 256, 0x7FFF, 0x8000, 0xFFFF, *range(most + 1, 65536, step)}
        found += [(bytes((code,)) + u16(0, quantity), code) for quantity in chosen if not 1 <= quantity <= most]
    return found


@pytest.mark.parametrize("step", [97, pytest.param(1, marks=pytest.mark.slow)])
async def test_v16_a_read_of_none_or_too_many_is_exception_03(step: int) -> None:
    cases = quantities(step)
    async with (
        Server(Bank(), FREE_PORT) as server,
        beside(server, most_growth_bytes=64 << 20),  # the answers that this test keeps
        await Wire.to(server) as client,
    ):
        answers = await client.ask_all([pdu for pdu, _ in cases])
    assert [answer for (_, code), answer in zip(cases, answers, strict=True) if answer != bytes((code | 0x80, 3))] == []


# --- V05, V13, V14: nothing behind the header ---------------------------------------------------


@pytest.mark.slow
async def test_v05_v14_a_bare_function_code_is_answered_soon_and_blocks_nobody() -> None:
    async with Server(Bank(), FREE_PORT) as server, beside(server) as control:
        for code in range(256):

            async def bare_s(pdu: bytes = bytes((code,))) -> float:
                async with await Wire.to(server) as client:
                    began = clock()
                    answer = await client.ask(pdu)
                    assert answer[0] | 0x80 == pdu[0] | 0x80
                    return clock() - began

            async def next_s() -> float:
                began = clock()
                async with await Wire.to(server) as client:
                    await client.round_trip_s()
                return clock() - began

            assert await quickest(bare_s, 2) <= 0.1, code
            assert await quickest(next_s, 2) <= control.allowed_s, code
        assert server.statistics().handler_failures == {}


@pytest.mark.requirement("TG-3.1.3-length")
async def test_v13_lengths_2_to_254_are_frames_and_others_are_closed_on() -> None:
    async with Server(Bank(), FREE_PORT) as server, beside(server):
        async with await Wire.to(server) as client:
            for size in range(1, 254):
                assert await client.ask(b"\x63" + bytes(size - 1)) == b"\xe3\x01"
        for length in (0, 1, 255, 256, 257, 0x7FFF, 0x8000, 0xFFFF):
            closing = await closing_time(server, b"\x00\x01\x00\x00" + u16(length) + b"\x01" + bytes(300), tries=1)
            assert closing.data == b""
        assert server.statistics().rejected_frames == {"length": 8}


# --- V07: errors cost as much as answers --------------------------------------------------------


@pytest.mark.slow
async def test_v07_an_exception_takes_no_longer_than_an_answer() -> None:
    good, bad = b"\x03" + u16(0, 1), b"\x03" + u16(0, 0)
    times: dict[bytes, list[float]] = {good: [], bad: []}
    async with Server(Bank(), FREE_PORT) as server, beside(server), await Wire.to(server) as client:
        for _ in range(10_000):
            for pdu, found in times.items():
                began = clock()
                await client.ask(pdu)
                found.append(clock() - began)
    p99 = {pdu: sorted(found)[9_900] for pdu, found in times.items()}
    assert p99[bad] <= p99[good] + 0.001


# --- V08: descriptors above 1023 ----------------------------------------------------------------


async def test_v08_a_server_and_its_clients_work_with_1100_descriptors_open() -> None:
    with descriptors_for(4096), ExitStack() as stack:
        for _ in range(1100):
            stack.enter_context(socket.socket())
        async with (
            Server(Bank(), FREE_PORT, "tcp://[::1]:0") as server,
            beside(server),
            await Wire.to(server) as client,
        ):
            assert client.sock.fileno() > 1023
            assert await client.ask(READ) == b"\x03\x02\x00\x00"
            await client.send(b"GET / HTTP/1.1\r\n\r\n")
            assert (await client.ended()).data == b""
            async with await Wire.to(server.endpoints[1]) as other:
                assert await other.ask(READ) == b"\x03\x02\x00\x00"


# --- V10: no assert judges what a peer sent -----------------------------------------------------


def narrows(test: ast.expr) -> bool:
    """Whether an assertion only tells the type checker what it cannot know."""
    if isinstance(test, ast.Call):
        return isinstance(test.func, ast.Name) and test.func.id in ("isinstance", "callable")
    if isinstance(test, ast.Compare):
        [operator], [right] = test.ops, test.comparators
        return isinstance(operator, ast.IsNot) and isinstance(right, ast.Constant) and right.value is None
    return False


def test_v10_no_assert_in_the_package_does_more_than_narrow_a_type() -> None:
    found = [
        f"{path.relative_to(SOURCES)}:{node.lineno}: {ast.unparse(node)}"
        for path in sorted(SOURCES.rglob("*.py"))
        if path.relative_to(SOURCES).parts[0] != "testing"  # its checks raise AssertionError by contract
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Assert) and not narrows(node.test)
    ]
    assert found == []


async def test_v10_a_server_without_asserts_answers_every_vector_alike(tmp_path: Path) -> None:
    chosen = [v for v in vectors("pdu", direction="request") if "context" not in v]
    command = ["-O", "-m", "everbus", "serve", "--listen", FREE_PORT, "--log-format", "json"]
    async with program(tmp_path / "log", *command) as running:
        endpoint = await running.ready()
        async with beside(endpoint), await Wire.to(endpoint) as client:
            for vector in chosen:
                answer = await client.ask(bytes.fromhex(vector["pdu_hex"]))
                code = int(vector["pdu_hex"][:2], 16)
                if vector["expect_exception"]:
                    assert answer == bytes((code | 0x80, vector["expect_exception"])), vector["name"]
                else:
                    assert answer[0] == code, vector["name"]
            for vector in vectors("adu", framing="mbap", stream_state="close connection"):
                async with await Wire.to(endpoint) as other:
                    await other.send(bytes.fromhex(vector["adu_hex"]))
                    assert len(answers_in((await other.ended()).data)) == len(vector["stream_frames"])
        assert "Traceback" not in running.text


async def test_v10_a_wrong_length_after_right_requests_meets_no_old_state() -> None:
    write = b"\x10" + u16(0, 1)
    async with (
        Server(Bank(), FREE_PORT) as server,
        beside(server),
        await Wire.to(server) as one,
        await Wire.to(server) as other,
    ):
        for _ in range(20):
            assert await one.ask(READ) == b"\x03\x02\x00\x00"
            assert await one.ask(READ[:3]) == b"\x83\x03"
            assert await other.ask(write + b"\x02\x00\x00") == write
            assert await other.ask(write + b"\x02\x00") == b"\x90\x03"
