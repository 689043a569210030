"""Requirements of Messaging on TCP/IP that no other test shows; each is marked with its row of the ledger."""

from __future__ import annotations

import asyncio

import pytest

from everbus import Bank, Server
from everbus.client.endpoint import parse_endpoint
from everbus.protocol.client_session import ClientSession
from everbus.protocol.framing.mbap import MbapFramer
from everbus.protocol.pdu.registers import ReadHoldingRegistersRequest
from everbus.protocol.pdu.table import AnyRequest
from everbus.protocol.server_session import ServerSession
from everbus.service.context import ConnectionInfo, RequestContext
from everbus.service.local import LocalDevice
from everbus.service.pipeline import Pipeline
from everbus.service.units import Units


def answered(pipeline: Pipeline, adu: bytes, connection: ConnectionInfo) -> bytes:
    """What a server sends back."""
    session = ServerSession(MbapFramer())
    sent = b""
    for frame in session.receive(adu):
        answer = pipeline.answer(frame, connection)
        assert isinstance(answer, bytes)
        sent += session.reply(frame.unit, answer, frame.transaction)
    return sent


@pytest.mark.requirement(
    "TG-3.1.3-header",
    "TG-3.1.3-transaction",
    "TG-3.1.3-protocol",
    "TG-3.1.3-length",
    "TG-3.1.3-unit",
    "TG-4.4.2.3-response",
    "TG-4.4.2.3-unit",
)
@pytest.mark.parametrize(
    ("pdu", "answer"),
    [("0300000001", "03020000"), ("010000000A", "01020000"), ("0300000000", "8303"), ("41", "C101"), ("07", "0700")],
)
def test_a_response_repeats_the_numbers_of_its_request_and_has_its_own_length(pdu: str, answer: str) -> None:
    pipeline = Pipeline(Units(LocalDevice()))
    request, response = bytes.fromhex(pdu), bytes.fromhex(answer)
    for unit in range(256):
        for transaction in (0, 1, 0x1501, 0xFFFF):
            start, rest = transaction.to_bytes(2, "big") + b"\x00\x00\x00", bytes((unit,))
            sent = start + bytes((1 + len(request),)) + rest + request
            wanted = start + bytes((1 + len(response),)) + rest + response
            assert answered(pipeline, sent, ConnectionInfo(1)) == wanted


@pytest.mark.requirement("TG-4.4.1.2-unit")
def test_a_client_may_ask_any_unit() -> None:
    for unit in (0, 1, 247, 248, 255):
        _, sent = ClientSession().submit(unit, ReadHoldingRegistersRequest(4, 1))
        assert sent == b"\x00\x01\x00\x00\x00\x06" + bytes((unit,)) + bytes.fromhex("0300040001")


class OfTheControlRoom:
    """A policy that forbids everybody but one address."""

    unconditional = False

    def allows(self, request: AnyRequest, context: RequestContext) -> bool:
        return context.connection.host == "192.0.2.7"


@pytest.mark.requirement("TG-4.2.3-access-control")
def test_a_policy_can_forbid_by_address() -> None:
    device = LocalDevice()
    pipeline = Pipeline(Units(device), OfTheControlRoom())
    adu = bytes.fromhex("0001000000060106 00010003")
    stranger = ConnectionInfo(1, "198.51.100.9:40112", "198.51.100.9")
    assert answered(pipeline, adu, stranger) == bytes.fromhex("0001000000030186 01")
    assert device.bank.read_holding_registers(1) == [0]
    assert answered(pipeline, adu, ConnectionInfo(2, "192.0.2.7:1", "192.0.2.7")) == adu
    assert device.bank.read_holding_registers(1) == [3]


@pytest.mark.requirement("TG-4.3.2-reuseaddr")
async def test_a_port_can_be_taken_again_while_its_last_connection_waits() -> None:
    adu = bytes.fromhex("000100000006010600010003")
    async with Server(Bank(), "tcp://127.0.0.1:0") as server:
        (url,) = server.endpoints
        reader, writer = await asyncio.open_connection("127.0.0.1", parse_endpoint(str(url)).port)
        writer.write(adu)
        assert await reader.readexactly(len(adu)) == adu
        await server.stop()  # whoever closes first keeps the connection in TIME_WAIT
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
    async with Server(Bank(), str(url)) as server:
        assert [str(endpoint) for endpoint in server.endpoints] == [str(url)]
