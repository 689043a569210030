from __future__ import annotations

import json
import signal
import threading
from time import monotonic

import pytest

from everbus.cli.main import run
from everbus.cli.scan import command
from everbus.service.bank import Bank
from everbus.service.units import Units, UnknownUnit
from everbus.testing import ScriptedPeer, scripted
from everbus.testing.scripted import Step, Turn

MAIN = threading.main_thread()
QUICK = ("--rate", "1000", "--timeout", "0.1")


def by_unit(steps: dict[int, Step], otherwise: Step) -> Step:
    return lambda turn: steps.get(turn.frame.unit, otherwise)(turn)


def only_function_11(turn: Turn) -> None:
    (scripted.answer if turn.frame.pdu[0] == 0x11 else scripted.exception(2))(turn)


MIXED = by_unit(
    {
        2: scripted.exception(1),
        3: scripted.silent,
        4: scripted.exception(0x0B),
        5: scripted.exception(0x0A),
        6: only_function_11,
        7: scripted.wrong_unit(9),
        8: scripted.close,
    },
    scripted.answer,
)


def scan(url: str, *arguments: str) -> int:
    return run(["scan", url, *QUICK, *arguments])


def test_each_unit_is_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    with ScriptedPeer(MIXED) as peer:
        assert scan(peer.url, "--units", "1-9", "--json") == 0
        assert [each.frame.pdu[0] for each in peer.requests if each.frame.unit == 6] == [3, 0x11]
        assert [each.frame.pdu[0] for each in peer.requests if each.frame.unit in (3, 4, 5)] == [3, 3, 3]
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert err == ""
    assert [(unit["unit"], unit["outcome"], unit["there"]) for unit in document["units"]] == [
        (1, "answered", True),
        (2, "exception", True),
        (3, "silent", False),
        (4, "gateway exception", False),
        (5, "gateway exception", False),
        (6, "answered", True),
        (7, "wrong answer", True),
        (8, "connection lost", False),
        (9, "answered", True),
    ]
    first, second, third, _, _, sixth, *_ = document["units"]
    assert first["register"] == 0
    assert (second["error"]["kind"], second["error"]["exception"]) == ("modbus_exception", 1)
    assert third["error"]["kind"] == "timeout"
    assert bytes.fromhex(sixth["server_id"]) == b"everbus\xff"
    assert (document["ok"], document["ignores_unit"]) == (True, False)


def test_units_of_which_there_is_the_same_to_say_share_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    device = Bank()
    device.write_holding_registers(0, [17])
    with ScriptedPeer(device=Units({3: device, 4: device}, UnknownUnit.TARGET_FAILED)) as peer:
        assert scan(peer.url, "--units", "1,3-4,6-8") == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "1    gateway exception  exception 0B: gateway target failed to respond",
        "3-4  answered           holding register 0 (reference 400001) is 17",
        "6-8  gateway exception  exception 0B: gateway target failed to respond",
    ]
    assert err == "2 of 6 units are there\n"


def test_a_device_that_ignores_the_unit_is_said_to(capsys: pytest.CaptureFixture[str]) -> None:
    with ScriptedPeer() as peer:
        assert scan(peer.url) == 0
        assert [each.frame.unit for each in peer.requests] == list(range(1, 248))
    out, err = capsys.readouterr()
    assert out == "1-247  answered  holding register 0 (reference 400001) is 0\n"
    assert "247 of 247 units are there" in err
    assert "the device ignores the unit" in err


