"""Fuzz for minutes: every harness under atheris, then the state machines with many more examples.

``python -m tests.fuzz.run [--seconds 60] [HARNESS ...]``. Prints what each harness did. Exit status 1 if something
was found, with the command that shows it again. Inputs that reach new code are kept in .fuzz/ and used the next time;
the committed corpus stays as it is (``python -m tools.corpus --add`` takes in what is worth it).
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["AGAIN", "CORPUS", "HARNESSES", "Outcome", "fuzz", "main", "report"]

ROOT = Path(__file__).resolve().parent.parent.parent
HARNESSES = Path(__file__).parent / "harnesses"
CORPUS = Path(__file__).parent / "corpus"
MACHINES = (
    "tests/fuzz/test_register_machine.py",
    "tests/fuzz/test_client_machine.py",
    "tests/lifecycle/test_sessions_machine.py",
)
EXAMPLES_PER_S = 0.5
"""How many times the examples of the tests the machines look at, for each second that a harness has."""

AGAIN = "show it again with: "

_FINDING = re.compile(r"Test unit written to (\S+)")
_ERROR = re.compile(r"=== Uncaught Python exception: ===\n(.*?)\n\n", re.DOTALL)


@dataclass(frozen=True)
class Outcome:
    """What a run of one harness came to.

    Args:
        executions: inputs tried.
        per_s: of them, in a second.
        coverage: edges of the instrumented code that were taken.
        start_coverage: of them, by the corpus alone.
        corpus: inputs that reach them all.
        new: inputs that this run added.
        finding: the input that broke something; None: none did.
        status: the exit status; not 0 without a finding: it could not run.
        log: everything that was printed.
    """

    executions: int
    per_s: int
    coverage: int
    start_coverage: int
    corpus: int
    new: int
    finding: Path | None
    status: int
    log: str

    @classmethod
    def of(cls, log: str, status: int) -> Outcome:
        """Read it from what libFuzzer printed."""

        def last(pattern: str) -> int:
            found = re.findall(pattern, log)
            return int(found[-1]) if found else 0

        finding = _FINDING.search(log)
        return cls(
            executions=last(r"stat::number_of_executed_units: (\d+)"),
            per_s=last(r"stat::average_exec_per_sec: +(\d+)"),
            coverage=last(r"cov: (\d+)"),
            start_coverage=last(r"INITED cov: (\d+)"),
            corpus=last(r"corp: (\d+)"),
            new=last(r"stat::new_units_added: +(\d+)"),
            finding=Path(finding[1]) if finding else None,
            status=status,
            log=log,
        )

    @property
    def verdict(self) -> str:
        """``ok``, or the first lines of what was found, or why it did not run."""
        if self.status == 0:
            return "ok"
        error = _ERROR.search(self.log)
        return error[1] if error else "\n".join(self.log.splitlines()[-20:])


def fuzz(module: str, folder: Path, *arguments: str, seeds: Path | None = None) -> Outcome:
    """Run one harness in a process of its own.

    Args:
        module: its full name.
        folder: where new inputs and findings go.
        arguments: libFuzzer's.
        seeds: a corpus that is read only.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", module, f"-artifact_prefix={folder}-", *arguments, str(folder)]
    if seeds is not None:
        command.append(str(seeds))
    # Sets and dicts in the same order each time: a seed gives the same run.
    environment = os.environ | {"PYTHONHASHSEED": "0"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False)
    return Outcome.of((done.stdout + done.stderr).decode("utf-8", "replace"), done.returncode)


def report(module: str, folder: Path, *arguments: str, seeds: Path | None = None) -> bool:
    """Run one harness and print what it did; tell whether nothing was found."""
    outcome = fuzz(module, folder, *arguments, seeds=seeds)
    verdict = "ok" if outcome.status == 0 else "FOUND" if outcome.finding else "DID NOT RUN"
    print(
        f"{module.rpartition('.')[2]:16}{outcome.executions:>10} executions{outcome.per_s:>7}/s  coverage"
        f"{outcome.start_coverage:>5} ->{outcome.coverage:>5}  corpus{outcome.corpus:>5}  {verdict}",
        flush=True,
    )
    if outcome.status:
        print(outcome.verdict)
    if outcome.finding:
        print(f"{AGAIN}{shlex.join([sys.executable, '-m', module, str(outcome.finding)])}", flush=True)
    return outcome.status == 0


def _run_machines(factor: int) -> bool:
    command = [sys.executable, "-m", "pytest", "-q", "--timeout=0", *MACHINES]
    print(f"state machines, {factor} times the examples of the tests: {shlex.join(command)}", flush=True)
    environment = os.environ | {"EVERBUS_FUZZ_FACTOR": str(factor)}
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode == 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz; 1 if something was found."""
    known = sorted(file.stem for file in HARNESSES.glob("[a-z]*.py"))
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--seconds", type=int, default=60, help="for each harness; 60 by default")
    parser.add_argument("harness", nargs="*", help="these alone, and no state machines")
    parser.add_argument("--folder", type=Path, default=ROOT / ".fuzz", help="where new inputs and findings go")
    options = parser.parse_args(arguments)
    if unknown := set(options.harness) - set(known):
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    time = f"-max_total_time={options.seconds}"
    good = [
        report(f"tests.fuzz.harnesses.{name}", options.folder / name, time, seeds=CORPUS / name)
        for name in options.harness or known
    ]
    if not options.harness:
        good.append(_run_machines(max(2, round(options.seconds * EXAMPLES_PER_S))))
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
