"""Serial lines: foreign clients on a pseudo-terminal, with ``everbus serve`` at its other end."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.interop.ours import answers, run
from tests.interop.plan import READS, coils, discrete_inputs, effects, holding_registers, input_registers, steps_for
from tests.interop.stacks import LIBMODBUS_CLIENT, PYMODBUS_CLIENT
from tests.interop.support import PEERS, Device, everbus_serve, needs, peer_answers, python_with
from tests.interop.test_libmodbus import TOO_MANY, c_answers, compiled
from tests.ports import Cable
from tools.environments import PYMODBUS

pytestmark = [pytest.mark.interop, pytest.mark.timeout(300)]

SILENT: Final = {"listen_only", "other_unit"}
"""Answered over TCP alone."""

NOT_DECODED: Final = {"fifo", "query_data"}
"""Answers that pymodbus receives and does not see the end of: 18, and 08/00 with several words."""

TOO_SHORT: Final = ["custom", "03000000"]
"""Over TCP a request that lacks a byte is answered with exception 03; on a line it is no frame."""

VALUE: Final = re.compile(r"^\[(\d+)\]:\s+(\S+)", re.MULTILINE)
TABLES: Final = {"0": coils, "1": discrete_inputs, "3": input_registers, "4": holding_registers}


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cable]:
    cable = Cable(tmp_path_factory.mktemp("line"))
    yield cable
    cable.close()


@pytest.fixture(scope="module")
def device(line: Cable, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    """``everbus serve`` at the near end, and on TCP to look at what the line has done."""
    url = f"rtu://{line.near}?baudrate=115200&parity=N"
    with everbus_serve(tmp_path_factory.mktemp("served"), url) as started:
        yield started


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_pymodbus(line: Cable, device: Device, mode: str) -> None:
    unit = device.fresh_unit()
    steps = steps_for(PYMODBUS_CLIENT.kinds - SILENT - NOT_DECODED, refuses=READS)
    python = python_with(PYMODBUS.replace("==", "[serial]=="))
    assert peer_answers([python, PEERS / "pymodbus_client.py", mode], line.far, unit, steps) == answers(steps)
    left = effects(PYMODBUS_CLIENT.kinds)
    assert run(device.port, left, unit) == answers(left)


def test_libmodbus(line: Cable, device: Device, tmp_path: Path) -> None:
    unit = device.fresh_unit()
    plan = steps_for(LIBMODBUS_CLIENT.kinds - SILENT, but=TOO_MANY)
    steps = [step for step in plan if step.call != TOO_SHORT]
    assert c_answers(compiled(tmp_path) / "client", line.far, unit, steps) == answers(steps)
    left = effects(LIBMODBUS_CLIENT.kinds)
    assert run(device.port, left, unit) == answers(left)


def mbpoll(line: Cable, unit: int, *options: str, write: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run it once, addresses from 0."""
    needs("mbpoll", package="mbpoll")
    frame = ["-m", "rtu", "-b", "115200", "-P", "none", "-a", str(unit), "-0", "-1", "-o", "1"]
    command = ["mbpoll", *frame, *options, str(line.far), *write]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)


@pytest.mark.parametrize("table", TABLES)
def test_mbpoll_reads(line: Cable, device: Device, table: str) -> None:
    done = mbpoll(line, device.fresh_unit(), "-t", table, "-r", "107", "-c", "100")
    found = {int(address): value for address, value in VALUE.findall(done.stdout)}
    assert found == {107 + at: str(value) for at, value in enumerate(TABLES[table](107, 100))}


def test_mbpoll_writes(line: Cable, device: Device) -> None:
    unit = device.fresh_unit()
    assert mbpoll(line, unit, "-t", "4", "-r", "440", write=("1", "65535", "258")).returncode == 0
    done = mbpoll(line, unit, "-t", "4", "-r", "440", "-c", "3")
    assert VALUE.findall(done.stdout) == [("440", "1"), ("441", "65535"), ("442", "258")]


def test_mbpoll_hears_nothing_from_a_unit_that_is_not_here(line: Cable, device: Device) -> None:
    done = mbpoll(line, 240, "-r", "0")
    assert "timed out" in done.stdout + done.stderr
