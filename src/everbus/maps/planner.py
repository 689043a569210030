"""Many points, few reads: neighbours share a request, values stay whole, holes are left alone.

A plan does no I/O. A host asks it for blocks, tells it how each was answered, and takes the
readings, here inside an asynchronous client::

    plan = ReadPlan(points, holes=holes)
    for block in plan:
        try:
            plan.answered(block, await client.call(block.request, block.unit))
        except ExceptionResponseError as error:
            plan.failed(block, error)
    readings = plan.readings()
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Final

from everbus.errors import (
    ConfigurationError,
    ExceptionResponseError,
    ModbusError,
    PeerError,
    ServerStateError,
    UsageError,
)
from everbus.maps.datatypes import DataType, Value
from everbus.maps.points import Point, Table
from everbus.maps.requests import read_request
from everbus.protocol.codes import MAX_READ_BITS, MAX_READ_REGISTERS, ExceptionCode
from everbus.protocol.pdu.base import Request, Response
from everbus.protocol.pdu.bits import ReadBitsResponse
from everbus.protocol.pdu.registers import ReadRegistersResponse
from everbus.protocol.values import AddressRange, check_unit, unpack_registers

__all__ = ["Block", "HoleMap", "ReadLimits", "ReadPlan", "Reading"]

_REFUSALS: Final = (ExceptionCode.ILLEGAL_DATA_ADDRESS, ExceptionCode.ILLEGAL_DATA_VALUE)
"""Answers to a read that a smaller one may not meet: a hole in it, or more than the device reads at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadLimits:
    """How points are merged into reads. Immutable; validated when built, trusted afterwards.

    Args:
        max_registers: in one read, 1..125; devices exist that have less.
        max_bits: coils or discrete inputs in one read, 1..2000.
        max_gap: registers that nobody asked for and that may be read to join two points; of bits
            sixteen times as many, which costs the same on the wire. 0: only what touches is joined.

    Raises:
        ConfigurationError: a limit outside its range.
    """

    max_registers: int = MAX_READ_REGISTERS
    max_bits: int = MAX_READ_BITS
    max_gap: int = 16

    def __post_init__(self) -> None:
        for name, least, most in (
            ("max_registers", 1, MAX_READ_REGISTERS),
            ("max_bits", 1, MAX_READ_BITS),
            ("max_gap", 0, MAX_READ_REGISTERS),
        ):
            if not least <= getattr(self, name) <= most:
                raise ConfigurationError(f"{name} {getattr(self, name)} is outside {least}..{most}")

    def most(self, table: Table) -> int:
        """Items in one read of a table."""
        return self.max_bits if table.bits else self.max_registers

    def gap(self, table: Table) -> int:
        """Items of a table that may be read for nothing between two points."""
        return 16 * self.max_gap if table.bits else self.max_gap


class HoleMap:
    """What no read may pass over, for each unit and table: declared, or learned from refusals.

    Keep one for each device, and give it to every plan. A point inside a hole is still read when
    it is asked for, by itself; if that works, the hole ends there. Leave such points out, as
    ``crossed`` finds them, where a device is asked again and again.
    """

    __slots__ = ("_holes",)

    def __init__(self) -> None:
        # Behind each place the start and end of holes; equal ones are a seam, which has no width.
        # Sets that are replaced whole: threads may share a map.
        self._holes: dict[tuple[int, Table], frozenset[tuple[int, int]]] = {}

    def add(self, unit: int, table: Table, hole: AddressRange) -> None:
        """Declare that these items of a table do not exist."""
        self._mark(unit, table, hole.address, hole.end)

    def ranges(self, unit: int, table: Table) -> list[AddressRange]:
        """The holes of one table in order; they may overlap."""
        holes = sorted(self._holes.get((check_unit(unit), table), ()))
        return [AddressRange(start, end - start) for start, end in holes if end > start]

    def crossed(self, unit: int, table: Table, items: AddressRange) -> bool:
        """Whether a read of these items would pass over a hole."""
        holes = self._holes.get((unit, table), ())
        return any(start < items.end and end > items.address for start, end in holes)

    def _mark(self, unit: int, table: Table, start: int, end: int) -> None:
        key = (check_unit(unit), table)
        self._holes[key] = self._holes.get(key, frozenset()) | {(start, end)}

    def _forget(self, unit: int, table: Table, items: AddressRange) -> None:
        """Items that were read exist: cut them out of the holes."""
        if not self.crossed(unit, table, items):
            return
        kept: set[tuple[int, int]] = set()
        for start, end in self._holes[unit, table]:
            if start >= items.end or end <= items.address:
                kept.add((start, end))
            else:
                parts = ((start, items.address), (items.end, end))
                kept.update((first, last) for first, last in parts if first < last)
        self._holes[unit, table] = frozenset(kept)


