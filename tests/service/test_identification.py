from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everbus.errors import ConfigurationError, ExceptionResponseError
from everbus.protocol.codes import MAX_PDU_BYTES, ExceptionCode
from everbus.protocol.pdu.encapsulated import (
    MORE_FOLLOWS,
    ReadDeviceIdentificationRequest,
    ReadDeviceIdentificationResponse,
)
from everbus.service.identification import Identification

BASIC: list[tuple[int, bytes]] = [(0, b"Acme"), (1, b"PLC-7"), (2, b"V2.11")]
URL: tuple[int, bytes] = (3, b"https://acme.example")
PRIVATE: tuple[int, bytes] = (0x80, b"\xff\x00")


def device(*more: tuple[int, bytes]) -> Identification:
    return Identification("Acme", b"PLC-7", "V2.11", dict(more))


def asked(identification: Identification, read_code: int, object_id: int = 0) -> ReadDeviceIdentificationResponse:
    request = ReadDeviceIdentificationRequest(read_code, object_id)
    response = identification.answer(request)
    assert request.mismatch(response) is None
    assert len(response.encode()) <= MAX_PDU_BYTES
    assert ReadDeviceIdentificationResponse.parse(response.encode()) == response
    return response


def streamed(identification: Identification, read_code: int) -> list[tuple[int, bytes]]:
    """All objects, asked for as a client does: again from the next one while more follow."""
    objects: list[tuple[int, bytes]] = []
    object_id = 0
    for _ in range(256):
        response = asked(identification, read_code, object_id)
        assert response.object_count == len(response.objects) >= 1
        objects += response.objects
        if response.more_follows != MORE_FOLLOWS:
            assert (response.more_follows, response.next_object_id) == (0, 0)
            return objects
        assert response.next_object_id > response.objects[-1][0]
        object_id = response.next_object_id
    raise AssertionError("the stream does not end")


# --- what there is ----------------------------------------------------------------------------


@pytest.mark.requirement("AP-6.21-basic")
def test_every_device_has_three_basic_objects() -> None:
    assert [number for number, value in streamed(Identification(), 1) if value] == [0, 1, 2]


@pytest.mark.parametrize(
    ("more", "conformity"),
    [([], 0x81), ([URL], 0x82), ([PRIVATE], 0x83), ([URL, PRIVATE], 0x83), ([(6, b""), (0xFF, b"")], 0x83)],
)
@pytest.mark.requirement("AP-6.21-conformity")
def test_the_conformity_is_that_of_the_highest_category_with_objects(
    more: list[tuple[int, bytes]], conformity: int
) -> None:
    identification = device(*more)
    assert identification.conformity == conformity
    for read_code in (1, 2, 3, 4):
        assert asked(identification, read_code).conformity == conformity


@pytest.mark.requirement("AP-6.21-text")
def test_values_may_be_text_or_bytes() -> None:
    identification = Identification("Ümlaut", b"\xff", "1", {0x80: "é"})
    assert streamed(identification, 3) == [(0, "Ümlaut".encode()), (1, b"\xff"), (2, b"1"), (0x80, "é".encode())]


@pytest.mark.parametrize("number", [7, 0x7F, -1, 0x100])
@pytest.mark.requirement("AP-6.21-categories")
def test_an_object_has_an_id_that_is_not_reserved(number: int) -> None:
    assert device((6, b"x"), (0x80, b"x"), (0xFF, b"x")).conformity == 0x83
    with pytest.raises(ConfigurationError, match=r"ids are 00\.\.06 and 80\.\.FF"):
        device((number, b"x"))


@pytest.mark.parametrize("number", [0, 3, 0x80])
@pytest.mark.requirement("AP-6.21-size")
def test_an_object_has_at_most_244_bytes(number: int) -> None:
    assert (number, bytes(244)) in streamed(device((number, bytes(244))), 3)
    with pytest.raises(ConfigurationError, match=f"object {number:02X} with 245 bytes"):
        device((number, bytes(245)))


def test_the_length_of_a_text_is_that_of_its_bytes() -> None:
    with pytest.raises(ConfigurationError, match="246 bytes"):
        Identification("é" * 123)


# --- streams ----------------------------------------------------------------------------------


