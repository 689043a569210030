from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import chain
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everbus.errors import (
    ConfigurationError,
    ExceptionResponseError,
    ModbusTimeoutError,
    PeerError,
    ServerStateError,
    UsageError,
)
from everbus.maps.notation import parse_point
from everbus.maps.planner import Block, HoleMap, ReadLimits, ReadPlan
from everbus.maps.points import Point, Table
from everbus.protocol.codes import ExceptionCode
from everbus.protocol.pdu.base import Response
from everbus.protocol.pdu.bits import ReadBitsRequest
from everbus.protocol.pdu.diagnostics import GetCommEventLogResponse
from everbus.protocol.pdu.registers import ReadRegistersRequest
from everbus.protocol.values import AddressRange

NO_SUCH = ExceptionResponseError(ExceptionCode.ILLEGAL_DATA_ADDRESS)


class Device:
    """Registers and bits that tell where they are from; what lies in a hole, or is too much at once, is refused."""

    def __init__(self, holes: Collection[int] = (), most: int = 2000) -> None:
        self.holes = holes
        self.most = most
        self.asked: list[str] = []
        self.refused = 0

    def answer(self, request: object) -> Response:
        """A response, or exception 02."""
        assert isinstance(request, ReadBitsRequest | ReadRegistersRequest)
        request.check()
        addresses = range(request.address, request.address + request.quantity)
        if request.quantity > self.most or not set(addresses).isdisjoint(self.holes):
            self.refused += 1
            raise NO_SUCH
        if isinstance(request, ReadBitsRequest):
            response: Response = request.respond([address % 3 == 0 for address in addresses])
        else:
            response = request.respond(addresses)
        return response

    def drive(self, plan: ReadPlan, first: Iterable[Block] = ()) -> None:
        """Read all of a plan; first the blocks that were taken out of it before."""
        for block in chain(first, plan):
            self.asked.append(str(block))
            try:
                plan.answered(block, self.answer(block.request))
            except ExceptionResponseError as error:
                plan.failed(block, error)


def points(*texts: str) -> list[Point]:
    """Points from their notation."""
    return [parse_point(text) for text in texts]


def blocks(*texts: str, **options: Any) -> list[str]:
    """What a plan for these points begins with."""
    return list(map(str, ReadPlan(points(*texts), **options)))


def map_of(*holes: tuple[int, int], table: Table = Table.HOLDING) -> HoleMap:
    """Holes of unit 1, each an address and a count."""
    known = HoleMap()
    for address, count in holes:
        known.add(1, table, AddressRange(address, count))
    return known


# --- merging ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([], []),
        (["h@5"], ["1/h@5:1"]),
        (["h@6/f32", "h@5", "h@0"], ["1/h@0:8"]),
        (["h@0", "h@17"], ["1/h@0:18"]),
        (["h@0", "h@18"], ["1/h@0:1", "1/h@18:1"]),
        (["c@0", "c@257"], ["1/c@0:258"]),
        (["c@0", "c@258"], ["1/c@0:1", "1/c@258:1"]),
        (["h@0", "i@1", "2/h@2", "0/h@3"], ["0/h@3:1", "1/h@0:1", "1/i@1:1", "2/h@2:1"]),
        (["h@0:100", "h@100:25"], ["1/h@0:125"]),
        (["h@0:100", "h@100:24", "h@124/f32"], ["1/h@0:124", "1/h@124:2"]),
        (["h@0:20", "h@5/f32", "h@5", "h@5"], ["1/h@0:20"]),
    ],
)
def test_neighbours_share_a_read(texts: list[str], expected: list[str]) -> None:
    assert blocks(*texts) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("h@0:200", ["1/h@0:125", "1/h@125:75"]),
        ("h@0:70/f32", ["1/h@0:124", "1/h@124:16"]),
        ("h@0:126/string", ["1/h@0:125", "1/h@125:1"]),
        ("c@0:3000", ["1/c@0:2000", "1/c@2000:1000"]),
    ],
)
def test_what_is_too_large_for_one_read_is_cut_between_values(text: str, expected: list[str]) -> None:
    assert blocks(text) == expected
    device = Device()
    plan = ReadPlan(points(text))
    device.drive(plan)
    (reading,) = plan.readings()
    assert len(reading.raw) == reading.point.items
    assert reading.value == reading.point.decode(
        bytes(reading.raw) if reading.point.table.bits else b"".join(raw.to_bytes(2, "big") for raw in reading.raw)
    )


