"""The requests that read and write points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from everbus.errors import InvalidRequestError
from everbus.maps.datatypes import Scalar, Value
from everbus.maps.points import Point, Table
from everbus.protocol.codes import MAX_WRITE_BITS, MAX_WRITE_REGISTERS
from everbus.protocol.pdu.base import Request
from everbus.protocol.pdu.bits import (
    ReadBitsRequest,
    ReadCoilsRequest,
    ReadDiscreteInputsRequest,
    WriteMultipleCoilsRequest,
    WriteSingleCoilRequest,
)
from everbus.protocol.pdu.registers import (
    MaskWriteRegisterRequest,
    ReadHoldingRegistersRequest,
    ReadInputRegistersRequest,
    ReadRegistersRequest,
    WriteMultipleRegistersRequest,
    WriteSingleRegisterRequest,
)
from everbus.protocol.values import AddressRange, unpack_registers

__all__ = ["read_request", "write_request"]

_READS: Final[dict[Table, type[ReadBitsRequest[Any] | ReadRegistersRequest[Any]]]] = {
    Table.COIL: ReadCoilsRequest,
    Table.DISCRETE: ReadDiscreteInputsRequest,
    Table.INPUT: ReadInputRegistersRequest,
    Table.HOLDING: ReadHoldingRegistersRequest,
}


def read_request(table: Table, items: AddressRange) -> Request[Any]:
    """The request that reads a range of a table: 01, 02, 03 or 04.

    Its response has ``bits`` or ``registers``. What is more than one read carries is refused where
    it is sent; ``ReadPlan`` cuts it up.
    """
    return _READS[table](items.address, items.count)


def write_request(point: Point, value: Value | Sequence[Scalar], *, multiple: bool = False) -> Request[Any]:
    """The one request that writes a value to a point.

    A single coil or register goes with 05 or 06, several with 0F or 10; bits of a register and
    single bytes (i8, u8) with 16, which leaves the rest of the register as it is.

    Args:
        point: of the coils or holding registers.
        value: of the point's type; a list where its count says so.
        multiple: write single items with 0F or 10 too, for devices that know nothing else.

    Raises:
        InvalidRequestError: a table that is only read, a value that does not fit, or more than one
            request carries; the message names the limits.
    """
    if not point.table.writable:
        raise InvalidRequestError(
            f"{point}: {point.table.item}s are only read; coils and holding registers are written"
        )
    data = point.encode(value)
    most = MAX_WRITE_BITS if point.table.bits else MAX_WRITE_REGISTERS
    if point.items > most:
        raise InvalidRequestError(f"{point}: it has {point.items} items; one request writes at most {most}")
    if point.table.bits:
        if point.items == 1 and not multiple:
            return WriteSingleCoilRequest.of(point.address, bool(data[0]))
        return WriteMultipleCoilsRequest.of(point.address, data)
    registers = unpack_registers(data)
    if point.mask is not None:
        return _mask_write(point, unpack_registers(point.mask), registers)
    if point.items == 1 and not multiple:
        return WriteSingleRegisterRequest(point.address, registers[0])
    return WriteMultipleRegistersRequest.of(point.address, registers)


def _mask_write(point: Point, masks: list[int], registers: list[int]) -> MaskWriteRegisterRequest:
    touched = [index for index, mask in enumerate(masks) if mask]
    if len(touched) != 1:
        raise InvalidRequestError(f"{point}: it is a part of {len(touched)} registers; one request changes bits of one")
    (index,) = touched
    return MaskWriteRegisterRequest(point.address + index, ~masks[index] & 0xFFFF, registers[index])
