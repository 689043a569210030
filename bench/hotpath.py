"""A profile of the server under load, by py-spy: where the time of a request goes.

It looks at the process from outside, and pauses it for each sample: the shares count, not the rate.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Final

from bench.cases import Case
from bench.contenders import OWN, own, running
from bench.programs import load_command

__all__ = ["profile"]

_CASE: Final = Case(50, 1, "read", 10)
_RATE: Final = 500
_LINES: Final = 25


def profile(seconds: int) -> str:
    """Profile everbus on asyncio; the table as text.

    Args:
        seconds: how long, 1 or more.
    """
    spy = str(Path(sys.executable).with_name("py-spy"))
    with running(own(OWN, "asyncio")) as server:
        load = [*load_command(), str(server.port), *_CASE.arguments, str(seconds + 2)]
        with subprocess.Popen(load, stdout=subprocess.DEVNULL) as process:
            watch = [spy, "record", "--pid", str(server.pid), "--duration", str(seconds), "--rate", str(_RATE)]
            raw = [*watch, "--native", "--format", "raw", "--output", "/dev/stdout"]
            done = subprocess.run(raw, check=False, capture_output=True, text=True)
            process.wait()
    if done.returncode:  # it needs the right to look at another process
        return f"no profile: {done.stderr.strip()}\n"
    return table(done.stdout)


def table(stacks: str) -> str:
    """Shares of the samples, by function: alone, and with what it calls.

    Args:
        stacks: a line for each stack, ``outer;inner;innermost count``, as py-spy's raw format has it.
    """
    alone, within = Counter[str](), Counter[str]()
    for line in stacks.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = stack.split(";")
        if not count.isdigit() or not any("run_forever" in frame for frame in frames):
            continue
        alone[frames[-1]] += int(count)
        within.update(dict.fromkeys(set(frames), int(count)))
    total = max(alone.total(), 1)
    lines = [f"{_CASE.title}; {alone.total()} samples of the event loop's thread", "", " alone  within  function"]
    lines += [f"{n / total:6.1%} {within[name] / total:7.1%}  {name}" for name, n in alone.most_common(_LINES)]
    lines += ["", "within  function, the largest that are not above"]
    rest = [item for item in within.most_common() if item[0] not in dict(alone.most_common(_LINES))]
    lines += [f"{n / total:6.1%}  {name}" for name, n in rest[:_LINES]]
    return "\n".join(lines) + "\n"
