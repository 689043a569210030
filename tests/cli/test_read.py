from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, NamedTuple

import pytest

from everbus.cli.main import run
from everbus.service.bank import Bank
from everbus.testing import ScriptedPeer
from everbus.testing.scripted import Step, answer, close, exception, pdu, raw, silent, wrong_function

POINT_KEYS = ["point", "table", "address", "reference", "type", "value", "raw", "quality", "timestamp"]


class Said(NamedTuple):
    """How a command ended, and the device's view of it."""

    code: int
    out: str
    err: str
    peer: ScriptedPeer

    @property
    def document(self) -> dict[str, Any]:
        def invalid(constant: str) -> None:
            raise AssertionError(f"{constant} is no JSON")

        found: dict[str, Any] = json.loads(self.out, parse_constant=invalid)
        return found


Read = Callable[..., Said]


def bank() -> Bank:
    device = Bank(holding_registers=[(0, 10), (20, 10)], coils=8)
    device.write_holding_registers(0, [1, 2, 0x41AA, 0x6666, 0x6162, 0x6300, 0x7F80, 0, 0x7FC0, 0])
    device.write_coils(0, [1, 0, 1])
    return device


@pytest.fixture
def read(capsys: pytest.CaptureFixture[str]) -> Read:
    """Run ``everbus read`` on a device with a script."""

    def call(*arguments: str, script: Iterable[Step] | Step = ()) -> Said:
        with ScriptedPeer(script, device=bank()) as peer:
            code = run(["read", peer.url, *arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return Said(code, out, err, peer)

    return call


# --- what is read ------------------------------------------------------------------------------


def test_a_line_for_each_point_in_the_order_asked(read: Read) -> None:
    said = read("h@2/f32", "c@0:3", "ref:40001:2", "i@7", "h@4:2/string", "h@6:2/f32")
    assert said.code == 0
    assert said.err == ""
    assert said.out.splitlines() == [
        "h@2/f32       400003  21.3   41AA 6666",
        "c@0:3         000001  1 0 1",
        "h@0:2         400001  1 2    0001 0002",
        "i@7           300008  0      0000",
        "h@4:2/string  400005  abc    6162 6300",
        "h@6:2/f32     400007  inf -  7F80 0000 7FC0 0000",
    ]
    assert len(said.peer.requests) == 3  # neighbours share a request


def test_a_long_list_is_several_lines_that_say_where_they_begin(read: Read) -> None:
    said = read("3/i@5:12", "c@0", "i@100:11/u32", "d@0:21")
    assert said.code == 0
    assert [line.split()[:2] for line in said.out.splitlines()] == [
        *(["3/i@5:10", "300006"], ["3/i@15:2", "300016"], ["c@0", "000001"]),
        *(["i@100:10/u32", "300101"], ["i@120/u32", "300121"]),
        *(["d@0:10", "100001"], ["d@10:10", "100011"], ["d@20", "100021"]),
    ]
    assert [len(line.split()) - 2 for line in said.out.splitlines()] == [20, 4, 1, 30, 3, 10, 10, 1]


def test_for_programs(read: Read) -> None:
    said = read("h@2/f32", "c@0", "h@6:2/f32", "--json")
    assert (said.code, said.err) == (0, "")
    assert said.out.count("\n") == 1
    document = said.document
    assert list(document) == ["ok", "points"]
    assert document["ok"] is True
    real, coil, special = document["points"]
    assert [list(point) for point in document["points"]] == [POINT_KEYS] * 3
    assert (real["point"], real["table"], real["address"], real["reference"]) == ("h@2/f32", "holding", 2, "400003")
    assert (real["type"], real["raw"], real["quality"]) == ("f32", [0x41AA, 0x6666], "GOOD")
    assert real["value"] == pytest.approx(21.3)
    assert datetime.fromisoformat(real["timestamp"]).tzinfo is not None
    assert (coil["value"], coil["raw"]) == (True, [1])
    assert (special["value"], special["quality"]) == ([None, None], "NO_DATA")


def test_the_unit_is_an_option_or_the_points_own(read: Read) -> None:
    said = read("h@0", "7/h@0", "--unit", "3")
    assert said.code == 0
    assert sorted(received.frame.unit for received in said.peer.requests) == [3, 7]


def test_a_read_is_repeated_as_often_as_told(read: Read) -> None:
    assert read("h@0", "--timeout", "0.1", script=[silent]).code == 0
    said = read("h@0", "--timeout", "0.1", "--retries", "0", script=[silent])
    assert (said.code, len(said.peer.requests)) == (4, 1)


# --- what cannot be read -----------------------------------------------------------------------


def test_exception_02_says_what_why_and_what_to_try(read: Read) -> None:
    said = read("h@500")
    assert (said.code, said.out) == (1, "")
    line, hint = said.err.splitlines()
    assert line.startswith("error: h@500: unit 1 of tcp://127.0.0.1:")
    assert line.endswith("exception 02: illegal data address")
    assert hint == (
        "  try: h@499 (reference 400500), if your manual counts from 1; "
        "holding register 500 (reference 400501) is not served"
    )


def test_exception_02_for_programs(read: Read) -> None:
    said = read("h@500", "--json")
    document = said.document
    assert (said.code, document["ok"]) == (1, False)
    error = document["error"]
    assert (error["kind"], error["code"], error["exception"]) == ("modbus_exception", 1, 2)
    assert "illegal data address" in error["message"]
    (point,) = document["points"]
    assert (point["value"], point["raw"], point["quality"], point["error"]) == (None, [], "MISSING", error)
    assert f"  try: {error['hint']}\n" in said.err
    assert error["hint"].startswith("h@499 ")


def test_some_read_and_some_not(read: Read) -> None:
    said = read("h@9", "h@10", "h@20")
    assert said.code == 7
    assert [line.split() for line in said.out.splitlines()] == [
        ["h@9", "400010", "0", "0000"],
        ["h@20", "400021", "0", "0000"],
    ]
    assert said.err.startswith("error: h@10: ")


def test_points_of_one_request_share_their_error_wherever_they_stand(read: Read) -> None:
    said = read("h@0", "c@0", "h@1", script=[answer, exception(4)])
    assert (said.code, said.err.count("error: ")) == (7, 1)
    assert said.err.startswith("error: h@0, h@1: ")


def test_some_read_and_some_not_for_programs(read: Read) -> None:
    said = read("h@0", "h@10", "--json")
    document = said.document
    assert (said.code, document["ok"]) == (7, False)
    assert (document["error"]["kind"], document["error"]["code"]) == ("partial", 7)
    assert document["error"]["message"].startswith("1 of 2 points could not be read; the first: unit 1 of tcp://")
    assert [(point["value"], point["quality"]) for point in document["points"]] == [(1, "GOOD"), (None, "MISSING")]
    assert "error" not in document["points"][0]


@pytest.mark.parametrize(
    ("script", "code", "kind", "words"),
    [
        (exception(4), 1, "modbus_exception", "exception 04"),
        (silent, 4, "timeout", "did not answer"),
        (close, 3, "cannot_connect", "was ended by the peer"),
        (wrong_function(4), 5, "protocol", "function 04"),
        (raw(b"HTTP/1.1 400 Bad Request\r\n\r\n"), 5, "protocol", "not_modbus"),
    ],
)
def test_how_it_ends_when_nothing_can_be_read(script: Step, code: int, kind: str, words: str, read: Read) -> None:
    said = read("h@0", "h@1", "--retries", "0", "--timeout", "0.1", "--json", script=script)
    assert said.code == code
    assert (said.document["error"]["kind"], said.document["error"]["code"]) == (kind, code)
    assert words in said.document["error"]["message"]
    assert len(said.document["points"]) == 2
    assert said.err.startswith("error: h@0, h@1: ")  # one request, one line
    assert said.err.count("error: ") == 1


def test_one_function_that_fails_and_one_that_does_not(read: Read) -> None:
    said = read("c@0", "h@0", "--retries", "0", script=[answer, wrong_function(4)])
    assert said.code == 7
    assert said.out.split() == ["c@0", "000001", "1"]
    assert said.err.startswith("error: h@0: ")
    assert "function 04 answers 03" in said.err


def test_what_is_no_value_of_the_type_keeps_its_registers(read: Read) -> None:
    said = read("h@0/bcd", "--json", script=pdu(b"\x03\x02\xff\xff"))
    assert said.code == 5
    (point,) = said.document["points"]
    assert (point["value"], point["raw"], point["quality"]) == (None, [0xFFFF], "BAD")


def test_a_device_cannot_drive_the_terminal(read: Read) -> None:
    said = read("h@0:3/string", script=pdu(b"\x03\x06\x1b[2J\x00\x00"))
    assert said.code == 0
    assert "\x1b" not in said.out
    assert r"\x1b[2J" in said.out


def test_nobody_there(capsys: pytest.CaptureFixture[str]) -> None:
    with ScriptedPeer() as peer:
        url = peer.url
    assert run(["read", url, "h@0", "--json"]) == 3
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert (document["ok"], document["error"]["kind"], document["error"]["code"]) == (False, "cannot_connect", 3)
    assert err.startswith(f"error: cannot connect to {url}: nobody listens there")


@pytest.mark.parametrize(("point", "code"), [("h@0", 0), ("h@10", 7)])
def test_a_reader_that_went_away_changes_nothing(point: str, code: int) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with ScriptedPeer(device=bank()) as peer:
        command = [sys.executable, "-m", "everbus", "read", peer.url, "c@0", point]
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    os.close(writer)
    assert done.returncode == code
    assert done.stderr.count("error: ") == bool(code)
    assert "Traceback" not in done.stderr


# --- wrong command lines -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Missing argument 'POINT...'"),
        (["h@0", "nonsense"], "point 'nonsense': it names no table; try h@100"),
        (["40001"], "ref:40001 if it is a reference number"),
        (["h@0=1"], "only a place is wanted"),
        (["h@65536"], "65536"),
        (["h@0", "--unit", "256"], "--unit"),
        (["h@0", "--timeout", "0"], "timeout_s is a time above 0 s"),
        (["h@0", "--retries", "-1"], "--retries"),
    ],
)
def test_a_mistake_is_told_before_anything_is_sent(arguments: list[str], words: str, read: Read) -> None:
    said = read(*arguments)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("error: ")
    assert words in said.err
    assert said.err.splitlines()[-1] == "  try: everbus read --help"
    assert said.peer.connections == 0
    told = read(*arguments, "--json").document
    assert (told["ok"], told["error"]["kind"], told["error"]["code"]) == (False, "usage", 2)


def test_an_endpoint_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["read", "foo://192.0.2.7", "h@0"]) == 2
    assert capsys.readouterr().err.startswith("error: 'foo://192.0.2.7': scheme 'foo'")


def test_it_does_without_an_event_loop() -> None:
    program = """
import sys
from everbus.cli.entry import main
assert main(["read", sys.argv[1], "h@0"]) == 0
assert "asyncio" not in sys.modules
"""
    with ScriptedPeer(device=bank()) as peer:
        command = [sys.executable, "-c", program, peer.url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["h@0", "400001", "1", "0001"]
