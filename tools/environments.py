"""Environments of other Modbus stacks, each of its own, made once under ``.venvs`` and kept.

The bench and the interoperability tests use the same ones. They never touch the environment that
everbus runs in: what a peer needs may contradict what everbus is developed with.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.pythons import SUPPORTED, find

__all__ = [
    "PYMODBUS",
    "PYMODBUSTCP",
    "PYMODBUS_LEAKY",
    "TMODBUS",
    "UMODBUS",
    "environment",
    "newer_python",
    "node_modules",
]

PYMODBUS = "pymodbus==3.16.1"
PYMODBUS_LEAKY = "pymodbus==3.7.4"
PYMODBUSTCP = "pyModbusTCP==0.3.1"
TMODBUS = "tmodbus==1.1.0"
"""It needs Python 3.12 or later."""
UMODBUS = "uModbus==1.0.4"

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".venvs"
_MADE = ".made"
_PACKAGES = ("package.json", "package-lock.json")
_NPM_CI = ["npm", "ci", "--omit=optional", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
"""Neither native parts, which only serial ports need, nor scripts of packages."""


def environment(requirement: str, python: Path | None = None) -> Path:
    """The Python of an environment with one requirement installed.

    Args:
        requirement: a pinned one, ``name==version``.
        python: the interpreter to make it with; None: the one that runs.

    Raises:
        subprocess.CalledProcessError: it could not be made; what pip said is on stderr.
    """
    folder = FOLDER / requirement.replace("==", "-")
    made = folder / "bin" / "python"
    with _alone(folder.name):
        if not (folder / _MADE).exists():
            subprocess.run([str(python or sys.executable), "-m", "venv", "--clear", str(folder)], check=True)
            install = [str(made), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", requirement]
            subprocess.run(install, check=True)
            (folder / _MADE).touch()
    return made


@contextmanager
def _alone(name: str) -> Iterator[None]:
    """Others that want to make the same one wait, and find it made: tests run in several processes."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def newer_python(version: tuple[int, int]) -> Path | None:
    """An interpreter of a supported version, so new or newer: this one, or another that the machine has."""
    if sys.version_info[:2] >= version:
        return Path(sys.executable)
    newer = (name for name in SUPPORTED if tuple(map(int, name.split("."))) >= version)
    return next((path for name in newer if (path := find(name))), None)


def node_modules(source: Path) -> Path:
    """The modules of a Node package, for ``NODE_PATH``; made anew when its package files change.

    Args:
        source: a folder with ``package.json`` and ``package-lock.json``; nothing is written there.

    Raises:
        FileNotFoundError: there is no npm, or no such file.
        subprocess.CalledProcessError: they could not be installed; what npm said is on stderr.
    """
    folder = FOLDER / "node"
    made = folder / _MADE
    wanted = b"".join((source / name).read_bytes() for name in _PACKAGES)
    with _alone(folder.name):
        if not made.exists() or made.read_bytes() != wanted:
            folder.mkdir(parents=True, exist_ok=True)
            for name in _PACKAGES:
                shutil.copyfile(source / name, folder / name)
            subprocess.run(_NPM_CI, cwd=folder, stdout=sys.stderr, check=True)
            made.write_bytes(wanted)
    return folder / "node_modules"
