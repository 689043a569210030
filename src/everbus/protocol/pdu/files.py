"""File records and FIFO queues: 14, 15 and 18 (AP 6.14, 6.15, 6.18)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from struct import Struct
from typing import ClassVar, Self

from everbus.errors import PduError
from everbus.protocol.codes import (
    FILE_REFERENCE_TYPE,
    MAX_FIFO_REGISTERS,
    MAX_RECORD_NUMBER,
    ExceptionCode,
    FunctionCode,
    function_name,
)
from everbus.protocol.pdu.base import CountedLength, LengthRule, Pdu, Request, Response, malformed
from everbus.protocol.values import pack_registers, unpack_registers

__all__ = [
    "FileGroup",
    "ReadFifoQueueRequest",
    "ReadFifoQueueResponse",
    "ReadFileRecordRequest",
    "ReadFileRecordResponse",
    "WriteFileRecordRequest",
    "WriteFileRecordResponse",
]

_GROUP = Struct(">BHHH")
_FIFO_HEAD = Struct(">BHH")
_MAX_READ_REQUEST_BYTES = 0xF5
_MAX_READ_RESPONSE_BYTES = 0xF5
_MIN_WRITE_BYTES = 9
_MAX_WRITE_BYTES = 0xFB


@dataclass(slots=True)
class FileGroup:
    """A run of records in one file.

    Args:
        file: file number, 1..65535.
        record: first record, 0..9999.
        record_count: how many records, a 16-bit word each.
        data: their wire bytes, in a write and its echo only.
        reference_type: always 6.
    """

    file: int
    record: int
    record_count: int
    data: bytes = b""
    reference_type: int = FILE_REFERENCE_TYPE

    def check(self, function_code: int) -> None:
        """Demand a legal type, file and range of records, or raise exception 02 (spec.md 1.4)."""
        legal = self.reference_type == FILE_REFERENCE_TYPE and self.file >= 1
        if legal and self.record + self.record_count <= MAX_RECORD_NUMBER + 1 and self.record <= MAX_RECORD_NUMBER:
            return
        raise PduError(
            ExceptionCode.ILLEGAL_DATA_ADDRESS,
            f"{function_name(function_code)}: type {self.reference_type}, file {self.file}, "
            f"{self.record_count} records from {self.record} do not exist",
        )

    def head(self) -> bytes:
        """The group's seven bytes without its data."""
        return _GROUP.pack(self.reference_type, self.file, self.record, self.record_count)

    def fields(self) -> dict[str, object]:
        """Its fields by name."""
        return {
            "ref_type": self.reference_type,
            "file": self.file,
            "record": self.record,
            "length": self.record_count,
        }


@dataclass(slots=True)
class ReadFileRecordResponse(Response):
    """The records read, as wire bytes, one item a group of the request."""

    groups: list[bytes] = field(default_factory=list)

    function_code: ClassVar[int] = FunctionCode.READ_FILE_RECORD
    length: ClassVar[LengthRule | None] = CountedLength(2, count_at=1)

    @classmethod
    def parse(cls, pdu: bytes) -> Self:
        if len(pdu) < 2 or len(pdu) != 2 + pdu[1]:
            raise malformed(cls.function_code, f"the data length does not fit a PDU of {len(pdu)} bytes")
        groups: list[bytes] = []
        at = 2
        while at < len(pdu):
            end = at + 1 + pdu[at]
            if end > len(pdu) or pdu[at] < 1 or pdu[at] % 2 == 0 or pdu[at + 1] != FILE_REFERENCE_TYPE:
                raise malformed(cls.function_code, f"the sub-response at byte {at} has no legal form")
            groups.append(pdu[at + 2 : end])
            at = end
        return cls(groups)

    def encode(self) -> bytes:
        body = b"".join(bytes((1 + len(data), FILE_REFERENCE_TYPE)) + data for data in self.groups)
        return bytes((self.function_code, len(body))) + body

    def fields(self) -> dict[str, object]:
        groups = [
            {
                "file_resp_length": 1 + len(data),
                "ref_type": FILE_REFERENCE_TYPE,
                "registers": unpack_registers(data),
            }
            for data in self.groups
        ]
        return {"data_length": sum(2 + len(data) for data in self.groups), "sub_responses": groups}


