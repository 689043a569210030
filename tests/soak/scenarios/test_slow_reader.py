"""Clients that do not read, against servers that keep everything for them, or let others wait."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from everbus.protocol.framing.mbap import MbapFramer
from everbus.soak.scenarios import slow_reader
from everbus.soak.scenarios.slow_reader import SlowReader
from everbus.soak.target import Link, Target
from everbus.soak.verdicts import Verdict
from tests.soak.faulty import BuffersAll, Right, WaitsForSlowReaders
from tests.soak.judged import EVERBUS, brief, verdicts


class Answering:
    """Reads everything, and sends some answers; closes when it is told to."""

    def __init__(self, closes_after_s: float = 30.0) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.received = bytearray()
        self.unread = 0
        self.closes_at = time.monotonic() + closes_after_s
        self.thread = threading.Thread(target=self.serve)

    def __enter__(self) -> Target:
        self.thread.start()
        return Target(socket.AF_INET, self.listener.getsockname(), hold_s=0.9)

    def __exit__(self, *_: object) -> None:
        self.thread.join()
        self.listener.close()

    def serve(self) -> None:
        connection, _ = self.listener.accept()
        with connection:
            connection.settimeout(0.02)
            connection.sendall(bytes(100))
            while time.monotonic() < self.closes_at:
                try:
                    if not (data := connection.recv(1 << 16)):
                        return
                except TimeoutError:
                    continue
                except ConnectionResetError:
                    return
                self.received += data


def test_it_asks_for_long_answers_up_to_a_bound_and_stays_for_a_third_of_the_hold_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(slow_reader, "_MOST_BYTES", 12 * 1000)
    server = Answering()
    begin = time.monotonic()
    with server as target:
        SlowReader().cycle(target, 1)
    assert 0.3 <= time.monotonic() - begin < 0.6
    frames = MbapFramer().feed(server.received)
    assert len(server.received) // 12 * 12 == 12 * len(frames)
    assert 1000 <= len(frames) <= 1600  # it sends up to 512 of them in one go
    assert {frame.pdu for frame in frames} == {bytes.fromhex("03 0000 007d")}


@pytest.mark.slow
def test_some_read_a_byte_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_reader, "_SIP_S", 0.01)
    sips: list[int] = []
    receive = Link.receive

    def counted(link: Link, deadline: float, at_most: int = 0) -> bytes:
        sips[-1] += 1
        assert at_most == 1
        return receive(link, deadline, at_most)

    monkeypatch.setattr(Link, "receive", counted)
    for number in range(1, 5):
        sips.append(0)
        with Answering() as target:
            SlowReader().cycle(Target(target.family, target.address, hold_s=0.6), number)
    assert min(sips) == 0
    assert max(sips) >= 2


def test_a_server_may_have_enough_of_it() -> None:
    begin = time.monotonic()
    with Answering(closes_after_s=0.1) as target:
        SlowReader().cycle(Target(target.family, target.address, hold_s=30.0), 1)
    assert time.monotonic() - begin < 5


@pytest.mark.slow
def test_both_ways() -> None:
    options = brief("slow-reader", duration_s=6.0, concurrency=3, hold_s=15.0, timeout_s=8.0)
    found = verdicts(options, BuffersAll, WaitsForSlowReaders, Right, EVERBUS)
    assert found[BuffersAll].verdict is Verdict.FAILING
    (finding,) = found[BuffersAll].findings
    assert finding.startswith("memory rose to ")
    assert finding.endswith(" MiB above the start, which is more than 16 MiB")
    assert found[WaitsForSlowReaders].verdict is Verdict.FAILING
    (finding,) = found[WaitsForSlowReaders].findings
    assert " polite requests took over 250 ms" in finding
    for kind in (Right, EVERBUS):
        assert (found[kind].verdict, found[kind].findings) == (Verdict.CLEAN, ()), found[kind].reason
