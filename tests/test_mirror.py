"""The tests mirror the sources."""

from __future__ import annotations

from tools import mirror


def test_every_module_has_its_test_and_every_test_its_module() -> None:
    assert list(mirror.problems(mirror.ROOT / "src" / "everbus", mirror.ROOT / "tests")) == []