@pytest.mark.parametrize(("units", "ignores"), [("1-33", True), ("1-32", False)])
def test_more_units_than_a_line_has_are_one_device(
    units: str, ignores: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    def counting(turn: Turn) -> None:
        scripted.pdu(bytes([3, 2, 0, turn.number]))(turn)

    with ScriptedPeer(counting) as peer:
        assert scan(peer.url, "--units", units, "--json") == 0
    assert json.loads(capsys.readouterr().out)["ignores_unit"] is ignores


@pytest.mark.parametrize(
    ("step", "code", "kind"),
    [(scripted.silent, 4, "timeout"), (scripted.exception(0x0B), 1, "modbus_exception")],
)
def test_nobody_is_there(step: Step, code: int, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    with ScriptedPeer(step) as peer:
        assert scan(peer.url, "--units", "1-2", "--json", "--timeout", "0.02") == code
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert (document["ok"], document["error"]["kind"], document["error"]["code"]) == (False, kind, code)
    assert len(document["units"]) == 2
    assert err.startswith("error: none of 2 units is there; the first such: unit 1 of tcp://")
    assert "try: other --units, or a longer --timeout" in err


def test_late_answers_are_no_answers_and_told(capsys: pytest.CaptureFixture[str]) -> None:
    with ScriptedPeer(by_unit({1: scripted.glued}, scripted.answer)) as peer:
        assert scan(peer.url, "--units", "1-3") == 0
    out, err = capsys.readouterr()
    assert [line.split()[:2] for line in out.splitlines()] == [["1", "silent"], ["2-3", "answered"]]
    assert "answers that came too late: 1; a longer --timeout may find more" in err


def test_where_only_late_answers_came_the_hint_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    def refused_behind_the_late_one(turn: Turn) -> None:
        turn.send(turn.adu(bytes([0x83, 0x0B])))

    with ScriptedPeer(by_unit({1: scripted.glued}, refused_behind_the_late_one)) as peer:
        assert scan(peer.url, "--units", "1-3") == 1
    assert "try: a longer --timeout: answers came too late" in capsys.readouterr().err


def test_a_unit_that_refuses_the_register_says_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with ScriptedPeer(only_function_11) as peer:
        assert scan(peer.url, "--units", "1") == 0
    line = r"1  answered  server id 'everbus\xff'; holding register 0: exception 02: illegal data address"
    assert capsys.readouterr().out == f"{line}\n"


def test_units_that_answer_differently_are_not_one_device(capsys: pytest.CaptureFixture[str]) -> None:
    with ScriptedPeer(by_unit({2: scripted.wrong_unit(9)}, scripted.answer)) as peer:
        assert scan(peer.url, "--units", "1-2") == 0
    out, err = capsys.readouterr()
    line = out.splitlines()[1]
    assert line.startswith("2  wrong answer  ")
    assert line.endswith("unit 9 answers a request to unit 2")
    assert err == "2 of 2 units are there\n"


def test_the_rate_is_kept() -> None:
    with ScriptedPeer() as peer:
        begin = monotonic()
        assert run(["scan", peer.url, "--units", "1-5", "--rate", "50"]) == 0
    assert monotonic() - begin >= 0.08


def test_a_rate_is_a_number(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["scan", "tcp://127.0.0.1:1", "--rate", "nan"]) == 2
    assert "nan is not a number" in capsys.readouterr().err


def test_nobody_listens(capsys: pytest.CaptureFixture[str]) -> None:
    with ScriptedPeer() as peer:
        peer.stop_listening()
        assert scan(peer.url, "--json") == 3
    assert json.loads(capsys.readouterr().out)["error"]["kind"] == "cannot_connect"


def test_a_device_that_goes_for_good_leaves_what_was_found(capsys: pytest.CaptureFixture[str]) -> None:
    with ScriptedPeer(by_unit({2: scripted.restart(60.0)}, scripted.answer)) as peer:
        assert scan(peer.url, "--units", "1-5", "--json") == 7
    document = json.loads(capsys.readouterr().out)
    assert [unit["outcome"] for unit in document["units"]] == ["answered", "connection lost"]
    assert "(2 of 5 units were asked before it)" in document["error"]["message"]


def test_ctrl_c_leaves_what_was_found(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(turn: Turn) -> None:
        assert MAIN.ident is not None
        signal.pthread_kill(MAIN.ident, signal.SIGINT)

    with ScriptedPeer(by_unit({3: interrupt}, scripted.answer)) as peer:
        assert run(["scan", peer.url, "--rate", "1000", "--timeout", "5", "--units", "1-5", "--json"]) == 130
    document = json.loads(capsys.readouterr().out)
    assert [unit["unit"] for unit in document["units"]] == [1, 2]
    assert document["error"]["kind"] == "interrupted"


@pytest.mark.parametrize("units", ["", "x", "5-1", "1-256", "1,,2", "-1"])
def test_wrong_units_are_a_usage_error(units: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["scan", "tcp://127.0.0.1:1", "--units", units]) == 2
    assert "ranges of 0..255" in capsys.readouterr().err


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_goes_to_a_terminal_only(
    terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")  # how somebody says that what looks like a file is a terminal
    with ScriptedPeer() as peer:
        assert command.main([peer.url, "--units", "1"], standalone_mode=False) == 0
    out, err = capsys.readouterr()
    assert ("scanning" in err) is terminal
    assert "scanning" not in out
    assert err.endswith("1 of 1 units are there\n")


def test_what_is_not_modbus_gets_another_hint(capsys: pytest.CaptureFixture[str]) -> None:
    with ScriptedPeer(scripted.raw(b"HTTP/1.0 400 Bad Request\r\n\r\n")) as peer:
        assert scan(peer.url, "--units", "1") == 5
    assert "try: rtu+tcp:// in place of tcp://" in capsys.readouterr().err
