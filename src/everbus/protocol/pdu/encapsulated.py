"""Encapsulated interface transport, 2B: device identification, 0E, and CANopen, 0D (AP 6.19 to 6.21)."""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import ClassVar, Final, Self

from everbus.errors import PduError
from everbus.protocol.codes import MEI_CANOPEN, MEI_DEVICE_IDENTIFICATION, ExceptionCode, FunctionCode
from everbus.protocol.pdu.base import NEED_MORE, UNPREDICTABLE, LengthRule, Pdu, Request, Response, malformed

__all__ = [
    "MORE_FOLLOWS",
    "CanOpenRequest",
    "CanOpenResponse",
    "EncapsulatedRequest",
    "EncapsulatedResponse",
    "ReadDeviceIdentificationRequest",
    "ReadDeviceIdentificationResponse",
]

MORE_FOLLOWS: Final = 0xFF
"""In a response: ask again from ``next_object_id`` (AP 6.21)."""

READ_CODES: Final = range(1, 5)
"""Stream of basic, regular and extended objects, and one object (spec.md 1.7)."""

ONE_OBJECT: Final = 4
"""The read code of individual access."""

_HEAD_BYTES = 7
_CANOPEN = Struct(">BBHBHH")


@dataclass(frozen=True, slots=True)
class _RequestLength:
    def predict(self, data: bytes | bytearray | memoryview, start: int, end: int) -> int:
        if start + 2 > end:
            return NEED_MORE
        return 4 if data[start + 1] == MEI_DEVICE_IDENTIFICATION else UNPREDICTABLE


@dataclass(frozen=True, slots=True)
class _ResponseLength:
    """Walks the object list; at most as many steps as objects fit one PDU."""

    def predict(self, data: bytes | bytearray | memoryview, start: int, end: int) -> int:
        if start + 2 > end:
            return NEED_MORE
        if data[start + 1] != MEI_DEVICE_IDENTIFICATION:
            return UNPREDICTABLE
        if start + _HEAD_BYTES > end:
            return NEED_MORE
        at = start + _HEAD_BYTES
        for _ in range(data[start + 6]):
            if at + 2 > end:
                return NEED_MORE
            at += 2 + data[at + 1]
        return at - start


def _is_canopen(pdu: bytes) -> bool:
    """Tell by the MEI type which PDU of 2B this is, or refuse it: 03 without one, 01 for others."""
    if len(pdu) < 2:
        raise malformed(FunctionCode.ENCAPSULATED_INTERFACE, "the MEI type is missing")
    if pdu[1] not in (MEI_DEVICE_IDENTIFICATION, MEI_CANOPEN):
        raise PduError(ExceptionCode.ILLEGAL_FUNCTION, f"encapsulated interface: MEI type {pdu[1]:02X} is not known")
    return pdu[1] == MEI_CANOPEN


class EncapsulatedResponse(Response):
    """A response of 2B; its second byte, the MEI type, says which."""

    __slots__ = ()
    function_code: ClassVar[int] = FunctionCode.ENCAPSULATED_INTERFACE
    length: ClassVar[LengthRule | None] = _ResponseLength()

    @classmethod
    def parse(cls, pdu: bytes) -> EncapsulatedResponse:
        return (CanOpenResponse if _is_canopen(pdu) else ReadDeviceIdentificationResponse).parse(pdu)


class EncapsulatedRequest(Request[EncapsulatedResponse]):
    """A request of 2B; its second byte, the MEI type, says which."""

    __slots__ = ()
    function_code: ClassVar[int] = FunctionCode.ENCAPSULATED_INTERFACE
    length: ClassVar[LengthRule | None] = _RequestLength()
    response_type: ClassVar[type[Response]] = EncapsulatedResponse

    @classmethod
    def parse(cls, pdu: bytes) -> EncapsulatedRequest:
        return (CanOpenRequest if _is_canopen(pdu) else ReadDeviceIdentificationRequest).parse(pdu)