@dataclass(frozen=True, slots=True)
class _Piece:
    """What is read in one go: a point, or a part of one that is too large for one read.

    Args:
        index: of the point in the plan.
        part: of the point; 0 for the first.
        items: where it lies.
    """

    index: int
    part: int
    items: AddressRange


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """One read.

    Args:
        unit: whom to ask, 0..255.
        table: what to read from.
        items: what to read, within the limits of one request.
        pieces: what the plan gets out of it.
    """

    unit: int
    table: Table
    items: AddressRange
    pieces: tuple[_Piece, ...] = field(repr=False)

    @property
    def request(self) -> Request[Any]:
        """The request that reads it."""
        return read_request(self.table, self.items)

    def __str__(self) -> str:
        return f"{self.unit}/{self.table[0]}@{self.items.address}:{self.items.count}"


@dataclass(frozen=True, slots=True)
class Reading:
    """What came of one point.

    Args:
        point: which.
        value: its value; a list where its count says so; None: not available, or an error.
        raw: the registers, or the bits as 0 and 1; empty where they could not be read.
        error: why there is no value; None: there is one.
    """

    point: Point
    value: Value = None
    raw: tuple[int, ...] = ()
    error: ModbusError | None = None

    def result(self) -> Value:
        """The value.

        Raises:
            ModbusError: there is none: the error.
        """
        if self.error is not None:
            raise self.error
        return self.value


