from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import FrozenInstanceError
from threading import RLock, Thread

import pytest

from everbus.errors import ExceptionResponseError, UsageError
from everbus.observe import Event, EventKind
from everbus.protocol.pdu.base import Response
from everbus.protocol.pdu.table import PUBLIC
from everbus.protocol.values import AddressRange
from everbus.service.bank import Bank, TableName, Write
from everbus.service.context import ConnectionInfo, RequestContext
from everbus.service.local import LocalDevice

CONTEXT = RequestContext(ConnectionInfo(1), 1, 1)


class Lock:
    """A lock that remembers how often it was taken, and how deep."""

    def __init__(self) -> None:
        self.taken = 0
        self.depth = 0

    def __enter__(self) -> None:
        self.taken += 1
        self.depth += 1

    def __exit__(self, *_: object) -> None:
        self.depth -= 1


class Recorder:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def notify(self, event: Event) -> None:
        self.events.append(event)

    def tick(self, now: float) -> None:
        raise AssertionError("nothing here looks at the clock")


Read = Callable[[Bank, int, int], Sequence[int]]
Set = Callable[[Bank, int, Sequence[int]], None]

TABLES: list[tuple[TableName, Read, Set]] = [
    (TableName.COILS, Bank.read_coils, Bank.write_coils),
    (TableName.DISCRETE_INPUTS, Bank.read_discrete_inputs, Bank.write_discrete_inputs),
    (TableName.INPUT_REGISTERS, Bank.read_input_registers, Bank.write_input_registers),
    (TableName.HOLDING_REGISTERS, Bank.read_holding_registers, Bank.write_holding_registers),
]
SMALL = Bank(coils=4, discrete_inputs=4, input_registers=4, holding_registers=4)


# --- values -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "read", "write"), TABLES)
@pytest.mark.requirement("AP-4.3-tables")
def test_each_table_keeps_its_own_values(name: TableName, read: Read, write: Set) -> None:
    bank = Bank()
    write(bank, 65533, [1, 0, 1])
    assert [list(other(bank, 65533, 3)) for _, other, _ in TABLES] == [
        [1, 0, 1] if other is read else [0, 0, 0] for _, other, _ in TABLES
    ]
    assert bank.table(name).read(65533, 3) == [1, 0, 1]


@pytest.mark.parametrize(("name", "read", "write"), TABLES)
@pytest.mark.requirement("AP-4.4-addresses")
def test_one_item_is_read_unless_told_otherwise(name: TableName, read: Read, write: Set) -> None:
    bank = Bank()
    write(bank, 7, [1])
    one: Callable[[Bank, int], Sequence[int]] = read  # type: ignore[assignment]
    assert one(bank, 7) == [1]


@pytest.mark.parametrize(("name", "read", "write"), TABLES)
def test_items_that_do_not_exist_are_neither_read_nor_written(name: TableName, read: Read, write: Set) -> None:
    for address, count in [(4, 1), (3, 2), (-1, 1), (0, 5)]:
        with pytest.raises(ExceptionResponseError, match="does not exist here") as reading:
            read(SMALL, address, count)
        with pytest.raises(ExceptionResponseError, match="does not exist here") as writing:
            write(SMALL, address, [1] * count)
        assert (reading.value.code, writing.value.code) == (2, 2)
    assert list(read(SMALL, 0, 4)) == [0, 0, 0, 0]


def test_a_refusal_names_the_table() -> None:
    names = ["coil", "discrete input", "input register", "holding register"]
    for (_, read, _), name in zip(TABLES, names, strict=True):
        with pytest.raises(ExceptionResponseError, match=rf"^{name} 4 \(1 items\)"):
            read(SMALL, 4, 1)


@pytest.mark.parametrize(("name", "read", "write"), TABLES)
def test_a_bad_value_changes_nothing(name: TableName, read: Read, write: Set) -> None:
    with pytest.raises(UsageError):
        write(SMALL, 0, [1, -1])
    assert list(read(SMALL, 0, 2)) == [0, 0]


def test_tables_may_have_ranges_with_holes() -> None:
    bank = Bank(holding_registers=[(10, 2), AddressRange(20, 2)], coils=0)
    bank.write_holding_registers(20, [1, 2])
    assert bank.read_holding_registers(20, 2) == [1, 2]
    assert bank.read_input_registers(65535) == [0]
    for read, address in ((bank.read_holding_registers, 12), (bank.read_coils, 0)):
        with pytest.raises(ExceptionResponseError):
            read(address)


