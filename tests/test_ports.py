from __future__ import annotations

import errno
import grp
import os
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from everbus.client.endpoint import SerialSettings
from everbus.errors import ConfigurationError, ConnectError, ConnectionLostError
from everbus.ports import Echo, Port, open_error, open_port
from tests.ports import Device, Driver, plugged_in

FRAME = bytes.fromhex("0103000000 02C40B")
SETTINGS = SerialSettings()


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    with plugged_in(tmp_path) as found:
        yield found


@contextmanager
def opened(device: Device, settings: SerialSettings = SETTINGS) -> Iterator[Port]:
    port = open_port(str(device.path), settings)
    try:
        yield port
    finally:
        port.close()


# --- an open port -----------------------------------------------------------------------------


def test_bytes_go_both_ways(device: Device) -> None:
    with opened(device) as port:
        assert port.read() == b""
        device.send(FRAME)
        assert port.read() == FRAME
        assert port.write(FRAME)
        port.drain()
        assert os.read(device.line, 100) == FRAME
        assert (port.must_drain, port.new_overruns(), port.echo_errors) == (False, 0, 0)
        assert repr(port) == f"<Port {device.path} open>"
    port.close()
    port.drain()
    assert repr(port) == f"<Port {device.path} closed>"


@pytest.mark.requirement("SL-2.5.1.1-initial")
def test_what_was_received_before_is_thrown_away(device: Device) -> None:
    device.send(FRAME)
    with opened(device) as port:
        assert port.read() == b""
        device.send(FRAME)
        assert port.read() == FRAME


@pytest.mark.requirement("SL-3.2-baud", "SL-2.6.1-parity")
def test_it_is_raw_has_its_speed_and_checks_parity(device: Device) -> None:
    for settings in (SETTINGS, SerialSettings(9600, parity="N", stopbits=2), SerialSettings(250_000)):
        with opened(device, settings) as port:
            iflag, _, cflag, lflag, _, speed, _ = termios.tcgetattr(port.fileno())
            assert bool(iflag & termios.INPCK) is (settings is SETTINGS)
            assert bool(cflag & termios.CSTOPB) is (settings.stopbits == 2)
            assert lflag == 0
            if settings.baudrate != 250_000:
                assert speed == getattr(termios, f"B{settings.baudrate}")


def test_a_frame_that_the_port_does_not_take_whole_is_not_sent(device: Device) -> None:
    with opened(device) as port:
        assert any(not port.write(bytes(256)) for _ in range(2000))


def test_a_device_that_goes_is_noticed(device: Device) -> None:
    with opened(device) as port:
        device.unplug()
        with pytest.raises(ConnectionLostError, match=f"the serial port {device.path} is gone"):
            port.read()
        with pytest.raises(ConnectionLostError, match="Input/output error"):
            port.write(FRAME)
        with pytest.raises(ConnectionLostError, match="is gone"):
            port.drain()


def test_a_descriptor_that_somebody_else_closed_is_not_closed_again(device: Device) -> None:
    with opened(device) as port:
        ours = [port.is_ours]
        os.close(port.fileno())
        ours.append(port.is_ours)
        assert ours == [True, False]
        other = os.open(os.devnull, os.O_RDONLY)
        assert (other, port.is_ours) == (port.fileno(), False)
        port.close()
        os.close(other)


# --- what cannot be opened --------------------------------------------------------------------


def test_one_port_has_one_owner(device: Device) -> None:
    with (
        opened(device),
        pytest.raises(ConnectError, match=rf"cannot open {device.path}: in use by .*\(process {os.getpid()}\)"),
    ):
        open_port(str(device.path), SETTINGS)
    with opened(device) as port:
        assert port.read() == b""


def test_another_process_holds_it(device: Device) -> None:
    hold = "import os, fcntl, sys; fcntl.flock(os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY), fcntl.LOCK_EX)"
    command = [sys.executable, "-c", f"{hold}; print(flush=True); input()", str(device.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(ConnectError, match=rf"in use by \S+ \(process {holder.pid}\); a port has one owner"):
            open_port(str(device.path), SETTINGS)
        holder.communicate(b"\n")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/dev/no-such-tty", "there is no such device; is it plugged in"),
        ("/dev/null", "that is not a serial port"),
        ("/dev", "that is not a serial port"),
    ],
)
def test_the_message_says_what_to_try(path: str, words: str) -> None:
    with pytest.raises(ConnectError, match=f"cannot open {path}: {words}") as caught:
        open_port(path, SETTINGS)
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), "add yourself to the group dialout"),
        (OSError(errno.EBUSY, "Device or resource busy"), "in use by another program"),
        (OSError(errno.EIO, "Input/output error"), "was it just unplugged"),
        (OSError(errno.ENXIO, "No such device or address"), "no device behind it"),
        (OSError(errno.EFBIG, "File too large"), r"cannot open /dev/no-such-tty: \[Errno 27\] File too large"),
        (ValueError("odd"), "cannot open /dev/no-such-tty: odd"),
    ],
)
def test_each_reason_has_its_words(error: Exception, words: str) -> None:
    with pytest.raises(ConnectError, match=words):
        raise open_error("/dev/no-such-tty", error)


