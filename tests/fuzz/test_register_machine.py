"""The four tables against a plain dict, by every way in: program, handler, pipeline, session (V17, spec.md 1.4).

Answers equal the model's; a refused write changes nothing; each write is told once to whoever listens.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from struct import pack, unpack

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from everbus.errors import ExceptionResponseError, PduError
from everbus.observe import EventKind
from everbus.protocol.framing.base import Frame
from everbus.protocol.framing.mbap import HEADER_BYTES, MbapFramer
from everbus.protocol.pdu.base import Response
from everbus.protocol.pdu.table import PUBLIC
from everbus.protocol.server_session import ServerSession
from everbus.service.bank import Bank, TableName, Write
from everbus.service.context import ConnectionInfo, RequestContext
from everbus.service.local import LocalDevice
from everbus.service.pipeline import Pipeline
from everbus.service.units import Units
from everbus.testing import RecordingObserver
from tests.fuzz.budget import budget
from tests.fuzz.serving import AllowAllSlowly

BITS = [(0, 16), (20, 13), (1000, 2100), (65500, 36)]
REGISTERS = [(0, 16), (20, 13), (1000, 140), (65500, 36)]
RANGES = {
    TableName.COILS: BITS,
    TableName.DISCRETE_INPUTS: BITS,
    TableName.INPUT_REGISTERS: REGISTERS,
    TableName.HOLDING_REGISTERS: REGISTERS,
}
READ_BY = {
    1: (TableName.COILS, 2000),
    2: (TableName.DISCRETE_INPUTS, 2000),
    3: (TableName.HOLDING_REGISTERS, 125),
    4: (TableName.INPUT_REGISTERS, 125),
}
CONTEXT = RequestContext(ConnectionInfo(1, "192.0.2.1:1"), 1, 7)

Told = tuple[TableName, int, list[int], bool]
"""A write: where, what, and whether a client asked for it."""


class Refused(Exception):
    """The model's answer is an exception."""


