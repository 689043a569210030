from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tools import pythons

OWN = f"{sys.version_info.major}.{sys.version_info.minor}"


def interpreter(path: Path, script: str) -> Path:
    """A program that stands in for a Python interpreter."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without any Python: ``bin`` is on the path, ``pyenv`` is where versions are managed."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    monkeypatch.setattr(pythons, "FOLDERS", (str(tmp_path / "usr"),))
    return tmp_path


def test_none_is_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert pythons.main() == 0
    assert capsys.readouterr().out == ""


def test_own_interpreter_works_as_its_own_version() -> None:
    assert pythons.works(Path(sys.executable), OWN)
    assert not pythons.works(Path(sys.executable), "3.99")


def test_one_on_the_path(machine: Path) -> None:
    expected = interpreter(machine / "bin" / "python3.12", "echo 3.12")
    assert pythons.find("3.12") == expected


def test_shim_that_fails_gives_way_to_the_version_behind_it(machine: Path) -> None:
    interpreter(machine / "bin" / "python3.13", "echo 'command not found' >&2; exit 127")
    expected = interpreter(machine / "pyenv" / "versions" / "3.13.2" / "bin" / "python", "echo 3.13")
    assert pythons.find("3.13") == expected


def test_one_of_another_version_gives_way(machine: Path) -> None:
    interpreter(machine / "bin" / "python3.12", "echo 3.11")
    expected = interpreter(machine / "usr" / "python3.12", "echo 3.12")
    assert pythons.find("3.12") == expected


def test_file_that_is_no_program_is_passed_over(machine: Path) -> None:
    interpreter(machine / "usr" / "python3.12", "echo 3.12").chmod(0o644)
    assert pythons.find("3.12") is None


@pytest.mark.slow
def test_prints_one_path_for_each_other_version(machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for version in pythons.SUPPORTED:
        interpreter(machine / "bin" / f"python{version}", f"echo {version}")
        interpreter(machine / "usr" / f"python{version}", f"echo {version}")
    assert pythons.main() == 0
    others = [version for version in pythons.SUPPORTED if version != OWN]
    assert capsys.readouterr().out.splitlines() == [str(machine / "bin" / f"python{other}") for other in others]
