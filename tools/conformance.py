"""The ledger: every requirement of the specifications, joined with the tests that show it.

The rows stand in ``tests/conformance/requirements.toml``; a test names the rows that it shows with
``@pytest.mark.requirement("AP-6.1-quantity", ...)``. Marks are read from the source, so nothing is
imported. ``--write`` renders ``docs/conformance.md``; ``--check`` says what is wrong: a row without
a test, a mark without a row, a document that is not what would be rendered. A row that ``needs`` a
part which is not in the tree yet waits for it; on the day the part is there, its test must be too.
"""

from __future__ import annotations

import argparse
import ast
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

ROOT = Path(__file__).resolve().parent.parent
ROWS: Final = Path("tests", "conformance", "requirements.toml")
DOCUMENT: Final = Path("docs", "conformance.md")
MARK: Final = "requirement"
NO_PROOF: Final = ("skip", "xfail")
"""Marks of tests that show nothing."""

INTRODUCTION: Final = """\
# Conformance

Every requirement of the four Modbus specifications that concerns a server, a framer or a PDU, in
our words, with the tests that show it. Rendered by `tools/conformance.py --write` from
`tests/conformance/requirements.toml` and the `requirement` marks of the tests; a row without a test
fails the build. Where everbus does something else on purpose, the row says why, and its tests show
what is done instead. `docs/spec.md` explains the marks and lists the errata.
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One requirement.

    Args:
        id: stable: the specification's mark, the clause and a word, joined by hyphens.
        clause: where it stands in the specification.
        text: one sentence that a test can show to be false.
        needs: the path of the part that it is about, from the repository's root; empty: it is there.
        deviates: why everbus does something else, and what; empty: it does not.
    """

    id: str
    clause: str
    text: str
    needs: str = ""
    deviates: str = ""

    @property
    def specification(self) -> str:
        """The mark of its specification."""
        return self.id.partition("-")[0]


@dataclass(slots=True)
class Ledger:
    """Rows joined with tests.

    Args:
        root: the repository.
        specifications: their names by their marks, in the document's order.
        rows: in the document's order.
        tests: of each row that a mark names, the tests, as ``file::name`` from the folder of tests.
        problems: what is wrong, one line each.
    """

    root: Path
    specifications: dict[str, str]
    rows: list[Row]
    tests: dict[str, list[str]]
    problems: list[str]

    def waits(self, row: Row) -> bool:
        """Whether it needs no test yet."""
        return bool(row.needs) and row.id not in self.tests and not (self.root / row.needs).exists()


# Reading the rows


def read_rows(path: Path) -> tuple[dict[str, str], list[Row], list[str]]:
    """The names of the specifications, the rows, and what is wrong with them."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        return {}, [], [f"{path.name}: {error}"]
    specifications: dict[str, str] = document.get("specifications", {})
    known = {field.name for field in fields(Row)}
    rows, problems = [], []
    for number, entry in enumerate(document.get("requirement", []), 1):
        filled = {key for key, value in entry.items() if value and isinstance(value, str)}
        if wrong := (entry.keys() - (filled & known)) | ({"id", "clause", "text"} - filled):
            problems.append(f"{path.name}: row {number}, {entry.get('id', 'without id')}: {', '.join(sorted(wrong))}?")
            continue
        rows.append(Row(**entry))
    unknown = [row.id for row in rows if row.specification not in specifications]
    problems += [f"{name}: its specification is none of {', '.join(specifications)}" for name in unknown]
    counts = Counter(row.id for row in rows)
    problems += [f"{name}: {count} rows have this id" for name, count in counts.items() if count > 1]
    return specifications, rows, problems


# Reading the marks


def read_marks(tests: Path) -> tuple[dict[str, list[str]], list[str]]:
    """For each id that is marked, the tests that carry it; and what is wrong with the marks."""
    found: dict[str, list[str]] = {}
    problems: list[str] = []
    for path in sorted(tests.rglob("test_*.py")):
        text = path.read_text(encoding="utf-8")
        if f"mark.{MARK}" not in text:
            continue
        name = path.relative_to(tests).as_posix()
        marks = _Marks(name)
        marks.read(ast.parse(text, str(path)), name, [])
        for test, identifier in marks.found:
            if test not in found.setdefault(identifier, []):
                found[identifier].append(test)
        problems += marks.problems
    return found, problems


class _Marks:
    """The marks of one file: (test, id) pairs, and what is wrong with them."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.found: list[tuple[str, str]] = []
        self.problems: list[str] = []

    def read(self, scope: ast.Module | ast.ClassDef, name: str, inherited: list[ast.Call]) -> None:
        """Read the tests of a module or a class, whose own marks each of them has too."""
        held = [*inherited, *_marks_of_scope(scope)]
        placed: list[ast.AST] = [*held]
        for node in scope.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test"):
                marks = [mark for decorator in node.decorator_list for mark in _marks_in(decorator)]
                self._take(f"{name}::{node.name}", node, [*held, *marks])
                placed += marks
            elif isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
                marks = [mark for decorator in node.decorator_list for mark in _marks_in(decorator)]
                self.read(node, f"{name}::{node.name}", [*held, *marks])
                placed += _marks_in(node)
        for mark in _marks_in(scope):
            if mark not in placed:
                self.problems.append(f"{self.file}:{mark.lineno}: this mark belongs to no test")

    def _take(self, test: str, node: ast.FunctionDef | ast.AsyncFunctionDef, marks: list[ast.Call]) -> None:
        for decorator in node.decorator_list:
            if marks and _name_of_mark(decorator.func if isinstance(decorator, ast.Call) else decorator) in NO_PROOF:
                self.problems.append(f"{self.file}:{node.lineno}: {node.name} is not run or may fail: it shows nothing")
        for mark in marks:
            for argument in mark.args:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    self.found.append((test, argument.value))
                else:
                    self.problems.append(f"{self.file}:{mark.lineno}: an id is written out, as text")
            if mark.keywords or not mark.args:
                self.problems.append(f"{self.file}:{mark.lineno}: a mark takes ids, at least one, and nothing else")


