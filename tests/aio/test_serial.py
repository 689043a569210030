from __future__ import annotations

import asyncio
import os
import termios
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic

import pytest

from everbus.aio.serial import SerialListener, SerialOptions
from everbus.aio.statistics import SerialStatistics
from everbus.client.endpoint import Endpoint, SerialSettings, parse_endpoint
from everbus.errors import ConfigurationError, ConnectError, ServerStateError
from everbus.limits import Limits
from everbus.observe import Event, EventKind
from everbus.ports import Port, open_port
from everbus.protocol.framing.ascii import AsciiFramer
from everbus.protocol.framing.rtu import RtuFramer
from everbus.protocol.pdu.registers import ReadHoldingRegistersResponse
from everbus.protocol.pdu.table import AnyRequest
from everbus.service.bank import Bank
from everbus.service.context import RequestContext
from everbus.service.handler import Answer
from everbus.service.local import LocalDevice
from everbus.service.multidrop import Multidrop
from everbus.service.pipeline import Pipeline
from everbus.service.units import UnitSource, as_units
from everbus.testing import RecordingObserver
from tests.ports import Device, Driver, plugged_in

READ = bytes.fromhex("0300000001")
ZERO = bytes.fromhex("03020000")
WRITE = bytes.fromhex("0600001234")
QUICK = SerialOptions(most_backoff_s=0.02)
PATIENT = SerialOptions(most_backoff_s=0.02, wait_for_port=True)
encode = RtuFramer("request").encode


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    with plugged_in(tmp_path) as found:
        yield found


def new_listener(
    endpoint: Endpoint,
    devices: UnitSource | None = None,
    options: SerialOptions = QUICK,
    observer: RecordingObserver | None = None,
) -> SerialListener:
    units = as_units(devices or Bank())
    heard = observer or RecordingObserver()
    pipeline = Pipeline(units, observer=heard)
    return SerialListener(endpoint, pipeline, Multidrop(pipeline, units), Limits(), heard, options=options)


@asynccontextmanager
async def listening(
    endpoint: Endpoint,
    devices: UnitSource | None = None,
    options: SerialOptions = QUICK,
    observer: RecordingObserver | None = None,
) -> AsyncIterator[SerialListener]:
    listener = new_listener(endpoint, devices, options, observer)
    await listener.open()
    try:
        yield listener
    finally:
        await listener.close()


