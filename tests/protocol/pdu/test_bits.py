from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everbus.errors import PduError, UsageError
from everbus.protocol.codes import ExceptionCode
from everbus.protocol.pdu.base import Pdu
from everbus.protocol.pdu.bits import (
    ReadBitsRequest,
    ReadBitsResponse,
    ReadCoilsRequest,
    ReadCoilsResponse,
    ReadDiscreteInputsRequest,
    ReadDiscreteInputsResponse,
    WriteMultipleCoilsRequest,
    WriteMultipleCoilsResponse,
    WriteSingleCoilRequest,
    WriteSingleCoilResponse,
)

READS: list[type[ReadBitsRequest[ReadBitsResponse]]] = [
    ReadCoilsRequest,  # type: ignore[list-item]
    ReadDiscreteInputsRequest,  # type: ignore[list-item]
]


def refusal(pdu: Pdu) -> ExceptionCode | None:
    """What a server answers to this PDU; None: it is legal."""
    try:
        pdu.check()
    except PduError as error:
        return error.exception_code
    return None


# --- reads ------------------------------------------------------------------------------------


@pytest.mark.requirement("AP-6.1-layout", "AP-6.2-layout")
def test_the_examples_of_the_specification_read_as_it_says() -> None:
    request = ReadCoilsRequest.parse(bytes.fromhex("0100130013"))
    response = ReadCoilsResponse.parse(bytes.fromhex("0103CD6B05"))
    assert request.fields() == {"address": 19, "quantity": 19}
    assert [int(bit) for bit in response.bits] == [
        *(1, 0, 1, 1, 0, 0, 1, 1),
        *(1, 1, 0, 1, 0, 1, 1, 0),
        *(1, 0, 1, 0, 0, 0, 0, 0),
    ]
    assert response.fields() == {
        "byte_count": 3,
        "data_hex": "cd6b05",
        "bits": [int(bit) for bit in response.bits],
    }
    assert request.mismatch(response) is None
    assert ReadDiscreteInputsRequest.parse(bytes.fromhex("0200C40016")).encode() == bytes.fromhex("0200C40016")


@pytest.mark.parametrize(
    ("address", "quantity", "code"),
    [
        (0, 1, None),
        (0, 2000, None),
        (65535, 1, None),
        (0, 0, ExceptionCode.ILLEGAL_DATA_VALUE),
        (0, 2001, ExceptionCode.ILLEGAL_DATA_VALUE),
        (0, 65535, ExceptionCode.ILLEGAL_DATA_VALUE),
        (65535, 2, ExceptionCode.ILLEGAL_DATA_ADDRESS),
        (65535, 2001, ExceptionCode.ILLEGAL_DATA_VALUE),  # the quantity is checked first
    ],
)
@pytest.mark.parametrize("kind", READS)
@pytest.mark.requirement("AP-6.1-quantity", "AP-6.2-quantity")
def test_a_read_asks_for_1_to_2000_bits_inside_the_table(
    kind: type[ReadBitsRequest[ReadBitsResponse]], address: int, quantity: int, code: ExceptionCode | None
) -> None:
    assert refusal(kind(address, quantity)) == code


@pytest.mark.parametrize(("size", "legal"), [(0, False), (1, True), (250, True), (251, False)])
@pytest.mark.parametrize("kind", [ReadCoilsResponse, ReadDiscreteInputsResponse])
def test_a_response_has_1_to_250_bytes(kind: type[ReadBitsResponse], size: int, legal: bool) -> None:
    assert refusal(kind(bytes(size))) == (None if legal else ExceptionCode.ILLEGAL_DATA_VALUE)


@given(kind=st.sampled_from(READS), bits=st.lists(st.booleans(), min_size=1, max_size=2000))
@settings(deadline=None)
@pytest.mark.requirement("AP-6.1-byte-count", "AP-6.1-packing", "AP-6.2-byte-count", "AP-6.2-packing")
def test_a_response_made_for_a_request_fits_it(kind: type[ReadBitsRequest[ReadBitsResponse]], bits: list[bool]) -> None:
    request = kind(0, len(bits))
    response = request.respond(iter(bits))
    assert type(response) is request.response_type
    assert response.function_code == request.function_code
    assert refusal(response) is None
    assert request.mismatch(response) is None
    assert type(response).parse(response.encode()).bits[: len(bits)] == bits
    assert not any(response.bits[len(bits) :])


def test_a_response_with_another_number_of_bits_is_not_made() -> None:
    with pytest.raises(UsageError, match="3 bits were asked for, 2 given"):
        ReadCoilsRequest(0, 3).respond([True, False])


@pytest.mark.parametrize(("quantity", "size"), [(18, 2), (18, 4), (8, 2), (9, 1), (2000, 249)])
@pytest.mark.requirement("AP-6.1-byte-count", "AP-6.2-byte-count")
def test_a_response_with_another_number_of_bytes_does_not_fit(quantity: int, size: int) -> None:
    problem = ReadCoilsRequest(0, quantity).mismatch(ReadCoilsResponse(bytes(size)))
    assert problem == f"{quantity} bits need byte count {-(-quantity // 8)}, not {size}"


