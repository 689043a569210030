"""A tmodbus client: ``tmodbus_client.py PORT UNIT``, calls on stdin, answers on stdout."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from tmodbus import create_async_tcp_client
from tmodbus.exceptions import InvalidRequestError, ModbusResponseError, TModbusError
from tmodbus.pdu import FileRecord, FileRecordRequest

Words = Callable[[Any], Any]


def true(_: Any) -> bool:
    return True


def numbers(values: list[Any]) -> list[int]:
    return [int(value) for value in values]


def itself(value: Any) -> Any:
    return value


def objects(found: dict[int, bytes]) -> dict[str, str]:
    return {str(number): value.decode() for number, value in found.items()}


def read_groups(groups: list[list[int]]) -> list[Any]:
    return [FileRecordRequest(*group) for group in groups]


def write_groups(groups: list[list[Any]]) -> list[Any]:
    return [FileRecord(file, record, bytes.fromhex(data)) for file, record, data in groups]


def calls(client: Any) -> dict[str, tuple[Callable[..., Awaitable[Any]], Words]]:
    """Each kind of step: the call, and its answer in the plan's words."""
    return {
        "read_coils": (client.read_coils, numbers),
        "read_discrete_inputs": (client.read_discrete_inputs, numbers),
        "read_holding_registers": (client.read_holding_registers, itself),
        "read_input_registers": (client.read_input_registers, itself),
        "write_coil": (client.write_single_coil, true),
        "write_register": (client.write_single_register, true),
        "write_coils": (lambda at, values: client.write_multiple_coils(at, [bool(value) for value in values]), true),
        "write_registers": (client.write_multiple_registers, true),
        "mask_write": (client.mask_write_register, true),
        "read_write": (client.read_write_multiple_registers, itself),
        "exception_status": (client.read_exception_status, itself),
        "query_data": (lambda data: client.diag_read_query_data(bytes.fromhex(data)), bytes.hex),
        "restart": (client.diag_restart_communications_option, true),
        "diagnostic_register": (client.diag_read_diagnostic_register, itself),
        "ascii_delimiter": (client.diag_change_ascii_input_delimiter, true),
        "listen_only": (client.diag_force_listen_only_mode, true),
        "clear_counters": (client.diag_clear_counters_and_register, true),
        "bus_message_count": (client.diag_read_bus_message_count, itself),
        "bus_comm_error_count": (client.diag_read_bus_communication_error_count, itself),
        "bus_exception_count": (client.diag_read_bus_exception_error_count, itself),
        "server_message_count": (client.diag_read_server_message_count, itself),
        "server_no_response_count": (client.diag_read_server_no_response_count, itself),
        "server_nak_count": (client.diag_read_server_nak_count, itself),
        "server_busy_count": (client.diag_read_server_busy_count, itself),
        "bus_overrun_count": (client.diag_read_bus_character_overrun_count, itself),
        "clear_overrun": (client.diag_clear_overrun_counter_and_flag, true),
        "event_counter": (client.get_comm_event_counter, lambda found: [found.status, found.event_count]),
        "event_log": (
            client.get_comm_event_log,
            lambda found: [found.status, found.event_count, found.message_count, found.events.hex()],
        ),
        "server_id": (
            client.read_server_id,
            lambda found: [found.server_id.hex(), found.run_indicator_status],
        ),
        "read_file": (
            lambda groups: client.read_file_records(read_groups(groups)),
            lambda found: [data.hex() for data in found],
        ),
        "write_file": (lambda groups: client.write_file_records(write_groups(groups)), true),
        "fifo": (client.read_fifo_queue, itself),
        "identify_all": (lambda code: client.read_device_identification(code, 0), objects),
        "other_unit": (
            lambda other, at, count: client.for_unit_id(other).read_holding_registers(at, count),
            itself,
        ),
    }


async def answer(client: Any, kind: str, *arguments: Any) -> Any:
    call, words = calls(client)[kind]
    try:
        return words(await call(*arguments))
    except ModbusResponseError as error:
        return {"exception": int(error.error_code)}
    except (ValueError, InvalidRequestError):  # its own check, before anything is sent
        return "refused"
    except TModbusError as error:
        return f"{type(error).__name__}: {error}"


async def main(port: int, unit: int) -> None:
    client = create_async_tcp_client("127.0.0.1", port, unit_id=unit, timeout=3, auto_reconnect=False)
    async with client:
        found = [await answer(client, *call) for call in json.load(sys.stdin)]
    print(json.dumps(found))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