def test_limits_are_kept() -> None:
    limits = ReadLimits(max_registers=10, max_bits=16, max_gap=0)
    assert blocks("h@0:10", "h@10", "h@12", limits=limits) == ["1/h@0:10", "1/h@10:1", "1/h@12:1"]
    assert blocks("h@0:7/f32", limits=limits) == ["1/h@0:10", "1/h@10:4"]
    assert blocks("c@0:16", "c@16", limits=limits) == ["1/c@0:16", "1/c@16:1"]


@pytest.mark.parametrize(
    "limit", [{"max_registers": 0}, {"max_registers": 126}, {"max_bits": 2001}, {"max_gap": -1}, {"max_gap": 126}]
)
def test_a_limit_outside_the_specification_is_refused(limit: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match=f"{next(iter(limit))} .* is outside"):
        ReadLimits(**limit)


def test_points_without_a_unit_have_the_plan_s() -> None:
    assert blocks("h@0", "9/h@1", unit=7) == ["7/h@0:1", "9/h@1:1"]
    with pytest.raises(UsageError, match="unit 256"):
        ReadPlan([], unit=256)


# --- holes ------------------------------------------------------------------------------------


def test_no_read_passes_over_a_declared_hole() -> None:
    assert blocks("h@0", "h@5", holes=map_of((2, 1))) == ["1/h@0:1", "1/h@5:1"]
    assert blocks("h@0", "h@1", "h@5", holes=map_of((6, 9))) == ["1/h@0:6"]
    assert blocks("i@0", "i@5", "2/h@0", "2/h@5", holes=map_of((2, 1))) == ["1/i@0:6", "2/h@0:6"]


def test_a_point_inside_a_hole_is_read_alone_and_the_hole_is_cut_where_it_answers() -> None:
    holes = map_of((10, 10))
    plan = ReadPlan(points("h@9", "h@12", "h@20"), holes=holes)
    device = Device()
    device.drive(plan)
    assert device.asked == ["1/h@9:1", "1/h@12:1", "1/h@20:1"]
    assert holes.ranges(1, Table.HOLDING) == [AddressRange(10, 2), AddressRange(13, 7)]


def test_a_hole_is_forgotten_when_all_of_it_was_read() -> None:
    holes = map_of((10, 2), (30, 1))
    Device().drive(ReadPlan(points("h@10/u32"), holes=holes))
    assert holes.ranges(1, Table.HOLDING) == [AddressRange(30, 1)]
    assert blocks("h@9", "h@12", holes=holes) == ["1/h@9:4"]


def test_a_hole_among_the_points_is_found_by_halving_and_remembered() -> None:
    wanted = points(*(f"h@{address}" for address in range(16)))
    holes = HoleMap()
    first, second = Device(holes={5}), Device(holes={5})
    plan = ReadPlan(wanted, holes=holes)
    first.drive(plan)
    readings = plan.readings()
    assert [reading.value for reading in readings if reading.error is None] == [n for n in range(16) if n != 5]
    assert readings[5].error is NO_SUCH
    assert (readings[5].value, readings[5].raw) == (None, ())
    assert holes.ranges(1, Table.HOLDING) == [AddressRange(5, 1)]
    assert len(first.asked) == 9  # four times in two
    second.drive(ReadPlan(wanted, holes=holes))
    assert second.asked == ["1/h@0:5", "1/h@5:1", "1/h@6:10"]


