"""Servers in processes of their own, and room for many descriptors in this one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import psutil

from tests.lifecycle.wire import until

__all__ = ["Program", "descriptors_for", "program", "serve", "start_time_s"]


@contextmanager
def descriptors_for(number: int) -> Iterator[None]:
    """Room for so many open descriptors in this process, for as long as the block lasts."""
    import resource  # noqa: PLC0415  Windows has none, and no such limit

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < number:
        resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@dataclass
class Program:
    """A server in a process of its own; its log is a file."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def text(self) -> str:
        return self.log.read_text()

    async def ready(self, timeout_s: float = 30.0) -> str:
        """Its endpoint, once it says that it is ready."""
        await until(lambda: bool(self._endpoints) or self.process.poll() is not None, timeout_s)
        assert self._endpoints, self.text
        return self._endpoints[0]

    @property
    def _endpoints(self) -> list[str]:
        for line in self.text.splitlines():
            with suppress(ValueError, KeyError, TypeError):
                return list(json.loads(line)["endpoints"])
        return []

    async def ended(self, timeout_s: float = 30.0) -> tuple[int, float]:
        """Its exit code, and how long that took from the call."""
        began = perf_counter()
        await until(lambda: self.process.poll() is not None, timeout_s)
        return self.process.returncode, perf_counter() - began

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    @property
    def cpu_s(self) -> float:
        """Processor time used so far."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)


@asynccontextmanager
async def program(log: Path, *arguments: str) -> AsyncIterator[Program]:
    """Run Python with these arguments; it is ended with the block."""
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, *arguments], stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield Program(process, log)
    finally:
        process.kill()
        process.wait()


@asynccontextmanager
async def serve(log: Path, *arguments: str) -> AsyncIterator[Program]:
    """``everbus serve`` on a free port."""
    command = ["-m", "everbus", "serve", "--listen", "tcp://127.0.0.1:0", "--log-format", "json"]
    async with program(log, *command, *arguments) as running:
        yield running


async def start_time_s(log: Path) -> float:
    """The control: what a start of the command takes on this machine, now."""
    began = perf_counter()
    async with serve(log) as running:
        await running.ready()
        return perf_counter() - began
