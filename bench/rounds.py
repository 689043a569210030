"""One run: every server asked in turn, again and again, and every figure kept."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date
from functools import partial
from typing import Any, Final, Protocol, TypeVar

from bench.cases import CASES, CHURN_CONNECTIONS, IDLE_CONNECTIONS
from bench.contenders import Contender, Server, contenders, running
from bench.programs import load_command, load_is_compiled
from everbus import __version__

__all__ = ["LoadFailedError", "Plan", "Round", "Say", "interleaved", "measure", "medians", "processors"]

Say = Callable[[str], None]
Round = dict[str, float]


class Named(Protocol):
    """What takes turns."""

    @property
    def name(self) -> str:
        """Its key in the results."""


N = TypeVar("N", bound=Named)

_IDLE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How long a run takes.

    Args:
        rounds: of each measurement with each server, 1 or more.
        seconds: of each round.
        client_rounds: of each client, 1 or more.
        client_seconds: of each of their rounds.
    """

    rounds: int = 5
    seconds: float = 1.0
    client_rounds: int = 7
    client_seconds: float = 0.3


class LoadFailedError(Exception):
    """A server gave a wrong answer, or none; or a client did not read what is there."""


def measure(plan: Plan, say: Say) -> dict[str, Any]:
    """Measure everything; the document that is kept as JSON.

    Args:
        plan: how long.
        say: told what goes on, in a few words.
    """
    found, missing = contenders()
    own_cpu, load_cpu = processors()
    load = _Load(load_cpu)
    document: dict[str, Any] = {"about": _about(plan, load_cpu is not None), "missing": missing, "cases": {}}
    document["about"]["versions"] = {one.name: one.version() for one in found}
    with ExitStack() as stack:
        servers = [stack.enter_context(running(contender, own_cpu)) for contender in found]
        for case in CASES:
            say(case.title)
            document["cases"][case.name] = interleaved(
                plan.rounds, servers, partial(load.run, arguments=(*case.arguments, str(plan.seconds)))
            )
        say(f"connect, read, close; {CHURN_CONNECTIONS} at a time")
        document["churn"] = interleaved(
            plan.rounds, servers, partial(load.run, arguments=("churn", str(CHURN_CONNECTIONS), str(plan.seconds)))
        )
    say("import and start")
    document["import"] = _starts(plan, [(one.name, one) for one in found if one.import_command], _import_s)
    document["start"] = _starts(plan, [(one.name, one) for one in found], _start_s)
    say(f"{IDLE_CONNECTIONS:,} idle connections")
    document["idle"] = {one.name: _idle(one, load, own_cpu) for one in found}
    return document


def _about(plan: Plan, pinned: bool) -> dict[str, Any]:
    return {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, Linux {platform.release()}",
        "everbus": __version__,
        "rounds": plan.rounds,
        "seconds": plan.seconds,
        "load_generator": "C" if load_is_compiled() else "Python: it may be what limits, install gcc",
        "pinned": pinned,
    }


def processors() -> tuple[int | None, int | None]:
    """One for the servers, which take turns, and one for the load; none where there is only one.

    Left to itself the scheduler now and then puts both ends of one connection on one processor,
    which alone changes a round by a factor of two.
    """
    usable = sorted(os.sched_getaffinity(0))
    return (usable[0], usable[1]) if len(usable) > 1 else (None, None)


class _Load:
    """The load generator, run once a round."""

    def __init__(self, cpu: int | None) -> None:
        self._command = load_command()
        self._pin = None if cpu is None else {cpu}
        self._environment = os.environ if cpu is None else {**os.environ, "LOAD_RESTLESS": "1"}

    def start(self, server: Server, *arguments: str) -> subprocess.Popen[str]:
        """It, under way."""
        command = [*self._command, str(server.port), *arguments]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=self._environment)
        if self._pin is not None:
            os.sched_setaffinity(process.pid, self._pin)
        return process

    def run(self, server: Server, arguments: Sequence[str]) -> Round:
        """One round: what it printed, and what the server used."""
        before = server.cpu_s()
        with self.start(server, *arguments) as process:
            out, error = process.communicate(timeout=120)
        if process.returncode:
            raise LoadFailedError(f"{server.name}: {error.strip()}")
        cost_s = server.cpu_s() - before
        result: Round = json.loads(out)
        whole = float(arguments[-1]) / result["seconds"]  # the warming up costs too
        result["per_s"] = result["answered"] / result["seconds"]
        result["server_cpu_us"] = cost_s / max(result["answered"] * whole, 1) * 1e6
        result["memory_bytes"] = server.memory_bytes()
        return result


def interleaved(count: int, taking_part: Sequence[N], run: Callable[[N], Round]) -> dict[str, Any]:
    """Each once a round; medians, and the rounds behind them, by name."""
    rounds: dict[str, list[Round]] = {one.name: [] for one in taking_part}
    for _ in range(count):
        for one in taking_part:
            rounds[one.name].append(run(one))
    return {name: {"median": medians(values), "rounds": values} for name, values in rounds.items()}


def medians(rounds: Sequence[Round]) -> Round:
    """Of each figure; but of lost requests the most: one round with a loss is a loss."""
    middles = {key: max if key == "lost" else statistics.median for key in rounds[0]}
    return {key: round(middle(one[key] for one in rounds), 6) for key, middle in middles.items()}


def _starts(
    plan: Plan, found: list[tuple[str, Contender]], seconds: Callable[[Contender], float]
) -> dict[str, dict[str, Any]]:
    """Like ``interleaved``, for what has no server."""
    rounds: dict[str, list[float]] = {name: [] for name, _ in found}
    for _ in range(plan.rounds):
        for name, contender in found:
            rounds[name].append(round(seconds(contender), 4))
    return {name: {"median": {"s": statistics.median(values)}, "rounds": values} for name, values in rounds.items()}


def _import_s(contender: Contender) -> float:
    """To load its code, the start of the interpreter left out."""
    empty = (contender.import_command[0], "-c", "pass")
    return _wall_s(contender.import_command) - _wall_s(empty)


def _wall_s(command: Sequence[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return time.perf_counter() - begin


def _start_s(contender: Contender) -> float:
    """From the command to the first answer."""
    begin = time.perf_counter()
    with running(contender):
        return time.perf_counter() - begin


def _idle(contender: Contender, load: _Load, cpu: int | None) -> dict[str, Any]:
    """What an idle connection that asked once costs; or how far it came."""
    with running(contender, cpu, crowd=True) as server:
        before = server.memory_bytes()
        with load.start(server, "idle", str(IDLE_CONNECTIONS)) as process:
            assert process.stdout is not None
            killer = threading.Timer(_IDLE_S, process.kill)
            killer.start()
            ready = process.stdout.readline().strip() == "ready"
            cost = server.memory_bytes() - before
            killer.cancel()
            _, error = process.communicate()
    if not ready:
        return {"connections": 0, "why": error.strip() or f"not there after {_IDLE_S:g} s"}
    return {"connections": IDLE_CONNECTIONS, "bytes_each": round(cost / IDLE_CONNECTIONS)}
