"""Requirements of the Application Protocol that no other test shows; each is marked with its row of the ledger."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from everbus.errors import ExceptionResponseError, UsageError
from everbus.protocol.client_session import match_response
from everbus.protocol.framing.ascii import AsciiFramer
from everbus.protocol.framing.base import Frame
from everbus.protocol.pdu.base import ExceptionResponse, Request, Response
from everbus.protocol.pdu.layouts import CountedData
from everbus.protocol.pdu.registers import ReadHoldingRegistersRequest
from everbus.protocol.pdu.table import PUBLIC, AnyRequest
from everbus.service.bank import Bank, TableName
from everbus.service.context import ConnectionInfo, RequestContext
from everbus.service.files import FileStore
from everbus.service.handler import Answer
from everbus.service.local import LocalDevice
from everbus.service.pipeline import Pipeline
from everbus.service.units import Units

SERIAL = ConnectionInfo(1, serial=True)
ITEMS = 100


def bounded() -> LocalDevice:
    bank = Bank(coils=ITEMS, discrete_inputs=ITEMS, input_registers=ITEMS, holding_registers=ITEMS)
    return LocalDevice(bank, files=FileStore({1: ITEMS}))


def asked(device: Any, pdu: str) -> str:
    answer = Pipeline(Units(device)).answer(Frame(1, bytes.fromhex(pdu), 1), SERIAL)
    assert isinstance(answer, bytes)
    return answer.hex().upper()


# --- 4.3 --------------------------------------------------------------------------------------


@pytest.mark.requirement("AP-4.3-read-only")
@pytest.mark.parametrize(
    "pdu",
    [
        "050006FF00",
        "0600071234",
        "0F0000000801FF",
        "10000000020412345678",
        "1600070000FFFF",
        "170000000200070001021234",
        "150906000100070001ABCD",
    ],
)
def test_no_write_reaches_an_input(pdu: str) -> None:
    device = LocalDevice()
    device.bank.write_discrete_inputs(0, [0, 1] * 8)
    device.bank.write_input_registers(0, list(range(16)))
    before = [bytes(device.bank.table(name).data) for name in (TableName.DISCRETE_INPUTS, TableName.INPUT_REGISTERS)]
    assert asked(device, pdu)[:2] == pdu[:2]
    after = [bytes(device.bank.table(name).data) for name in (TableName.DISCRETE_INPUTS, TableName.INPUT_REGISTERS)]
    assert after == before


# --- 5 and annex A ----------------------------------------------------------------------------


def custom(code: int) -> type[AnyRequest]:
    """A request and a response with a byte count each."""

    class CustomResponse(CountedData, Response):
        function_code: ClassVar[int] = code

    class CustomRequest(CountedData, Request[CustomResponse]):
        function_code: ClassVar[int] = code
        response_type = CustomResponse

    return CustomRequest


@pytest.mark.requirement("AP-5-user-defined")
@pytest.mark.parametrize("code", [*range(65, 73), *range(100, 111)])
def test_a_user_defined_function_code_can_be_taught(code: int) -> None:
    kind = custom(code)

    def handle(request: AnyRequest, context: RequestContext) -> Answer:
        assert isinstance(request, kind)
        response: Response = kind.response_type(b"yes")
        return response

    frame = Frame(1, bytes((code, 1, 0xAB)), 1)
    taught = Pipeline(Units(handle), table=PUBLIC.extended(kind))
    assert taught.answer(frame, SERIAL) == bytes((code, 3)) + b"yes"
    assert Pipeline(Units(handle)).answer(frame, SERIAL) == bytes((code | 0x80, 1))


@pytest.mark.requirement("AP-A-functions")
@pytest.mark.parametrize("code", [9, 10, 13, 14, 41, 42, 90, 91, 125, 126, 127])
def test_a_reserved_function_code_is_not_known(code: int) -> None:
    for data in ("", "00", "00000001", "FF" * 252):
        assert asked(LocalDevice(), f"{code:02X}{data}") == f"{code | 0x80:02X}01"


@pytest.mark.requirement("AP-A-sub-functions")
def test_a_reserved_sub_function_is_not_known() -> None:
    device = LocalDevice()
    for sub_function in [19, *range(21, 65536, 97), 65535]:
        assert asked(device, f"08{sub_function:04X}0000") == "8801"


@pytest.mark.requirement("AP-A-mei-types")
def test_a_reserved_mei_type_is_not_known() -> None:
    device = LocalDevice()
    for mei_type in [*range(13), *range(15, 256)]:
        assert asked(device, f"2B{mei_type:02X}0100") == "AB01"


# --- 6: whatever else is wrong, the first check that fails gives the code ------------------------


@pytest.mark.parametrize(
    ("pdu", "answer"),
    [
        pytest.param("0100640000", "8103", marks=pytest.mark.requirement("AP-6.1-order", "SL-A-order")),
        pytest.param("0200640000", "8203", marks=pytest.mark.requirement("AP-6.2-order", "SL-A-order")),
        pytest.param("0300640000", "8303", marks=pytest.mark.requirement("AP-6.3-order", "SL-A-order")),
        pytest.param("0400640000", "8403", marks=pytest.mark.requirement("AP-6.4-order", "SL-A-order")),
        pytest.param("01FFFF07D1", "8103", marks=pytest.mark.requirement("AP-6.1-order", "SL-A-order")),
        pytest.param("02FFFF07D1", "8203", marks=pytest.mark.requirement("AP-6.2-order", "SL-A-order")),
        pytest.param("03FFFF007E", "8303", marks=pytest.mark.requirement("AP-6.3-order", "SL-A-order")),
        pytest.param("04FFFF007E", "8403", marks=pytest.mark.requirement("AP-6.4-order", "SL-A-order")),
        pytest.param("0500641234", "8503", marks=pytest.mark.requirement("AP-6.5-order", "SL-A-order")),
        pytest.param("080005", "8801", marks=pytest.mark.requirement("AP-6.8-order")),
        pytest.param("08000500", "8801", marks=pytest.mark.requirement("AP-6.8-order")),
        pytest.param("0800051234", "8801", marks=pytest.mark.requirement("AP-6.8-order")),
        pytest.param("080005123456", "8801", marks=pytest.mark.requirement("AP-6.8-order")),
        pytest.param("0F0064000801", "8F03", marks=pytest.mark.requirement("AP-6.11-order", "SL-A-order")),
        pytest.param("0F0064000802FFFF", "8F03", marks=pytest.mark.requirement("AP-6.11-order", "SL-A-order")),
        pytest.param("0F0064000000", "8F03", marks=pytest.mark.requirement("AP-6.11-order", "SL-A-order")),
        pytest.param("1000640001041234ABCD", "9003", marks=pytest.mark.requirement("AP-6.12-order", "SL-A-order")),
        pytest.param("100064000000", "9003", marks=pytest.mark.requirement("AP-6.12-order", "SL-A-order")),
        pytest.param("140607000100640001", "9403", marks=pytest.mark.requirement("AP-6.14-order")),
        pytest.param("1406070001006400", "9403", marks=pytest.mark.requirement("AP-6.14-order")),
        pytest.param("150705000100640000", "9503", marks=pytest.mark.requirement("AP-6.15-order")),
        pytest.param("1700640001006400010412345678", "9703", marks=pytest.mark.requirement("AP-6.17-order")),
        pytest.param("170064007E00640001021234", "9703", marks=pytest.mark.requirement("AP-6.17-order")),
        pytest.param("17006400010064000000", "9703", marks=pytest.mark.requirement("AP-6.17-order")),
        pytest.param("2B0E0054", "AB03", marks=pytest.mark.requirement("AP-6.21-order")),
        pytest.param("2B0E0554", "AB03", marks=pytest.mark.requirement("AP-6.21-order")),
        pytest.param("2B0E0454", "AB02", marks=pytest.mark.requirement("AP-6.21-order")),
    ],
)
def test_the_first_check_that_fails_gives_the_code(pdu: str, answer: str) -> None:
    assert asked(bounded(), pdu) == answer


@pytest.mark.parametrize(
    ("legal", "beyond"),
    [
        pytest.param("0100600004", "0100600005", marks=pytest.mark.requirement("AP-6.1-address")),
        pytest.param("0200600004", "0200600005", marks=pytest.mark.requirement("AP-6.2-address")),
        pytest.param("0300600004", "0300600005", marks=pytest.mark.requirement("AP-6.3-address")),
        pytest.param("0400600004", "0400600005", marks=pytest.mark.requirement("AP-6.4-address")),
        pytest.param("050063FF00", "050064FF00", marks=pytest.mark.requirement("AP-6.5-address")),
        pytest.param("0600631234", "0600641234", marks=pytest.mark.requirement("AP-6.6-address")),
        pytest.param("0F0060000401FF", "0F0060000501FF", marks=pytest.mark.requirement("AP-6.11-address")),
        pytest.param("100063000102AAAA", "1000630002041234ABCD", marks=pytest.mark.requirement("AP-6.12-address")),
        pytest.param("140706000100600004", "140706000100600005", marks=pytest.mark.requirement("AP-6.14-address")),
        pytest.param(
            "150906000100630001AAAA", "150906000100640001AAAA", marks=pytest.mark.requirement("AP-6.15-address")
        ),
        pytest.param("160063FFFF0000", "160064FFFF0000", marks=pytest.mark.requirement("AP-6.16-address")),
        pytest.param(
            "17006000040000000102AAAA", "17006000050000000102AAAA", marks=pytest.mark.requirement("AP-6.17-address")
        ),
        pytest.param(
            "17000000010063000102AAAA", "17000000010064000102AAAA", marks=pytest.mark.requirement("AP-6.17-address")
        ),
    ],
)
@pytest.mark.requirement("AP-7-02")
def test_the_last_item_can_be_reached_and_the_one_behind_it_cannot(legal: str, beyond: str) -> None:
    assert asked(bounded(), legal)[:2] == legal[:2]
    assert asked(bounded(), beyond) == f"{int(beyond[:2], 16) | 0x80:02X}02"


# --- 6.8 to 6.10 -------------------------------------------------------------------------------


def usable(character: int) -> bool:
    """Whether a framer takes this delimiter, and then reads what ends with it."""
    try:
        framer = AsciiFramer(character)
    except UsageError:
        return False
    text = framer.encode(1, b"\x07")
    assert text[-2:] == b"\r" + bytes((character,))
    assert framer.feed(text + text) == [Frame(1, b"\x07")] * 2
    return True


@pytest.mark.requirement("AP-6.8.1-03-usable")
def test_a_device_takes_the_delimiters_that_can_end_frames_and_no_others() -> None:
    taken = set()
    for character in range(256):
        device = LocalDevice()
        pdu = f"080003{character:02X}00"
        answer = asked(device, pdu)
        assert (answer, device.ascii_delimiter) in [(pdu, character), ("8803", 0x0A)]
        if answer == pdu:
            taken.add(character)
    assert taken == {character for character in range(256) if usable(character)}
    assert taken.isdisjoint(b"0123456789ABCDEF:")
    assert taken.issuperset(b"\n!")


@pytest.mark.requirement("AP-6.9-status", "AP-6.9-layout")
def test_a_device_without_program_commands_is_never_busy_with_one() -> None:
    device = LocalDevice()
    for pdu in ("0600010003", "0B", "0C"):
        asked(device, pdu)
    assert asked(device, "0B") == "0B00000002"
    assert asked(device, "0C")[4:8] == "0000"


@pytest.mark.requirement("AP-6.10-messages")
def test_the_message_counter_of_the_log_is_the_bus_message_count() -> None:
    device = LocalDevice()
    for pdu in ("0600010003", "0300000000", "41", "0B"):
        asked(device, pdu)
    assert asked(device, "0C")[12:16] == "0005"
    assert asked(device, "08000B0000") == "08000B0006"


# --- 7 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(0x01, marks=pytest.mark.requirement("AP-7-01")),
        pytest.param(0x02, marks=pytest.mark.requirement("AP-7-02")),
        pytest.param(0x03, marks=pytest.mark.requirement("AP-7-03")),
        pytest.param(0x04, marks=pytest.mark.requirement("AP-7-04")),
        pytest.param(0x05, marks=pytest.mark.requirement("AP-7-05")),
        pytest.param(0x06, marks=pytest.mark.requirement("AP-7-06")),
        pytest.param(0x08, marks=pytest.mark.requirement("AP-7-08")),
        pytest.param(0x0A, marks=pytest.mark.requirement("AP-7-0A")),
        pytest.param(0x0B, marks=pytest.mark.requirement("AP-7-0B")),
    ],
)
def test_an_exception_code_goes_from_a_device_to_its_client(code: int) -> None:
    def handle(request: AnyRequest, context: RequestContext) -> Answer:
        return ExceptionResponse(request.function_code, code)

    answer = asked(handle, "0300000001")
    assert answer == f"83{code:02X}"
    with pytest.raises(ExceptionResponseError) as caught:
        match_response(ReadHoldingRegistersRequest(0, 1), bytes.fromhex(answer))
    assert (caught.value.function_code, caught.value.code) == (3, code)
