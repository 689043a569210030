"""UDP, and RTU and ASCII frames over TCP: foreign stacks with ``everbus serve`` at the other end."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from everbus.protocol.framing.base import Frame
from everbus.protocol.framing.mbap import MbapFramer
from everbus.protocol.framing.rtu import RtuFramer
from tests.interop.capture import capturing, wait_for
from tests.interop.ours import answers, request_of, run
from tests.interop.plan import PLAIN, PLAN, READS, effects, steps_for
from tests.interop.stacks import PYMODBUS_CLIENT
from tests.interop.support import PEERS, Device, everbus_serve, needs, peer_answers, python_with
from tools.environments import PYMODBUS

pytestmark = [pytest.mark.interop, pytest.mark.timeout(300)]

LAST: Final = b"\x08\0\0\xe5\x5a"
LEFT_OUT: Final = {
    "udp": set[str](),
    "rtu+tcp": {"other_unit", "fifo", "query_data"},
    "ascii+tcp": {"other_unit", "ascii_delimiter"},
}
"""Without ids a unit that is not here is silent. Of RTU pymodbus does not see the end of 18 and 08/00; in ASCII it ends
its frames with LF, whatever it tells the other end."""


def free_port(scheme: str) -> int:
    kind = socket.SOCK_DGRAM if scheme == "udp" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def ports() -> dict[str, int]:
    return {scheme: free_port(scheme) for scheme in LEFT_OUT}


@pytest.fixture(scope="module")
def device(ports: dict[str, int], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    """``everbus serve`` on all of them, and on TCP to look at what they have done."""
    urls = [f"{scheme}://127.0.0.1:{port}" for scheme, port in ports.items()]
    with everbus_serve(tmp_path_factory.mktemp("served"), *urls) as started:
        yield started


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("scheme", LEFT_OUT)
def test_pymodbus(ports: dict[str, int], device: Device, scheme: str, mode: str) -> None:
    unit = device.fresh_unit()
    kinds = PYMODBUS_CLIENT.kinds - LEFT_OUT[scheme]
    steps = steps_for(kinds, refuses=READS)
    command = (python_with(PYMODBUS), PEERS / "pymodbus_client.py", mode)
    assert peer_answers(command, f"{scheme}:{ports[scheme]}", unit, steps) == answers(steps)
    left = effects(kinds)
    assert run(device.port, left, unit) == answers(left)


def exchange(scheme: str, port: int, unit: int, pdus: list[bytes]) -> None:
    """Send requests in the frames of a transport, each once the one before is answered."""
    kind = socket.SOCK_DGRAM if scheme == "udp" else socket.SOCK_STREAM
    outgoing, incoming = (MbapFramer(),) * 2 if scheme == "udp" else (RtuFramer("request"), RtuFramer("response"))
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.settimeout(10)
        sock.connect(("127.0.0.1", port))
        for number, pdu in enumerate(pdus):
            sock.sendall(outgoing.encode(unit, pdu, number))
            frames: list[Frame] = []
            while not frames:
                frames = incoming.feed(sock.recv(300))


@pytest.mark.parametrize(("scheme", "rule"), [("udp", "udp.port=={},mbudp"), ("rtu+tcp", "tcp.port=={},mbrtu")])
def test_wireshark_reads_every_frame(
    ports: dict[str, int], device: Device, tmp_path: Path, scheme: str, rule: str
) -> None:
    needs("tshark", "dumpcap", package="tshark")
    unit, port, file = device.fresh_unit(), ports[scheme], tmp_path / "recorded.pcap"
    steps = [step for step in PLAN if step.kind in PLAIN and not step.far]
    pdus = [request_of(step).encode() for step in steps] + [LAST]
    with capturing(port, file, scheme.rpartition("+")[2]):
        exchange(scheme, port, unit, pdus)
        wait_for(LAST, file, times=2)
    dissect = ["tshark", "-r", str(file), "-d", rule.format(port), "-o", "mbrtu.crc_verification:TRUE"]
    heads = ["mbtcp.trans_id", "mbtcp.unit_id", "mbrtu.unit_id", "modbus.func_code"]
    wanted = [option for field in (*heads, "mbrtu.crc16.status", "_ws.malformed") for option in ("-e", field)]
    shown = subprocess.run(
        [*dissect, "-Y", "mbudp or mbrtu", "-T", "fields", *wanted], capture_output=True, text=True, check=True
    )
    found = [line.split("\t") for line in shown.stdout.splitlines()]
    twice = [(number, pdu[0]) for number, pdu in enumerate(pdus) for _ in ("request", "response")]
    ids = scheme == "udp"
    assert [line[:4] for line in found] == [
        [str(number) if ids else "", str(unit) if ids else "", "" if ids else str(unit), str(code)]
        for number, code in twice
    ]
    assert {tuple(line[4:]) for line in found} == {("", "") if ids else ("1", "")}, (
        "the CRC is right, nothing is malformed"
    )