class ReadPlan:
    """The reads that give the values of some points.

    Iterate over it for the blocks to read, in any number of loops; answer each with ``answered`` or
    ``failed`` before or after taking the next. A block that a device refuses with exception 02 or 03
    comes again in smaller blocks, down to single points; what was learned is in ``holes``.

    Args:
        points: in the order of the readings.
        unit: for points without one, 0..255.
        holes: what reads must not pass over; the plan adds to it.
        limits: how points are merged.

    Raises:
        UsageError: ``unit`` is not one.
        ConfigurationError: one number has more registers than ``limits`` allow in one read.
    """

    __slots__ = ("_data", "_errors", "_open", "_points", "_queue", "_splits", "_unit", "holes", "limits")

    def __init__(
        self,
        points: Iterable[Point],
        *,
        unit: int = 1,
        holes: HoleMap | None = None,
        limits: ReadLimits | None = None,
    ) -> None:
        self.holes: HoleMap = HoleMap() if holes is None else holes
        self.limits: ReadLimits = limits or ReadLimits()
        self._points = list(points)
        self._unit = check_unit(unit)
        self._data: list[dict[int, bytes]] = [{} for _ in self._points]
        self._errors: list[ModbusError | None] = [None] * len(self._points)
        self._splits: list[tuple[Block, int, int]] = []
        self._queue = deque(self._blocks())
        self._open: set[Block] = set(self._queue)

    def __iter__(self) -> Iterator[Block]:
        while self._queue:
            yield self._queue.popleft()

    def answered(self, block: Block, response: Response) -> None:
        """Take what a block's request was answered with.

        Raises:
            UsageError: the response has not the items of the block, or the block is not awaited.
        """
        data = _items(response)
        width = 1 if block.table.bits else 2
        if len(data) < block.items.count * width:
            raise UsageError(f"{block}: the response has {len(data) // width} items")
        self._close(block)
        for piece in block.pieces:
            start = (piece.items.address - block.items.address) * width
            self._data[piece.index][piece.part] = data[start : start + piece.items.count * width]
        self.holes._forget(block.unit, block.table, block.items)
        self._learn()

    def failed(self, block: Block, error: ModbusError) -> None:
        """Take note that a block could not be read.

        Exceptions 02 and 03 of a block of several points give smaller blocks, which the iteration
        brings; of a single one, a hole. Any other error is the error of all points of the block.

        Raises:
            UsageError: the block is not awaited.
        """
        self._close(block)
        refused = isinstance(error, ExceptionResponseError) and error.code in _REFUSALS
        if refused and any(piece.items != block.items for piece in block.pieces):
            self._split(block)
            return
        for piece in block.pieces:
            self._errors[piece.index] = error
        if refused:
            self.holes.add(block.unit, block.table, block.items)
        self._learn()

    def readings(self) -> list[Reading]:
        """What came of each point, in the order they were given.

        Raises:
            ServerStateError: blocks are still to be read.
        """
        if self._open:
            raise ServerStateError(f"{len(self._open)} blocks are still to be read: {min(map(str, self._open))} is one")
        return [self._reading(index, point) for index, point in enumerate(self._points)]

    def _reading(self, index: int, point: Point) -> Reading:
        error = self._errors[index]
        if error is not None:
            return Reading(point, error=error)
        parts = self._data[index]
        data = b"".join(parts[part] for part in sorted(parts))
        raw = tuple(data) if point.table.bits else tuple(unpack_registers(data))
        try:
            return Reading(point, point.decode(data), raw)
        except PeerError as error:
            return Reading(point, raw=raw, error=error)

    def _blocks(self) -> Iterator[Block]:
        """The blocks to begin with."""
        pieces: dict[tuple[int, Table], list[_Piece]] = {}
        for index, point in enumerate(self._points):
            unit = self._unit if point.unit is None else point.unit
            pieces.setdefault((unit, point.table), []).extend(self._pieces(index, point))
        for (unit, table), of_table in sorted(pieces.items()):
            yield from self._merged(unit, table, sorted(of_table, key=_place))

    def _pieces(self, index: int, point: Point) -> Iterator[_Piece]:
        """A point, cut between values if it is too large for one read; only text and bytes are cut inside."""
        items, most = point.range, self.limits.most(point.table)
        if items.count <= most:
            yield _Piece(index, 0, items)
            return
        size = items.count // point.values
        if size > most and point.type not in (DataType.STRING, DataType.BYTES):
            raise ConfigurationError(f"{point}: a value has {size} registers and one read {most}: it would be torn")
        step = most // size * size or most
        for part, start in enumerate(range(items.address, items.end, step)):
            yield _Piece(index, part, AddressRange(start, min(step, items.end - start)))

    def _merged(self, unit: int, table: Table, pieces: list[_Piece]) -> Iterator[Block]:
        first = 0
        items = pieces[0].items
        for place, piece in enumerate(pieces):
            joined = AddressRange(items.address, max(items.end, piece.items.end) - items.address)
            gap = piece.items.address - items.end
            if piece.items != items and not self._allowed(unit, table, joined, gap):
                yield Block(unit, table, items, tuple(pieces[first:place]))
                first, joined = place, piece.items
            items = joined
        yield Block(unit, table, items, tuple(pieces[first:]))

    def _allowed(self, unit: int, table: Table, joined: AddressRange, gap: int) -> bool:
        fits = joined.count <= self.limits.most(table) and gap <= self.limits.gap(table)
        return fits and not self.holes.crossed(unit, table, joined)

    def _close(self, block: Block) -> None:
        if block not in self._open:
            raise UsageError(f"{block} is not awaited by this plan, or not any more")
        self._open.remove(block)

    def _split(self, block: Block) -> None:
        """Put two smaller blocks in the place of a refused one: cut at its widest gap, or else in the middle."""
        ends = list(accumulate((piece.items.end for piece in block.pieces), max))
        middle = len(ends) / 2
        # Points that overlap stay together where others do not: -1.
        cut = max(
            range(1, len(ends)),
            key=lambda place: (max(-1, block.pieces[place].items.address - ends[place - 1]), -abs(place - middle)),
        )
        for pieces in (block.pieces[cut:], block.pieces[:cut]):
            start = pieces[0].items.address
            end = max(piece.items.end for piece in pieces)
            part = Block(block.unit, block.table, AddressRange(start, end - start), pieces)
            self._queue.appendleft(part)
            self._open.add(part)
        self._splits.append((block, ends[cut - 1], block.pieces[cut].items.address))

    def _learn(self) -> None:
        """At the end: what was refused whole and read in two is not to be read whole again."""
        if self._open:
            return
        for block, end, start in reversed(self._splits):  # the smallest first
            read = all(self._errors[piece.index] is None for piece in block.pieces)
            if read and end <= start and not self.holes.crossed(block.unit, block.table, block.items):
                self.holes._mark(block.unit, block.table, end, start)
        self._splits.clear()


def _place(piece: _Piece) -> tuple[int, int, int]:
    return piece.items.address, piece.items.count, piece.index


def _items(response: Response) -> bytes:
    """The items of a response: registers as they travel, bits one byte each."""
    if isinstance(response, ReadBitsResponse):
        return bytes(response.bits)
    if isinstance(response, ReadRegistersResponse):
        return response.data
    raise UsageError(f"{type(response).__name__} does not answer a read")
