from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import click
import pytest
from click.testing import CliRunner

from everbus import __version__
from everbus.cli import main
from everbus.cli.main import command, run
from everbus.cli.output import CommandFailure, ExitCode
from everbus.errors import (
    ConfigurationError,
    ConnectError,
    ExceptionResponseError,
    InvalidRequestError,
    ModbusTimeoutError,
)

COMMANDS = ["cert", "explain", "identify", "policy", "probe", "read", "scan", "serve", "soak", "watch", "write"]


def test_help_names_every_command_and_loads_them_to_do_so() -> None:
    done = CliRunner().invoke(command, ["--help"])
    assert done.exit_code == 0
    for name in COMMANDS:
        assert name in done.output
    assert "everbus serve --demo" in done.output


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_every_command_has_help(name: str, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([name, option]) == 0
    out, err = capsys.readouterr()
    assert f"everbus {name}" in out
    assert err == ""


def test_the_version_is_an_option_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr() == (f"everbus {__version__}\n", "")


def test_without_a_command_it_shows_its_help_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    out, err = capsys.readouterr()
    assert "Usage" in out + err
    assert "soak" in out + err
    assert "Traceback" not in out + err


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["bogus"], "No such command 'bogus'", "everbus --help"),
        (["--bogus"], "No such option '--bogus'", "everbus --help"),
        (["serve", "--bogus"], "No such option '--bogus'", "everbus serve --help"),
        (["serve", "extra"], "unexpected extra argument", "everbus serve --help"),
        (["explain"], "Missing argument", "everbus explain --help"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_a_hint(
    arguments: list[str], message: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    first, second = err.splitlines()
    assert out == ""
    assert first.startswith("error: ")
    assert message in first
    assert second == f"  try: {hint}"


@pytest.mark.parametrize(
    ("given", "meant"), [("reed", " Did you mean 'read'?"), ("wacth", " Did you mean 'watch'?"), ("xyz", "")]
)
def test_a_command_spelled_wrong_is_guessed(given: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([given]) == 2
    assert capsys.readouterr().err == f"error: No such command {given!r}.{meant}\n  try: everbus --help\n"


def test_a_wrong_command_line_is_json_where_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["soak", "--json", "--cycles", "none"]) == 2
    out, _ = capsys.readouterr()
    document = json.loads(out)
    assert document["ok"] is False
    assert (document["error"]["kind"], document["error"]["code"]) == ("usage", 2)
    assert "--cycles" in document["error"]["message"]
    assert document["error"]["hint"] == "everbus soak --help"


def ending(error: BaseException) -> Callable[[], None]:
    def end() -> None:
        raise error

    return end


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], None]:
    """Replace the group by one with a single command, ``now``."""

    def install(work: Callable[[], Any]) -> None:
        group = click.Group("everbus")
        as_json = click.Option(["--json", "as_json"], is_flag=True)
        group.add_command(click.Command("now", callback=lambda as_json: work(), params=[as_json]))
        monkeypatch.setattr(main, "command", group)

    return install


@pytest.mark.parametrize(
    ("error", "code", "kind"),
    [
        (CommandFailure(ExitCode.PROTOCOL, "protocol", "not Modbus"), 5, "protocol"),
        (click.UsageError("not like this"), 2, "usage"),
        (click.FileError("frames.txt", "cannot be read"), 2, "usage"),
        (click.Abort(), 130, "interrupted"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ConnectError("nobody is there"), 3, "cannot_connect"),
        (ModbusTimeoutError("too late"), 4, "timeout"),
        (ConfigurationError("cannot work"), 2, "usage"),
        (InvalidRequestError("not legal"), 2, "usage"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_how_a_command_ends_is_an_exit_code_a_line_and_a_document(
    error: BaseException,
    code: int,
    kind: str,
    temporary: Callable[[Callable[[], Any]], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    temporary(ending(error))
    assert run(["now"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert "error: " in err
    assert "Traceback" not in err
    assert run(["now", "--json"]) == code
    document = json.loads(capsys.readouterr().out)
    assert (document["ok"], document["error"]["kind"], document["error"]["code"]) == (False, kind, code)


def test_a_modbus_exception_has_its_number(
    temporary: Callable[[Callable[[], Any]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    temporary(ending(ExceptionResponseError(6, 3)))
    assert run(["now", "--json"]) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["kind"], error["code"], error["exception"]) == ("modbus_exception", 1, 6)


@pytest.mark.parametrize(("result", "code"), [(None, 0), (0, 0), (ExitCode.EXCEPTION, 1), (7, 7), ("text", 0)])
def test_what_a_command_returns_is_its_exit_code(
    result: object, code: int, temporary: Callable[[Callable[[], Any]], None]
) -> None:
    temporary(lambda: result)
    assert run(["now"]) == code


@pytest.mark.parametrize("arguments", [["--help"], ["read", "--help"], ["--version"], ["explain", "06"]])
def test_nobody_to_read_what_it_prints_is_no_error(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "everbus", *arguments]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (5 if "explain" in arguments else 0, b"")


def test_a_defect_is_not_hidden(temporary: Callable[[Callable[[], Any]], None]) -> None:
    temporary(ending(ZeroDivisionError("a defect")))
    with pytest.raises(ZeroDivisionError):
        run(["now"])


def test_a_command_is_loaded_when_it_is_called_and_no_other() -> None:
    program = """
import sys
from everbus.cli.main import run
assert run(["explain", "-h"]) == 0
print("LOADED", *sorted(name for name in sys.modules if name.startswith("everbus.cli.")))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    loaded = done.stdout.splitlines()[-1].split()
    assert "everbus.cli.explain" in loaded
    assert "everbus.cli.serve" not in loaded
    assert "everbus.cli.soak" not in loaded


def test_a_configuration_that_cannot_work_comes_with_a_hint_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve", "--listen", "foo://x"]) == 2
    line, hint = capsys.readouterr().err.splitlines()
    assert line.startswith("error: 'foo://x': scheme 'foo'")
    assert hint == "  try: everbus serve --help"
