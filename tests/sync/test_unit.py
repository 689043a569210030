from __future__ import annotations

import inspect

import pytest

from everbus.errors import (
    ConnectError,
    ExceptionResponseError,
    InvalidRequestError,
    MismatchError,
    ModbusTimeoutError,
)
from everbus.maps.notation import parse_point
from everbus.protocol.pdu.registers import ReadHoldingRegistersRequest
from everbus.service.bank import Bank
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


def test_the_table_of_calls_has_every_method() -> None:
    methods = {name for name, _ in inspect.getmembers(Unit, inspect.isfunction)}
    others = {"__init__", "__repr__", "_ask", "call", "disconnect", "read", "read_points", "write"}
    others |= {"set_message_spacing", "require_timeout", "require_connect_delay"}
    assert methods - others == {name for name, *_ in CALLS}


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


def test_points_are_read_and_written_as_values() -> None:
    with ScriptedPeer() as peer, Client(peer.url) as client:
        unit = client.unit(1)
        unit.write(parse_point("h@10/f32:CDAB"), 21.5)
        unit.write(parse_point("c@3"), True)
        unit.write(parse_point("2/h@0"), 7)
        assert unit.read(parse_point("h@10/f32:CDAB")) == 21.5
        assert unit.read_holding_registers(10, 2) == [0, 0x41AC]
        assert unit.read(parse_point("c@3")) is True
        assert [received.frame.unit for received in peer.requests] == [1, 1, 2, 1, 1, 1]
        with pytest.raises(InvalidRequestError, match="65535"):
            unit.write(parse_point("h@0"), 65536)
        assert len(peer.requests) == 6


def test_neighbours_share_a_read_and_a_hole_is_remembered() -> None:
    bank = Bank(holding_registers=[(0, 4), (6, 4)])
    bank.write_holding_registers(6, [5])
    points = [parse_point(text) for text in ("h@2", "h@6", "h@3", "h@4")]
    with ScriptedPeer(device=bank) as peer, Client(peer.url) as client:
        readings = client.unit(1).read_points(points)
        assert [reading.value for reading in readings] == [0, 5, 0, None]
        assert isinstance(readings[3].error, ExceptionResponseError)
        before = len(peer.requests)
        client.unit(1).read_points(points[:3])
        assert len(peer.requests) - before == 2
        with pytest.raises(ExceptionResponseError):
            client.unit(1).read(points[3])


def test_one_silent_unit_costs_its_own_points() -> None:
    def script(turn: scripted.Turn) -> None:
        (scripted.silent if turn.frame.unit == 5 else scripted.answer)(turn)

    with ScriptedPeer(script) as peer:
        with Client(peer.url, timeout_s=0.1, retries=0) as client:
            readings = client.unit(1).read_points([parse_point("h@0"), parse_point("5/h@0")])
        assert readings[0].value == 0
        assert isinstance(readings[1].error, ModbusTimeoutError)


def test_where_nobody_is_no_point_is_read() -> None:
    with ScriptedPeer() as peer:
        peer.stop_listening()
        client = Client(peer.url, timeout_s=0.2)
        with pytest.raises(ConnectError):
            client.unit(1).read_points([parse_point("h@0"), parse_point("2/h@0")])
        client.close()
