from __future__ import annotations

import asyncio
from math import inf

from everbus.aio.calls import QUEUED, YOURS, Call, Deadlines


async def test_a_call_wakes_whoever_waits_for_it_and_once_only() -> None:
    call = Call(1, None, b"", 0.0, 0.0)
    assert (call.state, call.placed, call.script, call.link) == (YOURS, False, None, None)
    call.wake()  # nobody waits yet
    call.state = QUEUED
    call.future = asyncio.get_running_loop().create_future()
    call.wake()
    call.wake()
    await call.future


async def test_one_timer_rings_for_the_first_and_again_for_the_next() -> None:
    loop = asyncio.get_running_loop()
    now = loop.time()
    rang: list[float] = []
    wanted = [now + 0.02, inf]
    done = asyncio.Event()

    def expire(at: float) -> float:
        rang.append(at)
        if len(rang) == 2:
            done.set()
        return wanted.pop(0)

    deadlines = Deadlines(loop, expire)
    deadlines.ring(now + 30.0)
    deadlines.ring(now + 0.01)
    deadlines.ring(now + 20.0)
    assert deadlines.at == now + 0.01
    await asyncio.wait_for(done.wait(), 5.0)
    assert now + 0.01 <= rang[0]
    assert now + 0.02 <= rang[1]
    assert deadlines.at == inf


async def test_a_closed_one_does_not_ring() -> None:
    rang: list[float] = []

    def expire(at: float) -> float:
        rang.append(at)
        return inf

    deadlines = Deadlines(asyncio.get_running_loop(), expire)
    deadlines.ring(asyncio.get_running_loop().time())
    deadlines.close()
    deadlines.close()
    await asyncio.sleep(0.01)
    assert (rang, deadlines.at) == ([], inf)
