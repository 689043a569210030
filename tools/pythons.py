"""Print the interpreters of the other supported Python versions that this machine has.

One path a line, one line a version; nothing where there is none. The version that runs this script
is left out. A candidate counts when it starts, says the version it should have, and can make an
environment: a shim of a version manager may be there and do neither.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

SUPPORTED = ("3.11", "3.12", "3.13")
PROBE = "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2])"
FOLDERS = ("/usr/local/bin", "/usr/bin", "/opt/homebrew/bin")


def candidates(version: str) -> Iterator[Path]:
    """Where an interpreter of this version may be, the likeliest first."""
    found = shutil.which(f"python{version}")
    if found:
        yield Path(found)
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from sorted(root.glob(f"versions/{version}.*/bin/python"), reverse=True)
    for folder in FOLDERS:
        yield Path(folder, f"python{version}")


def works(path: Path, version: str) -> bool:
    """Whether this interpreter starts, has the version and can make environments."""
    try:
        probe = subprocess.run([path, "-c", PROBE], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return probe.returncode == 0 and probe.stdout.strip() == version


def find(version: str) -> Path | None:
    """The first interpreter of this version that works."""
    return next((path for path in candidates(version) if works(path, version)), None)


def main() -> int:
    """Print the other versions' interpreters."""
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    for version in SUPPORTED:
        path = find(version) if version != own else None
        if path:
            print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
