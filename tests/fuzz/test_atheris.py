"""Every harness under atheris for a moment, and the proof that a run sees what it looks for.

``make fuzz`` does the same for minutes.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.fuzz.run import AGAIN, CORPUS, HARNESSES, ROOT, fuzz, main, report

NAMES = sorted(file.stem for file in HARNESSES.glob("[a-z]*.py"))
SEED = "-seed=6"
BUDGET = ("-runs=250", "-max_total_time=3")

pytestmark = pytest.mark.skipif(
    find_spec("atheris") is None,
    reason=f"atheris is not installed: it is for Linux and what `make` sets up for development, not for {sys.platform} "
    f"with Python {sys.version_info[0]}.{sys.version_info[1]} here",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_moment_of_fuzzing_finds_nothing(name: str, tmp_path: Path) -> None:
    outcome = fuzz(f"tests.fuzz.harnesses.{name}", tmp_path / name, SEED, *BUDGET, seeds=CORPUS / name)
    assert outcome.status == 0, outcome.verdict
    assert outcome.executions > len(list((CORPUS / name).iterdir()))
    assert outcome.coverage >= outcome.start_coverage > 0
    assert outcome.new > 0, "no input reached anything new: is the code instrumented?"


def test_from_nothing_coverage_grows_and_a_finding_is_shown_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not report("tests.fuzz.broken", tmp_path / "broken", SEED, "-runs=100000", "-max_total_time=20")
    line, *found = capsys.readouterr().out.splitlines()
    match = re.fullmatch(r"broken +(\d+) executions +\d+/s +coverage +(\d+) -> +(\d+) +corpus +\d+ +FOUND", line)
    assert match
    executions, before, after = map(int, match.groups())
    assert executions > 1
    assert after > before > 0
    assert "AssertionError: no frame is good enough" in found
    command = found[-1].removeprefix(AGAIN)
    again = subprocess.run(shlex.split(command), cwd=ROOT, capture_output=True, text=True, check=False)
    assert again.returncode != 0
    assert "no frame is good enough" in again.stdout + again.stderr


def test_what_cannot_run_is_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not report("tests.fuzz.nothing", tmp_path / "nothing")
    printed = capsys.readouterr().out
    assert "DID NOT RUN" in printed
    assert "No module named tests.fuzz.nothing" in printed


def test_the_command_runs_what_it_is_told_and_keeps_what_is_new(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--seconds", "1", "--folder", str(tmp_path), "mbap"]) == 0
    assert re.fullmatch(r"mbap +[1-9]\d* executions .* ok\n", capsys.readouterr().out)
    assert list((tmp_path / "mbap").iterdir())
    with pytest.raises(SystemExit):
        main(["nobody"])
