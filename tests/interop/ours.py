"""Our side as a client: the state machine of everbus over a plain socket, and the plan's words for it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Final, Self

from everbus.errors import ExceptionResponseError, InvalidRequestError, MismatchError, PduError
from everbus.protocol.client_session import ClientSession
from everbus.protocol.codes import DiagnosticCode as Sub
from everbus.protocol.pdu import bits, diagnostics, encapsulated, files, registers
from everbus.protocol.pdu.base import Request, Response
from everbus.protocol.pdu.table import AnyRequest
from tests.interop.plan import REFUSED, Step

__all__ = ["KINDS", "Client", "answers", "request_of", "run"]

Call = tuple[AnyRequest, Callable[[Any], Any]]
_TIMEOUT_S: Final = 10.0


class Client:
    """One connection; one request at a time."""

    def __init__(self, port: int, unit: int = 1) -> None:
        self.unit = unit
        self.session = ClientSession()
        self._socket = socket.create_connection(("127.0.0.1", port), _TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._socket.close()

    def ask(self, request: Request[Any], unit: int | None = None) -> Response:
        """The response; raises what the session makes of it, an exception response included."""
        transaction, data = self.session.submit(self.unit if unit is None else unit, request)
        self._socket.sendall(data)
        while True:
            data = self._socket.recv(4096)
            assert data, f"the server closed the connection after {request!r}"
            for completion in self.session.receive(data):
                assert completion.transaction == transaction
                if completion.error is not None:
                    raise completion.error
                assert completion.response is not None
                return completion.response
            assert self.session.fault is None, str(self.session.fault)


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


def _answer(client: Client, step: Step) -> Any:
    request, words = _CALLS[step.kind](*step.arguments)
    unit = step.arguments[0] if step.kind == "other_unit" else None
    try:
        return words(client.ask(request, unit))
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


def run(port: int, steps: Iterable[Step], unit: int = 1) -> list[tuple[list[Any], Any]]:
    """Calls with their answers, as a server gave them to our client."""
    with Client(port, unit) as client:
        found = [(step.call, _answer(client, step)) for step in steps]
        statistics = client.session.statistics()
    mismatched = sum(answer in ("MismatchError", "PduError") for _, answer in found)
    assert (statistics.late, statistics.unknown, statistics.mismatched) == (0, 0, mismatched)
    return found
