"""Our side as a client, blocking and asynchronous, each method that there is, and the plan's words for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from inspect import isawaitable
from typing import Any, Final, Literal

from everbus.aio.client import AsyncClient
from everbus.aio.unit import AsyncUnit
from everbus.client.endpoint import parse_endpoint
from everbus.client.health import ClientStatistics
from everbus.errors import ExceptionResponseError, InvalidRequestError, MismatchError, PduError
from everbus.protocol.codes import DiagnosticCode as Sub
from everbus.protocol.pdu import bits, diagnostics, encapsulated, files, registers
from everbus.protocol.pdu.base import Response
from everbus.protocol.pdu.table import AnyRequest
from everbus.sync.client import Client
from everbus.sync.unit import Unit
from tests.interop.plan import REFUSED, Step

__all__ = ["CLIENTS", "KINDS", "answers", "request_of", "run"]

Call = tuple[AnyRequest, Callable[[Any], Any]]
_TIMEOUT_S: Final = 10.0


def _true(_: Response) -> bool:
    return True


def _bits(request: AnyRequest, count: int) -> Call:
    return request, lambda response: [int(bit) for bit in response.bits[:count]]


def _diagnostics(sub: Sub, data: str = "0000") -> diagnostics.DiagnosticsRequest:
    return diagnostics.DiagnosticsRequest(sub, bytes.fromhex(data))


def _counter(sub: Sub) -> Callable[[], Call]:
    return lambda: (_diagnostics(sub), lambda response: int.from_bytes(response.data, "big"))


def _objects(response: encapsulated.ReadDeviceIdentificationResponse) -> list[Any]:
    objects = {str(number): value.decode() for number, value in response.objects}
    return [response.more_follows == encapsulated.MORE_FOLLOWS, response.next_object_id, objects]


def _read_groups(groups: list[list[int]]) -> list[files.FileGroup]:
    return [files.FileGroup(file, record, count) for file, record, count in groups]


def _write_groups(groups: list[list[Any]]) -> list[files.FileGroup]:
    return [files.FileGroup(file, record, len(data) // 4, bytes.fromhex(data)) for file, record, data in groups]


_CALLS: Final[dict[str, Callable[..., Call]]] = {
    "read_coils": lambda address, count: _bits(bits.ReadCoilsRequest(address, count), count),
    "read_discrete_inputs": lambda address, count: _bits(bits.ReadDiscreteInputsRequest(address, count), count),
    "read_holding_registers": lambda address, count: (
        registers.ReadHoldingRegistersRequest(address, count),
        lambda response: response.registers,
    ),
    "read_input_registers": lambda address, count: (
        registers.ReadInputRegistersRequest(address, count),
        lambda response: response.registers,
    ),
    "write_coil": lambda address, on: (bits.WriteSingleCoilRequest.of(address, on), _true),
    "write_register": lambda address, value: (registers.WriteSingleRegisterRequest(address, value), _true),
    "write_coils": lambda address, values: (bits.WriteMultipleCoilsRequest.of(address, values), _true),
    "write_registers": lambda address, values: (registers.WriteMultipleRegistersRequest.of(address, values), _true),
    "mask_write": lambda address, and_mask, or_mask: (
        registers.MaskWriteRegisterRequest(address, and_mask, or_mask),
        _true,
    ),
    "read_write": lambda *arguments: (
        registers.ReadWriteMultipleRegistersRequest.of(*arguments),
        lambda response: response.registers,
    ),
    "exception_status": lambda: (diagnostics.ReadExceptionStatusRequest(), lambda response: response.status),
    "query_data": lambda data: (_diagnostics(Sub.RETURN_QUERY_DATA, data), lambda response: response.data.hex()),
    "restart": lambda clear: (_diagnostics(Sub.RESTART_COMMUNICATIONS, "ff00" if clear else "0000"), _true),
    "diagnostic_register": _counter(Sub.RETURN_DIAGNOSTIC_REGISTER),
    "ascii_delimiter": lambda character: (_diagnostics(Sub.CHANGE_ASCII_DELIMITER, f"{character:02x}00"), _true),
    "listen_only": lambda: (_diagnostics(Sub.FORCE_LISTEN_ONLY), _true),
    "clear_counters": lambda: (_diagnostics(Sub.CLEAR_COUNTERS), _true),
    "bus_message_count": _counter(Sub.BUS_MESSAGE_COUNT),
    "bus_comm_error_count": _counter(Sub.BUS_COMM_ERROR_COUNT),
    "bus_exception_count": _counter(Sub.BUS_EXCEPTION_ERROR_COUNT),
    "server_message_count": _counter(Sub.SERVER_MESSAGE_COUNT),
    "server_no_response_count": _counter(Sub.SERVER_NO_RESPONSE_COUNT),
    "server_nak_count": _counter(Sub.SERVER_NAK_COUNT),
    "server_busy_count": _counter(Sub.SERVER_BUSY_COUNT),
    "bus_overrun_count": _counter(Sub.BUS_CHAR_OVERRUN_COUNT),
    "clear_overrun": lambda: (_diagnostics(Sub.CLEAR_OVERRUN_COUNTER), _true),
    "event_counter": lambda: (
        diagnostics.GetCommEventCounterRequest(),
        lambda response: [response.status, response.event_count],
    ),
    "event_log": lambda: (
        diagnostics.GetCommEventLogRequest(),
        lambda response: [response.status, response.event_count, response.message_count, response.events.hex()],
    ),
    "server_id": lambda: (
        diagnostics.ReportServerIdRequest(),
        lambda response: [response.data[:-1].hex(), response.data[-1] == 0xFF],
    ),
    "read_file": lambda groups: (
        files.ReadFileRecordRequest(_read_groups(groups)),
        lambda response: [data.hex() for data in response.groups],
    ),
    "write_file": lambda groups: (files.WriteFileRecordRequest(_write_groups(groups)), _true),
    "fifo": lambda address: (files.ReadFifoQueueRequest(address), lambda response: response.registers),
    "identify": lambda *arguments: (encapsulated.ReadDeviceIdentificationRequest(*arguments), _objects),
    "other_unit": lambda _, address, count: (registers.ReadHoldingRegistersRequest(address, count), _true),
}

KINDS: Final = frozenset(_CALLS)


def _ints(values: list[bool]) -> list[int]:
    return [int(value) for value in values]


def _server_id(data: bytes) -> list[Any]:
    return [data[:-1].hex(), data[-1] == 0xFF]


def _counted(sub: Sub) -> tuple[Callable[..., Any], Callable[[Any], Any]]:
    return lambda unit: unit.diagnostics(sub), int


_SAME: Final = list
_DONE: Final = lambda _: True  # noqa: E731  a name for what a write returns

_METHODS: Final[dict[str, tuple[Callable[..., Any], Callable[[Any], Any]]]] = {
    "read_coils": (lambda unit, *given: unit.read_coils(*given), _ints),
    "read_discrete_inputs": (lambda unit, *given: unit.read_discrete_inputs(*given), _ints),
    "read_holding_registers": (lambda unit, *given: unit.read_holding_registers(*given), _SAME),
    "read_input_registers": (lambda unit, *given: unit.read_input_registers(*given), _SAME),
    "write_coil": (lambda unit, *given: unit.write_coil(*given), _DONE),
    "write_register": (lambda unit, *given: unit.write_register(*given), _DONE),
    "write_coils": (lambda unit, *given: unit.write_coils(*given), _DONE),
    "write_registers": (lambda unit, *given: unit.write_registers(*given), _DONE),
    "mask_write": (lambda unit, *given: unit.mask_write_register(*given), _DONE),
    "read_write": (lambda unit, *given: unit.read_write_registers(*given), _SAME),
    "exception_status": (lambda unit: unit.read_exception_status(), int),
    "server_id": (lambda unit: unit.report_server_id(), _server_id),
    "fifo": (lambda unit, *given: unit.read_fifo_queue(*given), _SAME),
    "bus_message_count": _counted(Sub.BUS_MESSAGE_COUNT),
    "bus_comm_error_count": _counted(Sub.BUS_COMM_ERROR_COUNT),
    "bus_exception_count": _counted(Sub.BUS_EXCEPTION_ERROR_COUNT),
    "server_message_count": _counted(Sub.SERVER_MESSAGE_COUNT),
    "diagnostic_register": _counted(Sub.RETURN_DIAGNOSTIC_REGISTER),
}
"""Kinds that a unit has a method for, and the plan's words for what it returns; the others go through ``call``."""


