"""A device in memory that does every public function code but 2B/0D."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final

from everbus.errors import ConfigurationError, ExceptionResponseError
from everbus.observe import Observer
from everbus.protocol.codes import (
    MAX_READ_BITS,
    MAX_READ_REGISTERS,
    DiagnosticCode,
    ExceptionCode,
    FunctionCode,
    function_name,
)
from everbus.protocol.pdu import bits, diagnostics, encapsulated, files, registers
from everbus.protocol.pdu.base import Response
from everbus.protocol.pdu.table import AnyRequest
from everbus.service.bank import Bank, TableName
from everbus.service.context import RequestContext
from everbus.service.diagnostics import Diagnostics
from everbus.service.files import FifoQueues, FileStore
from everbus.service.handler import SILENT, Answer
from everbus.service.identification import Identification

__all__ = ["LocalDevice"]

_RUN: Final = b"\xff"
_READS: Final = {
    FunctionCode.READ_COILS: (TableName.COILS, MAX_READ_BITS),
    FunctionCode.READ_DISCRETE_INPUTS: (TableName.DISCRETE_INPUTS, MAX_READ_BITS),
    FunctionCode.READ_HOLDING_REGISTERS: (TableName.HOLDING_REGISTERS, MAX_READ_REGISTERS),
    FunctionCode.READ_INPUT_REGISTERS: (TableName.INPUT_REGISTERS, MAX_READ_REGISTERS),
}
_READ_REQUEST_BYTES: Final = 5

_Plan = tuple[bytes, Callable[[], bytes | bytearray]]
"""How a plain read is answered: the response's function code and byte count, and where the rest comes from."""

_MOST_PLANS: Final = 512
"""What is remembered of reads, about 250 KiB a device: a stranger's odd requests cost no more."""

_ReadRequest = bits.ReadBitsRequest[Any] | registers.ReadRegistersRequest[Any]
_MOST_DATA_BYTES: Final = 250


