"""Function codes, exception codes and the maxima of the specification.

Source: MODBUS Application Protocol V1.1b3, clauses 4 to 7 and annex A. Codes are written in
hexadecimal there and here.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

__all__ = [
    "DiagnosticCode",
    "ExceptionCode",
    "FunctionCode",
    "diagnostic_name",
    "exception_name",
    "function_name",
]


class FunctionCode(IntEnum):
    """The public function codes in use (AP 5.1)."""

    READ_COILS = 0x01
    READ_DISCRETE_INPUTS = 0x02
    READ_HOLDING_REGISTERS = 0x03
    READ_INPUT_REGISTERS = 0x04
    WRITE_SINGLE_COIL = 0x05
    WRITE_SINGLE_REGISTER = 0x06
    READ_EXCEPTION_STATUS = 0x07
    DIAGNOSTICS = 0x08
    GET_COMM_EVENT_COUNTER = 0x0B
    GET_COMM_EVENT_LOG = 0x0C
    WRITE_MULTIPLE_COILS = 0x0F
    WRITE_MULTIPLE_REGISTERS = 0x10
    REPORT_SERVER_ID = 0x11
    READ_FILE_RECORD = 0x14
    WRITE_FILE_RECORD = 0x15
    MASK_WRITE_REGISTER = 0x16
    READ_WRITE_MULTIPLE_REGISTERS = 0x17
    READ_FIFO_QUEUE = 0x18
    ENCAPSULATED_INTERFACE = 0x2B


class ExceptionCode(IntEnum):
    """Exception codes (AP 7); 07 is named by SL appendix A, FF is the extended form of 2B/0D."""

    ILLEGAL_FUNCTION = 0x01
    ILLEGAL_DATA_ADDRESS = 0x02
    ILLEGAL_DATA_VALUE = 0x03
    SERVER_DEVICE_FAILURE = 0x04
    ACKNOWLEDGE = 0x05
    SERVER_DEVICE_BUSY = 0x06
    NEGATIVE_ACKNOWLEDGE = 0x07
    MEMORY_PARITY_ERROR = 0x08
    GATEWAY_PATH_UNAVAILABLE = 0x0A
    GATEWAY_TARGET_FAILED_TO_RESPOND = 0x0B
    EXTENDED = 0xFF


class DiagnosticCode(IntEnum):
    """Sub-functions of Diagnostics, 08 (AP 6.8)."""

    RETURN_QUERY_DATA = 0x00
    RESTART_COMMUNICATIONS = 0x01
    RETURN_DIAGNOSTIC_REGISTER = 0x02
    CHANGE_ASCII_DELIMITER = 0x03
    FORCE_LISTEN_ONLY = 0x04
    CLEAR_COUNTERS = 0x0A
    BUS_MESSAGE_COUNT = 0x0B
    BUS_COMM_ERROR_COUNT = 0x0C
    BUS_EXCEPTION_ERROR_COUNT = 0x0D
    SERVER_MESSAGE_COUNT = 0x0E
    SERVER_NO_RESPONSE_COUNT = 0x0F
    SERVER_NAK_COUNT = 0x10
    SERVER_BUSY_COUNT = 0x11
    BUS_CHAR_OVERRUN_COUNT = 0x12
    CLEAR_OVERRUN_COUNTER = 0x14


EXCEPTION_BIT: Final = 0x80
"""Set in the function code of an exception response (AP 4.1)."""

MAX_PDU_BYTES: Final = 253
"""Largest PDU: 256 bytes of an RTU frame less unit and CRC (AP 4.1)."""

MAX_READ_BITS: Final = 2000
MAX_READ_REGISTERS: Final = 125
MAX_WRITE_BITS: Final = 1968
MAX_WRITE_REGISTERS: Final = 123
MAX_READ_WRITE_REGISTERS: Final = 121
"""Registers written by 17; it reads up to MAX_READ_REGISTERS (AP 6.17)."""

MAX_FIFO_REGISTERS: Final = 31
MAX_EVENT_LOG_BYTES: Final = 64
MAX_RECORD_NUMBER: Final = 0x270F
"""Last record of a file, 9999 (AP 6.14)."""

FILE_REFERENCE_TYPE: Final = 6
ITEMS_PER_TABLE: Final = 65536

COIL_ON: Final = 0xFF00
COIL_OFF: Final = 0x0000

NOT_A_DELIMITER: Final = b"0123456789ABCDEFabcdef:"
"""What occurs inside ASCII frames: none of these characters can end them (SL 2.5.2.1)."""

MEI_CANOPEN: Final = 0x0D
MEI_DEVICE_IDENTIFICATION: Final = 0x0E


def function_name(code: int) -> str:
    """Name of a function code for people: ``read holding registers``, ``function 41`` if unknown."""
    try:
        return FunctionCode(code).name.replace("_", " ").lower()
    except ValueError:
        return f"function {code:02X}"


def exception_name(code: int) -> str:
    """Name of an exception code for people: ``illegal data address``, ``vendor code 80`` if unknown."""
    try:
        return ExceptionCode(code).name.replace("_", " ").lower()
    except ValueError:
        return f"vendor code {code:02X}"


def diagnostic_name(code: int) -> str:
    """Name of a sub-function of Diagnostics: ``return_query_data``, ``reserved`` if unknown."""
    try:
        return DiagnosticCode(code).name.lower()
    except ValueError:
        return "reserved"
