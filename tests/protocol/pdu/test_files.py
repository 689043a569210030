from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everbus.errors import PduError
from everbus.protocol.codes import ExceptionCode
from everbus.protocol.pdu.base import Pdu
from everbus.protocol.pdu.files import (
    FileGroup,
    ReadFifoQueueRequest,
    ReadFifoQueueResponse,
    ReadFileRecordRequest,
    ReadFileRecordResponse,
    WriteFileRecordRequest,
    WriteFileRecordResponse,
)

VALUE = ExceptionCode.ILLEGAL_DATA_VALUE
ADDRESS = ExceptionCode.ILLEGAL_DATA_ADDRESS


def refusal(pdu: Pdu) -> ExceptionCode | None:
    """What a server answers to this PDU; None: it is legal."""
    try:
        pdu.check()
    except PduError as error:
        return error.exception_code
    return None


def malformed(kind: type[Pdu], pdu: str) -> str:
    with pytest.raises(PduError) as caught:
        kind.parse(bytes.fromhex(pdu))
    assert caught.value.exception_code == VALUE
    return str(caught.value)


def group_to_write(record_count: int) -> FileGroup:
    return FileGroup(1, 0, record_count, bytes(2 * record_count))


# --- 14 ---------------------------------------------------------------------------------------


@pytest.mark.requirement("AP-6.14-layout")
def test_the_example_of_the_specification_reads_two_groups() -> None:
    pdu = bytes.fromhex("140E0600040001000206000300090002")
    request = ReadFileRecordRequest.parse(pdu)
    assert request == ReadFileRecordRequest([FileGroup(4, 1, 2), FileGroup(3, 9, 2)])
    assert request.fields() == {
        "byte_count": 14,
        "sub_requests": [
            {"ref_type": 6, "file": 4, "record": 1, "length": 2},
            {"ref_type": 6, "file": 3, "record": 9, "length": 2},
        ],
    }
    assert request.encode() == pdu
    response = ReadFileRecordResponse.parse(bytes.fromhex("140C05060DFE0020050633CD0040"))
    assert response.fields() == {
        "data_length": 12,
        "sub_responses": [
            {"file_resp_length": 5, "ref_type": 6, "registers": [0x0DFE, 0x20]},
            {"file_resp_length": 5, "ref_type": 6, "registers": [0x33CD, 0x40]},
        ],
    }
    assert response.encode() == bytes.fromhex("140C05060DFE0020050633CD0040")
    assert request.mismatch(response) is None


@pytest.mark.parametrize("pdu", ["14", "140706000100", "14080600010000000100", "1406060001000000"])
@pytest.mark.requirement("AP-6.14-byte-count")
def test_a_read_is_whole_groups_of_seven_bytes(pdu: str) -> None:
    assert "the byte count does not fit" in malformed(ReadFileRecordRequest, pdu)


@pytest.mark.parametrize(
    ("group", "code"),
    [
        (FileGroup(1, 0, 1), None),
        (FileGroup(65535, 0, 1), None),
        (FileGroup(1, 9999, 1), None),
        (FileGroup(1, 9879, 121), None),
        (FileGroup(0, 0, 1), ADDRESS),
        (FileGroup(1, 0, 1, reference_type=7), ADDRESS),
        (FileGroup(1, 9999, 2), ADDRESS),
        (FileGroup(1, 10000, 1), ADDRESS),
        (FileGroup(1, 65535, 1), ADDRESS),
        (FileGroup(1, 0, 0), VALUE),
        (FileGroup(1, 0, 122), VALUE),  # the response would need 246 bytes
        (FileGroup(0, 0, 122), VALUE),  # its size is checked before its address
        (FileGroup(0, 0, 0), VALUE),
    ],
)
@pytest.mark.requirement("AP-6.14-type", "AP-6.14-address")
def test_a_group_to_read_exists_and_its_records_fit_a_response(group: FileGroup, code: ExceptionCode | None) -> None:
    assert refusal(ReadFileRecordRequest([group])) == code
    assert refusal(ReadFileRecordRequest([FileGroup(1, 0, 1), group])) == (VALUE if group.record_count == 121 else code)


@pytest.mark.parametrize(("groups", "code"), [(0, VALUE), (1, None), (35, None), (36, VALUE)])
@pytest.mark.requirement("AP-6.14-byte-count")
def test_a_read_has_1_to_35_groups(groups: int, code: ExceptionCode | None) -> None:
    assert refusal(ReadFileRecordRequest([FileGroup(1, 0, 1)] * groups)) == code


