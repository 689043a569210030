from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable

import pytest

from everbus.errors import (
    ConfigurationError,
    ConnectError,
    ConnectionLostError,
    ExceptionResponseError,
    ModbusError,
    ModbusTimeoutError,
    UsageError,
)
from everbus.protocol.pdu.registers import ReadHoldingRegistersRequest, WriteSingleRegisterRequest
from everbus.sync.client import Client
from everbus.testing import ScriptedPeer, scripted
from everbus.testing.scripted import Step
from tests.rogue import ADDRESS, ROGUES, VALUES, bank, value


def quick(url: str, **options: float) -> Client:
    return Client(url, timeout_s=options.pop("timeout_s", 0.1), retries=int(options.pop("retries", 0)), **options)  # type: ignore[arg-type]


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 5.0
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize("name", ROGUES)
def test_a_wrong_answer_is_an_error_and_the_next_call_is_right(name: str) -> None:
    step, error = ROGUES[name]
    with ScriptedPeer([step], device=bank()) as peer, quick(peer.url, timeout_s=0.12) as client:
        unit = client.unit(1)
        with pytest.raises(error):
            unit.read_holding_registers(ADDRESS, 2)
        assert unit.read_holding_registers(ADDRESS, 2) == VALUES
        assert unit.read_holding_registers(8, 1) == [value(8)]


def test_ten_late_answers_in_a_row_never_give_a_wrong_value() -> None:
    for framing, steps in (("mbap", [scripted.late(0.05)] * 10), ("rtu", [scripted.late(0.05)] * 10)):
        with (
            ScriptedPeer(steps, device=bank(), framing=framing) as peer,  # type: ignore[arg-type]
            quick(peer.url, timeout_s=0.03) as client,
        ):
            unit = client.unit(1)
            for address in range(10):
                with pytest.raises((ModbusTimeoutError, ConnectError)):
                    unit.read_holding_registers(address, 1)
            client.require_timeout(2.0)
            for address in range(10, 40):
                assert unit.read_holding_registers(address, 1) == [value(address)]
            late = client.statistics().session.late
            assert (late > 0) == (framing == "mbap")  # without ids the connection is replaced instead
            assert (client.statistics().replaced.get("abandoned", 0) > 0) == (framing == "rtu")


@pytest.mark.slow
@pytest.mark.parametrize("framing", ["mbap", "rtu"])
def test_no_wrong_value_in_ten_thousand_mixed_calls(framing: str) -> None:
    chance = random.Random(7)
    odd: list[Step] = [
        scripted.late(0.004),
        scripted.duplicate(),
        scripted.silent,
        scripted.wrong_unit(3),
        scripted.close,
    ]
    wrong = answered = 0

    def script(turn: scripted.Turn) -> None:
        (chance.choice(odd) if chance.random() < 0.03 else scripted.answer)(turn)

    with (
        ScriptedPeer(script, device=bank(), framing=framing) as peer,  # type: ignore[arg-type]
        quick(peer.url, timeout_s=0.003 if framing == "mbap" else 0.01) as client,
    ):
        unit = client.unit(1)
        for number in range(10_000):
            address = number % 900
            try:
                got = unit.read_holding_registers(address, 1)
            except ModbusError:
                continue
            answered += 1
            wrong += got != [value(address)]
    assert wrong == 0
    assert answered > 500


def test_a_read_is_repeated_within_its_deadline_and_a_write_is_not() -> None:
    with ScriptedPeer([scripted.close, scripted.answer, scripted.close], device=bank()) as peer:
        with Client(peer.url, timeout_s=2.0) as client:
            unit = client.unit(1)
            assert unit.read_holding_registers(ADDRESS, 2) == VALUES
            with pytest.raises(ConnectionLostError):
                unit.write_register(0, 1)
            assert client.statistics().retries == 1
        assert [received.frame.pdu[0] for received in peer.requests] == [3, 3, 6]


def test_a_write_is_repeated_when_asked() -> None:
    with ScriptedPeer([scripted.close]) as peer, Client(peer.url, retry_writes=True, timeout_s=2.0) as client:
        client.unit(1).write_register(0, 5)
        assert client.unit(1).read_holding_registers(0, 1) == [5]
        ids = [received.frame.transaction for received in peer.requests[:2]]
        assert len(ids) == 2