class LocalDevice:
    """A device over a register bank, with files, queues, identity, counters and event log.

    Args:
        bank: its tables; a full one by default.
        identification: what 2B/0E says.
        server_id: what 11 says before the run status, which is "on".
        files: what 14 and 15 reach.
        queues: what 18 reaches.

    Raises:
        ConfigurationError: the server id does not fit a response.
    """

    def __init__(
        self,
        bank: Bank | None = None,
        *,
        identification: Identification | None = None,
        server_id: bytes = b"everbus",
        files: FileStore | None = None,
        queues: FifoQueues | None = None,
    ) -> None:
        self.bank: Bank = bank or Bank()
        self.identification: Identification = identification or Identification()
        if len(server_id) >= _MOST_DATA_BYTES:
            raise ConfigurationError(f"server_id has {len(server_id)} bytes, a response holds {_MOST_DATA_BYTES - 1}")
        self.server_id: bytes = server_id
        self.files: FileStore = files or FileStore()
        self.queues: FifoQueues = queues or FifoQueues()
        self.diagnostics: Diagnostics = Diagnostics()
        self.exception_status = 0
        """What 07 says: eight bits, 0..255."""
        self.ascii_delimiter: int = 0x0A
        """Set by 08/03; belongs to this unit."""
        self._wire = {int(code): (self.bank.table(name), most) for code, (name, most) in _READS.items()}
        self._plans: dict[bytes, _Plan] = {}

    def attach(self, lock: AbstractContextManager[object], observer: Observer) -> None:
        """Take over a host's lock and observer. Called by the host at start."""
        self.bank.attach(lock, observer)

    def answer_wire(self, pdu: bytes) -> bytes | None:
        """The response PDU to a plain, legal read of 01 to 04; None: it takes the long way."""
        plan = self._plans.get(pdu) or self._plan(pdu)
        if plan is None or self.diagnostics.listen_only:
            return None
        head, read = plan
        with self.bank.lock:
            data = read()
        self.diagnostics.reads += 1
        return head + data

    def _plan(self, pdu: bytes) -> _Plan | None:
        """How to answer a plain read, kept for the next time: whoever polls asks the same again and again."""
        entry = self._wire.get(pdu[0])
        if entry is None or len(pdu) != _READ_REQUEST_BYTES:
            return None
        table, most = entry
        address = pdu[1] << 8 | pdu[2]
        quantity = pdu[3] << 8 | pdu[4]
        if not 0 < quantity <= most or not table.covers(address, quantity):
            return None
        if len(self._plans) >= _MOST_PLANS:
            self._plans.clear()
        plan = bytes((pdu[0], table.bytes_for(quantity))), table.reader(address, quantity)
        self._plans[pdu] = plan
        return plan

    def handle(self, request: AnyRequest, context: RequestContext) -> Answer:
        """Answer one request from memory.

        Raises:
            ExceptionResponseError: 01 what this device does not do, 02 items that it does not
                have, 03 and 04 as spec.md 1.4 has it.
        """
        operation = _OPERATIONS.get(type(request))
        if operation is None:
            text = f"{function_name(request.function_code)} is not supported here"
            raise ExceptionResponseError(ExceptionCode.ILLEGAL_FUNCTION, request.function_code, text)
        return operation(self, request, context)

    def _read(self, request: _ReadRequest, _: RequestContext) -> Response:
        name, _most = _READS[FunctionCode(request.function_code)]
        data = self.bank.read_wire(name, request.address, request.quantity)
        response: Response = request.response_type(data)
        return response

    def _write_coil(self, request: bits.WriteSingleCoilRequest, context: RequestContext) -> Response:
        data = b"\1" if request.on else b"\0"
        self.bank.write_wire(TableName.COILS, request.address, 1, data, context)
        return request.respond()

    def _write_coils(self, request: bits.WriteMultipleCoilsRequest, context: RequestContext) -> Response:
        self.bank.write_wire(TableName.COILS, request.address, request.quantity, request.data, context)
        return request.respond()

    def _write_register(self, request: registers.WriteSingleRegisterRequest, context: RequestContext) -> Response:
        data = request.value.to_bytes(2, "big")
        self.bank.write_wire(TableName.HOLDING_REGISTERS, request.address, 1, data, context)
        return request.respond()

    def _write_registers(self, request: registers.WriteMultipleRegistersRequest, context: RequestContext) -> Response:
        self.bank.write_wire(TableName.HOLDING_REGISTERS, request.address, request.quantity, request.data, context)
        return request.respond()

    def _mask_write(self, request: registers.MaskWriteRegisterRequest, context: RequestContext) -> Response:
        name = TableName.HOLDING_REGISTERS
        with self.bank.lock:
            current = int.from_bytes(self.bank.read_wire(name, request.address, 1), "big")
            self.bank.write_wire(name, request.address, 1, request.apply(current).to_bytes(2, "big"), context)
        return request.respond()

    def _read_write(self, request: registers.ReadWriteMultipleRegistersRequest, context: RequestContext) -> Response:
        name = TableName.HOLDING_REGISTERS
        table = self.bank.table(name)
        with self.bank.lock:  # both ranges exist, or nothing is written (CVE-2022-0367)
            table.require(request.read_address, request.read_quantity)
            self.bank.write_wire(name, request.write_address, request.write_quantity, request.data, context)
            data = bytes(table.read_wire(request.read_address, request.read_quantity))
        return registers.ReadWriteMultipleRegistersResponse(data)

    def _exception_status(self, _: AnyRequest, __: RequestContext) -> Response:
        return diagnostics.ReadExceptionStatusResponse(self.exception_status)

    def _diagnostics(self, request: diagnostics.DiagnosticsRequest, context: RequestContext) -> Answer:
        code = DiagnosticCode(request.sub_function)
        if code is DiagnosticCode.RESTART_COMMUNICATIONS:
            answer = self.diagnostics.restart(clear_log=request.data == diagnostics.RESTART_CLEARING_LOG)
            return request.respond() if answer else SILENT
        if code is DiagnosticCode.FORCE_LISTEN_ONLY:
            if not context.connection.serial:  # or one client could silence the device for all
                text = "listen-only mode exists on serial lines only"
                raise ExceptionResponseError(ExceptionCode.ILLEGAL_FUNCTION, request.function_code, text)
            self.diagnostics.force_listen_only()
            return SILENT
        if code is DiagnosticCode.RETURN_DIAGNOSTIC_REGISTER:
            return request.respond(self.diagnostics.diagnostic_register)
        if code is DiagnosticCode.CHANGE_ASCII_DELIMITER:
            self.ascii_delimiter = request.data[0]
        elif code is DiagnosticCode.CLEAR_COUNTERS:
            self.diagnostics.clear()
        elif code is DiagnosticCode.CLEAR_OVERRUN_COUNTER:
            self.diagnostics.character_overruns = 0
        elif code is not DiagnosticCode.RETURN_QUERY_DATA:
            return request.respond(self.diagnostics.counter(code))
        return request.respond()

    def _event_counter(self, _: AnyRequest, __: RequestContext) -> Response:
        return diagnostics.GetCommEventCounterResponse(0, self.diagnostics.events)

    def _event_log(self, _: AnyRequest, __: RequestContext) -> Response:
        state = self.diagnostics
        return diagnostics.GetCommEventLogResponse(0, state.events, state.messages, state.log)

    def _server_id(self, _: AnyRequest, __: RequestContext) -> Response:
        return diagnostics.ReportServerIdResponse(self.server_id + _RUN)

    def _read_files(self, request: files.ReadFileRecordRequest, _: RequestContext) -> Response:
        return files.ReadFileRecordResponse(self.files.read(request.groups))

    def _write_files(self, request: files.WriteFileRecordRequest, _: RequestContext) -> Response:
        self.files.write(request.groups)
        return request.respond()

    def _read_queue(self, request: files.ReadFifoQueueRequest, _: RequestContext) -> Response:
        return files.ReadFifoQueueResponse.of(self.queues.read(request.address))

    def _identify(self, request: encapsulated.ReadDeviceIdentificationRequest, _: RequestContext) -> Response:
        return self.identification.answer(request)


