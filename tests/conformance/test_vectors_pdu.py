"""Every pdu vector: read, its fields compared, built again byte for byte, and refused where it is illegal."""

from __future__ import annotations

from typing import Any

import pytest

from everbus.errors import PduError
from everbus.protocol.pdu.base import NEED_MORE, UNPREDICTABLE, ExceptionResponse
from everbus.protocol.pdu.table import PUBLIC
from tests.vectors import Vector, each, of_kind

PDUS = of_kind("pdu")
REQUESTS = [vector for vector in PDUS if vector["direction"] == "request"]
ANSWERS = [vector for vector in PDUS if vector["direction"] != "request"]

OF_THE_DEVICE = {"fc2B0E_individual_unknown", "fc2B0D_read_req", "fc2B0D_write_req"}
"""Legal requests that a device refuses, with no context named: an object that it lacks, and CANopen."""

BY_THEMSELVES = [vector for vector in REQUESTS if "context" not in vector and vector["name"] not in OF_THE_DEVICE]
"""Requests whose answer does not depend on what a device has."""


def structured(vector: Vector) -> bool:
    """``raw`` marks a PDU without any legal reading."""
    return "raw" not in vector["fields"]


def expected_fields(vector: Vector, given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The vector's fields, and as many of those given; bits cut to what the request asked for."""
    wanted = dict(vector["fields"])
    quantity = wanted.pop("quantity_requested", None)
    found = {name: given.get(name) for name in wanted}
    if quantity is not None and "bits" in wanted:
        wanted["bits"], found["bits"] = wanted["bits"][:quantity], given["bits"][:quantity]
    return wanted, found


def test_the_vectors_are_there() -> None:
    assert len(PDUS) >= 226
    assert {vector["direction"] for vector in PDUS} == {"request", "response", "exception"}


@each([vector for vector in REQUESTS if structured(vector)])
def test_a_request_is_read_and_built_again(vector: Vector) -> None:
    request = PUBLIC.parse_request(bytes.fromhex(vector["pdu_hex"]))
    assert request.function_code == vector["function_code"]
    wanted, found = expected_fields(vector, request.fields())
    assert found == wanted
    assert request.encode() == bytes.fromhex(vector["pdu_hex"])


@each([vector for vector in ANSWERS if structured(vector)])
def test_a_response_is_read_and_built_again(vector: Vector) -> None:
    response = PUBLIC.decode_response(bytes.fromhex(vector["pdu_hex"]))
    assert isinstance(response, ExceptionResponse) is (vector["direction"] == "exception")
    code = response.function if isinstance(response, ExceptionResponse) else response.function_code
    assert code == vector["function_code"]
    wanted, found = expected_fields(vector, response.fields())
    assert found == wanted
    assert response.encode() == bytes.fromhex(vector["pdu_hex"])


@each([vector for vector in PDUS if not structured(vector)])
def test_what_has_no_legal_reading_is_not_read(vector: Vector) -> None:
    parse = PUBLIC.parse_request if vector["direction"] == "request" else PUBLIC.parse_response
    with pytest.raises(PduError):
        parse(bytes.fromhex(vector["pdu_hex"]))


@each([vector for vector in BY_THEMSELVES if not vector["expect_exception"]])
def test_a_legal_request_is_taken(vector: Vector) -> None:
    assert PUBLIC.decode_request(bytes.fromhex(vector["pdu_hex"])).encode() == bytes.fromhex(vector["pdu_hex"])


@pytest.mark.requirement("AP-7-03")
@each([vector for vector in BY_THEMSELVES if vector["expect_exception"]])
def test_an_illegal_request_is_refused_with_the_code_of_its_vector(vector: Vector) -> None:
    with pytest.raises(PduError) as refused:
        PUBLIC.decode_request(bytes.fromhex(vector["pdu_hex"]))
    assert refused.value.exception_code == vector["expect_exception"]


@each([vector for vector in PDUS if structured(vector)])
def test_the_length_follows_from_the_front(vector: Vector) -> None:
    pdu = bytes.fromhex(vector["pdu_hex"])
    predict = PUBLIC.predict_request if vector["direction"] == "request" else PUBLIC.predict_response
    length = len(pdu)
    if pdu.startswith(b"\x2b\x0d"):
        length = UNPREDICTABLE
    elif pdu.startswith(b"\x08\x00\x00"):
        length = 5  # more words only where silence tells
    told = [predict(pdu, 0, end) for end in range(len(pdu) + 1)]
    assert told[-1] == length
    assert told == sorted(told, key=lambda prediction: prediction != NEED_MORE)
    assert set(told) <= {NEED_MORE, length}
