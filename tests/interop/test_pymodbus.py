"""pymodbus, both of its clients and its server."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.interop.ours import CLIENTS, Kind, answers, run
from tests.interop.plan import READS, Deviations, effects, exception, steps_for
from tests.interop.stacks import PYMODBUS_CLIENT, PYMODBUS_SERVER
from tests.interop.support import PEERS, Device, methods_not_called, peer_answers, python_with, serving
from tools.environments import PYMODBUS

pytestmark = [pytest.mark.interop, pytest.mark.timeout(300)]

SERVER_DEVIATIONS: Final[Deviations] = [
    (["read_holding_registers", 820, 1], [5]),  # 17 writes although the range to read does not exist
    (["server_id"], ["-".join(("Everbus Works", "EB-1", "2.5")).encode().hex(), True]),
    (["exception_status"], 0),
    (["diagnostic_register"], 0),
    (["event_counter"], [0, 0]),  # nothing is counted
    (["event_log"], [0, 0, 0, ""]),
    (["bus_message_count"], 0),
    (["bus_exception_count"], 0),
    (["server_message_count"], 0),
    (["listen_only"], "PduError"),  # answered, and without its data field
    (["read_file", [[4, 7, 3]]], "MismatchError"),  # an exception response for function code 0
    (["read_file", [[4, 0, 3], [3, 9_998, 2]]], "MismatchError"),
    (["write_file"], True),  # every file exists, none is kept
    (["fifo"], [0, 1, 2, 3]),  # whatever is asked
    (["other_unit"], exception(4)),
]
"""What its server makes of the plan: our client reports it, or refuses what is no answer."""


@pytest.fixture(scope="session")
def python() -> Path:
    return python_with(PYMODBUS)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_client(python: Path, device: Device, mode: str) -> None:
    unit = device.fresh_unit()
    steps = steps_for(PYMODBUS_CLIENT.kinds, refuses=READS)
    found = peer_answers([python, PEERS / "pymodbus_client.py", mode], device.port, unit, steps)
    assert found == answers(steps)
    left = effects(PYMODBUS_CLIENT.kinds)
    assert run(device.port, left, unit) == answers(left)


def test_the_client_makes_every_call_that_there_is(python: Path) -> None:
    left = methods_not_called(python, "pymodbus.client.mixin:ModbusClientMixin", PEERS / "pymodbus_client.py")
    assert left == {"execute"}


@pytest.mark.parametrize("kind", CLIENTS)
def test_server(python: Path, kind: Kind) -> None:
    steps = steps_for(PYMODBUS_SERVER.kinds, refuses=PYMODBUS_SERVER.kinds, far=False, but=SERVER_DEVIATIONS)
    with serving(python, PEERS / "pymodbus_server.py") as (port, _):
        assert run(port, steps, kind=kind) == answers(steps)
