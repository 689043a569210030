from __future__ import annotations

from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from everbus.errors import ExceptionResponseError, UsageError
from everbus.protocol.codes import ExceptionCode
from everbus.protocol.values import AddressRange, pack_bits, pack_registers, unpack_bits
from everbus.service.memory import BitTable, RegisterTable, Table

LAST = 65535


def missing(table: Table, address: int, count: int) -> str:
    with pytest.raises(ExceptionResponseError) as caught:
        table.require(address, count)
    assert caught.value.code == ExceptionCode.ILLEGAL_DATA_ADDRESS
    return str(caught.value)


# --- which items exist ------------------------------------------------------------------------


@pytest.mark.parametrize("table", [BitTable("coil"), RegisterTable("holding register")])
@pytest.mark.requirement("AP-4.3-size")
def test_a_table_has_all_its_items_unless_told_otherwise(table: Table) -> None:
    for address, count in [(0, 1), (0, 2000), (LAST, 1), (0, 65536)]:
        assert table.covers(address, count)
    for address, count in [(LAST, 2), (65536, 1), (1, 65536)]:
        assert not table.covers(address, count)


@pytest.mark.requirement("AP-4.4-addresses")
def test_a_number_is_how_many_items_there_are_from_address_0() -> None:
    # AP 7: 100 registers; start 96 quantity 4 succeeds, quantity 5 does not.
    table = RegisterTable("holding register", 100)
    table.require(96, 4)
    assert missing(table, 96, 5) == "holding register 96 (5 items) does not exist here"
    assert missing(table, 100, 1) == "holding register 100 (1 items) does not exist here"


@pytest.mark.parametrize(("address", "count"), [(-1, 1), (-1, 5), (0, 0), (0, -1), (5, 0)])
def test_a_range_that_makes_no_sense_does_not_exist(address: int, count: int) -> None:
    missing(BitTable("coil"), address, count)


@pytest.mark.parametrize("spec", [0, []])
def test_a_table_may_have_no_item(spec: int | list[tuple[int, int]]) -> None:
    table = BitTable("coil", spec)
    assert not table.covers(0, 1)
    assert len(table.data) == 0
    assert repr(table) == "<coils none>"


def test_ranges_are_sorted_and_joined_where_they_touch_or_overlap() -> None:
    table = RegisterTable("holding register", [(200, 10), AddressRange(0, 10), (10, 5), (12, 8), (12, 2)])
    assert table.ranges == (AddressRange(0, 20), AddressRange(200, 10))
    assert repr(table) == "<holding registers 0..19, 200..209>"


def test_a_range_that_touches_a_hole_does_not_exist() -> None:
    table = RegisterTable("holding register", [(10, 10), (30, 10)])
    for address, count in [(10, 10), (19, 1), (30, 10), (39, 1)]:
        assert table.covers(address, count)
    for address, count in [(9, 1), (9, 5), (19, 2), (20, 1), (19, 12), (10, 30), (29, 1), (39, 2), (40, 1), (0, 65536)]:
        assert not table.covers(address, count)


@pytest.mark.parametrize("spec", [-1, 65537, [(0, 0)], [(65535, 2)], [(-1, 1)], [(5, 1), (65536, 1)]])
def test_a_range_that_leaves_its_table_is_refused(spec: int | list[tuple[int, int]]) -> None:
    with pytest.raises(UsageError):
        BitTable("coil", spec)


range_specs = st.lists(
    st.tuples(st.integers(0, 90), st.integers(1, 30)) | st.builds(AddressRange, st.integers(0, 90), st.integers(1, 30)),
    max_size=6,
)


@given(spec=range_specs, address=st.integers(0, 130), count=st.integers(1, 40))
@settings(deadline=None)
@pytest.mark.requirement("AP-7-02")
def test_a_range_exists_if_each_of_its_items_does(
    spec: list[tuple[int, int] | AddressRange], address: int, count: int
) -> None:
    existing: set[int] = set()
    for part in spec:
        first, size = (part.address, part.count) if isinstance(part, AddressRange) else part
        existing.update(range(first, first + size))
    wanted = range(address, address + count)
    assert RegisterTable("holding register", spec).covers(address, count) == existing.issuperset(wanted)


