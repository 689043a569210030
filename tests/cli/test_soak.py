"""``everbus soak`` as its user sees it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from everbus.cli import soak
from everbus.cli.main import run
from everbus.resources import listening_addresses, process_tree
from everbus.soak.scenarios import SCENARIOS
from tests.soak.servers import running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BRIEF = ("soak", "--cycles", "60", "--pause", "0.1", "--grace", "0.3")
LONG = ("soak", "--duration", "3600", "--grace", "0.3")
EVERBUS = (sys.executable, "-m", "everbus")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# --- verdicts ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_our_own_server_is_clean(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(BRIEF) == 0
    out, err = capfd.readouterr()
    lines = out.splitlines()
    assert lines[0].startswith("churn on tcp://127.0.0.1:")
    assert ": 60 of 60 cycles, " in lines[0]
    assert lines[0].endswith(" a second, 0 failed")
    assert "open descriptors over time" in out
    (row,) = (line for line in lines if line.startswith("│ listening sockets"))
    assert [cell.strip() for cell in row.strip("│").split("│")] == ["listening sockets", "1", "1", "1", "+0"]
    assert lines[-1].startswith("clean: none of 60 cycles failed, ")
    assert "\x1b" not in out
    assert err == ""


@pytest.mark.slow
def test_a_leak_is_named_as_a_leak(capfd: pytest.CaptureFixture[str]) -> None:
    with running("leaks_listeners") as server:
        code = run(("soak", str(server.endpoint), "--pid", str(server.pid), "--cycles", "40", "--grace", "2"))
    lines = capfd.readouterr().out.splitlines()
    assert code == 1
    assert lines[-1].startswith("leak: 40 listening sockets more than at the start after 40 cycles, 1.00 per cycle")
    assert lines[-3].startswith("listening at the end and not at the start: 127.0.0.1:")
    assert lines[-3].endswith(" and 30 more")
    assert lines[-2].startswith("criterion: ")


@pytest.mark.slow
def test_failures_are_shown_by_kind(capfd: pytest.CaptureFixture[str]) -> None:
    with running("fails_later") as server:
        address = f"127.0.0.1:{server.endpoint.port}"
        code = run((*BRIEF, address, "--cycles", "33", "--timeout", "0.2"))
    out, err = capfd.readouterr()
    assert code == 1
    assert f"failed: 3 timeout; the first: cycle 31: unit 1 of tcp://{address} did not answer " in out
    assert out.splitlines()[-1] == "failing: 3 of 33 cycles failed (3 timeout)"
    assert "note: without --pid" in err


@pytest.mark.slow
def test_one_json_document(capfd: pytest.CaptureFixture[str]) -> None:
    with running("clean") as server:
        code = run((*BRIEF, str(server.endpoint), "--pid", str(server.pid), "--concurrency", "3", "--json"))
    out, err = capfd.readouterr()
    document: dict[str, Any] = json.loads(out)
    assert code == 0
    assert (document["ok"], document["verdict"], document["scenario"]) == (True, "clean", "churn")
    assert (document["cycles"], document["failed"], document["concurrency"]) == (60, 0, 3)
    assert document["listeners"] == {"start": 1, "peak": 1, "end": 1}
    assert (document["endpoint"], document["pid"]) == (str(server.endpoint), server.pid)
    assert err == document["reason"] + "\n"


def test_json_of_a_conviction_without_a_process(capfd: pytest.CaptureFixture[str]) -> None:
    with running("wrong_unit") as server:
        code = run((*BRIEF, str(server.endpoint), "--cycles", "2", "--json"))
    document = json.loads(capfd.readouterr().out)
    assert code == 1
    assert (document["ok"], document["verdict"]) == (False, "failing")
    assert document["failures"]["bad_answer"] == document["failed"] == 2
    assert document["descriptors"] is document["listeners"] is document["memory"] is None


@pytest.mark.slow
def test_a_pid_that_does_not_listen_there_is_pointed_at(capfd: pytest.CaptureFixture[str]) -> None:
    with running("clean") as server, running("clean") as stranger:
        assert run((*BRIEF, str(server.endpoint), "--pid", str(stranger.pid))) == 0
    note = f"note: process {stranger.pid} does not listen on port {server.endpoint.port}: is it the right one?\n"
    assert capfd.readouterr().err == note


# --- files ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_picture_and_a_report_of_polite_clients_too(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(*EVERBUS, "soak", "--duration", "1.5", "--pause", "0", "--grace", "0.3", "--rate", "50", "--polite", "2"),
            *("--plot", "run.png", "--report", "run.md", "--json"),
        ],
        capture_output=True,
        cwd=tmp_path,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    document = json.loads(done.stdout)
    assert document["options"]["duration_s"] == 1.5
    assert document["polite"]["clients"] == 2
    assert 30 <= document["cycles"] <= 80
    assert {path.name for path in tmp_path.iterdir()} == {
        "run.png",
        "run.md",
        "run-plot.svg",
        "run-process.csv",
        "run-polite.csv",
    }
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")
    report = (tmp_path / "run.md").read_text(encoding="utf-8")
    assert f"**{document['reason']}**" in report
    assert f"Criterion: {document['criterion']}" in report
    assert done.stderr.endswith("note: run.png is written\nnote: run.md is written\n")


@pytest.mark.slow
def test_a_report_that_fails_in_the_end_takes_no_result_away(tmp_path: Path) -> None:
    (tmp_path / "run.svg").symlink_to("/dev/full")
    with running("clean") as server:
        done = subprocess.run(
            [*EVERBUS, *BRIEF, str(server.endpoint), "--plot", "run.svg", "--report", "run.html", "--json"],
            capture_output=True,
            cwd=tmp_path,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert json.loads(done.stdout)["verdict"] == "clean"
    assert "note: run.svg could not be written: " in done.stderr
    assert (tmp_path / "run.html").exists()


# --- mistakes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ftp://127.0.0.1",), "scheme 'ftp' is not one of"),
        (("tcp://127.0.0.1:0",), "port 0 is no port to connect to"),
        (("tcp://",), "there is no host"),
        (("127.0.0.1", "--scenario", "nothing"), "'nothing' is not one of 'churn', 'flood', 'half-open', "),
        (("127.0.0.1", "--scenario", "half-open", "--duration", "20", "--hold", "20"), "half-open judges after"),
        (("127.0.0.1", "--duration", "0"), "0.0 is not in the range"),
        (("127.0.0.1", "--rate", "0"), "0.0 is not in the range"),
        (("127.0.0.1", "--polite", "101"), "101 is not in the range"),
        (("127.0.0.1", "--plot", "run.gif"), "run.gif: a picture is a .png or an .svg file"),
        (("127.0.0.1", "--plot", "/no/such/run.svg"), "/no/such/run.svg cannot be written: No such file or directory"),
        (("127.0.0.1", "--report", "run.txt"), "run.txt: a report is a .md or an .html file"),
        (("127.0.0.1", "--report", "/no/such/run.md"), "/no/such/run.md cannot be written: No such file"),
        (("127.0.0.1", "--cycles", "0"), "0 is not in the range"),
        (("127.0.0.1", "--pid", "99999999"), "--pid: there is no process 99999999"),
        (("--pid", "1"), "--pid goes with the URL"),
    ],
)
def test_usage_errors(capfd: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str) -> None:
    assert run(("soak", *arguments)) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert message in err.splitlines()[0]
    assert run(("soak", *arguments, "--json")) == 2
    document = json.loads(capfd.readouterr().out)
    assert document["ok"] is False
    assert (document["error"]["kind"], document["error"]["code"]) == ("usage", 2)
    assert message in document["error"]["message"]


def test_a_process_of_someone_else(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int) -> None:
        raise PermissionError(f"process {pid} may not be looked at")

    monkeypatch.setattr(soak, "listeners", refuse)
    assert run((*BRIEF, "127.0.0.1", "--pid", "1")) == 2
    assert capfd.readouterr().err == "error: --pid: process 1 may not be looked at\n  try: sudo, or no --pid\n"


def test_nobody_listens(capfd: pytest.CaptureFixture[str]) -> None:
    url = f"tcp://127.0.0.1:{free_port()}"
    assert run((*BRIEF, url, "--json")) == 3
    out, err = capfd.readouterr()
    message = f"{url}: cannot connect: Connection refused"
    hint = f"is a server running at {url}? everbus serve starts one on port 5020"
    error = {"kind": "cannot_connect", "code": 3, "message": message, "hint": hint}
    assert json.loads(out) == {"ok": False, "error": error}
    assert err == f"error: {message}\n  try: {hint}\n"


# --- interrupted ------------------------------------------------------------------------------


_AS_IN_A_TERMINAL = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in background jobs, and so perhaps here
from everbus.cli.entry import main
sys.exit(main())
"""


