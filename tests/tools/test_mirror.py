from __future__ import annotations

from pathlib import Path

import pytest

from tools import mirror


def grow(root: Path, *files: str) -> Path:
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository in order."""
    return grow(
        tmp_path,
        "src/everbus/__init__.py",
        "src/everbus/__main__.py",
        "src/everbus/py.typed",
        "src/everbus/limits.py",
        "src/everbus/protocol/__init__.py",
        "src/everbus/protocol/pdu/bits.py",
        "tests/conftest.py",
        "tests/test_limits.py",
        "tests/test_rule_of_the_repository.py",
        "tests/protocol/pdu/test_bits.py",
        "tests/protocol/pdu/test_bits_packed_by_eight.py",
        "tests/lifecycle/test_descriptors.py",
        "tests/tools/test_mirror.py",
        "tests/data/vectors.json",
    )


def test_nothing_to_say_of_a_repository_in_order(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mirror.main(repository) == 0
    assert capsys.readouterr().out == ""


def test_module_without_test(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grow(repository, "src/everbus/protocol/codes.py")
    assert mirror.main(repository) == 1
    assert capsys.readouterr().out == "missing: tests/protocol/test_codes.py, for src/everbus/protocol/codes.py\n"


def test_test_in_another_place_does_not_count(repository: Path) -> None:
    grow(repository, "src/everbus/service/bank.py", "tests/protocol/test_bank.py")
    assert list(mirror.problems(repository / "src" / "everbus", repository / "tests")) == [
        "missing: tests/service/test_bank.py, for src/everbus/service/bank.py",
        "stray: tests/protocol/test_bank.py, there is no src/everbus/protocol/bank.py",
    ]


def test_a_topic_is_one_of_a_module_that_is_there(repository: Path) -> None:
    grow(repository, "tests/protocol/pdu/test_words_packed.py", "tests/protocol/test_bits_packed.py")
    assert list(mirror.problems(repository / "src" / "everbus", repository / "tests")) == [
        "stray: tests/protocol/pdu/test_words_packed.py, there is no src/everbus/protocol/pdu/words_packed.py",
        "stray: tests/protocol/test_bits_packed.py, there is no src/everbus/protocol/bits_packed.py",
    ]


def test_a_topic_does_not_stand_in_for_the_module_itself(repository: Path) -> None:
    grow(repository, "src/everbus/service/bank.py", "tests/service/test_bank_files.py")
    assert list(mirror.problems(repository / "src" / "everbus", repository / "tests")) == [
        "missing: tests/service/test_bank.py, for src/everbus/service/bank.py",
    ]


def test_stray_folder(repository: Path) -> None:
    grow(repository, "tests/misc/test_things.py")
    assert list(mirror.problems(repository / "src" / "everbus", repository / "tests")) == [
        "stray: tests/misc/test_things.py, there is no src/everbus/misc/things.py"
    ]
