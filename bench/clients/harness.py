"""What every client program does: read 10 registers again and again, compare every value, print JSON.

Modes: ``gathered`` (async, 3000 reads at once on one connection), ``sequential`` (one connection, one
read after another), ``many`` (async, 50 clients) and ``threads`` (8 threads, a client each), each of
them reading one after another. Prints reads, seconds, cpu_s and, where reads follow one another,
p50_us and p99_us. A wrong value ends the program with exit code 1.

Only the standard library: the programs run in the environments of their stacks.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack, ExitStack
from typing import Final

__all__ = ["CLIENTS", "GATHERED", "HOST", "IN_FLIGHT", "REGISTERS", "THREADS", "TIMEOUT_S", "run_async", "run_sync"]

HOST: Final = "127.0.0.1"
REGISTERS: Final = 10
TIMEOUT_S: Final = 3.0
IN_FLIGHT: Final = 16
GATHERED: Final = 3000
CLIENTS: Final = 50
THREADS: Final = 8

Result = dict[str, float]
AsyncRead = Callable[[int], Awaitable[Sequence[int]]]
AsyncConnect = Callable[[int], AbstractAsyncContextManager[AsyncRead]]
Read = Callable[[int], Sequence[int]]
Connect = Callable[[int], AbstractContextManager[Read]]

_WARM_SHARE: Final = 0.1
_WARM_READS: Final = 100
_PLACES: Final = range(0, 300, 3)
_EXPECTED: Final = {at: [(0x1234 + (at + i) * 0x0107) & 0xFFFF for i in range(REGISTERS)] for at in _PLACES}
"""What ``load.c`` and ``slow_load.py`` write."""


class WrongAnswerError(Exception):
    """Values that the server does not hold there."""


def run_async(connect: AsyncConnect) -> None:
    """Be an async client program.

    Args:
        connect: to a port; gives what reads 10 registers at an address.
    """
    port, mode, seconds = _asked()
    if mode == "gathered":
        result = asyncio.run(_gathered(connect, port, seconds))
    else:
        result = asyncio.run(_clients(connect, port, seconds, 1 if mode == "sequential" else CLIENTS))
    print(json.dumps(result))


def run_sync(connect: Connect) -> None:
    """Be a sync client program.

    Args:
        connect: as for ``run_async``.
    """
    port, mode, seconds = _asked()
    with ExitStack() as stack:
        reads = [stack.enter_context(connect(port)) for _ in range(1 if mode == "sequential" else THREADS)]
        _threads(reads, _WARM_SHARE * seconds)
        print(json.dumps(_threads(reads, seconds)))


def _asked() -> tuple[int, str, float]:
    port, mode, seconds = sys.argv[1:]
    return int(port), mode, float(seconds)


async def _gathered(connect: AsyncConnect, port: int, seconds: float) -> Result:
    """Whole batches until the time is over."""
    took = cpu = 0.0
    reads = 0
    places = list(itertools.islice(itertools.cycle(_PLACES), GATHERED))
    async with connect(port) as read:
        await asyncio.gather(*map(read, places[:_WARM_READS]))
        while took < seconds:
            begin, cpu_begin = time.perf_counter(), time.process_time()
            found = await asyncio.gather(*map(read, places))
            took += time.perf_counter() - begin
            cpu += time.process_time() - cpu_begin
            reads += len(found)
            for at, values in zip(places, found, strict=True):
                _check(at, values)
    return {"reads": reads, "seconds": took, "cpu_s": cpu}


async def _clients(connect: AsyncConnect, port: int, seconds: float, count: int) -> Result:
    async with AsyncExitStack() as stack:
        reads = [await stack.enter_async_context(connect(port)) for _ in range(count)]

        async def run(seconds: float) -> Result:
            begin, cpu = time.perf_counter(), time.process_time()
            latencies = await asyncio.gather(*(_one_by_one_async(read, begin + seconds) for read in reads))
            return _result(latencies, begin, cpu)

        await run(_WARM_SHARE * seconds)
        return await run(seconds)


async def _one_by_one_async(read: AsyncRead, until: float) -> list[float]:
    """Latencies."""
    latencies: list[float] = []
    now = time.perf_counter()
    for at in itertools.cycle(_PLACES):
        values = await read(at)
        begin, now = now, time.perf_counter()
        latencies.append(now - begin)
        _check(at, values)
        if now >= until:
            break
    return latencies


def _threads(reads: Sequence[Read], seconds: float) -> Result:
    """A thread for each, but for a single one."""
    begin, cpu = time.perf_counter(), time.process_time()
    if len(reads) == 1:
        return _result([_one_by_one(reads[0], begin + seconds)], begin, cpu)
    with ThreadPoolExecutor(len(reads)) as pool:
        latencies = list(pool.map(_one_by_one, reads, itertools.repeat(begin + seconds)))
    return _result(latencies, begin, cpu)


def _one_by_one(read: Read, until: float) -> list[float]:
    """Latencies; as ``_one_by_one_async``."""
    latencies: list[float] = []
    now = time.perf_counter()
    for at in itertools.cycle(_PLACES):
        values = read(at)
        begin, now = now, time.perf_counter()
        latencies.append(now - begin)
        _check(at, values)
        if now >= until:
            break
    return latencies


def _check(at: int, values: Sequence[int]) -> None:
    if values != _EXPECTED[at]:
        raise WrongAnswerError(f"registers {at} on: {values} instead of {_EXPECTED[at]}")


def _result(latencies: Sequence[list[float]], begin: float, cpu: float) -> Result:
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    ordered = sorted(itertools.chain.from_iterable(latencies))
    result: Result = {"reads": len(ordered), "seconds": seconds, "cpu_s": cpu}
    for key, share in (("p50_us", 0.5), ("p99_us", 0.99)):
        result[key] = round(ordered[int(len(ordered) * share)] * 1e6, 1)
    return result
