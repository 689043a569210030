from __future__ import annotations

import pytest

from everbus.errors import ExceptionResponseError
from everbus.observe import NULL_OBSERVER
from everbus.protocol.codes import ExceptionCode
from everbus.protocol.pdu.base import Response
from everbus.protocol.pdu.table import PUBLIC
from everbus.service.bank import Bank, Write
from everbus.service.context import ConnectionInfo, RequestContext
from everbus.service.files import FifoQueues, FileStore
from everbus.service.handler import SILENT
from everbus.service.identification import Identification
from everbus.service.local import LocalDevice

SERIAL = RequestContext(ConnectionInfo(1, serial=True), 1, 0)
TCP = RequestContext(ConnectionInfo(2), 1, 7)

ADDRESS = ExceptionCode.ILLEGAL_DATA_ADDRESS


class Lock:
    """A lock that knows how deep it is held, and how often it was taken."""

    def __init__(self) -> None:
        self.taken = 0
        self.depth = 0

    def __enter__(self) -> None:
        self.taken += 1
        self.depth += 1

    def __exit__(self, *_: object) -> None:
        self.depth -= 1


def asked(device: LocalDevice, pdu: str, context: RequestContext = TCP) -> str | None:
    """The response to a legal request; None: silence."""
    request = PUBLIC.decode_request(bytes.fromhex(pdu))
    answer = device.handle(request, context)
    if answer is SILENT:
        return None
    assert isinstance(answer, Response)
    answer.check()
    assert request.mismatch(answer) is None
    return answer.encode().hex().upper()


def refused(device: LocalDevice, pdu: str, context: RequestContext = TCP) -> int:
    with pytest.raises(ExceptionResponseError) as caught:
        device.handle(PUBLIC.decode_request(bytes.fromhex(pdu)), context)
    return caught.value.code


def example() -> LocalDevice:
    """The device behind the examples of AP 6."""
    bank = Bank()
    bank.write_coils(0x13, [1, 0, 1, 1, 0, 0, 1, 1, 1, 1, 0, 1, 0, 1, 1, 0, 1, 0, 1])
    bank.write_discrete_inputs(0x75, [1, 1, 0])
    bank.write_holding_registers(0x6B, [0x022B, 0, 0x0064])
    bank.write_input_registers(8, [10])
    return LocalDevice(bank)


# --- reads ------------------------------------------------------------------------------------

READS = [
    ("0100130013", "0103CD6B05"),
    ("0200750003", "020103"),
    ("03006B0003", "0306022B00000064"),
    ("0400080001", "0402000A"),
]


@pytest.mark.parametrize(("request_pdu", "response_pdu"), READS)
@pytest.mark.requirement("AP-4.3-tables", "AP-6.1-layout", "AP-6.2-layout", "AP-6.3-layout", "AP-6.4-layout")
def test_each_read_reads_its_table_both_ways(request_pdu: str, response_pdu: str) -> None:
    device = example()
    assert asked(device, request_pdu) == response_pdu
    assert device.answer_wire(bytes.fromhex(request_pdu)) == bytes.fromhex(response_pdu)


@pytest.mark.parametrize("pdu", ["0100640001", "0200640001", "0300640001", "0400640001", "0300600005"])
@pytest.mark.requirement("AP-6.1-address", "AP-6.2-address", "AP-6.3-address", "AP-6.4-address")
def test_items_that_do_not_exist_are_answered_with_02_the_long_way(pdu: str) -> None:
    device = LocalDevice(Bank(coils=100, discrete_inputs=100, holding_registers=100, input_registers=100))
    assert refused(device, pdu) == ADDRESS
    assert device.answer_wire(bytes.fromhex(pdu)) is None


@pytest.mark.parametrize(
    "pdu",
    [
        "0300000000",  # quantity
        "030000007E",
        "01000007D1",
        "03FFFF0002",  # range
        "03000000",  # structure
        "030000000100",
        "0600000001",  # not a read
        "07",
        "83",
    ],
)
def test_everything_but_a_plain_legal_read_takes_the_long_way(pdu: str) -> None:
    device = LocalDevice()
    assert device.answer_wire(bytes.fromhex(pdu)) is None
    assert (device.diagnostics.messages, device.diagnostics.log) == (0, b"")


