"""A pymodbus client: ``pymodbus_client.py sync|async PORT UNIT``, calls on stdin, answers on stdout.

PORT is one of TCP; or the path of a serial port, with 115200 baud and no parity; or ``udp:PORT``,
``rtu+tcp:PORT``, ``ascii+tcp:PORT``.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
from collections.abc import Callable
from typing import Any

from pymodbus import FramerType, ModbusException
from pymodbus.client import (
    AsyncModbusSerialClient,
    AsyncModbusTcpClient,
    AsyncModbusUdpClient,
    ModbusSerialClient,
    ModbusTcpClient,
    ModbusUdpClient,
)
from pymodbus.pdu.file_message import FileRecord


def true(_: Any) -> bool:
    return True


def bits(count: int) -> Callable[[Any], list[int]]:
    return lambda response: [int(bit) for bit in response.bits[:count]]


def registers(response: Any) -> list[int]:
    return list(response.registers)


def word(response: Any) -> int:
    """The message of a diagnostic response: one word, bare or in a sequence."""
    message = response.message
    return int(message if isinstance(message, int) else message[0])


def status(response: Any) -> int:
    """The status word that it calls ready, or not."""
    return 0 if response.status else 0xFFFF


def identity(response: Any) -> list[Any]:
    objects = {str(number): value.decode() for number, value in response.information.items()}
    return [bool(response.more_follows), response.next_object_id, objects]


def read_groups(groups: list[list[int]]) -> list[Any]:
    return [FileRecord(file, record, record_length=2 * count) for file, record, count in groups]


def write_groups(groups: list[list[Any]]) -> list[Any]:
    return [FileRecord(file, record, bytes.fromhex(data)) for file, record, data in groups]


Call = tuple[Any, Callable[[Any], Any]]


def calls(client: Any, unit: int) -> dict[str, Callable[..., Call]]:
    """Each kind of step: the call, and its answer in the plan's words."""
    here = {"device_id": unit}
    return {
        "read_coils": lambda at, count: (client.read_coils(at, count=count, **here), bits(count)),
        "read_discrete_inputs": lambda at, count: (client.read_discrete_inputs(at, count=count, **here), bits(count)),
        "read_holding_registers": lambda at, count: (
            client.read_holding_registers(at, count=count, **here),
            registers,
        ),
        "read_input_registers": lambda at, count: (client.read_input_registers(at, count=count, **here), registers),
        "write_coil": lambda at, on: (client.write_coil(at, on, **here), true),
        "write_register": lambda at, value: (client.write_register(at, value, **here), true),
        "write_coils": lambda at, values: (client.write_coils(at, [bool(value) for value in values], **here), true),
        "write_registers": lambda at, values: (client.write_registers(at, values, **here), true),
        "mask_write": lambda at, and_mask, or_mask: (
            client.mask_write_register(address=at, and_mask=and_mask, or_mask=or_mask, **here),
            true,
        ),
        "read_write": lambda at, count, write_at, values: (
            client.readwrite_registers(
                read_address=at, read_count=count, write_address=write_at, values=values, **here
            ),
            registers,
        ),
        "exception_status": lambda: (client.read_exception_status(**here), lambda response: response.status),
        "query_data": lambda data: (
            client.diag_query_data(bytes.fromhex(data), **here),
            lambda response: bytes(response.message).hex(),
        ),
        "restart": lambda clear: (client.diag_restart_communication(clear, **here), true),
        "diagnostic_register": lambda: (client.diag_read_diagnostic_register(**here), word),
        "ascii_delimiter": lambda character: (
            client.diag_change_ascii_input_delimeter(delimiter=character << 8, **here),
            true,
        ),
        "listen_only": lambda: (client.diag_force_listen_only(no_response_expected=False, **here), true),
        "clear_counters": lambda: (client.diag_clear_counters(**here), true),
        "bus_message_count": lambda: (client.diag_read_bus_message_count(**here), word),
        "bus_comm_error_count": lambda: (client.diag_read_bus_comm_error_count(**here), word),
        "bus_exception_count": lambda: (client.diag_read_bus_exception_error_count(**here), word),
        "server_message_count": lambda: (client.diag_read_device_message_count(**here), word),
        "server_no_response_count": lambda: (client.diag_read_device_no_response_count(**here), word),
        "server_nak_count": lambda: (client.diag_read_device_nak_count(**here), word),
        "server_busy_count": lambda: (client.diag_read_device_busy_count(**here), word),
        "bus_overrun_count": lambda: (client.diag_read_bus_char_overrun_count(**here), word),
        "iop_overrun_count": lambda: (client.diag_read_iop_overrun_count(**here), word),
        "clear_overrun": lambda: (client.diag_clear_overrun_counter(**here), true),
        "modbus_plus": lambda: (client.diag_getclear_modbus_response(**here), true),
        "event_counter": lambda: (
            client.diag_get_comm_event_counter(**here),
            lambda response: [status(response), response.count],
        ),
        "event_log": lambda: (
            client.diag_get_comm_event_log(**here),
            lambda response: [
                status(response),
                response.event_count,
                response.message_count,
                bytes(response.events).hex(),
            ],
        ),
        "server_id": lambda: (
            client.report_device_id(**here),
            lambda response: [response.identifier.hex(), response.status],
        ),
        "read_file": lambda groups: (
            client.read_file_record(read_groups(groups), **here),
            lambda response: [record.record_data.hex() for record in response.records],
        ),
        "write_file": lambda groups: (client.write_file_record(write_groups(groups), **here), true),
        "fifo": lambda at: (client.read_fifo_queue(address=at, **here), lambda response: list(response.values)),
        "identify": lambda code, number: (
            client.read_device_information(read_code=code, object_id=number, **here),
            identity,
        ),
        "other_unit": lambda other, at, count: (
            client.read_holding_registers(at, count=count, device_id=other),
            registers,
        ),
    }


async def answer(known: dict[str, Callable[..., Call]], kind: str, *arguments: Any) -> Any:
    try:
        response, words = known[kind](*arguments)
        if inspect.isawaitable(response):
            response = await response
    except ValueError:  # its own check, before anything is sent
        return "refused"
    except ModbusException as error:
        return f"{type(error).__name__}: {error}"
    return {"exception": response.exception_code} if response.isError() else words(response)


def new_client(mode: str, port: str) -> Any:
    if port.startswith("/"):
        kind = AsyncModbusSerialClient if mode == "async" else ModbusSerialClient
        return kind(port, baudrate=115200, timeout=5)
    scheme, _, number = port.rpartition(":")
    if scheme == "udp":
        kind = AsyncModbusUdpClient if mode == "async" else ModbusUdpClient
    else:
        kind = AsyncModbusTcpClient if mode == "async" else ModbusTcpClient
    framer = FramerType(scheme.removesuffix("+tcp")) if "+" in scheme else FramerType.SOCKET
    return kind("127.0.0.1", port=int(number), timeout=5, framer=framer)


async def main(mode: str, port: str, unit: int) -> None:
    client = new_client(mode, port)
    connected = client.connect()
    assert (await connected) if inspect.isawaitable(connected) else connected
    known = calls(client, unit)
    found = [await answer(known, *call) for call in json.load(sys.stdin)]
    client.close()
    print(json.dumps(found))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
