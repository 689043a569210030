from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import CalledProcessError

import pytest

from tools import environments
from tools.environments import environment, newer_python, node_modules

PYTHON = """
case "$1 $2" in
"-m venv")
    mkdir -p "$4/bin" && cp "$0" "$4/bin/python" && rm -f "$4/.made"
    echo "venv $3" >> "$TRACE" ;;
"-m pip")
    shift 2
    echo "pip $*" >> "$TRACE"
    test "$(cat "$BROKEN" 2>/dev/null)" != pip ;;
esac
"""
NPM = """
echo "npm $*" >> "$TRACE"
cat package.json package-lock.json >> "$TRACE"
test "$(cat "$BROKEN" 2>/dev/null)" != npm && mkdir -p node_modules
"""


def program(path: Path, script: str) -> Path:
    """A stand-in for what would need the network: it notes what it is told."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


@pytest.fixture
def python(tmp_path: Path) -> Path:
    return program(tmp_path / "programs" / "python", PYTHON)


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with nothing made yet."""
    program(tmp_path / "programs" / "npm", NPM)
    monkeypatch.setenv("PATH", f"{tmp_path / 'programs'}:/usr/bin:/bin")
    monkeypatch.setenv("TRACE", str(tmp_path / "trace"))
    monkeypatch.setenv("BROKEN", str(tmp_path / "broken"))
    monkeypatch.setattr(environments, "FOLDER", tmp_path / ".venvs")
    return tmp_path


def trace(machine: Path) -> list[str]:
    path = machine / "trace"
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def test_an_environment_is_made_once(machine: Path, python: Path) -> None:
    made = environment("stack==1.2", python)
    assert made == machine / ".venvs" / "stack-1.2" / "bin" / "python"
    assert made.exists()
    wanted = ["venv --clear", "pip install --quiet --disable-pip-version-check stack==1.2"]
    assert trace(machine) == wanted
    assert environment("stack==1.2", python) == made
    assert trace(machine) == wanted
    assert environment("stack==1.3", python) != made
    assert len(trace(machine)) == 4


def test_two_that_want_the_same_make_it_once(machine: Path, python: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        made = set(pool.map(lambda _: environment("stack==1.2", python), range(2)))
    assert len(made) == 1
    assert len(trace(machine)) == 2


def test_an_environment_that_failed_is_made_again(machine: Path, python: Path) -> None:
    broken = machine / "broken"
    broken.write_text("pip", encoding="utf-8")
    for _ in range(2):
        with pytest.raises(CalledProcessError):
            environment("stack==1.2", python)
    broken.unlink()
    environment("stack==1.2", python)
    assert [line.split()[0] for line in trace(machine)] == ["venv", "pip"] * 3


def test_the_python_that_runs_is_new_enough_for_itself() -> None:
    assert newer_python(sys.version_info[:2]) == Path(sys.executable)


def test_a_newer_python_is_looked_for_among_the_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def find(version: str) -> Path | None:
        asked.append(version)
        return Path("/python") if version == "3.98" else None

    monkeypatch.setattr(environments, "SUPPORTED", ("3.11", "3.97", "3.98", "3.99"))
    monkeypatch.setattr(environments, "find", find)
    assert newer_python((3, 97)) == Path("/python")
    assert asked == ["3.97", "3.98"]
    assert newer_python((3, 99)) is None


def package(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "package.json").write_text(f"package {text}\n", encoding="utf-8")
    (folder / "package-lock.json").write_text(f"lock {text}\n", encoding="utf-8")
    return folder


def test_node_modules_are_made_again_when_the_package_files_change(machine: Path) -> None:
    source = package(machine / "source", "1")
    modules = node_modules(source)
    assert modules == machine / ".venvs" / "node" / "node_modules"
    assert modules.is_dir()
    first = ["npm ci --omit=optional --ignore-scripts --no-audit --no-fund --loglevel=error", "package 1", "lock 1"]
    assert trace(machine) == first
    node_modules(source)
    assert trace(machine) == first
    node_modules(package(source, "2"))
    assert trace(machine)[4:] == ["package 2", "lock 2"]
    assert sorted(path.name for path in source.iterdir()) == ["package-lock.json", "package.json"]


def test_node_modules_that_failed_are_made_again(machine: Path) -> None:
    broken = machine / "broken"
    broken.write_text("npm", encoding="utf-8")
    source = package(machine / "source", "1")
    with pytest.raises(CalledProcessError):
        node_modules(source)
    broken.unlink()
    assert node_modules(source).is_dir()


@pytest.mark.parametrize("name", ["PYMODBUS", "PYMODBUSTCP", "PYMODBUS_LEAKY", "TMODBUS", "UMODBUS"])
def test_every_requirement_is_pinned(name: str) -> None:
    assert len(getattr(environments, name).split("==")) == 2
