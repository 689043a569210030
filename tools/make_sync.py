"""Makes the blocking twins of the asynchronous client's typed layer, so that the two cannot differ.

``--write`` makes them; ``--check`` says whether they are what would be made, byte for byte.

What only makes sense on an event loop stands between lines that say ``# async only`` and
``# end of async only``.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "everbus"
TWINS = {PACKAGE / "aio" / name: PACKAGE / "sync" / name for name in ("unit.py", "client.py")}

_ASYNC_ONLY = re.compile(r"^ *# async only\n.*?^ *# end of async only\n", re.MULTILINE | re.DOTALL)
_MADE_FROM = re.compile(r"``sync/(\w+\.py)`` is made from this file by ``tools/make_sync.py``\.")
_WORDS = (
    (re.compile(r"\basync def\b"), "def"),
    (re.compile(r"\basync with\b"), "with"),
    (re.compile(r"\bawait "), ""),
    (re.compile(r"\bCoroutine\[Any, Any, (\w+)\]"), r"\1"),
    (re.compile(r"\b__aenter__\b"), "__enter__"),
    (re.compile(r"\b__aexit__\b"), "__exit__"),
    (re.compile(r"\bAsync(?=[A-Z])"), ""),
    (re.compile(r"\beverbus\.aio\b"), "everbus.sync"),
    (re.compile(r"^        persistent: .*\n", re.MULTILINE), ""),
    (re.compile(r"It is used in one event loop at a time\."), "Threads may share it."),
    (
        re.compile(r"and may\n    be cancelled at any time: the client stays usable, a late"),
        "and leaves\n    the client usable when Ctrl-C ends it; a late",
    ),
)


def to_sync(source: str) -> str:
    """The blocking twin of a module's text."""
    text = _ASYNC_ONLY.sub("", source)
    text = _MADE_FROM.sub(r"Made from ``aio/\1`` by ``tools/make_sync.py``: change that one.", text)
    for pattern, replacement in _WORDS:
        text = pattern.sub(replacement, text)
    return formatted(text)


def formatted(text: str) -> str:
    """As the project's formatter leaves it, its imports sorted and without those that nobody uses."""
    ruff = str(Path(sys.executable).parent / "ruff")
    stdin = ("--quiet", "--stdin-filename", str(PACKAGE / "sync" / "twin.py"), "-")
    for command in (("check", "--fix", "--select", "I,F401"), ("format",)):
        run = subprocess.run([ruff, *command, *stdin], input=text, capture_output=True, text=True, check=True, cwd=ROOT)
        text = run.stdout
    return text


def main(arguments: list[str] | None = None) -> int:
    """Make the twins, or compare them; exit code 1: one differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", action="store_true")
    what.add_argument("--check", action="store_true")
    write = parser.parse_args(arguments).write
    differing = 0
    for source, twin in TWINS.items():
        text = to_sync(source.read_text())
        if write:
            twin.write_text(text)
        elif not twin.exists() or twin.read_text() != text:
            differing += 1
            print(
                f"{twin.relative_to(ROOT)} is not what tools/make_sync.py makes of {source.relative_to(ROOT)}: --write"
            )
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
