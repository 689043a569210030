"""File records and FIFO queues of one device (AP 6.14, 6.15, 6.18)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Final

from everbus.errors import ConfigurationError, ExceptionResponseError, UsageError
from everbus.protocol.codes import MAX_FIFO_REGISTERS, MAX_RECORD_NUMBER, ExceptionCode
from everbus.protocol.pdu.files import FileGroup

__all__ = ["FifoQueues", "FileStore"]

_RECORDS: Final = MAX_RECORD_NUMBER + 1


class FileStore:
    """Files of 16-bit records; records never written read as zero.

    Args:
        files: file number, 1..65535, to its number of records, 1..10000; None: every file has
            all 10,000 records.
        max_bytes: what written records may take in all; a write past it is answered with
            exception 04, so that clients cannot fill the memory.

    Raises:
        ConfigurationError: a number is outside its range.
    """

    def __init__(self, files: Mapping[int, int] | None = None, max_bytes: int = 4 * 1024 * 1024) -> None:
        for number, records in (files or {}).items():
            if not (1 <= number <= 0xFFFF and 1 <= records <= _RECORDS):
                raise ConfigurationError(f"file {number} with {records} records is outside 1..65535 and 1..10000")
        self._sizes = None if files is None else dict(files)
        self._max_bytes = max_bytes
        self._data: dict[int, bytearray] = {}
        self._used_bytes = 0

    def _require(self, group: FileGroup) -> None:
        records = _RECORDS if self._sizes is None else self._sizes.get(group.file, 0)
        if group.record + group.record_count > records:
            raise ExceptionResponseError(
                ExceptionCode.ILLEGAL_DATA_ADDRESS,
                message=f"file {group.file} has {records} records, not {group.record_count} from {group.record}",
            )

    def read(self, groups: Iterable[FileGroup]) -> list[bytes]:
        """The records of each group as wire bytes.

        Raises:
            ExceptionResponseError: exception 02: not all of them exist.
        """
        result = []
        for group in groups:
            self._require(group)
            size = 2 * group.record_count
            stored = self._data.get(group.file, b"")[2 * group.record :][:size]
            result.append(bytes(stored).ljust(size, b"\0"))
        return result

    def write(self, groups: Iterable[FileGroup]) -> None:
        """Set the records of all groups, or none.

        Raises:
            ExceptionResponseError: exception 02: not all of them exist; 04: the store is full.
        """
        wanted: dict[int, int] = {}
        groups = list(groups)
        for group in groups:
            self._require(group)
            end = 2 * (group.record + group.record_count)
            wanted[group.file] = max(end, wanted.get(group.file, len(self._data.get(group.file, b""))))
        growth = sum(size - len(self._data.get(number, b"")) for number, size in wanted.items())
        if self._used_bytes + growth > self._max_bytes:
            raise ExceptionResponseError(
                ExceptionCode.SERVER_DEVICE_FAILURE, message=f"the files are full: {self._max_bytes} bytes at most"
            )
        for number, size in wanted.items():
            stored = self._data.setdefault(number, bytearray())
            stored.extend(bytes(size - len(stored)))
        self._used_bytes += growth
        for group in groups:
            start = 2 * group.record
            self._data[group.file][start : start + len(group.data)] = group.data


class FifoQueues:
    """Queues of registers, each known by its pointer address; reading does not empty them.

    Args:
        addresses: where there are queues, 0..65535; None: at every address, empty until filled.
    """

    def __init__(self, addresses: Iterable[int] | None = None) -> None:
        self._addresses = None if addresses is None else frozenset(addresses)
        self._queues: dict[int, deque[int]] = {}

    def push(self, address: int, value: int) -> None:
        """Add a register, 0..65535, behind the last.

        Raises:
            UsageError: there is no queue at this address, or the value does not fit 16 bits.
        """
        if not self._exists(address) or not 0 <= value <= 0xFFFF:
            raise UsageError(f"no queue at {address}, or {value} is outside 0..65535")
        self._queues.setdefault(address, deque()).append(value)

    def pop(self, address: int) -> int:
        """Take the oldest register out.

        Raises:
            IndexError: the queue is empty.
        """
        return self._queues.get(address, deque()).popleft()

    def _exists(self, address: int) -> bool:
        return 0 <= address <= 0xFFFF and (self._addresses is None or address in self._addresses)

    def read(self, address: int) -> list[int]:
        """The queue's registers, oldest first.

        Raises:
            ExceptionResponseError: exception 02: there is no queue; 03: it holds more than 31.
        """
        if not self._exists(address):
            raise ExceptionResponseError(ExceptionCode.ILLEGAL_DATA_ADDRESS, message=f"there is no queue at {address}")
        values = list(self._queues.get(address, ()))
        if len(values) > MAX_FIFO_REGISTERS:
            raise ExceptionResponseError(
                ExceptionCode.ILLEGAL_DATA_VALUE, message=f"the queue at {address} holds {len(values)} values, over 31"
            )
        return values