@pytest.mark.parametrize(("request_pdu", "size"), [("01F83007D0", 250), ("03FF83007D", 250)])
def test_the_largest_reads_take_the_short_way(request_pdu: str, size: int) -> None:
    answer = LocalDevice().answer_wire(bytes.fromhex(request_pdu))
    assert answer == bytes((int(request_pdu[:2], 16), size)) + bytes(size)


def test_the_short_way_is_counted() -> None:
    device = LocalDevice()
    for _ in range(3):
        device.answer_wire(bytes.fromhex("0300000001"))
    assert (device.diagnostics.messages, device.diagnostics.events) == (3, 3)
    assert device.diagnostics.log == b"\x40\x80" * 3


def test_the_short_way_is_closed_in_listen_only_mode() -> None:
    device = LocalDevice()
    device.diagnostics.force_listen_only()
    assert device.answer_wire(bytes.fromhex("0300000001")) is None


def test_the_short_way_holds_the_lock_of_the_bank() -> None:
    lock = Lock()
    device = LocalDevice()
    device.attach(lock, NULL_OBSERVER)
    device.answer_wire(bytes.fromhex("0300000001"))
    assert (lock.taken, lock.depth) == (1, 0)


# --- writes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_pdu", "response_pdu", "read", "data"),
    [
        ("0500ACFF00", "0500ACFF00", "0100AB0003", "02"),
        ("0600010003", "0600010003", "0300010001", "0003"),
        ("0F0013000A02CD01", "0F0013000A", "010013000B", "CD01"),
        ("0F0013000501FF", "0F00130005", "0100130008", "1F"),
        ("100001000204000A0102", "1000010002", "0300000004", "0000000A01020000"),
        ("160004FFF00025", "160004FFF00025", "0300040001", "0005"),
    ],
)
@pytest.mark.requirement("AP-6.5-layout", "AP-6.6-layout", "AP-6.11-layout", "AP-6.12-layout")
def test_each_write_writes_its_table_and_is_confirmed(
    request_pdu: str, response_pdu: str, read: str, data: str
) -> None:
    device = LocalDevice()
    told: list[Write] = []
    device.bank.on_write(told.append)
    assert asked(device, request_pdu) == response_pdu
    answer = asked(device, read)
    assert answer is not None
    assert answer[4:] == data
    assert [write.context for write in told] == [TCP]


@pytest.mark.requirement("AP-6.5-value")
def test_a_coil_is_switched_off_again() -> None:
    device = LocalDevice()
    for value, state in [("FF00", True), ("0000", False)]:
        asked(device, "050007" + value)
        assert device.bank.read_coils(7) == [state]


@pytest.mark.parametrize(
    ("pdu", "before", "after"), [("16000400F20025", 0x12, 0x17), ("1600040F0F00FF", 0xAA55, 0x0AF5)]
)
@pytest.mark.requirement("AP-6.16-result")
def test_a_mask_changes_the_register_as_the_specification_says(pdu: str, before: int, after: int) -> None:
    device = LocalDevice()
    device.bank.write_holding_registers(4, [before])
    assert asked(device, pdu) == pdu
    assert device.bank.read_holding_registers(3, 3) == [0, after, 0]


@pytest.mark.requirement("AP-6.17-write-first")
def test_a_read_and_write_writes_before_it_reads() -> None:
    device = LocalDevice()
    assert asked(device, "17000100050001000102" + "00AB") == "170A00AB0000000000000000"
    device.bank.write_holding_registers(3, [0x00FE, 0x0ACD, 1, 3, 0x000D, 0x00FF])
    assert asked(device, "1700030006000E00030600FF00FF00FF") == "170C00FE0ACD00010003000D00FF"
    assert device.bank.read_holding_registers(14, 3) == [0xFF, 0xFF, 0xFF]


@pytest.mark.parametrize(
    "pdu",
    [
        "050064FF00",
        "0600640000",
        "0F0063000201FF",
        "10006300020411112222",
        "160064FFFF0000",
        "0F00000065" + "0D" + "FF" * 13,
    ],
)
@pytest.mark.requirement(
    "AP-4.5-not-executed", "AP-6.5-address", "AP-6.6-address", "AP-6.11-address", "AP-6.12-address", "AP-6.16-address"
)
def test_a_write_past_the_end_writes_nothing(pdu: str) -> None:
    device = LocalDevice(Bank(coils=100, holding_registers=100))
    told: list[Write] = []
    device.bank.on_write(told.append)
    assert refused(device, pdu) == ADDRESS
    assert not any(device.bank.read_coils(0, 100))
    assert not any(device.bank.read_holding_registers(0, 100))
    assert told == []


