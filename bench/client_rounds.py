"""The clients: each a process that reads from the C floor, in turn, again and again."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.cases import CLIENT_CASES, ClientCase
from bench.contenders import FLOOR, OWN, RAW, TMODBUS_BARE, Contender, running
from bench.programs import floor_server
from bench.rounds import LoadFailedError, Plan, Round, Say, interleaved, medians, processors
from bench.slow_load import prepare, values
from tools.environments import PYMODBUS, PYMODBUSTCP, TMODBUS, UMODBUS, environment, newer_python

__all__ = ["measure_clients", "measure_command"]

_ROOT: Final = Path(__file__).resolve().parent.parent
_EVERBUS: Final = str(Path(sys.executable).with_name("everbus"))
_OWN_PROGRAMS: Final = ((OWN, "everbus_async"), (OWN, "everbus_sync"), (RAW, "raw_sync"))
_PEERS: Final = (
    (PYMODBUS, PYMODBUS, "pymodbus_async", (3, 11)),
    (PYMODBUS, PYMODBUS, "pymodbus_sync", (3, 11)),
    (TMODBUS, TMODBUS, "tmodbus_async", (3, 12)),
    (TMODBUS_BARE, TMODBUS, "tmodbus_bare_async", (3, 12)),
    (PYMODBUSTCP, PYMODBUSTCP, "pymodbustcp_sync", (3, 11)),
    (UMODBUS, UMODBUS, "umodbus_sync", (3, 11)),
)
"""A name, what is installed, its program in ``bench/clients``, the oldest Python that it runs on."""


@dataclass(frozen=True, slots=True)
class Program:
    """A client program.

    Args:
        name: of its stack, its key in the results.
        python: what runs it.
        module: its name in ``bench.clients``; it ends in ``async`` or ``sync``.
    """

    name: str
    python: str
    module: str

    def takes_part(self, case: ClientCase) -> bool:
        """It can do what is asked."""
        return self.module.endswith(f"_{case.kind}")

    def command(self, port: int, case: ClientCase, seconds: float) -> list[str]:
        """What starts it."""
        return [self.python, "-m", f"bench.clients.{self.module}", str(port), case.mode, str(seconds)]


def measure_clients(plan: Plan, say: Say) -> dict[str, Any]:
    """Measure every client; by case and name, empty without the floor.

    Args:
        plan: how long.
        say: told what goes on, in a few words.

    Raises:
        LoadFailedError: a wrong value was read, or a program could not run.
    """
    measured: dict[str, Any] = {}
    floor = floor_server()
    if floor is None:
        return measured
    found = programs()
    floor_cpu, client_cpu = processors()
    with running(Contender(name=FLOOR, command=(str(floor),)), floor_cpu) as server:
        prepare(server.port)
        for case in CLIENT_CASES:
            say(f"client: {case.title}")

            def run(program: Program, case: ClientCase = case) -> Round:
                return _round(program.name, program.command(server.port, case, plan.client_seconds), client_cpu)

            taking_part = [program for program in found if program.takes_part(case)]
            measured[case.name] = interleaved(plan.client_rounds, taking_part, run)
    return measured


def measure_command(plan: Plan, say: Say) -> dict[str, Any]:
    """Measure ``everbus read`` of one register; empty without the floor.

    Args:
        plan: how often.
        say: told what goes on, in a few words.

    Raises:
        LoadFailedError: it failed, or did not print what the register holds.
    """
    floor = floor_server()
    if floor is None:
        return {}
    say("the command that reads")
    with running(Contender(name=FLOOR, command=(str(floor),))) as server:
        prepare(server.port)
        command = [_EVERBUS, "read", f"tcp://127.0.0.1:{server.port}", "h@0"]
        value = str(int.from_bytes(values(0, 1), "big"))
        rounds = [_read_command(command, value) for _ in range(plan.client_rounds)]
    return {"median": medians(rounds), "rounds": rounds}


def programs() -> list[Program]:
    """Those that can run here, ours first."""
    found = [Program(name, sys.executable, module) for name, module in _OWN_PROGRAMS]
    for name, requirement, module, oldest in _PEERS:
        interpreter = newer_python(oldest)
        if interpreter is not None:
            found.append(Program(name, str(environment(requirement, interpreter)), module))
    return found


def _round(name: str, command: Sequence[str], cpu: int | None) -> Round:
    """One round: what the program printed, and what follows from it."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=_ROOT) as process:
        if cpu is not None:
            os.sched_setaffinity(process.pid, {cpu})
        out, error = process.communicate()
    if process.returncode:
        raise LoadFailedError(f"{name}: {error.strip()}")
    result: Round = json.loads(out)
    result["per_s"] = result["reads"] / result["seconds"]
    result["client_cpu_us"] = result["cpu_s"] / result["reads"] * 1e6
    return result


def _read_command(command: Sequence[str], value: str) -> Round:
    """What a command that prints a value costs from its start to its exit."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode or value not in done.stdout:
        raise LoadFailedError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    used_s = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return {"cpu_ms": used_s * 1000}
