"""What a rogue device answers to "two holding registers from address 7 of unit 1", and what a client makes of it.

The fifteen of field measurements that every other client takes wrongly somewhere (V03, V21, E2).
"""

from __future__ import annotations

from everbus.errors import (
    ConnectionLostError,
    ExceptionResponseError,
    MismatchError,
    ModbusError,
    ModbusTimeoutError,
    PduError,
)
from everbus.service.bank import Bank
from everbus.testing import scripted
from everbus.testing.scripted import Step

ADDRESS = 7
VALUES = [0x1234, 0x5678]


def bank() -> Bank:
    """Every holding register has a value of its own, so that a wrong answer is seen."""
    made = Bank()
    made.write_holding_registers(0, [(0x1234 + (at - ADDRESS) * 0x4444) & 0xFFFF for at in range(1000)])
    return made


def value(address: int) -> int:
    """What ``bank`` holds there."""
    return (0x1234 + (address - ADDRESS) * 0x4444) & 0xFFFF


ROGUES: dict[str, tuple[Step, type[ModbusError]]] = {
    "wrong transaction": (scripted.wrong_transaction(), ModbusTimeoutError),
    "swapped transaction": (scripted.wrong_transaction(0x100), ModbusTimeoutError),
    "wrong unit": (scripted.wrong_unit(9), MismatchError),
    "another function": (scripted.pdu(bytes.fromhex("040412345678")), MismatchError),
    "another function's exception": (scripted.exception(2, function=4), MismatchError),
    "one register": (scripted.pdu(bytes.fromhex("03021234")), MismatchError),
    "five registers": (scripted.pdu(bytes.fromhex("030A") + bytes(10)), MismatchError),
    "byte count too large": (scripted.pdu(bytes.fromhex("03FA12345678")), PduError),
    "byte count odd": (scripted.pdu(bytes.fromhex("0303123456")), PduError),
    "unknown function": (scripted.pdu(bytes.fromhex("41")), PduError),
    "foreign protocol": (scripted.wrong_protocol(), ConnectionLostError),
    "garbage": (scripted.raw(b"\xde\xad\xbe\xef" * 8), ConnectionLostError),
    "partial": (scripted.partial(9), ModbusTimeoutError),
    "closed in mid answer": (scripted.partial(9, then_close=True), ConnectionLostError),
    "closed": (scripted.close, ConnectionLostError),
    "reset": (scripted.reset, ConnectionLostError),
    "silence": (scripted.silent, ModbusTimeoutError),
    "late": (scripted.late(0.25), ModbusTimeoutError),
    "dripped": (scripted.drip(0.05), ModbusTimeoutError),
    "exception": (scripted.exception(2), ExceptionResponseError),
}
"""Step, and the error that the client raises with a timeout of 0.1 s and no retries."""
