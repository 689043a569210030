from __future__ import annotations

import inspect

import pytest

from everbus.errors import MismatchError
from everbus.protocol.pdu.registers import ReadHoldingRegistersRequest
from everbus.sync.client import Client
from everbus.sync.unit import Unit
from everbus.testing import ScriptedPeer, scripted
from tests.unit_calls import CALLS, device


def test_every_method_sends_its_request_and_returns_plain_values() -> None:
    with ScriptedPeer(device=device()) as peer, Client(peer.url) as client:
        unit = client.unit(17)
        for name, arguments, request, expected in CALLS:
            before = len(peer.requests)
            got = getattr(unit, name)(*arguments)
            assert [received.frame.pdu.hex().upper() for received in peer.requests[before:]] == [request], name
            assert peer.requests[before].frame.unit == 17
            if name not in ("get_comm_event_counter", "get_comm_event_log") and request[:6] != "08000B":
                assert got == expected, name
            assert type(got) is type(expected), name


_OTHERS = {
    "__init__",
    "__repr__",
    "call",
    "disconnect",
    "set_message_spacing",
    "require_timeout",
    "require_connect_delay",
}


def test_the_table_of_calls_has_every_method() -> None:
    methods = {name for name, _ in inspect.getmembers(Unit, inspect.isfunction)}
    assert methods - _OTHERS == {name for name, *_ in CALLS}


def test_any_request_may_be_made() -> None:
    with ScriptedPeer(device=device()) as peer, Client(peer.url) as client:
        response = client.unit(3).call(ReadHoldingRegistersRequest(2, 1))
        assert response.registers == [0x1234]
        assert client.unit(3).connected
        assert repr(client.unit(3)) == f"<Unit 3 of {peer.url}>"


def test_identification_goes_on_where_it_stopped() -> None:
    parts = ["2B0E0101FF0101" + "0001" + "41", "2B0E0101000001" + "0101" + "42"]
    with ScriptedPeer([scripted.pdu(bytes.fromhex(part)) for part in parts]) as peer:
        with Client(peer.url) as client:
            assert client.unit(1).read_device_identification() == {0: b"A", 1: b"B"}
        assert [received.frame.pdu.hex() for received in peer.requests] == ["2b0e0100", "2b0e0101"]


def test_identification_that_turns_in_circles_ends() -> None:
    circle = scripted.pdu(bytes.fromhex("2B0E0101FF0001" + "0001" + "41"))
    with ScriptedPeer(circle) as peer, Client(peer.url) as client, pytest.raises(MismatchError, match="object 0"):
        client.unit(1).read_device_identification()
