from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from everbus.cli.main import run
from everbus.cli.output import CommandFailure
from everbus.cli.policy import load_policy
from everbus.service.policy_file import parse_policy
from everbus.service.ready_made import READY_MADE

Said = tuple[int, str, str]
Policy = Callable[..., Said]

RULES = """\
[peers]
refuse = "192.0.2.66"

[[rule]]
name = "set points"
roles = "Operator"
subjects = "CN=hmi-*"
networks = "192.0.2.0/24"
endpoints = "tls://*"
functions = ["read", "write"]
units = 3
ranges = ["h@100:20", "c"]
rate_per_s = 2.5

[[rule]]
name = "all read"
functions = "read"
"""
WHO = ("--role", "Operator", "--subject", "CN=hmi-3", "--peer", "192.0.2.7", "--endpoint", "tls://0.0.0.0:802")


@pytest.fixture
def policy(capsys: pytest.CaptureFixture[str]) -> Policy:
    """Run ``everbus policy``."""

    def call(*arguments: str | Path) -> Said:
        code = run(["policy", *map(str, arguments)])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return call


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text(RULES)
    return path


def document(said: Said) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(said[1])
    return found


# --- check --------------------------------------------------------------------------------------


def test_a_right_file_is_said_to_be_right(policy: Policy, file: Path) -> None:
    assert policy("check", file) == (0, f"{file} is right: 2 rules\n", "")
    assert policy("check", "read-only")[1] == "read-only is right: 1 rule\n"
    assert document(policy("check", file, "--json")) == {"ok": True, "rules": ["set points", "all read"]}


def test_all_errors_of_a_file_are_listed(policy: Policy, file: Path) -> None:
    file.write_text(RULES.replace("units = 3", "unit = 3").replace('"192.0.2.66"', '"x"'))
    code, out, err = policy("check", file)
    assert (code, out) == (2, "")
    first, second, last = err.splitlines()
    assert first.startswith(f"{file}:2: peers.refuse: 'x' does not appear to be")
    assert second == f"{file}:11: rule[1].unit: there is no such key; did you mean 'units'?"
    assert last == f"error: 2 errors in {file}"
    said = policy("check", file, "--json")
    assert said[0] == 2
    found = document(said)
    assert found["ok"] is False
    assert found["error"] == {"kind": "policy", "code": 2, "message": f"2 errors in {file}"}
    assert [(one["line"], one["key"]) for one in found["errors"]] == [(2, "peers.refuse"), (11, "rule[1].unit")]


def test_an_error_that_is_not_about_a_key_has_none(policy: Policy, file: Path) -> None:
    file.write_text("")
    assert policy("check", file)[2].splitlines()[0] == f"{file}:1: there is no [[rule]]: nobody could do anything"


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_said_so(policy: Policy, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.toml"
    if content is not None:
        path.write_bytes(content)
    code, _, err = policy("check", path)
    assert code == 2
    assert f"error: cannot read the policy {path}" in err
    assert "one of read-only, operator, engineer" in err


# --- explain --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        (("--write", "h@100", "--unit", "3"), (True, "set points", 6)),
        (("--write", "3/h@100"), (True, "set points", 6)),
        (("--write", "h@100:20", "--unit", "3"), (True, "set points", 16)),
        (("--write", "h@118/f32", "--unit", "3"), (True, "set points", 16)),
        (("--write", "h@119/f32", "--unit", "3"), (False, "default", 16)),
        (("--write", "c@8", "--unit", "3"), (True, "set points", 5)),
        (("--write", "c@8:9", "--unit", "3"), (True, "set points", 15)),
        (("--write", "h@100"), (False, "default", 6)),
        (("--read", "h@100:20", "--unit", "3"), (True, "set points", 3)),
        (("--read", "h@99:20", "--unit", "3"), (True, "set points", 3)),
        (("--read", "i@0"), (True, "all read", 4)),
        (("--read", "d@0"), (True, "all read", 2)),
        (("--read", "c@0"), (True, "all read", 1)),
    ],
)
def test_a_request_is_allowed_or_denied_by_a_rule(
    policy: Policy, file: Path, asked: tuple[str, ...], answer: tuple[bool, str, int]
) -> None:
    said = policy("explain", file, *WHO, *asked, "--json")
    assert said[0] == 0
    found = document(said)
    assert (found["allowed"], found["rule"], found["function"]) == answer
    assert found["ok"] is True
    assert found["rate_per_s"] == (2.5 if found["rule"] == "set points" else None)