@dataclass(slots=True)
class ReadFileRecordRequest(Request[ReadFileRecordResponse]):
    """Read 1..35 groups of file records, 14."""

    groups: list[FileGroup]

    function_code: ClassVar[int] = FunctionCode.READ_FILE_RECORD
    length: ClassVar[LengthRule | None] = CountedLength(2, count_at=1)
    response_type: ClassVar[type[Response]] = ReadFileRecordResponse

    @classmethod
    def parse(cls, pdu: bytes) -> Self:
        if len(pdu) < 2 or len(pdu) != 2 + pdu[1] or pdu[1] % _GROUP.size:
            raise malformed(cls.function_code, f"the byte count does not fit a PDU of {len(pdu)} bytes")
        groups = [
            FileGroup(file, record, count, b"", kind) for kind, file, record, count in _GROUP.iter_unpack(pdu[2:])
        ]
        return cls(groups)

    def check(self) -> None:
        """Demand 1..35 groups and a response that fits one PDU (03), then existing records (02)."""
        size = _GROUP.size * len(self.groups)
        if not _GROUP.size <= size <= _MAX_READ_REQUEST_BYTES:
            raise malformed(self.function_code, f"byte count {size} is outside 7..245")
        answer = sum(2 + 2 * group.record_count for group in self.groups)
        if answer > _MAX_READ_RESPONSE_BYTES:
            raise malformed(self.function_code, f"the response would need {answer} bytes, 245 fit")
        if not all(group.record_count for group in self.groups):
            raise malformed(self.function_code, "a group asks for no record")
        for group in self.groups:
            group.check(self.function_code)

    def encode(self) -> bytes:
        body = b"".join(group.head() for group in self.groups)
        return bytes((self.function_code, len(body))) + body

    def fields(self) -> dict[str, object]:
        groups = [group.fields() for group in self.groups]
        return {"byte_count": _GROUP.size * len(self.groups), "sub_requests": groups}

    def mismatch(self, response: ReadFileRecordResponse) -> str | None:
        asked = [group.record_count for group in self.groups]
        given = [len(data) // 2 for data in response.groups]
        return None if asked == given else f"{asked} records were asked for, {given} came"


@dataclass(slots=True)
class _WriteFileRecord(Pdu):
    groups: list[FileGroup]

    function_code: ClassVar[int] = FunctionCode.WRITE_FILE_RECORD
    length: ClassVar[LengthRule | None] = CountedLength(2, count_at=1)

    @classmethod
    def parse(cls, pdu: bytes) -> Self:
        if len(pdu) < 2 or len(pdu) != 2 + pdu[1]:
            raise malformed(cls.function_code, f"the data length does not fit a PDU of {len(pdu)} bytes")
        groups: list[FileGroup] = []
        at = 2
        while at < len(pdu):
            start = at + _GROUP.size
            if start > len(pdu):
                raise malformed(cls.function_code, f"the group at byte {at} is cut off")
            kind, file, record, count = _GROUP.unpack_from(pdu, at)
            at = start + 2 * count
            if at > len(pdu):
                raise malformed(cls.function_code, f"a group of {count} records is cut off")
            groups.append(FileGroup(file, record, count, pdu[start:at], kind))
        return cls(groups)

    def check(self) -> None:
        """Demand 9..251 bytes and no empty group (03), then existing records (02)."""
        size = self._size()
        if not _MIN_WRITE_BYTES <= size <= _MAX_WRITE_BYTES:
            raise malformed(self.function_code, f"data length {size} is outside 9..251")
        if any(len(group.data) != 2 * group.record_count or not group.record_count for group in self.groups):
            raise malformed(self.function_code, "a group's data does not fit its record count, or it has none")
        for group in self.groups:
            group.check(self.function_code)

    def _size(self) -> int:
        return sum(_GROUP.size + len(group.data) for group in self.groups)

    def encode(self) -> bytes:
        body = b"".join(group.head() + group.data for group in self.groups)
        return bytes((self.function_code, len(body))) + body

    def fields(self) -> dict[str, object]:
        groups = [group.fields() | {"registers": unpack_registers(group.data)} for group in self.groups]
        return {"data_length": self._size(), "sub_requests": groups}


class WriteFileRecordResponse(_WriteFileRecord, Response):
    """The echo of a write of file records."""

    __slots__ = ()


class WriteFileRecordRequest(_WriteFileRecord, Request[WriteFileRecordResponse]):
    """Write groups of file records, 15."""

    __slots__ = ()
    response_type = WriteFileRecordResponse

    def respond(self) -> WriteFileRecordResponse:
        """The echo."""
        return WriteFileRecordResponse(self.groups)

    def mismatch(self, response: WriteFileRecordResponse) -> str | None:
        return None if response.groups == self.groups else "the echo differs from the request"


@dataclass(slots=True)
class ReadFifoQueueResponse(Response):
    """The queue's 0..31 registers as wire bytes, oldest first; it is not emptied."""

    data: bytes

    function_code: ClassVar[int] = FunctionCode.READ_FIFO_QUEUE
    length: ClassVar[LengthRule | None] = CountedLength(3, count_at=1, count_bytes=2)

    @classmethod
    def of(cls, values: Sequence[int]) -> Self:
        """A response with these registers, 0..31 of 0..65535."""
        return cls(pack_registers(values))

    @property
    def registers(self) -> list[int]:
        """The queued values."""
        return unpack_registers(self.data)

    @classmethod
    def parse(cls, pdu: bytes) -> Self:
        if len(pdu) < _FIFO_HEAD.size:
            raise malformed(cls.function_code, f"it has at least 5 bytes, this one {len(pdu)}")
        _, size, count = _FIFO_HEAD.unpack_from(pdu)
        if size != len(pdu) - 3 or size != 2 + 2 * count:
            raise malformed(cls.function_code, f"byte count {size} and FIFO count {count} do not fit {len(pdu)} bytes")
        return cls(pdu[_FIFO_HEAD.size :])

    def check(self) -> None:
        if len(self.data) > 2 * MAX_FIFO_REGISTERS:
            raise malformed(self.function_code, f"{len(self.data) // 2} values are more than 31")

    def encode(self) -> bytes:
        return _FIFO_HEAD.pack(self.function_code, 2 + len(self.data), len(self.data) // 2) + self.data

    def fields(self) -> dict[str, object]:
        return {
            "byte_count": 2 + len(self.data),
            "fifo_count": len(self.data) // 2,
            "registers": self.registers,
        }


@dataclass(slots=True)
class ReadFifoQueueRequest(Request[ReadFifoQueueResponse]):
    """Read the FIFO queue whose pointer is at ``address``, 18."""

    address: int

    function_code: ClassVar[int] = FunctionCode.READ_FIFO_QUEUE
    length: ClassVar[LengthRule | None] = CountedLength(3)
    response_type: ClassVar[type[Response]] = ReadFifoQueueResponse

    @classmethod
    def parse(cls, pdu: bytes) -> Self:
        if len(pdu) != 3:
            raise malformed(cls.function_code, f"a request has 3 bytes, this one {len(pdu)}")
        return cls(pdu[1] << 8 | pdu[2])

    def encode(self) -> bytes:
        return bytes((self.function_code,)) + self.address.to_bytes(2, "big")

    def fields(self) -> dict[str, object]:
        return {"fifo_address": self.address}
