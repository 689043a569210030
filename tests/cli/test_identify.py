from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from everbus.cli.main import run
from everbus.protocol.codes import FunctionCode
from everbus.protocol.values import AddressRange
from everbus.service.bank import Bank
from everbus.service.identification import Identification
from everbus.service.local import LocalDevice
from everbus.testing import ScriptedPeer, scripted
from everbus.testing.scripted import Step, Turn

SERVER_ID = FunctionCode.REPORT_SERVER_ID
IDENTIFICATION = FunctionCode.ENCAPSULATED_INTERFACE


def by_function(**steps: Step) -> Step:
    """A step for each function code by the name of its constant here; the truth otherwise."""
    chosen = {int(globals()[name]): step for name, step in steps.items()}
    return lambda turn: chosen.get(turn.frame.pdu[0], scripted.answer)(turn)


def registers(text: bytes, count: int) -> list[int]:
    data = text.ljust(2 * count, b"\0")
    return [int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2)]


def sunspec(address: int, model: int = 1, *, holding: list[AddressRange] | None = None) -> Bank:
    bank = Bank(holding_registers=holding)
    plate = [*registers(b"SunS", 2), model, 66, *registers(b"Acme", 16), *registers(b"Inverter \x1b[31m", 16)]
    plate += [*registers(b"opt", 8), *registers(b"1.2", 8), *registers(b"SN 0815", 16)]
    bank.write_holding_registers(address, plate)
    return bank


def identify(device: LocalDevice | Bank, step: Step = scripted.answer, *options: str) -> int:
    with ScriptedPeer(step, device=device) as peer:
        return run(["identify", peer.url, "--timeout", "0.2", "--retries", "0", *options])


@pytest.fixture
def parts(capsys: pytest.CaptureFixture[str]) -> Callable[[], list[dict[str, Any]]]:
    def read() -> list[dict[str, Any]]:
        found = json.loads(capsys.readouterr().out)["parts"]
        assert isinstance(found, list)
        return found

    return read


def test_a_device_that_says_everything(capsys: pytest.CaptureFixture[str]) -> None:
    said = Identification("Acme", "AC-1", "1.2", {0x05: "Meter", 0x80: b"\xff\x00\x01"})
    assert identify(LocalDevice(sunspec(40000), identification=said, server_id=b"acme")) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert [re.split(r"\s{2,}", line, maxsplit=2) for line in out.splitlines()] == [
        ["11", "server id", r"acme\xff  (61 63 6d 65 ff)"],
        ["2B/0E", "vendor name", "Acme"],
        ["2B/0E", "product code", "AC-1"],
        ["2B/0E", "revision", "1.2"],
        ["2B/0E", "model name", "Meter"],
        ["2B/0E", "object 80", r"\xff\x00\x01"],
        ["SunSpec", "marker", "holding register 40000 (reference 440001)"],
        ["SunSpec", "manufacturer", "Acme"],
        ["SunSpec", "model", r"Inverter \x1b[31m"],
        ["SunSpec", "options", "opt"],
        ["SunSpec", "version", "1.2"],
        ["SunSpec", "serial", "SN 0815"],
    ]


def test_what_is_refused_is_told_and_the_next_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    step = by_function(SERVER_ID=scripted.exception(1), IDENTIFICATION=scripted.silent)
    bank = sunspec(50000, holding=[AddressRange(0, 10), AddressRange(50000, 100)])
    assert identify(LocalDevice(bank), step) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("refused, exception 01: illegal function")
    assert lines[1].split() == ["2B/0E", "basic", "silent"]
    assert lines[2].startswith("SunSpec  holding register 40000 (reference 440001)")
    assert lines[2].endswith("refused, exception 02: illegal data address")
    assert lines[3].endswith("no marker")
    assert lines[4].endswith("holding register 50000 (reference 450001)")


