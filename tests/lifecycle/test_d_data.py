"""Group D, data: what several clients write and read at once is whole, and refused writes leave nothing.

J4, J5 and C9 of "More cases".
"""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
import time
from collections.abc import Iterator

import pytest

from everbus import Bank, LocalDevice, Server
from everbus.protocol.pdu.table import AnyRequest
from everbus.service.context import RequestContext
from everbus.service.files import FileStore
from tests.lifecycle.control import beside
from tests.lifecycle.wire import Wire, read, u16

FREE_PORT = "tcp://127.0.0.1:0"


def write(address: int, *values: int) -> bytes:
    return b"\x10" + u16(address, len(values)) + bytes((2 * len(values),)) + u16(*values)


READ_TWO = read(0, 2)


async def write_pairs(server: Server, number: int, writes: int) -> None:
    """Write a number to both registers, by 10 and by 17, at random moments."""
    chance = random.Random(number)
    forms = [write(0, number, number), b"\x17" + u16(0, 2, 0, 2) + b"\x04" + u16(number, number)]
    async with await Wire.to(server) as client:
        while writes > 0:
            batch = chance.choices(forms, k=chance.randint(1, 4))
            await client.ask_all(batch)
            writes -= len(batch)
            for _ in range(chance.randrange(60)):
                await asyncio.sleep(0)


async def read_pairs(server: Server, number: int) -> set[bytes]:
    """Every pair seen in so many reads."""
    async with await Wire.to(server) as client:
        return set(await client.ask_all([READ_TWO] * number, 25))


def torn(pairs: set[bytes]) -> list[str]:
    assert all(len(pair) == 6 for pair in pairs)
    return [pair.hex() for pair in pairs if pair[2:4] != pair[4:6]]


async def test_j4_a_value_of_two_registers_is_old_or_new_never_half() -> None:
    async with Server(Bank(), FREE_PORT) as server:
        writers = [asyncio.create_task(write_pairs(server, number, 300)) for number in (1, 2, 3)]
        pairs = await read_pairs(server, 20_000)
        await asyncio.gather(*writers)
    assert torn(pairs) == []
    assert len(pairs) > 1


@pytest.mark.slow
async def test_m_c9_fifty_clients_that_write_one_value_never_tear_it() -> None:
    async with Server(Bank(), FREE_PORT) as server, beside(server):
        writers = [asyncio.create_task(write_pairs(server, number, 200)) for number in range(1, 51)]
        found = await asyncio.gather(*(read_pairs(server, 25_000) for _ in range(4)))
        await asyncio.gather(*writers)
    pairs = set().union(*found)
    assert torn(pairs) == []
    assert len(pairs) > 25


async def test_j4_a_transaction_of_another_thread_is_seen_whole() -> None:
    bank = Bank()
    done = threading.Event()

    def write_from_a_thread() -> None:
        for number in itertools.count(1):
            with bank.transaction():
                bank.write_holding_registers(0, [number & 0xFFFF])
                time.sleep(0)  # another thread may run here
                bank.write_holding_registers(1, [number & 0xFFFF])
            if done.wait(0.0002):
                return

    async with Server(bank, FREE_PORT) as server:
        thread = threading.Thread(target=write_from_a_thread)
        thread.start()
        try:
            pairs = await read_pairs(server, 10_000)
        finally:
            done.set()
            thread.join()
    assert torn(pairs) == []
    assert len(pairs) > 1


# --- J5 ---------------------------------------------------------------------------------------


def refused() -> Iterator[tuple[bytes, int]]:
    """Writes that begin where registers exist and end where none do, and the exception they get."""
    for count in (1, 2, 5, 123):
        yield write(10 - count + 1 if count <= 10 else 0, *range(1000, 1000 + count)), 2
    yield b"\x17" + u16(0, 1, 9, 2) + b"\x04" + u16(1, 2), 2
    yield b"\x17" + u16(9, 2, 0, 2) + b"\x04" + u16(1, 2), 2
    yield b"\x17" + u16(0, 11, 0, 1) + b"\x02" + u16(1), 2
    yield b"\x0f" + u16(0, 11) + b"\x02\xff\xff", 2
    yield b"\x0f" + u16(9, 2) + b"\x01\x03", 2
    yield b"\x15\x12\x06" + u16(1, 0, 1) + b"\xab\xcd" + b"\x06" + u16(1, 10, 1) + b"\xab\xcd", 2
    yield b"\x15\x12\x06" + u16(1, 0, 1) + b"\xab\xcd" + b"\x06" + u16(2, 0, 1) + b"\xab\xcd", 2


async def test_j5_a_write_that_is_refused_changes_nothing() -> None:
    bank = Bank(holding_registers=10, coils=10)
    bank.write_holding_registers(0, list(range(10)))
    files = FileStore({1: 10})
    writes: list[object] = []
    bank.on_write(writes.append)
    async with Server(LocalDevice(bank, files=files), FREE_PORT) as server, await Wire.to(server) as client:
        for pdu, code in refused():
            assert await client.ask(pdu) == bytes((pdu[0] | 0x80, code)), pdu.hex()
        assert await client.ask(read(0, 10)) == b"\x03\x14" + u16(*range(10))
        assert await client.ask(b"\x01" + u16(0, 10)) == b"\x01\x02\x00\x00"
        assert await client.ask(b"\x14\x07\x06" + u16(1, 0, 10)) == b"\x14\x16\x15\x06" + bytes(20)
    assert writes == []


class WritesBelow:
    """A policy: writes only below an address."""

    unconditional = False

    def __init__(self, end: int) -> None:
        self.end = end

    def allows(self, request: AnyRequest, context: RequestContext) -> bool:
        address = getattr(request, "write_address", None)
        if address is None and request.function_code in (0x05, 0x06, 0x0F, 0x10, 0x16):
            address = getattr(request, "address", None)
        quantity = getattr(request, "write_quantity", None) or getattr(request, "quantity", 1)
        return address is None or address + quantity <= self.end


async def test_j5_a_write_whose_last_register_is_read_only_changes_nothing() -> None:
    bank = Bank()
    async with Server(bank, FREE_PORT, policy=WritesBelow(10)) as server, await Wire.to(server) as client:
        assert await client.ask(write(8, 1, 2)) == b"\x10" + u16(8, 2)
        assert await client.ask(write(8, 3, 4, 5)) == b"\x90\x01"
        assert await client.ask(b"\x17" + u16(0, 1, 8, 3) + b"\x06" + u16(3, 4, 5)) == b"\x97\x01"
        assert await client.ask(read(8, 3)) == b"\x03\x06" + u16(1, 2, 0)
