"""Traffic as the kernel saw it, and what Wireshark's dissector says of it."""

from __future__ import annotations

import subprocess
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

__all__ = ["MBAP", "RTU", "UDP", "Dissected", "Dissector", "capturing", "dissect", "payloads", "wait_for"]

_TIMEOUT_S: Final = 20.0


@dataclass(frozen=True)
class Dissector:
    """One of Wireshark's for Modbus.

    Args:
        name: of the protocol.
        layer: tcp or udp, below it.
        settings: how it is told its port.
    """

    name: str
    layer: str
    settings: tuple[str, ...]

    def command(self, file: Path, port: int, *more: str) -> list[str]:
        """How a recording is read."""
        told = [part for setting in self.settings for part in ("-o", setting.format(port))]
        return ["tshark", "-r", str(file), *told, *more, "-Y", self.name]


MBAP: Final = Dissector("mbtcp", "tcp", ("mbtcp.tcp.port:{}",))
UDP: Final = Dissector("mbudp", "udp", ("mbudp.udp.port:{}", "mbtcp.tcp.port:{}"))
"""Wireshark 4.0 looks at the port of UDP again when that of TCP changes."""
RTU: Final = Dissector("mbrtu", "tcp", ("mbrtu.tcp.port:{}", "mbrtu.crc_verification:TRUE"))


@dataclass(frozen=True)
class Dissected:
    """One Modbus frame in Wireshark's eyes: values of fields by name, in their order."""

    response: bool
    fields: dict[str, list[str]]
    malformed: bool

    @property
    def doubts(self) -> list[str]:
        """What Wireshark has to say against it: a wrong CRC, a direction that it cannot tell."""
        return self.fields.get("_ws.expert.message", [])

    def numbers(self, name: str) -> list[int]:
        """Numbers, or the bytes of data."""
        shown = self.fields.get(name, [])
        if name == "modbus.data":
            return list(bytes.fromhex("".join(shown).replace(":", "")))
        return [int(value, 0) for value in shown]


@contextmanager
def capturing(port: int, file: Path, transport: str = "tcp") -> Iterator[None]:
    """Record a port of the loopback, of TCP or UDP, into a file; needs the right to capture."""
    command = ["dumpcap", "-q", "-P", "-i", "lo", "-f", f"{transport} port {port}", "-w", str(file)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            said = ""
            while not (line := process.stderr.readline()).startswith("File:"):
                said += line
                if "permi" in said:
                    pytest.skip("not allowed to capture: be root, or in the group wireshark")
                assert line, f"dumpcap ended: {said}"
            yield
            process.terminate()
            assert process.wait(_TIMEOUT_S) == 0
        finally:
            process.kill()


def wait_for(last: bytes, file: Path, times: int = 1) -> None:
    """Return when the recording has these bytes, so many times."""
    deadline = time.monotonic() + _TIMEOUT_S
    while file.read_bytes().count(last) < times:
        assert time.monotonic() < deadline, f"{last.hex()} was not recorded"
        time.sleep(0.05)


def payloads(file: Path, port: int, dissector: Dissector) -> list[tuple[bool, bytes]]:
    """What the packets of a recording carry, in order, and whether a server sent it."""
    layer = dissector.layer
    fields = ["-T", "fields", "-e", f"{layer}.srcport", "-e", f"{layer}.payload"]
    done = subprocess.run(dissector.command(file, port, *fields), capture_output=True, text=True, check=True)
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    return [(sender == str(port), bytes.fromhex(data)) for sender, data in rows]


def dissect(file: Path, port: int, dissector: Dissector = MBAP) -> list[Dissected]:
    """Every Modbus frame of a recording, in order."""
    done = subprocess.run(dissector.command(file, port, "-T", "pdml"), capture_output=True, text=True, check=True)
    found = []
    for packet in ET.fromstring(done.stdout).iter("packet"):
        sender = packet.find(f".//field[@name='{dissector.layer}.srcport']")
        assert sender is not None
        found += _frames(packet, dissector.name, response=sender.get("show") == str(port))
    return found


def _frames(packet: ET.Element, header: str, *, response: bool) -> list[Dissected]:
    """The frames of a packet: each a header, a PDU, and what Wireshark has against them."""
    found: list[Dissected] = []
    for proto in packet.iter("proto"):
        name = proto.get("name")
        if name == header:
            found.append(Dissected(response, {}, malformed=False))
        elif name == "_ws.malformed":
            found[-1:] = [Dissected(response, found[-1].fields if found else {}, malformed=True)]
        if name in (header, "modbus"):
            for field in proto.iter("field"):
                found[-1].fields.setdefault(field.get("name", ""), []).append(field.get("show", ""))
    return found