@given(spec=range_specs)
@settings(deadline=None)
def test_a_table_holds_no_more_than_its_last_item_needs(spec: list[tuple[int, int] | AddressRange]) -> None:
    registers, bits = RegisterTable("holding register", spec), BitTable("coil", spec)
    end = registers.ranges[-1].end if registers.ranges else 0
    assert (len(registers.data), len(bits.data)) == (2 * end, -(-end // 8))


# --- what they hold ---------------------------------------------------------------------------


def test_every_item_is_zero_at_first() -> None:
    assert RegisterTable("holding register").read(LAST - 124, 125) == [0] * 125
    assert BitTable("coil").read(LAST - 1999, 2000) == [False] * 2000


@pytest.mark.requirement("AP-4.2-byte-order")
def test_a_register_is_stored_as_the_wire_carries_it() -> None:
    table = RegisterTable("holding register", 10)
    table.write_wire(3, 2, bytes.fromhex("022B0064"))
    assert table.data.hex() == "000000000000022b00640000000000000000" + "0000"
    assert table.read_wire(3, 2) == bytes.fromhex("022B0064")
    assert table.read(3, 2) == [555, 100]


def test_reading_what_does_not_exist_is_refused() -> None:
    with pytest.raises(ExceptionResponseError, match=r"holding register 10 \(1 items\)"):
        RegisterTable("holding register", 10).read(10, 1)
    with pytest.raises(ExceptionResponseError, match=r"coil 9 \(2 items\)"):
        BitTable("coil", 10).read(9, 2)


@pytest.mark.parametrize("size", [*range(1, 18), 65521, 65535, 65536])
def test_the_last_bits_of_a_table_are_whole_at_any_alignment(size: int) -> None:
    for count in range(1, min(size, 17) + 1):
        table = BitTable("coil", size)
        address = size - count
        table.write_wire(address, count, b"\xff\xff\xff")
        assert len(table.data) == -(-size // 8)
        assert table.read(address, count) == [True] * count
        assert table.read_wire(address, count) == ((1 << count) - 1).to_bytes(-(-count // 8), "little")
        assert sum(byte.bit_count() for byte in table.data) == count
        table.write_wire(address, count, bytes(3))
        assert not any(table.data)


@pytest.mark.requirement("AP-6.1-packing", "AP-6.2-packing", "AP-6.11-packing")
def test_unused_high_bits_are_ignored_in_writes_and_zero_in_reads() -> None:
    table = BitTable("coil", 16)
    table.write_wire(3, 5, b"\xff")
    assert table.data == b"\xf8\x00"
    table.write_wire(0, 16, b"\xff\xff")
    assert table.read_wire(6, 3) == b"\x07"


def test_a_read_is_not_changed_by_later_writes() -> None:
    table = RegisterTable("holding register", 4)
    data = table.read_wire(0, 4)
    table.write_wire(0, 4, b"\xff" * 8)
    assert data == bytes(8)


def test_values_are_packed_as_the_wire_carries_them() -> None:
    assert RegisterTable.pack([1, 0xFFFF]) == b"\x00\x01\xff\xff"
    assert BitTable.pack([True, 0, 1]) == b"\x05"


@pytest.mark.parametrize("value", [2, -1, "1", None, 0.5])
def test_a_bit_is_true_or_false_and_nothing_else(value: object) -> None:
    values: list[object] = [True, value]
    with pytest.raises(UsageError, match="bits are True and False"):
        BitTable.pack(values)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [65536, -1, "1", None, 0.5])
def test_a_register_has_16_bits(value: object) -> None:
    values: list[object] = [0, value]
    with pytest.raises(UsageError, match="registers are whole numbers"):
        RegisterTable.pack(values)  # type: ignore[arg-type]


class Memory(RuleBasedStateMachine):
    """Both kinds of tables beside plain lists: any reads and writes give the same values."""

    @initialize(size=st.integers(1, 300))
    def build(self, size: int) -> None:
        self.size = size
        self.bits, self.coils = [False] * size, BitTable("coil", size)
        self.words, self.registers = [0] * size, RegisterTable("holding register", size)

    def place(self, data: st.DataObject) -> tuple[int, int]:
        address = data.draw(st.integers(0, self.size - 1))
        return address, data.draw(st.integers(1, self.size - address))

    @rule(data=st.data())
    def write_bits(self, data: st.DataObject) -> None:
        address, count = self.place(data)
        values = [byte > 127 for byte in data.draw(st.binary(min_size=count, max_size=count))]
        self.bits[address : address + count] = values
        self.coils.write_wire(address, count, pack_bits(values))

    @rule(data=st.data(), junk=st.integers(0, 255))
    def write_bits_with_junk_behind_them(self, data: st.DataObject, junk: int) -> None:
        address, count = self.place(data)
        wire = bytes((junk,)) * (-(-count // 8))
        self.bits[address : address + count] = unpack_bits(wire, count)
        self.coils.write_wire(address, count, wire)

    @rule(data=st.data())
    def write_words(self, data: st.DataObject) -> None:
        address, count = self.place(data)
        values = array("H", data.draw(st.binary(min_size=2 * count, max_size=2 * count))).tolist()
        self.words[address : address + count] = values
        self.registers.write_wire(address, count, pack_registers(values))

    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        address, count = self.place(data)
        assert self.coils.read_wire(address, count) == pack_bits(self.bits[address : address + count])
        assert self.registers.read_wire(address, count) == pack_registers(self.words[address : address + count])

    @invariant()
    def everything_is_where_it_was_put(self) -> None:
        assert self.coils.read(0, self.size) == self.bits
        assert self.registers.read(0, self.size) == self.words
        assert (len(self.coils.data), len(self.registers.data)) == (-(-self.size // 8), 2 * self.size)


Memory.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestMemory = Memory.TestCase