def test_the_group_is_the_one_that_may_use_it(device: Device) -> None:
    group = os.getgid() or 1
    os.chown(device.path, -1, group)
    os.chmod(device.path, 0o660)
    said = str(open_error(str(device.path), OSError(errno.EACCES, "denied")))
    assert f"add yourself to the group {grp.getgrgid(group).gr_name} " in said


def test_without_serialx_the_extra_is_named(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "serialx", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'everbus\[serial\]'"):
        open_port(str(device.path), SETTINGS)


def test_without_termios_it_is_said(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(ConfigurationError, match="need termios"):
        open_port(str(device.path), SETTINGS)


# --- echo -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("read", "left", "errors"),
    [
        ([FRAME], b"", 0),
        ([FRAME[:3], FRAME[3:], b"\x01"], b"\x01", 0),
        ([FRAME + b"\x01\x02"], b"\x01\x02", 0),
        ([b"\x00" + FRAME + b"\x01"], b"\x00\x01", 1),
        ([b"\x05\x03\x02"], b"\x05\x03\x02", 1),
        ([FRAME[:3] + b"\xff\xff"], FRAME[:3] + b"\xff\xff", 1),
        ([b"\xff", FRAME], b"\xff" + FRAME, 1),
        ([FRAME[:-1], b"\x01" + FRAME[-1:]], b"\x01" + FRAME[-1:], 1),
    ],
)
def test_what_comes_back_is_taken_off_and_anything_else_is_kept(read: list[bytes], left: bytes, errors: int) -> None:
    echo = Echo()
    echo.sent(FRAME)
    assert b"".join(echo.taken_off(data) for data in read) == left
    assert echo.errors == errors
    assert echo.taken_off(FRAME) == FRAME


def test_a_port_with_echo_does_not_hear_itself(device: Device) -> None:
    with opened(device, SerialSettings(echo=True)) as port:
        assert port.write(FRAME)
        device.send(os.read(device.line, 100) + b"\x01\x02")
        assert port.read() == b"\x01\x02"
        assert port.echo_errors == 0
        assert port.write(FRAME)
        device.send(b"\x01\x02")
        assert (port.read(), port.echo_errors) == (b"\x01\x02", 1)


# --- RS-485 and counters, as a driver has them ------------------------------------------------


@contextmanager
def driven(device: Device, driver: Driver, *, rs485: bool = True) -> Iterator[Port]:
    port = driver.port(str(device.path), SerialSettings(rs485=rs485))
    yield port
    port.close()


def test_the_driver_switches_the_transceiver_where_it_can(device: Device) -> None:
    driver = Driver()
    with driven(device, driver) as port:
        assert driver.switched == [(0x03, 0, 0, 0, 0, 0, 0, 0)]  # enabled, RTS on while sending
        assert not port.must_drain
        assert port.write(FRAME)
    assert len(driver.switched) == 1


def test_else_rts_is_set_while_we_send(device: Device) -> None:
    driver = Driver(rs485=False)
    send, listen = (termios.TIOCMBIS, termios.TIOCM_RTS), (termios.TIOCMBIC, termios.TIOCM_RTS)
    with driven(device, driver) as port:
        assert driver.switched == [listen]
        assert port.must_drain
        assert port.write(FRAME)
        assert driver.switched == [listen, send]
        port.drain()
        assert driver.switched == [listen, send, listen]


def test_a_port_that_cannot_be_switched_says_so(device: Device) -> None:
    with pytest.raises(OSError, match="leave rs485 out"), driven(device, Driver(rs485=False, rts=False)):
        pass
    with pytest.raises(ConnectError, match="neither the driver nor RTS can switch"):
        open_port(str(device.path), SerialSettings(rs485=True))
    with driven(device, Driver(rs485=False, rts=False), rs485=False) as port:
        assert not port.must_drain


def test_overruns_are_those_since_the_last_look(device: Device) -> None:
    driver = Driver()
    driver.overruns = (7, 0)
    with driven(device, driver) as port:
        assert port.new_overruns() == 0
        driver.overruns = (9, 3)
        assert port.new_overruns() == 5
        assert port.new_overruns() == 0


@pytest.mark.parametrize(("bytesize", "parity"), [(7, "N"), (8, "N"), (8, "E"), (7, "E")])
def test_it_can_be_opened_again_and_again(device: Device, bytesize: int, parity: str) -> None:
    for _ in range(3):
        open_port(str(device.path), SerialSettings(19200, bytesize, parity)).close()
