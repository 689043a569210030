from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from everbus.aio.audit import AuditFile, AuditOptions
from everbus.errors import ConfigurationError
from everbus.protocol.framing.base import Frame
from everbus.protocol.pdu.registers import WriteSingleRegisterRequest
from everbus.service.audit import AuditRecord, Outcome
from everbus.service.authorize import Decision, Verdict
from everbus.service.bank import Bank
from everbus.service.context import ConnectionInfo, RequestContext
from everbus.service.pipeline import Pipeline
from everbus.service.units import Units

HMI = RequestContext(ConnectionInfo(7, "192.0.2.7:40112", role="Ope\u0301rator"), 3, 9)
YES, NO = Decision(Verdict.ALLOWED, "r"), Decision(Verdict.DENIED, "r")


def record(number: int = 0, request: Any = None, decision: Decision = YES) -> AuditRecord:
    context = RequestContext(HMI.connection, 3, number)
    return AuditRecord(context, request or WriteSingleRegisterRequest(5, 7), decision, Outcome())


def lines(path: Path) -> list[dict[str, Any]]:
    """The file's lines: each is a JSON document, the last one too."""
    text = path.read_text()
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def until(condition: Callable[[], bool]) -> None:
    """Wait for the thread."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@contextmanager
def hurried(path: Path, **options: Any) -> Iterator[AuditFile]:
    """A trail that tries again soon."""
    with AuditFile(path, AuditOptions(retry_s=0.01, **options)) as trail:
        yield trail


# --- what is written ------------------------------------------------------------------------------


def test_what_the_pipeline_tells_is_a_line_each(path: Path) -> None:
    before = time.time()
    with AuditFile(path) as trail:
        pipeline = Pipeline(Units(Bank()), audit=trail)
        for value in (7, 8):
            pipeline.answer(Frame(3, bytes.fromhex(f"060005{value:04X}"), 9), HMI.connection)
    found = lines(path)
    assert [(line["peer"], line["role"], line["unit"], line["address"]) for line in found] == [
        ("192.0.2.7:40112", "Ope\u0301rator", 3, 5)
    ] * 2
    assert [(line["old"], line["new"]) for line in found] == [([0], [7]), ([7], [8])]
    assert all(line["time"].endswith("+00:00") for line in found)
    assert found[0]["time"][:10] in {time.strftime("%Y-%m-%d", time.gmtime(at)) for at in (before, time.time())}
    assert stat.S_IMODE(path.stat().st_mode) & 0o007 == 0


def test_a_record_is_in_the_file_soon_without_an_end(path: Path) -> None:
    with AuditFile(path) as trail:
        trail.record(record())
        until(lambda: bool(lines(path)))
        trail.record(record(1))
        until(lambda: len(lines(path)) == 2)
        assert trail.statistics().written == 2


def test_what_is_there_already_stays(path: Path) -> None:
    for number in range(2):
        with AuditFile(path) as trail:
            trail.record(record(number))
    assert [line["transaction"] for line in lines(path)] == [0, 1]


def test_a_request_that_cannot_be_written_costs_one_line(path: Path) -> None:
    class Broken:
        function_code = 0x41

        def encode(self) -> bytes:
            raise ValueError("no words")

    with AuditFile(path) as trail:
        trail.record(record(0, Broken()))
        trail.record(record(1))
    first, second = lines(path)
    assert first["unwritable"] == "no words"
    assert second["transaction"] == 1


# --- rotation ---------------------------------------------------------------------------------


def test_files_rotate_by_size_and_the_oldest_go(path: Path) -> None:
    with AuditFile(path, AuditOptions(max_bytes=1000, keep=2)) as trail:
        for number in range(20):
            trail.record(record(number))
    files = [path, Path(f"{path}.1"), Path(f"{path}.2")]
    assert sorted(path.parent.iterdir()) == files
    kept = [line["transaction"] for file in reversed(files) for line in lines(file)]
    assert kept == list(range(kept[0], 20))
    assert all(0 < file.stat().st_size <= 1000 for file in files)
    assert trail.statistics().rotations > 2


def test_rotated_files_need_not_be_kept(path: Path) -> None:
    with AuditFile(path, AuditOptions(max_bytes=500, keep=0)) as trail:
        for number in range(5):
            trail.record(record(number))
    assert [file.name for file in path.parent.iterdir()] == ["audit.jsonl"]
    assert lines(path)[-1]["transaction"] == 4


@pytest.mark.parametrize("taken", ["moved", "deleted"])
def test_a_file_that_was_taken_away_is_begun_anew(path: Path, taken: str) -> None:
    # F9
    with hurried(path) as trail:
        trail.record(record(0))
        until(lambda: trail.statistics().written == 1)
        if taken == "moved":
            path.rename(f"{path}.old")
        else:
            path.unlink()
        trail.record(record(1))
    assert [line["transaction"] for line in lines(path)] == [1]
    assert trail.statistics().failures == 0


# --- trouble ------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_survived_and_what_found_no_room_is_counted(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # F9
    path.symlink_to("/dev/full")
    with hurried(path, max_waiting=3) as trail:
        for number in range(5):
            trail.record(record(number))
        until(lambda: trail.statistics().failures > 2)
        stuck = trail.statistics()
        assert (stuck.written, stuck.waiting, stuck.dropped) == (0, 3, 2)
        path.unlink()
        until(lambda: trail.statistics().written == 3)
    first, *rest = lines(path)
    assert first["dropped"] == 2
    assert [line["transaction"] for line in rest] == [0, 1, 2]
    told = [entry.getMessage() for entry in caplog.records if entry.name == "everbus.audit"]
    assert len(told) == 2  # the trouble, and its end
    assert "No space left" in told[0]


def test_a_flood_of_denials_leaves_room_for_writes(path: Path) -> None:
    with AuditFile(path, AuditOptions(max_waiting=4)) as trail:
        for number in range(10):
            trail.record(record(number, decision=NO))
        for number in range(10, 14):
            trail.record(record(number))
    first, *writes = lines(path)
    other, *denials = lines(Path(f"{path}.denied"))
    assert (first["dropped"], other["dropped"]) == (2, 8)
    assert [line["transaction"] for line in denials + writes] == [0, 1, 10, 11]


def test_denials_do_not_rotate_the_records_of_writes_away(path: Path) -> None:
    with AuditFile(path, AuditOptions(max_bytes=2_000, keep=1)) as trail:
        trail.record(record(7))
        for number in range(100):
            trail.record(record(number, decision=NO))
    assert [line["transaction"] for line in lines(path)] == [7]
    kept = [line["transaction"] for name in (".denied.1", ".denied") for line in lines(Path(f"{path}{name}"))]
    assert kept == list(range(100))[-len(kept) :]
    assert trail.statistics().rotations > 1


def test_a_pipe_that_nobody_reads_is_an_error(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(ConfigurationError, match="cannot write the audit trail"):
        AuditFile(path)


def test_a_folder_that_is_gone_is_waited_for(path: Path) -> None:
    folder = path.parent / "log"
    folder.mkdir()
    file = folder / "audit.jsonl"
    with hurried(file) as trail:
        file.unlink()
        folder.rmdir()
        trail.record(record())
        until(lambda: trail.statistics().failures > 0)
        folder.mkdir()
        until(lambda: trail.statistics().written == 1)
    assert len(lines(file)) == 1


HALF = """
import resource, signal, sys
from everbus.aio.audit import AuditFile, AuditOptions
from tests.aio.test_audit import record
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with AuditFile(sys.argv[1], AuditOptions(retry_s=0.01)) as trail:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    for number in range(10):
        trail.record(record(number))