def test_a_range_that_leaves_its_table_is_refused() -> None:
    with pytest.raises(UsageError):
        Bank(coils=65537)


# --- callbacks --------------------------------------------------------------------------------


def test_a_write_is_told_with_its_values_after_it_has_happened() -> None:
    bank = Bank()
    seen: list[tuple[Write, list[bool]]] = []
    bank.on_write(lambda write: seen.append((write, bank.read_coils(3, 3))))
    bank.write_coils(3, [True, False, True])
    assert seen == [(Write(TableName.COILS, 3, 3, b"\x05", None), [True, False, True])]


@pytest.mark.parametrize(("name", "read", "write"), TABLES)
def test_a_write_names_its_table_and_gives_its_values(name: TableName, read: Read, write: Set) -> None:
    bank = Bank()
    seen: list[Write] = []
    bank.on_write(seen.append)
    write(bank, 9, [1, 0, 1])
    assert [(told.table, told.address, told.values) for told in seen] == [(name, 9, [1, 0, 1])]


@pytest.mark.requirement("AP-6.11-packing")
def test_unused_bits_of_a_write_are_no_values() -> None:
    assert Write(TableName.COILS, 0, 3, b"\xff", CONTEXT).values == [True, True, True]


def test_a_write_from_the_wire_says_who_asked() -> None:
    bank = Bank()
    seen: list[Write] = []
    bank.on_write(seen.append)
    bank.write_wire(TableName.HOLDING_REGISTERS, 1, 2, b"\x00\x0a\x01\x02", CONTEXT)
    assert seen == [Write(TableName.HOLDING_REGISTERS, 1, 2, b"\x00\x0a\x01\x02", CONTEXT)]
    assert bank.read_wire(TableName.HOLDING_REGISTERS, 0, 4) == b"\x00\x00\x00\x0a\x01\x02\x00\x00"


def test_a_callback_cannot_change_what_the_next_one_is_told() -> None:
    name = "data"
    with pytest.raises(FrozenInstanceError):
        setattr(Write(TableName.COILS, 0, 1, b"\x01", None), name, b"\x00")


def test_a_write_that_is_refused_is_not_told() -> None:
    bank = Bank(coils=4)
    seen: list[Write] = []
    bank.on_write(seen.append)
    with pytest.raises(ExceptionResponseError):
        bank.write_coils(3, [True, True])
    assert seen == []
    assert bank.read_coils(3) == [False]


def test_who_has_unsubscribed_is_not_told() -> None:
    bank = Bank()
    first: list[Write] = []
    second: list[Write] = []
    unsubscribe = bank.on_write(first.append)
    bank.on_write(second.append)
    unsubscribe()
    unsubscribe()
    bank.write_coils(0, [True])
    assert (len(first), len(second)) == (0, 1)


def test_a_callback_may_unsubscribe_itself() -> None:
    bank = Bank()
    seen: list[str] = []

    def once(write: Write) -> None:
        seen.append("once")
        unsubscribe()

    unsubscribe = bank.on_write(once)
    bank.on_write(lambda write: seen.append("always"))
    bank.write_coils(0, [True])
    bank.write_coils(0, [True])
    assert seen == ["once", "always", "always"]


def test_a_callback_that_raises_is_reported_and_changes_nothing() -> None:
    bank, recorder = Bank(), Recorder()
    bank.attach(Lock(), recorder)
    seen: list[Write] = []
    error = ValueError("no such boiler")

    def fail(write: Write) -> None:
        raise error

    bank.on_write(fail)
    bank.on_write(seen.append)
    bank.write_holding_registers(0, [7])
    assert bank.read_holding_registers(0) == [7]
    assert len(seen) == 1
    (event,) = recorder.events
    assert (event.kind, event.reason) == (EventKind.HANDLER_FAILED, "write_callback")
    assert (event.detail, event.error) == ("no such boiler", error)


def test_a_callback_that_raises_without_a_server_changes_nothing_either() -> None:
    def fail(write: Write) -> None:
        raise ValueError(write)

    bank = Bank()
    bank.on_write(fail)
    bank.write_coils(0, [True])
    assert bank.read_coils(0) == [True]