def test_the_document_has_a_part_for_each_question(parts: Callable[[], list[dict[str, Any]]]) -> None:
    step = by_function(SERVER_ID=scripted.exception(1))
    assert identify(LocalDevice(identification=Identification("Acme")), step, "--json") == 0
    found = parts()
    assert [(part["source"], part["what"].partition(" (")[0], part["found"]) for part in found] == [
        ("11", "server id", False),
        ("2B/0E", "basic", True),
        ("2B/0E", "regular", True),
        ("2B/0E", "extended", True),
        ("SunSpec", "holding register 40000", False),
        ("SunSpec", "holding register 0", False),
        ("SunSpec", "holding register 50000", False),
    ]
    assert found[0]["error"]["exception"] == 1
    assert found[1]["objects"][0] == {"id": 0, "name": "vendor name", "text": "Acme", "data": b"Acme".hex()}
    assert found[2]["objects"] == []


def test_levels_are_asked_until_one_is_refused(parts: Callable[[], list[dict[str, Any]]]) -> None:
    def basic_only(turn: Turn) -> None:
        higher = turn.frame.pdu[0] == IDENTIFICATION and turn.frame.pdu[2] > 1
        (scripted.exception(3) if higher else scripted.answer)(turn)

    assert identify(LocalDevice(), basic_only, "--json") == 0
    assert [part["what"] for part in parts() if part["source"] == "2B/0E"] == ["basic", "regular"]


def test_a_marker_without_the_common_model(parts: Callable[[], list[dict[str, Any]]]) -> None:
    assert identify(sunspec(0, model=64110), scripted.answer, "--json") == 0
    marker = parts()[-1]
    assert (marker["address"], marker["reference"], marker["first_model"]) == (0, "400001", 64110)
    assert "manufacturer" not in marker


@pytest.mark.parametrize(
    ("ranges", "manufacturer"),
    [([AddressRange(40000, 3), AddressRange(40004, 16)], "Acme"), ([AddressRange(40000, 2)], None)],
    ids=["a part of it", "nothing of it"],
)
def test_a_common_model_that_cannot_be_read_leaves_the_marker(
    ranges: list[AddressRange], manufacturer: str | None, parts: Callable[[], list[dict[str, Any]]]
) -> None:
    bank = Bank(holding_registers=ranges)
    bank.write_holding_registers(40000, registers(b"SunS", 2))
    if manufacturer:
        bank.write_holding_registers(40002, [1])
        bank.write_holding_registers(40004, registers(manufacturer.encode(), 16))
    assert identify(bank, scripted.answer, "--json") == 0
    marker = parts()[-1]
    assert (marker["found"], marker.get("manufacturer"), marker["error"]["exception"]) == (True, manufacturer, 2)
    assert "serial" not in marker


@pytest.mark.parametrize(
    ("step", "code", "kind", "asked"),
    [
        (scripted.exception(1), 1, "modbus_exception", 5),
        (scripted.silent, 4, "timeout", 3),
        (scripted.wrong_unit(9), 5, "protocol", 5),
    ],
)
def test_a_device_that_says_nothing(
    step: Step, code: int, kind: str, asked: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert identify(LocalDevice(), step, "--json", "--timeout", "0.04") == code
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert (document["ok"], document["error"]["kind"], document["error"]["code"]) == (False, kind, code)
    assert len(document["parts"]) == asked
    assert err.startswith("error: the device does not say what it is; the first answer: ")


def test_a_device_that_goes_in_the_middle_leaves_what_it_said(parts: Callable[[], list[dict[str, Any]]]) -> None:
    assert identify(LocalDevice(), by_function(IDENTIFICATION=scripted.restart(60.0)), "--json") == 0
    assert [(part["what"], part["found"]) for part in parts()] == [
        ("server id", True),
        ("basic", False),
        ("marker", False),
    ]


def test_it_asks_the_unit(parts: Callable[[], list[dict[str, Any]]]) -> None:
    with ScriptedPeer() as peer:
        assert run(["identify", peer.url, "--unit", "7", "--json"]) == 0
        assert {each.frame.unit for each in peer.requests} == {7}
    assert parts()


def test_nobody_listens(capsys: pytest.CaptureFixture[str]) -> None:
    with ScriptedPeer() as peer:
        peer.stop_listening()
        assert run(["identify", peer.url, "--json", "--timeout", "0.2"]) == 3
    assert json.loads(capsys.readouterr().out)["error"]["kind"] == "cannot_connect"
