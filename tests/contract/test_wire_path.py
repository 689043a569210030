"""The short way of a local device is the long way, only shorter."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from everbus.protocol.framing.base import Frame
from everbus.protocol.pdu.table import AnyRequest
from everbus.service.bank import Bank, TableName
from everbus.service.context import ConnectionInfo, RequestContext
from everbus.service.local import LocalDevice
from everbus.service.memory import TableSpec
from everbus.service.pipeline import Pipeline
from everbus.service.units import Units

CONNECTION = ConnectionInfo(1)
MOST = {1: 2000, 2: 2000, 3: 125, 4: 125}


class Asked:
    """A policy that allows everything, but wants to be asked: it closes the short way."""

    unconditional = False

    def allows(self, request: AnyRequest, context: RequestContext) -> bool:
        return True


def built(spec: TableSpec, seed: int) -> LocalDevice:
    """A device whose items differ from their neighbours."""
    bank = Bank(coils=spec, discrete_inputs=spec, input_registers=spec, holding_registers=spec)
    for name, step in zip(TableName, (3, 5, 7, 11), strict=True):
        data = bank.table(name).data
        pattern = bytes((seed + step * number) & 0xFF for number in range(256))
        data[:] = (pattern * (len(data) // 256 + 1))[: len(data)]
    return LocalDevice(bank)


@st.composite
def ranges(draw: st.DrawFn) -> TableSpec:
    """Few items, few ranges with holes, or ranges at the end of the table."""
    kind = draw(st.integers(0, 2))
    if kind == 0:
        return draw(st.integers(0, 2100))
    base = 0 if kind == 1 else 65536 - 260
    parts = st.builds(
        lambda start, count: (base + start, min(count, 260 - start)), st.integers(0, 250), st.integers(1, 260)
    )
    return draw(st.lists(parts, max_size=4))


def near(code: int) -> st.SearchStrategy[bytes]:
    """Reads of five bytes, legal and illegal, around the places where ranges begin and end."""
    addresses = st.integers(0, 270) | st.integers(65536 - 270, 65535) | st.integers(0, 65535)
    quantities = st.integers(0, 40) | st.integers(MOST[code] - 3, MOST[code] + 3) | st.integers(0, 65535)
    return st.builds(
        lambda address, quantity: bytes((code,)) + address.to_bytes(2, "big") + quantity.to_bytes(2, "big"),
        addresses,
        quantities,
    )


reads = st.sampled_from(sorted(MOST)).flatmap(near)
pdus = reads | st.binary(min_size=1, max_size=12) | st.tuples(reads, st.binary(max_size=3)).map(b"".join)


@pytest.mark.slow
@given(spec=ranges(), seed=st.integers(0, 255), asked=st.lists(pdus, min_size=1, max_size=8))
@example(
    spec=None, seed=1, asked=[bytes.fromhex("01FFFF0001"), bytes.fromhex("03FFFF0001"), bytes.fromhex("01F83007D0")]
)
@settings(deadline=None, max_examples=300)
def test_the_short_way_gives_what_the_long_way_gives(spec: TableSpec, seed: int, asked: list[bytes]) -> None:
    short, long = built(spec, seed), built(spec, seed)
    long_way = Pipeline(Units(long), Asked())
    both_ways = Pipeline(Units(short))
    for pdu in asked:
        before = short.diagnostics.messages
        wire = short.answer_wire(pdu)
        expected = long_way.answer(Frame(1, pdu, 1), CONNECTION)
        if wire is not None:
            assert wire == expected
            assert type(wire) is bytes
        else:
            assert short.diagnostics.messages == before
            assert both_ways.answer(Frame(1, pdu, 1), CONNECTION) == expected
        assert short.diagnostics.log == long.diagnostics.log
        assert short.diagnostics.messages == long.diagnostics.messages
        assert short.diagnostics.events == long.diagnostics.events


@pytest.mark.slow
@given(spec=ranges(), seed=st.integers(0, 255), data=st.data())
@settings(deadline=None, max_examples=200)
def test_the_short_way_is_open_to_each_plain_legal_read(spec: TableSpec, seed: int, data: st.DataObject) -> None:
    device = built(spec, seed)
    code = data.draw(st.sampled_from(sorted(MOST)))
    existing = device.bank.table(TableName.COILS).ranges
    if not existing:
        return
    part = data.draw(st.sampled_from(existing))
    address = data.draw(st.integers(part.address, part.end - 1))
    quantity = data.draw(st.integers(1, min(MOST[code], part.end - address)))
    pdu = bytes((code,)) + address.to_bytes(2, "big") + quantity.to_bytes(2, "big")
    assert device.answer_wire(pdu) is not None


@given(pdu=reads)
@settings(deadline=None)
def test_the_short_way_is_closed_to_a_read_of_an_item_that_does_not_exist(pdu: bytes) -> None:
    assert (
        LocalDevice(Bank(coils=0, discrete_inputs=0, input_registers=0, holding_registers=0)).answer_wire(pdu) is None
    )
