from __future__ import annotations

import json
import math
import struct
from datetime import UTC, datetime, timedelta, timezone

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everbus.cli.asking import (
    advice,
    client_options,
    error_document,
    exit_code,
    failure_of,
    json_value,
    open_client,
    readings_document,
    shown,
)
from everbus.errors import (
    ConnectError,
    ConnectionLostError,
    ExceptionResponseError,
    FramingError,
    MismatchError,
    ModbusError,
    ModbusTimeoutError,
    PeerError,
    UsageError,
)
from everbus.maps.datatypes import Value
from everbus.maps.notation import parse_point
from everbus.maps.planner import Reading

NOON = datetime(2026, 11, 25, 12, 0, 0, 500, UTC)


def not_modbus() -> ConnectionLostError:
    error = ConnectionLostError("the connection was ended (not_modbus)")
    error.__cause__ = FramingError("protocol_id", "protocol id 5454 is not 0000")
    return error


# --- values ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("point", "value", "text", "document"),
    [
        ("h@0", 42, "42", 42),
        ("c@0", True, "1", True),
        ("c@0:3", [True, False, True], "1 0 1", [True, False, True]),
        ("h@0:2/f32", [1.5, None], "1.5 -", [1.5, None]),
        ("h@0/f32", None, "not available", None),
        ("h@0/f32", math.inf, "inf", None),
        ("h@0:2/f64", [-math.inf, math.nan], "-inf nan", [None, None]),
        ("h@0:2/bytes", b"\x00\xff\x10\x20", "00ff1020", "00ff1020"),
        ("h@0:2/string", "Zähler", "Zähler", "Zähler"),
        ("h@0:2/string", "\x1b[2J", r"'\x1b[2J'", "\x1b[2J"),
        ("h@0/u64", 2**64 - 1, "18446744073709551615", 2**64 - 1),
        ("h@0/f32", struct.unpack(">f", struct.pack(">f", 21.3))[0], "21.3", 21.299999237060547),
        ("h@0/f16", 0.0999755859375, "0.1", 0.0999755859375),
        ("h@0/f64", 21.299999237060547, "21.299999237060547", 21.299999237060547),
        ("h@0/f32", 100.0, "100.0", 100.0),
    ],
)
def test_a_value_for_people_and_for_programs(point: str, value: Value, text: str, document: object) -> None:
    assert shown(parse_point(point), value) == text
    assert json.loads(json.dumps(json_value(value), allow_nan=False)) == document


@pytest.mark.parametrize(("kind", "layout"), [("f16", ">e"), ("f32", ">f"), ("f64", ">d")])
@settings(max_examples=40)
@given(data=st.binary(min_size=8, max_size=8))
def test_a_float_as_it_is_shown_is_the_same_float(kind: str, layout: str, data: bytes) -> None:
    (value,) = struct.unpack_from(layout, data)
    if not math.isnan(value):
        assert struct.pack(layout, float(shown(parse_point(f"h@0/{kind}"), value))) == struct.pack(layout, value)


@pytest.mark.parametrize(("kind", "value"), [("f16", 65504.0), ("f32", 2147483648.0), ("f32", 3.4028234663852886e38)])
def test_a_whole_number_is_shown_to_its_last_digit(kind: str, value: float) -> None:
    assert float(shown(parse_point(f"h@0/{kind}"), value)) == value


# --- readings ----------------------------------------------------------------------------------


def test_a_reading_for_programs() -> None:
    at = NOON.astimezone(timezone(timedelta(hours=1)))
    document = readings_document([Reading(parse_point("3/i@9:2/f32:CDAB"), [1.5, 2.0], (0, 1, 2, 3))], at)
    assert document == {
        "ok": True,
        "points": [
            {
                "point": "3/i@9:2/f32:CDAB",
                "table": "input",
                "address": 9,
                "reference": "300010",
                "type": "f32",
                "value": [1.5, 2.0],
                "raw": [0, 1, 2, 3],
                "quality": "GOOD",
                "timestamp": "2026-11-25T12:00:00.000+00:00",
            }
        ],
    }


@pytest.mark.parametrize(
    ("reading", "quality"),
    [
        (Reading(parse_point("h@0"), 0, (0,)), "GOOD"),
        (Reading(parse_point("c@0"), False, (0,)), "GOOD"),
        (Reading(parse_point("h@0/f32"), None, (0x7FC0, 0)), "NO_DATA"),
        (Reading(parse_point("h@0/f32"), math.inf, (0x7F80, 0)), "NO_DATA"),
        (Reading(parse_point("h@0:2/f32"), [1.5, None], (0x3FC0, 0, 0x7FC0, 0)), "NO_DATA"),
        (Reading(parse_point("h@0"), error=ExceptionResponseError(2, 3)), "MISSING"),
        (Reading(parse_point("h@0"), error=ExceptionResponseError(4, 3)), "REFUSED"),
        (Reading(parse_point("h@0"), error=ModbusTimeoutError("late")), "OFFLINE"),
        (Reading(parse_point("h@0"), error=ConnectionLostError("gone")), "OFFLINE"),
        (Reading(parse_point("h@0/bcd"), raw=(0xFFFF,), error=PeerError("no digit")), "BAD"),
    ],
)
def test_the_quality_of_a_reading(reading: Reading, quality: str) -> None:
    (document,) = json.loads(json.dumps(readings_document([reading], NOON), allow_nan=False))["points"]
    assert document["quality"] == quality
    assert ("error" in document) == (reading.error is not None)
    assert document["raw"] == list(reading.raw)


