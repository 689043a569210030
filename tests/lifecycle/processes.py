"""Servers and abusers as processes of their own, measured from outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from everbus.resources import Descriptors, descriptors, listening_addresses, memory_bytes

HOST: Final = str(Path(__file__).with_name("host.py"))
_START_S: Final = 20.0
WITH_DESCRIPTORS: Final = (
    "import os, resource, sys; limits = [int(number) for number in sys.argv[1].split(',')]; "
    "resource.setrlimit(resource.RLIMIT_NOFILE, (limits[0], limits[-1])); os.execvp(sys.argv[2], sys.argv[2:])"
)
"""``python -c`` this with SOFT or SOFT,HARD and a command, which runs with that RLIMIT_NOFILE."""


@dataclass(frozen=True)
class ServerProcess:
    """A server beside the test."""

    process: subprocess.Popen[str]
    log: Path
    port: int
    max_connections: int

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def memory(self) -> int:
        """Resident bytes."""
        return memory_bytes(self.pid)

    @property
    def descriptors(self) -> Descriptors:
        return descriptors(self.pid)

    @property
    def listening(self) -> tuple[str, ...]:
        return listening_addresses(self.pid)

    @property
    def cpu_s(self) -> float:
        """User and system time so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def log_text(self) -> str:
        return self.log.read_text(encoding="utf-8")

    @property
    def log_bytes(self) -> int:
        return self.log.stat().st_size

    def do(self, command: str, number: int = 0) -> Any:
        """Have ``host.py`` do something; what it answers."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"command": command, "number": number}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    @property
    def statistics(self) -> dict[str, Any]:
        found = self.do("statistics")
        assert isinstance(found, dict)
        return found


@contextmanager
def hosting(
    folder: Path,
    *,
    host: str = "127.0.0.1",
    descriptor_limit: int | None = None,
    namespace: str | None = None,
    **limits: Any,
) -> Iterator[ServerProcess]:
    """A ``Server`` in a process of its own, with a hand on it.

    Args:
        folder: where its log goes.
        host: the address that it listens on.
        descriptor_limit: its RLIMIT_NOFILE, soft and hard.
        namespace: the network namespace that it lives in.
        limits: of the server.
    """
    command = [sys.executable, HOST, json.dumps({"host": host, "limits": limits})]
    if namespace is not None:
        command = ["ip", "netns", "exec", namespace, *command]
    with _started(_limited(command, descriptor_limit), folder / "host.log", by_signal=False) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"the server did not start: {(folder / 'host.log').read_text(encoding='utf-8')}"
        ready = json.loads(line)
        yield ServerProcess(process, folder / "host.log", _port(ready["endpoints"][0]), ready["max_connections"])


@contextmanager
def everbus_serve(
    folder: Path, *options: str, descriptor_limit: int | None = None, hard_limit: int | None = None
) -> Iterator[ServerProcess]:
    """``everbus serve`` on a free port, as users run it."""
    command = [sys.executable, "-m", "everbus", "serve", "--listen", "tcp://127.0.0.1:0", "--log-format", "json"]
    command = _limited([*command, *options], descriptor_limit, hard_limit)
    with _started(command, folder / "serve.log", by_signal=True) as process:
        ready = _ready(process, folder / "serve.log")
        yield ServerProcess(
            process, folder / "serve.log", _port(ready["endpoints"][0]), ready["limits"]["max_connections"]
        )


@contextmanager
def script(path: Path, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A script beside the test, with its stdout; it is gone at the end."""
    command = [sys.executable, str(path), *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def _limited(command: list[str], soft: int | None, hard: int | None = None) -> list[str]:
    if soft is None:
        return command
    return [sys.executable, "-c", WITH_DESCRIPTORS, f"{soft},{hard or soft}", *command]


@contextmanager
def _started(command: list[str], log: Path, *, by_signal: bool) -> Iterator[subprocess.Popen[str]]:
    """The process, its log in a file; it must end well when asked to, by SIGTERM or the end of its stdin."""
    with (
        log.open("w", encoding="utf-8") as stderr,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True) as process,
    ):
        try:
            yield process
            assert process.poll() is None, f"the server died: {log.read_text(encoding='utf-8')[-2000:]}"
            if by_signal:
                process.terminate()
            elif process.stdin is not None:
                process.stdin.close()
            assert process.wait(_START_S) == 0, log.read_text(encoding="utf-8")[-2000:]
        finally:
            process.kill()


def _ready(process: subprocess.Popen[str], log: Path) -> dict[str, Any]:
    """What ``everbus serve`` says when it serves."""
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        for line in log.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n") and (found := json.loads(line)).get("event") == "ready":
                assert isinstance(found, dict)
                return found
        time.sleep(0.02)
    raise AssertionError(f"everbus serve did not get ready: {log.read_text(encoding='utf-8')}")


def _port(endpoint: str) -> int:
    return int(endpoint.rpartition(":")[2])