_OPERATIONS: Final[dict[type, Callable[[LocalDevice, Any, RequestContext], Answer]]] = {
    bits.ReadCoilsRequest: LocalDevice._read,
    bits.ReadDiscreteInputsRequest: LocalDevice._read,
    registers.ReadHoldingRegistersRequest: LocalDevice._read,
    registers.ReadInputRegistersRequest: LocalDevice._read,
    bits.WriteSingleCoilRequest: LocalDevice._write_coil,
    bits.WriteMultipleCoilsRequest: LocalDevice._write_coils,
    registers.WriteSingleRegisterRequest: LocalDevice._write_register,
    registers.WriteMultipleRegistersRequest: LocalDevice._write_registers,
    registers.MaskWriteRegisterRequest: LocalDevice._mask_write,
    registers.ReadWriteMultipleRegistersRequest: LocalDevice._read_write,
    diagnostics.ReadExceptionStatusRequest: LocalDevice._exception_status,
    diagnostics.DiagnosticsRequest: LocalDevice._diagnostics,
    diagnostics.GetCommEventCounterRequest: LocalDevice._event_counter,
    diagnostics.GetCommEventLogRequest: LocalDevice._event_log,
    diagnostics.ReportServerIdRequest: LocalDevice._server_id,
    files.ReadFileRecordRequest: LocalDevice._read_files,
    files.WriteFileRecordRequest: LocalDevice._write_files,
    files.ReadFifoQueueRequest: LocalDevice._read_queue,
    encapsulated.ReadDeviceIdentificationRequest: LocalDevice._identify,
}
