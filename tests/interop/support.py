"""Foreign stacks as processes of their own, and the server that they talk to."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from everbus.resources import descriptors, listening_addresses
from tests.interop.plan import Step
from tools.environments import ROOT, environment, node_modules

__all__ = [
    "DEVICES",
    "HERE",
    "PEERS",
    "Device",
    "everbus_serve",
    "methods_not_called",
    "needs",
    "node_with",
    "peer_answers",
    "python_with",
    "serving",
    "started",
]

HERE: Final = Path(__file__).parent
PEERS: Final = HERE / "peers"
DEVICES: Final = 16
"""Units that the server answers for: each run of the plan has one of its own."""

_START_S: Final = 20.0
_RUN_S: Final = 60.0


def needs(*commands: str, package: str) -> None:
    """Skip where a command is missing, and say how to get it."""
    missing = [command for command in commands if shutil.which(command) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not found: apt-get install {package}")


def python_with(requirement: str, python: Path | None = None) -> Path:
    """The Python of an environment with a stack installed; skips where the stack cannot be had."""
    with _to_be_had(requirement):
        return environment(requirement, python)


def node_with(source: Path) -> dict[str, str]:
    """The environment in which Node finds the packages that a folder names; skips where they cannot be had."""
    needs("node", "npm", package="nodejs npm")
    with _to_be_had(f"the packages of {source.relative_to(ROOT)}"):
        return {"PATH": os.environ["PATH"], "NODE_PATH": str(node_modules(source))}


@contextmanager
def _to_be_had(what: str) -> Iterator[None]:
    try:
        yield
    except subprocess.CalledProcessError as error:
        pytest.skip(f"{what} cannot be had, {error}; what the installer said is on stderr")


@dataclass
class Device:
    """``everbus serve`` with devices that the plan fills."""

    port: int
    _units: Iterator[int] = field(default_factory=lambda: iter(range(1, DEVICES + 1)))

    def fresh_unit(self) -> int:
        """A unit that nobody has talked to."""
        return next(self._units)


@contextmanager
def everbus_serve(folder: Path, *more: str) -> Iterator[Device]:
    """The server, on a free port of 127.0.0.1, and on more endpoints besides.

    In the end it must have as many descriptors open as at first, no error in its log, and end well
    when told to.
    """
    units = itertools.chain.from_iterable(("--unit", str(unit)) for unit in range(1, DEVICES + 1))
    listen = itertools.chain.from_iterable(("--listen", endpoint) for endpoint in ("tcp://127.0.0.1:0", *more))
    command = [sys.executable, "-m", "tests.interop.filled", *listen, "--log-format", "json"]
    log = folder / "serve.log"
    with log.open("w", encoding="utf-8") as stderr:
        process = subprocess.Popen([*command, *units], cwd=ROOT, stderr=stderr)
    with process:
        try:
            device = Device(_port(process, log))
            at_first = descriptors(process.pid)
            yield device
            _wait_for(lambda: descriptors(process.pid) == at_first, f"more descriptors than at first, {at_first}")
            process.terminate()
            assert process.wait(_START_S) == 0, log.read_text(encoding="utf-8")[-2000:]
            entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
            assert [entry for entry in entries if entry["level"] == "error"] == []
        finally:
            process.kill()


def _wait_for(condition: Callable[[], bool], what: str) -> None:
    """Return when it holds; fail if it takes long."""
    deadline = time.monotonic() + _START_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def _port(process: subprocess.Popen[bytes], log: Path) -> int:
    """The port in the first line of the log, which says that the server is ready."""
    _wait_for(
        lambda: process.poll() is not None or "\n" in log.read_text(encoding="utf-8"), "everbus serve is not ready"
    )
    said = log.read_text(encoding="utf-8")
    assert process.poll() is None, said
    return int(json.loads(said.partition("\n")[0])["endpoints"][0].rpartition(":")[2])


def peer_answers(
    command: Sequence[str | Path],
    port: int | str | Path,
    unit: int,
    steps: Iterable[Step],
    environ: Mapping[str, str] = os.environ,
) -> list[tuple[list[Any], Any]]:
    """Calls with their answers, as a foreign client got them.

    Its program is given port, of TCP or a serial one, and unit, and a JSON list of calls on stdin; it
    prints a JSON list of answers.
    """
    calls = [step.call for step in steps]
    done = subprocess.run(
        [*command, str(port), str(unit)],
        input=json.dumps(calls),
        env=environ,
        capture_output=True,
        text=True,
        timeout=_RUN_S,
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.stderr[-3000:]}"
    found = json.loads(done.stdout)
    assert len(found) == len(calls)
    return list(zip(calls, found, strict=True))


def methods_not_called(python: Path, where: str, program: Path) -> set[str]:
    """Public methods of a client class, ``module:Class``, that our program for it does not name."""
    module, _, name = where.partition(":")
    own = f"vars(found.{name}).items() if isinstance(value, types.FunctionType)"
    script = f"import types, {module} as found; print(*(name for name, value in {own}))"
    done = subprocess.run([python, "-c", script], capture_output=True, text=True, check=True)
    text = program.read_text(encoding="utf-8")
    public = {method for method in done.stdout.split() if not method.startswith("_")}
    return {method for method in public if not re.search(rf"\.{method}\b", text)}


@contextmanager
def started(*command: str | Path) -> Iterator[tuple[str, int]]:
    """A foreign server; the line that it prints, which says where it is, and its pid.

    Its program finds the plan on its path, and ends with the block.
    """
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([*command], stdout=subprocess.PIPE, env=environ, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline().strip()
            assert line, f"{command} is not ready: {process.wait(_START_S)}"
            yield line, process.pid
            assert process.poll() is None, f"{command} ended by itself: {process.returncode}"
        finally:
            process.kill()


@contextmanager
def serving(*command: str | Path) -> Iterator[tuple[int, int]]:
    """A foreign server that listens on TCP; its port and pid. Its program prints the port that it will listen on."""
    with started(*command) as (port, pid):
        address = f"127.0.0.1:{port}"
        _wait_for(lambda: address in listening_addresses(pid), f"{command} does not listen on port {port}")
        yield int(port), pid
