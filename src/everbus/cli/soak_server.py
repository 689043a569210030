"""The server that ``everbus soak`` looks at: one that was named, or ``everbus serve`` as a process of its own."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from collections import deque
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from everbus.cli.output import CommandFailure, ExitCode
from everbus.client.endpoint import parse_endpoint
from everbus.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from everbus.client.endpoint import Endpoint

__all__ = ["SoakedServer", "named_server", "own_server"]

_READY_S: Final = 20.0
_STOP_S: Final = 10.0
_LAST_LINES: Final = 5
_SERVE: Final = ("-m", "everbus", "serve", "--listen", "tcp://127.0.0.1:0", "--log-format", "json")


@dataclass(frozen=True, slots=True)
class SoakedServer:
    """Where it listens; its process, None where that is not to be looked at."""

    endpoint: Endpoint
    pid: int | None


def named_server(url: str, pid: int | None) -> SoakedServer:
    """A server that runs already.

    Raises:
        ConfigurationError: the URL is none that one can connect to, or not one of Modbus TCP.
    """
    endpoint = parse_endpoint(url)
    if endpoint.scheme not in {"tcp", "unix"}:
        raise ConfigurationError(f"{url!r}: the soak speaks Modbus TCP, to tcp://host[:port] or unix:///path")
    if endpoint.scheme == "tcp" and endpoint.port == 0:
        raise ConfigurationError(f"{url!r}: port 0 is no port to connect to")
    return SoakedServer(endpoint, pid)


@contextmanager
def own_server() -> Iterator[SoakedServer]:
    """``everbus serve`` as a process on a free port; stopped and reaped whatever happens.

    Raises:
        CommandFailure: it did not start.
    """
    process = subprocess.Popen(
        [sys.executable, *_SERVE],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl-C is for us; we stop it
    )
    log = _ServerLog(process)
    try:
        yield SoakedServer(parse_endpoint(log.ready_url()), process.pid)
    finally:
        _stop(process)
        log.join()


def _stop(process: subprocess.Popen[str]) -> None:
    try:
        process.terminate()
        process.wait(_STOP_S)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        process.kill()
        process.wait()


class _ServerLog(threading.Thread):
    """Reads what our server writes on stderr, so that it never waits for us; keeps the last lines."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        super().__init__(name="everbus-soak-log", daemon=True)
        self._process = process
        self._ready: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._last: deque[str] = deque(maxlen=_LAST_LINES)
        self.start()

    def ready_url(self) -> str:
        """Where it listens, once it says that it is ready.

        Raises:
            CommandFailure: it ended instead, or said nothing in time.
        """
        with suppress(queue.Empty):
            if url := self._ready.get(timeout=_READY_S):
                return url
        said = " | ".join(self._last) or "nothing"
        raise CommandFailure(
            ExitCode.CANNOT_CONNECT,
            "cannot_connect",
            f"the server of our own did not start; it said: {said}",
            "everbus serve, or give the URL of a server",
        )

    def run(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as lines:
            for line in lines:
                self._last.append(line.strip())
                if url := _url_in(line):
                    self._ready.put(url)
        self._ready.put("")


def _url_in(line: str) -> str:
    """The first endpoint of the line that says that the server is ready; empty in any other."""
    try:
        said = json.loads(line)
        return str(said["endpoints"][0]) if said["event"] == "ready" else ""
    except (ValueError, LookupError, TypeError):
        return ""