@pytest.mark.parametrize("left_out", ["--role", "--subject", "--peer", "--endpoint"])
def test_who_asks_matters(policy: Policy, file: Path, left_out: str) -> None:
    at = WHO.index(left_out)
    who = (*WHO[:at], *WHO[at + 2 :])
    found = document(policy("explain", file, *who, "--write", "h@100", "--unit", "3", "--json"))
    assert (found["allowed"], found["rule"]) == (False, "default")


def test_a_peer_that_may_not_connect_is_denied_everything(policy: Policy, file: Path) -> None:
    found = document(policy("explain", file, "--peer", "192.0.2.66", "--read", "h@0", "--json"))
    assert (found["allowed"], found["rule"]) == (False, "peers")
    assert policy("explain", file, "--peer", "192.0.2.66", "--read", "h@0")[1].startswith("denied: the peer may not")


def test_people_are_told_in_words(policy: Policy, file: Path) -> None:
    assert policy("explain", file, *WHO, "--write", "h@100", "--unit", "3")[1] == (
        "allowed by rule 1, 'set points', up to 2.5 a second\n"
        "  write single register (06) of unit 3: h@100 (reference 400101)\n"
    )
    assert policy("explain", file, "--write", "h@100")[1].startswith("denied: no rule allows it\n")
    file.write_text('[[rule]]\nname = "never"\naction = "deny"')
    assert policy("explain", file, "--read", "h@0")[1].startswith("denied by rule 1, 'never'\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "Give one of --read and --write"),
        (("--read", "h@0", "--write", "h@0"), "Give one of"),
        (("--read", "100"), "try h@100"),
        (("--read", ""), "names no table"),
        (("--write", "i@0"), "input registers cannot be written"),
        (("--read", "h@0", "--peer", "somewhere"), "--peer: 'somewhere'"),
        (("--read", "h@0", "--unit", "256"), "--unit"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(
    policy: Policy, file: Path, arguments: tuple[str, ...], words: str
) -> None:
    code, out, err = policy("explain", file, *arguments)
    assert (code, out) == (2, "")
    assert words in err


# --- ready-made, and for other commands -----------------------------------------------------------


@pytest.mark.parametrize("name", READY_MADE)
def test_a_ready_made_policy_is_printed_as_a_file(policy: Policy, file: Path, name: str) -> None:
    code, out, _ = policy("show", name)
    assert code == 0
    assert out == READY_MADE[name]
    file.write_text(out)
    assert load_policy(str(file)).rules == load_policy(name).rules == parse_policy(out).rules


def test_a_file_with_the_name_of_a_ready_made_policy_goes_first(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    file.rename("operator")
    assert [rule.name for rule in load_policy("operator").rules] == ["set points", "all read"]


def test_whoever_loads_a_policy_is_told_all_its_errors(file: Path) -> None:
    file.write_text(RULES.replace("units = 3", "unit = 3\nmay = 4"))
    with pytest.raises(CommandFailure) as caught:
        load_policy(str(file))
    assert caught.value.code == 2
    first, *rest = str(caught.value).splitlines()
    assert first == f"2 errors in {file}"
    assert [line.partition(": there")[0] for line in rest] == [f"{file}:11: rule[1].unit", f"{file}:12: rule[1].may"]
