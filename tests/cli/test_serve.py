from __future__ import annotations

import json
import logging
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from everbus import __version__, certificates
from everbus.certificates import Credential
from everbus.cli.main import run
from everbus.cli.serve import _JsonFormatter
from everbus.client.endpoint import Endpoint, TlsFiles, parse_endpoint
from everbus.limits import Limits
from everbus.observe import Event, EventKind
from everbus.tls import client_context
from tests.aio.wire import NOT_MODBUS, READ, ZERO, adu, frames, read_holding, write_register

SERVE = [sys.executable, "-m", "everbus", "serve"]
ANYWHERE = ["--listen", "tcp://127.0.0.1:0"]
WITHIN_S = 5.0


@dataclass
class Running:
    """``everbus serve`` as a process of its own."""

    process: subprocess.Popen[str]
    before: list[str] = field(default_factory=list)
    """The lines before the one that says that it is ready."""
    ready: str = ""

    @property
    def urls(self) -> list[str]:
        return re.findall(r"[a-z+]+://[^\s,\"]+", self.ready)

    def sleeps(self) -> bool:
        """It waits for something to happen."""
        status = Path(f"/proc/{self.process.pid}/stat").read_text()
        return status.rpartition(")")[2].split()[0] == "S"

    def signal(self, *numbers: signal.Signals) -> None:
        for number in numbers:
            self.process.send_signal(number)

    def end(self, within_s: float = WITHIN_S) -> tuple[int, str]:
        """Its exit code, and what it wrote after it was ready; stdout must have stayed empty."""
        out, err = self.process.communicate(timeout=within_s)
        assert out == ""
        return self.process.returncode, err


