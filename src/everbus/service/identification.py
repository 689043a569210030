"""What a device says it is: the objects of 2B/0E (AP 6.21; spec.md 1.7)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from everbus.errors import ConfigurationError, ExceptionResponseError
from everbus.protocol.codes import MAX_PDU_BYTES, ExceptionCode
from everbus.protocol.pdu.encapsulated import (
    MORE_FOLLOWS,
    ONE_OBJECT,
    ReadDeviceIdentificationRequest,
    ReadDeviceIdentificationResponse,
)

__all__ = ["Identification"]

_BASIC: Final = range(0x03)
_REGULAR: Final = range(0x07)
_EXTENDED: Final = range(0x80, 0x100)
_RESERVED: Final = range(0x07, 0x80)
_INDIVIDUAL_ACCESS: Final = 0x80
_ROOM: Final = MAX_PDU_BYTES - 7
_MAX_VALUE_BYTES: Final = _ROOM - 2


class Identification:
    """The identification objects of one device.

    Args:
        vendor_name, product_code, revision: the three objects that every device has.
        more: further objects by id: 03 vendor URL, 04 product name, 05 model name, 06 user
            application name, 80..FF private ones; text (UTF-8) or bytes, at most 244 each.

    Raises:
        ConfigurationError: an id is reserved, or a value is too long.
    """

    def __init__(
        self,
        vendor_name: str | bytes = "everbus",
        product_code: str | bytes = "everbus-server",
        revision: str | bytes = "1",
        more: Mapping[int, str | bytes] | None = None,
    ) -> None:
        objects = {0: vendor_name, 1: product_code, 2: revision, **(more or {})}
        self._objects: dict[int, bytes] = {}
        for number in sorted(objects):
            value = objects[number]
            data = value.encode() if isinstance(value, str) else bytes(value)
            if number in _RESERVED or not 0 <= number <= 0xFF or len(data) > _MAX_VALUE_BYTES:
                raise ConfigurationError(
                    f"object {number:02X} with {len(data)} bytes: ids are 00..06 and 80..FF, values at most 244 bytes"
                )
            self._objects[number] = data
        self.conformity: int = _INDIVIDUAL_ACCESS | self._level()

    def _level(self) -> int:
        """1 basic, 2 regular, 3 extended: the highest category that has objects."""
        if any(number in _EXTENDED for number in self._objects):
            return 3
        return 2 if len(self._objects) > len(_BASIC) else 1

    def answer(self, request: ReadDeviceIdentificationRequest) -> ReadDeviceIdentificationResponse:
        """The response to a stream or to individual access.

        A stream starts again at object 0 when it asks for an unknown one, and stops at the
        device's own level when it asks for a higher category (spec.md 1.7).

        Raises:
            ExceptionResponseError: exception 02: individual access to an unknown object.
        """
        if request.read_code == ONE_OBJECT:
            value = self._objects.get(request.object_id)
            if value is None:
                raise ExceptionResponseError(
                    ExceptionCode.ILLEGAL_DATA_ADDRESS, message=f"there is no object {request.object_id:02X}"
                )
            return self._response(request.read_code, [(request.object_id, value)], 0)
        category = {1: _BASIC, 2: _REGULAR}.get(request.read_code, range(0x100))
        numbers = [number for number in self._objects if number in category]
        start = request.object_id if request.object_id in numbers else 0
        fitting: list[tuple[int, bytes]] = []
        room = _ROOM
        for number in numbers:
            if number < start:
                continue
            room -= 2 + len(self._objects[number])
            if room < 0:
                return self._response(request.read_code, fitting, number)
            fitting.append((number, self._objects[number]))
        return self._response(request.read_code, fitting, 0)

    def _response(
        self, read_code: int, objects: list[tuple[int, bytes]], next_object_id: int
    ) -> ReadDeviceIdentificationResponse:
        more = MORE_FOLLOWS if next_object_id else 0
        return ReadDeviceIdentificationResponse(read_code, self.conformity, more, next_object_id, objects, len(objects))
