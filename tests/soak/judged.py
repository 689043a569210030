"""Runs of one scenario against several servers at the same time."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from everbus.client.endpoint import parse_endpoint
from everbus.soak.options import SoakOptions
from everbus.soak.runner import soak
from tests.soak import faulty
from tests.soak.servers import Running, running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from everbus.soak.result import SoakResult

BRIEF = SoakOptions(polite=2, pause_s=0.1, settle_s=0.4, grace_s=1.2)
EVERBUS = "everbus"

Server = type[faulty.Right] | str


def verdicts(options: SoakOptions, *servers: Server) -> dict[Server, SoakResult]:
    """What the same run says of each: servers of ``faulty``, and ``everbus serve``."""

    def judged(server: Server) -> SoakResult:
        with serving(server) as found:
            return soak(found.endpoint, options, found.pid)

    with ThreadPoolExecutor(len(servers)) as pool:
        return dict(zip(servers, pool.map(judged, servers), strict=True))


@contextmanager
def serving(server: Server) -> Iterator[Running]:
    """It as a process of its own, ended with the block."""
    if not isinstance(server, str):
        with running(server.__name__, faulty.__file__) as found:
            yield found
        return
    command = [sys.executable, "-m", "everbus", "serve", "--listen", "tcp://127.0.0.1:0", "--log-format", "json"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        ready = json.loads(process.stderr.readline())
        reader = threading.Thread(target=process.stderr.read)  # or it would wait for us one day
        reader.start()
        try:
            yield Running(parse_endpoint(ready["endpoints"][0]), process)
        finally:
            process.terminate()
            reader.join()


def brief(scenario: str, **changes: float) -> SoakOptions:
    """A run that is over soon."""
    return replace(BRIEF, scenario=scenario, **changes)  # type: ignore[arg-type]