def test_a_callback_whose_error_has_no_words_is_reported_too() -> None:
    class Unspeakable(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    def fail(write: Write) -> None:
        raise Unspeakable

    bank, recorder = Bank(), Recorder()
    bank.attach(Lock(), recorder)
    bank.on_write(fail)
    bank.write_coils(0, [True])
    assert bank.read_coils(0) == [True]
    assert [event.detail for event in recorder.events] == ["<Unspeakable>"]


# --- locks and threads ------------------------------------------------------------------------


def test_a_bank_without_a_lock_has_no_transaction() -> None:
    with pytest.raises(UsageError, match=r"no lock yet.*Bank\(lock=threading.RLock\(\)\)"), Bank().transaction():
        pass  # pragma: no cover


@pytest.mark.parametrize(("name", "read", "write"), TABLES)
def test_each_access_holds_the_lock(name: TableName, read: Read, write: Set) -> None:
    lock = Lock()
    bank = Bank(lock=lock)
    write(bank, 0, [1])
    read(bank, 0, 1)
    assert (lock.taken, lock.depth) == (2, 0)


def test_a_transaction_holds_the_lock_to_its_end() -> None:
    lock = Lock()
    bank = Bank(lock=lock)
    with bank.transaction() as same:
        assert same is bank
        assert lock.depth == 1
    assert lock.depth == 0
    with pytest.raises(ZeroDivisionError), bank.transaction():
        raise ZeroDivisionError
    assert lock.depth == 0


def test_a_server_gives_a_bank_a_lock_unless_it_has_one() -> None:
    own, first, second = Lock(), Lock(), Lock()
    given, free = Bank(lock=own), Bank()
    for bank in (given, free):
        bank.attach(first, Recorder())
        bank.attach(second, Recorder())
    assert (given.lock, free.lock) == (own, first)
    with free.transaction():
        assert (first.depth, second.depth) == (1, 0)


def test_callbacks_are_called_when_the_lock_is_free() -> None:
    lock = Lock()
    bank = Bank(lock=lock)
    depths: list[int] = []
    bank.on_write(lambda write: depths.append(lock.depth))
    bank.write_coils(0, [True])
    assert depths == [0]


@contextmanager
def impatient_threads() -> Iterator[None]:
    """Let the interpreter change threads as often as it can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


def test_transactions_of_several_threads_lose_no_change() -> None:
    bank = Bank(holding_registers=2, lock=RLock())

    def count() -> None:
        for _ in range(3000):
            with bank.transaction():
                (value,) = bank.read_holding_registers(0)
                bank.write_holding_registers(0, [value + 1])

    threads = [Thread(target=count) for _ in range(4)]
    with impatient_threads():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert bank.read_holding_registers(0) == [12000]


@pytest.mark.parametrize("pdu", ["0300000002", "170000000200020001020001"])
def test_a_request_never_sees_half_a_transaction(pdu: str) -> None:
    bank = Bank(holding_registers=3, lock=RLock())
    device = LocalDevice(bank)
    request = bytes.fromhex(pdu)

    def change() -> None:
        for value in range(3000):
            with bank.transaction():
                bank.write_holding_registers(0, [value])
                bank.write_holding_registers(1, [value])

    def ask() -> bytes | None:
        if request[0] == 0x03:
            return device.answer_wire(request)
        answer = device.handle(PUBLIC.decode_request(request), CONTEXT)
        assert isinstance(answer, Response)
        return answer.encode()

    thread = Thread(target=change)
    with impatient_threads():
        thread.start()
        while thread.is_alive():
            answer = ask()
            assert answer is not None
            assert answer[2:4] == answer[4:6]
        thread.join()


@pytest.mark.parametrize(("table", "count", "data"), [("holding_registers", 1, bytes(4)), ("coils", 9, b"\1")])
def test_wire_bytes_that_do_not_fit_the_count_change_nothing(table: str, count: int, data: bytes) -> None:
    bank = Bank()
    bank.write_holding_registers(5, [55])
    with pytest.raises(UsageError, match="bytes"):
        bank.write_wire(TableName(table), 0, count, data)
    assert bank.read_holding_registers(5) == [55]