def test_a_hole_between_the_points_is_remembered_where_the_gap_is() -> None:
    wanted = points("h@0:4", "h@10:4", "h@20:4")
    holes = HoleMap()
    first, second = Device(holes={15}), Device(holes={15})
    first.drive(ReadPlan(wanted, holes=holes))
    assert holes.ranges(1, Table.HOLDING) == [AddressRange(14, 6)]
    second.drive(ReadPlan(wanted, holes=holes))
    assert (second.asked, second.refused) == (["1/h@0:14", "1/h@20:4"], 0)


def test_a_device_that_reads_less_at_once_is_not_asked_for_more_again() -> None:
    wanted = points(*(f"h@{address}" for address in range(100)))
    holes = HoleMap()
    first, second = Device(most=61), Device(most=61)
    plan = ReadPlan(wanted, holes=holes)
    first.drive(plan)
    assert [reading.result() for reading in plan.readings()] == list(range(100))
    assert holes.ranges(1, Table.HOLDING) == []
    second.drive(ReadPlan(wanted, holes=holes))
    assert (second.asked, second.refused) == (["1/h@0:50", "1/h@50:50"], 0)


def test_points_at_the_same_place_are_read_once_even_in_a_hole() -> None:
    device = Device(holes={0})
    plan = ReadPlan(points("h@0", "h@0/i16"), holes=map_of((0, 1)))
    device.drive(plan)
    assert device.asked == ["1/h@0:1"]
    assert [reading.error for reading in plan.readings()] == [NO_SUCH, NO_SUCH]


def test_a_refused_block_is_not_cut_through_what_lies_at_the_same_place() -> None:
    device = Device(holes={5})
    device.drive(ReadPlan(points(*(f"h@5/u16.{bit}" for bit in range(16)), "h@6")))
    assert device.asked == ["1/h@5:2", "1/h@5:1", "1/h@6:1"]


@pytest.mark.parametrize("text", ["h@0/u64", "h@0:4/f64", "h@0:3/bcd"])
def test_a_number_that_would_be_torn_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"h@0.*: a value has [34] registers and one read 2: it would be torn"):
        ReadPlan(points(text), limits=ReadLimits(max_registers=2))


def test_blocks_that_follow_a_refusal_come_in_a_later_loop_too() -> None:
    plan = ReadPlan(points("h@0", "h@1"))
    (whole,) = list(plan)
    plan.failed(whole, NO_SUCH)
    assert list(map(str, plan)) == ["1/h@0:1", "1/h@1:1"]
    assert list(plan) == []


# --- answers ----------------------------------------------------------------------------------


def test_readings_come_in_the_order_of_the_points() -> None:
    plan = ReadPlan(points("h@3", "c@3", "i@0:2", "h@1/bytes"))
    Device().drive(plan)
    assert [(reading.value, reading.raw) for reading in plan.readings()] == [
        (3, (3,)),
        (True, (1,)),
        ([0, 1], (0, 1)),
        (b"\x00\x01", (1,)),
    ]


def test_another_error_is_the_error_of_all_points_of_the_block() -> None:
    plan = ReadPlan(points("h@0", "h@1", "h@100"))
    error = ModbusTimeoutError("no answer in 3 s")
    first, second = plan
    plan.failed(first, error)
    plan.answered(second, Device().answer(second.request))
    readings = plan.readings()
    assert [reading.error for reading in readings] == [error, error, None]
    assert readings[2].result() == 100
    with pytest.raises(ModbusTimeoutError, match="no answer in 3 s"):
        readings[0].result()
    assert plan.holes.ranges(1, Table.HOLDING) == []


def test_registers_that_are_no_value_are_the_error_of_their_point() -> None:
    plan = ReadPlan(points("h@10/bcd", "h@9/bcd"))
    Device().drive(plan)
    bad, good = plan.readings()
    assert isinstance(bad.error, PeerError)
    assert (bad.value, bad.raw) == (None, (10,))
    assert good.value == 9


