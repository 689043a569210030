"""Group D, signals to ``everbus serve``: the first ends it in order, the second at once.

Row D11 of docs/faults.md; E1 to E3 and E10 of "More cases".
"""

from __future__ import annotations

import asyncio
import random
import signal
from pathlib import Path
from time import perf_counter

import pytest

from tests.lifecycle.programs import Program, program, serve, start_time_s
from tests.lifecycle.wire import READ, Wire, adu, answers_in, never_reading, read

FREE_PORT = "tcp://127.0.0.1:0"
MARGIN_S = 0.5


# --- D11, and E1 to E3 of "More cases" -----------------------------------------------------------


async def poll(endpoint: str, source: str, asked: list[float], answered: list[float]) -> None:
    """Ask every 20 ms until the server closes; note when each request was sent and answered."""
    async with await Wire.to(endpoint, source) as client:
        try:
            while True:
                sending = perf_counter()
                await client.send(adu(READ))
                asked.append(sending)
                await client.answer()
                answered.append(sending)
                await asyncio.sleep(0.02)
        except (ConnectionError, EOFError):
            return


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
async def test_d11_a_signal_during_traffic_ends_the_server_in_order(number: int, tmp_path: Path) -> None:
    async with serve(tmp_path / "log", "--stop-timeout", "2") as running:
        endpoint = await running.ready()
        asked: list[float] = []
        answered: list[float] = []
        clients = [asyncio.create_task(poll(endpoint, f"127.0.0.{10 + n}", asked, answered)) for n in range(20)]
        await asyncio.sleep(0.5)
        signalled = perf_counter()
        running.signal(number)
        code, took_s = await running.ended()
        await asyncio.wait_for(asyncio.gather(*clients), 5)
        assert code == 0, running.text
        assert took_s < 2 + MARGIN_S
        assert len(answered) > 200
        assert [when for when in asked if when < signalled and when not in answered] == []
        assert "Traceback" not in running.text


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
async def test_d11_a_second_signal_ends_the_server_at_once(number: int, tmp_path: Path) -> None:
    async with (
        serve(tmp_path / "log", "--stop-timeout", "30") as running,
        await never_reading(await running.ready()),
    ):
        running.signal(number)
        await asyncio.sleep(0.3)
        assert running.process.poll() is None
        running.signal(number)
        code, took_s = await running.ended()
    assert code == 0, running.text
    assert took_s < 0.2 + MARGIN_S
    assert "Traceback" not in running.text


@pytest.mark.slow
async def test_m_e2_a_peer_that_never_reads_does_not_hold_the_stop(tmp_path: Path) -> None:
    async with (
        serve(tmp_path / "log", "--stop-timeout", "0.5") as running,
        await never_reading(await running.ready()),
    ):
        running.signal(signal.SIGTERM)
        code, took_s = await running.ended()
    assert code == 0
    assert 0.45 < took_s < 0.5 + MARGIN_S


SLOW_SERVER = """
import asyncio, json, signal, sys
from everbus import Server
from everbus.protocol.pdu.registers import ReadHoldingRegistersResponse

async def handle(request, context):
    await asyncio.sleep(request.address / 1000)
    return ReadHoldingRegistersResponse.of([request.address])

async def main():
    server = Server(handle, "tcp://127.0.0.1:0")
    await server.start()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.request_stop)
    print(json.dumps({"endpoints": server.endpoints}), flush=True)
    print(await server.serve_forever(), flush=True)

asyncio.run(main())
"""


@pytest.mark.slow
async def test_m_e1_slow_requests_are_answered_before_the_end(tmp_path: Path) -> None:
    async with program(tmp_path / "log", "-c", SLOW_SERVER) as running:
        endpoint = await running.ready()
        asked: list[float] = []
        answered: list[float] = []
        pollers = [asyncio.create_task(poll(endpoint, "", asked, answered)) for _ in range(20)]
        slow = [await Wire.to(endpoint) for _ in range(5)]
        await asyncio.sleep(0.2)
        for client in slow:
            await client.send(adu(read(500), 5) + adu(read(400), 4))
        await asyncio.sleep(0.1)
        signalled = perf_counter()
        running.signal(signal.SIGTERM)
        for client in slow:
            assert [answer.transaction for answer in answers_in((await client.ended()).data)] == [4, 5]
            client.close()
        code, _ = await running.ended()
        await asyncio.wait_for(asyncio.gather(*pollers), 5)
        assert code == 0
        assert perf_counter() - signalled < 0.5 + 2 * MARGIN_S
        assert [when for when in asked if when < signalled and when not in answered] == []
        assert running.text.splitlines()[-1] == "Drained(connections=25)"


# --- E10 of "More cases" -------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.patient
@pytest.mark.timeout(300)
async def test_m_e10_the_command_can_be_interrupted_at_any_moment(tmp_path: Path) -> None:
    chance = random.Random(10)
    start_s = await start_time_s(tmp_path / "control")
    codes: list[int] = []
    slowest_s = 0.0
    for number in range(100):
        async with serve(tmp_path / f"log{number}", "--stop-timeout", "0.3") as running:
            if number % 4 == 0:
                await interrupt_while_draining(running, chance)
            else:
                await asyncio.sleep(chance.uniform(0, 1.3 * start_s))
                running.signal(signal.SIGINT)
            code, took_s = await running.ended()
            codes.append(code)
            slowest_s = max(slowest_s, took_s)
            if "ready" in running.text:
                assert code == 0, running.text
    assert slowest_s < 1.0 + start_s
    assert set(codes) <= {0, 1, 130, -signal.SIGINT}, sorted(codes)


async def interrupt_while_draining(running: Program, chance: random.Random) -> None:
    async with await never_reading(await running.ready()):
        running.signal(signal.SIGTERM)
        await asyncio.sleep(chance.uniform(0, 0.25))
        running.signal(signal.SIGINT)
