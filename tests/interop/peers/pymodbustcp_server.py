"""A pyModbusTCP server with the content of the plan; prints its port."""

from __future__ import annotations

import socket

from pyModbusTCP.server import DataBank, DeviceIdentification, ModbusServer

from tests.interop import plan


def main() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    size = plan.ITEMS
    bank = DataBank(coils_size=size, d_inputs_size=size, h_regs_size=size, i_regs_size=size)
    bank.set_coils(0, plan.coils(0, size))
    bank.set_discrete_inputs(0, plan.discrete_inputs(0, size))
    bank.set_holding_registers(0, plan.holding_registers(0, size))
    bank.set_input_registers(0, plan.input_registers(0, size))
    objects = {number: text.encode() for number, text in plan.OBJECTS.items()}
    identity = DeviceIdentification(objects_id=objects)
    print(port, flush=True)
    ModbusServer("127.0.0.1", port, data_bank=bank, device_id=identity).start()


if __name__ == "__main__":
    main()
