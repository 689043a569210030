"""Check that the tests mirror the sources: every module has its test file, every test file its module.

``src/everbus/a/b.py`` is tested by ``tests/a/test_b.py``, and beside it, where that would be long, by
``tests/a/test_b_topic.py``. Other tests live in the folders named below, and rules for the whole
repository in ``tests/test_*.py``. Prints what is missing or stray; exit status 1 if there is any.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FREE_FOLDERS = frozenset({"bench", "conformance", "contract", "fuzz", "interop", "lifecycle", "tools"})
WITHOUT_TEST = frozenset({"__init__.py", "__main__.py"})


def problems(source: Path, tests: Path) -> Iterator[str]:
    """What is missing or stray, one line each, paths from the repository's root.

    Args:
        source: the folder of the package.
        tests: the folder of the tests.
    """
    for module in sorted(source.rglob("*.py")):
        if module.name in WITHOUT_TEST:
            continue
        place = module.relative_to(source)
        test = tests / place.with_name(f"test_{place.name}")
        if not test.is_file():
            yield f"missing: {_from_root(test, tests)}, for {_from_root(module, source.parent)}"
    for test in sorted(tests.rglob("test_*.py")):
        place = test.relative_to(tests)
        if len(place.parts) == 1 or place.parts[0] in FREE_FOLDERS:
            continue
        tested = [source / module for module in _tested_by(place)]
        if not any(module.is_file() for module in tested):
            yield f"stray: {_from_root(test, tests)}, there is no {_from_root(tested[0], source.parent)}"


def _tested_by(test: Path) -> list[Path]:
    """The modules that a test file may be about: ``a_b.py``, or ``a.py`` with ``b`` as the topic."""
    words = test.stem.removeprefix("test_").split("_")
    return [test.with_name("_".join(words[:count]) + ".py") for count in range(len(words), 0, -1)]


def _from_root(path: Path, folder: Path) -> str:
    return path.relative_to(folder.parent).as_posix()


def main(root: Path = ROOT) -> int:
    """Print every problem of the repository at ``root``; 1 if there is one."""
    found = list(problems(root / "src" / "everbus", root / "tests"))
    for problem in found:
        print(problem)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
