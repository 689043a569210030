"""Clients on serial lines, which are pseudo-terminals here."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic

import pytest

from everbus.aio.client import AsyncClient
from everbus.aio.pool import AsyncPool
from everbus.client.pacing import QUIET_S, TURNAROUND_S
from everbus.errors import ConnectError, ConnectionLostError, ModbusTimeoutError
from everbus.ports import Port
from everbus.protocol.framing.rtu import RtuFramer
from everbus.protocol.pdu.registers import WriteSingleRegisterRequest
from tests.aio.wire import until
from tests.ports import Device

Answer = Callable[[int, bytes], Awaitable[None]]


def value(unit: int, address: int) -> int:
    return unit << 8 | address


@asynccontextmanager
async def devices(line: Device, lateness_s: Callable[[int], float | None]) -> AsyncIterator[list[tuple[float, int]]]:
    """Devices that answer reads of one register, each as late as it is told to, None: not at all."""
    asked: list[tuple[float, int]] = []
    answering: set[asyncio.Task[None]] = set()
    framer = RtuFramer("request")

    async def answer(unit: int, address: int, after_s: float) -> None:
        await asyncio.sleep(after_s)
        line.send(RtuFramer("response").encode(unit, bytes((3, 2)) + value(unit, address).to_bytes(2, "big")))

    def arrived() -> None:
        try:
            received = os.read(line.line, 512)
        except OSError:  # the port's end is not open
            return
        for unit, pdu, _ in framer.feed(received):
            asked.append((monotonic(), unit))
            late_s = lateness_s(unit)
            if pdu[0] == 3 and late_s is not None:
                task = asyncio.get_running_loop().create_task(answer(unit, int.from_bytes(pdu[1:3], "big"), late_s))
                answering.add(task)
                task.add_done_callback(answering.discard)

    loop, number = asyncio.get_running_loop(), line.line
    loop.add_reader(number, arrived)
    try:
        yield asked
    finally:
        loop.remove_reader(number)
        for task in tuple(answering):
            task.cancel()
        await asyncio.gather(*answering, return_exceptions=True)


@pytest.fixture
def line(tmp_path: Path) -> Device:
    return Device(tmp_path / "ttyUSB0")


async def test_units_of_a_line_are_asked_one_after_the_other(line: Device) -> None:
    async with devices(line, lambda _: 0.0), AsyncClient(line.endpoint()) as client:
        got = await asyncio.gather(*(client.unit(n).read_holding_registers(n, 1) for n in range(1, 6)))
        assert got == [[value(n, n)] for n in range(1, 6)]
        assert client.statistics().connects == 1
    line.unplug()


async def test_a_line_with_a_silent_unit_stays_open_and_is_left_quiet(line: Device) -> None:
    client = AsyncClient(line.endpoint(), timeout_s=0.4, retries=0)
    async with devices(line, lambda unit: None if unit == 2 else 0.0) as asked, client:
        with pytest.raises(ModbusTimeoutError, match="unit 2"):
            await client.unit(2).read_holding_registers(0, 1)
        ended = monotonic()
        assert await client.unit(1).read_holding_registers(7, 1) == [value(1, 7)]
        assert asked[-1][0] - ended > 0.9 * QUIET_S
        assert client.statistics().replaced == {"abandoned": 1}
    line.unplug()


@pytest.mark.slow
@pytest.mark.requirement("SL-2.4.1-timer")
async def test_ten_late_answers_give_no_wrong_value(line: Device) -> None:
    late = iter([0.15] * 10)
    client = AsyncClient(line.endpoint(), timeout_s=0.1, retries=0)
    async with devices(line, lambda _: next(late, 0.0)) as asked, client:
        right = 0
        while right < 10:
            address = len(asked) % 200
            try:
                assert await client.unit(1).read_holding_registers(address, 1) == [value(1, address)]
                right += 1
            except (ConnectError, ModbusTimeoutError):
                await asyncio.sleep(0.01)
        assert next(late, None) is None
    line.unplug()


async def test_an_unplugged_port_is_opened_again_when_it_is_back(line: Device) -> None:
    async with AsyncClient(line.endpoint(), timeout_s=1.0, persistent=True) as client:
        async with devices(line, lambda _: 0.0):
            assert await client.unit(1).read_holding_registers(3, 1) == [value(1, 3)]
        line.unplug()
        await until(lambda: not client.connected)
        with pytest.raises((ConnectError, ConnectionLostError)):
            await client.unit(1).write_register(0, 1)
        line.plug_in()
        await client.wait_connected(5.0)
        async with devices(line, lambda _: 0.0):
            assert await client.unit(1).read_holding_registers(4, 1) == [value(1, 4)]
        assert client.statistics().lost == 1
    line.unplug()


@pytest.mark.requirement("SL-2.4.1-turnaround")
async def test_after_a_broadcast_every_device_has_its_time(line: Device) -> None:
    async with devices(line, lambda _: 0.0) as asked, AsyncClient(line.endpoint()) as client:
        await client.broadcast(WriteSingleRegisterRequest(0, 1))
        await client.unit(1).read_holding_registers(0, 1)
        assert asked[1][0] - asked[0][0] > 0.9 * TURNAROUND_S
    line.unplug()


async def test_a_driver_that_still_sends_holds_nobody_up(line: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = threading.Event()
    closing = Port.close

    def slowly(port: Port) -> None:
        assert sent.wait(5.0)
        closing(port)

    monkeypatch.setattr(Port, "close", slowly)
    client = AsyncClient(line.endpoint(), timeout_s=1.0, retries=0)
    await client.connect()
    line.unplug()
    await until(lambda: not client.connected)  # the loop runs on
    sent.set()
    await client.close()


async def test_a_port_that_is_not_there_says_what_to_try(tmp_path: Path) -> None:
    client = AsyncClient(f"rtu://{tmp_path}/ttyUSB7", timeout_s=0.2)
    with pytest.raises(ConnectError, match="ttyUSB7"):
        await client.unit(1).read_holding_registers(0, 1)
    await client.close()


async def test_who_is_cancelled_while_the_port_is_opened_leaves_it_closed(line: Device) -> None:
    client = AsyncClient(line.endpoint())
    for _ in range(3):
        connecting = asyncio.create_task(client.connect())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await client.close()
        await asyncio.gather(connecting, return_exceptions=True)
    await asyncio.sleep(0.1)
    line.unplug()


async def test_ascii_on_a_serial_line(line: Device) -> None:
    async with AsyncClient(line.endpoint("ascii")) as client:
        reading = asyncio.create_task(client.unit(17).read_holding_registers(0, 1))
        assert await line.receive(17) == b":110300000001EB\r\n"
        line.send(b":110302002AC0\r\n")
        assert await reading == [42]
    line.unplug()


@pytest.mark.slow
async def test_a_pool_keeps_the_line_and_whom_it_may_not_ask(line: Device) -> None:
    late = iter([0.15] * 10)
    async with devices(line, lambda _: next(late, 0.0)) as asked, AsyncPool(timeout_s=0.1, retries=0) as pool:
        right = 0
        while right < 5:
            address = len(asked) % 200
            try:
                assert await pool.unit(line.endpoint()).read_holding_registers(address, 1) == [value(1, address)]
                right += 1
            except (ConnectError, ModbusTimeoutError):
                await asyncio.sleep(0.01)
        assert next(late, None) is None
        assert pool.statistics().opened == 1
    line.unplug()
