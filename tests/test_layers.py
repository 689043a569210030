"""The layers hold: as contracts over the source, and in what an import really loads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src"

PROBE = """
import json, sys
bare = set(sys.modules)
sys.path.insert(0, sys.argv[1])
from importlib import import_module
for name in sys.argv[2:]:
    import_module(name)
print(json.dumps(sorted(set(sys.modules) - bare)))
"""
"""Imports modules in an interpreter without site-packages; prints what that loaded besides."""

HOSTS = frozenset(
    {
        "asyncio",
        "concurrent.futures",
        "logging",
        "pathlib",
        "random",
        "select",
        "selectors",
        "signal",
        "socket",
        "ssl",
        "subprocess",
        "tempfile",
        "threading",
        "time",
    }
)
"""What only a host may need: loops, sockets, threads, clocks, files, logs."""


def modules(*patterns: str) -> list[str]:
    """The names of the package's modules whose paths match one of these patterns."""
    found = [file.relative_to(SOURCE) for pattern in patterns for file in (SOURCE / "everbus").glob(pattern)]
    return sorted(".".join(file.with_suffix("").parts).removesuffix(".__init__") for file in found)


def loaded_by(names: list[str]) -> set[str]:
    """The modules that importing these loads, in an interpreter that knows the standard library alone."""
    command = [sys.executable, "-I", "-S", "-c", PROBE, str(SOURCE), *names]
    probe = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert probe.returncode == 0, probe.stderr
    loaded: list[str] = json.loads(probe.stdout)
    return set(loaded)


def test_contracts_of_the_layers() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--no-logo"]
    lint = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert lint.returncode == 0, lint.stdout + lint.stderr


@pytest.mark.parametrize("package", ["protocol", "service", "client", "maps"])
def test_pure_package_loads_no_host(package: str) -> None:
    loaded = loaded_by(modules(f"{package}/**/*.py", "errors.py", "limits.py", "observe.py"))
    assert f"everbus.{package}" in loaded
    assert loaded & HOSTS == set()


def test_probe_sees_a_host_where_there_is_one() -> None:
    assert {"asyncio", "socket", "threading"} <= loaded_by(["everbus.aio.server"])


def test_core_needs_the_standard_library_alone() -> None:
    names = modules(
        "*.py",
        "protocol/**/*.py",
        "service/**/*.py",
        "client/**/*.py",
        "maps/**/*.py",
        "aio/**/*.py",
        "sync/**/*.py",
        "testing/**/*.py",
    )
    names.remove("everbus.certificates")  # needs the extra tls
    assert set(names) <= loaded_by(names)


def test_top_level_loads_nothing_of_the_package() -> None:
    assert {name for name in loaded_by(["everbus"]) if name.startswith("everbus")} == {"everbus"}
