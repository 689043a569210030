from __future__ import annotations

import json
from typing import Any

import pytest

from everbus.cli.main import run
from everbus.maps.datatypes import DataType, Value
from everbus.maps.notation import parse_point
from everbus.maps.points import Point, Table
from everbus.protocol.values import AddressRange, unpack_registers
from everbus.service.bank import Bank
from everbus.testing import ScriptedPeer, scripted


def holding(*values: tuple[str, Value], ranges: list[AddressRange] | None = None) -> Bank:
    bank = Bank(holding_registers=ranges)
    for text, value in values:
        point = parse_point(text)
        bank.write_holding_registers(point.address, unpack_registers(point.encode(value)))
    return bank


def probed(capsys: pytest.CaptureFixture[str], device: Bank, point: str) -> dict[str, Any]:
    with ScriptedPeer(device=device) as peer:
        assert run(["probe", peer.url, point, "--json"]) == 0
        assert len(peer.requests) == 1
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(
    ("true", "value"),
    [
        ("h@100/f32:CDAB", 21.5),
        ("h@99/f32", 230.25),
        ("h@101/f32:DCBA", -40.125),
        ("h@100/i32:BADC", -123456),
        ("h@101/u64:CDAB", 98765432101),
        ("h@99/f64:BADC", 0.001),
        ("h@100:2/bcd:CDAB", 12345678),
        ("h@99:BADC", 230),
        ("h@101/f16", 21.5),
        ("h@100:4/string:BADC", "SN-0815"),
    ],
)
def test_what_it_is_is_among_what_it_can_be(true: str, value: Value, capsys: pytest.CaptureFixture[str]) -> None:
    found = probed(capsys, holding((true, value)), "h@100")
    (right,) = [each for each in found["values"] if each["point"] == true]
    assert (right["value"], right["plausible"]) == (value, True)


@pytest.mark.parametrize("wrong", ["h@100/f32", "h@100/i32", "h@100/u32:CDAB", "h@100/f64", "h@101/i16", "h@99/f32"])
def test_a_wrong_guess_is_mostly_not_plausible(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = probed(capsys, holding(("h@100/f32:CDAB", 21.3)), "h@100")
    named = {str(parse_point(each["point"])): each for each in found["values"]}
    assert named[wrong]["plausible"] is False


def test_every_type_and_order_is_there_at_three_addresses(capsys: pytest.CaptureFixture[str]) -> None:
    found = probed(capsys, Bank(), "i@100/f32:CDAB")
    assert {each["address"] for each in found["values"]} == {99, 100, 101}
    assert {each["type"] for each in found["values"]} == set(DataType) - {"bool", "bytes"}
    for kind in ("i32", "u32", "f32", "i64", "u64", "f64"):
        orders = [each["order"] for each in found["values"] if each["type"] == kind and each["address"] == 100]
        assert orders == ["ABCD", "CDAB", "BADC", "DCBA"]
    assert not any(each["plausible"] for each in found["values"])  # zeros say nothing
    assert [each["address"] for each in found["registers"]] == list(range(99, 105))
    first = found["registers"][0]
    assert first == {"address": 99, "reference": "300100", "raw": 0}


@pytest.mark.parametrize(("point", "first", "last"), [("h@0", 0, 4), ("h@65535", 65534, 65535)])
def test_at_the_ends_of_the_table_there_are_fewer(
    point: str, first: int, last: int, capsys: pytest.CaptureFixture[str]
) -> None:
    addresses = [each["address"] for each in probed(capsys, Bank(), point)["registers"]]
    assert (addresses[0], addresses[-1]) == (first, last)


@pytest.mark.parametrize(
    ("registers", "notation"),
    [([0x7F80, 0], "f32"), ([0x7FC0, 0], "f32"), ([0, 1], "f32"), ([0xABCD], "bcd"), ([0x0001], "f16")],
    ids=["infinite", "not a number", "denormal", "no digits", "denormal half"],
)
def test_what_no_device_says_is_not_plausible(
    registers: list[int], notation: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bank = Bank()
    bank.write_holding_registers(7, registers)
    named = {each["point"]: each for each in probed(capsys, bank, "h@7")["values"]}
    assert named[f"h@7/{notation}"]["plausible"] is False
    if registers[0] in (0x7F80, 0x7FC0, 0xABCD):
        assert named[f"h@7/{notation}"]["value"] is None


def test_the_table_has_a_column_for_each_address(capsys: pytest.CaptureFixture[str]) -> None:
    with ScriptedPeer(device=holding(("h@100/f32:CDAB", 21.3), ("h@102:2/bytes", b"\x1b[3m"))) as peer:
        assert run(["probe", peer.url, "h@100"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert err == ""
    assert lines[0].split() == ["h@99", "(400100)", "h@100", "(400101)", "h@101", "(400102)"]
    assert lines[1].split() == ["register", "0000", "6666", "41AA"]
    (right,) = [line for line in lines if line.startswith("/f32:CDAB")]
    assert right.split()[2:4] == ["21.3", "*"]
    assert "\x1b" not in out
    assert max(map(len, lines)) <= 120


def test_what_cannot_be_read_is_told_and_the_rest_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    device = holding(("h@99/u16", 230), ranges=[AddressRange(90, 10)])
    with ScriptedPeer(device=device) as peer:
        assert run(["probe", peer.url, "h@100"]) == 0
        out, err = capsys.readouterr()
        assert run(["probe", peer.url, "h@100", "--json"]) == 0
    (value,) = [line for line in out.splitlines() if line.startswith("/u16 ")]
    assert value.split() == ["/u16", "230", "*"]
    assert [line.partition(": ")[0] for line in err.splitlines()] == ["h@100", "h@101"]
    found = json.loads(capsys.readouterr().out)
    assert [each["raw"] for each in found["registers"]] == [230, None, None, None, None, None]
    assert found["registers"][1]["error"]["exception"] == 2
    assert {each["address"] for each in found["values"]} == {99}


def test_the_unit_of_the_point_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    with ScriptedPeer() as peer:
        assert run(["probe", peer.url, "7/i@3", "--json"]) == 0
        assert [(each.frame.unit, each.frame.pdu[0]) for each in peer.requests] == [(7, 4)]
    assert json.loads(capsys.readouterr().out)["values"][0]["point"].startswith("7/i@2")


def test_nothing_can_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    with ScriptedPeer(scripted.exception(2)) as peer:
        assert run(["probe", peer.url, "h@100", "--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["error"]["kind"] == "modbus_exception"
    assert "400101" in err  # the reference number of what was asked for


@pytest.mark.parametrize("point", ["c@5", "d@0", "x@1", "h@100=1"])
def test_what_has_no_registers_is_a_usage_error(point: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["probe", "tcp://127.0.0.1:1", point, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["kind"] == "usage"


def test_points_are_as_read_takes_them(capsys: pytest.CaptureFixture[str]) -> None:
    for each in probed(capsys, Bank(), "h@5")["values"]:
        point = parse_point(each["point"])
        assert point == Point(Table.HOLDING, each["address"], type=each["type"], count=each["count"], order=point.order)
        assert str(point.order) == each["order"]
