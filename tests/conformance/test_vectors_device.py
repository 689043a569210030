"""Every request vector, put to a device: answered, or refused with the code that the vector names."""

from __future__ import annotations

import pytest

from everbus.protocol.codes import MAX_PDU_BYTES
from everbus.protocol.framing.base import Frame
from everbus.protocol.pdu.table import PUBLIC
from everbus.service.bank import Bank
from everbus.service.context import ConnectionInfo
from everbus.service.files import FifoQueues
from everbus.service.local import LocalDevice
from everbus.service.pipeline import Pipeline
from everbus.service.units import Units
from tests.vectors import Vector, each, of_kind

REQUESTS = [vector for vector in of_kind("pdu") if vector["direction"] == "request"]
SERIAL = ConnectionInfo(1, serial=True)
"""The vectors of function code 08 assume a serial line (spec.md 11)."""


def full_queue() -> LocalDevice:
    queues = FifoQueues()
    for value in range(32):
        queues.push(0x04DE, value)
    return LocalDevice(queues=queues)


def hundred_items() -> LocalDevice:
    return LocalDevice(Bank(coils=100, discrete_inputs=100, input_registers=100, holding_registers=100))


DEVICES = {
    None: LocalDevice,
    "server with coils 0..99": hundred_items,
    "server with registers 0..99": hundred_items,
    "server with 100 registers 0..99": hundred_items,
    "server with 100 discrete inputs 0..99": hundred_items,
    "server without coil 1185 (address 0x04A1)": lambda: LocalDevice(Bank(coils=[(0, 0x04A1), (0x04A2, 100)])),
    "server without that function code": LocalDevice,
    "queue at 0x04DE holds 32 values": full_queue,
}


def test_the_vectors_are_there() -> None:
    assert len(REQUESTS) >= 118
    assert {vector["expect_exception"] for vector in REQUESTS} == {0, 1, 2, 3}


@pytest.mark.requirement("AP-4.1-normal-response", "AP-4.1-exception-response", "AP-4.5-answer", "AP-7-02")
@each(REQUESTS)
def test_a_request_is_answered_as_its_vector_says(vector: Vector) -> None:
    pdu = bytes.fromhex(vector["pdu_hex"])
    device = DEVICES[vector.get("context")]()
    answer = Pipeline(Units(device)).answer(Frame(1, pdu, 0), SERIAL)
    if vector["expect_exception"]:
        assert answer == bytes((pdu[0] | 0x80, vector["expect_exception"]))
        return
    assert isinstance(answer, bytes)
    assert answer[0] == pdu[0]
    assert len(answer) <= MAX_PDU_BYTES
    request, response = PUBLIC.decode_request(pdu), PUBLIC.decode_response(answer)
    assert isinstance(response, request.response_type)
    assert request.mismatch(response) is None
