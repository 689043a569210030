"""Blocking clients on serial lines, which are pseudo-terminals here."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep

import pytest

from everbus.client.pacing import QUIET_S, TURNAROUND_S, least_spacing_s
from everbus.client.retry import Backoff
from everbus.errors import ClientClosedError, ConnectError, ConnectionLostError, ModbusError, ModbusTimeoutError
from everbus.protocol.framing.rtu import RtuFramer
from everbus.protocol.pdu.registers import WriteSingleRegisterRequest
from everbus.sync.client import Client
from everbus.sync.pool import Pool
from everbus.sync.unit import Requests
from tests.ports import Device, plugged_in


def value(unit: int, address: int) -> int:
    return unit << 8 | address


def answer_to(unit: int, pdu: bytes) -> bytes:
    """What a device with ``value`` in its registers answers."""
    return bytes((3, 2)) + value(unit, pdu[2]).to_bytes(2, "big") if pdu[0] == 3 else pdu


class Units:
    """The devices of a line; each answers as late as it is told to."""

    def __init__(self, line: Device, lateness_s: Callable[[int], float | None]) -> None:
        self._line = line
        self._lateness_s = lateness_s
        self._framer = RtuFramer("request")
        self._due: list[tuple[float, bytes]] = []
        self.asked: list[tuple[float, int]] = []
        """When, and which unit."""

    def run(self, stop: int) -> None:
        """Answer until something can be read there, or nobody has the port open any more."""
        with suppress(OSError):
            while True:
                within_s = max(0.0, self._due[0][0] - monotonic()) if self._due else None
                ready, _, _ = select.select([self._line.line, stop], [], [], within_s)
                if stop in ready:
                    return
                if ready:
                    self._take()
                while self._due and self._due[0][0] <= monotonic():
                    self._line.send(self._due.pop(0)[1])

    def _take(self) -> None:
        for unit, pdu, _ in self._framer.feed(os.read(self._line.line, 512)):
            self.asked.append((monotonic(), unit))
            late_s = self._lateness_s(unit)
            if late_s is not None:
                self._due.append((monotonic() + late_s, RtuFramer("response").encode(unit, answer_to(unit, pdu))))
                self._due.sort()


@contextmanager
def devices(line: Device, lateness_s: Callable[[int], float | None] = lambda _: 0.0) -> Iterator[Units]:
    """Devices that answer, each as late as it is told to, None: not at all. A client must have the port open."""
    units = Units(line, lateness_s)
    ours, theirs = os.pipe()
    thread = threading.Thread(target=units.run, args=(ours,))
    thread.start()
    try:
        yield units
    finally:
        os.write(theirs, b"!")
        thread.join()
        os.close(ours)
        os.close(theirs)


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Device]:
    with plugged_in(tmp_path, "ttyUSB0") as device:
        yield device


def test_threads_share_a_line(line: Device) -> None:
    with Client(line.endpoint()) as client, devices(line) as units, ThreadPoolExecutor(5) as threads:
        got = threads.map(lambda unit: client.unit(unit).read_holding_registers(unit, 1), range(1, 11))
        assert list(got) == [[value(unit, unit)] for unit in range(1, 11)]
        client.unit(1).write_register(3, 7)
        assert client.statistics().connects == 1
        assert len(units.asked) == 11


def test_between_an_answer_and_a_request_the_line_is_silent(line: Device) -> None:
    slow = line.endpoint(baudrate=2400)
    with Client(slow) as client, devices(line) as units:
        for _ in range(3):
            client.unit(1).read_holding_registers(0, 1)
        times = [at for at, _ in units.asked]
        assert times[-1] - times[0] > 2 * least_spacing_s(slow) > 0.03


def test_a_line_with_a_silent_unit_stays_open_and_is_left_quiet(line: Device) -> None:
    with (
        Client(line.endpoint(), timeout_s=0.15, retries=0) as client,
        devices(line, lambda unit: None if unit == 2 else 0.0) as units,
    ):
        number = _descriptor(client)
        with pytest.raises(ModbusTimeoutError, match="unit 2"):
            client.unit(2).read_holding_registers(0, 1)
        ended = monotonic()
        assert client.unit(1).read_holding_registers(7, 1) == [value(1, 7)]
        assert units.asked[-1][0] - ended > 0.9 * QUIET_S
        assert client.statistics().replaced == {"abandoned": 1}
        assert _descriptor(client) == number


def _descriptor(client: Client) -> int:
    link = client._driver._link
    assert link is not None
    return link._channel.fileno()


def test_short_deadlines_come_through_too(line: Device) -> None:
    client = Client(line.endpoint(), timeout_s=0.04, retries=0)
    with client, devices(line, lambda unit: None if unit == 2 else 0.0):
        with pytest.raises(ModbusTimeoutError, match="unit 2"):
            client.unit(2).read_holding_registers(0, 1)
        with pytest.raises(ModbusTimeoutError, match="has not been quiet"):
            client.unit(1).read_holding_registers(0, 1)
        sleep(QUIET_S)
        assert client.unit(1).read_holding_registers(0, 1) == [value(1, 0)]


@pytest.mark.slow
@pytest.mark.requirement("SL-2.4.1-timer")
@pytest.mark.parametrize("pooled", [False, True])
def test_ten_late_answers_give_no_wrong_value(line: Device, pooled: bool) -> None:
    late = iter([0.15] * 10)
    options = {"timeout_s": 0.1, "retries": 0}
    with Pool(**options) as pool, Client(line.endpoint(), **options) as client:  # type: ignore[arg-type]
        unit: Requests = client.unit(1)
        if pooled:
            client.close()
            unit = pool.unit(line.endpoint())
            with pool.client(line.endpoint()):
                pass  # the port is open
        with devices(line, lambda _: next(late, 0.0)) as units:
            right = 0
            while right < 10:
                address = len(units.asked) % 200
                with suppress(ModbusTimeoutError):
                    assert unit.read_holding_registers(address, 1) == [value(1, address)]
                    right += 1
        if pooled:
            assert pool.statistics().opened == 1
        assert next(late, None) is None


def test_an_unplugged_port_is_opened_again_when_it_is_back(line: Device) -> None:
    with Client(line.endpoint(), timeout_s=0.5, retries=0) as client:
        with devices(line):
            assert client.unit(1).read_holding_registers(3, 1) == [value(1, 3)]
        line.unplug()
        with pytest.raises((ConnectError, ConnectionLostError), match="ttyUSB0"):
            client.unit(1).write_register(0, 1)
        line.plug_in()
        client.connect()
        with devices(line):
            assert client.unit(1).read_holding_registers(4, 1) == [value(1, 4)]
        assert client.statistics().lost == 1


@pytest.mark.slow
def test_three_hundred_unplugs_leave_the_descriptors_of_the_start(line: Device) -> None:
    with Client(line.endpoint(), timeout_s=0.2, retries=0) as client:
        client._driver._backoff = Backoff(lambda: 0.0, most_s=0.001)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(300):
            line.unplug()
            with pytest.raises((ConnectError, ConnectionLostError)):
                client.unit(1).write_register(0, 1)
            line.plug_in()
            client.connect()
        assert len(os.listdir("/proc/self/fd")) == before
        assert client.statistics().connects == 301


@pytest.mark.requirement("SL-2.4.1-turnaround")
def test_after_a_broadcast_every_device_has_its_time(line: Device) -> None:
    with Client(line.endpoint()) as client, devices(line, lambda unit: 0.0 if unit else None) as units:
        client.broadcast(WriteSingleRegisterRequest(0, 1))
        client.unit(1).read_holding_registers(0, 1)
        assert units.asked[1][0] - units.asked[0][0] > 0.9 * TURNAROUND_S


def test_a_port_that_is_not_there_says_what_to_try(tmp_path: Path) -> None:
    with pytest.raises(ConnectError, match=r"ttyUSB7: .* is it plugged in\?"):
        Client(f"rtu://{tmp_path}/ttyUSB7", timeout_s=0.2).connect()


def test_a_port_has_one_owner(line: Device) -> None:
    with Client(line.endpoint()), pytest.raises(ConnectError, match="a port has one owner"):
        Client(line.endpoint()).connect()


def test_to_close_ends_what_another_thread_waits_for(line: Device) -> None:
    client = Client(line.endpoint(), timeout_s=30.0)
    client.connect()
    with devices(line, lambda _: None) as units, ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(client.unit(1).read_holding_registers, 0, 1)
        end = monotonic() + 5.0
        while not units.asked and monotonic() < end:
            sleep(0.001)
        client.close()
        assert isinstance(waiting.exception(2.0), ClientClosedError)


def test_a_child_process_leaves_the_port_to_its_parent(line: Device) -> None:
    with Client(line.endpoint(), retries=0) as client, devices(line):
        assert client.unit(1).read_holding_registers(1, 1) == [value(1, 1)]
        child = os.fork()
        if child == 0:
            try:
                client.unit(1).read_holding_registers(1, 1)
                os._exit(0)
            except ModbusError as error:
                os._exit(7 if "one owner" in str(error) else 1)
            except BaseException:  # noqa: BLE001  a child of a test must not run the test's end
                os._exit(2)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 7
        assert client.unit(1).read_holding_registers(2, 1) == [value(1, 2)]


def test_ascii_and_our_own_echo(line: Device) -> None:
    with Client(line.endpoint("ascii", echo=True)) as client, ThreadPoolExecutor(1) as threads:
        reading = threads.submit(client.unit(17).read_holding_registers, 0, 1)
        select.select([line.line], [], [])
        asked = os.read(line.line, 17)
        assert asked == b":110300000001EB\r\n"
        line.send(asked)
        sleep(0.005)
        line.send(b":110302002AC0\r\n")
        assert reading.result() == [42]
