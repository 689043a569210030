from __future__ import annotations

from pathlib import Path

import pytest

from tools import conformance

ROWS = """
[specifications]
AP = "The Protocol"
SL = "The Line"

[[requirement]]
id = "AP-6.1-quantity"
clause = "6.1"
text = "01 reads 1 to 2,000 coils."

[[requirement]]
id = "AP-6.8-silent"
clause = "6.8"
text = "08/04 silences the device."
deviates = "Over TCP it is exception 01."

[[requirement]]
id = "SL-2.2-broadcast"
clause = "2.2"
text = "A broadcast is not answered."
needs = "src/serial.py"
"""

TESTS = """
import pytest

@pytest.mark.requirement("AP-6.1-quantity")
def test_reads(): ...

@pytest.mark.requirement("AP-6.8-silent")
async def test_is_not_silenced(): ...
"""


class Repository:
    """A small one, with rows and one file of tests."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in ("tests/conformance", "docs", "src"):
            (root / folder).mkdir(parents=True)
        self.rows(ROWS)
        self.tests(TESTS)

    def rows(self, text: str) -> None:
        (self.root / "tests/conformance/requirements.toml").write_text(text, encoding="utf-8")

    def tests(self, text: str, file: str = "test_coils.py") -> None:
        (self.root / "tests" / file).write_text(text, encoding="utf-8")

    @property
    def document(self) -> Path:
        return self.root / "docs/conformance.md"

    def found(self) -> dict[str, list[str]]:
        return conformance.read(self.root).tests

    def problems(self) -> list[str]:
        return conformance.read(self.root).problems


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


# --- the repository itself ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def ledger() -> conformance.Ledger:
    """Reading it parses every test."""
    return conformance.read(conformance.ROOT)


def test_every_requirement_has_a_test_or_waits_and_the_document_says_so(ledger: conformance.Ledger) -> None:
    assert list(conformance.problems(ledger)) == []
    assert len(ledger.rows) >= 250
    assert set(ledger.specifications) == {"AP", "TG", "SL", "SEC"}


def test_a_row_waits_only_for_a_part_of_the_package(ledger: conformance.Ledger) -> None:
    for row in ledger.rows:
        assert not row.needs or row.needs.startswith("src/everbus/"), row


# --- writing and checking -----------------------------------------------------------------------


def test_what_was_written_is_up_to_date(repository: Repository, capsys: pytest.CaptureFixture[str]) -> None:
    assert conformance.main(["--write"], repository.root) == 0
    assert conformance.main(["--check"], repository.root) == 0
    assert capsys.readouterr().out == ""


def test_the_document_has_every_row_with_its_tests_and_its_status(repository: Repository) -> None:
    conformance.main(["--write"], repository.root)
    text = repository.document.read_text(encoding="utf-8")
    assert (
        "| specification | requirements | met | deviates | waits |\n| --- | --- | --- | --- | --- |\n"
        "| AP | 2 | 1 | 1 | 0 |\n| SL | 1 | 0 | 0 | 1 |\n| all | 3 | 1 | 1 | 1 |\n\n2 tests show them.\n"
    ) in text
    assert (
        "| `AP-6.1-quantity` | 6.1 | 01 reads 1 to 2,000 coils. "
        "| [test_coils.py::test_reads](../tests/test_coils.py) | met |\n"
    ) in text
    assert (
        "| `AP-6.8-silent` | 6.8 | 08/04 silences the device. **Instead:** Over TCP it is exception 01. "
        "| [test_coils.py::test_is_not_silenced](../tests/test_coils.py) | deviates |\n"
    ) in text
    _, _, waiting = text.partition("## Waits for a part that is not there yet\n")
    assert "| `SL-2.2-broadcast` | 2.2 | A broadcast is not answered. | `src/serial.py` |\n" in waiting


@pytest.mark.parametrize("change", ["text", "missing"])
def test_a_document_that_is_out_of_date_is_a_problem(
    repository: Repository, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    conformance.main(["--write"], repository.root)
    if change == "text":
        repository.rows(ROWS.replace("2,000", "two thousand"))
    else:
        repository.document.unlink()
    assert conformance.main(["--check"], repository.root) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("docs/conformance.md is not what its rows and tests give; run: ")


def test_writing_says_what_is_wrong_too(repository: Repository, capsys: pytest.CaptureFixture[str]) -> None:
    repository.tests("")
    assert conformance.main(["--write"], repository.root) == 1
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_it_does_one_of_two_things(repository: Repository) -> None:
    for arguments in ([], ["--write", "--check"]):
        with pytest.raises(SystemExit):
            conformance.main(arguments, repository.root)


# --- rows ---------------------------------------------------------------------------------------


def test_a_row_without_a_test_is_a_problem(repository: Repository) -> None:
    repository.tests(TESTS.replace('"AP-6.1-quantity"', '"AP-6.8-silent"'))
    assert repository.problems() == ["AP-6.1-quantity: no test shows it: 01 reads 1 to 2,000 coils."]


def test_a_row_that_deviates_needs_a_test_too(repository: Repository) -> None:
    repository.tests(TESTS.replace('"AP-6.8-silent"', '"AP-6.1-quantity"'))
    assert repository.problems() == ["AP-6.8-silent: no test shows it: 08/04 silences the device."]


def test_a_row_waits_until_the_day_that_its_part_is_there(repository: Repository) -> None:
    assert repository.problems() == []
    (repository.root / "src/serial.py").touch()
    (problem,) = repository.problems()
    assert problem == "SL-2.2-broadcast: no test shows it, and src/serial.py is there: A broadcast is not answered."
    repository.tests(TESTS.replace('"AP-6.1-quantity"', '"AP-6.1-quantity", "SL-2.2-broadcast"'))
    assert repository.problems() == []


def test_a_row_that_is_shown_already_does_not_wait(repository: Repository) -> None:
    repository.tests(TESTS.replace('"AP-6.1-quantity"', '"AP-6.1-quantity", "SL-2.2-broadcast"'))
    ledger = conformance.read(repository.root)
    assert not any(map(ledger.waits, ledger.rows))
    assert "| all | 3 | 2 | 1 | 0 |\n" in conformance.render(ledger)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('"AP-6.8-silent"', '"AP-6.1-quantity"', "AP-6.1-quantity: 2 rows have this id"),
        ('"SL-2.2-broadcast"', '"XY-2.2-broadcast"', "XY-2.2-broadcast: its specification is none of AP, SL"),
        ('clause = "6.1"', "", "requirements.toml: row 1, AP-6.1-quantity: clause?"),
        ('text = "01 reads 1 to 2,000 coils."', 'text = ""', "requirements.toml: row 1, AP-6.1-quantity: text?"),
        ('id = "AP-6.1-quantity"', "", "requirements.toml: row 1, without id: id?"),
        ('needs = "src/serial.py"', 'kneads = ""', "requirements.toml: row 3, SL-2.2-broadcast: kneads?"),
        ('clause = "6.1"', "clause = 6.1", "requirements.toml: row 1, AP-6.1-quantity: clause?"),
    ],
)
def test_a_row_that_is_wrong_is_a_problem(repository: Repository, old: str, new: str, problem: str) -> None:
    assert ROWS.count(old) == 1
    repository.rows(ROWS.replace(old, new))
    assert problem in repository.problems()


@pytest.mark.parametrize("rows", [None, "[[requirement]]\nid = 'AP-6.1-quantity", "[specifications\n"])
def test_rows_that_cannot_be_read_are_a_problem(repository: Repository, rows: str | None) -> None:
    if rows is None:
        (repository.root / "tests/conformance/requirements.toml").unlink()
    else:
        repository.rows(rows)
    assert repository.problems()[0].startswith("requirements.toml: ")


# --- marks --------------------------------------------------------------------------------------


def test_a_mark_without_a_row_is_a_problem(repository: Repository) -> None:
    repository.tests(TESTS.replace('"AP-6.8-silent"', '"AP-6.8-silent", "AP-6.9-status"'))
    assert repository.problems() == ["test_coils.py::test_is_not_silenced: there is no requirement AP-6.9-status"]


@pytest.mark.parametrize(
    ("source", "tests"),
    [
        ("@pytest.mark.requirement('A', 'B')\ndef test_one(): ...", {"A": ["test_one"], "B": ["test_one"]}),
        ("@mark.requirement('A')\nasync def test_one(): ...", {"A": ["test_one"]}),
        (
            "@pytest.mark.requirement('A')\n@pytest.mark.slow\n@pytest.mark.requirement('B')\ndef test_one(): ...",
            {"A": ["test_one"], "B": ["test_one"]},
        ),
        (
            "pytestmark = pytest.mark.requirement('A')\ndef test_one(): ...\ndef helper(): ...\ndef test_two(): ...",
            {"A": ["test_one", "test_two"]},
        ),
        ("pytestmark = [pytest.mark.slow, pytest.mark.requirement('A')]\ndef test_one(): ...", {"A": ["test_one"]}),
        (
            (
                "@pytest.mark.requirement('A')\nclass TestIt:\n"
                "  pytestmark = pytest.mark.requirement('B')\n"
                "  @pytest.mark.requirement('C')\n  def test_one(self): ...\n  def test_two(self): ..."
            ),
            {
                "A": ["TestIt::test_one", "TestIt::test_two"],
                "B": ["TestIt::test_one", "TestIt::test_two"],
                "C": ["TestIt::test_one"],
            },
        ),
        (
            (
                "@pytest.mark.parametrize('n', [pytest.param(1, marks=pytest.mark.requirement('A')),\n"
                "  pytest.param(2, marks=[pytest.mark.slow, pytest.mark.requirement('B')]),\n"
                "  pytest.param(3, marks=pytest.mark.requirement('A'))])\ndef test_one(n): ..."
            ),
            {"A": ["test_one"], "B": ["test_one"]},
        ),
    ],
)
def test_marks_are_read_wherever_pytest_takes_them(
    repository: Repository, source: str, tests: dict[str, list[str]]
) -> None:
    repository.tests(source)
    wanted = {identifier: [f"test_coils.py::{name}" for name in names] for identifier, names in tests.items()}
    assert conformance.read_marks(repository.root / "tests") == (wanted, [])


def test_marks_of_several_files_come_in_the_order_of_the_files(repository: Repository) -> None:
    (repository.root / "tests/aio").mkdir()
    for file in ("test_z.py", "aio/test_b.py", "test_a.py"):
        repository.tests("@pytest.mark.requirement('AP-6.1-quantity')\ndef test_it(): ...", file)
    names = ["aio/test_b.py::test_it", "test_a.py::test_it", "test_coils.py::test_reads", "test_z.py::test_it"]
    assert repository.found()["AP-6.1-quantity"] == names


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("@pytest.mark.requirement('A')\ndef helper(): ...", "test_coils.py:1: this mark belongs to no test"),
        ("@pytest.mark.requirement('A')\nclass Helper: ...", "test_coils.py:1: this mark belongs to no test"),
        (
            "CASES = [pytest.param(1, marks=pytest.mark.requirement('A'))]",
            "test_coils.py:1: this mark belongs to no test",
        ),
        (
            "class TestIt:\n  @pytest.mark.requirement('A')\n  def helper(self): ...",
            "test_coils.py:2: this mark belongs",
        ),
        ("@pytest.mark.requirement(A)\ndef test_one(): ...", "test_coils.py:1: an id is written out, as text"),
        ("@pytest.mark.requirement(*A)\ndef test_one(): ...", "test_coils.py:1: an id is written out, as text"),
        ("@pytest.mark.requirement()\ndef test_one(): ...", "test_coils.py:1: a mark takes ids, at least one"),
        (
            "@pytest.mark.requirement('A', why='B')\ndef test_one(): ...",
            "test_coils.py:1: a mark takes ids, at least one",
        ),
        (
            "@pytest.mark.requirement('A')\n@pytest.mark.xfail(strict=True)\ndef test_one(): ...",
            "test_coils.py:3: test_one is not run or may fail: it shows nothing",
        ),
        (
            "@pytest.mark.skip\n@pytest.mark.requirement('A')\ndef test_one(): ...",
            "test_coils.py:3: test_one is not run or may fail: it shows nothing",
        ),
    ],
)
def test_a_mark_that_shows_nothing_is_a_problem(repository: Repository, source: str, problem: str) -> None:
    repository.tests(source)
    _, problems = conformance.read_marks(repository.root / "tests")
    (found,) = problems
    assert found.startswith(problem)


def test_a_test_that_a_platform_may_skip_shows_what_it_shows(repository: Repository) -> None:
    repository.tests("@pytest.mark.skipif(WINDOWS, reason='')\n@pytest.mark.requirement('A')\ndef test_one(): ...")
    assert conformance.read_marks(repository.root / "tests") == ({"A": ["test_coils.py::test_one"]}, [])
