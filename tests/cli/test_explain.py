from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from everbus.cli.main import run

VECTORS: list[dict[str, Any]] = json.loads((Path(__file__).parents[1] / "data" / "vectors.json").read_bytes())
ADUS = [vector for vector in VECTORS if vector["kind"] == "adu"]

READ = "1103006B00037687"
SAID = {
    "ok": True,
    "valid": True,
    "framing": "rtu",
    "transaction": None,
    "unit": 17,
    "pdu": "03006B0003",
    "direction": "request",
    "function": 3,
    "name": "read holding registers",
    "fields": {"address": 107, "quantity": 3},
}


@pytest.fixture
def explain(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run ``everbus explain``; return its exit code, stdout and stderr."""

    def call(*arguments: str) -> tuple[int, str, str]:
        code = run(["explain", *arguments])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out, said.err

    return call


@pytest.fixture
def lines(explain: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run ``everbus explain -`` on these lines; return its exit code and what it said of each."""

    def call(text: bytes, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
        code, out, err = explain(*arguments, "-")
        assert err == ""
        return code, [json.loads(line) for line in out.splitlines()]

    return call


# --- what is given -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["1103006B00037687"],
        ["1103006b00037687"],
        ["11 03 00 6B 00 03 76 87"],
        ["11", "03", "006B", "0003", "7687"],
        ["11:03:00:6B:00:03:76:87"],
        ["11-03-00-6B-00-03-76-87"],
        ["0x11, 0x03, 0x00, 0x6B, 0x00, 0x03, 0x76, 0x87"],
        ["0x11,0x3,0x0,0x6b,0x0,0x3,0x76,0x87"],
        ["0x1103006B00037687"],
        ["{0x11, 0x03, 0x00, 0x6B, 0x00, 0x03, 0x76, 0x87};"],
        ["['11', '03', '00', '6B', '00', '03', '76', '87']"],
        ["1103 006B\n0003\r\n7687"],
        [r"\x11\x03\x00\x6b\x00\x03\x76\x87"],
        [r"b'\x11\x03\x00k\x00\x03v\x87'"],
        [r'b"\x11\x03\x00k\x00\x03v\x87"'],
        ['"1103006B00037687"'],
    ],
)
def test_bytes_are_read_as_people_write_them(explain: Any, arguments: list[str]) -> None:
    code, out, _ = explain("--json", *arguments)
    assert (code, json.loads(out)) == (0, SAID)