@pytest.mark.requirement("AP-6.14-fits")
def test_every_legal_read_has_a_response_that_fits_a_pdu() -> None:
    # V12: the sum over all groups counts, for each number of them.
    for groups in range(36):
        for records in range(1, 130):
            request = ReadFileRecordRequest([FileGroup(1, 0, records)] * groups)
            response = ReadFileRecordResponse([bytes(2 * records)] * groups)
            fits = groups >= 1 and groups * (2 + 2 * records) <= 245
            assert refusal(request) == (None if fits else VALUE)
            if fits:
                assert len(response.encode()) <= 253
                assert request.mismatch(response) is None


@pytest.mark.parametrize(
    ("pdu", "at"),
    [
        ("14020506", 2),  # cut off
        ("14020006", 2),  # no length
        ("140504060000FF", 2),  # an even length has no whole registers
        ("1404030700AB", 2),  # another reference type
        ("1406030600AB0306", 6),  # the second is cut off
    ],
)
def test_a_sub_response_without_its_form_is_refused(pdu: str, at: int) -> None:
    assert f"the sub-response at byte {at} has no legal form" in malformed(ReadFileRecordResponse, pdu)


@pytest.mark.parametrize("pdu", ["14", "1405", "140506030000", "140303060000"])
def test_a_response_is_as_long_as_it_says(pdu: str) -> None:
    assert "the data length does not fit" in malformed(ReadFileRecordResponse, pdu)


def test_a_response_has_the_records_that_were_asked_for() -> None:
    request = ReadFileRecordRequest([FileGroup(1, 2, 3)])
    assert request.mismatch(ReadFileRecordResponse([bytes(6)])) is None
    assert request.mismatch(ReadFileRecordResponse([bytes(4)])) == "[3] records were asked for, [2] came"
    assert request.mismatch(ReadFileRecordResponse()) == "[3] records were asked for, [] came"


@given(groups=st.lists(st.integers(0, 12).map(lambda records: bytes(range(2 * records))), max_size=9))
@settings(deadline=None)
def test_a_response_survives_the_wire(groups: list[bytes]) -> None:
    response = ReadFileRecordResponse(groups)
    assert ReadFileRecordResponse.parse(response.encode()) == response


# --- 15 ---------------------------------------------------------------------------------------


@pytest.mark.requirement("AP-6.15-layout")
def test_the_example_of_the_specification_writes_three_records() -> None:
    pdu = bytes.fromhex("150D0600040007000306AF04BE100D")
    request = WriteFileRecordRequest.parse(pdu)
    assert request.fields() == {
        "data_length": 13,
        "sub_requests": [{"ref_type": 6, "file": 4, "record": 7, "length": 3, "registers": [1711, 1214, 4109]}],
    }
    assert request.encode() == pdu
    assert request.respond().encode() == pdu
    assert request.mismatch(request.respond()) is None


@pytest.mark.parametrize("kind", [WriteFileRecordRequest, WriteFileRecordResponse])
@pytest.mark.requirement("AP-6.15-byte-count")
def test_groups_that_are_cut_off_are_refused(kind: type[Pdu]) -> None:
    assert "the data length does not fit" in malformed(kind, "15")
    assert "the data length does not fit" in malformed(kind, "150906000100000001AB")
    assert "the group at byte 2 is cut off" in malformed(kind, "1506060001000000")
    assert "the group at byte 11 is cut off" in malformed(kind, "150A06000100000001ABCD06")
    assert "a group of 2 records is cut off" in malformed(kind, "150906000100000002ABCD")


@pytest.mark.parametrize(
    ("groups", "code"),
    [
        ([group_to_write(1)], None),
        ([group_to_write(122)], None),
        ([group_to_write(1), group_to_write(2)], None),
        ([group_to_write(59), group_to_write(59)], None),  # 250 bytes
        ([], VALUE),
        ([group_to_write(0)], VALUE),
        ([group_to_write(0), group_to_write(1)], VALUE),
        ([group_to_write(123)], VALUE),
        ([group_to_write(59), group_to_write(60)], VALUE),  # 252 bytes
        ([FileGroup(1, 0, 2, b"\xab\xcd")], VALUE),
        ([FileGroup(1, 9999, 2, bytes(4))], ADDRESS),
        ([FileGroup(1, 10000, 1, bytes(2))], ADDRESS),
        ([FileGroup(0, 0, 1, bytes(2))], ADDRESS),
        ([FileGroup(1, 0, 1, bytes(2), reference_type=5)], ADDRESS),
        ([FileGroup(0, 0, 1, bytes(2)), group_to_write(0)], VALUE),
    ],
)
@pytest.mark.requirement("AP-6.15-byte-count", "AP-6.15-address")
def test_a_write_has_9_to_251_bytes_of_existing_records(groups: list[FileGroup], code: ExceptionCode | None) -> None:
    assert refusal(WriteFileRecordRequest(groups)) == code
    assert refusal(WriteFileRecordResponse(groups)) == code


