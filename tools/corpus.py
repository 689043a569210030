"""Keep the committed corpus of each fuzz harness: inputs grown from the vectors, inputs that were found, regressions.

``--write`` grows the first kind anew from tests/data/vectors.json, ``--check`` says what is not as it should be
(exit status 1), and ``--add HARNESS FILE ...`` takes in inputs that a run has found. The names say the kind:
``vector-`` and ``found-`` with the first 16 digits of the SHA-256 of the content, ``regression-`` with a few words.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MOST_BYTES = 300
MOST_VECTORS = 24
"""More of them are thinned out evenly: they are seeds, every vector is a test elsewhere."""

MOST_FOUND = 16
_REGRESSION = re.compile(r"regression-[a-z0-9]+(-[a-z0-9]+)*")


def harnesses(root: Path = ROOT) -> list[str]:
    """The names of all harnesses."""
    return sorted(file.stem for file in (root / "tests" / "fuzz" / "harnesses").glob("[a-z]*.py"))


def name_of(kind: str, data: bytes) -> str:
    """The name that an input must have."""
    return f"{kind}-{hashlib.sha256(data).hexdigest()[:16]}"


def grown(name: str, root: Path = ROOT) -> dict[str, bytes]:
    """What the vectors give for a harness: contents by file name."""
    vectors = json.loads((root / "tests" / "data" / "vectors.json").read_text(encoding="utf-8"))
    harness = importlib.import_module(f"tests.fuzz.harnesses.{name}")
    inputs = thinned([data for data in dict.fromkeys(harness.seeds(vectors)) if len(data) < MOST_BYTES])
    return {name_of("vector", data): data for data in inputs}


def thinned(inputs: Sequence[bytes], most: int = MOST_VECTORS) -> list[bytes]:
    """At most so many of these, evenly spread, in their order."""
    if len(inputs) <= most:
        return list(inputs)
    return [inputs[number * len(inputs) // most] for number in range(most)]


def problems(folder: Path, wanted: dict[str, bytes]) -> Iterator[str]:
    """What is wrong in the corpus of one harness, one line each.

    Args:
        folder: the corpus.
        wanted: what the vectors give.
    """
    present = {file.name: file.read_bytes() for file in sorted(folder.glob("*"))}
    for name in sorted(wanted.keys() - present.keys()):
        yield f"missing: {folder.name}/{name}"
    for name, data in present.items():
        kind = name.partition("-")[0]
        if kind == "vector" and wanted.get(name) != data:
            yield f"stale: {folder.name}/{name}"
        elif kind == "found" and name != name_of(kind, data):
            yield f"misnamed: {folder.name}/{name}, it is {name_of(kind, data)}"
        elif kind not in ("vector", "found") and not _REGRESSION.fullmatch(name):
            yield f"stray: {folder.name}/{name}"
        if len(data) >= MOST_BYTES:
            yield f"large: {folder.name}/{name} has {len(data)} bytes, {MOST_BYTES - 1} are the most"
    found = sum(name.startswith("found-") for name in present)
    if found > MOST_FOUND:
        yield f"many: {folder.name} has {found} found inputs, {MOST_FOUND} are the most"


def write(folder: Path, wanted: dict[str, bytes]) -> None:
    """Put there what the vectors give, and take away what they gave before."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.glob("vector-*"):
        if file.name not in wanted:
            file.unlink()
    for name, data in wanted.items():
        (folder / name).write_bytes(data)


def add(folder: Path, files: Iterable[Path]) -> None:
    """Take in inputs that were found, but for those that are there already under any name."""
    present = {file.read_bytes() for file in folder.glob("*")}
    for file in files:
        data = file.read_bytes()
        if data not in present:
            (folder / name_of("found", data)).write_bytes(data)


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Write, check or add; 1 if a check finds something."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", action="store_true", help="grow the corpora from the vectors")
    action.add_argument("--check", action="store_true", help="say what is not as it should be")
    action.add_argument("--add", nargs="+", metavar=("HARNESS", "FILE"), help="take in what was found")
    options = parser.parse_args(arguments)
    corpora = root / "tests" / "fuzz" / "corpus"
    if options.add:
        name, *files = options.add
        if name not in harnesses(root):
            parser.error(f"there is no harness {name}; there are {', '.join(harnesses(root))}")
        add(corpora / name, map(Path, files))
        return 0
    known = harnesses(root)
    found = [f"stray: {folder.name}" for folder in sorted(corpora.glob("*")) if folder.name not in known]
    for name in known:
        if options.write:
            write(corpora / name, grown(name, root))
        found += problems(corpora / name, grown(name, root))
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