@pytest.mark.parametrize(
    "pdu",
    [
        "1700630002000000010212" + "34",  # reads 99 and 100
        "17000000020063000204" + "12341234",  # writes 99 and 100
        "17006400010064000102" + "1234",  # neither exists
    ],
)
@pytest.mark.requirement("AP-6.17-address")
def test_a_read_and_write_with_one_range_missing_writes_nothing(pdu: str) -> None:
    # V02: libmodbus looked at the read address alone.
    device = LocalDevice(Bank(holding_registers=100))
    told: list[Write] = []
    device.bank.on_write(told.append)
    assert refused(device, pdu) == ADDRESS
    assert not any(device.bank.read_holding_registers(0, 100))
    assert told == []


@pytest.mark.parametrize("pdu", ["160004FFF00025", "17000100050001000102" + "00AB"])
def test_a_change_of_what_is_read_holds_the_lock_from_end_to_end(pdu: str) -> None:
    lock = Lock()
    device = LocalDevice(Bank(lock=lock))
    depths: list[int] = []
    device.bank.on_write(lambda write: depths.append(lock.depth))
    asked(device, pdu)
    assert depths == [1]
    assert lock.depth == 0


# --- status, counters and identity -------------------------------------------------------------


@pytest.mark.requirement("AP-6.7-layout")
def test_the_exception_status_is_what_the_program_sets() -> None:
    device = LocalDevice()
    assert asked(device, "07") == "0700"
    device.exception_status = 0x6D
    assert asked(device, "07") == "076D"


@pytest.mark.parametrize("pdu", ["080000A537", "08000012345678"])
@pytest.mark.requirement("AP-6.8.1-00")
def test_query_data_comes_back(pdu: str) -> None:
    assert asked(LocalDevice(), pdu) == pdu


@pytest.mark.requirement("AP-6.8.1-02", "AP-6.8.1-0A")
def test_the_diagnostic_register_is_what_the_program_sets_until_it_is_cleared() -> None:
    device = LocalDevice()
    device.diagnostics.diagnostic_register = 0x0121
    assert asked(device, "0800020000") == "0800020121"
    assert asked(device, "08000A0000") == "08000A0000"
    assert asked(device, "0800020000") == "0800020000"


@pytest.mark.parametrize(
    ("sub_function", "counter"),
    [
        (0x0B, "bus_messages"),
        (0x0C, "bus_comm_errors"),
        (0x0D, "bus_exceptions"),
        (0x0E, "server_messages"),
        (0x0F, "no_responses"),
        (0x10, "nak"),
        (0x11, "busy"),
        (0x12, "character_overruns"),
    ],
)
@pytest.mark.requirement(
    "AP-6.8.1-0B",
    "AP-6.8.1-0C",
    "AP-6.8.1-0D",
    "AP-6.8.1-0E",
    "AP-6.8.1-0F",
    "AP-6.8.1-10",
    "AP-6.8.1-11",
    "AP-6.8.1-12",
    "SL-A-cleared",
)
def test_each_counter_is_reported_by_its_sub_function(sub_function: int, counter: str) -> None:
    device = LocalDevice()
    setattr(device.diagnostics, counter, 0x10121)
    assert asked(device, f"0800{sub_function:02X}0000") == f"0800{sub_function:02X}0121"
    assert asked(device, "08000A0000") is not None
    assert asked(device, f"0800{sub_function:02X}0000") == f"0800{sub_function:02X}0000"


@pytest.mark.requirement("AP-6.8.1-14")
def test_the_overrun_counter_is_cleared_alone() -> None:
    device = LocalDevice()
    device.diagnostics.character_overruns = device.diagnostics.bus_comm_errors = 5
    assert asked(device, "0800140000") == "0800140000"
    assert (device.diagnostics.character_overruns, device.diagnostics.bus_comm_errors) == (0, 5)


@pytest.mark.requirement("AP-6.8.1-03")
def test_the_ascii_delimiter_belongs_to_the_device() -> None:
    device = LocalDevice()
    assert asked(device, "0800030D00") == "0800030D00"
    assert (device.ascii_delimiter, LocalDevice().ascii_delimiter) == (0x0D, 0x0A)


