"""CRC-16/MODBUS and the LRC (SL 6.2.1, 6.2.2; spec.md 5.6)."""

from __future__ import annotations

from typing import Final

__all__ = ["CRC_INITIAL", "CRC_TABLE", "crc16", "lrc8"]

CRC_INITIAL: Final = 0xFFFF
_POLYNOMIAL: Final = 0xA001


def _table_entry(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ _POLYNOMIAL if byte & 1 else byte >> 1
    return byte


CRC_TABLE: Final = tuple(_table_entry(byte) for byte in range(256))
"""What one byte does to the register: ``crc = crc >> 8 ^ CRC_TABLE[(crc ^ byte) & 0xFF]``."""


def crc16(data: bytes | bytearray | memoryview, crc: int = CRC_INITIAL) -> int:
    """The CRC register after these bytes; it is sent low byte first. Over a whole frame it is 0."""
    for byte in data:
        crc = crc >> 8 ^ CRC_TABLE[(crc ^ byte) & 0xFF]
    return crc


def lrc8(data: bytes | bytearray | memoryview) -> int:
    """Two's complement of the 8-bit sum; over a whole frame, itself included, the sum is 0."""
    return -sum(data) & 0xFF
