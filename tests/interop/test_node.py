"""Node's stacks: jsmodbus and modbus-serial, as clients."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.interop.ours import answers, run
from tests.interop.plan import REFUSED, SERVER_ID, Deviations, effects, exception, holding_registers, steps_for
from tests.interop.stacks import JSMODBUS_CLIENT, MODBUS_SERIAL_CLIENT
from tests.interop.support import HERE, Device, node_with, peer_answers

pytestmark = [pytest.mark.interop, pytest.mark.timeout(300)]

JSMODBUS_DEVIATIONS: Final[Deviations] = [
    (["read_coils", 0, 2001], REFUSED),
    (["read_discrete_inputs", 0, 2001], REFUSED),
    # It cuts a PDU off at 246 bytes, so that the byte count of 10 is wrong from 121 registers on.
    (["write_registers", 1000], exception(3)),
    (["read_holding_registers", 1000, 123], holding_registers(1000, 123)),
]

SERIAL_DEVIATIONS: Final[Deviations] = [
    (["server_id"], [SERVER_ID[0], False, SERVER_ID[2:].hex() + "ff"]),  # takes the second byte for the run status
    # It reads 100 records of one group, whatever they are.
    (["read_file", [[4, 7, 3]]], ["06af04be100d".ljust(400, "0")]),
    (["read_file", [[4, 0, 3], [3, 9_998, 2]]], ["00000dfe0020000000000000000006af04be100d".ljust(400, "0")]),
    (["custom", "0300000002"], "030104"),  # parsed as the read that it is: registers, not bytes
]


@pytest.fixture(scope="session")
def environ() -> dict[str, str]:
    return node_with(HERE / "node")


def test_jsmodbus_client(environ: dict[str, str], device: Device) -> None:
    unit = device.fresh_unit()
    steps = steps_for(JSMODBUS_CLIENT.kinds, but=JSMODBUS_DEVIATIONS)
    command: list[str | Path] = ["node", HERE / "node" / "jsmodbus_client.js"]
    assert peer_answers(command, device.port, unit, steps, environ) == answers(steps)
    left = effects(JSMODBUS_CLIENT.kinds, but=JSMODBUS_DEVIATIONS)
    assert run(device.port, left, unit) == answers(left)


def test_modbus_serial_client(environ: dict[str, str], device: Device) -> None:
    unit = device.fresh_unit()
    files = steps_for({"write_file"})
    assert run(device.port, files, unit) == answers(files)
    steps = steps_for(MODBUS_SERIAL_CLIENT.kinds, but=SERIAL_DEVIATIONS)
    command: list[str | Path] = ["node", HERE / "node" / "modbus_serial_client.js"]
    assert peer_answers(command, device.port, unit, steps, environ) == answers(steps)
    left = effects(MODBUS_SERIAL_CLIENT.kinds)
    assert run(device.port, left, unit) == answers(left)