async def until(condition: Callable[[], object], within_s: float = 5.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110  of a descriptor that comes and goes
            await asyncio.sleep(0.002)


async def ask(device: Device, pdu: bytes = READ, unit: int = 1, size: int = 7) -> bytes:
    device.send(encode(unit, pdu))
    return await device.receive(size)


def opened_by_us(device: Device) -> int:
    """How many descriptors of this process lead to the device."""
    target = os.path.realpath(device.path)
    found = 0
    for number in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{number}") == target
        except FileNotFoundError:  # the one that listed them
            continue
    return found


# --- a port that is there ---------------------------------------------------------------------


@pytest.mark.requirement("SL-2.2-broadcast", "SL-2.1-silence")
async def test_it_answers_on_its_port(device: Device) -> None:
    observer = RecordingObserver()
    async with listening(device.endpoint(), {1: LocalDevice(), 2: LocalDevice()}, observer=observer) as listener:
        assert await ask(device) == encode(1, ZERO)
        device.send(encode(0, WRITE) + encode(9, READ) + encode(9, ZERO))
        await device.silence()
        assert await ask(device, unit=2) == encode(2, bytes.fromhex("03021234"))
        assert listener.statistics() == SerialStatistics(
            state="open",
            opened=1,
            lost=0,
            failed=0,
            problem="",
            requests=3,
            broadcasts=1,
            answers=2,
            unanswered={},
            foreign=2,
            checksum_errors=0,
            malformed=0,
            discarded_bytes=0,
            echo_errors=0,
            overruns=0,
        )
        assert (listener.listening, listener.requests, listener.reopened) == (True, 3, 0)
        assert opened_by_us(device) == 1
        assert os.readlink(f"/proc/self/fd/{listener.fileno()}") == os.readlink(device.path)
        assert repr(listener) == f"<SerialListener {device.endpoint()} open>"
    assert (listener.statistics().state, listener.fileno(), listener.listening) == ("closed", -1, False)
    assert opened_by_us(device) == 0
    assert [event.kind for event in observer.events] == [EventKind.PORT_OPENED]
    assert observer.reasons(EventKind.PORT_OPENED) == ["start"]


@pytest.mark.requirement("SL-2.5.2-character")
async def test_ascii_has_its_own_framing(device: Device) -> None:
    ascii_encode = AsciiFramer().encode
    async with listening(device.endpoint("ascii")):
        device.send(b"noise" + ascii_encode(1, READ))
        assert await device.receive(15) == ascii_encode(1, ZERO)


@pytest.mark.requirement("SL-2.5.2.1-pause-time")
async def test_the_pause_inside_an_ascii_frame_can_be_set(device: Device) -> None:
    frame = AsciiFramer().encode(1, READ)
    async with listening(device.endpoint("ascii"), options=SerialOptions(ascii_gap_s=0.02)) as listener:
        device.send(frame[:5])
        await until(lambda: listener.statistics().malformed)
        device.send(frame[5:])
        await device.silence()
        device.send(frame)
        assert await device.receive(15) == AsciiFramer().encode(1, ZERO)
    assert SerialOptions().ascii_gap_s == 1.0


@pytest.mark.requirement("SL-2.5.1.1-before-sending", "SL-2.5.1-character")
async def test_an_answer_comes_after_3_5_characters_of_silence(device: Device) -> None:
    async with listening(parse_endpoint(f"rtu://{device.path}?baudrate=1200")):
        began = monotonic()
        assert await ask(device) == encode(1, ZERO)
        assert monotonic() - began >= 3.5 * 11 / 1200
    async with listening(device.endpoint(baudrate=1200), options=SerialOptions(turnaround_s=0.0)):
        began = monotonic()
        assert await ask(device) == encode(1, ZERO)
        assert monotonic() - began < 3.5 * 11 / 1200


async def test_its_own_echo_is_not_heard(device: Device) -> None:
    device_here = LocalDevice()
    async with listening(device.endpoint(echo=True), {1: device_here}) as listener:
        for count in range(1, 4):
            answer = await ask(device, WRITE, size=8)
            assert answer == encode(1, WRITE)
            device.send(answer)
            await device.silence(0.02)
            assert listener.statistics().requests == count
        answer = await ask(device)
        device.send(answer[:-1] + b"\0")
        await until(lambda: listener.statistics().echo_errors)
        await device.silence()
        assert await ask(device) == encode(1, bytes.fromhex("03021234"))
    assert listener.statistics().echo_errors == 1


@pytest.mark.requirement("AP-6.8.1-04")
async def test_listen_only_and_back(device: Device) -> None:
    async with listening(device.endpoint(), {1: LocalDevice(), 2: LocalDevice()}):
        device.send(encode(1, bytes.fromhex("0800040000")))
        await device.silence()
        device.send(encode(1, READ))
        await device.silence()
        assert await ask(device, unit=2) == encode(2, ZERO)
        device.send(encode(1, bytes.fromhex("0800010000")))
        await device.silence()
        assert await ask(device) == encode(1, ZERO)


async def test_rts_is_set_while_it_answers(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(rs485=False)
    send, listen = (termios.TIOCMBIS, termios.TIOCM_RTS), (termios.TIOCMBIC, termios.TIOCM_RTS)
    monkeypatch.setattr("everbus.aio.serial.open_port", driver.port)
    async with listening(device.endpoint(rs485=True)) as listener:
        for _ in range(3):
            assert await ask(device) == encode(1, ZERO)
        await until(lambda: len(driver.switched) == 7)
        assert driver.switched == [listen, *[send, listen] * 3]
        driver.rts = False
        device.send(encode(1, READ))
        await until(lambda: listener.statistics().failed)
        driver.rts = True
        await until(lambda: listener.listening)
        assert await ask(device) == encode(1, ZERO)


# --- a port that goes and comes ---------------------------------------------------------------


async def test_it_opens_a_port_that_comes_back(device: Device) -> None:
    observer = RecordingObserver()
    async with listening(device.endpoint(), observer=observer) as listener:
        assert await ask(device) == encode(1, ZERO)
        device.unplug()
        await until(lambda: listener.statistics().failed)
        statistics = listener.statistics()
        assert (statistics.state, statistics.lost, listener.fileno()) == ("lost", 1, -1)
        assert "no such device" in statistics.problem
        device.plug_in()
        await until(lambda: listener.listening)
        assert opened_by_us(device) == 1
        assert await ask(device) == encode(1, ZERO)
        assert (listener.statistics().opened, listener.reopened, listener.statistics().problem) == (2, 1, "")
    assert observer.reasons(EventKind.PORT_OPENED) == ["start", "again"]
    assert len(observer.of(EventKind.PORT_LOST)) == 1
    assert set(observer.reasons(EventKind.PORT_FAILED)) == {"ENOENT"}


async def test_what_was_being_said_ends_with_the_port(device: Device) -> None:
    go = asyncio.Event()

    async def slow(request: AnyRequest, context: RequestContext) -> Answer:
        await go.wait()
        return ReadHoldingRegistersResponse(b"\0\0")

    async with listening(device.endpoint(), {1: slow}) as listener:
        device.send(encode(1, READ))
        await until(lambda: listener.requests)
        device.unplug()
        await until(lambda: listener.statistics().lost)
        assert listener.statistics().unanswered == {"port_lost": 1}
        device.plug_in()
        await until(lambda: listener.listening)
        go.set()
        await device.silence(0.02)
        assert await ask(device) == encode(1, ZERO)


async def test_a_port_may_be_away_at_start(device: Device) -> None:
    device.unplug()
    observer = RecordingObserver()
    async with listening(device.endpoint(), options=PATIENT, observer=observer) as listener:
        assert (listener.statistics().state, listener.statistics().failed) == ("lost", 1)
        device.plug_in()
        await until(lambda: listener.listening)
        assert await ask(device) == encode(1, ZERO)
    assert observer.reasons(EventKind.PORT_OPENED) == ["start"]


async def test_a_start_without_the_port_fails(device: Device) -> None:
    device.unplug()
    listener = new_listener(device.endpoint())
    with pytest.raises(ConnectError, match=f"cannot open {device.path}: there is no such device"):
        await listener.open()
    assert await listener.close()


async def test_a_busy_port_is_tried_until_it_is_free(device: Device) -> None:
    other = open_port(str(device.path), SerialSettings())
    async with listening(device.endpoint(), options=PATIENT) as listener:
        assert f"(process {os.getpid()})" in listener.statistics().problem
        other.close()
        await until(lambda: listener.listening)
        assert await ask(device) == encode(1, ZERO)


async def test_whatever_a_driver_does_the_port_is_tried_again(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    observer = RecordingObserver()
    async with listening(device.endpoint(), observer=observer) as listener:
        device.unplug()
        with monkeypatch.context() as broken:
            broken.setattr("everbus.aio.serial.open_port", lambda path, settings: 1 / 0)
            await until(lambda: "unknown" in observer.reasons(EventKind.PORT_FAILED))
        device.plug_in()
        await until(lambda: listener.listening)
        assert await ask(device) == encode(1, ZERO)


async def test_the_pauses_between_tries_grow(device: Device) -> None:
    async with listening(device.endpoint(), options=SerialOptions()) as listener:
        device.unplug()
        await asyncio.sleep(0.35)
        assert 2 <= listener.statistics().failed <= 4  # at once, after 0.05 to 0.1 s, after 0.1 to 0.2 s more ...


async def test_an_answer_into_a_port_that_is_gone_loses_it(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening(device.endpoint()) as listener:
        monkeypatch.setattr(Port, "read", lambda port: b"")
        device.unplug()
        assert not listener.send(b"\1")
        assert not listener.send(b"\1")
        assert (listener.statistics().lost, listener.statistics().state) == (1, "lost")


# --- ends -------------------------------------------------------------------------------------


async def test_it_serves_once(device: Device) -> None:
    async with listening(device.endpoint()) as listener:
        with pytest.raises(ServerStateError, match="serves once"):
            await listener.open()
    assert await listener.close()
    with pytest.raises(ServerStateError, match="serves once"):
        await listener.open()


async def test_closing_lets_what_is_under_way_end(device: Device) -> None:
    async def slow(request: AnyRequest, context: RequestContext) -> Answer:
        await asyncio.sleep(0.03)
        return ReadHoldingRegistersResponse(b"\0\0")

    async with listening(device.endpoint(), {1: slow}) as listener:
        device.send(encode(1, READ))
        await until(lambda: listener.requests)
        assert await listener.close(5.0)
        assert await device.receive(7) == encode(1, ZERO)


async def test_closing_cuts_off_what_takes_longer(device: Device) -> None:
    cancelled = asyncio.Event()

    async def hangs(request: AnyRequest, context: RequestContext) -> Answer:
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()
        return ReadHoldingRegistersResponse(b"\0\0")

    for first_s, second_s in ((0.01, None), (60.0, 0.0)):
        cancelled.clear()
        async with listening(device.endpoint(), {1: hangs}) as listener:
            device.send(encode(1, READ))
            await until(lambda: listener.requests)
            closing = asyncio.ensure_future(listener.close(first_s))
            await asyncio.sleep(0)
            if second_s is not None:
                assert not await listener.close(second_s)
            assert not await closing
            assert listener.statistics().unanswered == {"closed": 1}
            async with asyncio.timeout(5):
                await cancelled.wait()


async def test_a_handler_may_close_its_own_line(device: Device) -> None:
    ended: list[bool] = []

    async def closes(request: AnyRequest, context: RequestContext) -> Answer:
        task = asyncio.current_task()
        assert task is not None
        listener.exempt(task)
        ended.append(await listener.close(5.0))
        return ReadHoldingRegistersResponse(b"\0\0")

    async with listening(device.endpoint(), {1: closes}) as listener:
        device.send(encode(1, READ))
        await until(lambda: ended)
    assert ended == [True]


async def test_a_hanging_handler_is_swept(device: Device) -> None:
    async def hangs(request: AnyRequest, context: RequestContext) -> Answer:
        await asyncio.sleep(60)
        return ReadHoldingRegistersResponse(b"\0\0")

    async with listening(device.endpoint(), {1: hangs}) as listener:
        device.send(encode(1, READ))
        await until(lambda: listener.requests)
        listener.sweep(monotonic() + 6)
        assert await device.receive(5) == encode(1, b"\x83\4")
        await until(lambda: not listener.abandoned)


async def test_closing_while_the_port_is_away_or_opening(device: Device) -> None:
    for wait_s in (0.0, 0.03):
        device.unplug()
        listener = new_listener(device.endpoint(), options=PATIENT)
        await listener.open()
        device.plug_in()
        await asyncio.sleep(wait_s)
        assert await listener.close()
        assert opened_by_us(device) == 0


async def test_a_cancelled_start_leaves_nothing_open(device: Device) -> None:
    listener = new_listener(device.endpoint())
    opening = asyncio.ensure_future(listener.open())
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    await until(lambda: opened_by_us(device) == 0)
    await listener.close()


async def test_a_start_that_is_cancelled_as_the_port_opens_leaves_nothing_open(device: Device) -> None:
    class Impatient(RecordingObserver):
        def notify(self, event: Event) -> None:
            if event.kind is EventKind.PORT_OPENED:
                opening.cancel()

    listener = new_listener(device.endpoint(), observer=Impatient())
    opening = asyncio.ensure_future(listener.open())
    with pytest.raises(asyncio.CancelledError):
        await opening
    await until(lambda: opened_by_us(device) == 0)


async def test_a_driver_that_hangs_does_not_hold_the_close_up(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on = threading.Event()

    def hangs(path: str, settings: SerialSettings) -> Port:
        goes_on.wait(5)
        return open_port(path, settings)

    monkeypatch.setattr("everbus.aio.serial._LAST_S", 0.01)
    async with listening(device.endpoint()) as listener:
        device.unplug()
        monkeypatch.setattr("everbus.aio.serial.open_port", hangs)
        await until(lambda: listener.statistics().state == "lost")
        device.plug_in()
        await asyncio.sleep(0.05)
        assert await listener.close()
    goes_on.set()
    await until(lambda: opened_by_us(device) == 0)


async def test_a_descriptor_that_somebody_else_closed_is_noticed(device: Device) -> None:
    observer = RecordingObserver()
    async with listening(device.endpoint(), observer=observer) as listener:
        listener.sweep(monotonic())
        os.close(listener.fileno())
        listener.sweep(monotonic())
        assert "somebody else closed" in observer.of(EventKind.PORT_LOST)[0].detail
        await until(lambda: listener.reopened)
        assert opened_by_us(device) == 1
        assert await ask(device) == encode(1, ZERO)


async def test_a_cancelled_owner_closes_its_port(device: Device) -> None:
    others = asyncio.all_tasks()
    listener = new_listener(device.endpoint())
    await listener.open()
    await until(lambda: listener.listening)
    (owner,) = asyncio.all_tasks() - others
    owner.cancel()
    await until(lambda: opened_by_us(device) == 0)
    assert await listener.close()


def test_options_are_checked() -> None:
    assert SerialOptions(turnaround_s=0.0).turnaround_s == 0.0
    for wrong in ({"most_backoff_s": 0.0}, {"turnaround_s": -1.0}, {"ascii_gap_s": "1"}, {"most_backoff_s": True}):
        with pytest.raises(ConfigurationError, match=f"{next(iter(wrong))} is a number of"):
            SerialOptions(**wrong)


async def test_only_serial_ports_will_do() -> None:
    with pytest.raises(ConfigurationError, match="is no serial port"):
        new_listener(parse_endpoint("tcp://127.0.0.1:502"))
