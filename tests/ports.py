"""Serial devices made of pty pairs, which can be unplugged, and the other end of their line."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import struct
import subprocess
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Final

from everbus.client.endpoint import Endpoint, SerialSettings
from everbus.ports import Port

_START_S: Final = 10.0


class Device:
    """A serial device behind a path that stays the same, as udev's links do. Plugged in when made."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.line = -1
        """The descriptor of the line's other end, non-blocking."""
        self.plug_in()

    def plug_in(self) -> None:
        self.line, port = os.openpty()
        os.set_blocking(self.line, False)
        link = self.path.with_suffix(".new")
        link.symlink_to(os.ttyname(port))
        link.rename(self.path)
        os.close(port)

    def unplug(self) -> None:
        line, self.line = self.line, -1
        if line >= 0:
            os.close(line)
            self.path.unlink()

    def endpoint(
        self, scheme: str = "rtu", baudrate: int = 115200, *, echo: bool = False, rs485: bool = False
    ) -> Endpoint:
        bytesize = 7 if scheme == "ascii" else 8
        return Endpoint(scheme, path=str(self.path), serial=SerialSettings(baudrate, bytesize, echo=echo, rs485=rs485))

    def send(self, data: bytes) -> None:
        """Put bytes on the line."""
        assert self.send_some(data) == len(data)

    def send_some(self, data: bytes) -> int:
        """Put as many bytes on the line as it takes now; how many that are."""
        return os.write(self.line, data) if data else 0

    async def receive(self, count: int, within_s: float = 5.0) -> bytes:
        """The next so many bytes from the line; fewer when the time is over."""
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self.line, readable.set)
        data = b""
        until = monotonic() + within_s
        try:
            while len(data) < count and (left_s := until - monotonic()) > 0:
                readable.clear()
                try:
                    await asyncio.wait_for(readable.wait(), left_s)
                    data += os.read(self.line, count - len(data))
                except (TimeoutError, BlockingIOError):
                    continue
        finally:
            loop.remove_reader(self.line)
        return data

    async def silence(self, within_s: float = 0.03) -> None:
        """Nothing comes."""
        assert await self.receive(1, within_s) == b""


class Driver:
    """Takes the requests that pseudo-terminals do not know, and keeps them."""

    def __init__(self, *, rs485: bool = True, rts: bool = True) -> None:
        self.rs485 = rs485
        self.rts = rts
        self.overruns = (0, 0)
        self.switched: list[tuple[int, ...]] = []

    def ioctl(self, number: int, request: int, data: bytes | bytearray) -> None:
        if request == 0x545D and isinstance(data, bytearray):
            struct.pack_into("=i", data, 7 * 4, self.overruns[0])
            struct.pack_into("=i", data, 10 * 4, self.overruns[1])
        elif request == 0x542F and self.rs485:
            self.switched.append(struct.unpack("=8I", data))
        elif request in (termios.TIOCMBIS, termios.TIOCMBIC) and self.rts:
            self.switched.append((request, *struct.unpack("=i", data)))
        elif request != termios.TIOCNXCL:
            raise OSError(errno.ENOTTY, "Inappropriate ioctl for device")

    def port(self, path: str, settings: SerialSettings) -> Port:
        """A port that this driver is behind."""
        number = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        try:
            tty.setraw(number)
            return Port(path, number, settings, self.ioctl)
        except BaseException:
            os.close(number)
            raise


class Cable:
    """A line between two serial ports, ``near`` and ``far``, for programs that need a path at either end.

    A process of its own carries the bytes, so that this one has nothing open for it.
    """

    def __init__(self, folder: Path) -> None:
        self.near = folder / "near"
        self.far = folder / "far"
        self._process = subprocess.Popen([sys.executable, __file__, self.near, self.far])
        until = monotonic() + _START_S
        while not self.far.is_symlink():
            assert monotonic() < until, "no cable"
            sleep(0.01)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def _carry(*paths: str) -> None:
    """Be a cable, until killed."""
    lines = []
    for path in paths:
        line, port = os.openpty()  # the port stays open, or the line would hang up whenever a program closes it
        tty.setraw(port)
        os.symlink(os.ttyname(port), path)
        lines.append(line)
    while True:
        for line in select.select(lines, [], [])[0]:
            os.write(lines[line == lines[0]], os.read(line, 4096))


@contextmanager
def plugged_in(folder: Path, name: str = "tty") -> Iterator[Device]:
    """A device, until the block ends."""
    device = Device(folder / name)
    try:
        yield device
    finally:
        device.unplug()


if __name__ == "__main__":
    _carry(*sys.argv[1:])
