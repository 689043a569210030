"""Every pair vector: a request and what a peer answered to it, taken or refused."""

from __future__ import annotations

import pytest

from everbus.errors import ExceptionResponseError, MismatchError, PduError
from everbus.protocol.client_session import ClientSession, match_response
from everbus.protocol.framing.mbap import MbapFramer
from everbus.protocol.pdu.table import PUBLIC
from tests.vectors import Vector, each, of_kind

PAIRS = of_kind("pair")


def test_the_vectors_are_there() -> None:
    assert len(PAIRS) >= 20
    assert {vector["accept"] for vector in PAIRS} == {True, False}


@pytest.mark.requirement("TG-4.4.1.3-mismatch")
@each(PAIRS)
def test_a_response_is_taken_or_refused_as_its_vector_says(vector: Vector) -> None:
    request = PUBLIC.decode_request(bytes.fromhex(vector["request_pdu_hex"]))
    pdu = bytes.fromhex(vector["response_pdu_hex"])
    if not vector["accept"]:
        with pytest.raises((MismatchError, PduError)):
            match_response(request, pdu)
    elif pdu[0] & 0x80:
        with pytest.raises(ExceptionResponseError) as caught:
            match_response(request, pdu)
        assert (caught.value.function_code, caught.value.code) == (request.function_code, pdu[1])
    else:
        assert match_response(request, pdu).encode() == pdu


@pytest.mark.requirement("TG-4.4.1.3-mismatch")
@each(PAIRS)
def test_a_transaction_ends_as_its_vector_says(vector: Vector) -> None:
    session = ClientSession()
    transaction, sent = session.submit(1, PUBLIC.decode_request(bytes.fromhex(vector["request_pdu_hex"])))
    assert sent[7:] == bytes.fromhex(vector["request_pdu_hex"])
    pdu = bytes.fromhex(vector["response_pdu_hex"])
    (completion,) = session.receive(MbapFramer().encode(1, pdu, transaction))
    statistics = session.statistics()
    assert (statistics.completed, statistics.mismatched) == ((1, 0) if vector["accept"] else (0, 1))
    taken = vector["accept"] and not pdu[0] & 0x80
    assert (completion.response is not None) == taken
    assert (completion.error is None) == taken
