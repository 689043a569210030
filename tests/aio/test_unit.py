from __future__ import annotations

import inspect

import pytest

from everbus.aio.client import AsyncClient
from everbus.aio.unit import AsyncUnit
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
from everbus.testing import ScriptedPeer, scripted
from tests.unit_calls import CALLS, device


async def test_every_method_sends_its_request_and_returns_plain_values() -> None:
    with ScriptedPeer(device=device()) as peer:
        async with AsyncClient(peer.url) as client:
            unit = client.unit(17)
            for name, arguments, request, expected in CALLS:
                before = len(peer.requests)
                got = await getattr(unit, name)(*arguments)
                assert [received.frame.pdu.hex().upper() for received in peer.requests[before:]] == [request], name
                assert peer.requests[before].frame.unit == 17
                if name not in ("get_comm_event_counter", "get_comm_event_log") and request[:6] != "08000B":
                    assert got == expected, name
                assert type(got) is type(expected), name


def test_the_table_of_calls_has_every_method() -> None:
    methods = {name for name, _ in inspect.getmembers(AsyncUnit, inspect.iscoroutinefunction)}
    others = {"_ask", "call", "disconnect", "read", "read_points", "write"}
    assert methods - others == {name for name, *_ in CALLS}


async def test_any_request_may_be_made() -> None:
    with ScriptedPeer(device=device()) as peer:
        async with AsyncClient(peer.url) as client:
            response = await client.unit(3).call(ReadHoldingRegistersRequest(2, 1))
            assert response.registers == [0x1234]
            assert client.unit(3).connected
            assert repr(client.unit(3)) == f"<AsyncUnit 3 of {peer.url}>"


async def test_identification_goes_on_where_it_stopped() -> None:
    parts = ["2B0E0101FF0101" + "0001" + "41", "2B0E0101000001" + "0101" + "42"]
    with ScriptedPeer([scripted.pdu(bytes.fromhex(part)) for part in parts]) as peer:
        async with AsyncClient(peer.url) as client:
            assert await client.unit(1).read_device_identification() == {0: b"A", 1: b"B"}
        assert [received.frame.pdu.hex() for received in peer.requests] == ["2b0e0100", "2b0e0101"]


async def test_identification_that_turns_in_circles_ends() -> None:
    circle = scripted.pdu(bytes.fromhex("2B0E0101FF0001" + "0001" + "41"))
    with ScriptedPeer(circle) as peer:
        async with AsyncClient(peer.url) as client:
            with pytest.raises(MismatchError, match="follows object 0"):
                await client.unit(1).read_device_identification()


async def test_points_are_read_and_written_as_values() -> None:
    with ScriptedPeer() as peer:
        async with AsyncClient(peer.url) as client:
            unit = client.unit(1)
            await unit.write(parse_point("h@10/f32:CDAB"), 21.5)
            await unit.write(parse_point("c@3"), True)
            await unit.write(parse_point("2/h@0"), 7)
            assert await unit.read(parse_point("h@10/f32:CDAB")) == 21.5
            assert await unit.read_holding_registers(10, 2) == [0, 0x41AC]
            assert await unit.read(parse_point("c@3")) is True
            assert [received.frame.unit for received in peer.requests] == [1, 1, 2, 1, 1, 1]
            with pytest.raises(InvalidRequestError, match="65535"):
                await unit.write(parse_point("h@0"), 65536)
            assert len(peer.requests) == 6


async def test_neighbours_share_a_read_and_a_hole_is_remembered() -> None:
    bank = Bank(holding_registers=[(0, 4), (6, 4)])
    bank.write_holding_registers(6, [5])
    points = [parse_point(text) for text in ("h@2", "h@6", "h@3", "h@4")]
    with ScriptedPeer(device=bank) as peer:
        async with AsyncClient(peer.url) as client:
            readings = await client.unit(1).read_points(points)
            assert [reading.value for reading in readings] == [0, 5, 0, None]
            assert isinstance(readings[3].error, ExceptionResponseError)
            before = len(peer.requests)
            await client.unit(1).read_points(points[:3])
            assert len(peer.requests) - before == 2
            with pytest.raises(ExceptionResponseError):
                await client.unit(1).read(points[3])


async def test_one_silent_unit_costs_its_own_points() -> None:
    def script(turn: scripted.Turn) -> None:
        (scripted.silent if turn.frame.unit == 5 else scripted.answer)(turn)

    with ScriptedPeer(script) as peer:
        async with AsyncClient(peer.url, timeout_s=0.1, retries=0) as client:
            readings = await client.unit(1).read_points([parse_point("h@0"), parse_point("5/h@0")])
        assert readings[0].value == 0
        assert isinstance(readings[1].error, ModbusTimeoutError)


async def test_a_unit_that_answers_nothing_is_asked_once() -> None:
    def script(turn: scripted.Turn) -> None:
        silent = turn.frame.unit == 5 or turn.frame.pdu[1:3] == b"\x03\xe8"
        (scripted.silent if silent else scripted.answer)(turn)

    with ScriptedPeer(script) as peer:
        async with AsyncClient(peer.url, timeout_s=0.05, retries=0) as client:
            points = [parse_point(text) for text in ("5/h@0", "h@0", "5/h@1000", "h@1000", "5/c@0", "c@0")]
            readings = await client.unit(1).read_points(points)
        assert [reading.value for reading in readings] == [None, 0, None, None, None, False]
        assert readings[0].error is readings[2].error is readings[4].error
        asked = [received.frame.unit for received in peer.requests]
        assert (asked.count(5), asked.count(1)) == (1, 3)


async def test_where_nobody_is_no_point_is_read() -> None:
    with ScriptedPeer() as peer:
        peer.stop_listening()
        client = AsyncClient(peer.url, timeout_s=0.2)
        with pytest.raises(ConnectError):
            await client.unit(1).read_points([parse_point("h@0"), parse_point("2/h@0")])
        await client.close()
