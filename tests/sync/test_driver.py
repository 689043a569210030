from __future__ import annotations

import ast
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from everbus.errors import (
    ClientClosedError,
    ConnectError,
    ModbusError,
    ModbusTimeoutError,
    ServerStateError,
)
from everbus.protocol.pdu.bits import ReadCoilsRequest
from everbus.sync import driver, link
from everbus.sync.client import Client
from everbus.sync.link import SharedLink
from everbus.sync.openers import SocketOpener
from everbus.testing import ScriptedPeer, scripted
from tests.rogue import ADDRESS, VALUES, bank, value


def quick(url: str, **options: float) -> Client:
    return Client(url, timeout_s=options.pop("timeout_s", 0.1), retries=int(options.pop("retries", 0)), **options)  # type: ignore[arg-type]


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 5.0
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def test_a_connection_that_ended_while_idle_is_replaced_before_it_is_used() -> None:
    with ScriptedPeer(device=bank()) as peer, Client(peer.url, retries=0) as client:
        unit = client.unit(1)
        assert unit.read_holding_registers(ADDRESS, 2) == VALUES
        peer.drop_connections()
        time.sleep(0.08)
        unit.write_register(ADDRESS, 1)  # not even a write notices
        assert peer.connections == 2
        assert client.statistics().lost == 1


def test_the_device_may_restart() -> None:
    with ScriptedPeer(device=bank()) as peer, Client(peer.url, timeout_s=2.0) as client:
        unit = client.unit(1)
        assert unit.read_holding_registers(ADDRESS, 2) == VALUES
        peer.stop_listening()
        peer.drop_connections(reset=True)
        with pytest.raises(ConnectError, match="nobody listens there"):
            unit.read_holding_registers(ADDRESS, 2)
        peer.listen_again()
        assert unit.read_holding_registers(ADDRESS, 2) == VALUES


@pytest.mark.slow
def test_a_closed_port_is_tried_with_pauses_and_leaves_nothing_open() -> None:
    client = Client(f"tcp://127.0.0.1:{closed_port()}", timeout_s=0.02, retries=0)
    before, started = len(os.listdir("/proc/self/fd")), time.process_time()
    for _ in range(100):
        with pytest.raises(ConnectError, match="cannot connect to"):
            client.unit(1).read_coils(0, 1)
    assert len(os.listdir("/proc/self/fd")) == before
    assert time.process_time() - started < 0.5
    assert client.statistics().connect_failures == 100
    client.close()


def test_connect_and_close_may_be_called_in_every_state() -> None:
    with ScriptedPeer() as peer:
        client = Client(peer.url)
        client.close()
        client.close()
        client.connect()
        client.connect()
        assert client.connected
        client.disconnect()
        client.disconnect()
        assert "not connected" in repr(client)
        assert client.unit(1).read_coils(0, 1) == [False]
        client.close()
        with pytest.raises(ServerStateError, match="is closed"):
            client.unit(1).read_coils(0, 1)
        client.connect()
        client.close()
        assert repr(client) == f"<Client {peer.url} not connected>"
        until(lambda: peer.connections == 3)


def test_closing_ends_what_another_thread_waits_for() -> None:
    with ScriptedPeer(scripted.silent) as peer:
        client = Client(peer.url, timeout_s=30.0, retries=0)
        errors: list[BaseException] = []

        def ask() -> None:
            try:
                client.unit(1).read_coils(0, 1)
            except ModbusError as error:
                errors.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        while not peer.requests:
            time.sleep(0.01)
        client.close()
        thread.join(5.0)
        assert [type(error) for error in errors] == [ClientClosedError]


def test_pauses_are_kept() -> None:
    with ScriptedPeer() as peer, Client(peer.url, spacing_s=0.05, connect_delay_s=0.1) as client:
        connected = time.monotonic()
        for _ in range(3):
            client.unit(1).read_coils(0, 1)
        times = [received.at for received in peer.requests]
        assert times[0] - connected > 0.08
        assert all(later - earlier > 0.045 for earlier, later in pairwise(times))


def test_one_unit_may_be_spaced() -> None:
    with ScriptedPeer() as peer, Client(peer.url) as client:
        slow, other = client.unit(1), client.unit(2)
        slow.set_message_spacing(0.1)
        slow.read_coils(0, 1)
        other.read_coils(0, 1)
        slow.read_coils(0, 1)
        first, second, third = (received.at for received in peer.requests)
        assert second - first < 0.09
        assert third - first > 0.09


@pytest.mark.parametrize("max_in_flight", [1, 16])
def test_sixteen_threads_get_their_own_answers(max_in_flight: int) -> None:
    wrong: list[object] = []

    def script(turn: scripted.Turn) -> None:
        (scripted.late(0.001) if turn.frame.transaction % 7 == 0 else scripted.answer)(turn)

    with ScriptedPeer(script, device=bank()) as peer, Client(peer.url, max_in_flight=max_in_flight) as client:

        def work(first: int) -> None:
            unit = client.unit(1)
            for number in range(40):
                address = (first * 40 + number) % 900
                try:
                    got = unit.read_holding_registers(address, 2)
                except ModbusError as error:
                    wrong.append(error)
                else:
                    if got != [value(address), value(address + 1)]:
                        wrong.append((address, got))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert peer.connections == 1
        assert client.statistics().calls == 640