class Model:
    """What the specification says, in the plainest way."""

    def __init__(self) -> None:
        self.items = {
            name: {at: 0 for first, count in ranges for at in range(first, first + count)}
            for name, ranges in RANGES.items()
        }
        self.told: list[Told] = []

    def read(self, name: TableName, address: int, count: int) -> list[int]:
        self.require(name, address, count)
        return [self.items[name][at] for at in range(address, address + count)]

    def require(self, name: TableName, address: int, count: int) -> None:
        if count < 1 or any(at not in self.items[name] for at in range(address, address + count)):
            raise Refused(2)

    def write(self, name: TableName, address: int, values: Sequence[int], by_client: bool) -> None:
        self.require(name, address, len(values))
        self.items[name].update(enumerate(values, address))
        self.told.append((name, address, list(values), by_client))

    def answer(self, pdu: bytes) -> bytes:
        """What a server answers to a request whose byte count is true."""
        try:
            return self._answer(pdu)
        except Refused as refused:
            return bytes((pdu[0] | 0x80, refused.args[0]))

    def _answer(self, pdu: bytes) -> bytes:
        code, first, second = unpack(">BHH", pdu[:5])
        if code in READ_BY:
            name, most = READ_BY[code]
            demand(1 <= second <= most)
            values = self.read(name, first, second)
            data = packed_bits(values) if code < 3 else pack(f">{second}H", *values)
            return bytes((code, len(data))) + data
        if code in (5, 6):
            demand(code == 6 or second in (0, 0xFF00))
            name, value = (TableName.COILS, second >> 15) if code == 5 else (TableName.HOLDING_REGISTERS, second)
            self.write(name, first, [value], by_client=True)
            return pdu
        if code == 22:
            (current,) = self.read(TableName.HOLDING_REGISTERS, first, 1)
            (mask,) = unpack(">H", pdu[5:])
            self.write(TableName.HOLDING_REGISTERS, first, [current & second | mask & ~second], by_client=True)
            return pdu
        if code == 23:
            return self._read_write(pdu)
        data = pdu[6:]
        if code == 15:
            demand(1 <= second <= 1968 and len(data) == (second + 7) // 8)
            self.write(TableName.COILS, first, [data[at // 8] >> at % 8 & 1 for at in range(second)], by_client=True)
        else:
            demand(1 <= second <= 123 and len(data) == 2 * second)
            self.write(TableName.HOLDING_REGISTERS, first, unpack(f">{second}H", data), by_client=True)
        return pdu[:5]

    def _read_write(self, pdu: bytes) -> bytes:
        read_at, read_count, write_at, write_count = unpack(">HHHH", pdu[1:9])
        data = pdu[10:]
        demand(1 <= read_count <= 125 and 1 <= write_count <= 121 and len(data) == 2 * write_count)
        name = TableName.HOLDING_REGISTERS
        self.require(name, read_at, read_count)
        self.write(name, write_at, unpack(f">{write_count}H", data), by_client=True)
        return bytes((23, 2 * read_count)) + pack(f">{read_count}H", *self.read(name, read_at, read_count))


def demand(legal: bool) -> None:
    if not legal:
        raise Refused(3)


def packed_bits(values: Sequence[int]) -> bytes:
    data = bytearray((len(values) + 7) // 8)
    for at, value in enumerate(values):
        data[at // 8] |= value << at % 8
    return bytes(data)


# --- what is drawn ------------------------------------------------------------------------------

words = st.integers(0, 0xFFFF)
addresses = st.builds(
    lambda place, by: max(0, min(0xFFFF, place + by)),
    st.sampled_from([0, 16, 20, 33, 1000, 1140, 3100, 65500, 65535]),
    st.integers(-5, 5),
)
counts = (
    st.integers(1, 6)
    | st.integers(0, 40)
    | st.sampled_from([121, 122, 123, 124, 125, 126, 1968, 1969, 2000, 2001])
    | words
)


def block(code: int, address: int, quantity: int, size: int, by: int) -> bytes:
    """A write of a range; its data has ``by`` bytes more than the quantity takes."""
    data = bytes((size + by + at * 37) & 0xFF for at in range(min(246, max(0, size + by))))
    return pack(">BHHB", code, address, quantity, len(data)) + data


misfits = st.sampled_from([0, 0, 0, 0, 0, 0, -1, 1, 2])
reads = st.builds(lambda *of: pack(">BHH", *of), st.sampled_from([1, 2, 3, 4]), addresses, counts)
singles = st.builds(
    lambda *of: pack(">BHH", *of), st.sampled_from([5, 6]), addresses, st.sampled_from([0, 0xFF00, 0xFF01]) | words
)
masks = st.builds(lambda *of: pack(">BHHH", 22, *of), addresses, words, words)
coils = st.builds(
    lambda address, count, by: block(15, address, count, (count + 7) // 8, by), addresses, counts, misfits
)
registers = st.builds(lambda address, count, by: block(16, address, count, 2 * count, by), addresses, counts, misfits)
few = st.integers(1, 4)
small = st.builds(lambda address, count: block(16, address, count, 2 * count, 0), addresses, few)
both = st.builds(
    lambda read_at, count, written: pack(">BHH", 23, read_at, count) + written[1:],
    addresses,
    few | counts,
    small | registers,
).filter(lambda pdu: len(pdu) <= 253)
requests = st.one_of(reads, singles, masks, coils, registers, both, both)
writes = st.one_of(
    st.tuples(
        st.sampled_from([TableName.COILS, TableName.DISCRETE_INPUTS]),
        addresses,
        st.lists(st.integers(0, 1), max_size=20),
    ),
    st.tuples(
        st.sampled_from([TableName.INPUT_REGISTERS, TableName.HOLDING_REGISTERS]),
        addresses,
        st.lists(words, max_size=20),
    ),
)
WAYS = ("short", "long", "session", "wire", "handler")


class Registers(RuleBasedStateMachine):
    """One device and its model."""

    @initialize()
    def build(self) -> None:
        self.model = Model()
        self.observer = RecordingObserver()
        self.bank = Bank(coils=BITS, discrete_inputs=BITS, input_registers=REGISTERS, holding_registers=REGISTERS)
        self.device = LocalDevice(self.bank)
        self.device.attach(threading.RLock(), self.observer)
        self.short = Pipeline(Units(self.device))
        self.long = Pipeline(Units(self.device), AllowAllSlowly())
        self.session = ServerSession(MbapFramer())
        self.told: list[Told] = []
        self.failures = 0
        self.forget: Callable[[], None] | None = None
        self.bank.on_write(lambda write: self.told.append(told(write)))

    @rule(pdu=requests, way=st.sampled_from(WAYS), place=st.integers(0, 300))
    def ask(self, pdu: bytes, way: str, place: int) -> None:
        before = len(self.model.told)
        expected = self.model.answer(pdu)
        self._expect_failures(before)
        assert self._answer(pdu, way, place) == expected, f"{pdu.hex()} by {way}"

    def _answer(self, pdu: bytes, way: str, place: int) -> bytes:
        frame = Frame(1, pdu, 7)
        if way == "session":
            wire = MbapFramer().encode(*frame)
            frames = self.session.receive(wire[:place]) + self.session.receive(wire[place:])
            assert frames == [frame]
            answer = self.short.answer(frame, CONTEXT.connection)
            assert isinstance(answer, bytes)
            return self.session.reply(1, answer, 7)[HEADER_BYTES:]
        if way in ("short", "long"):
            answer = (self.short if way == "short" else self.long).answer(frame, CONTEXT.connection)
            assert isinstance(answer, bytes)
            return answer
        return (self.device.answer_wire(pdu) if way == "wire" else None) or self._handle(pdu)

    def _handle(self, pdu: bytes) -> bytes:
        try:
            response = self.device.handle(PUBLIC.decode_request(pdu), CONTEXT)
        except PduError as error:
            return bytes((pdu[0] | 0x80, error.exception_code))
        except ExceptionResponseError as error:
            return bytes((pdu[0] | 0x80, error.code))
        assert isinstance(response, Response)
        return response.encode()

    @rule(name=st.sampled_from(list(TableName)), address=addresses, count=st.integers(0, 300))
    def look(self, name: TableName, address: int, count: int) -> None:
        try:
            expected = self.model.read(name, address, count)
        except Refused:
            with pytest.raises(ExceptionResponseError) as refusal:
                reader(self.bank, name)(address, count)
            assert refusal.value.code == 2
            return
        assert reader(self.bank, name)(address, count) == expected

    @rule(write=writes)
    def change(self, write: tuple[TableName, int, list[int]]) -> None:
        self._change(*write)

    @rule(several=st.lists(writes, max_size=5))
    def change_at_once(self, several: list[tuple[TableName, int, list[int]]]) -> None:
        with self.bank.transaction() as bank:
            assert bank is self.bank
            for write in several:
                self._change(*write)

    def _change(self, name: TableName, address: int, values: list[int]) -> None:
        before = len(self.model.told)
        try:
            self.model.write(name, address, values, by_client=False)
        except Refused:
            with pytest.raises(ExceptionResponseError) as refusal:
                writer(self.bank, name)(address, values)
            assert refusal.value.code == 2
            return
        self._expect_failures(before)
        writer(self.bank, name)(address, values)

    @precondition(lambda self: self.forget is None)
    @rule()
    def listen_badly(self) -> None:
        self.forget = self.bank.on_write(fail)

    @precondition(lambda self: self.forget is not None)
    @rule()
    def stop_listening(self) -> None:
        assert self.forget is not None
        self.forget()
        self.forget = None

    def _expect_failures(self, before: int) -> None:
        if self.forget is not None:
            self.failures += len(self.model.told) - before

    @invariant()
    def every_item_equals_the_model(self) -> None:
        for name, ranges in RANGES.items():
            for address, count in ranges:
                assert reader(self.bank, name)(address, count) == self.model.read(name, address, count), name

    @invariant()
    def every_write_was_told_once(self) -> None:
        assert self.told == self.model.told
        assert self.observer.reasons(EventKind.HANDLER_FAILED) == ["write_callback"] * self.failures
        assert len(self.observer.events) == self.failures


def told(write: Write) -> Told:
    assert write.context in (None, CONTEXT)
    assert len(write.values) == write.count
    return write.table, write.address, list(write.values), write.context is not None


def fail(write: Write) -> None:
    raise RuntimeError("a callback of somebody else's")


def reader(bank: Bank, name: TableName) -> Callable[[int, int], Sequence[int]]:
    found: Callable[[int, int], Sequence[int]] = getattr(bank, f"read_{name}")
    return found


def writer(bank: Bank, name: TableName) -> Callable[[int, Sequence[int]], None]:
    found: Callable[[int, Sequence[int]], None] = getattr(bank, f"write_{name}")
    return found


def test_a_device_is_its_model_whatever_is_done_by_whichever_way() -> None:
    run_state_machine_as_test(Registers, settings=budget(40, 30))
