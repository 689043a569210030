"""tmodbus, client and server."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.interop.ours import CLIENTS, KINDS, Kind, answers, run
from tests.interop.plan import READS, REFUSED, Deviations, effects, exception, steps_for
from tests.interop.stacks import TMODBUS_CLIENT, TMODBUS_SERVER
from tests.interop.support import PEERS, Device, methods_not_called, peer_answers, python_with, serving
from tools.environments import TMODBUS, newer_python

pytestmark = [pytest.mark.interop, pytest.mark.timeout(300)]

CLIENT_DEVIATIONS: Final[Deviations] = [(["listen_only"], REFUSED)]
"""It sends 08/04 on serial lines alone: nobody answers it there."""

NOT_SERVED: Final = KINDS - TMODBUS_SERVER.kinds
"""Kinds that ``tmodbus_server.py`` gives no handler: they get exception 01."""


def newer_with(requirement: str) -> Path:
    """The Python of an environment with tmodbus installed; skips where it cannot be had."""
    newer = newer_python((3, 12))
    if newer is None:
        pytest.skip("tmodbus needs Python 3.12 or later, and there is none: install one, with its venv module")
    return python_with(requirement, newer)


@pytest.fixture(scope="session")
def python() -> Path:
    return newer_with(TMODBUS)


def test_client(python: Path, device: Device) -> None:
    unit = device.fresh_unit()
    steps = steps_for(TMODBUS_CLIENT.kinds, refuses=READS, but=CLIENT_DEVIATIONS)
    found = peer_answers([python, PEERS / "tmodbus_client.py"], device.port, unit, steps)
    assert found == answers(steps)
    left = effects(TMODBUS_CLIENT.kinds)
    assert run(device.port, left, unit) == answers(left)


def test_the_client_makes_every_call_that_there_is(python: Path) -> None:
    left = methods_not_called(python, "tmodbus.client.async_client:AsyncModbusClient", PEERS / "tmodbus_client.py")
    assert left == {"connect", "disconnect", "execute", "read_file_record", "write_file_record"}


@pytest.mark.parametrize("kind", CLIENTS)
def test_server(python: Path, kind: Kind) -> None:
    steps = steps_for(KINDS, refuses=KINDS, far=False, but=[([kind], exception(1)) for kind in NOT_SERVED])
    with serving(python, PEERS / "tmodbus_server.py") as (port, _):
        assert run(port, steps, kind=kind) == answers(steps)