@contextmanager
def under_way(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A long run against a server of its own; yields its process and the number of the server's."""
    with subprocess.Popen(
        [sys.executable, "-c", _AS_IN_A_TERMINAL, *LONG, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        until(lambda: len(process_tree(process.pid)) == 2)
        own = process_tree(process.pid)[1]
        until(lambda: bool(listening_addresses(own)))
        time.sleep(0.5)
        yield process, own
        with pytest.raises(ProcessLookupError):
            os.kill(own, 0)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_it_judges_what_was_seen(tmp_path: Path, number: signal.Signals) -> None:
    report = tmp_path / "run.html"
    with under_way("--json", "--report", str(report)) as (process, _):
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    document = json.loads(out)
    assert document["interrupted"]
    assert document["verdict"] == "clean"
    assert document["cycles"] > 0
    assert document["duration_s"] < 60
    assert " s, interrupted</td>" in report.read_text(encoding="utf-8")
    assert "Traceback" not in err


@pytest.mark.slow
def test_interrupted_twice_it_ends_at_once() -> None:
    with under_way("--json", "--grace", "600") as (process, _):
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert json.loads(out)["error"]["kind"] == "interrupted"
    assert "Traceback" not in err


def test_the_signals_are_as_they_were(capfd: pytest.CaptureFixture[str]) -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    assert run((*BRIEF, f"127.0.0.1:{free_port()}")) == 3
    assert [signal.getsignal(number) for number in numbers] == before


def test_it_runs_in_a_thread(capfd: pytest.CaptureFixture[str]) -> None:
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(run((*BRIEF, f"127.0.0.1:{free_port()}"))))
    thread.start()
    thread.join()
    assert codes == [3]


# --- how it looks -----------------------------------------------------------------------------


@pytest.mark.slow
def test_on_a_terminal_there_is_a_bar_and_colour() -> None:
    ours, theirs = os.openpty()
    with running("clean") as server:
        environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40"}
        environment.pop("NO_COLOR", None)
        process = subprocess.Popen(
            [*EVERBUS, *BRIEF, str(server.endpoint), "--pid", str(server.pid)],
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
        assert process.wait() == 0
    text = shown.decode()
    assert "60/60" in text
    assert "━━━" in text
    assert "\x1b[1;32mclean: none of 60 cycles failed" in text


def read_terminal(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # Linux says so when the other end is closed
        return b""


@pytest.mark.slow
def test_where_the_output_knows_no_such_characters_there_is_no_plot() -> None:
    with running("clean") as server:
        done = subprocess.run(
            [*EVERBUS, *BRIEF, str(server.endpoint), "--pid", str(server.pid)],
            capture_output=True,
            env={**os.environ, "PYTHONIOENCODING": "ascii"},
            check=False,
        )
    assert done.returncode == 0
    text = done.stdout.decode("ascii")
    assert "| listening sockets |" in text
    assert "over time" not in text
    assert text.splitlines()[-1].startswith("clean: ")


@pytest.mark.slow
def test_a_reader_that_goes_away_does_not_change_the_verdict() -> None:
    with running("clean") as server:
        with subprocess.Popen([*EVERBUS, *BRIEF, str(server.endpoint)], stdout=-1, stderr=-1, text=True) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.close()
            assert "Traceback" not in process.stderr.read()
        assert process.returncode == 0


def test_help_says_how_it_ends(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(("soak", "--help")) == 0
    out = capfd.readouterr().out
    for word in ("--cycles", "--duration", "--rate", "--polite", "--pid", "--plot", "--report", "0 clean, 1 convicted"):
        assert word in out
    said = " ".join(out.split())
    assert all(f"{name}: {scenario.summary}." in said for name, scenario in SCENARIOS.items())