def test_a_busy_device_is_asked_again_when_wanted() -> None:
    with ScriptedPeer([scripted.exception(6)] * 2) as peer:
        with Client(peer.url) as client, pytest.raises(ExceptionResponseError) as caught:
            client.unit(1).read_coils(0, 1)
        assert caught.value.code == 6
        with Client(peer.url, retry_busy_s=0.01) as client:
            assert client.unit(1).read_coils(0, 1) == [False]


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@pytest.mark.parametrize(
    ("call", "limit"),
    [
        (lambda unit: unit.read_holding_registers(0, 126), "125"),
        (lambda unit: unit.read_holding_registers(0, 0), "1..125"),
        (lambda unit: unit.read_holding_registers(65535, 2), "65535"),
        (lambda unit: unit.read_holding_registers(-1, 1), "cannot hold"),
        (lambda unit: unit.read_coils(0, 2001), "2000"),
        (lambda unit: unit.write_register(0, 65536), "cannot hold"),
        (lambda unit: unit.write_registers(0, [1] * 124), "123"),
        (lambda unit: unit.write_coils(0, []), "1..1968"),
        (lambda unit: unit.diagnostics(0, 65536), "65535"),
    ],
)
def test_wrong_arguments_raise_before_anything_is_sent(call: Callable[[object], object], limit: str) -> None:
    with ScriptedPeer() as peer, Client(peer.url) as client:
        with pytest.raises(UsageError, match=limit):
            call(client.unit(1))
        assert peer.requests == []
        assert client.unit(1).read_coils(0, 1) == [False]


@pytest.mark.parametrize(
    "options",
    [
        {"timeout_s": 0.0},
        {"timeout_s": float("nan")},
        {"retries": -1},
        {"max_in_flight": 0},
        {"matching": "loose"},
        {"spacing_s": -1.0},
    ],
    ids=str,
)
def test_options_that_cannot_work_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        Client("tcp://127.0.0.1", **options)  # type: ignore[arg-type]


def test_units_are_0_to_255() -> None:
    client = Client("tcp://127.0.0.1")
    with pytest.raises(UsageError, match="256"):
        client.unit(256)
    with pytest.raises(UsageError, match="-1"):
        client.call(ReadHoldingRegistersRequest(0, 1), -1)


def test_lenient_matching_takes_wrong_ids_and_counts_them() -> None:
    script = [scripted.wrong_transaction(), scripted.wrong_unit(0)]
    with ScriptedPeer(script, device=bank()) as peer, Client(peer.url, matching="lenient", max_in_flight=8) as client:
        for _ in range(3):
            assert client.unit(1).read_holding_registers(ADDRESS, 2) == VALUES
        assert client.statistics().session.lenient == 2


def test_a_silent_unit_costs_the_others_nothing() -> None:
    def script(turn: scripted.Turn) -> None:
        (scripted.silent if turn.frame.unit == 5 else scripted.answer)(turn)

    with ScriptedPeer(script, device=bank()) as peer, quick(peer.url, timeout_s=0.05) as client:
        for _ in range(3):
            with pytest.raises(ModbusTimeoutError, match="unit 5"):
                client.unit(5).read_coils(0, 1)
            assert client.unit(1).read_holding_registers(ADDRESS, 2) == VALUES
        assert peer.connections == 1
        units = client.statistics().units
        assert (units[5].silent_for, units[5].timeouts, units[1].answered) == (3, 3, 3)


def test_a_broadcast_is_not_waited_for() -> None:
    with ScriptedPeer([scripted.silent]) as peer, Client(peer.url) as client:
        client.broadcast(WriteSingleRegisterRequest(0, 1))
        assert client.unit(1).read_coils(0, 1) == [False]
        assert [received.frame.unit for received in peer.requests] == [0, 1]


def test_without_ids_a_doubled_answer_is_nobody_elses() -> None:
    def script(turn: scripted.Turn) -> None:
        turn.send(turn.adu())
        turn.send(turn.adu(), 0.005)

    with ScriptedPeer(script, device=bank(), framing="rtu") as peer, Client(peer.url) as client:
        for address in range(8):
            assert client.unit(1).read_holding_registers(address, 1) == [value(address)]
            time.sleep(0.01)
        assert client.statistics().replaced["unasked"] > 0


def test_a_unit_that_was_not_asked_is_not_blamed() -> None:
    with ScriptedPeer(scripted.silent) as peer, quick(peer.url, timeout_s=0.1) as client:
        threads = [threading.Thread(target=_ends, args=(client, unit)) for unit in range(1, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        blamed = set(client.statistics().units)
        until(lambda: blamed == {received.frame.unit for received in peer.requests})


def _ends(client: Client, unit: int) -> None:
    with pytest.raises(ModbusTimeoutError):
        client.unit(unit).read_coils(0, 1)


def test_a_connection_that_hangs_is_replaced() -> None:
    def script(turn: scripted.Turn) -> None:
        (scripted.silent if peer.connections == 1 else scripted.answer)(turn)

    with ScriptedPeer(script, device=bank()) as peer, quick(peer.url, timeout_s=0.02) as client:
        for _ in range(8):
            with pytest.raises(ModbusTimeoutError):
                client.unit(1).read_holding_registers(ADDRESS, 2)
        assert client.unit(1).read_holding_registers(ADDRESS, 2) == VALUES
        assert client.statistics().replaced == {"silent": 1}
