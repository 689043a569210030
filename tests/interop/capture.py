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

__all__ = ["Dissected", "capturing", "dissect", "wait_for"]

_TIMEOUT_S: Final = 20.0


@dataclass(frozen=True)
class Dissected:
    """One Modbus TCP frame in Wireshark's eyes: values of fields by name, in their order."""

    response: bool
    fields: dict[str, list[str]]
    malformed: bool

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


def dissect(file: Path, port: int) -> list[Dissected]:
    """Every Modbus TCP frame of a recording, in order."""
    command = ["tshark", "-r", str(file), "-o", f"mbtcp.tcp.port:{port}", "-T", "pdml", "-Y", "mbtcp"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = []
    for packet in ET.fromstring(done.stdout).iter("packet"):
        sender = packet.find(".//field[@name='tcp.srcport']")
        assert sender is not None
        found += _frames(packet, response=sender.get("show") == str(port))
    return found


def _frames(packet: ET.Element, *, response: bool) -> list[Dissected]:
    """The frames of a packet: each a header, a PDU, and what Wireshark has against them."""
    found: list[Dissected] = []
    for proto in packet.iter("proto"):
        name = proto.get("name")
        if name == "mbtcp":
            found.append(Dissected(response, {}, malformed=False))
        elif name == "_ws.malformed":
            found[-1:] = [Dissected(response, found[-1].fields if found else {}, malformed=True)]
        if name in ("mbtcp", "modbus"):
            for field in proto.iter("field"):
                found[-1].fields.setdefault(field.get("name", ""), []).append(field.get("show", ""))
    return found