async def _outcome(unit: Unit | AsyncUnit, step: Step) -> Any:
    if step.kind in _METHODS:
        method, words = _METHODS[step.kind]
        answer = method(unit, *step.arguments)
    else:
        request, words = _CALLS[step.kind](*step.arguments)
        answer = unit.call(request)
    return words(await answer if isawaitable(answer) else answer)


async def _answer(unit: Unit | AsyncUnit, step: Step) -> Any:
    try:
        return await _outcome(unit, step)
    except ExceptionResponseError as error:
        return {"exception": int(error.code)}
    except InvalidRequestError:
        return REFUSED
    except (MismatchError, PduError) as error:  # not an answer that a caller may get
        return type(error).__name__


def request_of(step: Step) -> AnyRequest:
    """What our client sends for a step, legal or not."""
    return _CALLS[step.kind](*step.arguments)[0]


def answers(steps: Iterable[Step]) -> list[tuple[list[Any], Any]]:
    """Calls with their answers, as they should be."""
    return [(step.call, step.answer) for step in steps]


Kind = Literal["sync", "async"]
CLIENTS: Final[tuple[Kind, ...]] = ("sync", "async")
_OPTIONS: Final[dict[str, Any]] = {"timeout_s": 10.0, "retries": 0}


def run(where: int | str, steps: Iterable[Step], unit: int = 1, kind: Kind = "sync") -> list[tuple[list[Any], Any]]:
    """Calls with their answers, as a server gave them to one of our clients.

    Args:
        where: its URL, or its port of TCP on 127.0.0.1.
        steps: what is asked.
        unit: who is asked.
        kind: which of our clients asks.
    """
    url = where if isinstance(where, str) else f"tcp://127.0.0.1:{where}"
    found, statistics = asyncio.run(_run(url, steps, unit, kind))
    mismatched = sum(answer in ("MismatchError", "PduError") for _, answer in found)
    seen = statistics.session
    assert (seen.late, seen.unknown, seen.mismatched) == (0, 0, mismatched)
    replaced = 0 if parse_endpoint(url).identified else mismatched  # without ids what follows could be its answer too
    assert statistics.connects == 1 + replaced
    return found


async def _run(url: str, steps: Iterable[Step], unit: int, kind: Kind) -> tuple[list[Any], ClientStatistics]:
    def number(step: Step) -> int:
        return int(step.arguments[0]) if step.kind == "other_unit" else unit

    if kind == "sync":
        with Client(url, **_OPTIONS) as client:
            found = [(step.call, await _answer(client.unit(number(step)), step)) for step in steps]
            return found, client.statistics()
    async with AsyncClient(url, **_OPTIONS) as asynchronous:
        found = [(step.call, await _answer(asynchronous.unit(number(step)), step)) for step in steps]
        return found, asynchronous.statistics()
