from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everbus.errors import ConfigurationError, ExceptionResponseError, UsageError
from everbus.protocol.codes import ExceptionCode
from everbus.protocol.pdu.files import FileGroup
from everbus.service.files import FifoQueues, FileStore

ADDRESS = ExceptionCode.ILLEGAL_DATA_ADDRESS


def to_write(file: int, record: int, data: bytes) -> FileGroup:
    return FileGroup(file, record, len(data) // 2, data)


# --- files ------------------------------------------------------------------------------------


def test_records_never_written_are_zero() -> None:
    assert FileStore().read([FileGroup(4, 1, 2), FileGroup(65535, 9999, 1)]) == [bytes(4), bytes(2)]


def test_what_is_written_is_read_again_and_nothing_else_changes() -> None:
    store = FileStore()
    store.write([to_write(4, 7, bytes.fromhex("06AF04BE100D")), to_write(3, 0, b"\x00\x01")])
    groups = [FileGroup(4, 6, 5), FileGroup(3, 0, 2), FileGroup(5, 7, 3)]
    assert [data.hex() for data in store.read(groups)] == ["000006af04be100d0000", "00010000", "000000000000"]


def test_the_last_group_of_a_write_wins_where_groups_overlap() -> None:
    store = FileStore()
    store.write([to_write(1, 0, b"\x11\x11\x22\x22"), to_write(1, 1, b"\x33\x33")])
    assert store.read([FileGroup(1, 0, 2)]) == [b"\x11\x11\x33\x33"]


def test_writing_fewer_records_does_not_cut_a_file() -> None:
    store = FileStore()
    store.write([to_write(1, 0, b"\x11\x11\x22\x22")])
    store.write([to_write(1, 0, b"\x33\x33")])
    assert store.read([FileGroup(1, 0, 2)]) == [b"\x33\x33\x22\x22"]


@pytest.mark.parametrize(
    ("files", "group"),
    [
        (None, FileGroup(1, 9999, 2)),
        (None, FileGroup(1, 10000, 1)),
        ({1: 10}, FileGroup(1, 9, 2)),
        ({1: 10}, FileGroup(1, 10, 1)),
        ({1: 10}, FileGroup(2, 0, 1)),
        ({}, FileGroup(1, 0, 1)),
    ],
)
@pytest.mark.requirement("AP-6.14-address")
def test_records_that_do_not_exist_are_neither_read_nor_written(files: dict[int, int] | None, group: FileGroup) -> None:
    store = FileStore(files)
    with pytest.raises(ExceptionResponseError, match=f"file {group.file} has .* from {group.record}") as reading:
        store.read([group])
    group.data = bytes(2 * group.record_count)
    with pytest.raises(ExceptionResponseError) as writing:
        store.write([group])
    assert (reading.value.code, writing.value.code) == (ADDRESS, ADDRESS)


def test_declared_files_have_their_records() -> None:
    store = FileStore({1: 10, 65535: 10000})
    groups = [to_write(1, 9, b"\x00\x07"), to_write(65535, 9999, b"\x00\x08")]
    store.write(groups)
    assert store.read(groups) == [b"\x00\x07", b"\x00\x08"]


@pytest.mark.requirement("AP-4.5-not-executed", "AP-6.15-address")
def test_a_write_that_is_refused_changes_no_group() -> None:
    store = FileStore({1: 10})
    with pytest.raises(ExceptionResponseError):
        store.write([to_write(1, 0, b"\x00\x07"), to_write(2, 0, b"\x00\x08")])
    assert store.read([FileGroup(1, 0, 1)]) == [bytes(2)]


@pytest.mark.parametrize(("number", "records"), [(0, 10), (65536, 10), (-1, 10), (1, 0), (1, 10001)])
def test_a_file_has_a_number_of_1_to_65535_and_1_to_10000_records(number: int, records: int) -> None:
    with pytest.raises(ConfigurationError, match=f"file {number} with {records} records"):
        FileStore({1: 1, number: records})


def test_clients_cannot_fill_the_memory() -> None:
    store = FileStore(max_bytes=100)
    store.write([to_write(1, 0, bytes(60)), to_write(2, 0, b"\x00\x05" * 20)])
    for group in (to_write(3, 0, bytes(2)), to_write(1, 30, bytes(2)), to_write(2, 9999, bytes(2))):
        with pytest.raises(ExceptionResponseError, match="the files are full: 100 bytes at most") as caught:
            store.write([to_write(1, 0, b"\x11\x11"), group])
        assert caught.value.code == ExceptionCode.SERVER_DEVICE_FAILURE
    assert store.read([FileGroup(1, 0, 1)]) == [bytes(2)]
    store.write([to_write(1, 0, b"\x22\x22" * 30), to_write(2, 19, b"\x33\x33")])
    assert store.read([FileGroup(1, 29, 1), FileGroup(2, 18, 2)]) == [b"\x22\x22", b"\x00\x05\x33\x33"]


def test_a_gap_before_a_record_takes_memory_too() -> None:
    store = FileStore(max_bytes=20)
    store.write([to_write(1, 9, b"\x00\x07")])
    with pytest.raises(ExceptionResponseError, match="full"):
        store.write([to_write(1, 10, b"\x00\x07")])


def test_a_growth_is_counted_once_where_groups_are_of_one_file() -> None:
    store = FileStore(max_bytes=8)
    store.write([to_write(1, 0, bytes(4)), to_write(1, 2, b"\x00\x07\x00\x08"), to_write(1, 0, bytes(2))])
    assert store.read([FileGroup(1, 2, 2)]) == [b"\x00\x07\x00\x08"]


file_writes = st.lists(
    st.builds(
        to_write, st.integers(1, 2), st.integers(0, 20), st.integers(1, 6).map(lambda n: bytes(range(1, 2 * n + 1)))
    ),
    min_size=1,
    max_size=3,
)


@given(writes=st.lists(file_writes, max_size=8))
@settings(deadline=None)
def test_files_behave_like_plain_arrays(writes: list[list[FileGroup]]) -> None:
    store = FileStore({1: 20, 2: 25}, max_bytes=60)
    model = {1: bytearray(40), 2: bytearray(50)}
    used = {1: 0, 2: 0}
    for groups in writes:
        after = dict(used)
        for group in groups:
            after[group.file] = max(after[group.file], 2 * (group.record + group.record_count))
        possible = after[1] <= 40 and after[2] <= 50
        if not possible or sum(after.values()) > 60:
            with pytest.raises(ExceptionResponseError) as caught:
                store.write(groups)
            assert caught.value.code == (ExceptionCode.SERVER_DEVICE_FAILURE if possible else ADDRESS)
            continue
        store.write(groups)
        used = after
        for group in groups:
            model[group.file][2 * group.record : 2 * group.record + len(group.data)] = group.data
    assert store.read([FileGroup(1, 0, 20), FileGroup(2, 0, 25)]) == [model[1], model[2]]


# --- queues -----------------------------------------------------------------------------------


@pytest.mark.requirement("AP-6.18-kept")
def test_a_queue_is_read_oldest_first_and_is_not_emptied() -> None:
    queues = FifoQueues()
    for value in (440, 4740):
        queues.push(0x04DE, value)
    assert queues.read(0x04DE) == queues.read(0x04DE) == [440, 4740]
    assert [queues.read(address) for address in (0, 0x04DF, 65535)] == [[], [], []]


def test_values_leave_a_queue_in_their_order() -> None:
    queues = FifoQueues()
    for value in (1, 2):
        queues.push(0, value)
    assert [queues.pop(0), queues.pop(0)] == [1, 2]
    for address in (0, 5):
        with pytest.raises(IndexError):
            queues.pop(address)


@pytest.mark.requirement("AP-6.18-count")
def test_a_queue_of_more_than_31_values_cannot_be_read() -> None:
    queues = FifoQueues([0x04DE])
    for value in range(31):
        queues.push(0x04DE, value)
    assert queues.read(0x04DE) == list(range(31))
    queues.push(0x04DE, 31)
    with pytest.raises(ExceptionResponseError, match="holds 32 values, over 31") as caught:
        queues.read(0x04DE)
    assert caught.value.code == ExceptionCode.ILLEGAL_DATA_VALUE
    queues.pop(0x04DE)
    assert queues.read(0x04DE) == list(range(1, 32))


@pytest.mark.parametrize(("addresses", "address"), [([7], 8), ([], 0), (None, 65536), (None, -1)])
@pytest.mark.requirement("AP-6.18-address")
def test_there_is_no_queue_where_none_was_declared(addresses: list[int] | None, address: int) -> None:
    queues = FifoQueues(addresses)
    with pytest.raises(ExceptionResponseError, match=f"there is no queue at {address}") as caught:
        queues.read(address)
    assert caught.value.code == ADDRESS
    with pytest.raises(UsageError):
        queues.push(address, 1)


@pytest.mark.parametrize("value", [-1, 65536])
def test_a_queue_takes_values_of_16_bits(value: int) -> None:
    queues = FifoQueues()
    queues.push(0, 65535)
    with pytest.raises(UsageError, match=rf"{value} is outside 0\.\.65535"):
        queues.push(0, value)
    assert queues.read(0) == [65535]