print(trail.statistics())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on a file's size")
def test_a_disk_that_fills_up_leaves_no_half_line(path: Path) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", HALF, str(path)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    found = [line["transaction"] for line in lines(path)]
    assert 0 < len(found) < 10
    assert found == list(range(len(found)))
    assert f"written={len(found)}, waiting={10 - len(found)}" in done.stdout
    assert "without its last" in done.stderr


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_sink_that_hangs_blocks_nobody(path: Path) -> None:
    # F9
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        trail = AuditFile(path, AuditOptions(max_waiting=300))
        started = time.monotonic()
        for number in range(2000):
            trail.record(record(number))
            if number % 500 == 0:
                time.sleep(0.06)  # the thread fills the pipe
        trail.close(timeout_s=0.05)
        assert time.monotonic() - started < 2
        found = trail.statistics()
        assert found.dropped > 1000
        assert found.waiting > 0
        assert found.written + found.waiting + found.dropped == 2000
    finally:
        os.set_blocking(reader, True)
        while os.read(reader, 65536):
            pass  # until the thread has written what waited, and closed
        os.close(reader)


@pytest.mark.parametrize("where", ["", "nowhere/audit.jsonl"])
def test_a_file_that_cannot_be_opened_is_told_at_once(tmp_path: Path, where: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot write the audit trail"):
        AuditFile(tmp_path / where)


def test_behind_the_end_everything_is_dropped(path: Path) -> None:
    trail = AuditFile(path)
    trail.close()
    trail.close()
    trail.record(record())
    assert lines(path) == []
    assert trail.statistics().dropped == 1


@pytest.mark.parametrize(
    ("name", "value"), [("max_bytes", 0), ("keep", -1), ("max_waiting", 0), ("retry_s", 0), ("retry_s", float("nan"))]
)
def test_an_option_that_cannot_work_is_not_built(name: str, value: float) -> None:
    with pytest.raises(ConfigurationError, match=name):
        AuditOptions(**{name: value})  # type: ignore[arg-type]
