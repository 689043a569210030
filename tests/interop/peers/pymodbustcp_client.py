"""A pyModbusTCP client: ``pymodbustcp_client.py PORT UNIT``, calls on stdin, answers on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

from pyModbusTCP.client import ModbusClient
from pyModbusTCP.constants import MB_EXCEPT_ERR

Answer = Callable[[Any], Any]


def numbers(values: list[Any]) -> list[int]:
    return [int(value) for value in values]


def itself(value: Any) -> Any:
    return value


def objects(response: Any) -> list[Any]:
    found = {str(number): value.decode() for number, value in response.objects_by_id.items()}
    return [bool(response.more_follows), response.next_object_id, found]


def raw(pdu: bytes) -> Any:
    return {"exception": pdu[1]} if pdu[0] & 0x80 else pdu.hex()


def calls(client: ModbusClient) -> dict[str, tuple[Callable[..., Any], Answer]]:
    """Each kind of step: the call, and its answer in the plan's words."""
    return {
        "read_coils": (client.read_coils, numbers),
        "read_discrete_inputs": (client.read_discrete_inputs, numbers),
        "read_holding_registers": (client.read_holding_registers, itself),
        "read_input_registers": (client.read_input_registers, itself),
        "write_coil": (client.write_single_coil, itself),
        "write_register": (client.write_single_register, itself),
        "write_coils": (client.write_multiple_coils, itself),
        "write_registers": (client.write_multiple_registers, itself),
        "read_write": (
            lambda at, count, write_at, values: client.write_read_multiple_registers(write_at, values, at, count),
            itself,
        ),
        "identify": (client.read_device_identification, objects),
        "custom": (lambda pdu: client.custom_request(bytes.fromhex(pdu)), raw),
        "other_unit": (client.read_holding_registers, itself),
    }


def answer(client: ModbusClient, unit: int, kind: str, *arguments: Any) -> Any:
    client.unit_id = unit
    if kind == "other_unit":
        client.unit_id, arguments = arguments[0], arguments[1:]
    call, words = calls(client)[kind]
    try:
        found = call(*arguments)
    except ValueError:  # its own check, before anything is sent
        return "refused"
    if not found:  # None, or False for a write
        failed = client.last_error == MB_EXCEPT_ERR
        return {"exception": client.last_except} if failed else client.last_error_as_txt
    return words(found)


def main(port: int, unit: int) -> None:
    client = ModbusClient("127.0.0.1", port, timeout=5)
    found = [answer(client, unit, *call) for call in json.load(sys.stdin)]
    client.close()
    print(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
