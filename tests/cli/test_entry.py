from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from everbus import __version__
from everbus.cli.entry import main


def test_the_version_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr() == (f"everbus {__version__}\n", "")


def test_arguments_come_from_the_process_unless_given(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["everbus", "--version"])
    assert main() == 0
    assert __version__ in capsys.readouterr().out
    assert main(()) == 2
    assert "Usage" in "".join(capsys.readouterr())


def test_everything_else_goes_to_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bogus"]) == 2
    assert "No such command" in capsys.readouterr().err
    assert main(["--version", "--help"]) == 0


WITHOUT = """
import sys
sys.modules[{missing!r}] = None
from everbus.cli.entry import main
sys.exit(main({arguments!r}))
"""


def without(missing: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = WITHOUT.format(missing=missing, arguments=list(arguments))
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("missing", ["click", "rich_click"])
def test_without_the_extra_it_says_how_to_get_it(missing: str) -> None:
    done = without(missing, "serve", "--help")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: the command line needs {missing}; try: pip install 'everbus[cli]'\n"


def test_the_version_needs_no_extra() -> None:
    done = without("click", "--version")
    assert (done.returncode, done.stdout) == (0, f"everbus {__version__}\n")


@pytest.mark.parametrize("name", ["serve", "soak", "explain"])
def test_what_only_plots_is_not_needed_to_begin(name: str) -> None:
    assert without("plotext", name, "--help").returncode == 0


def test_a_module_of_ours_that_is_missing_is_a_defect_and_shown_as_one() -> None:
    done = without("everbus.cli.output", "serve")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_the_module_is_the_command() -> None:
    command = [sys.executable, "-m", "everbus"]
    done = subprocess.run([*command, "bogus"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: No such command 'bogus'")


def processor_seconds(*arguments: str) -> float:
    """What a run of Python costs; unlike its duration, about the same on a busy machine."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], capture_output=True, timeout=60, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_the_version_costs_less_than_a_tenth_of_a_second_more_than_a_bare_interpreter() -> None:
    pairs = [(processor_seconds("-c", "pass"), processor_seconds("-m", "everbus", "--version")) for _ in range(5)]
    control, ours = (min(times) for times in zip(*pairs, strict=True))
    assert ours - control < 0.1, f"{ours:.3f} s, a bare interpreter {control:.3f} s"