@pytest.mark.requirement("AP-6.21-categories", "AP-6.21-stream")
def test_a_category_includes_the_ones_below_it() -> None:
    identification = device(URL, PRIVATE)
    assert streamed(identification, 1) == BASIC
    assert streamed(identification, 2) == [*BASIC, URL]
    assert streamed(identification, 3) == [*BASIC, URL, PRIVATE]


@pytest.mark.requirement("AP-6.21-higher")
def test_a_device_answers_at_its_own_level_when_asked_for_more() -> None:
    identification = device()
    for read_code in (2, 3):
        response = asked(identification, read_code)
        assert (response.read_code, response.conformity, response.objects) == (read_code, 0x81, BASIC)


@pytest.mark.requirement("AP-6.21-continue")
def test_a_stream_continues_where_it_is_asked_to() -> None:
    assert asked(device(URL), 2, 2).objects == [BASIC[2], URL]


@pytest.mark.parametrize(("read_code", "object_id"), [(1, 0x55), (1, 3), (2, 0x80), (3, 0x81), (1, 0xFF)])
@pytest.mark.requirement("AP-6.21-stream-unknown")
def test_a_stream_from_an_object_that_it_does_not_have_starts_at_object_0(read_code: int, object_id: int) -> None:
    identification = device(URL, PRIVATE)
    assert asked(identification, read_code, object_id) == asked(identification, read_code, 0)


@pytest.mark.requirement("AP-6.21-more")
def test_what_does_not_fit_follows_and_objects_are_not_split() -> None:
    identification = device((3, bytes(200)), (4, bytes(30)), (0x80, bytes(244)))
    first = asked(identification, 3)
    assert ([number for number, _ in first.objects], first.next_object_id) == ([0, 1, 2, 3], 4)
    second = asked(identification, 3, first.next_object_id)
    assert ([number for number, _ in second.objects], second.next_object_id) == ([4], 0x80)
    third = asked(identification, 3, second.next_object_id)
    assert ([number for number, _ in third.objects], third.more_follows) == ([0x80], 0)
    assert len(third.encode()) == MAX_PDU_BYTES


@pytest.mark.requirement("AP-6.21-more")
def test_objects_that_just_fit_need_no_second_request() -> None:
    used = sum(2 + len(value) for _, value in BASIC)
    assert asked(device((3, bytes(246 - used - 2))), 2).more_follows == 0
    assert asked(device((3, bytes(246 - used - 1))), 2).next_object_id == 3


object_values = st.binary(max_size=20) | st.integers(0, 244).map(bytes)
object_ids = st.integers(0, 6) | st.integers(0x80, 0xFF)


@given(objects=st.dictionaries(object_ids, object_values, max_size=140), start=st.integers(0, 255))
@settings(deadline=None)
@pytest.mark.requirement("AP-6.21-stream")
def test_a_stream_gives_every_object_once_and_ends(objects: dict[int, bytes], start: int) -> None:
    identification = Identification(more=objects)
    for read_code, most in ((1, 2), (2, 6), (3, 255)):
        stream = streamed(identification, read_code)
        numbers = [number for number, _ in stream]
        assert numbers == sorted({0, 1, 2, *objects} & set(range(most + 1)))
        assert dict(stream).items() >= {(k, v) for k, v in objects.items() if k <= most}
        asked(identification, read_code, start)


# --- one object -------------------------------------------------------------------------------


@pytest.mark.requirement("AP-6.21-individual")
def test_one_object_is_given_alone() -> None:
    identification = device(URL, PRIVATE)
    for number, value in [*BASIC, URL, PRIVATE]:
        response = asked(identification, 4, number)
        assert (response.objects, response.object_count) == ([(number, value)], 1)
        assert (response.more_follows, response.next_object_id) == (0, 0)


@pytest.mark.parametrize("number", [3, 0x54, 0x81, 0xFF])
@pytest.mark.requirement("AP-6.21-individual-unknown")
def test_one_object_that_does_not_exist_is_refused(number: int) -> None:
    with pytest.raises(ExceptionResponseError, match=f"there is no object {number:02X}") as caught:
        device(PRIVATE).answer(ReadDeviceIdentificationRequest(4, number))
    assert caught.value.code == ExceptionCode.ILLEGAL_DATA_ADDRESS
