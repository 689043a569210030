"""TLS: foreign clients with ``everbus serve`` at the other end, and a foreign server that reads our role."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from everbus.aio.client import AsyncClient
from everbus.cli.main import run as everbus
from everbus.errors import ExceptionResponseError
from everbus.sync.client import Client
from tests.interop.ours import CLIENTS, Kind, answers, run
from tests.interop.plan import READS, effects, steps_for
from tests.interop.stacks import PYMODBUS_CLIENT, TMODBUS_CLIENT
from tests.interop.support import PEERS, Device, everbus_serve, peer_answers, python_with, serving
from tests.interop.test_tmodbus import CLIENT_DEVIATIONS
from tests.interop.test_transports import free_port
from tools.environments import PYMODBUS, TMODBUS, newer_python

pytestmark = [pytest.mark.interop, pytest.mark.timeout(300)]

ROLE: Final = "Bedienung müde"


def url(folder: Path, port: int) -> str:
    files = "&".join(f"{part}={folder / part}.pem" for part in ("cert", "key", "ca"))
    return f"tls://127.0.0.1:{port}?{files}"


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with certificates: ``server``, ``client`` and ``nobody``, who has no role."""
    folder = tmp_path_factory.mktemp("plant")
    by_ca = ["--ca", str(folder / "ca"), "--out"]
    for command in (
        ["ca", "--out", str(folder / "ca")],
        ["server", *by_ca, str(folder / "server"), "--name", "127.0.0.1"],
        ["client", *by_ca, str(folder / "client"), "--name", "alice", "--role", ROLE],
        ["client", *by_ca, str(folder / "nobody"), "--name", "bob"],
    ):
        assert everbus(["cert", *command]) == 0
    return folder


@pytest.fixture(scope="module")
def port() -> int:
    return free_port("tls")


@pytest.fixture(scope="module")
def device(plant: Path, port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    """``everbus serve`` with TLS, and on TCP to look at what clients have done."""
    with everbus_serve(tmp_path_factory.mktemp("served"), url(plant / "server", port)) as started:
        yield started


@pytest.fixture(scope="module")
def tmodbus() -> Path:
    newer = newer_python((3, 12))
    if newer is None:
        pytest.skip("tmodbus needs Python 3.12 or later, and there is none: install one, with its venv module")
    return python_with(TMODBUS.replace("==", "[security]=="), newer)


@pytest.mark.requirement("SEC-R-05")
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_pymodbus(plant: Path, port: int, device: Device, mode: str) -> None:
    unit = device.fresh_unit()
    steps = steps_for(PYMODBUS_CLIENT.kinds, refuses=READS)
    command = (python_with(PYMODBUS), PEERS / "pymodbus_tls_client.py", plant / "client", mode)
    assert peer_answers(command, port, unit, steps) == answers(steps)
    left = effects(PYMODBUS_CLIENT.kinds)
    assert run(device.port, left, unit) == answers(left)


@pytest.mark.requirement("SEC-R-05")
def test_tmodbus(plant: Path, port: int, device: Device, tmodbus: Path) -> None:
    unit = device.fresh_unit()
    steps = steps_for(TMODBUS_CLIENT.kinds, refuses=READS, but=CLIENT_DEVIATIONS)
    command = (tmodbus, PEERS / "tmodbus_tls_client.py", plant / "client")
    assert peer_answers(command, port, unit, steps) == answers(steps)
    left = effects(TMODBUS_CLIENT.kinds)
    assert run(device.port, left, unit) == answers(left)


async def registers(kind: Kind, endpoint: str, count: int) -> list[int]:
    """Registers from 0 on, read by one of our clients."""
    if kind == "sync":
        with Client(endpoint) as client:
            return client.unit(1).read_holding_registers(0, count)
    async with AsyncClient(endpoint) as asynchronous:
        return await asynchronous.unit(1).read_holding_registers(0, count)


@pytest.mark.parametrize("kind", CLIENTS)
def test_tmodbus_reads_our_role(plant: Path, tmodbus: Path, kind: Kind) -> None:
    with serving(tmodbus, PEERS / "tmodbus_tls_server.py", plant / "server") as (port, _):
        found = asyncio.run(registers(kind, url(plant / "client", port), 20))
        said = b"".join(register.to_bytes(2, "big") for register in found)
        assert said.rstrip(b"\0").decode() == ROLE
        with pytest.raises(ExceptionResponseError, match="exception 01"):
            asyncio.run(registers(kind, url(plant / "nobody", port), 20))
