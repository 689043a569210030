"""mbpoll, Debian's command line client: what people try first."""

from __future__ import annotations

import re
import subprocess
from typing import Any, Final

import pytest

from everbus.protocol.pdu.bits import ReadCoilsRequest, ReadCoilsResponse
from everbus.protocol.pdu.registers import ReadHoldingRegistersRequest, ReadHoldingRegistersResponse
from everbus.sync.client import Client
from tests.interop.plan import ITEMS, coils, discrete_inputs, holding_registers, input_registers
from tests.interop.support import Device, needs

pytestmark = pytest.mark.interop

VALUE: Final = re.compile(r"^\[(\d+)\]:\s+(\S+)", re.MULTILINE)
TABLES: Final = {"0": coils, "1": discrete_inputs, "3": input_registers, "4": holding_registers}


@pytest.fixture(autouse=True)
def installed() -> None:
    needs("mbpoll", package="mbpoll")


@pytest.fixture(scope="module")
def unit(device: Device) -> int:
    return device.fresh_unit()


def mbpoll(device: Device, unit: int, *options: str, write: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run it once, addresses from 0."""
    # fmt: off
    command = [
        "mbpoll", "-m", "tcp", "-p", str(device.port), "-a", str(unit), "-0", "-1", "-o", "5", *options,
        "127.0.0.1", *write,
    ]
    # fmt: on
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)


def values(done: subprocess.CompletedProcess[str]) -> dict[int, str]:
    """What it has read, by address."""
    assert done.returncode == 0, done.stdout + done.stderr
    return {int(address): value for address, value in VALUE.findall(done.stdout)}


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(("address", "count"), [(0, 1), (107, 3), (ITEMS - 125, 125)])
def test_reads(device: Device, unit: int, table: str, address: int, count: int) -> None:
    found = values(mbpoll(device, unit, "-t", table, "-r", str(address), "-c", str(count)))
    assert found == {address + at: str(value) for at, value in enumerate(TABLES[table](address, count))}


def test_reads_hexadecimal(device: Device, unit: int) -> None:
    found = values(mbpoll(device, unit, "-t", "3:hex", "-r", "10", "-c", "2"))
    assert found == {10: "0x0048", 11: "0x004F"}


@pytest.mark.parametrize(
    ("kind", "order", "text", "registers"),
    [
        ("4:int", ["-B"], "305419896", [0x1234, 0x5678]),
        ("4:int", [], "305419896", [0x5678, 0x1234]),
        ("4:float", ["-B"], "123456", [0x47F1, 0x2000]),
        ("4:float", [], "123456", [0x2000, 0x47F1]),
    ],
)
def test_types_of_two_registers(
    device: Device, unit: int, kind: str, order: list[str], text: str, registers: list[int]
) -> None:
    assert mbpoll(device, unit, "-t", kind, "-r", "420", *order, write=(text,)).returncode == 0
    assert holding(device, unit, 420, 2) == registers
    assert values(mbpoll(device, unit, "-t", kind, "-r", "420", *order)) == {420: text}


@pytest.mark.parametrize("bits", [("1",), ("1", "0", "1", "1", "0", "1", "0", "0", "1")])
def test_writes_coils(device: Device, unit: int, bits: tuple[str, ...]) -> None:
    """One with 05, several with 0F."""
    assert mbpoll(device, unit, "-t", "0", "-r", "301", write=bits).returncode == 0
    with Client(f"tcp://127.0.0.1:{device.port}") as client:
        response = client.call(ReadCoilsRequest(301, len(bits)), unit)
    assert isinstance(response, ReadCoilsResponse)
    assert response.bits[: len(bits)] == [bit == "1" for bit in bits]


@pytest.mark.parametrize("words", [("4660",), ("1", "65535", "258")])
def test_writes_registers(device: Device, unit: int, words: tuple[str, ...]) -> None:
    """One with 06, several with 10."""
    assert mbpoll(device, unit, "-t", "4", "-r", "440", write=words).returncode == 0
    assert holding(device, unit, 440, len(words)) == [int(word) for word in words]


@pytest.mark.parametrize("table", TABLES)
def test_says_that_an_address_does_not_exist(device: Device, unit: int, table: str) -> None:
    done = mbpoll(device, unit, "-t", table, "-r", str(ITEMS - 1), "-c", "2")
    assert "Illegal data address" in done.stdout + done.stderr


@pytest.mark.parametrize("table", ["0", "4"])
def test_says_that_an_address_cannot_be_written(device: Device, unit: int, table: str) -> None:
    done = mbpoll(device, unit, "-t", table, "-r", str(ITEMS), write=("1",))
    assert done.returncode != 0
    assert "Illegal data address" in done.stdout + done.stderr


def test_says_that_nobody_answers_for_a_unit(device: Device) -> None:
    done = mbpoll(device, 240, "-r", "0")
    assert "Target device failed to respond" in done.stdout + done.stderr


def test_polls_again(device: Device, unit: int) -> None:
    """Without ``-1`` it goes on until it is interrupted."""
    with subprocess.Popen(
        ["mbpoll", "-p", str(device.port), "-a", str(unit), "-0", "-r", "0", "-l", "20", "127.0.0.1"],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        seen: list[Any] = []
        try:
            while len(seen) < 3:
                seen += VALUE.findall(process.stdout.readline())
        finally:
            process.kill()
    assert seen == [("0", "1")] * 3


def holding(device: Device, unit: int, address: int, count: int) -> list[int]:
    with Client(f"tcp://127.0.0.1:{device.port}") as client:
        response = client.call(ReadHoldingRegistersRequest(address, count), unit)
    assert isinstance(response, ReadHoldingRegistersResponse)
    return response.registers
