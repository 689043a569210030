"""``everbus serve`` with devices that hold what the plan says.

The command has no option to fill the tables that clients only read, and the rest of a device.
"""

from __future__ import annotations

import sys

from everbus.cli import serve
from everbus.cli.entry import main
from everbus.service.bank import Bank
from everbus.service.files import FifoQueues, FileStore
from everbus.service.identification import Identification
from everbus.service.local import LocalDevice
from tests.interop import plan

RANGES = [(0, plan.ITEMS), plan.LAST_ITEMS]


def filled() -> LocalDevice:
    """A device with the content of the plan."""
    bank = Bank(coils=RANGES, discrete_inputs=RANGES, input_registers=RANGES, holding_registers=RANGES)
    for address, count in RANGES:
        bank.write_coils(address, plan.coils(address, count))
        bank.write_discrete_inputs(address, plan.discrete_inputs(address, count))
        bank.write_input_registers(address, plan.input_registers(address, count))
        bank.write_holding_registers(address, plan.holding_registers(address, count))
    queues = FifoQueues(plan.QUEUES)
    for address, values in plan.QUEUES.items():
        for value in values:
            queues.push(address, value)
    more = {number: text for number, text in plan.OBJECTS.items() if number > 2}
    device = LocalDevice(
        bank,
        identification=Identification(plan.OBJECTS[0], plan.OBJECTS[1], plan.OBJECTS[2], more),
        server_id=plan.SERVER_ID,
        files=FileStore(plan.FILE_RECORDS),
        queues=queues,
    )
    device.exception_status = plan.EXCEPTION_STATUS
    device.diagnostics.diagnostic_register = plan.DIAGNOSTIC_REGISTER
    return device


if __name__ == "__main__":
    vars(serve)["LocalDevice"] = filled  # what the command makes for each --unit
    sys.exit(main(["serve", *sys.argv[1:]]))
