"""Group D, start: where a server cannot listen it says why, and leaves nothing open.

Row D8 of docs/faults.md; E9 of "More cases".
"""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from time import perf_counter

import pytest

from everbus import Bank, ConnectError, Drained, Server
from tests.lifecycle.programs import program, start_time_s
from tests.lifecycle.wire import READ, Wire

FREE_PORT = "tcp://127.0.0.1:0"
MARGIN_S = 0.5


# --- D8 ---------------------------------------------------------------------------------------


async def refused(*endpoints: str) -> str:
    """Why a server does not start; nothing of it is left open."""
    server = Server(Bank(), *endpoints)
    with pytest.raises(ConnectError) as caught:
        await server.start()
    assert server.statistics().listeners == 0
    assert await server.stop() == Drained(0)
    return str(caught.value)


async def test_d8_a_taken_port_is_a_clear_error_and_nothing_is_left_open() -> None:
    async with Server(Bank(), FREE_PORT) as server:
        [taken] = server.endpoints
        text = await refused(FREE_PORT, "tcp://[::1]:0", taken)
        assert taken in text
        assert "in use" in text
        async with await Wire.to(server) as client:
            assert await client.ask(READ) == b"\x03\x02\x00\x00"


async def test_d8_a_port_taken_by_another_program_is_a_clear_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        assert "in use" in await refused(f"tcp://127.0.0.1:{other.getsockname()[1]}")


async def test_d8_a_bad_address_is_a_clear_error() -> None:
    assert "does not have that address" in await refused(FREE_PORT, "tcp://192.0.2.1:0")
    text = await refused(FREE_PORT, "tcp://no-such-host.invalid:0")
    assert "no-such-host.invalid" in text


PRIVILEGED = """
import asyncio, os, sys
from everbus import Bank, ConnectError, Server
from everbus.testing import snapshot
port = int(sys.argv[1])

async def warm_up():  # what is loaded late may be out of reach for that user
    async with Server(Bank(), "tcp://127.0.0.1:0"):
        snapshot()

asyncio.run(warm_up())
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)

async def main():
    try:
        await Server(Bank(), "tcp://127.0.0.1:0", f"tcp://127.0.0.1:{port}").start()
    except ConnectError as error:
        print(error)

before = snapshot()
asyncio.run(main())
print(snapshot().growth_since(before))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which ports are privileged")
def test_d8_a_privileged_port_is_a_clear_error_for_an_ordinary_user() -> None:
    first_free = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    port = min(first_free, 1024) - 1
    done = subprocess.run(
        [sys.executable, "-c", PRIVILEGED, str(port)], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    error, left = done.stdout.splitlines()
    assert f"127.0.0.1:{port}" in error
    assert "permission denied" in error
    assert "5020" in error
    assert left == "[]"


async def test_d8_a_stale_socket_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "modbus.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    for _ in range(2):
        async with Server(Bank(), f"unix://{path}") as server, await Wire.to(server) as client:
            assert await client.ask(READ) == b"\x03\x02\x00\x00"
        assert not path.exists()


async def test_d8_a_live_socket_file_is_left_to_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "modbus.sock"
    async with Server(Bank(), f"unix://{path}") as server:
        text = await refused(FREE_PORT, f"unix://{path}")
        assert "live owner" in text
        async with await Wire.to(server) as client:
            assert await client.ask(READ) == b"\x03\x02\x00\x00"
    assert not path.exists()


async def test_d8_a_live_socket_file_with_a_full_backlog_is_left_to_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "modbus.sock"
    with socket.socket(socket.AF_UNIX) as owner, socket.socket(socket.AF_UNIX) as waiting:
        owner.bind(str(path))
        owner.listen(0)
        waiting.connect(str(path))
        began = perf_counter()
        assert str(path) in await refused(f"unix://{path}")
        assert perf_counter() - began < 2.0
        assert path.is_socket()


async def test_d8_what_is_no_socket_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("precious")
    assert "not a socket" in await refused(f"unix://{path}")
    assert path.read_text() == "precious"
    assert str(tmp_path / "no" / "such.sock") in await refused(f"unix://{tmp_path}/no/such.sock")


async def test_d8_a_socket_path_that_is_too_long_is_a_clear_error(tmp_path: Path) -> None:
    assert "too long" in await refused(f"unix://{tmp_path}/{'x' * 120}.sock")


async def test_d8_a_socket_file_replaced_by_another_server_survives_the_stop_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "modbus.sock"
    async with Server(Bank(), f"unix://{path}"):
        path.unlink()
        second = Server(Bank(), f"unix://{path}")
        await second.start()
    async with await Wire.to(second) as client:
        assert await client.ask(READ) == b"\x03\x02\x00\x00"
    await second.stop()
    assert not path.exists()


# --- E9 of "More cases" --------------------------------------------------------------------------


@pytest.mark.slow
async def test_m_e9_a_taken_port_ends_the_command_with_one_clear_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        endpoint = f"tcp://127.0.0.1:{other.getsockname()[1]}"
        async with program(tmp_path / "log", "-m", "everbus", "serve", "--listen", endpoint) as running:
            code, took_s = await running.ended()
    assert code == 3
    assert took_s < 1.0 + await start_time_s(tmp_path / "control")
    [line] = [line for line in running.text.splitlines() if line.strip()]
    assert endpoint in line
    assert "in use" in line
