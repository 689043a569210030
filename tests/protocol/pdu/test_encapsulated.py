from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everbus.errors import PduError
from everbus.protocol.codes import ExceptionCode
from everbus.protocol.pdu.base import NEED_MORE, UNPREDICTABLE, Pdu
from everbus.protocol.pdu.encapsulated import (
    MORE_FOLLOWS,
    CanOpenRequest,
    CanOpenResponse,
    EncapsulatedRequest,
    EncapsulatedResponse,
    ReadDeviceIdentificationRequest,
    ReadDeviceIdentificationResponse,
)

FUNCTION = ExceptionCode.ILLEGAL_FUNCTION
VALUE = ExceptionCode.ILLEGAL_DATA_VALUE
BASIC = "2B0E0101000003" + "00 03 414243" + "01 02 4445" + "02 02 5631"


def predicted(kind: type[Pdu], data: bytes, start: int, end: int) -> int:
    assert kind.length is not None
    return kind.length.predict(data, start, end)


# --- the MEI type -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pdu", "code", "text"),
    [("2B", VALUE, "the MEI type is missing"), ("2B0F0100", FUNCTION, "MEI type 0F is not known")],
)
@pytest.mark.requirement("AP-6.19-mei")
def test_a_missing_type_is_answered_with_03_and_an_unknown_one_with_01(
    pdu: str, code: ExceptionCode, text: str
) -> None:
    for read in (EncapsulatedRequest.parse, EncapsulatedResponse.parse):
        with pytest.raises(PduError, match=text) as caught:
            read(bytes.fromhex(pdu))
        assert caught.value.exception_code == code


@pytest.mark.requirement("AP-6.19-mei")
def test_each_interface_has_its_own_classes() -> None:
    assert type(EncapsulatedRequest.parse(bytes.fromhex("2B0E0100"))) is ReadDeviceIdentificationRequest
    assert type(EncapsulatedRequest.parse(bytes.fromhex("2B0D00"))) is CanOpenRequest
    assert type(EncapsulatedResponse.parse(bytes.fromhex(BASIC))) is ReadDeviceIdentificationResponse
    assert type(EncapsulatedResponse.parse(bytes.fromhex("2B0D00"))) is CanOpenResponse


# --- 0E ---------------------------------------------------------------------------------------


@pytest.mark.requirement("AP-6.21-request")
def test_a_request_has_a_read_code_and_an_object() -> None:
    request = ReadDeviceIdentificationRequest.parse(bytes.fromhex("2B0E0102"))
    assert request.fields() == {"mei_type": 14, "read_code": 1, "object_id": 2}
    assert request.encode() == bytes.fromhex("2B0E0102")


@pytest.mark.parametrize("pdu", ["2B0E", "2B0E01", "2B0E010000"])
@pytest.mark.requirement("AP-6.21-request")
def test_a_request_has_four_bytes(pdu: str) -> None:
    with pytest.raises(PduError, match=f"a request has 4 bytes, this one {len(pdu) // 2}") as caught:
        ReadDeviceIdentificationRequest.parse(bytes.fromhex(pdu))
    assert caught.value.exception_code == VALUE


@pytest.mark.parametrize(("read_code", "legal"), [(0, False), (1, True), (4, True), (5, False), (255, False)])
@pytest.mark.requirement("AP-6.21-read-code")
def test_a_read_code_is_one_of_four(read_code: int, legal: bool) -> None:
    request = ReadDeviceIdentificationRequest(read_code, 0x80)
    if legal:
        request.check()
        return
    with pytest.raises(PduError, match=rf"read code {read_code} is outside 1\.\.4") as caught:
        request.check()
    assert caught.value.exception_code == VALUE


@pytest.mark.requirement("AP-6.21-response")
def test_a_response_lists_its_objects_as_text_where_they_are_text() -> None:
    pdu = bytes.fromhex("2B0E0281FF0302 00 03 414243 80 02 C3FF")
    response = ReadDeviceIdentificationResponse.parse(pdu)
    assert response.objects == [(0, b"ABC"), (0x80, b"\xc3\xff")]
    assert response.fields() == {
        "mei_type": 14,
        "read_code": 2,
        "conformity": 0x81,
        "more_follows": MORE_FOLLOWS,
        "next_object_id": 3,
        "number_of_objects": 2,
        "objects": [
            {"id": 0, "length": 3, "value_ascii": "ABC"},
            {"id": 0x80, "length": 2, "value_hex": "c3ff"},
        ],
    }
    assert response.encode() == pdu


def test_an_object_count_over_the_objects_that_came_is_kept_as_it_stood() -> None:
    # AP 6.21 itself prints the total in both parts (spec.md 1.10).
    pdu = bytes.fromhex("2B0E0101FF0203 00 03 414243")
    response = ReadDeviceIdentificationResponse.parse(pdu)
    assert (response.object_count, len(response.objects)) == (3, 1)
    assert response.encode() == pdu


