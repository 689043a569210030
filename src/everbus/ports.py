"""Serial ports: opened, locked and set up by serialx (the extra ``serial``); read and written here.

The descriptor never blocks, so both kinds of hosts can use it: what they do differently, waiting, is
theirs. A frame leaves in one write. Ports need termios: Linux, macOS and their kind.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any, Final, TypeAlias

from everbus.client.endpoint import SerialSettings
from everbus.errors import ConfigurationError, ConnectError, ConnectionLostError

if sys.platform != "win32":
    import fcntl
    import grp
    import termios

__all__ = ["Echo", "Port", "open_error", "open_port"]

_READ_BYTES: Final = 4096
_PROC: Final = "/proc"
_SETTLING_S: Final = 0.01
"""Some adapters still deliver old bytes right after they were opened, as serialx has found."""

_Ioctl: TypeAlias = Callable[[int, int, bytes | bytearray], object]


class Port:
    """An open serial port. It owns the descriptor; made by ``open_port``.

    Args:
        path: of the device, for messages.
        number: the descriptor: locked, set up and non-blocking.
        settings: how it is switched and whether it hears itself.
        ioctl: as ``fcntl.ioctl``.

    Raises:
        OSError: nothing can switch between sending and listening.
    """

    def __init__(self, path: str, number: int, settings: SerialSettings, ioctl: _Ioctl) -> None:
        self.path: str = path
        self._number = number
        self._identity = _identity(number)
        self._ioctl = ioctl
        self._echo = Echo() if settings.echo else None
        self._transceiver = _transceiver(self._number, ioctl) if settings.rs485 else None
        self._overruns = self._count_overruns()
        self._lock = threading.Lock()
        self._closed = False

    def __repr__(self) -> str:
        return f"<Port {self.path} {'closed' if self._closed else 'open'}>"

    def fileno(self) -> int:
        """The descriptor, which never blocks: for ``poll``, or for a loop's reader."""
        return self._number

    @property
    def is_ours(self) -> bool:
        """Nobody else has closed the descriptor; else its number may be somebody else's by now."""
        try:
            return _identity(self._number) == self._identity
        except OSError:
            return False

    @property
    def must_drain(self) -> bool:
        """``drain`` must follow each write: the transceiver listens again only then."""
        return self._transceiver is not None

    @property
    def echo_errors(self) -> int:
        """How often what came back was not what was sent."""
        return self._echo.errors if self._echo is not None else 0

    def read(self) -> bytes:
        """What has arrived, 0..4096 bytes; our own echo is taken off.

        Raises:
            ConnectionLostError: the device is gone.
        """
        try:
            data = os.read(self._number, _READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return b""
        except OSError as error:
            raise self._lost(str(error)) from error
        if not data:  # a port that is there says EAGAIN, as it waits for one character at least
            raise self._lost("it hung up")
        return self._echo.taken_off(data) if self._echo is not None else data

    def write(self, frame: bytes) -> bool:
        """Send a frame with one system call; whether all of it was taken.

        What is not taken at once is lost: with a pause inside it would be no frame.

        Raises:
            ConnectionLostError: the device is gone.
        """
        try:
            if self._transceiver is not None:
                self._transceiver.send()
            sent = os.write(self._number, frame)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            raise self._lost(str(error)) from error
        if self._echo is not None:
            self._echo.sent(frame[:sent])
        return sent == len(frame)

    def drain(self) -> None:
        """Block until the last bit has left, then listen again. May be called in another thread.

        Raises:
            ConnectionLostError: the device is gone.
        """
        with self._lock:
            if self._closed:
                return
            try:
                termios.tcdrain(self._number)
                if self._transceiver is not None:
                    self._transceiver.listen()
            except (OSError, termios.error) as error:
                raise self._lost(str(error)) from error

    def new_overruns(self) -> int:
        """Characters that hardware or driver lost since this was asked last; 0 where they do not tell."""
        before, self._overruns = self._overruns, self._count_overruns()
        return max(0, self._overruns - before)

    def _count_overruns(self) -> int:
        counts = bytearray(_COUNTERS.size)
        with suppress(OSError):
            self._ioctl(self._number, _TIOCGICOUNT, counts)
        return sum(_COUNTERS.unpack(counts)[at] for at in _OVERRUNS)

    def close(self) -> None:
        """Let the device go. May block while the driver still sends. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self.is_ours:
                with suppress(OSError):  # the device is gone already
                    self._ioctl(self._number, termios.TIOCNXCL, _NOTHING)
                with suppress(OSError):
                    os.close(self._number)

    def _lost(self, why: str) -> ConnectionLostError:
        return ConnectionLostError(f"the serial port {self.path} is gone: {why}")


def open_port(path: str, settings: SerialSettings) -> Port:
    """Open a serial port, lock it and set it up; what it had received before is thrown away.

    Blocks for some 10 ms, with some drivers longer.

    Raises:
        ConfigurationError: serialx is not installed, or this system has no termios.
        ConnectError: the port cannot be opened or set so; the message says why and what to try.
    """
    if sys.platform == "win32":
        raise ConfigurationError("serial ports need termios, which this system does not have")
    try:
        serialx: Any = import_module("serialx")
    except ModuleNotFoundError as error:
        raise ConfigurationError("serial ports need serialx: pip install 'everbus[serial]'") from error
    try:
        number = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        try:
            _set_up(serialx, path, number, settings)
            return Port(path, number, settings, fcntl.ioctl)
        except BaseException:
            os.close(number)
            raise
    except (OSError, ValueError, termios.error, serialx.SerialException) as error:
        raise open_error(path, error) from error


def _set_up(serialx: Any, path: str, number: int, settings: SerialSettings) -> None:
    """Lock a port, and set speed, characters and low latency; what has arrived is thrown away."""
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OSError(errno.EBUSY, "it is locked") from error
    fcntl.ioctl(number, termios.TIOCEXCL)
    time.sleep(_SETTLING_S)
    _make_it_a_change(number)
    port = serialx.Serial(
        path,
        settings.baudrate,
        byte_size=settings.bytesize,
        parity=settings.parity,
        stopbits=settings.stopbits,
        rts_on_open=serialx.PinState.LOW if settings.rs485 else serialx.PinState.HIGH,
        fileno=number,
    )
    port.reconfigure_port()
    _check_parity(number, settings)


def _make_it_a_change(number: int) -> None:
    """Let what is set next differ from what is: else glibc takes parity that a pty has not for an error."""
    attributes = termios.tcgetattr(number)
    attributes[0] ^= termios.INPCK | termios.IGNBRK
    termios.tcsetattr(number, termios.TCSANOW, attributes)


def _identity(number: int) -> tuple[int, int]:
    """What tells one descriptor's file from another's."""
    found = os.fstat(number)
    return found.st_dev, found.st_ino


def _check_parity(number: int, settings: SerialSettings) -> None:
    """Let the driver put 0 in the place of a character with a wrong parity: the checksum of its frame is wrong then."""
    if settings.parity == "N" or not hasattr(termios, f"B{settings.baudrate}"):  # Python cannot set what has no name
        return
    attributes = termios.tcgetattr(number)
    attributes[0] |= termios.INPCK
    termios.tcsetattr(number, termios.TCSANOW, attributes)


class Echo:
    """Takes off what a port hears of itself."""

    __slots__ = ("_began", "_expected", "errors")

    def __init__(self) -> None:
        self._expected = b""
        self._began = False
        self.errors: int = 0
        """How often something else came back, or nothing before somebody else spoke."""

    def sent(self, frame: bytes) -> None:
        """This comes back next."""
        self._expected = frame
        self._began = False

    def taken_off(self, data: bytes) -> bytes:
        """What was received, without what comes back; all of it where that is something else."""
        expected = self._expected
        size = min(len(expected), len(data))
        if data[:size] == expected[:size]:
            self._expected = expected[size:]
            self._began = True
            return data[size:]
        self.errors += 1
        self._expected = b""
        if self._began:
            return data
        before, _, behind = data.partition(expected)  # noise may stand before it
        return before + behind


# RS-485

_TIOCGICOUNT: Final = 0x545D
_TIOCSRS485: Final = 0x542F
_RS485: Final = struct.Struct("=8I")
"""struct serial_rs485 of Linux: flags, delays before and behind in ms, padding."""
_ENABLED: Final = 0x01
_RTS_ON_SEND: Final = 0x02

_COUNTERS: Final = struct.Struct("=20i")
"""struct serial_icounter_struct of Linux."""
_OVERRUNS: Final = (7, 10)
"""In there: what the hardware lost, what the driver lost."""

_NOTHING: Final = b""


class _Transceiver:
    """An RS-485 transceiver that RTS switches between sending and listening.

    Args:
        number: the port's descriptor.
        ioctl: as ``fcntl.ioctl``.

    Raises:
        OSError: the port has no RTS.
    """

    __slots__ = ("_ioctl", "_number")

    def __init__(self, number: int, ioctl: _Ioctl) -> None:
        self._number = number
        self._ioctl = ioctl
        self.listen()

    def send(self) -> None:
        """Drive the line."""
        self._ioctl(self._number, termios.TIOCMBIS, _RTS)

    def listen(self) -> None:
        """Leave the line to others."""
        self._ioctl(self._number, termios.TIOCMBIC, _RTS)


_RTS: Final = struct.pack("=i", 0x004)


def _transceiver(number: int, ioctl: _Ioctl) -> _Transceiver | None:
    """Who switches an RS-485 transceiver; None: the driver does so from now on, which is exact.

    Raises:
        OSError: neither the driver nor RTS can.
    """
    try:
        ioctl(number, _TIOCSRS485, _RS485.pack(_ENABLED | _RTS_ON_SEND, 0, 0, 0, 0, 0, 0, 0))
    except OSError:
        try:
            return _Transceiver(number, ioctl)
        except OSError as error:
            text = "neither the driver nor RTS can switch an RS-485 transceiver; leave rs485 out if it needs none"
            raise OSError(error.errno, text) from error
    return None


# What is wrong, and what to try


def open_error(path: str, error: Exception) -> ConnectError:
    """The error to raise for a port that could not be opened."""
    hint = _hint(path, error.errno or 0) if isinstance(error, OSError) else ""
    return ConnectError(f"cannot open {path}: {hint} ({error})" if hint else f"cannot open {path}: {error}")


def _hint(path: str, number: int) -> str:
    if number == errno.EACCES:
        return f"permission denied; add yourself to the group {_group(path)} (usermod -aG) and log in again"
    if number in (errno.EBUSY, errno.EAGAIN):
        return f"in use by {_holders(path) or 'another program'}; a port has one owner"
    return {
        errno.ENOENT: "there is no such device; is it plugged in? /dev/serial/by-id shows what is",
        errno.ENXIO: "there is no device behind it; is it plugged in?",
        errno.ENODEV: "there is no device behind it; is it plugged in?",
        errno.EIO: "the device does not react; was it just unplugged?",
        errno.EISDIR: "that is not a serial port",
        errno.ENOTTY: "that is not a serial port",
    }.get(number, "")


def _group(path: str) -> str:
    """The group that may use a device; dialout where nothing tells."""
    with suppress(OSError, KeyError):
        found = os.stat(path)
        if found.st_mode & stat.S_IWGRP and found.st_gid:
            return grp.getgrgid(found.st_gid).gr_name
    return "dialout"


def _holders(path: str) -> str:
    """Who has a device open, by name and number, as far as we may look."""
    found = []
    device = os.path.realpath(path)
    with suppress(OSError):
        for process in filter(str.isdigit, os.listdir(_PROC)):
            with suppress(OSError):
                folder = f"{_PROC}/{process}/fd"
                if any(_leads_to(f"{folder}/{number}", device) for number in os.listdir(folder)):
                    with open(f"{_PROC}/{process}/comm", encoding="utf-8", errors="replace") as name:
                        found.append(f"{name.read().strip()} (process {process})")
    return ", ".join(found)


def _leads_to(link: str, target: str) -> bool:
    with suppress(OSError):
        return os.readlink(link) == target
    return False
