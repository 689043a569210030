"""Group G, the port itself: unplugged and back, away at start, held by somebody else (rows G1 to G3)."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from everbus import Bank, Server
from everbus.aio.serial import SerialOptions
from everbus.observe import EventKind
from everbus.protocol.framing.rtu import RtuFramer
from everbus.resources import descriptor_count
from everbus.testing import RecordingObserver
from tests.lifecycle.support import measured
from tests.lifecycle.wire import READ, Wire, until
from tests.ports import Device, plugged_in

UNPLUGS = 300
QUICK = SerialOptions(most_backoff_s=0.01)
PATIENT = SerialOptions(most_backoff_s=0.01, wait_for_port=True)
ZERO = bytes.fromhex("03020000")
encode = RtuFramer("request").encode


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    with plugged_in(tmp_path) as found:
        yield found


async def answers(device: Device) -> None:
    device.send(encode(1, READ))
    assert await device.receive(7) == encode(1, ZERO)


@pytest.mark.slow
async def test_g1_300_unplugs_end_with_the_descriptors_of_the_start(device: Device) -> None:
    observer = RecordingObserver()
    async with Server(Bank(), device.endpoint(), serial=QUICK, observer=observer) as server:
        await answers(device)
        at_first = most = descriptor_count()
        for count in range(UNPLUGS):
            failed = len(observer.of(EventKind.PORT_FAILED))
            device.unplug()
            if count % 3:  # it stays away for some tries; else it is back before anybody has looked
                await until(lambda: len(observer.of(EventKind.PORT_FAILED)) > failed + count % 3)  # noqa: B023
                assert descriptor_count() == at_first - 2  # the port, and our end of the line
            device.plug_in()
            while server.statistics().relistens <= count:
                await asyncio.sleep(0.001)
                most = max(most, descriptor_count())
            await answers(device)
        assert descriptor_count() == at_first
        assert most <= at_first
        assert server.statistics().requests == UNPLUGS + 1
    lost, opened = observer.of(EventKind.PORT_LOST), observer.reasons(EventKind.PORT_OPENED)
    assert (len(lost), opened) == (UNPLUGS, ["start"] + ["again"] * UNPLUGS)
    measured("G1", unplugs=UNPLUGS, failed=len(observer.of(EventKind.PORT_FAILED)), descriptors=at_first, most=most)


async def test_g2_a_port_that_is_missing_at_start_keeps_nobody_waiting(device: Device) -> None:
    device.unplug()
    observer = RecordingObserver()
    endpoints = ("tcp://127.0.0.1:0", device.endpoint())
    async with Server(Bank(), *endpoints, serial=PATIENT, observer=observer) as server:
        assert server.statistics().listeners == 1
        async with await Wire.to(server.endpoints[0]) as wire:
            assert await wire.ask(READ) == ZERO
        assert set(observer.reasons(EventKind.PORT_FAILED)) == {"ENOENT"}
        device.plug_in()
        await until(lambda: server.statistics().listeners == 2)
        await answers(device)


async def test_g3_a_port_that_somebody_holds_is_served_once_it_is_free(device: Device) -> None:
    observer = RecordingObserver()
    holder = os.open(device.path, os.O_RDWR | os.O_NOCTTY)
    try:
        fcntl.flock(holder, fcntl.LOCK_EX)
        async with Server(Bank(), device.endpoint(), serial=PATIENT, observer=observer) as server:
            (event,) = observer.of(EventKind.PORT_FAILED)[:1]
            assert f"(process {os.getpid()}); a port has one owner" in event.detail
            assert event.reason == "EBUSY"
            fcntl.flock(holder, fcntl.LOCK_UN)
            await until(lambda: server.statistics().listeners == 1)
            await answers(device)
    finally:
        os.close(holder)
