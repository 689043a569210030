"""``everbus watch`` as its user sees it."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from everbus.cli.main import run
from everbus.service.bank import Bank
from everbus.testing import ScriptedPeer
from everbus.testing.scripted import Step, Turn, answer, close, exception, restart, silent

MAIN = threading.main_thread()
EVERBUS = (sys.executable, "-m", "everbus")


class Said(NamedTuple):
    """How a command ended, and the device's view of it."""

    code: int
    out: str
    err: str
    peer: ScriptedPeer

    @property
    def documents(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


Watch = Callable[..., Said]


def bank() -> Bank:
    device = Bank(holding_registers=[(0, 10)], coils=8)
    device.write_holding_registers(0, [1, 2, 0x41AA, 0x6666, 0x6162, 0x6300])
    return device


@pytest.fixture
def watch(capsys: pytest.CaptureFixture[str]) -> Watch:
    """Run ``everbus watch`` on a device with a script, without pauses."""

    def call(*arguments: str, script: Iterable[Step] | Step = ()) -> Said:
        with ScriptedPeer(script, device=bank()) as peer:
            code = run(["watch", peer.url, "--interval", "0.01", *arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return Said(code, out, err, peer)

    return call


# --- what is shown -------------------------------------------------------------------------------


def test_a_line_a_sample(watch: Watch) -> None:
    said = watch("h@0:2", "h@2/f32", "h@4:2/string", "--count", "2")
    assert said.code == 0
    lines = [line.split("  ") for line in said.out.splitlines()]
    assert [line[1:] for line in lines] == [["h@0=1", "h@1=2", "h@2/f32=21.3", "h@4:2/string=abc"]] * 2
    assert datetime.fromisoformat(lines[0][0]) < datetime.fromisoformat(lines[1][0])
    assert (len(said.peer.requests), said.peer.connections) == (2, 1)  # neighbours share a request


def test_the_summary_goes_to_stderr(watch: Watch) -> None:
    lines = watch("h@0", "h@4:2/string", "--count", "3").err.splitlines()
    assert lines[0].startswith("3 samples in ")
    assert ", 0 with errors, " in lines[0]
    assert lines[1].split() == ["h@0", "3", "read", "0", "failed", "min", "1", "mean", "1", "max", "1"]
    assert lines[2].split() == ["h@4:2/string", "3", "read", "0", "failed"]
    assert watch("h@0", "--count", "1").err.startswith("1 sample in ")


def test_for_programs_each_line_is_a_document(watch: Watch) -> None:
    said = watch("h@0:2", "h@9:2", "--count", "2", "--json")
    assert said.code == 7
    first, second = said.documents
    assert list(first) == ["ok", "sample", "skipped", "error", "points"]
    assert (first["ok"], first["sample"], second["sample"], first["skipped"]) == (False, 1, 2, 0)
    good, missing = first["points"]
    assert (good["point"], good["value"], good["quality"]) == ("h@0:2", [1, 2], "GOOD")
    assert (missing["quality"], missing["error"]["exception"]) == ("MISSING", 2)
    assert first["error"]["kind"] == "partial"


def test_what_read_tells_of_a_point_watch_tells_too(watch: Watch, capsys: pytest.CaptureFixture[str]) -> None:
    with ScriptedPeer(device=bank()) as peer:
        assert run(["read", peer.url, "h@0:2", "--json"]) == 0
    read = json.loads(capsys.readouterr().out)
    (watched,) = watch("h@0:2", "--count", "1", "--json").documents
    assert list(read["points"][0]) == list(watched["points"][0])
    assert set(watched) == set(read) | {"sample", "skipped"}


def test_csv_on_stdout(watch: Watch) -> None:
    said = watch("h@0:2", "h@4:2/string", "h@10", "--count", "2", "--csv", "-")
    assert said.code == 7
    heading, *rows = csv.reader(said.out.splitlines())
    assert heading == ["timestamp", "h@0", "h@1", "h@4:2/string", "h@10"]
    assert [row[1:] for row in rows] == [["1", "2", "abc", ""]] * 2
    assert datetime.fromisoformat(rows[0][0]).tzinfo is not None


def test_csv_in_a_file_row_by_row(watch: Watch, tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("what was there before\n" * 9)
    sizes: list[int] = []

    def look(turn: Turn) -> None:
        sizes.append(path.stat().st_size)
        answer(turn)

    said = watch("h@0", "--count", "3", "--csv", str(path), script=look)
    assert (said.code, said.out) == (0, "")
    assert sizes == sorted(set(sizes))  # each row is there before the next request
    assert sizes[0] == len("timestamp,h@0\n")
    assert len(path.read_text().splitlines()) == 4


def test_csv_in_a_file_goes_with_json(watch: Watch, tmp_path: Path) -> None:
    said = watch("h@0:2", "--count", "2", "--json", "--csv", str(tmp_path / "log.csv"))
    assert [document["points"][0]["value"] for document in said.documents] == [[1, 2], [1, 2]]
    assert (tmp_path / "log.csv").read_text().splitlines()[0] == "timestamp,h@0:2"


# --- when it ends --------------------------------------------------------------------------------


def test_it_ends_by_time(watch: Watch) -> None:
    said = watch("h@0", "--duration", "0.05", "--interval", "0.02")
    assert said.code == 0
    assert 1 <= len(said.peer.requests) <= 3


def test_what_is_due_while_a_sample_takes_long_is_skipped_and_counted(watch: Watch) -> None:
    said = watch("h@0", "--count", "2", "--json", "--timeout", "0.2", script=[silent])
    first, second = said.documents
    assert first["skipped"] == 0
    assert second["skipped"] >= 9
    assert f"{second['skipped']} skipped" in said.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_it_with_its_summary_and_so_does_sigterm(number: signal.Signals, watch: Watch) -> None:
    def end(turn: Turn) -> None:
        assert MAIN.ident is not None
        signal.pthread_kill(MAIN.ident, number)

    said = watch("h@0", script=[answer, end])
    assert (said.code, len(said.out.splitlines())) == (130, 1)
    assert said.err.startswith("1 sample in ")
    assert "error" not in said.err.replace("0 with errors", "")


def test_a_reader_that_goes_away_ends_it() -> None:
    with ScriptedPeer(device=bank()) as peer:
        process = subprocess.Popen(
            [*EVERBUS, "watch", peer.url, "h@0", "--interval", "0.01"], stdout=-1, stderr=-1, text=True
        )
        with process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert "h@0=1" in process.stdout.readline()
            process.stdout.close()
            said = process.stderr.read()
    assert process.returncode == 0
    assert "0 with errors" in said


# --- what cannot be read ---------------------------------------------------------------------------


def test_a_point_that_is_not_there_says_so_once_and_the_others_go_on(watch: Watch) -> None:
    said = watch("h@9:2", "--count", "3")
    assert said.code == 7
    assert [line.split("  ")[1:] for line in said.out.splitlines()] == [["h@9=0", "h@10 MISSING"]] * 3
    assert said.err.count("exception 02") == 1
    assert "  try: h@9 (reference 400010), if your manual counts from 1" in said.err


def test_an_error_that_changes_is_told_again_and_its_end_too(watch: Watch) -> None:
    said = watch("h@0", "--count", "4", "--timeout", "0.05", "--retries", "0", script=[silent, exception(2)])
    assert said.code == 7
    told = [line for line in said.err.splitlines() if not line.startswith("  ")]
    assert [line.partition(", after")[0] for line in told[2:3]] == ["h@0: read again"]
    assert "did not answer" in told[0]
    assert "exception 02" in told[1]
    assert [line.split("  ")[1] for line in said.out.splitlines()] == ["h@0 OFFLINE", "h@0 MISSING", "h@0=1", "h@0=1"]


def test_a_connection_that_is_lost_is_made_again(watch: Watch) -> None:
    said = watch("h@0", "--count", "3", "--retries", "0", script=[answer, close])
    assert said.code == 7
    assert [line.split("  ")[1] for line in said.out.splitlines()] == ["h@0=1", "h@0 OFFLINE", "h@0=1"]
    assert said.peer.connections == 2


def test_a_device_that_is_gone_is_asked_until_it_is_back(watch: Watch) -> None:
    script = [answer, answer, restart(0.05)]
    said = watch("h@0", "c@0", "--count", "9", "--retries", "0", "--timeout", "0.1", "--json", script=script)
    assert said.code == 7
    seen = [[point["quality"] for point in document["points"]] for document in said.documents]
    assert (seen[0], seen[1], seen[-1]) == (["GOOD"] * 2, ["OFFLINE"] * 2, ["GOOD"] * 2)
    assert said.documents[1]["error"]["kind"] == "cannot_connect"
    assert "c@0: read again, after 0." in said.err


@pytest.mark.parametrize(
    ("script", "code"), [(exception(2), 1), (silent, 4), (close, 3)], ids=["exception", "timeout", "lost"]
)
def test_how_it_ends_when_nothing_was_read(script: Step, code: int, watch: Watch) -> None:
    assert watch("h@0", "--count", "2", "--timeout", "0.05", "--retries", "0", script=script).code == code


def test_it_ends_at_the_first_error_where_told_to(watch: Watch) -> None:
    said = watch("h@0", "c@0", "--fail", script=[answer, answer, answer, exception(6)])
    assert said.code == 1
    assert len(said.out.splitlines()) == 2
    assert said.err.splitlines()[0].startswith("error: ")


def test_nobody_there_at_the_start(capsys: pytest.CaptureFixture[str]) -> None:
    with ScriptedPeer() as peer:
        url = peer.url
    assert run(["watch", url, "h@0", "--json"]) == 3
    out, err = capsys.readouterr()
    assert (json.loads(out)["ok"], json.loads(out)["error"]["kind"]) == (False, "cannot_connect")
    assert err.startswith(f"error: cannot connect to {url}: ")


# --- wrong command lines -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Missing argument 'POINT...'"),
        (["nonsense"], "it names no table"),
        (["h@0", "--interval", "0"], "--interval"),
        (["h@0", "--interval", "nan"], "nan is not a number"),
        (["h@0", "--duration", "inf"], "--duration"),
        (["h@0", "--count", "0"], "--count"),
        (["h@0", "--duration", "0"], "--duration"),
        (["h@0", "--plot"], "--plot draws on a terminal"),
        (["h@0", "--csv", "-", "--json"], "both want stdout"),
        (["h@0", "--csv", "/nowhere/log.csv"], "cannot write /nowhere/log.csv: No such file"),
    ],
)
def test_a_mistake_is_told_before_anything_is_sent(arguments: list[str], words: str, watch: Watch) -> None:
    said = watch(*arguments)
    assert said.code == 2
    assert words in said.err
    assert said.peer.connections == 0


def test_a_full_disk_is_told(watch: Watch) -> None:
    said = watch("h@0", "--csv", "/dev/full")
    assert said.code == 2
    assert said.err.startswith("error: cannot write /dev/full: No space left on device")


# --- a terminal --------------------------------------------------------------------------------


@pytest.mark.slow
def test_on_a_terminal_there_is_a_table() -> None:
    ours, theirs = os.openpty()
    with ScriptedPeer(device=bank()) as peer:
        environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "30"}
        process = subprocess.Popen(
            [*EVERBUS, "watch", peer.url, "h@0:2", "h@10", "--interval", "0.05", "--count", "5", "--plot"],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment,
        )
        os.close(theirs)
        shown = b""
        while chunk := read_terminal(ours):
            shown += chunk
        os.close(ours)
        assert process.wait() == 7
    text = shown.decode()
    for words in ("quality", "▁▁▁▁▁", "MISSING", "━ h@1", "┌──", "sample 5", "5 samples in", "  try: h@9"):
        assert words in text
    assert "asyncio" not in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor is back


def read_terminal(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # Linux says so when the other end is closed
        return b""


def test_it_does_without_an_event_loop() -> None:
    program = """
import sys
from everbus.cli.entry import main
assert main(["watch", sys.argv[1], "h@0", "--count", "1"]) == 0
assert not {"asyncio", "rich", "rich_click", "plotext"} & set(sys.modules)
"""
    with ScriptedPeer(device=bank()) as peer:
        command = [sys.executable, "-c", program, peer.url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("  h@0=1")