@dataclass(slots=True)
class ReadDeviceIdentificationResponse(EncapsulatedResponse):
    """Objects of a device's identification, in a list because ids repeat in the field.

    Args:
        read_code: the request's.
        conformity: 01..03, or 81..83 with individual access.
        more_follows: FF: ask again from ``next_object_id``; else 00.
        next_object_id: first object that did not fit.
        objects: (object id, value) pairs.
        object_count: the count as it stood in the PDU; some devices give the total (spec.md 1.10).
    """

    read_code: int
    conformity: int
    more_follows: int
    next_object_id: int
    objects: list[tuple[int, bytes]]
    object_count: int

    @classmethod
    def parse(cls, pdu: bytes) -> Self:
        if len(pdu) < _HEAD_BYTES:
            raise malformed(cls.function_code, f"it has at least 7 bytes, this one {len(pdu)}")
        _, _, read_code, conformity, more_follows, next_object_id, object_count = pdu[:_HEAD_BYTES]
        objects: list[tuple[int, bytes]] = []
        at = _HEAD_BYTES
        while at < len(pdu):
            if at + 2 > len(pdu) or at + 2 + pdu[at + 1] > len(pdu):
                raise malformed(cls.function_code, f"the object at byte {at} is cut off")
            objects.append((pdu[at], pdu[at + 2 : at + 2 + pdu[at + 1]]))
            at += 2 + pdu[at + 1]
        if object_count < len(objects):
            raise malformed(cls.function_code, f"{len(objects)} objects came, {object_count} were announced")
        return cls(read_code, conformity, more_follows, next_object_id, objects, object_count)

    def encode(self) -> bytes:
        head = bytes(
            (
                self.function_code,
                MEI_DEVICE_IDENTIFICATION,
                self.read_code,
                self.conformity,
                self.more_follows,
                self.next_object_id,
                self.object_count,
            )
        )
        return head + b"".join(bytes((number, len(value))) + value for number, value in self.objects)

    def fields(self) -> dict[str, object]:
        objects: list[dict[str, object]] = []
        for number, value in self.objects:
            item: dict[str, object] = {"id": number, "length": len(value)}
            if value.isascii():
                item["value_ascii"] = value.decode("ascii")
            else:
                item["value_hex"] = value.hex()
            objects.append(item)
        return {
            "mei_type": MEI_DEVICE_IDENTIFICATION,
            "read_code": self.read_code,
            "conformity": self.conformity,
            "more_follows": self.more_follows,
            "next_object_id": self.next_object_id,
            "objects": objects,
            "number_of_objects": self.object_count,
        }


@dataclass(slots=True)
class ReadDeviceIdentificationRequest(EncapsulatedRequest):
    """Read device identification, 2B/0E: ``read_code`` 1..4, from ``object_id`` on."""

    read_code: int
    object_id: int

    @classmethod
    def parse(cls, pdu: bytes) -> Self:
        if len(pdu) != 4:
            raise malformed(cls.function_code, f"a request has 4 bytes, this one {len(pdu)}")
        return cls(pdu[2], pdu[3])

    def check(self) -> None:
        if self.read_code not in READ_CODES:
            raise malformed(self.function_code, f"read code {self.read_code} is outside 1..4")

    def encode(self) -> bytes:
        return bytes((self.function_code, MEI_DEVICE_IDENTIFICATION, self.read_code, self.object_id))

    def fields(self) -> dict[str, object]:
        return {"mei_type": MEI_DEVICE_IDENTIFICATION, "read_code": self.read_code, "object_id": self.object_id}

    def mismatch(self, response: EncapsulatedResponse) -> str | None:
        if not isinstance(response, ReadDeviceIdentificationResponse):
            return "the MEI type differs"
        if response.read_code != self.read_code:
            return f"read code {response.read_code} answers {self.read_code}"
        ids = [number for number, _ in response.objects]
        if self.read_code == ONE_OBJECT and ids != [self.object_id]:
            return f"objects {ids} answer the question for object {self.object_id}"
        return None


@dataclass(slots=True)
class _CanOpen(Pdu):
    data: bytes

    @classmethod
    def parse(cls, pdu: bytes) -> Self:
        return cls(pdu[2:])

    def encode(self) -> bytes:
        return bytes((self.function_code, MEI_CANOPEN)) + self.data

    def fields(self) -> dict[str, object]:
        """The layout that CiA 309-2 users have; AP gives none, so shorter data stays bytes."""
        if len(self.data) < _CANOPEN.size:
            return {"mei_type": MEI_CANOPEN, "data_hex": self.data.hex()}
        names = ("protocol_control", "node_id", "index", "sub_index", "offset", "length")
        fields: dict[str, object] = {"mei_type": MEI_CANOPEN}
        fields.update(zip(names, _CANOPEN.unpack_from(self.data), strict=True))
        if rest := self.data[_CANOPEN.size :]:
            fields["data_hex"] = rest.hex()
        return fields


class CanOpenResponse(_CanOpen, EncapsulatedResponse):
    """CANopen general reference, 2B/0D, passed through as bytes."""

    __slots__ = ()


class CanOpenRequest(_CanOpen, EncapsulatedRequest):
    """CANopen general reference, 2B/0D, passed through as bytes."""

    __slots__ = ()

    def mismatch(self, response: EncapsulatedResponse) -> str | None:
        return None if isinstance(response, CanOpenResponse) else "the MEI type differs"