def _marks_of_scope(scope: ast.Module | ast.ClassDef) -> list[ast.Call]:
    """The marks in ``pytestmark = ...``."""
    return [
        mark
        for node in scope.body
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["pytestmark"]
        for mark in _marks_in(node)
    ]


def _marks_in(tree: ast.AST) -> list[ast.Call]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call) and _name_of_mark(node.func) == MARK]


def _name_of_mark(node: ast.expr) -> str:
    """``requirement`` of ``pytest.mark.requirement``; empty: it is no mark."""
    head, _, name = ast.unparse(node).rpartition(".")
    return name if head in ("mark", "pytest.mark") else ""


# Joining and rendering


def read(root: Path) -> Ledger:
    """The ledger of the repository at ``root``, with everything that is wrong but the document."""
    specifications, rows, problems = read_rows(root / ROWS)
    tests, wrong_marks = read_marks(root / "tests")
    ledger = Ledger(root, specifications, rows, tests, problems + wrong_marks)
    known = {row.id for row in rows}
    for identifier in sorted(tests.keys() - known):
        ledger.problems += [f"{test}: there is no requirement {identifier}" for test in tests[identifier]]
    for row in rows:
        if row.id not in tests and not ledger.waits(row):
            there = f", and {row.needs} is there" if row.needs else ""
            ledger.problems.append(f"{row.id}: no test shows it{there}: {row.text}")
    return ledger


def render(ledger: Ledger) -> str:
    """The document."""
    parts = [INTRODUCTION, _summary(ledger)]
    for mark, name in ledger.specifications.items():
        rows = [row for row in ledger.rows if row.specification == mark and not ledger.waits(row)]
        parts.append(f"## {mark}: {name}\n")
        parts.append(_table(["id", "clause", "requirement", "tests", "status"], [_cells(ledger, row) for row in rows]))
    waiting = [row for row in ledger.rows if ledger.waits(row)]
    parts.append("## Waits for a part that is not there yet\n")
    parts.append("On the day the part is in the tree, a missing test fails the build.\n")
    cells = [[f"`{row.id}`", row.clause, row.text, f"`{row.needs}`"] for row in waiting]
    parts.append(_table(["id", "clause", "requirement", "needs"], cells))
    return "\n".join(parts)


def _summary(ledger: Ledger) -> str:
    lines: list[list[str]] = []
    totals = [0, 0, 0, 0]
    for mark in ledger.specifications:
        rows = [row for row in ledger.rows if row.specification == mark]
        waiting = sum(ledger.waits(row) for row in rows)
        deviating = sum(bool(row.deviates) and not ledger.waits(row) for row in rows)
        counts = [len(rows), len(rows) - waiting - deviating, deviating, waiting]
        totals = [total + count for total, count in zip(totals, counts, strict=True)]
        lines.append([mark, *map(str, counts)])
    lines.append(["all", *map(str, totals)])
    tests = {test for row in ledger.rows for test in ledger.tests.get(row.id, [])}
    table = _table(["specification", "requirements", "met", "deviates", "waits"], lines)
    return f"{table}\n{len(tests)} tests show them.\n"


def _cells(ledger: Ledger, row: Row) -> list[str]:
    text = f"{row.text} **Instead:** {row.deviates}" if row.deviates else row.text
    tests = [_link(test) for test in ledger.tests.get(row.id, [])]
    return [f"`{row.id}`", row.clause, text, "<br>".join(tests), "deviates" if row.deviates else "met"]


def _link(test: str) -> str:
    file, _, name = test.partition("::")
    return f"[{file.rpartition('/')[2]}::{name}](../tests/{file})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |\n" for line in lines)


def problems(ledger: Ledger) -> Iterator[str]:
    """Everything that is wrong, one line each."""
    yield from ledger.problems
    path = ledger.root / DOCUMENT
    if not path.exists() or path.read_text(encoding="utf-8") != render(ledger):
        yield f"{DOCUMENT.as_posix()} is not what its rows and tests give; run: python tools/conformance.py --write"


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Do what was asked; 1 if there is a problem, each a line."""
    parser = argparse.ArgumentParser(description=__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", action="store_true", help="render docs/conformance.md")
    action.add_argument("--check", action="store_true", help="print every problem; exit status 1 if there is one")
    options = parser.parse_args(arguments)
    ledger = read(root)
    if options.write:
        (root / DOCUMENT).write_text(render(ledger), encoding="utf-8")
    found = list(problems(ledger))
    for problem in found:
        print(problem)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
