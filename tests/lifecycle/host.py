"""A server in a process of its own, with a hand on it: ``host.py OPTIONS``, JSON throughout.

Options: ``host`` and ``limits``. One line on stdout when it serves; then each line on stdin is a
command, answered by one line. It ends with its stdin. Logs go to stderr as ``everbus serve`` writes
them.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import sys
import threading
import time
from collections import Counter
from dataclasses import asdict
from typing import Any

from everbus.aio.server import Server
from everbus.limits import Limits
from everbus.logs import LogObserver
from everbus.observe import Event
from everbus.resources import descriptor_count
from everbus.service.local import LocalDevice


class Hand:
    """Counts events, logs them, and does what it is told."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._log = LogObserver()
        self._held: list[int] = []
        self.server: Server | None = None

    def notify(self, event: Event) -> None:
        self.counts[event.kind.value] += 1
        self._log.notify(event)

    def tick(self, now: float) -> None:
        self._log.tick(now)

    def do(self, command: str, number: int) -> Any:
        if command == "statistics":
            assert self.server is not None
            return asdict(self.server.statistics()) | {"endpoints": self.server.endpoints}
        if command == "events":
            return dict(self.counts)
        if command == "objects":
            gc.collect()
            tasks = len(asyncio.all_tasks())
            return {"objects": len(gc.get_objects()), "threads": threading.active_count(), "tasks": tasks}
        if command == "sweep":
            return self.sweep_times(number)
        if command == "close_listener":
            assert self.server is not None
            listening = self.server._doors.listeners[0]._socket
            assert listening is not None
            os.close(listening.fileno())
            return True
        if command == "hold":
            return self.hold(number)
        raise ValueError(command)

    def sweep_times(self, count: int) -> list[float]:
        """How long sweeps of the registry take, in seconds."""
        assert self.server is not None
        times = []
        for _ in range(count):
            begun = time.perf_counter()
            self.server._registry.sweep(time.monotonic())
            times.append(time.perf_counter() - begun)
        return times

    def hold(self, number: int) -> int:
        """Hold descriptors of our own until so many are open, or there are no more; how many we hold."""
        while self._held and descriptor_count() > number:
            os.close(self._held.pop())
        try:
            while descriptor_count() < number:
                self._held.append(os.dup(0))
        except OSError:
            pass
        return len(self._held)


async def main(options: dict[str, Any]) -> None:
    hand = Hand()
    endpoint = f"tcp://{options['host']}:0"
    hand.server = Server(LocalDevice(), endpoint, limits=Limits(**options["limits"]), observer=hand)
    loop = asyncio.get_running_loop()
    rest = b""

    def on_input() -> None:
        nonlocal rest
        data = os.read(0, 65536)
        if not data:
            loop.remove_reader(0)
            assert hand.server is not None
            hand.server.request_stop()
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            say(hand.do(**json.loads(line)))

    async with hand.server as server:
        loop.add_reader(0, on_input)
        say({"endpoints": server.endpoints, "max_connections": server.limits.max_connections})
        await server.serve_forever()


def say(what: Any) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    asyncio.run(main(json.loads(sys.argv[1])))
