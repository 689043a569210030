"""Both sources of figures, held against processes that hold known things, and against a made-up /proc."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from everbus.errors import ConfigurationError
from everbus.processes import Descriptors, ProcSystem, PsutilSystem, System, is_this_process, this_system

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="holds psutil against /proc")

GOES_ON = "import sys; print('ready', flush=True); sys.stdin.read()"
HOLDS_SOCKETS = """
import os, socket, sys
four = socket.create_server(("127.0.0.1", 0))
six = socket.create_server(("::1", 0), family=socket.AF_INET6)
path = socket.socket(socket.AF_UNIX)
path.bind(sys.argv[1])
path.listen()
client = socket.create_connection(four.getsockname())
server, _ = four.accept()
datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagram.bind(("127.0.0.1", 0))
pair = socket.socketpair()
bare = socket.socket()
pipe = os.pipe()
file = open("/dev/null")
print(four.getsockname()[1], six.getsockname()[1], flush=True)
sys.stdin.read()
"""


@contextmanager
def running(script: str, *arguments: str) -> Iterator[tuple[int, str]]:
    """A Python process that does this until its input ends; its pid and its first line."""
    with subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield process.pid, process.stdout.readline()


@contextmanager
def zombie() -> Iterator[int]:
    """A process that has ended and is not reaped."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        yield process.pid


@pytest.fixture(params=[ProcSystem, PsutilSystem])
def system(request: pytest.FixtureRequest) -> System:
    made: System = request.param()
    return made


def unused_pid() -> int:
    return int(Path("/proc/sys/kernel/pid_max").read_text()) + 1


# --- real processes ---------------------------------------------------------------------------


def test_kinds_of_another_process(tmp_path: Path) -> None:
    with running(GOES_ON) as (plain, _), running(HOLDS_SOCKETS, str(tmp_path / "socket")) as (pid, _):
        idle, busy = ProcSystem().kinds(plain), ProcSystem().kinds(pid)
    assert idle == Descriptors(total=3, files=idle.files, pipes=3 - idle.files)
    held = Descriptors(total=12, listening=3, tcp=2, udp=1, unix=2, files=1, pipes=2, other=1)
    assert busy == idle + held


def test_psutil_tells_what_it_can(tmp_path: Path) -> None:
    with running(HOLDS_SOCKETS, str(tmp_path / "socket")) as (pid, _):
        proc, psutil = ProcSystem().kinds(pid), PsutilSystem().kinds(pid)
    assert psutil.total == proc.total
    assert psutil.listening == proc.listening - 1  # it does not see that a Unix socket listens
    assert (psutil.tcp, psutil.udp, psutil.unix) == (proc.tcp, proc.udp, proc.unix + 1)


def test_listening_addresses_of_another_process(tmp_path: Path, system: System) -> None:
    path = str(tmp_path / "socket")
    with running(HOLDS_SOCKETS, path) as (pid, line):
        four, six = line.split()
        found = system.listening(pid)
    expected = {f"127.0.0.1:{four}", f"[::1]:{six}"}
    assert set(found) == (expected | {path} if isinstance(system, ProcSystem) else expected)


def test_counts_and_memory(system: System) -> None:
    with running(GOES_ON) as (pid, _):
        assert system.count(pid) == system.kinds(pid).total == 3
        assert 1_000_000 < system.memory(pid) < 200_000_000
        assert system.tree(pid) == [pid]


def test_own_descriptors_do_not_include_the_one_that_looks() -> None:
    system = ProcSystem()
    before = system.count(None)
    read, write = os.pipe()
    try:
        assert system.count(None) == system.count(os.getpid()) == before + 2
        assert system.kinds(None).total == before + 2
    finally:
        os.close(read)
        os.close(write)


def test_tree_holds_grandchildren(system: System) -> None:
    script = (
        "import subprocess, sys; "
        "subprocess.run([sys.executable, '-c', 'print(1, flush=True); import sys; sys.stdin.read()'])"
    )
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {script!r}])"
    with running(outer) as (pid, _):
        tree = system.tree(pid)
        assert tree[0] == pid
        assert len(tree) == 3
        assert len(system.tree(os.getpid())) >= 4


@pytest.mark.parametrize("ask", ["count", "kinds", "listening", "memory", "tree"])
def test_no_such_process(system: System, ask: str) -> None:
    with pytest.raises(ProcessLookupError, match="no process"):
        getattr(system, ask)(unused_pid())


@pytest.mark.parametrize("ask", ["count", "kinds", "listening", "memory", "tree"])
def test_ended_but_not_reaped(system: System, ask: str) -> None:
    with zombie() as pid, pytest.raises(ProcessLookupError, match=f"process {pid} has ended"):
        getattr(system, ask)(pid)


def test_a_process_that_dies_while_it_is_looked_at() -> None:
    """Whenever it dies, the answer is a figure of it alive or that it is gone; never another error."""
    system = ProcSystem()
    outcomes: set[object] = set()
    for _ in range(5):
        with running(GOES_ON) as (pid, _):
            os.kill(pid, 9)
            deadline = time.monotonic() + 5
            while time.monotonic() < deadline:
                try:
                    outcomes.add(system.kinds(pid).total > 0)
                except ProcessLookupError:
                    outcomes.add("gone")
                    break
    assert outcomes <= {True, "gone"}
    assert "gone" in outcomes


# --- a made-up /proc --------------------------------------------------------------------------


