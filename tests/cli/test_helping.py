from __future__ import annotations

import subprocess
import sys

import click
import pytest

from everbus.cli.helping import HelpfulCommand, HelpfulGroup


@click.group(cls=HelpfulGroup, context_settings={"help_option_names": ["-h", "--help"]})
def group() -> None:
    """Do things."""


@group.command("do", cls=HelpfulCommand, epilog="That is all.")
@click.argument("thing")
@click.option("--twice", is_flag=True, help="Do it again.")
def do(thing: str, twice: bool) -> str:
    """Do a thing."""
    return thing * (1 + twice)


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    group.main(list(arguments), prog_name="program", standalone_mode=False)
    return capsys.readouterr().out


def test_the_help_of_a_group_is_laid_out_with_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    out = said(capsys, "-h")
    for words in ("Usage: program [OPTIONS] COMMAND", "Do things.", "╭─ Commands", "Do a thing.", "--help"):
        assert words in out


def test_without_a_command_it_is_shown_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert group.main([], prog_name="program", standalone_mode=False) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Do a thing." in err


def test_the_help_of_a_command_is_laid_out(capsys: pytest.CaptureFixture[str]) -> None:
    out = said(capsys, "do", "--help")
    for words in ("Usage: program do [OPTIONS] THING", "Do a thing.", "╭─ Options", "--twice", "Do it again.", "all."):
        assert words in out


def test_what_a_command_does_is_its_own_affair() -> None:
    assert group.main(["do", "x", "--twice"], prog_name="program", standalone_mode=False) == "xx"


def test_a_command_that_is_not_asked_for_help_does_without_what_lays_it_out() -> None:
    program = """
import sys
from everbus.cli.main import run
assert run(["read", "tcp://127.0.0.1:1", "h@0", "--timeout", "0.1", "--retries", "0"]) == 3
assert not {"asyncio", "rich", "rich_click"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr.startswith("error: cannot connect")
    assert done.returncode == 0, done.stderr