# --- failures ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "kind"),
    [
        (ExceptionResponseError(2, 3), 1, "modbus_exception"),
        (ModbusTimeoutError("late"), 4, "timeout"),
        (ConnectError("nobody"), 3, "cannot_connect"),
        (ConnectionLostError("gone"), 3, "cannot_connect"),
        (not_modbus(), 5, "protocol"),
        (MismatchError("another function"), 5, "protocol"),
    ],
)
def test_how_an_error_ends_a_command(error: ModbusError, code: int, kind: str) -> None:
    assert exit_code(error) == (code, kind)
    failure = failure_of(error, [parse_point("h@500")])
    assert (failure.code, failure.kind, failure.message) == (code, kind, str(error))
    document = error_document(error)
    assert (document["code"], document["kind"], document["message"]) == (code, kind, str(error))
    assert document.get("exception") == (2 if code == 1 else None)
    assert "hint" not in document
    assert failure.document() == (document | {"hint": failure.hint} if failure.hint else document)


@pytest.mark.parametrize(
    ("point", "hints"),
    [
        ("h@500", ["h@499 (reference 400500)", "counts from 1", "holding register 500 (reference 400501) is not"]),
        ("3/i@20/f32:CDAB", ["3/i@19/f32:CDAB (reference 300020)", "input registers 20 to 21 (references 300021 to"]),
        ("c@8:4", ["c@7:4 (reference 000008)", "coils 8 to 11 (references 000009 to 000012)"]),
        ("d@0", ["another table", "discrete input 0 (reference 100001)"]),
        ("h@40001", ["ref:40001", "holding register 40001 (reference 440002)"]),
        ("i@40001", ["i@40000"]),
    ],
)
def test_where_a_missing_point_may_be(point: str, hints: list[str]) -> None:
    text = advice(ExceptionResponseError(2, 3), [parse_point(point)])
    assert [hint for hint in hints if hint not in text] == []


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (ExceptionResponseError(1, 4), "another table: the device has no input registers"),
        (ExceptionResponseError(1, 0x16), "the whole register"),
        (ExceptionResponseError(3, 4), "fewer at once"),
        (ExceptionResponseError(3, 6), "another value"),
        (ExceptionResponseError(0x0A, 4), "another --unit: the gateway"),
        (ExceptionResponseError(0x0B, 4), "another --unit: the gateway"),
        (ModbusTimeoutError("late"), "a longer --timeout"),
        (not_modbus(), "rtu+tcp://"),
    ],
)
def test_what_to_try(error: ModbusError, hint: str) -> None:
    assert hint in advice(error, [parse_point("i@5")])


@pytest.mark.parametrize("error", [ExceptionResponseError(4, 3), ConnectionLostError("gone"), MismatchError("other")])
def test_no_advice_is_better_than_a_wrong_one(error: ModbusError) -> None:
    assert advice(error, [parse_point("i@5")]) == ""


@pytest.mark.parametrize("code", [1, 2])
def test_advice_about_no_point_in_particular(code: int) -> None:
    assert advice(ExceptionResponseError(code, 3), []) == ""


# --- how a device is reached -------------------------------------------------------------------


def test_the_options_and_their_defaults() -> None:
    got: dict[str, object] = {}
    asking = click.command()(client_options(lambda **given: got.update(given)))
    asking.main([], standalone_mode=False)
    assert got == {"unit": 1, "timeout_s": 3.0, "retries": 1, "as_json": False}
    asking.main(["--unit", "0", "--timeout", "0.5", "--retries", "0", "--json"], standalone_mode=False)
    assert got == {"unit": 0, "timeout_s": 0.5, "retries": 0, "as_json": True}


@pytest.mark.parametrize("option", ["--unit=256", "--unit=-1", "--retries=-1", "--timeout=soon"])
def test_an_option_outside_its_range(option: str) -> None:
    asking = click.command()(client_options(lambda **_: None))
    with pytest.raises(click.BadParameter):
        asking.main([option], standalone_mode=False)


def test_a_client_is_made_and_not_connected() -> None:
    client = open_client("192.0.2.7", 0.5, 2)
    assert not client.connected
    assert str(client.endpoint) == "tcp://192.0.2.7:502"
    assert (client.options.timeout_s, client.options.connect_timeout_s, client.options.retries) == (0.5, 0.5, 2)


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, math.inf, math.nan])
def test_a_timeout_that_is_none(timeout_s: float) -> None:
    with pytest.raises(UsageError, match="timeout_s"):
        open_client("192.0.2.7", timeout_s, 1)
