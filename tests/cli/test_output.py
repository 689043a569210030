from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import pytest

from everbus.cli.output import CommandFailure, ExitCode, fail, write_json, write_table, write_text


def test_exit_codes_are_what_the_documents_say() -> None:
    assert {code.name: int(code) for code in ExitCode} == {
        "OK": 0,
        "EXCEPTION": 1,
        "USAGE": 2,
        "CANNOT_CONNECT": 3,
        "TIMEOUT": 4,
        "PROTOCOL": 5,
        "REFUSED": 6,
        "PARTIAL": 7,
        "INTERRUPTED": 130,
    }


def test_one_json_document_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    write_json({"ok": True, "text": "a\nb", "peer": "Zürich"})
    out, err = capsys.readouterr()
    assert (out.count("\n"), err) == (1, "")
    assert json.loads(out) == {"ok": True, "text": "a\nb", "peer": "Zürich"}


def test_a_failure_is_one_line_and_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    failure = CommandFailure(ExitCode.CANNOT_CONNECT, "cannot_connect", "nobody is there", "everbus serve")
    assert str(failure) == "nobody is there"
    assert fail(failure, as_json=False) == 3
    assert capsys.readouterr() == ("", "error: nobody is there\n  try: everbus serve\n")


def test_a_failure_without_a_hint_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert fail(CommandFailure(ExitCode.TIMEOUT, "timeout", "too late"), as_json=False) == 4
    assert capsys.readouterr() == ("", "error: too late\n")


def test_a_failure_is_a_json_document_where_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    failure = CommandFailure(ExitCode.USAGE, "usage", "no such unit", "0..255")
    assert fail(failure, as_json=True) == 2
    out, err = capsys.readouterr()
    error = {"kind": "usage", "code": 2, "message": "no such unit", "hint": "0..255"}
    assert json.loads(out) == {"ok": False, "error": error}
    assert err == "error: no such unit\n  try: 0..255\n"


def test_a_modbus_exception_has_its_number_for_programs() -> None:
    failure = CommandFailure(ExitCode.EXCEPTION, "modbus_exception", "exception 02", exception=2)
    assert failure.document() == {"kind": "modbus_exception", "code": 1, "message": "exception 02", "exception": 2}


def test_columns_stand_below_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert write_table([("h@0", "1", ""), ("h@100", "20", "x")])
    assert write_table([])
    assert capsys.readouterr().out == "h@0    1\nh@100  20  x\n"


def test_characters_that_the_output_has_not_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    assert write_text("Zürich")
    assert raw.getvalue() == b"Z\\xfcrich\n"


def test_nobody_to_read_the_error_line_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, text: str, /) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Gone())
    assert fail(CommandFailure(ExitCode.TIMEOUT, "timeout", "too late"), as_json=False) == 4
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    assert fail(CommandFailure(ExitCode.TIMEOUT, "timeout", "too late"), as_json=False) == 4


SCRIPT = """
import os, sys
from everbus.cli.output import CommandFailure, ExitCode, fail, write_json, write_table
{prepare}
write_json({{"ok": True}})
write_table([("1", "2")])
write_json({{"ok": True}})
sys.exit(fail(CommandFailure(ExitCode.TIMEOUT, "timeout", "too late"), as_json=True))
"""


def run(prepare: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SCRIPT.format(prepare=prepare)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_reader_that_went_away_changes_neither_the_exit_code_nor_adds_a_traceback() -> None:
    done = run("reader, writer = os.pipe(); os.close(reader); os.dup2(writer, 1); os.close(writer)")
    assert (done.returncode, done.stderr) == (4, "error: too late\n")


@pytest.mark.parametrize("number", [1, 2])
def test_standard_streams_that_are_closed_change_neither_either(number: int) -> None:
    """As after ``everbus ... >&-``: Python has no stream then."""
    done = run(f"sys.{'stdout' if number == 1 else 'stderr'} = None; os.close({number})")
    assert done.returncode == 4
    assert "Traceback" not in done.stderr
    if number == 2:
        first, row, second, last = done.stdout.splitlines()
        assert row == "1  2"
        assert [json.loads(line)["ok"] for line in (first, second, last)] == [True, True, False]


def test_a_full_disk_under_stdout_is_told() -> None:
    if not os.path.exists("/dev/full"):
        pytest.fail("this test needs /dev/full")
    done = run("os.dup2(os.open('/dev/full', os.O_WRONLY), 1)")
    assert done.returncode != 0