def test_an_object_id_may_come_twice() -> None:
    response = ReadDeviceIdentificationResponse.parse(bytes.fromhex("2B0E0101000002 00 01 41 00 01 42"))
    assert response.objects == [(0, b"A"), (0, b"B")]


@pytest.mark.parametrize(
    ("pdu", "text"),
    [
        ("2B0E01010000", "it has at least 7 bytes, this one 6"),
        ("2B0E0101000001 00", "the object at byte 7 is cut off"),
        ("2B0E0101000001 00 03 4142", "the object at byte 7 is cut off"),
        ("2B0E0101000002 00 01 41 01 05 42", "the object at byte 10 is cut off"),
        ("2B0E0101000000 00 01 41", "1 objects came, 0 were announced"),
    ],
)
@pytest.mark.requirement("AP-6.21-response")
def test_a_response_whose_objects_do_not_fill_it_is_refused(pdu: str, text: str) -> None:
    with pytest.raises(PduError, match=text) as caught:
        ReadDeviceIdentificationResponse.parse(bytes.fromhex(pdu))
    assert caught.value.exception_code == VALUE


@given(objects=st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=40)), max_size=5))
@settings(deadline=None)
def test_a_response_survives_the_wire(objects: list[tuple[int, bytes]]) -> None:
    response = ReadDeviceIdentificationResponse(1, 0x83, 0, 0, objects, len(objects))
    assert ReadDeviceIdentificationResponse.parse(response.encode()) == response


def test_a_response_answers_the_interface_and_the_read_code_of_its_request() -> None:
    request = ReadDeviceIdentificationRequest(1, 0)
    assert request.mismatch(EncapsulatedResponse.parse(bytes.fromhex(BASIC))) is None
    assert request.mismatch(EncapsulatedResponse.parse(bytes.fromhex("2B0E0201000000"))) == "read code 2 answers 1"
    assert request.mismatch(CanOpenResponse(b"")) == "the MEI type differs"


# --- 0D ---------------------------------------------------------------------------------------


def test_canopen_data_is_named_where_it_has_the_layout_in_use() -> None:
    request = CanOpenRequest.parse(bytes.fromhex("2B0D011F203C020000000203E8"))
    assert request.fields() == {
        "mei_type": 13,
        "protocol_control": 1,
        "node_id": 31,
        "index": 0x203C,
        "sub_index": 2,
        "offset": 0,
        "length": 2,
        "data_hex": "03e8",
    }
    assert "data_hex" not in CanOpenResponse.parse(bytes.fromhex("2B0D001F203C0200000000")).fields()


@pytest.mark.parametrize("data", ["", "00", "001F1005000000"])
def test_other_canopen_data_stays_bytes(data: str) -> None:
    request = CanOpenRequest.parse(bytes.fromhex("2B0D" + data))
    assert request.fields() == {"mei_type": 13, "data_hex": data.lower()}


@given(data=st.binary(max_size=251))
@settings(deadline=None)
@pytest.mark.requirement("AP-6.20-canopen")
def test_canopen_passes_through_as_bytes(data: bytes) -> None:
    pdu = b"\x2b\x0d" + data
    assert CanOpenRequest.parse(pdu).encode() == pdu
    assert CanOpenResponse.parse(pdu).encode() == pdu


def test_a_canopen_response_answers_a_canopen_request() -> None:
    assert CanOpenRequest(b"\x00").mismatch(CanOpenResponse(b"")) is None
    identification = EncapsulatedResponse.parse(bytes.fromhex(BASIC))
    assert CanOpenRequest(b"\x00").mismatch(identification) == "the MEI type differs"


# --- lengths ----------------------------------------------------------------------------------


def test_a_request_is_predictable_from_its_mei_type() -> None:
    data = bytes.fromhex("FF2B0E0100")
    assert [predicted(EncapsulatedRequest, data, 1, end) for end in range(1, 6)] == [NEED_MORE, NEED_MORE, 4, 4, 4]
    assert predicted(EncapsulatedRequest, bytes.fromhex("2B0D"), 0, 2) == UNPREDICTABLE


def test_a_response_is_predictable_once_each_object_has_its_length() -> None:
    data = b"\xff" + bytes.fromhex(BASIC) + b"\xff"
    lengths = [predicted(EncapsulatedResponse, data, 1, end) for end in range(1, len(data) + 1)]
    known = 7 + 5 + 4 + 2  # the id and the length of the third object
    assert lengths == [NEED_MORE] * known + [20] * (len(lengths) - known)
    assert predicted(EncapsulatedResponse, bytes.fromhex("2B0D"), 0, 2) == UNPREDICTABLE


def test_a_response_without_objects_ends_behind_its_head() -> None:
    assert predicted(EncapsulatedResponse, bytes.fromhex("2B0E0101000000FFFF"), 0, 9) == 7
