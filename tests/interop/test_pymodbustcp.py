"""pyModbusTCP, client and server."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.interop.ours import CLIENTS, Kind, answers, run
from tests.interop.plan import OBJECTS, Deviations, effects, exception, holding_registers, steps_for
from tests.interop.stacks import PYMODBUSTCP_CLIENT, PYMODBUSTCP_SERVER
from tests.interop.support import PEERS, Device, methods_not_called, peer_answers, python_with, serving
from tools.environments import PYMODBUSTCP

pytestmark = [pytest.mark.interop, pytest.mark.timeout(300)]

SERVER_DEVIATIONS: Final[Deviations] = [
    (["read_write", 1200], exception(3)),  # it reads at most 123 registers this way, not 125
    (["read_holding_registers", 1200, 125], holding_registers(1200, 125)),
    (["read_holding_registers", 820, 1], [5]),  # 17 writes although the range to read does not exist
    (["identify", 2, 0], [False, 0, {str(number): OBJECTS[number] for number in (3, 4, 5, 6)}]),
    (["identify", 3, 0], [True, 0x81, {"128": OBJECTS[0x80]}]),  # categories do not include those below
    (["identify", 4, 0x54], "MismatchError"),  # an answer without objects, not exception 02
    (["other_unit"], True),  # every unit is this one
]


@pytest.fixture(scope="session")
def python() -> Path:
    return python_with(PYMODBUSTCP)


def test_client(python: Path, device: Device) -> None:
    unit = device.fresh_unit()
    steps = steps_for(PYMODBUSTCP_CLIENT.kinds, refuses=PYMODBUSTCP_CLIENT.kinds)
    found = peer_answers([python, PEERS / "pymodbustcp_client.py"], device.port, unit, steps)
    assert found == answers(steps)
    left = effects(PYMODBUSTCP_CLIENT.kinds)
    assert run(device.port, left, unit) == answers(left)


def test_the_client_makes_every_call_that_there_is(python: Path) -> None:
    left = methods_not_called(python, "pyModbusTCP.client:ModbusClient", PEERS / "pymodbustcp_client.py")
    assert left == {"open", "on_tx_rx"}


@pytest.mark.parametrize("kind", CLIENTS)
def test_server(python: Path, kind: Kind) -> None:
    steps = steps_for(PYMODBUSTCP_SERVER.kinds, refuses=PYMODBUSTCP_SERVER.kinds, far=False, but=SERVER_DEVIATIONS)
    with serving(python, PEERS / "pymodbustcp_server.py") as (port, _):
        assert run(port, steps, kind=kind) == answers(steps)
