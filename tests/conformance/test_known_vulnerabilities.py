"""Holes that other stacks had, as far as the core can have them; V numbers as in the ledger."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import pytest

from everbus.protocol.codes import MAX_PDU_BYTES, FunctionCode
from everbus.protocol.framing.base import Frame
from everbus.protocol.pdu.table import AnyRequest
from everbus.service.bank import Bank, TableName
from everbus.service.context import ConnectionInfo, RequestContext
from everbus.service.handler import SILENT, Answer
from everbus.service.local import LocalDevice
from everbus.service.pipeline import Pipeline
from everbus.service.units import Units

TCP = ConnectionInfo(1)
ILLEGAL_FUNCTION, ILLEGAL_ADDRESS, ILLEGAL_VALUE = 1, 2, 3


class Asked:
    """A handler that only counts; it never answers."""

    def __init__(self) -> None:
        self.calls = 0

    def handle(self, request: AnyRequest, context: RequestContext) -> Answer:
        self.calls += 1
        return SILENT


def answer(pipeline: Pipeline, pdu: bytes) -> bytes:
    result = pipeline.answer(Frame(1, pdu, 1), TCP)
    assert isinstance(result, bytes)
    return result


# --- V01: CVE-2019-14462, CVE-2019-14463 -------------------------------------------------------

QUANTITIES = [*range(10), 15, 16, 17, 119, 120, 121, 122, 123, 124, 1967, 1968, 1969, 1976, 2000, 0x8001, 0xFFFF]
SIZES = [*range(9), 14, 16, 18, 32, 34, 240, 242, 243, 244, 245, 246, 247, 248, 254, 255]


def grid() -> Iterator[tuple[int, int, int]]:
    """Quantity, byte count and real length of the data."""
    for quantity in QUANTITIES:
        for byte_count in SIZES:
            for length in [size for size in SIZES if size <= 247]:
                yield quantity, byte_count, length


HEADS = {
    FunctionCode.WRITE_MULTIPLE_COILS: b"\x0f\x00\x00",
    FunctionCode.WRITE_MULTIPLE_REGISTERS: b"\x10\x00\x00",
    FunctionCode.READ_WRITE_MULTIPLE_REGISTERS: b"\x17\x00\x00\x00\x01\x00\x00",
}


@pytest.mark.parametrize(
    ("code", "most"),
    [
        (FunctionCode.WRITE_MULTIPLE_COILS, 1968),
        (FunctionCode.WRITE_MULTIPLE_REGISTERS, 123),
        (FunctionCode.READ_WRITE_MULTIPLE_REGISTERS, 121),
    ],
)
@pytest.mark.requirement("AP-6.11-quantity", "AP-6.12-quantity", "AP-6.17-quantity")
def test_a_write_is_executed_only_if_quantity_byte_count_and_length_agree(code: FunctionCode, most: int) -> None:
    bits = code is FunctionCode.WRITE_MULTIPLE_COILS
    device = LocalDevice(Bank(coils=2000, holding_registers=130))
    pipeline = Pipeline(Units(device))
    written = [device.bank.table(name).data for name in (TableName.COILS, TableName.HOLDING_REGISTERS)]
    accepted = refused = 0
    for quantity, byte_count, length in grid():
        data = b"\xff" * length
        pdu = HEADS[code] + quantity.to_bytes(2, "big") + bytes((byte_count,)) + data
        right = (quantity + 7) // 8 if bits else 2 * quantity
        if 1 <= quantity <= most and byte_count == length == right:
            assert answer(pipeline, pdu)[0] == code
            assert sum(byte.bit_count() for table in written for byte in table) == (quantity if bits else 16 * quantity)
            for table in written:
                table[:] = bytes(len(table))
            accepted += 1
        else:
            assert answer(pipeline, pdu) == bytes((code | 0x80, ILLEGAL_VALUE))
            assert not any(map(any, written))
            refused += 1
    assert accepted >= 10
    assert accepted + refused >= 10_000


# --- V02: CVE-2022-0367 ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("read", "write"), [((0, 1), (100, 1)), ((100, 1), (0, 1)), ((99, 2), (0, 1)), ((0, 1), (99, 2))]
)
@pytest.mark.requirement("AP-4.5-not-executed", "AP-6.17-address")
def test_a_read_and_write_touches_nothing_unless_both_ranges_exist(
    read: tuple[int, int], write: tuple[int, int]
) -> None:
    device = LocalDevice(Bank(holding_registers=100))
    words = b"".join(number.to_bytes(2, "big") for number in (*read, *write))
    pdu = b"\x17" + words + bytes((2 * write[1],)) + b"\x12\x34" * write[1]
    assert answer(Pipeline(Units(device)), pdu) == bytes((0x97, ILLEGAL_ADDRESS))
    assert not any(device.bank.read_holding_registers(0, 100))


# --- V05, V14: function codes without a body ---------------------------------------------------

BARE = {
    FunctionCode.READ_EXCEPTION_STATUS: b"\x07\x00",
    FunctionCode.GET_COMM_EVENT_COUNTER: b"\x0b\x00\x00\x00",
    FunctionCode.GET_COMM_EVENT_LOG: b"\x0c",
    FunctionCode.REPORT_SERVER_ID: b"\x11\x08everbus\xff",
}
"""Those that need no body, and how their answers begin."""


@pytest.mark.requirement("AP-4.1-function-code")
def test_a_bare_function_code_is_answered_whatever_it_is() -> None:
    pipeline = Pipeline(Units(LocalDevice()))
    answers = {code: answer(pipeline, bytes((code,))) for code in range(256)}
    known = set(FunctionCode)
    refusals = {code: ILLEGAL_VALUE if code in known else ILLEGAL_FUNCTION for code in range(256)}
    for code, start in BARE.items():
        assert answers.pop(code).startswith(start)
        del refusals[code]
    assert answers == {code: bytes((code | 0x80, refusal)) for code, refusal in refusals.items()}


# --- V11: handlers get whole requests alone ----------------------------------------------------


@pytest.mark.requirement("AP-7-03")
def test_a_handler_is_not_called_for_a_request_that_is_cut_off_or_too_long() -> None:
    whole = [
        "0F0013000A02CD01",
        "100001000204000A0102",
        "1700030006000E00030600FF00FF00FF",
        "150D0600040007000306AF04BE100D",
        "140E0600040001000206000300090002",
        "16000400F20025",
        "0600010003",
        "0100000001",
    ]
    asked = Asked()
    pipeline = Pipeline(Units(asked))
    for pdu in map(bytes.fromhex, whole):
        for cut in range(1, len(pdu)):
            assert answer(pipeline, pdu[:cut]) == bytes((pdu[0] | 0x80, ILLEGAL_VALUE))
        assert answer(pipeline, pdu + b"\x00") == bytes((pdu[0] | 0x80, ILLEGAL_VALUE))
    assert asked.calls == 0
    for pdu in map(bytes.fromhex, whole):
        assert pipeline.answer(Frame(1, pdu, 1), TCP) is None
    assert asked.calls == len(whole)


# --- V12: sums of sub-responses ----------------------------------------------------------------


def spread(words: int, groups: int) -> list[int]:
    """So many words in so many groups, as evenly as can be."""
    return [words // groups + (number < words % groups) for number in range(groups)] if groups else []


@pytest.mark.requirement("AP-6.14-fits")
def test_a_read_of_files_never_needs_more_than_a_pdu() -> None:
    pipeline = Pipeline(Units(LocalDevice()))
    for groups, words in product(range(36), range(1, 140)):
        if words < groups:
            continue
        counts = spread(words, groups)
        pdu = bytes((0x14, 7 * groups)) + b"".join(
            b"\x06\x00\x01\x00\x00" + count.to_bytes(2, "big") for count in counts
        )
        result = answer(pipeline, pdu)
        size = sum(2 + 2 * count for count in counts)
        if groups and size <= 245:
            assert len(result) == 2 + size <= MAX_PDU_BYTES
            assert result[:2] == bytes((0x14, size))
        else:
            assert result == bytes((0x94, ILLEGAL_VALUE))


@pytest.mark.parametrize("record_count", [122, 123, 127, 128, 32767, 32768, 65535])
@pytest.mark.parametrize("groups", [1, 2, 35])
def test_a_length_that_would_wrap_is_refused(groups: int, record_count: int) -> None:
    pipeline = Pipeline(Units(LocalDevice()))
    group = b"\x06\x00\x01\x00\x00" + record_count.to_bytes(2, "big")
    assert answer(pipeline, bytes((0x14, 7 * groups)) + group * groups) == bytes((0x94, ILLEGAL_VALUE))
    assert answer(pipeline, bytes((0x15, 7 * groups)) + group * groups) == bytes((0x95, ILLEGAL_VALUE))


@pytest.mark.slow
def test_a_write_of_files_is_executed_whole_or_not_at_all() -> None:
    bank = Bank(coils=0, discrete_inputs=0, input_registers=0, holding_registers=0)
    for groups, words in product(range(36), range(125)):
        device = LocalDevice(bank)
        counts = spread(words, groups)
        body = b"".join(b"\x06\x00\x01\x00\x00" + count.to_bytes(2, "big") + b"\xff\xff" * count for count in counts)
        if words < groups or len(body) > 255:
            continue
        pdu = bytes((0x15, len(body))) + body
        result = answer(Pipeline(Units(device)), pdu)
        stored = answer(Pipeline(Units(device)), bytes.fromhex("14070600010000") + b"\x00\x79")[4:]
        if groups and len(body) <= 251:
            assert result == pdu
            assert stored == (b"\xff\xff" * min(max(counts), 121)).ljust(242, b"\x00")
        else:
            assert result == bytes((0x95, ILLEGAL_VALUE))
            assert not any(stored)


# --- V16: quantities ---------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("code", "most"), [(1, 2000), (2, 2000), (3, 125), (4, 125)])
@pytest.mark.requirement("AP-6.1-quantity", "AP-6.2-quantity", "AP-6.3-quantity", "AP-6.4-quantity")
def test_a_read_of_none_or_too_many_is_refused_for_every_quantity(code: int, most: int) -> None:
    pipeline = Pipeline(Units(LocalDevice()))
    refusal = bytes((code | 0x80, ILLEGAL_VALUE))
    head = bytes((code, 0, 0))
    for quantity in [0, *range(most + 1, 0x10000)]:
        assert answer(pipeline, head + quantity.to_bytes(2, "big")) == refusal
    for quantity in range(1, most + 1):
        assert answer(pipeline, head + quantity.to_bytes(2, "big"))[0] == code
