"""What is asked of a device, and what it must answer: one plan for every stack, in either role.

A step is a kind of request with its arguments, and the answer in words that JSON has: bits and
registers are lists of numbers, a write is ``True``, bytes are hexadecimal, an exception response is
``{"exception": code}``. A stack takes the steps of the kinds that it has.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

__all__ = [
    "CODES",
    "DIAGNOSTIC_REGISTER",
    "EXCEPTION_STATUS",
    "FILE_RECORDS",
    "ITEMS",
    "LAST_ITEMS",
    "OBJECTS",
    "PLAIN",
    "PLAN",
    "QUEUES",
    "READS",
    "REFUSED",
    "SERVER_ID",
    "Deviations",
    "Step",
    "coils",
    "discrete_inputs",
    "effects",
    "exception",
    "holding_registers",
    "input_registers",
    "steps_for",
]

ITEMS: Final = 10_000
"""Items of each table, from address 0: what lies behind answers exception 02."""

LAST_ITEMS: Final = (65_000, 536)
"""Address and count of those that everbus has besides: the end of the address space."""

EXCEPTION_STATUS: Final = 0x6D
DIAGNOSTIC_REGISTER: Final = 0x1234
SERVER_ID: Final = b"everbus"
FILE_RECORDS: Final = {3: 10_000, 4: 10_000}
QUEUES: Final = {1246: [440, 4740], 1247: list(range(31)), 1248: list(range(32)), 1249: []}
OBJECTS: Final = {
    0: "Everbus Works",
    1: "EB-1",
    2: "2.5",
    3: "urn:example:everbus",
    4: "Interoperable",
    5: "Model 1",
    6: "Tests",
    0x80: "first private object ".ljust(150, "."),
    0x81: "second private object ".ljust(150, "."),
}
"""What 2B/0E says: the last object does not fit the first response."""

REFUSED: Final = "refused"
"""The answer of a stack that does not send what the specification forbids."""

CODES: Final[Mapping[str, str]] = {
    "read_coils": "01",
    "read_discrete_inputs": "02",
    "read_holding_registers": "03",
    "read_input_registers": "04",
    "write_coil": "05",
    "write_register": "06",
    "exception_status": "07",
    "query_data": "08/00",
    "restart": "08/01",
    "diagnostic_register": "08/02",
    "ascii_delimiter": "08/03",
    "listen_only": "08/04",
    "clear_counters": "08/0A",
    "bus_message_count": "08/0B",
    "bus_comm_error_count": "08/0C",
    "bus_exception_count": "08/0D",
    "server_message_count": "08/0E",
    "server_no_response_count": "08/0F",
    "server_nak_count": "08/10",
    "server_busy_count": "08/11",
    "bus_overrun_count": "08/12",
    "iop_overrun_count": "08/13",
    "clear_overrun": "08/14",
    "modbus_plus": "08/15",
    "event_counter": "0B",
    "event_log": "0C",
    "write_coils": "0F",
    "write_registers": "10",
    "server_id": "11",
    "read_file": "14",
    "write_file": "15",
    "mask_write": "16",
    "read_write": "17",
    "fifo": "18",
    "identify": "2B/0E",
    "identify_all": "2B/0E",
    "custom": "any",
    "other_unit": "03",
}
"""Kinds of steps and their function codes. ``identify_all`` follows the stream to its end; ``custom``
sends a PDU as it is; ``other_unit`` asks a unit that nobody answers for."""

READS: Final = frozenset({"read_coils", "read_discrete_inputs", "read_holding_registers", "read_input_registers"})
PLAIN: Final = READS | {
    "write_coil", "write_register", "write_coils", "write_registers", "read_write",
}  # fmt: skip
"""What nearly every stack has."""


@dataclass(frozen=True)
class Step:
    """One request.

    Args:
        kind: a key of ``CODES``.
        arguments: what the call takes, in its order.
        answer: what comes back.
        effect: the read that shows what a write did; it follows the write.
        forbidden: the specification allows no such request; a stack may refuse to send it.
        far: beyond the items that every server of the plan has.
    """

    kind: str
    arguments: tuple[Any, ...]
    answer: Any
    effect: Step | None = None
    forbidden: bool = False
    far: bool = False

    @property
    def call(self) -> list[Any]:
        """What a peer is given."""
        return [self.kind, *self.arguments]


def coils(address: int, count: int) -> list[int]:
    """What the device holds at first."""
    return [int(number % 3 == 0) for number in range(address, address + count)]


def discrete_inputs(address: int, count: int) -> list[int]:
    return [int(number % 5 < 2) for number in range(address, address + count)]


def holding_registers(address: int, count: int) -> list[int]:
    return [(number * 3 + 1) & 0xFFFF for number in range(address, address + count)]


def input_registers(address: int, count: int) -> list[int]:
    return [(number * 7 + 2) & 0xFFFF for number in range(address, address + count)]


def exception(code: int) -> dict[str, int]:
    return {"exception": code}


Deviations = Sequence[tuple[list[Any], Any]]
"""Calls, or the beginnings of calls, with what a stack makes of them instead."""


def steps_for(
    kinds: Collection[str], *, refuses: Collection[str] = (), far: bool = True, but: Deviations = ()
) -> list[Step]:
    """The steps of these kinds, the effects of writes between them.

    Args:
        kinds: those that a stack has.
        refuses: kinds of which it does not send what the specification forbids.
        far: whether the server has the items at the end of the address space.
        but: where this stack deviates.
    """
    unknown = set(kinds) - CODES.keys()
    assert not unknown, f"no such kinds: {unknown}"
    found = []
    for step in PLAN:
        if step.kind not in kinds or (step.far and not far):
            continue
        answer = REFUSED if step.forbidden and step.kind in refuses else step.answer
        found.append(replace(step, answer=answer))
        if step.effect and step.effect.kind in kinds:
            found.append(step.effect)
    return [_deviating(step, but) for step in found]


def _deviating(step: Step, but: Deviations) -> Step:
    for call, answer in but:
        if step.answer != REFUSED and step.call[: len(call)] == call:
            return replace(step, answer=answer)
    return step


def effects(kinds: Collection[str], but: Deviations = ()) -> list[Step]:
    """The reads that show what a run of these kinds has left."""
    return [_deviating(step.effect, but) for step in PLAN if step.effect and step.kind in kinds]


def _bits(count: int) -> list[int]:
    """Bits to write, neither what is there nor what repeats with a byte."""
    return [int(number % 7 in (0, 1, 4)) for number in range(count)]


def _registers(count: int) -> list[int]:
    return [(number * 12_345 + 54_321) & 0xFFFF for number in range(count)]


def _reads() -> Iterable[Step]:
    tables = {
        "read_coils": (coils, 2000),
        "read_discrete_inputs": (discrete_inputs, 2000),
        "read_holding_registers": (holding_registers, 125),
        "read_input_registers": (input_registers, 125),
    }
    for kind, (content, most) in tables.items():
        for address, count in ((19, 37), (107, 3), (0, 1), (0, most), (ITEMS - 1, 1), (ITEMS - most, most)):
            yield Step(kind, (address, count), content(address, count))
        yield Step(kind, (65_535, 1), content(65_535, 1), far=True)
        yield Step(kind, (65_535 - 99, 100), content(65_535 - 99, 100), far=True)
        for address, count in ((ITEMS, 1), (ITEMS - 1, 2), (30_000, 1)):
            yield Step(kind, (address, count), exception(2))
        for count in (0, most + 1):
            yield Step(kind, (0, count), exception(3), forbidden=True)


def _write(kind: str, arguments: Sequence[Any], *, of: str, at: int, then: list[int], answer: Any = True) -> Step:
    return Step(kind, tuple(arguments), answer, Step(of, (at, len(then)), then), far=at >= LAST_ITEMS[0])


def _writes() -> Iterable[Step]:
    bits, words = "read_coils", "read_holding_registers"
    many = _bits(1968)
    most = _registers(123)
    masked = (holding_registers(700, 1)[0] & 0x00F2) | (0x0F42 & ~0x00F2)
    yield _write("write_coil", (301, True), of=bits, at=300, then=[1, 1, 0])
    yield _write("write_coil", (303, False), of=bits, at=303, then=[0, 0, 0])
    yield _write("write_register", (400, 0x1234), of=words, at=399, then=[1198, 0x1234, 1204])
    yield _write("write_register", (403, 0xFFFF), of=words, at=403, then=[0xFFFF])
    yield _write("write_register", (65_535, 7), of=words, at=65_535, then=[7])
    yield _write("write_coils", (500, _bits(10)), of=bits, at=499, then=[0, *_bits(10), 1])
    yield _write("write_coils", (520, [1]), of=bits, at=519, then=[1, 1, 0])
    yield _write("write_coils", (2000, many), of=bits, at=2000, then=many)
    yield _write("write_registers", (600, [10, 258]), of=words, at=599, then=[1798, 10, 258, 1807])
    yield _write("write_registers", (1000, most), of=words, at=1000, then=most)
    yield _write("mask_write", (700, 0x00F2, 0x0F42), of=words, at=700, then=[masked, 2104])
    both = [2398, 7, 8, 2407]
    yield _write("read_write", (799, 4, 800, [7, 8]), of=words, at=799, then=both, answer=both)
    mixed = _registers(121) + holding_registers(1321, 4)
    yield _write("read_write", (1200, 125, 1200, _registers(121)), of=words, at=1200, then=mixed, answer=mixed)


def _writes_out_of_range() -> Iterable[Step]:
    """None of them may have a partial effect."""
    bits, words, no = "read_coils", "read_holding_registers", exception(2)
    last_bits, last_words = coils(ITEMS - 2, 2), holding_registers(ITEMS - 2, 2)
    yield _write("write_coil", (ITEMS, True), of=bits, at=ITEMS - 2, then=last_bits, answer=no)
    yield _write("write_register", (ITEMS, 1), of=words, at=ITEMS - 2, then=last_words, answer=no)
    yield _write("write_coils", (ITEMS - 2, [0, 0, 0]), of=bits, at=ITEMS - 2, then=last_bits, answer=no)
    yield _write("write_registers", (ITEMS - 2, [1, 2, 3]), of=words, at=ITEMS - 2, then=last_words, answer=no)
    yield _write("mask_write", (ITEMS, 0, 1), of=words, at=ITEMS - 2, then=last_words, answer=no)
    untouched = holding_registers(820, 1)
    yield _write("read_write", (ITEMS - 1, 2, 820, [5]), of=words, at=820, then=untouched, answer=no)


def _counters() -> Iterable[Step]:
    """What 08 reports depends on every request since the restart: two reads, one of them in vain."""
    yield Step("exception_status", (), EXCEPTION_STATUS)
    yield Step("diagnostic_register", (), DIAGNOSTIC_REGISTER)
    yield Step("query_data", ("a537",), "a537")
    yield Step("query_data", ("0123456789abcdef",), "0123456789abcdef")
    yield Step("restart", (True,), True)
    yield Step("read_holding_registers", (0, 2), [1, 4])
    yield Step("read_holding_registers", (ITEMS, 1), exception(2))
    yield Step("event_counter", (), [0, 1])
    yield Step("event_log", (), [0, 1, 4, "8040804180408000"])
    yield Step("bus_message_count", (), 5)
    yield Step("bus_comm_error_count", (), 0)
    yield Step("bus_exception_count", (), 1)
    yield Step("server_message_count", (), 8)
    yield Step("server_no_response_count", (), 0)
    yield Step("server_nak_count", (), 0)
    yield Step("server_busy_count", (), 0)
    yield Step("bus_overrun_count", (), 0)
    yield Step("clear_overrun", (), True)
    yield Step("clear_counters", (), True)
    yield Step("bus_message_count", (), 1)
    yield Step("ascii_delimiter", (0x0D,), True)
    yield Step("restart", (False,), True)
    for kind in ("listen_only", "iop_overrun_count", "modbus_plus"):
        yield Step(kind, (), exception(1))


def _objects(*numbers: int) -> dict[str, str]:
    return {str(number): OBJECTS[number] for number in numbers}


def _whole_device() -> Iterable[Step]:
    yield Step("server_id", (), [SERVER_ID.hex(), True])
    yield Step("write_file", ([[4, 7, "06af04be100d"]],), True)
    yield Step("read_file", ([[4, 7, 3]],), ["06af04be100d"])
    yield Step("write_file", ([[4, 1, "0dfe0020"], [3, 9_998, "33cd0040"]],), True)
    yield Step("read_file", ([[4, 0, 3], [3, 9_998, 2]],), ["00000dfe0020", "33cd0040"])
    yield Step("read_file", ([[3, 9_999, 2]],), exception(2), forbidden=True)
    yield Step("write_file", ([[99, 0, "0001"]],), exception(2))
    for address, values in QUEUES.items():
        yield Step("fifo", (address,), values if len(values) < 32 else exception(3))
    yield Step("fifo", (1,), exception(2))
    yield Step("identify", (1, 0), [False, 0, _objects(0, 1, 2)])
    yield Step("identify", (2, 0), [False, 0, _objects(*range(7))])
    yield Step("identify", (3, 0), [True, 0x81, _objects(*range(7), 0x80)])
    yield Step("identify", (3, 0x81), [False, 0, _objects(0x81)])
    yield Step("identify", (4, 0x80), [False, 0, _objects(0x80)])
    yield Step("identify", (4, 0x54), exception(2))
    yield Step("identify_all", (2,), _objects(*range(7)))
    yield Step("identify_all", (3,), _objects(*OBJECTS))
    yield Step("custom", ("0300000002",), "030400010004")
    yield Step("custom", ("410102",), exception(1))
    yield Step("custom", ("2b0d001f1005000000",), exception(1))
    yield Step("custom", ("03000000",), exception(3))
    yield Step("other_unit", (240, 0, 1), exception(0x0B))


PLAN: Final = (*_reads(), *_writes(), *_writes_out_of_range(), *_counters(), *_whole_device())