@pytest.mark.parametrize(
    "text",
    [
        ":1103006B00037E",
        ":1103006B00037E\r\n",
        r":1103006B00037E\r\n",
        r":1103006B00037E\\r\\n",
        '":1103006B00037E"',
        "3A31313033303036423030303337450D0A",
    ],
)
def test_an_ascii_frame_is_read_as_its_text(explain: Any, text: str) -> None:
    code, out, _ = explain("--json", text)
    assert (code, json.loads(out)) == (0, SAID | {"framing": "ascii"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (r":1103006B00037E\n", "LF without the CR before it"),
        (":1103006b00037e", "'b' is lower case"),
        (":1103 006B00037E", "' ' is not a hexadecimal digit"),
    ],
)
def test_an_ascii_frame_is_taken_literally(explain: Any, text: str, message: str) -> None:
    code, out, _ = explain("--json", text)
    assert code == 5
    assert message in json.loads(out)["error"]["message"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["zz"], "'z' is not a hexadecimal digit"),
        (["11 03 0"], "5 digits are not whole bytes"),
        (["11", "-"], "- reads frames from stdin and stands alone"),
        (["b'11"], "is not a bytes literal of Python"),
        (["b'a' 'b'"], "is not a bytes literal of Python"),
        (["b'1', 1"], "is not a bytes literal of Python"),
        (["b'\N{DEGREE SIGN}'"], "is not a bytes literal of Python"),
        ([":11\N{EURO SIGN}"], r"'\u20ac' is no character of a Modbus ASCII frame"),
        (["\N{FULLWIDTH DIGIT ONE}1"], r"'\uff11' is not a hexadecimal digit"),
        ([], "Missing argument 'HEX|-'."),
        (["--framing", "udp", READ], "'udp' is not one of"),
        (["--direction", "line", READ], "'line' is not one of"),
        (["--nothing", READ], "No such option"),
    ],
)
def test_what_is_no_frame_is_a_mistake_of_usage(explain: Any, arguments: list[str], message: str) -> None:
    code, out, err = explain(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert "try: " in err
    code, out, _ = explain("--json", *arguments)
    said = json.loads(out)
    assert (code, said["ok"], said["error"]["kind"], said["error"]["code"]) == (2, False, "usage", 2)
    assert message in said["error"]["message"]


def test_an_empty_frame_is_not_valid(explain: Any) -> None:
    code, out, _ = explain("--json", "")
    assert (code, json.loads(out)["valid"]) == (5, False)


# --- what machines read ------------------------------------------------------------------------


@pytest.mark.parametrize("vector", ADUS, ids=lambda vector: str(vector["name"]))
def test_every_frame_of_the_vectors(explain: Any, vector: dict[str, Any]) -> None:
    how = ["--framing", vector["framing"], "--direction", vector["direction"]]
    code, out, err = explain("--json", *how, vector["adu_hex"])
    said = json.loads(out)
    assert (code, said["ok"], said["valid"], err) == (0 if vector["valid"] else 5, *[vector["valid"]] * 2, "")
    assert (said["framing"], said["direction"]) == (vector["framing"], vector["direction"])
    if vector["valid"]:
        assert (said["unit"], said["transaction"]) == (vector["unit"], vector["transaction"])
        assert said["pdu"] == vector["pdu_hex"]
        assert "error" not in said
    else:
        assert (said["error"]["kind"], said["error"]["code"]) == ("protocol", 5)
        assert said["error"]["message"]


def test_an_exception_has_its_codes_in_the_fields(explain: Any) -> None:
    code, out, _ = explain("--json", "118302C134")
    said = json.loads(out)
    assert (code, said["direction"], said["function"], said["name"]) == (0, "response", 3, "read holding registers")
    assert said["fields"] == {"function": 3, "exception_code": 2}


# --- a frame a line ----------------------------------------------------------------------------


def test_one_document_for_each_line(lines: Any) -> None:
    code, said = lines(f"{READ}\n\n# a comment\r\n  {READ}  # and another\r\n:1103006B00037E\r\n".encode())
    assert (code, said) == (0, [SAID, SAID, SAID | {"framing": "ascii"}])
    assert lines(b"") == (0, [])


def test_a_line_that_is_not_valid_is_told_and_the_next_one_read(lines: Any) -> None:
    code, said = lines(f"1103006B00037688\nzz\n\xb0\n{READ}\n".encode("latin-1"))
    assert code == 5
    assert [document["valid"] for document in said] == [False, False, False, True]
    assert said[1]["error"] == {"kind": "usage", "code": 2, "message": "line 2: 'z' is not a hexadecimal digit"}
    assert lines(b"zz\n")[0] == 5


def test_options_hold_for_every_line(lines: Any) -> None:
    code, said = lines(b"0600010003\n0600010003\n", "--framing", "pdu", "--direction", "response")
    assert code == 0
    assert [document["direction"] for document in said] == ["response", "response"]


def test_a_line_without_end_is_bounded(lines: Any) -> None:
    code, said = lines(b"00" * 100_000 + b"\n" + READ.encode() + b"\n")
    assert code == 5
    assert [document["valid"] for document in said] == [False, True]


def test_thousands_of_lines_a_second(lines: Any) -> None:
    started = time.process_time()
    _, said = lines(f"{READ}\n".encode() * 3000)
    assert len(said) == 3000
    assert time.process_time() - started < 3


def test_lines_are_answered_as_they_come_and_a_closed_pipe_is_quiet() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "everbus", "explain", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        for _ in range(2):
            process.stdin.write(READ.encode() + b"\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline()) == SAID
        process.stdout.close()
        process.stdin.write(READ.encode() + b"\n")
        process.stdin.flush()
        assert process.wait(20) == 0
        assert process.stderr.read() == b""
        process.stdin.close()


def test_nobody_reads_any_more(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    given = io.BytesIO(f"{READ}\n".encode() * 5)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(given))
    monkeypatch.setattr(sys, "stdout", Closed())
    assert run(["explain", "-"]) == 0
    assert given.tell() == len(READ) + 1
    assert capsys.readouterr().err == ""


def test_without_stdin_there_is_nothing_to_read(explain: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    code, _, err = explain("-")
    assert code == 2
    assert "stdin is closed" in err


# --- what people read --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "texts"),
    [
        (
            ["150100000006FF0300040001"],
            0,
            [
                "Modbus TCP (MBAP) request",
                "0  15 01        transaction  5377",
                "2  00 00        protocol     Modbus",
                "4  00 06        length       6 bytes",
                "6  FF           unit         255",
                "7  03           function     read holding registers",
                "8  00 04 00 01  data         4 bytes",
                "address   holding register 4 = reference 400005",
                "quantity  1: holding register 4 = reference 400005",
                "valid: one Modbus TCP (MBAP) request and nothing else",
            ],
        ),
        (
            ["1103006B00037688"],
            5,
            [
                "76 88        CRC       wrong, 76 87 would be right",
                "holding registers 107..109 = references 400108..400110",
                "not valid: byte 6: CRC 7688 is wrong",
                "taken for RTU, which fits best",
            ],
        ),
        (
            ["--framing", "rtu", "0006FFFF0003"],
            5,
            ["unit      0: broadcast, nobody answers", "not valid: cut off"],
        ),
        (["--framing", "rtu", "0107"], 5, ["01 07", "too short for unit, function code and CRC"]),
        (["FF03007C0002100D"], 0, ["255: reserved on serial lines", "CRC       right"]),
        (
            ["118302C134"],
            0,
            [
                "RTU exception",
                "exception of read holding registers",
                "exception_code  02 illegal data address",
                "try: not all of these addresses exist",
            ],
        ),
        (["8380"], 0, ["80 vendor code 80", "try: the device's manual"]),
        (
            [":1103006B00037F"],
            5,
            ["0  :         start", "1  11        unit      17", "13  7F        LRC       wrong, 7E would be right"],
        ),
        ([":0107F8"], 0, ["5  F8    LRC       right", r"7  \r\n  end       CR and LF"]),
        ([":0107G8"], 5, [r":0107G8\r\n", "no whole line of digits", "'G' is not a hexadecimal digit"]),
        ([":0107F8:"], 5, ["no whole line of digits"]),
        (["--framing", "ascii", "3131"], 5, ["no whole line of digits"]),
        (
            ["--framing", "mbap", "00010001000611030000"],
            5,
            ["not Modbus, that is 0000", "6 bytes, 4 follow", "protocol id 0001"],
        ),
        (["0001 0000 0006"], 5, ["transaction  1", "6 bytes, 0 follow", "cut off"]),
        (["0500ACFF00"], 0, ["coil 172 = reference 000173", "FF00 on"]),
        (["0500AC1234"], 5, ["1234", "neither FF00 (on) nor 0000 (off)"]),
        (["0600010064"], 0, ["value    100 (hex 64)"]),
        (["01 0103 CD6B 05"], 5, ["taken for"]),
        (["0103CD6B05"], 0, ["bits        10110011 11010110 10100000"]),
        (["0306022B00000064"], 0, ["registers   555 0 100"]),
        (["0100000000"], 5, ["quantity  0", "quantity 0 is outside 1..2000"]),
        (["170003000600 0E 0003 06 00FF00FF00FF"], 0, ["6: holding registers 3..8 = references 400004..400009"]),
        (["410102"], 0, ["function 41", "raw  410102"]),
        (
            ["140E0600040001000206000300090002"],
            0,
            ["ref_type 6, file 4, record 1, length 2", "ref_type 6, file 3, record 9, length 2"],
        ),
        (
            ["2B0E018100000200031B5B4A8001FF"],
            0,
            [r"id 0 (VendorName), length 3, value_ascii \x1b[J", "id 128, length 1, value_hex ff"],
        ),
    ],
)
def test_people_see(explain: Any, arguments: list[str], code: int, texts: list[str]) -> None:
    result, out, err = explain(*arguments)
    assert (result, err) == (code, "")
    for text in texts:
        assert text in out
    assert "\x1b" not in out


def test_long_frames_are_shown_in_lines_of_eight_bytes(explain: Any) -> None:
    _, out, _ = explain("03FA" + "1234" * 125)
    assert out.count("34 12 34 12 34 12 34 12") == 30


def test_help_shows_examples(explain: Any) -> None:
    code, out, _ = explain("--help")
    assert code == 0
    assert "everbus explain 000100000006010300000001" in out
    assert "not valid" in out
