"""libmodbus: a client and a server in C."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from everbus.protocol.pdu.registers import (
    ReadHoldingRegistersRequest,
    WriteSingleRegisterRequest,
)
from everbus.sync.client import Client
from tests.interop.ours import CLIENTS, KINDS, Kind, answers, run
from tests.interop.plan import ITEMS, REFUSED, Deviations, Step, effects, exception, steps_for
from tests.interop.stacks import LIBMODBUS_CLIENT, LIBMODBUS_SERVER
from tests.interop.support import HERE, Device, needs, serving

pytestmark = pytest.mark.interop

TOO_MANY: Final[Deviations] = [
    (["read_coils", 0, 2001], REFUSED),
    (["read_discrete_inputs", 0, 2001], REFUSED),
    (["read_holding_registers", 0, 126], REFUSED),
    (["read_input_registers", 0, 126], REFUSED),
]
"""It refuses to send too large a quantity, not zero."""

SILENT: Final = {"exception_status"}
"""Known to it, and never answered."""

CONNECTIONS: Final = 5
SOAK: Final = ["--cycles", "50", "--pause-at", "25", "--pause", "0.1", "--json"]


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("libmodbus"))


def compiled(folder: Path) -> Path:
    """The folder, with both programs in it."""
    needs("gcc", "pkg-config", package="gcc pkg-config libmodbus-dev")
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "libmodbus"], capture_output=True, text=True, check=False
    )
    if flags.returncode:
        pytest.skip("pkg-config does not know libmodbus: apt-get install libmodbus-dev")
    for name in ("client", "server"):
        source = HERE / "c" / f"{name}.c"
        options = ["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror"]
        subprocess.run(["gcc", *options, "-o", str(folder / name), str(source), *flags.stdout.split()], check=True)
    return folder


def words(value: Any) -> Iterator[str]:
    """Arguments as the C client reads them."""
    if isinstance(value, list | tuple):
        yield str(len(value))
        for part in value:
            yield from words(part)
    else:
        yield str(int(value)) if isinstance(value, bool) else str(value)


def c_answers(program: Path, port: int | Path, unit: int, steps: Iterable[Step]) -> list[tuple[list[Any], Any]]:
    calls = [step.call for step in steps]
    lines = "".join(" ".join(word for part in call for word in words(part)) + "\n" for call in calls)
    done = subprocess.run([program, str(port), str(unit)], input=lines, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [(call, json.loads(line)) for call, line in zip(calls, done.stdout.splitlines(), strict=True)]


def test_client(programs: Path, device: Device) -> None:
    unit = device.fresh_unit()
    steps = steps_for(LIBMODBUS_CLIENT.kinds, but=TOO_MANY)
    assert c_answers(programs / "client", device.port, unit, steps) == answers(steps)
    left = effects(LIBMODBUS_CLIENT.kinds)
    assert run(device.port, left, unit) == answers(left)


def version() -> str:
    found = subprocess.run(["pkg-config", "--modversion", "libmodbus"], capture_output=True, text=True, check=True)
    return found.stdout.strip()


def server_deviations() -> Deviations:
    who = b"\xb4\xff" + f"LMB{version()}".encode()
    return [
        (["server_id"], [who[:-1].hex(), False]),  # id, run status, text: the last byte is not the status
        (["other_unit"], True),  # every unit is this one
        *(([kind], exception(1)) for kind in KINDS - LIBMODBUS_SERVER.kinds),
    ]


@pytest.mark.parametrize("kind", CLIENTS)
def test_server(programs: Path, kind: Kind) -> None:
    steps = steps_for(KINDS - SILENT, refuses=KINDS, far=False, but=server_deviations())
    with serving(programs / "server", str(ITEMS)) as (port, _):
        assert run(port, steps, kind=kind) == answers(steps)


def test_server_with_several_connections(programs: Path) -> None:
    with serving(programs / "server", str(ITEMS)) as (port, _), ExitStack() as stack:
        clients = [stack.enter_context(Client(f"tcp://127.0.0.1:{port}")) for _ in range(CONNECTIONS)]
        for number, client in enumerate(clients):
            client.call(WriteSingleRegisterRequest(number, 1000 + number))
        written = [1000 + number for number in range(CONNECTIONS)]
        for client in reversed(clients):
            response = client.call(ReadHoldingRegistersRequest(0, CONNECTIONS))
            assert response.registers == written


def test_soak_finds_its_server_clean(programs: Path) -> None:
    with serving(programs / "server", str(ITEMS)) as (port, pid):
        soak = [sys.executable, "-m", "everbus", "soak", f"tcp://127.0.0.1:{port}", "--pid", str(pid), *SOAK]
        done = subprocess.run(soak, capture_output=True, text=True, check=False)
        assert done.stdout, done.stderr
        found = json.loads(done.stdout)
    assert (done.returncode, found["verdict"], found["cycles"], found["failed"]) == (0, "clean", 50, 0)
    assert found["descriptors"]["end"] == found["descriptors"]["start"]
