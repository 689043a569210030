"""Every function code as a method of a unit: what it sends, and what it returns from a truthful device."""

from __future__ import annotations

from everbus.protocol.pdu.files import FileGroup
from everbus.service.bank import Bank
from everbus.service.files import FifoQueues, FileStore
from everbus.service.identification import Identification
from everbus.service.local import LocalDevice

CALLS: list[tuple[str, tuple[object, ...], str, object]] = [
    ("read_coils", (3, 10), "010003000A", [False, True, *[False] * 8]),
    ("read_discrete_inputs", (0, 1), "0200000001", [True]),
    ("read_holding_registers", (2, 2), "0300020002", [0x1234, 0xFFFF]),
    ("read_input_registers", (9, 1), "0400090001", [77]),
    ("write_coil", (8, True), "050008FF00", None),
    ("write_coil", (8, False), "0500080000", None),
    ("write_register", (100, 0xABCD), "060064ABCD", None),
    ("read_exception_status", (), "07", 0),
    ("diagnostics", (0, 0xA5A5), "080000A5A5", 0xA5A5),
    ("diagnostics", (0x0B,), "08000B0000", 10),
    ("get_comm_event_counter", (), "0B", (False, 10)),
    ("get_comm_event_log", (), "0C", b""),
    ("write_coils", (0, [True, False, True]), "0F000000030105", None),
    ("write_registers", (50, [1, 2]), "1000320002040001" + "0002", None),
    ("report_server_id", (), "11", b"everbus\xff"),
    ("read_file_record", (4, 1, 2), "14070600040001" + "0002", [10, 11]),
    ("write_file_record", (4, 1, [7]), "15090600040001" + "0001" + "0007", None),
    ("mask_write_register", (4, 0xF2, 0x25), "16000400F20025", None),
    ("read_write_registers", (2, 1, 60, [9]), "170002000100" + "3C0001020009", [0x1234]),
    ("read_fifo_queue", (1246,), "1804DE", [0x01B8, 0x1284]),
    ("read_device_identification", (), "2B0E0100", {0: b"Maker", 1: b"P1", 2: b"1.0"}),
]
"""Method, arguments, the request's PDU, what it returns."""


def device() -> LocalDevice:
    """A device that has something to say to each of them."""
    bank = Bank()
    bank.write_coils(4, [True])
    bank.write_discrete_inputs(0, [True])
    bank.write_holding_registers(2, [0x1234, 0xFFFF])
    bank.write_input_registers(9, [77])
    files = FileStore()
    files.write([FileGroup(4, 1, 2, bytes.fromhex("000A000B"))])
    queues = FifoQueues()
    for value in (0x01B8, 0x1284):
        queues.push(1246, value)
    return LocalDevice(bank, identification=Identification("Maker", "P1", "1.0"), files=files, queues=queues)
