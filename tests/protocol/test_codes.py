from __future__ import annotations

import pytest

from everbus.protocol import codes
from everbus.protocol.codes import (
    DiagnosticCode,
    ExceptionCode,
    FunctionCode,
    diagnostic_name,
    exception_name,
    function_name,
)


@pytest.mark.requirement("AP-5.1-public")
def test_the_function_codes_are_the_public_ones_in_use() -> None:
    public = [1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 15, 16, 17, 20, 21, 22, 23, 24, 43]
    assert [code.value for code in FunctionCode] == public


def test_the_exception_codes_are_those_of_the_specification_and_the_extended_form() -> None:
    assert [code.value for code in ExceptionCode] == [1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 255]


def test_the_diagnostic_sub_functions_leave_out_the_reserved_ones() -> None:
    assert [code.value for code in DiagnosticCode] == [*range(0x05), *range(0x0A, 0x13), 0x14]


@pytest.mark.requirement("AP-4.1-pdu-size")
def test_the_maxima_fill_a_pdu_and_pass_it_nowhere() -> None:
    assert codes.MAX_PDU_BYTES == 253
    assert 2 + codes.MAX_READ_BITS // 8 == 252
    assert 2 + 2 * codes.MAX_READ_REGISTERS == 252
    assert 6 + codes.MAX_WRITE_BITS // 8 == 252
    assert 6 + 2 * codes.MAX_WRITE_REGISTERS == 252
    assert 10 + 2 * codes.MAX_READ_WRITE_REGISTERS == 252


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (0x03, "read holding registers"),
        (0x2B, "encapsulated interface"),
        (0x41, "function 41"),
        (0, "function 00"),
    ],
)
def test_a_function_code_has_a_name_for_people(code: int, name: str) -> None:
    assert function_name(code) == name


@pytest.mark.parametrize(
    ("code", "name"),
    [(0x0B, "gateway target failed to respond"), (0x80, "vendor code 80"), (9, "vendor code 09")],
)
def test_an_exception_code_has_a_name_for_people(code: int, name: str) -> None:
    assert exception_name(code) == name


@pytest.mark.parametrize(
    ("code", "name"),
    [(0, "return_query_data"), (0x12, "bus_char_overrun_count"), (0x13, "reserved"), (21, "reserved")],
)
def test_a_diagnostic_sub_function_has_a_name_for_fields(code: int, name: str) -> None:
    assert diagnostic_name(code) == name
