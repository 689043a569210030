"""The pins fit what the package asks for, and each other."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def pins(file: str) -> dict[str, str]:
    """Name and version of every line; each line pins exactly one package."""
    lines = (ROOT / "requirements" / file).read_text(encoding="utf-8").splitlines()
    found = [re.fullmatch(r"([a-z0-9.-]+)==([\w.]+)( ; .+)?", line) for line in lines]
    assert None not in found, lines
    return {match[1]: match[2] for match in found if match}


def test_development_uses_what_is_tested_and_what_is_run() -> None:
    assert pins("run.txt").items() <= pins("test.txt").items() <= pins("dev.txt").items()


def test_pins_lie_in_the_ranges_that_users_get() -> None:
    pinned = pins("dev.txt")
    extras: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
    wanted = [Requirement(line) for line in (*extras["cli"], *extras["uvloop"], *PROJECT["build-system"]["requires"])]
    assert [str(one) for one in wanted if pinned.get(one.name, "") not in one.specifier] == []


def test_all_extra_names_every_other() -> None:
    extras: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
    (everything,) = map(Requirement, extras["all"])
    assert everything.extras == extras.keys() - {"all"}


def test_core_depends_on_nothing() -> None:
    assert PROJECT["project"]["dependencies"] == []