class MadeUpProc:
    """A /proc with one process, 7."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("stat", b"7 (a b) c) S 1 7 7 0\n")
        self.write("statm", b"900 25 5 1 0 9 0\n")
        (root / "7" / "fd").mkdir()
        (root / "7" / "net").mkdir()
        (root / "self").symlink_to("7")
        self.system = ProcSystem(str(root))

    def write(self, name: str, content: bytes) -> None:
        path = self.root / "7" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)

    def hold(self, *targets: str) -> None:
        for number, target in enumerate(targets):
            (self.root / "7" / "fd" / str(number)).symlink_to(target)


@pytest.fixture
def proc(tmp_path: Path) -> MadeUpProc:
    return MadeUpProc(tmp_path)


TCP = b"""  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:139C 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 11 1 00 100 0
   1: 0100007F:139C 0100007F:8000 01 00000000:00000000 00:00000000 00000000     0        0 12 1 00 20 4
   2: 0100007F:8000 0100007F:139C 06 00000000:00000000 03:00001757 00000000     0        0 0 3 00
"""
TCP6 = b"""  sl  local_address                         remote_address                        st tx_queue
   0: 00000000000000000000000001000000:01F6 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 13 1
   1: 00000000000000000000000000000000:01F6 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 14 1
   2: B80D0120000000000000000001000000:01F6 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 15 1
"""
UNIX = b"""Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0001 01    16 /run/with two  blanks
0000000000000000: 00000002 00000000 00010000 0001 01    17 @abstract
0000000000000000: 00000003 00000000 00000000 0001 03    18
0000000000000000: 00000002 00000000 00010000 0001 01    19 /run/with
a line break
"""


@pytest.mark.skipif(sys.byteorder != "little", reason="the tables above are of a little-endian machine")
def test_addresses_in_every_form(proc: MadeUpProc) -> None:
    proc.write("net/tcp", TCP)
    proc.write("net/tcp6", TCP6)
    proc.write("net/unix", UNIX)
    proc.hold(*(f"socket:[{inode}]" for inode in range(11, 20)))
    assert sorted(proc.system.listening(7)) == [
        "/run/with",
        "/run/with two  blanks",
        "0.0.0.0:5020",
        "@abstract",
        "[2001:db8::1]:502",
        "[::1]:502",
        "[::]:502",
    ]
    assert proc.system.kinds(None) == Descriptors(total=9, listening=7, tcp=1, unix=1)


def test_kinds_by_what_the_link_says(proc: MadeUpProc) -> None:
    proc.hold("/dev/null", "/tmp/gone (deleted)", "pipe:[5]", "anon_inode:[eventpoll]", "socket:[99]")
    assert proc.system.kinds(7) == Descriptors(total=5, files=2, pipes=1, other=2)


def test_a_descriptor_that_closes_meanwhile_is_skipped(proc: MadeUpProc, monkeypatch: pytest.MonkeyPatch) -> None:
    proc.hold("/dev/null", "/dev/zero")
    monkeypatch.setattr(os, "listdir", lambda path: ["0", "1", "2"])
    assert proc.system.kinds(7) == Descriptors(total=2, files=2)


def test_every_descriptor_gone_means_that_the_process_is(proc: MadeUpProc, monkeypatch: pytest.MonkeyPatch) -> None:
    proc.write("stat", b"7 (x) Z 1 7 7 0\n")
    monkeypatch.setattr(os, "listdir", lambda path: ["0"])
    with pytest.raises(ProcessLookupError, match="process 7 has ended"):
        proc.system.kinds(7)


def test_a_process_without_descriptors_has_none(proc: MadeUpProc) -> None:
    assert proc.system.kinds(7) == Descriptors()
    assert proc.system.count(7) == 0


def test_a_table_that_cannot_be_read_is_an_error(proc: MadeUpProc) -> None:
    proc.hold("socket:[1]")
    (proc.root / "7" / "net" / "tcp").mkdir()
    with pytest.raises(IsADirectoryError):
        proc.system.kinds(7)


def test_a_process_that_may_not_be_looked_at(proc: MadeUpProc, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> list[str]:
        raise PermissionError

    proc.hold("/dev/null")
    monkeypatch.setattr(os, "readlink", refuse)
    with pytest.raises(PermissionError, match=r"process 7 .* as its user or as root"):
        proc.system.kinds(7)
    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(PermissionError, match=r"process 7 .* as its user or as root"):
        proc.system.count(7)


def test_a_kernel_thread_has_no_memory(proc: MadeUpProc) -> None:
    proc.write("statm", b"0 0 0 0 0 0 0\n")
    assert proc.system.memory(7) == 0


def test_a_process_that_ends_while_the_tree_is_walked(proc: MadeUpProc) -> None:
    (proc.root / "8").mkdir()
    assert proc.system.tree(7) == [7]


# --- psutil's words ---------------------------------------------------------------------------


def test_without_psutil_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'everbus\[cli\]'"):
        PsutilSystem()


def test_psutil_of_a_process_of_someone_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> int:
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil.Process, "memory_info", refuse)
    with pytest.raises(PermissionError, match="as its user or as root"):
        PsutilSystem().memory(os.getpid())


# --- the rest ---------------------------------------------------------------------------------


def test_this_machine_has_a_proc() -> None:
    assert isinstance(this_system(), ProcSystem)


def test_is_this_process() -> None:
    assert is_this_process(None)
    assert is_this_process(os.getpid())
    assert not is_this_process(os.getppid())


def test_descriptors_add_up() -> None:
    assert Descriptors(3, 1, 1, 1, 0, 0, 0, 0) + Descriptors(1, files=1) == Descriptors(4, 1, 1, 1, files=1)
