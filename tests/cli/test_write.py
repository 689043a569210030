from __future__ import annotations

import io
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import pytest

from everbus.cli.main import run
from everbus.service.bank import Bank
from everbus.testing import ScriptedPeer
from everbus.testing.scripted import Step, Turn, answer, close, exception, pdu, silent, wrong_echo


class Said(NamedTuple):
    """How a command ended, and what the device got and holds."""

    code: int
    out: str
    err: str
    sent: list[str]
    device: Bank

    @property
    def document(self) -> dict[str, Any]:
        def invalid(constant: str) -> None:
            raise AssertionError(f"{constant} is no JSON")

        found: dict[str, Any] = json.loads(self.out, parse_constant=invalid)
        return found


Write = Callable[..., Said]


@pytest.fixture
def write(capsys: pytest.CaptureFixture[str]) -> Write:
    """Run ``everbus write`` on a device with a script."""

    def call(*arguments: str, script: Iterable[Step] | Step = ()) -> Said:
        device = Bank(holding_registers=10, coils=8)
        with ScriptedPeer(script, device=device) as peer:
            code = run(["write", peer.url, *arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return Said(code, out, err, [received.frame.pdu.hex() for received in peer.requests], device)

    return call


class Terminal(io.StringIO):
    """Somebody who types this."""

    def isatty(self) -> bool:
        return True


# --- what is written ---------------------------------------------------------------------------


def test_each_point_is_one_request_in_their_order(write: Write) -> None:
    said = write("h@4:2=1,0x10", "c@3=on", "h@0/f32=21.5", "h@9=7", "--yes")
    assert (said.code, said.err) == (0, "")
    assert said.out.splitlines() == [
        "h@4:2    400005  1 16",
        "c@3      000004  1",
        "h@0/f32  400001  21.5",
        "h@9      400010  7",
    ]
    assert said.sent == ["1000040002040001" + "0010", "050003ff00", "100000000204" + "41ac0000", "0600090007"]
    assert said.device.read_holding_registers(0, 10) == [0x41AC, 0, 0, 0, 1, 16, 0, 0, 0, 7]
    assert said.device.read_coils(3) == [True]


def test_for_programs(write: Write) -> None:
    said = write("h@9=7", "3/c@1=0", "--yes", "--json")
    assert (said.code, said.err) == (0, "")
    assert said.document == {
        "ok": True,
        "points": [
            {"point": "h@9", "table": "holding", "address": 9, "reference": "400010", "type": "u16", "value": 7},
            {"point": "3/c@1", "table": "coil", "address": 1, "reference": "000002", "type": "bool", "value": False},
        ],
    }


@pytest.mark.parametrize(
    "assignment",
    [
        *("h@0=65535", "h@0/i16=-5", "h@0/f32=21.3", "h@0/f32=nan", "h@0/f64=inf", "h@0:4/string=abc", "h@0/u16.3=1"),
        *("c@0:3=1,0,1", "c@0=yes", "h@0:2/f32=1.1,-0.1", "h@0:2/bytes=00ff1020", "h@0:2/bcd=12345678"),
    ],
)
def test_what_was_written_is_verified(assignment: str, write: Write) -> None:
    said = write(assignment, "--yes", "--verify", "--json")
    assert said.code == 0
    assert len(said.sent) == 2
    assert [point["verified"] for point in said.document["points"]] == [True]


# --- asking first ------------------------------------------------------------------------------


def test_nobody_to_ask(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    for nobody in (io.StringIO("y\n"), None):
        monkeypatch.setattr(sys, "stdin", nobody)
        said = write("h@0=1")
        assert (said.code, said.out, said.sent) == (2, "", [])
        assert "stdin is no terminal" in said.err
        assert said.err.splitlines()[-1] == "  try: --yes, or --dry-run"
    told = write("h@0=1", "--json")
    assert (told.code, told.document["error"]["kind"], told.document["error"]["code"]) == (2, "usage", 2)


def test_on_a_terminal_it_asks(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    said = write("h@0=0x10", "c@1=on", "--unit", "3", "--json")
    assert said.code == 0
    assert said.document["ok"] is True  # the question is not on stdout
    first, second, question = said.err.splitlines()
    assert first == "h@0 (holding register 0, reference 400001) = 16"
    assert second == "c@1 (coil 1, reference 000002) = 1"
    assert question.startswith("Write this to unit 3 of tcp://127.0.0.1:")
    assert len(said.sent) == 2


@pytest.mark.parametrize("typed", ["n\n", "\n", ""])
def test_whatever_is_not_yes_is_no(typed: str, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(typed))
    said = write("h@0=1", "--json")
    assert (said.code, said.sent) == (130, [])
    assert (said.document["ok"], said.document["error"]["kind"]) == (False, "interrupted")


def test_a_dry_run_sends_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["write", "192.0.2.7", "h@100=42", "c@0:3=1,0,1", "h@0/f32=nan", "--dry-run"]
    assert run(arguments) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "h@100    400101  42     060064002A",
        "c@0:3    000001  1 0 1  0F000000030105",
        "h@0/f32  400001  nan    1000000002047FC00000",
    ]
    assert err == ""
    assert run([*arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["ok"], document["dry_run"]) == (True, True)
    assert [(point["value"], point["pdu"]) for point in document["points"]] == [
        (42, "060064002A"),
        ([True, False, True], "0F000000030105"),
        (None, "1000000002047FC00000"),
    ]


# --- what cannot be written --------------------------------------------------------------------


def test_exception_02_says_what_why_and_what_to_try(write: Write) -> None:
    said = write("h@500=1", "--yes")
    assert (said.code, said.out) == (1, "")
    line, hint = said.err.splitlines()
    assert line.startswith("error: h@500: unit 1 of tcp://127.0.0.1:")
    assert line.endswith("exception 02: illegal data address")
    assert hint.startswith("  try: h@499 (reference 400500)")


@pytest.mark.parametrize(
    ("script", "code", "kind", "words"),
    [
        (exception(2), 1, "modbus_exception", "h@1: unit 1"),
        (silent, 4, "timeout", "h@1 may have been written or not: unit 1"),
        (close, 3, "cannot_connect", "h@1 may have been written or not: the connection"),
        (wrong_echo("value"), 5, "protocol", "h@1: "),
    ],
)
def test_how_it_ends_when_nothing_was_written(script: Step, code: int, kind: str, words: str, write: Write) -> None:
    said = write("h@1=2", "--yes", "--timeout", "0.1", "--json", script=script)
    assert said.code == code
    assert len(said.sent) == 1  # a write is not repeated
    error = said.document["error"]
    assert (error["kind"], error["code"], error.get("exception")) == (kind, code, 2 if code == 1 else None)
    assert error["message"].startswith(words)
    assert said.document["points"] == []
    assert said.err.startswith(f"error: {words}")


def test_the_first_that_fails_ends_it(write: Write) -> None:
    said = write("h@0=1", "h@10=2", "c@0=1", "--yes")
    assert (said.code, len(said.sent)) == (7, 2)
    assert said.out.split() == ["h@0", "400001", "1"]
    assert "illegal data address (1 of 3 points were written)" in said.err
    assert "try: h@9" in said.err


def test_the_first_that_fails_ends_it_for_programs(write: Write) -> None:
    said = write("h@0=1", "h@10=2", "c@0=1", "--yes", "--json")
    document = said.document
    assert (said.code, document["ok"]) == (7, False)
    assert (document["error"]["kind"], document["error"]["code"], document["error"]["exception"]) == ("partial", 7, 2)
    assert [point["point"] for point in document["points"]] == ["h@0"]


def test_none_of_several_written_is_not_partial(write: Write) -> None:
    said = write("h@10=2", "c@0=1", "--yes")
    assert said.code == 1
    assert "(0 of 2 points were written)" in said.err


def test_a_device_that_holds_something_else(write: Write) -> None:
    script = [answer, answer, answer, pdu(b"\x03\x02\x00\x05")]
    said = write("h@0=1", "h@1/f16=21.3", "h@2=3", "--yes", "--verify", script=script)
    assert (said.code, len(said.sent)) == (6, 4)
    assert said.out.split() == ["h@0", "400001", "1"]
    assert said.err.startswith("error: h@1/f16: the device confirmed 21.3, and holds 2.98e-07 (2 of 3 points were")
    assert "  try: what the device's manual allows" in said.err


def test_a_device_that_holds_something_else_for_programs(write: Write) -> None:
    said = write("h@0/f32=1.5", "--yes", "--verify", "--json", script=[answer, pdu(b"\x03\x04\x7f\xc0\x00\x00")])
    document = said.document
    assert (said.code, document["ok"]) == (6, False)
    assert (document["error"]["kind"], document["error"]["code"]) == ("not_verified", 6)
    assert document["error"]["message"] == "h@0/f32: the device confirmed 1.5, and holds not available"
    assert document["points"][0]["verified"] is False


def test_what_cannot_be_read_back_is_not_verified(write: Write) -> None:
    said = write("h@0=1", "--yes", "--verify", "--json", script=[answer, exception(2)])
    assert said.code == 6
    assert said.document["error"]["kind"] == "not_verified"
    assert said.document["error"]["message"].startswith("h@0: it was written, and cannot be read back: unit 1")
    assert said.device.read_holding_registers(0) == [1]


def test_an_interrupt_tells_what_was_written(write: Write) -> None:
    main = threading.main_thread().ident
    assert main is not None

    def interrupt(turn: Turn) -> None:
        signal.pthread_kill(main, signal.SIGINT)

    said = write("h@0=1", "h@1=2", "h@2=3", "--yes", "--json", script=[answer, interrupt])
    document = said.document
    assert (said.code, len(said.sent)) == (130, 2)
    assert (document["ok"], document["error"]["kind"], document["error"]["code"]) == (False, "interrupted", 130)
    assert "h@1 may have been written or not (1 of 3 points were written)" in said.err
    assert [point["point"] for point in document["points"]] == ["h@0"]


# --- wrong command lines -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Missing argument"),
        (["h@0"], "there is no value in it; try h@0=1"),
        (["i@0=1"], "input registers are only read"),
        (["c@0=1", "h@0=70000"], "70000 does not fit u16: it holds whole numbers of 0..65535"),
        (["h@0:200=" + ",".join("1" * 200)], "one request writes at most 123"),
        (["h@0:2=1"], "takes 2 of them"),
        (["h@0=1", "--timeout", "-1"], "timeout_s is a time above 0 s"),
    ],
)
@pytest.mark.parametrize("how", ["--yes", "--dry-run"])
def test_a_mistake_is_told_before_anything_is_sent(arguments: list[str], words: str, how: str, write: Write) -> None:
    said = write(*arguments, how)
    assert (said.code, said.out, said.sent) == (2, "", [])
    assert words in said.err
    assert said.err.splitlines()[-1] == "  try: everbus write --help"


def test_nobody_there(capsys: pytest.CaptureFixture[str]) -> None:
    with ScriptedPeer() as peer:
        url = peer.url
    assert run(["write", url, "h@0=1", "--yes", "--json"]) == 3
    out, err = capsys.readouterr()
    assert json.loads(out)["error"]["kind"] == "cannot_connect"
    assert err.startswith(f"error: cannot connect to {url}")


def test_an_endpoint_that_is_none_is_told_even_in_a_dry_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["write", "foo://192.0.2.7", "h@0=1", "--dry-run"]) == 2
    assert capsys.readouterr().err.startswith("error: 'foo://192.0.2.7': scheme 'foo'")