def test_readings_are_not_given_before_all_is_read() -> None:
    plan = ReadPlan(points("h@0", "h@100"))
    first, _ = plan
    plan.answered(first, Device().answer(first.request))
    with pytest.raises(ServerStateError, match="1 blocks are still to be read: 1/h@100:1"):
        plan.readings()


def test_an_answer_to_what_was_not_asked_is_refused() -> None:
    plan = ReadPlan(points("h@0:4"))
    (block,) = plan
    short = Device().answer(parse_and_read("h@0:3"))
    with pytest.raises(UsageError, match="the response has 3 items"):
        plan.answered(block, short)
    with pytest.raises(UsageError, match="GetCommEventLogResponse does not answer a read"):
        plan.answered(block, GetCommEventLogResponse(0, 0, 0, b""))
    plan.answered(block, Device().answer(block.request))
    with pytest.raises(UsageError, match="is not awaited by this plan"):
        plan.answered(block, Device().answer(block.request))


def parse_and_read(text: str) -> object:
    """The request that reads one point."""
    (block,) = ReadPlan(points(text))
    return block.request


# --- any points, any holes --------------------------------------------------------------------

any_points = st.lists(
    st.builds(
        Point,
        st.sampled_from([Table.HOLDING, Table.COIL]),
        st.integers(0, 90),
        st.sampled_from([None, 2]),
        count=st.integers(1, 12),
    ),
    max_size=12,
)
any_holes = st.sets(st.integers(0, 100), max_size=6)


@settings(max_examples=40)
@given(wanted=any_points, missing=any_holes, most=st.integers(4, 40), gap=st.integers(0, 12), declared=st.booleans())
def test_every_point_is_read_once_and_no_hole_is_passed_over(
    wanted: list[Point], missing: set[int], most: int, gap: int, declared: bool
) -> None:
    holes = HoleMap()
    for address in missing if declared else ():
        for table in (Table.HOLDING, Table.COIL):
            for unit in (1, 2):
                holes.add(unit, table, AddressRange(address, 1))
    limits = ReadLimits(max_registers=most, max_bits=most, max_gap=gap)
    plan = ReadPlan(wanted, holes=holes, limits=limits)
    planned = list(plan)
    for block in planned:
        assert block.items.count <= most
        alone = len({piece.items for piece in block.pieces}) == 1
        assert alone or not holes.crossed(block.unit, block.table, block.items)
    pieces = [(piece.index, address) for block in planned for piece in block.pieces for address in span(piece.items)]
    assert sorted(pieces) == [(index, address) for index, point in enumerate(wanted) for address in span(point.range)]

    device = Device(missing)
    device.drive(plan, planned)
    assert [reading.point for reading in plan.readings()] == wanted
    for reading in plan.readings():
        addresses = span(reading.point.range)
        assert (reading.error is None) == missing.isdisjoint(addresses)
        if reading.error is None:
            bits = reading.point.table.bits
            assert reading.raw == tuple(address % 3 == 0 if bits else address for address in addresses)


@settings(max_examples=20)
@given(wanted=any_points, missing=any_holes, gap=st.integers(0, 12))
def test_in_the_end_only_points_in_holes_are_refused(wanted: list[Point], missing: set[int], gap: int) -> None:
    holes, limits = HoleMap(), ReadLimits(max_gap=gap)
    for _ in missing:  # each plan finds one more of them, or all that matter are known
        Device(missing).drive(ReadPlan(wanted, holes=holes, limits=limits))
    device = Device(missing)
    device.drive(ReadPlan(wanted, holes=holes, limits=limits))
    assert device.refused <= sum(not missing.isdisjoint(span(point.range)) for point in wanted)


def span(items: AddressRange) -> range:
    """The addresses of a range."""
    return range(items.address, items.end)