@contextmanager
def serving(*options: str, command: list[str] | None = None) -> Iterator[Running]:
    """A server that is ready, ended with the block."""
    arguments = [*(command or SERVE), *options]
    process = subprocess.Popen(
        arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    found = Running(process)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if "ready" in line:
                found.ready = line
                break
            found.before.append(line)
        assert found.ready, f"it never was ready: {found.before}"
        yield found
    finally:
        process.kill()
        process.communicate()


@contextmanager
def client(url: str) -> Iterator[socket.socket]:
    endpoint = parse_endpoint(url)
    unix = endpoint.scheme == "unix"
    with socket.socket(socket.AF_UNIX if unix else socket.AF_INET) as sock:
        sock.settimeout(WITHIN_S)
        sock.connect(endpoint.path if unix else (endpoint.host, endpoint.port))
        yield sock


def ask(sock: socket.socket, pdu: bytes = READ, unit: int = 1) -> bytes:
    sock.sendall(adu(1, unit, pdu))
    data = b""
    while len(data) < 6 or len(data) < 6 + int.from_bytes(data[4:6], "big"):
        piece = sock.recv(300)
        assert piece, "the server closed"
        data += piece
    (frame,) = frames(data)
    return frame.pdu


def asked(url: str, pdu: bytes = READ, unit: int = 1) -> bytes:
    with client(url) as sock:
        return ask(sock, pdu, unit)


@contextmanager
def deaf(server: Running) -> Iterator[socket.socket]:
    """A client that asks and never reads, until the server reads it no more: it cannot be drained."""
    with client(server.urls[0]) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        request = adu(1, 1, read_holding(0, 125)) * 100
        asleep = 0
        while asleep < 5:  # with unread requests in its socket: so it does not want to read them
            try:
                sock.send(request)
                asleep = 0
            except BlockingIOError:
                asleep = asleep + 1 if server.sleeps() else 0
                time.sleep(0.02)
        yield sock


# Ready


def test_one_line_on_stderr_says_that_it_is_ready_and_with_which_limits() -> None:
    with serving(*ANYWHERE, "--max-connections", "100", "--stop-timeout", "2.5") as server:
        assert server.before == []
        (url,) = server.urls
        assert server.ready == (
            f"everbus {__version__} ready on {url} for every unit; max_connections 100, "
            "max_connections_per_peer 50, full evict, idle_timeout_s 600, frame_timeout_s 5, "
            "write_timeout_s 10, handler_timeout_s 5, max_in_flight 16, max_buffered_bytes 67108864, "
            "stop_timeout_s 2.5\n"
        )
        assert re.fullmatch(r"tcp://127\.0\.0\.1:[1-9]\d*", url)
        assert asked(url) == ZERO
        server.signal(signal.SIGTERM)
        assert server.end() == (0, "")


def test_the_line_may_be_json() -> None:
    options = [*ANYWHERE, *ANYWHERE, "--log-format", "json", "--unit", "3", "--full", "refuse"]
    with serving(*options, "--max-connections-per-peer", "7") as server:
        document = json.loads(server.ready)
        assert document["event"] == "ready"
        assert (document["level"], document["version"], document["units"]) == ("info", __version__, [3])
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", document["time"])
        assert document["endpoints"] == server.urls
        assert len(server.urls) == 2
        defaults = Limits()
        assert document["limits"] == {
            "max_connections": defaults.max_connections,
            "max_connections_per_peer": 7,
            "full": "refuse",
            "idle_timeout_s": defaults.idle_timeout_s,
            "frame_timeout_s": defaults.frame_timeout_s,
            "write_timeout_s": defaults.write_timeout_s,
            "handler_timeout_s": defaults.handler_timeout_s,
            "max_in_flight": defaults.max_in_flight,
            "max_buffered_bytes": defaults.max_buffered_bytes,
            "stop_timeout_s": defaults.stop_timeout_s,
        }
        for url in server.urls:
            assert asked(url, unit=3) == ZERO


def test_without_units_the_json_line_says_all() -> None:
    with serving(*ANYWHERE, "--log-format", "json") as server:
        assert json.loads(server.ready)["units"] == "all"


def test_without_a_port_it_takes_the_one_for_servers() -> None:
    with serving("--listen", "127.0.0.77") as server:
        assert server.urls == ["tcp://127.0.0.77:5020"]


# Data


def test_by_default_every_unit_is_one_device_with_all_items() -> None:
    with serving(*ANYWHERE) as server, client(server.urls[0]) as sock:
        for table in (1, 2):
            assert ask(sock, bytes((table, 0xFF, 0xFF, 0, 1)), 0) == bytes((table, 1, 0))
        for table in (3, 4):
            assert ask(sock, bytes((table, 0xFF, 0xFF, 0, 1)), 255) == bytes((table, 2, 0, 0))
        ask(sock, write_register(42), 7)
        assert ask(sock, unit=200) == b"\x03\x02\0\x2a"


def test_each_named_unit_has_data_of_its_own_and_no_other_answers() -> None:
    with serving(*ANYWHERE, "--unit", "1", "--unit", "2", "--unit", "0") as server:
        assert "for units 1, 2, 0;" in server.ready
        with client(server.urls[0]) as sock:
            ask(sock, write_register(42), 1)
            assert ask(sock, unit=1) == b"\x03\x02\0\x2a"
            assert ask(sock, unit=2) == ask(sock, unit=0) == ZERO
            assert ask(sock, unit=3) == b"\x83\x0b"


@pytest.mark.slow
def test_without_demo_nothing_moves() -> None:
    with serving(*ANYWHERE) as server:
        time.sleep(0.6)
        assert asked(server.urls[0], b"\x04\0\0\0\3") == b"\x04\x06" + bytes(6)


@pytest.mark.slow
@pytest.mark.parametrize("units", [[], ["--unit", "1", "--unit", "2"]])
def test_demo_shows_a_newcomer_some_life(units: list[str]) -> None:
    with serving(*ANYWHERE, "--demo", *units) as server, client(server.urls[0]) as sock:
        seen: dict[str, set[bytes]] = {"coil": set(), "count": set(), "wave": set()}
        deadline = time.monotonic() + WITHIN_S
        while min(map(len, seen.values())) < 2 and time.monotonic() < deadline:
            seen["coil"].add(ask(sock, b"\x01\0\0\0\1", 2))
            values = ask(sock, b"\x04\0\0\0\3", 2)
            seen["count"].add(values[2:4])
            seen["wave"].add(values[4:6])
            time.sleep(0.05)
        assert min(map(len, seen.values())) >= 2, seen
        server.signal(signal.SIGTERM)
        assert server.end() == (0, "")


# Endpoints


def test_a_unix_socket_is_served_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "modbus.sock"
    with serving("--listen", f"unix://{path}") as server:
        assert server.urls == [f"unix://{path}"]
        assert asked(server.urls[0]) == ZERO
        server.signal(signal.SIGTERM)
        assert server.end() == (0, "")
    assert not path.exists()


def test_after_a_kill_its_socket_file_is_in_nobodys_way(tmp_path: Path) -> None:
    path = tmp_path / "modbus.sock"
    for _ in range(2):
        with serving("--listen", f"unix://{path}") as server:
            assert asked(server.urls[0]) == ZERO  # killed at the end of the block
        assert path.exists()


def test_every_transport_of_one_server_reaches_the_same_device() -> None:
    listen = [f"--listen={scheme}://127.0.0.1:0" for scheme in ("tcp", "udp", "rtu+tcp", "ascii+tcp")]
    with serving(*listen, "--unit", "1") as server:
        stream, datagrams, rtu, text = server.urls
        assert asked(stream, write_register(42)) == write_register(42)
        host, port = parse_endpoint(datagrams).host, parse_endpoint(datagrams).port
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(WITHIN_S)
            sock.sendto(adu(7, 1, READ), (host, port))
            assert [frame.pdu for frame in frames(sock.recv(300))] == [b"\x03\x02\0\x2a"]
        for url, request, answer in [
            (rtu, bytes.fromhex("010300000001840a"), bytes.fromhex("010302002a399b")),
            (text, b":010300000001FB\r\n", b":010302002AD0\r\n"),
        ]:
            with client(url) as sock:
                sock.sendall(request)
                assert sock.recv(300) == answer
        server.signal(signal.SIGTERM)
        assert server.end() == (0, "")


def test_without_a_port_udp_takes_the_one_for_servers_too() -> None:
    with serving("--listen", "udp://127.0.0.78") as server:
        assert server.urls == ["udp://127.0.0.78:5020"]


def test_a_serial_port_that_is_not_there_is_exit_3_unless_it_may_come_later(tmp_path: Path) -> None:
    url = f"rtu://{tmp_path}/ttyUSB0?baudrate=9600&parity=N"
    done = failing("--listen", url)
    assert (done.returncode, done.stdout) == (3, "")
    assert f"{tmp_path}/ttyUSB0: there is no such" in done.stderr
    with serving(*ANYWHERE, "--listen", url, "--wait-for-port") as server:
        assert server.urls[1] == url
        assert asked(server.urls[0]) == ZERO


# Who may do what


def test_a_policy_decides_and_an_audit_trail_says_so(tmp_path: Path) -> None:
    trail = tmp_path / "audit.jsonl"
    with serving(*ANYWHERE, "--policy", "read-only", "--audit", str(trail)) as server:
        with client(server.urls[0]) as sock:
            assert ask(sock) == ZERO
            assert ask(sock, write_register(42)) == b"\x86\x01"
        server.signal(signal.SIGTERM)
        assert server.end() == (0, "")
    assert trail.read_text() == ""
    (record,) = map(json.loads, Path(f"{trail}.denied").read_text().splitlines())
    assert (record["decision"], record["function"], record["unit"]) == ("denied", 6, 1)


@dataclass
class Plant:
    """A CA's folder, and what it has signed, as files."""

    folder: Path
    authority: Credential = field(default_factory=certificates.create_authority)

    def files(self, name: str, made: Credential) -> TlsFiles:
        parts = {"cert": made.certificate_pem, "key": made.key_pem, "ca": self.authority.certificate_pem}
        for part, data in parts.items():
            (self.folder / f"{name}-{part}.pem").write_bytes(data)
        return TlsFiles(**{part: str(self.folder / f"{name}-{part}.pem") for part in parts})

    def client(self, name: str, role: str) -> TlsFiles:
        return self.files(name, certificates.issue_client(self.authority, name, role))


@contextmanager
def secured(url: str, files: TlsFiles) -> Iterator[ssl.SSLSocket]:
    with client(url) as sock, client_context(files).wrap_socket(sock, server_hostname="127.0.0.1") as found:
        yield found


def test_f8_under_tls_the_role_of_a_certificate_decides_and_the_audit_trail_has_it(tmp_path: Path) -> None:
    plant, trail = Plant(tmp_path), tmp_path / "audit.jsonl"
    server_files = plant.files("server", certificates.issue_server(plant.authority, ["127.0.0.1"]))
    url = str(Endpoint("tls", "127.0.0.1", tls=server_files))
    with serving("--listen", url, "--policy", "engineer", "--audit", str(trail)) as server:
        with (
            secured(server.urls[0], plant.client("eve", "")) as nobody,
            secured(server.urls[0], plant.client("ada", "Engineer")) as engineer,
        ):
            for _ in range(2):
                assert ask(nobody, write_register(42)) == b"\x86\x01"
            assert ask(engineer, write_register(42)) == write_register(42)
            assert ask(nobody) == b"\x03\x02\0\x2a", "the connection is kept"
        server.signal(signal.SIGTERM)
        assert server.end() == (0, "")
    records = [json.loads(line) for name in (f"{trail}.denied", trail) for line in Path(name).read_text().splitlines()]
    told = [(one["subject"], one["role"], one["decision"]) for one in records]
    assert told == [("CN=eve", None, "denied")] * 2 + [("CN=ada", "Engineer", "allowed")]
    assert records[2]["new"] == [42]


def test_certificates_that_cannot_be_used_serve_nobody(tmp_path: Path) -> None:
    done = failing("--listen", f"tls://127.0.0.1:0?cert={tmp_path}/none.pem&ca=x")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{tmp_path}/none.pem cannot be read" in done.stderr


def test_a_policy_with_errors_serves_nobody(tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('[[rule]]\nname = "x"\nfunctions = "fly"\nunits = 300\n')
    done = failing(*ANYWHERE, "--policy", str(policy))
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{policy}:3:" in done.stderr
    assert f"{policy}:4:" in done.stderr


def test_an_audit_trail_that_cannot_be_written_serves_nobody(tmp_path: Path) -> None:
    done = failing(*ANYWHERE, "--audit", str(tmp_path / "nowhere" / "audit.jsonl"))
    assert (done.returncode, done.stdout) == (2, "")
    assert "cannot write the audit trail" in done.stderr


@pytest.fixture
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, raises = root.handlers[:], root.level, logging.raiseExceptions
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.raiseExceptions = raises


def failing(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*SERVE, *options], capture_output=True, text=True, timeout=10, check=False)


def test_a_taken_port_is_exit_3_with_a_hint() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        done = failing("--listen", f"tcp://127.0.0.1:{other.getsockname()[1]}")
    assert (done.returncode, done.stdout) == (3, "")
    assert len(done.stderr.splitlines()) <= 2
    assert done.stderr.startswith("error: cannot listen on tcp://127.0.0.1:")
    assert "another port" in done.stderr


@pytest.mark.slow
def test_what_can_never_be_bound_is_exit_3(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("data")
    for url, word in [
        ("tcp://192.0.2.1:5020", "does not have that address"),
        ("tcp://a..b:5020", "not a name or address"),
        (f"unix://{precious}", "not a socket"),
    ]:
        done = failing("--listen", url)
        assert (done.returncode, done.stdout) == (3, "")
        assert done.stderr.startswith("error: cannot listen on ")
        assert word in done.stderr
        assert "Traceback" not in done.stderr
    assert precious.read_text() == "data"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--listen ftp://127.0.0.1", "tcp, tls, udp, rtu, ascii, rtu+tcp, ascii+tcp, unix"),
        ("--listen tcp://", "tcp://192.0.2.7:502"),
        ("--listen tcp://127.0.0.1:99999", "0..65535"),
        ("--listen ::1", "tcp://[::1]:5020"),
        ("--listen tls://127.0.0.1?certificate=x", "tls knows cert, key, ca"),
        ("--listen unix://relative", "unix:///run/modbus.sock"),
        ("--unit 256", "0<=x<=255"),
        ("--unit -1", "0<=x<=255"),
        ("--unit one", "'one'"),
        ("--max-connections 0", "x>=1"),
        ("--max-connections many", "'many'"),
        ("--max-connections-per-peer 0", "x>=1"),
        ("--full maybe", "'evict', 'refuse'"),
        ("--stop-timeout -1", "x>=0"),
        ("--stop-timeout nan", "stop_timeout_s"),
        ("--log-format xml", "'text', 'json'"),
        ("--loop trio", "'asyncio', 'uvloop'"),
        ("--bogus", "serve --help"),
        ("extra", "serve --help"),
    ],
)
@pytest.mark.usefixtures("logging_as_before")
def test_a_mistake_is_one_line_and_a_hint(options: str, says: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["serve", *ANYWHERE, *options.split()]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    check_mistake(err, says)


def check_mistake(text: str, says: str) -> None:
    first, *rest = text.splitlines()
    assert first.startswith("error: ")
    assert len(rest) <= 1
    assert all(line.startswith("  try: everbus serve --help") for line in rest)
    assert says in text


def test_a_mistake_ends_the_process_so_too() -> None:
    done = failing("--listen", "ftp://127.0.0.1")
    assert (done.returncode, done.stdout) == (2, "")
    check_mistake(done.stderr, "tcp, tls, udp, rtu, ascii, rtu+tcp, ascii+tcp, unix")


# Limits


def limited(soft: int, hard: int) -> list[str]:
    """The command, with limits on the descriptors of its process."""
    return ["sh", "-c", f'ulimit -Sn {soft} && ulimit -Hn {hard} && exec "$@"', "sh", *SERVE]


def test_more_connections_than_descriptors_is_one_warning() -> None:
    with serving(*ANYWHERE, "--max-connections", "100000", command=limited(256, 256)) as server:
        (warning,) = server.before
        assert "WARNING" in warning
        assert "max_connections 100000 lowered to " in warning
        usable = int(warning.partition("lowered to ")[2].partition(":")[0])
        assert 150 <= usable <= 256 - 64
        assert f"max_connections {usable}, max_connections_per_peer {usable // 2}" in server.ready
        assert asked(server.urls[0]) == ZERO
        server.signal(signal.SIGTERM)
        assert server.end() == (0, "")


def test_the_soft_limit_is_raised_as_far_as_needed() -> None:
    with serving(*ANYWHERE, "--max-connections", "500", command=limited(256, 4096)) as server:
        assert server.before == []
        assert "max_connections 500," in server.ready
        found = Path(f"/proc/{server.process.pid}/limits").read_text()
        (soft,) = re.findall(r"Max open files +(\d+)", found)
        assert 500 + 64 <= int(soft) < 4096


def test_too_few_descriptors_to_serve_anybody_is_a_mistake() -> None:
    command = [*limited(70, 70), *ANYWHERE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    line, hint = done.stderr.splitlines()
    assert "ulimit -n" in line
    assert hint == "  try: everbus serve --help"


def test_when_full_it_does_as_it_is_told() -> None:
    options = ["--max-connections", "2", "--max-connections-per-peer", "2", "--full", "refuse"]
    with serving(*ANYWHERE, *options) as server, client(server.urls[0]) as one, client(server.urls[0]) as two:
        assert ask(one) == ask(two) == ZERO
        with client(server.urls[0]) as refused, suppress(ConnectionResetError):
            assert refused.recv(1) == b""
        assert ask(one) == ask(two) == ZERO


# The event loop


@pytest.mark.slow
def test_it_serves_on_the_loop_that_was_named() -> None:
    with serving(*ANYWHERE, "--loop", "uvloop") as server:
        assert asked(server.urls[0]) == ZERO
        assert "uvloop" in Path(f"/proc/{server.process.pid}/maps").read_text()
    with serving(*ANYWHERE) as server:
        assert "uvloop" not in Path(f"/proc/{server.process.pid}/maps").read_text()


@pytest.mark.usefixtures("logging_as_before")
def test_a_loop_that_is_not_installed_is_a_mistake(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert run(["serve", *ANYWHERE, "--loop", "uvloop"]) == 2
    error, hint = capfd.readouterr().err.splitlines()
    assert error == "error: --loop uvloop: it is not installed"
    assert "pip install 'everbus[uvloop]'" in hint


# Signals


@pytest.mark.parametrize(
    ("number", "loop"), [(signal.SIGTERM, "asyncio"), (signal.SIGINT, "asyncio"), (signal.SIGTERM, "uvloop")]
)
def test_a_signal_stops_it_and_it_exits_0(number: signal.Signals, loop: str) -> None:
    with serving(*ANYWHERE, "--loop", loop) as server, client(server.urls[0]) as idle:
        assert ask(idle) == ZERO
        server.signal(number)
        assert idle.recv(1) == b""
        assert server.end() == (0, "")


@pytest.mark.slow
def test_a_signal_during_traffic_loses_no_answer_that_was_begun() -> None:
    with serving(*ANYWHERE, "--stop-timeout", "3") as server, client(server.urls[0]) as sock:
        answers = 0
        timer = threading.Timer(0.3, server.signal, [signal.SIGTERM])
        timer.start()
        try:
            while True:
                sock.sendall(adu(1) * 16)
                data = b""
                while len(data) < 16 * 11:
                    piece = sock.recv(4096)
                    if not piece:
                        break
                    data += piece
                assert len(data) % 11 == 0, "an answer was cut in two"
                answers += len(data) // 11
                if len(data) < 16 * 11:
                    break
        except ConnectionError:
            pass
        finally:
            timer.join()
        assert answers > 0
        assert server.end() == (0, "")


@pytest.mark.slow
def test_whoever_does_not_read_is_waited_for_no_longer_than_the_bound() -> None:
    with serving(*ANYWHERE, "--stop-timeout", "0.5") as server, deaf(server):
        started = time.monotonic()
        server.signal(signal.SIGTERM)
        code, _ = server.end()
        assert code == 0
        assert 0.4 < time.monotonic() - started < 3.0


@pytest.mark.slow
@pytest.mark.parametrize("gap_s", [0.0, 0.3])
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_stops_it_at_once(second: signal.Signals, gap_s: float) -> None:
    with serving(*ANYWHERE, "--stop-timeout", "60") as server, deaf(server):
        server.signal(signal.SIGTERM if second is signal.SIGINT else signal.SIGINT)
        if gap_s:
            time.sleep(gap_s)
            assert server.process.poll() is None
        started = time.monotonic()
        server.signal(second)
        code, err = server.end()
        assert code == 0
        assert "Traceback" not in err
        assert time.monotonic() - started < 3.0


def test_many_signals_are_no_more_than_two() -> None:
    with serving(*ANYWHERE, "--stop-timeout", "60") as server, deaf(server):
        for _ in range(20):
            server.signal(signal.SIGINT, signal.SIGTERM)
            time.sleep(0.005)
            if server.process.poll() is not None:
                break
        code, err = server.end()
        assert code == 0
        assert "Traceback" not in err


SLOW_NAMES = """
import socket, sys, time
quick = socket.getaddrinfo
def slow(*arguments, **more):
    sys.stderr.write("not ready yet\\n")
    sys.stderr.flush()
    time.sleep(0.4)
    return quick(*arguments, **more)
socket.getaddrinfo = slow
from everbus.cli.entry import main
sys.exit(main(["serve", "--listen", "tcp://localhost:0"]))
"""


@pytest.mark.slow
def test_a_signal_during_start_ends_it_with_exit_0() -> None:
    with serving(command=[sys.executable, "-c", SLOW_NAMES]) as server:
        server.signal(signal.SIGTERM)
        assert server.end() == (0, "")


# Lines on stderr


def test_what_happens_is_a_line_with_its_time_and_level() -> None:
    with serving(*ANYWHERE) as server:
        with client(server.urls[0]) as sock:
            sock.sendall(NOT_MODBUS)
            assert sock.recv(1) == b""
        server.signal(signal.SIGTERM)
        code, err = server.end()
    assert code == 0
    (line,) = err.splitlines()
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} WARNING frame rejected \(protocol_id\): ", line)
    assert "HTTP" in line


def test_what_happens_may_be_json_a_line_each() -> None:
    with serving(*ANYWHERE, "--log-format", "json") as server:
        with client(server.urls[0]) as sock:
            port = sock.getsockname()[1]
            sock.sendall(NOT_MODBUS)
            assert sock.recv(1) == b""
        server.signal(signal.SIGTERM)
        code, err = server.end()
    assert code == 0
    (document,) = [json.loads(line) for line in err.splitlines()]
    assert (document["event"], document["reason"], document["level"]) == ("frame_rejected", "protocol_id", "warning")
    assert (document["peer"], document["connection"]) == (f"127.0.0.1:{port}", 1)
    assert "HTTP" in document["message"]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("how", ["closed", "nobody reads"])
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_without_anybody_to_read_its_lines_it_serves(how: str, log_format: str) -> None:
    endpoint = Endpoint("tcp", host="127.0.0.1", port=free_port())
    command = [*SERVE, "--listen", str(endpoint), "--log-format", log_format]
    if how == "closed":
        process = subprocess.Popen(["sh", "-c", 'exec "$@" 2>&- >&-', "sh", *command])
    else:
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        assert process.stderr is not None
        process.stderr.close()
    try:
        deadline = time.monotonic() + WITHIN_S
        while True:
            assert process.poll() is None, f"it ended with {process.returncode}"
            assert time.monotonic() < deadline
            try:
                assert asked(str(endpoint)) == ZERO
                break
            except ConnectionRefusedError:
                time.sleep(0.05)
        with client(str(endpoint)) as sock:
            sock.sendall(NOT_MODBUS)
            assert sock.recv(1) == b""
        assert asked(str(endpoint)) == ZERO
        process.send_signal(signal.SIGTERM)
        assert process.wait(WITHIN_S) == 0
    finally:
        process.kill()
        process.wait()


def record(**extra: Any) -> logging.LogRecord:
    found = logging.LogRecord("everbus.server", logging.ERROR, "file.py", 1, "it %s", ("failed",), None)
    vars(found).update(extra)
    return found


def test_a_line_of_json_without_an_event_is_its_message() -> None:
    document = json.loads(_JsonFormatter().format(record()))
    assert {key: document[key] for key in document if key != "time"} == {"level": "error", "message": "it failed"}


def test_a_line_of_json_holds_its_traceback() -> None:
    try:
        raise ValueError("of a handler")
    except ValueError as error:
        event = Event(EventKind.HANDLER_FAILED, "192.0.2.7:1", "ValueError", "", 3, error)
        text = _JsonFormatter().format(record(event=event, exc_info=(ValueError, error, error.__traceback__)))
    document = json.loads(text)
    assert "\n" not in text
    assert "Traceback" in document["traceback"]
    assert (document["event"], document["peer"], document["connection"]) == ("handler_failed", "192.0.2.7:1", 3)


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.usefixtures("logging_as_before")
def test_in_this_process_too(log_format: str, capfd: pytest.CaptureFixture[str]) -> None:
    port = free_port()

    def use_and_stop() -> None:
        deadline = time.monotonic() + WITHIN_S
        while time.monotonic() < deadline:
            try:
                answers.append(asked(f"tcp://127.0.0.1:{port}"))
                break
            except ConnectionRefusedError:
                time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    answers: list[bytes] = []
    ordinary = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # one that comes too late must not end the tests
    user = threading.Thread(target=use_and_stop)
    user.start()
    try:
        url = f"tcp://127.0.0.1:{port}"
        assert run(["serve", "--listen", url, "--demo", "--log-format", log_format]) == 0
    finally:
        user.join()
        signal.signal(signal.SIGTERM, ordinary)
    assert answers == [ZERO]
    out, err = capfd.readouterr()
    assert out == ""
    assert "ready" in err
