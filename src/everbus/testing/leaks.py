"""Proof that something leaves nothing behind: descriptors, listening sockets, threads, tasks.

the leak of pymodbus 3.7.4 opened a listening socket a second after each disconnect: it was visible only
to whoever counted sockets by state, and waited. So kinds are compared, not totals, and what is
still there gets a grace of 1.2 s to go.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from typing import Final

from everbus.aio.registry import Registry
from everbus.resources import Descriptors, descriptors, listening_addresses

__all__ = ["GRACE_S", "Snapshot", "no_leaked_tasks", "no_leaks", "snapshot"]

GRACE_S: Final = 1.2
_LOOK_AGAIN_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What this process holds.

    Args:
        descriptors: open ones by kind.
        listening: addresses of listening sockets.
        threads: the living ones.
        connections: entries of every server's registry of connections.
    """

    descriptors: Descriptors
    listening: tuple[str, ...]
    threads: frozenset[threading.Thread]
    connections: int

    def growth_since(self, before: Snapshot) -> list[str]:
        """What is there now and was not before, in words; empty: nothing leaked."""
        found = [
            f"{name} descriptors: {count - earlier} more ({earlier} -> {count})"
            for (name, count), earlier in zip(
                asdict(self.descriptors).items(), asdict(before.descriptors).values(), strict=True
            )
            if count > earlier
        ]
        found += [f"listens on {address}" for address in self.listening if address not in before.listening]
        found += [f"thread {thread.name}" for thread in self.threads - before.threads]
        if self.connections > before.connections:
            found.append(f"registry entries: {before.connections} -> {self.connections}")
        return found


def snapshot() -> Snapshot:
    """What this process holds now."""
    return Snapshot(
        descriptors(),
        tuple(sorted(listening_addresses())),
        frozenset(threading.enumerate()),
        sum(len(found) for found in gc.get_objects() if type(found) is Registry),
    )


@contextmanager
def no_leaks(grace_s: float = GRACE_S) -> Iterator[None]:
    """Around code that opens things: raises AssertionError when more is open after it than before.

    Args:
        grace_s: how long to wait for what is still closing.
    """
    before = snapshot()
    yield
    deadline = time.monotonic() + grace_s
    while leaked := snapshot().growth_since(before):
        if time.monotonic() >= deadline:
            raise AssertionError(f"still there after {grace_s} s: " + "; ".join(leaked))
        gc.collect()
        time.sleep(_LOOK_AGAIN_S)


@asynccontextmanager
async def no_leaked_tasks(grace_s: float = GRACE_S) -> AsyncIterator[None]:
    """Around asynchronous code: raises AssertionError when it leaves tasks behind in this loop."""
    before = asyncio.all_tasks()
    yield
    deadline = time.monotonic() + grace_s
    while leaked := asyncio.all_tasks() - before - {asyncio.current_task()}:
        if time.monotonic() >= deadline:
            raise AssertionError(f"tasks still run after {grace_s} s: {leaked}")
        await asyncio.sleep(_LOOK_AGAIN_S)
