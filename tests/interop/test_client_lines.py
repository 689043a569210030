"""Serial lines: our clients on a pseudo-terminal, with a foreign server at its other end.

mbpoll is a client alone: it is in ``test_serial.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from everbus.errors import ModbusTimeoutError
from everbus.sync.client import Client
from tests.interop.ours import CLIENTS, Kind, answers, run
from tests.interop.plan import ITEMS, holding_registers, steps_for
from tests.interop.stacks import LIBMODBUS_SERVER
from tests.interop.support import PEERS, python_with, started
from tests.interop.test_client_transports import pymodbus_steps
from tests.interop.test_libmodbus import compiled, server_deviations
from tests.ports import Cable
from tools.environments import PYMODBUS

pytestmark = [pytest.mark.interop, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cable]:
    cable = Cable(tmp_path_factory.mktemp("line"))
    yield cable
    cable.close()


def url(scheme: str, line: Cable) -> str:
    """Our end. A pseudo-terminal knows eight bits alone."""
    return f"{scheme}://{line.near}?baudrate=115200&bytesize=8&parity=N"


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize("scheme", ["rtu", "ascii"])
def test_pymodbus(line: Cable, scheme: str, kind: Kind) -> None:
    steps = pymodbus_steps(scheme)
    python = python_with(PYMODBUS.replace("==", "[serial]=="))
    with started(python, PEERS / "pymodbus_server.py", scheme, line.far):
        assert run(url(scheme, line), steps, kind=kind) == answers(steps)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("libmodbus"))


@pytest.mark.parametrize("kind", CLIENTS)
def test_libmodbus(line: Cable, programs: Path, kind: Kind) -> None:
    kinds = LIBMODBUS_SERVER.kinds - {"other_unit"}
    steps = steps_for(kinds, refuses=kinds, far=False, but=server_deviations())
    with started(programs / "server", str(ITEMS), line.far):
        assert run(url("rtu", line), steps, kind=kind) == answers(steps)


def test_a_unit_that_is_not_here_is_silent(line: Cable, programs: Path) -> None:
    with started(programs / "server", str(ITEMS), line.far), Client(url("rtu", line), timeout_s=0.3) as client:
        with pytest.raises(ModbusTimeoutError):
            client.unit(2).read_holding_registers(0, 3)
        assert client.unit(1).read_holding_registers(0, 3) == holding_registers(0, 3)