def test_other_threads_wait_no_longer_than_their_deadline() -> None:
    with ScriptedPeer(scripted.silent) as peer, quick(peer.url, timeout_s=0.2) as client:
        errors: list[str] = []

        def ask() -> None:
            try:
                client.unit(1).read_coils(0, 1)
            except ModbusTimeoutError as error:
                errors.append(str(error))

        started = time.monotonic()
        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(5.0)
        assert len(errors) == 4
        assert time.monotonic() - started < 2.0


def test_a_child_process_has_its_own_connection() -> None:
    with ScriptedPeer(device=bank()) as peer, Client(peer.url) as client:
        assert client.unit(1).read_holding_registers(ADDRESS, 2) == VALUES
        child = os.fork()
        if child == 0:
            try:
                right = client.unit(1).read_holding_registers(ADDRESS, 2) == VALUES
                client.close()
                os._exit(0 if right else 1)
            except BaseException:  # noqa: BLE001  a child of a test must not run the test's end
                os._exit(2)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert client.unit(1).read_holding_registers(ADDRESS, 2) == VALUES
        assert peer.connections == 2


def test_a_connection_that_ended_is_noticed_before_every_write() -> None:
    def script(turn: scripted.Turn) -> None:
        turn.send(turn.adu())
        turn.end()

    with ScriptedPeer(script) as peer, Client(peer.url, retries=0) as client:
        for number in range(10):
            client.unit(1).write_register(number, 1)
            time.sleep(0.01)
        assert peer.connections == 10


def test_threads_that_come_while_another_reads_disturb_nobody() -> None:
    with ScriptedPeer(scripted.late(0.12), device=bank()) as peer, Client(peer.url, max_in_flight=8) as client:
        wrong: list[object] = []

        def work(number: int) -> None:
            time.sleep(0.02 * number)
            try:
                got = client.unit(1).read_holding_registers(number, 1)
                client.unit(1).write_register(900 + number, 1)
            except Exception as error:  # noqa: BLE001  whatever it is, it is wrong
                wrong.append(error)
            else:
                wrong.extend([] if got == [value(number)] else [got])

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10.0)
        assert wrong == []


def test_an_answer_that_nobody_waits_for_any_more_is_kept_for_nobody() -> None:
    with ScriptedPeer([scripted.late(0.05)], device=bank()) as peer, Client(peer.url, max_in_flight=2) as client:
        client.unit(1).read_coils(0, 1)
        link = client._driver._link
        assert isinstance(link, SharedLink)
        transaction, data = link.session.submit(1, ReadCoilsRequest(0, 1))
        assert link.ask(transaction, data, time.monotonic() - 1.0) is None
        time.sleep(0.05)
        link.check()
        assert link._done == {}


def test_four_threads_keep_the_spacing_of_a_unit() -> None:
    with ScriptedPeer() as peer, Client(peer.url, max_in_flight=4) as client:
        client.unit(1).set_message_spacing(0.05)
        threads = [threading.Thread(target=client.unit(1).read_coils, args=(0, 1)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        times = [received.at for received in peer.requests]
        assert times[-1] - times[0] > 0.045


def test_a_client_closed_while_it_connects_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedPeer() as peer:
        client = Client(peer.url)
        connect = SocketOpener.open

        def slowly(opener: SocketOpener, until: float) -> socket.socket:
            sock = connect(opener, until)
            client.close()
            return sock

        monkeypatch.setattr(SocketOpener, "open", slowly)
        with pytest.raises(ClientClosedError):
            client.connect()
        assert "not connected" in repr(client)


def quiet_lines(path: str) -> set[int]:
    """``try`` and what stands in ``finally``: Python looks at no signal when it comes to these."""
    found: set[int] = set()
    for node in ast.walk(ast.parse(Path(path).read_text())):
        if isinstance(node, ast.Try):
            found.add(node.lineno)
            for last in node.finalbody:
                found.update(range(last.lineno, (last.end_lineno or 0) + 1))
    return found


QUIET = {path: quiet_lines(path) for path in (driver.__file__, link.__file__)}


class InterruptedAt:
    """Ctrl-C in the line with this number, of those that are run in the driver and the link."""

    def __init__(self, number: int) -> None:
        self._left = number
        self._lines: dict[FrameType, int] = {}

    def __enter__(self) -> None:
        sys.settrace(self._trace)

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, _: object) -> Any:
        quiet = QUIET.get(frame.f_code.co_filename)
        if quiet is None:
            return None
        if event == "line" and frame.f_lineno not in quiet:
            if self._lines.get(frame) == frame.f_lineno:
                return self._trace  # Python 3.12 comes to a line again in its middle
            self._lines[frame] = frame.f_lineno
            self._left -= 1
            if self._left == 0:
                raise KeyboardInterrupt
        return self._trace


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # between its making and its first owner
@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("max_in_flight", [1, 4])
def test_ctrl_c_in_any_line_leaves_the_client_usable(max_in_flight: int, warm: bool) -> None:
    with ScriptedPeer(device=bank()) as peer:
        interrupted = True
        number = 0
        while interrupted:
            number += 1
            interrupted = False
            client = Client(peer.url, timeout_s=0.5, retries=0, max_in_flight=max_in_flight)
            if warm:
                client.connect()
            try:
                with InterruptedAt(number):
                    client.unit(1).read_holding_registers(0, 1)
            except KeyboardInterrupt:
                interrupted = True
            assert client.unit(1).read_holding_registers(ADDRESS, 2) == VALUES, number
            room = client._driver._places
            assert not room.locked() if max_in_flight == 1 else room._value == max_in_flight, number  # type: ignore[union-attr]
            client.close()
        assert number > 20