def test_the_largest_write_fills_a_pdu() -> None:
    assert len(WriteFileRecordRequest([group_to_write(122)]).encode()) == 253


@pytest.mark.requirement("AP-6.15-layout")
def test_an_echo_that_differs_does_not_confirm_a_write() -> None:
    request = WriteFileRecordRequest([FileGroup(1, 2, 1, b"\x00\x05")])
    for other in [(2, 2, 1, b"\x00\x05"), (1, 3, 1, b"\x00\x05"), (1, 2, 1, b"\x00\x06")]:
        assert request.mismatch(WriteFileRecordResponse([FileGroup(*other)])) == "the echo differs from the request"


def test_a_refusal_names_the_group() -> None:
    with pytest.raises(PduError, match="write file record: type 6, file 1, 2 records from 9999 do not exist"):
        WriteFileRecordRequest([FileGroup(1, 9999, 2, bytes(4))]).check()


# --- 18 ---------------------------------------------------------------------------------------


@pytest.mark.requirement("AP-6.18-layout")
def test_the_example_of_the_specification_reads_two_queued_values() -> None:
    request = ReadFifoQueueRequest.parse(bytes.fromhex("1804DE"))
    assert request.fields() == {"fifo_address": 0x04DE}
    assert request.encode() == bytes.fromhex("1804DE")
    response = ReadFifoQueueResponse.parse(bytes.fromhex("180006000201B81284"))
    assert response.registers == [440, 4740]
    assert response.fields() == {"byte_count": 6, "fifo_count": 2, "registers": [440, 4740]}
    assert response.encode() == bytes.fromhex("180006000201B81284")
    assert request.mismatch(response) is None


@pytest.mark.parametrize("pdu", ["18", "1804", "1804DE00"])
def test_a_request_for_a_queue_has_three_bytes(pdu: str) -> None:
    assert f"a request has 3 bytes, this one {len(pdu) // 2}" in malformed(ReadFifoQueueRequest, pdu)


@pytest.mark.parametrize(
    ("pdu", "problem"),
    [
        ("18000200", "it has at least 5 bytes, this one 4"),
        ("180006000101B81284", "byte count 6 and FIFO count 1 do not fit 9 bytes"),
        ("180004000201B81284", "byte count 4 and FIFO count 2 do not fit 9 bytes"),
        ("1800030000AB", "byte count 3 and FIFO count 0 do not fit 6 bytes"),
    ],
)
@pytest.mark.requirement("AP-6.18-layout")
def test_a_queue_whose_counts_do_not_fit_is_refused(pdu: str, problem: str) -> None:
    assert problem in malformed(ReadFifoQueueResponse, pdu)


@pytest.mark.parametrize(("count", "code"), [(0, None), (31, None), (32, VALUE)])
@pytest.mark.requirement("AP-6.18-count")
def test_a_queue_has_at_most_31_values(count: int, code: ExceptionCode | None) -> None:
    response = ReadFifoQueueResponse.of(list(range(count)))
    assert refusal(response) == code
    assert ReadFifoQueueResponse.parse(response.encode()).registers == list(range(count))


# --- lengths ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "pdu"),
    [
        (ReadFileRecordRequest, "140706000100020003"),
        (ReadFileRecordResponse, "14080706000102030405"),
        (WriteFileRecordRequest, "150906000100000001ABCD"),
        (WriteFileRecordResponse, "150906000100000001ABCD"),
        (ReadFifoQueueRequest, "1804DE"),
        (ReadFifoQueueResponse, "180006000201B81284"),
    ],
)
def test_a_length_is_known_from_the_front(kind: type[Pdu], pdu: str) -> None:
    data = bytes.fromhex(pdu)
    assert kind.length is not None
    assert kind.length.predict(data, 0, len(data)) == len(data)
