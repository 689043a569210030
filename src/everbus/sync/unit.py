"""What can be asked of one unit, as typed methods; names and order as in modbus-connection's ``ModbusUnit``.

Made from ``aio/unit.py`` by ``tools/make_sync.py``: change that one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from everbus.errors import (
    ConnectError,
    InvalidRequestError,
    MismatchError,
    ModbusTimeoutError,
    NetworkError,
    PeerError,
)
from everbus.maps.datatypes import Scalar, Value
from everbus.maps.planner import HoleMap, Reading, ReadLimits, ReadPlan
from everbus.maps.points import Point
from everbus.maps.requests import write_request
from everbus.protocol.pdu.base import Request, Response
from everbus.protocol.pdu.bits import (
    ReadCoilsRequest,
    ReadDiscreteInputsRequest,
    WriteMultipleCoilsRequest,
    WriteSingleCoilRequest,
)
from everbus.protocol.pdu.diagnostics import (
    DiagnosticsRequest,
    GetCommEventCounterRequest,
    GetCommEventLogRequest,
    ReadExceptionStatusRequest,
    ReportServerIdRequest,
)
from everbus.protocol.pdu.encapsulated import ReadDeviceIdentificationRequest, ReadDeviceIdentificationResponse
from everbus.protocol.pdu.files import (
    FileGroup,
    ReadFifoQueueRequest,
    ReadFileRecordRequest,
    WriteFileRecordRequest,
)
from everbus.protocol.pdu.registers import (
    MaskWriteRegisterRequest,
    ReadHoldingRegistersRequest,
    ReadInputRegistersRequest,
    ReadWriteMultipleRegistersRequest,
    WriteMultipleRegistersRequest,
    WriteSingleRegisterRequest,
)
from everbus.protocol.values import pack_registers, unpack_registers

if TYPE_CHECKING:
    from everbus.sync.client import Client

__all__ = ["Requests", "Unit"]

_BUSY_STATUS = 0xFFFF
_MOST_OBJECTS = 256

R = TypeVar("R", bound=Response)


class Requests:
    """Every function code as a typed method; ``call`` makes the request.

    Addresses are 0-based PDU addresses, 0..65535; registers are whole numbers of 0..65535. Every
    method waits for its answer for as long as the client's ``timeout_s``, retries included, and leaves
    the client usable when Ctrl-C ends it; a late answer goes to nobody.

    All of them raise:
        InvalidRequestError: an argument that the specification does not allow; nothing was sent.
        ExceptionResponseError: the device answered with an exception; ``code`` says which.
        MismatchError, PduError: an answer that is not one to this request, or is not legal.
        ConnectError, ConnectionLostError: no connection, or it ended before the answer came.
        ModbusTimeoutError: no answer in time.
    """

    __slots__ = ("number",)

    number: int
    """The unit identifier, 0..255."""

    def _ask(self, request: Request[R], unit: int) -> R:
        raise NotImplementedError  # pragma: no cover

    @property
    def holes(self) -> HoleMap:
        """What reads of points do not pass over: learned from refusals, or declared by you."""
        raise NotImplementedError  # pragma: no cover

    def call(self, request: Request[R]) -> R:
        """Make any request, custom ones included; return its response."""
        return self._ask(request, self.number)

    # Points

    def read(self, point: Point) -> Value:
        """Read a point; return its value, None where the device says "not available".

        Raises:
            PeerError: what is there cannot be a value of the point's type, and as above.
        """
        (reading,) = self.read_points([point])
        return reading.result()

    def read_points(self, points: Iterable[Point], *, limits: ReadLimits | None = None) -> list[Reading]:
        """Read many points with few requests; what cannot be read has its error in its reading.

        A block that the device refuses is read in smaller ones, and the hole in it remembered. Points
        with a unit of their own are asked of that one. A unit that does not answer its first block is not
        asked for the others: its points share the error.

        Args:
            points: in the order of the readings.
            limits: how points are merged.

        Raises:
            ConnectError: the device cannot be reached.
        """
        plan = ReadPlan(points, unit=self.number, holes=self.holes, limits=limits)
        heard: set[int] = set()
        silent: dict[int, ModbusTimeoutError] = {}
        for block in plan:
            if block.unit in silent:
                plan.failed(block, silent[block.unit])
                continue
            try:
                plan.answered(block, self._ask(block.request, block.unit))
                heard.add(block.unit)
            except ConnectError:
                raise
            except ModbusTimeoutError as error:
                if block.unit not in heard:
                    silent[block.unit] = error
                plan.failed(block, error)
            except (PeerError, NetworkError) as error:
                if isinstance(error, PeerError):
                    heard.add(block.unit)
                plan.failed(block, error)
        return plan.readings()

    def write(self, point: Point, value: Value | Sequence[Scalar]) -> None:
        """Write a value to a point of the coils or holding registers, with one request.

        Raises:
            InvalidRequestError: the value does not fit, or the table is only read; nothing was sent.
        """
        self._ask(write_request(point, value), self.number if point.unit is None else point.unit)

    # Bits

    def read_coils(self, address: int, count: int) -> list[bool]:
        """Read 1 to 2000 coils (AP 6.1, function 01)."""
        response = self._ask(ReadCoilsRequest(address, count), self.number)
        return response.bits[:count]

    def read_discrete_inputs(self, address: int, count: int) -> list[bool]:
        """Read 1 to 2000 discrete inputs (AP 6.2, function 02)."""
        response = self._ask(ReadDiscreteInputsRequest(address, count), self.number)
        return response.bits[:count]

    def write_coil(self, address: int, value: bool) -> None:
        """Set one coil (AP 6.5, function 05). Not repeated unless ``retry_writes`` says so, as all writes."""
        self._ask(WriteSingleCoilRequest.of(address, value), self.number)

    def write_coils(self, address: int, values: Sequence[bool]) -> None:
        """Set 1 to 1968 coils (AP 6.11, function 0F)."""
        self._ask(WriteMultipleCoilsRequest.of(address, values), self.number)

    # Registers

    def read_holding_registers(self, address: int, count: int) -> list[int]:
        """Read 1 to 125 holding registers (AP 6.3, function 03)."""
        response = self._ask(ReadHoldingRegistersRequest(address, count), self.number)
        return unpack_registers(response.data)

    def read_input_registers(self, address: int, count: int) -> list[int]:
        """Read 1 to 125 input registers (AP 6.4, function 04)."""
        response = self._ask(ReadInputRegistersRequest(address, count), self.number)
        return unpack_registers(response.data)

    def write_register(self, address: int, value: int) -> None:
        """Set one holding register (AP 6.6, function 06)."""
        self._ask(WriteSingleRegisterRequest(address, value), self.number)

    def write_registers(self, address: int, values: Sequence[int]) -> None:
        """Set 1 to 123 holding registers (AP 6.12, function 10)."""
        self._ask(WriteMultipleRegistersRequest.of(address, values), self.number)

    def mask_write_register(self, address: int, and_mask: int, or_mask: int) -> None:
        """Set a register to ``(old AND and_mask) OR (or_mask AND NOT and_mask)`` (AP 6.16, function 16)."""
        self._ask(MaskWriteRegisterRequest(address, and_mask, or_mask), self.number)

    def read_write_registers(
        self, read_address: int, read_count: int, write_address: int, write_values: Sequence[int]
    ) -> list[int]:
        """Set 1 to 121 registers, then read 1 to 125, in one go (AP 6.17, function 17)."""
        request = ReadWriteMultipleRegistersRequest.of(read_address, read_count, write_address, write_values)
        response = self._ask(request, self.number)
        return response.registers

    def read_fifo_queue(self, address: int) -> list[int]:
        """Read the queue that a pointer register names, up to 31 registers (AP 6.18, function 18)."""
        response = self._ask(ReadFifoQueueRequest(address), self.number)
        return response.registers

    # Files

    def read_file_record(self, file: int, record: int, length: int) -> list[int]:
        """Read ``length`` records of a file, 1..65535, from ``record`` on, 0..9999 (AP 6.14, function 14)."""
        request = ReadFileRecordRequest([FileGroup(file, record, length)])
        response = self._ask(request, self.number)
        return unpack_registers(response.groups[0])

    def write_file_record(self, file: int, record: int, values: Sequence[int]) -> None:
        """Write records of a file (AP 6.15, function 15)."""
        group = FileGroup(file, record, len(values), pack_registers(values))
        self._ask(WriteFileRecordRequest([group]), self.number)

    # The device itself

    def read_exception_status(self) -> int:
        """Eight status bits that the device defines, 0..255 (AP 6.7, function 07)."""
        response = self._ask(ReadExceptionStatusRequest(), self.number)
        return response.status

    def report_server_id(self) -> bytes:
        """What the device says of itself, run status included where it has one (AP 6.13, function 11)."""
        response = self._ask(ReportServerIdRequest(), self.number)
        return response.data

    def diagnostics(self, sub_function: int, data: int = 0) -> int:
        """A diagnostic function (AP 6.8, function 08): a counter, or the echo of ``data``, 0..65535."""
        if not 0 <= data <= 0xFFFF:
            raise InvalidRequestError(f"data {data} is outside 0..65535; it was not sent")
        request = DiagnosticsRequest(sub_function, data.to_bytes(2, "big"))
        response = self._ask(request, self.number)
        return int.from_bytes(response.data[:2], "big")

    def get_comm_event_counter(self) -> tuple[bool, int]:
        """Whether a program command is still being processed, and the event count (AP 6.9, function 0B)."""
        response = self._ask(GetCommEventCounterRequest(), self.number)
        return response.status == _BUSY_STATUS, response.event_count

    def get_comm_event_log(self) -> bytes:
        """Up to 64 event bytes, the latest first (AP 6.10, function 0C)."""
        response = self._ask(GetCommEventLogRequest(), self.number)
        return response.events

    def read_device_identification(self, read_code: int = 1) -> dict[int, bytes]:
        """Objects of the device's identification by number (AP 6.21, function 2B/0E).

        Args:
            read_code: 1 vendor, product and revision; 2 the regular objects too; 3 all of them.

        Raises:
            MismatchError: the device sends the same objects again and again, as some do.
        """
        found: dict[int, bytes] = {}
        object_id = 0
        while True:
            response = self._ask(ReadDeviceIdentificationRequest(read_code, object_id), self.number)
            assert isinstance(response, ReadDeviceIdentificationResponse)
            found.update(response.objects)
            if not response.more_follows:
                return found
            if response.next_object_id <= object_id or len(found) > _MOST_OBJECTS:
                text = f"unit {self.number} says that object {response.next_object_id} follows object {object_id}"
                raise MismatchError(text)
            object_id = response.next_object_id


class Unit(Requests):
    """One unit behind a client's connection. Cheap: make one where it is needed, or keep it."""

    __slots__ = ("_client",)

    def __init__(self, client: Client, number: int) -> None:
        self._client = client
        self.number = number

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.number} of {self._client.endpoint}>"

    @property
    def connected(self) -> bool:
        """A connection is up, as far as anybody can know."""
        return self._client.connected

    def _ask(self, request: Request[R], unit: int) -> R:
        return self._client.call(request, unit)

    @property
    def holes(self) -> HoleMap:
        return self._client.holes

    # The link, for code written for modbus-connection

    def set_message_spacing(self, seconds: float) -> None:
        """Leave this unit alone for so long after each exchange with it; 0 ends that."""
        self._client.space_unit(self.number, seconds)

    def require_timeout(self, seconds: float | None) -> None:
        """Give every call of the client at least so long; None takes it back."""
        self._client.require_timeout(seconds)

    def require_connect_delay(self, seconds: float | None) -> None:
        """Leave a new connection alone for at least so long; None changes nothing."""
        self._client.require_connect_delay(seconds)

    def disconnect(self) -> None:
        """End the connection; the next request makes a new one."""
        self._client.disconnect()