@pytest.mark.parametrize(("pdu", "kept"), [("0800010000", True), ("080001FF00", False)])
@pytest.mark.requirement("AP-6.8.1-01-log")
def test_a_restart_is_confirmed_and_clears_the_log_only_if_asked_to(pdu: str, kept: bool) -> None:
    device = LocalDevice()
    device.diagnostics.received(bytes.fromhex("0300000001"))
    assert asked(device, pdu) == pdu
    assert device.diagnostics.log[0] == 0
    assert (0x80 in device.diagnostics.log) == kept
    assert device.diagnostics.messages == 0


@pytest.mark.requirement("AP-6.8.1-01-listen-only")
def test_listen_only_mode_is_silent_until_a_restart_and_so_is_the_restart() -> None:
    device = LocalDevice()
    seen = [
        (asked(device, pdu, SERIAL), device.diagnostics.listen_only)
        for pdu in ("0800040000", "0800010000", "0800010000")
    ]
    assert seen == [(None, True), (None, False), ("0800010000", False)]


@pytest.mark.requirement("AP-6.8.1-04-tcp")
def test_no_client_can_silence_a_device_over_tcp() -> None:
    device = LocalDevice()
    assert refused(device, "0800040000", TCP) == ExceptionCode.ILLEGAL_FUNCTION
    assert not device.diagnostics.listen_only


@pytest.mark.requirement("AP-6.9-layout", "AP-6.10-layout")
def test_the_event_counter_and_the_event_log_are_reported() -> None:
    device = LocalDevice()
    for code in (0, 2):
        device.diagnostics.received(bytes.fromhex("0600010003"))
        device.diagnostics.completed(0x06, code)
    assert asked(device, "0B") == "0B00000001"
    assert asked(device, "0C") == "0C0A000000010002" + "41804080"


@pytest.mark.requirement("AP-6.13-layout")
def test_a_server_id_ends_with_the_run_status() -> None:
    assert asked(LocalDevice(server_id=b"\x12"), "11") == "110212FF"
    assert asked(LocalDevice(), "11") == "1108" + b"everbus".hex().upper() + "FF"


@pytest.mark.requirement("AP-6.21-individual")
def test_a_device_says_what_it_is() -> None:
    device = LocalDevice(identification=Identification("Acme", "PLC", "1"))
    assert asked(device, "2B0E0400") == "2B0E0481000001" + "0004" + b"Acme".hex().upper()
    assert refused(device, "2B0E0454") == ADDRESS


# --- files and queues -------------------------------------------------------------------------


@pytest.mark.requirement("AP-6.14-layout", "AP-6.15-layout")
def test_records_are_written_and_read_again() -> None:
    device = LocalDevice()
    write = "150D0600040007000306AF04BE100D"
    assert asked(device, write) == write
    assert asked(device, "140E06000400070002" + "06000400080002") == "140C" + "050606AF04BE" + "050604BE100D"


def test_files_are_those_of_the_store() -> None:
    device = LocalDevice(files=FileStore({4: 8}))
    assert refused(device, "140706000400070002") == ADDRESS
    assert refused(device, "150906000500000001ABCD") == ADDRESS


@pytest.mark.requirement("AP-6.18-layout")
def test_queues_are_those_of_the_device() -> None:
    queues = FifoQueues([0x04DE])
    device = LocalDevice(queues=queues)
    for value in (0x01B8, 0x1284):
        queues.push(0x04DE, value)
    assert asked(device, "1804DE") == "180006000201B81284"
    assert refused(device, "1804DF") == ADDRESS


# --- what it does not do ----------------------------------------------------------------------


@pytest.mark.requirement("AP-6.20-canopen")
def test_canopen_is_not_supported() -> None:
    device = LocalDevice()
    assert refused(device, "2B0D001F10050000000008") == ExceptionCode.ILLEGAL_FUNCTION
    with pytest.raises(ExceptionResponseError, match="encapsulated interface is not supported here") as caught:
        device.handle(PUBLIC.decode_request(bytes.fromhex("2B0D00")), TCP)
    assert caught.value.function_code == 0x2B


def test_two_devices_share_nothing() -> None:
    first, second = LocalDevice(), LocalDevice()
    for pdu in ("0600010003", "150906000400070001ABCD", "0800030D00"):
        asked(first, pdu)
    first.answer_wire(bytes.fromhex("0300000001"))
    first.queues.push(5, 7)
    assert second.bank.read_holding_registers(1) == [0]
    assert asked(second, "140706000400070001") == "140403060000"
    assert asked(second, "180005") == "1800020000"
    assert (second.ascii_delimiter, second.diagnostics.messages) == (0x0A, 0)