# --- 05 ---------------------------------------------------------------------------------------


def test_a_single_coil_is_switched_on_and_off() -> None:
    assert WriteSingleCoilRequest.of(0xAC, on=True).encode() == bytes.fromhex("0500ACFF00")
    assert WriteSingleCoilRequest.of(1, on=False).encode() == bytes.fromhex("0500010000")
    assert [WriteSingleCoilRequest(0, value).on for value in (0xFF00, 0)] == [True, False]


@pytest.mark.parametrize("value", [1, 0xFF, 0xFF01, 0xFFFF, 0x1234])
@pytest.mark.parametrize("kind", [WriteSingleCoilRequest, WriteSingleCoilResponse])
@pytest.mark.requirement("AP-6.5-value")
def test_a_coil_is_neither_on_nor_off_with_any_other_value(
    kind: type[WriteSingleCoilRequest | WriteSingleCoilResponse], value: int
) -> None:
    assert [refusal(kind(0, on)) for on in (0xFF00, 0)] == [None, None]
    with pytest.raises(PduError, match=rf"value {value:04X} is neither FF00 \(on\) nor 0000 \(off\)") as caught:
        kind(0, value).check()
    assert caught.value.exception_code == ExceptionCode.ILLEGAL_DATA_VALUE


@pytest.mark.requirement("AP-6.5-layout")
def test_a_single_coil_is_confirmed_by_its_echo() -> None:
    request = WriteSingleCoilRequest.of(8, on=True)
    assert request.respond().encode() == request.encode()
    assert request.mismatch(request.respond()) is None
    assert request.mismatch(WriteSingleCoilResponse(9, 0xFF00)) is not None
    assert request.mismatch(WriteSingleCoilResponse(8, 0)) is not None


# --- 0F ---------------------------------------------------------------------------------------


@pytest.mark.requirement("AP-6.11-layout")
def test_the_example_of_the_specification_writes_ten_coils() -> None:
    pdu = bytes.fromhex("0F0013000A02CD01")
    request = WriteMultipleCoilsRequest.parse(pdu)
    assert request == WriteMultipleCoilsRequest.of(0x13, [1, 0, 1, 1, 0, 0, 1, 1, 1, 0])
    assert request.fields() == {
        "address": 0x13,
        "quantity": 10,
        "byte_count": 2,
        "data_hex": "cd01",
        "bits": [1, 0, 1, 1, 0, 0, 1, 1, 1, 0],
    }
    assert request.encode() == pdu
    assert request.respond().encode() == bytes.fromhex("0F0013000A")


def test_bits_are_not_named_where_the_byte_count_does_not_fit_them() -> None:
    request = WriteMultipleCoilsRequest.parse(bytes.fromhex("0F000100080200FF"))
    assert request.fields() == {"address": 1, "quantity": 8, "byte_count": 2, "data_hex": "00ff"}


@pytest.mark.parametrize(
    ("address", "quantity", "size", "code"),
    [
        (0, 1, 1, None),
        (0, 1968, 246, None),
        (65528, 8, 1, None),
        (0, 0, 0, ExceptionCode.ILLEGAL_DATA_VALUE),
        (0, 1969, 247, ExceptionCode.ILLEGAL_DATA_VALUE),
        (0, 8, 2, ExceptionCode.ILLEGAL_DATA_VALUE),
        (0, 9, 1, ExceptionCode.ILLEGAL_DATA_VALUE),
        (65528, 9, 2, ExceptionCode.ILLEGAL_DATA_ADDRESS),
        (65528, 9, 1, ExceptionCode.ILLEGAL_DATA_VALUE),  # the byte count is checked first
    ],
)
@pytest.mark.requirement("AP-6.11-quantity")
def test_a_write_has_1_to_1968_coils_their_bytes_and_a_place(
    address: int, quantity: int, size: int, code: ExceptionCode | None
) -> None:
    assert refusal(WriteMultipleCoilsRequest(address, quantity, bytes(size))) == code


@given(address=st.integers(0, 60000), bits=st.lists(st.booleans(), min_size=1, max_size=1968))
@settings(deadline=None)
@pytest.mark.requirement("AP-6.11-packing")
def test_a_write_carries_its_bits(address: int, bits: list[bool]) -> None:
    request = WriteMultipleCoilsRequest.of(address, iter(bits))
    assert refusal(request) is None
    assert WriteMultipleCoilsRequest.parse(request.encode()).bits == bits
    assert request.mismatch(request.respond()) is None


@pytest.mark.parametrize(("quantity", "legal"), [(0, False), (1, True), (1968, True), (1969, False)])
def test_a_confirmation_names_1_to_1968_coils(quantity: int, legal: bool) -> None:
    response = WriteMultipleCoilsResponse(0, quantity)
    assert refusal(response) == (None if legal else ExceptionCode.ILLEGAL_DATA_VALUE)


def test_a_confirmation_of_something_else_does_not_fit() -> None:
    request = WriteMultipleCoilsRequest.of(0x13, [True] * 10)
    assert request.mismatch(WriteMultipleCoilsResponse(0x13, 8)) is not None
    assert request.mismatch(WriteMultipleCoilsResponse(0x14, 10)) is not None
