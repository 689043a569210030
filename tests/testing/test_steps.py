from __future__ import annotations

import time

import pytest

from everbus.errors import UsageError
from everbus.protocol.framing.base import Frame, Framer
from everbus.protocol.framing.mbap import MbapFramer
from everbus.service.bank import Bank
from everbus.testing import ScriptedPeer, steps
from everbus.testing.steps import Step
from tests.testing.wire import ASK, RIGHT, ask, connected, ended, heard


def bank() -> Bank:
    made = Bank()
    made.write_holding_registers(0, [0x11, 0x22, 0x33])
    made.write_coils(0, [True] * 9)
    return made


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (steps.answer, RIGHT),
        (steps.late(0.02), RIGHT),
        (steps.duplicate(), RIGHT * 2),
        (steps.wrong_transaction(), b"\x00\x06" + RIGHT[2:]),
        (steps.wrong_transaction(-6), b"\xff\xff" + RIGHT[2:]),
        (steps.wrong_transaction(value=0xBEEF), b"\xbe\xef" + RIGHT[2:]),
        (steps.swapped_transaction, b"\x05\x00" + RIGHT[2:]),
        (steps.wrong_protocol(), b"\x00\x05\x00\x07" + RIGHT[4:]),
        (steps.wrong_unit(9), RIGHT[:6] + b"\x09" + RIGHT[7:]),
        (steps.wrong_function(4), RIGHT[:7] + b"\x04" + RIGHT[8:]),
        (steps.wrong_count(), bytes.fromhex("000500000003010300")),
        (steps.wrong_count(2), bytes.fromhex("00050000000901030600000000 0000")),
        (steps.lying_byte_count(250), RIGHT[:8] + b"\xfa" + RIGHT[9:]),
        (steps.pdu(b"\x03\x00"), bytes.fromhex("000500000003010300")),
        (steps.exception(2), bytes.fromhex("000500000003018302")),
        (steps.exception(2, function=4), bytes.fromhex("000500000003018402")),
        (steps.raw(b"what?"), b"what?"),
        (steps.drip(0.002), RIGHT),
        (steps.split(2, 9, every_s=0.002), RIGHT),
    ],
)
def test_a_step_decides_about_one_answer(step: Step, expected: bytes) -> None:
    with ScriptedPeer([step]) as peer, connected(peer) as sock:
        sock.sendall(ASK)
        assert heard(sock, len(expected)) == expected
        sock.sendall(ASK)
        assert heard(sock, len(RIGHT)) == RIGHT, "the next one is right, and nothing stands between"


@pytest.mark.parametrize(
    ("request_pdu", "step", "expected"),
    [
        ("0300000003", steps.wrong_count(-1), "03 04 0011 0022"),
        ("0300000003", steps.wrong_count(1), "03 08 0011 0022 0033 0000"),
        ("0100000009", steps.wrong_count(-1), "01 01 ff"),
        ("0100000009", steps.wrong_count(1), "01 03 ff01 00"),
        ("0100000009", steps.lying_byte_count(1), "01 01 ff01"),
        ("0600010007", steps.wrong_echo(), "06 0000 0007"),
        ("0600010007", steps.wrong_echo("value"), "06 0001 0006"),
        ("050002FF00", steps.wrong_echo(), "05 0003 ff00"),
        ("050002FF00", steps.wrong_echo("value"), "05 0002 0000"),
        ("10000000020400010002", steps.wrong_echo("value"), "10 0000 0003"),
        ("0600010007", steps.wrong_function(0x10), "10 0001 0007"),
    ],
)
def test_a_step_changes_the_right_answer_in_one_place(request_pdu: str, step: Step, expected: str) -> None:
    pdu = bytes.fromhex(expected)
    with ScriptedPeer([step], device=bank()) as peer, connected(peer) as sock:
        sock.sendall(ask(7, request_pdu))
        assert heard(sock, 7 + len(pdu))[7:] == pdu


@pytest.mark.parametrize(
    ("framing", "request_pdu", "step", "problem"),
    [
        ("mbap", "0600010007", steps.wrong_count(), "answer to a read; this one is 06 00 01 00 07"),
        ("mbap", "0600010007", steps.lying_byte_count(9), "answer to a read"),
        ("mbap", "0300000001", steps.wrong_echo(), "answer to a write; this one is 03 02 00 00"),
        ("mbap", "0300000001", steps.wrong_count(-2), "-2 bytes"),
        ("mbap", "030000007D", steps.wrong_count(1), "252 bytes"),
        ("rtu", "", steps.wrong_transaction(), "no transaction id"),
        ("rtu", "", steps.swapped_transaction, "no transaction id"),
        ("rtu", "", steps.wrong_protocol(), "no protocol id"),
    ],
)
def test_a_step_that_cannot_be_wrong_here_says_so(framing: str, request_pdu: str, step: Step, problem: str) -> None:
    request = ask(1, request_pdu) if framing == "mbap" else bytes.fromhex("010300000001840A")
    with pytest.raises(UsageError, match=problem):
        ended(ScriptedPeer([step], framing=framing), request)  # type: ignore[arg-type]


def test_a_wrong_count_of_no_difference_is_refused() -> None:
    with pytest.raises(UsageError, match="right count"):
        steps.wrong_count(0)


def test_silence_and_a_partial_answer_last() -> None:
    with ScriptedPeer([steps.silent, steps.partial(4)]) as peer, connected(peer) as sock:
        sock.sendall(ask(1) + ask(2))
        assert heard(sock, 4) == bytes.fromhex("00020000")
        sock.settimeout(0.03)
        with pytest.raises(TimeoutError):
            sock.recv(10)


@pytest.mark.parametrize("step", [steps.close, steps.reset, steps.partial(4, then_close=True)])
def test_a_step_may_end_the_connection(step: Step) -> None:
    with ScriptedPeer([step]) as peer, connected(peer) as sock:
        sock.sendall(ASK)
        if step is steps.reset:
            with pytest.raises(ConnectionResetError):
                sock.recv(10)
        else:
            assert heard(sock, 10) == (b"" if step is steps.close else RIGHT[:4])
        assert peer.open_connections == 0


def test_a_late_answer_is_overtaken_and_as_late_as_told() -> None:
    with ScriptedPeer([steps.late(0.03)]) as peer, connected(peer) as sock:
        begin = time.monotonic()
        sock.sendall(ask(1) + ask(2))
        assert heard(sock, 22)[1::11] == b"\x02\x01"
        assert time.monotonic() - begin >= 0.03


def test_held_answers_come_in_reverse_once_all_are_there() -> None:
    with ScriptedPeer([steps.hold(3)] * 6) as peer, connected(peer) as sock:
        sock.sendall(ask(1) + ask(2))
        sock.settimeout(0.03)
        with pytest.raises(TimeoutError):
            sock.recv(10)
        sock.settimeout(5.0)
        for number in (3, 4, 5, 6):
            sock.sendall(ask(number))
        assert heard(sock, 66)[1::11] == b"\x03\x02\x01\x06\x05\x04"


def test_a_glued_answer_comes_with_the_next_in_one_piece() -> None:
    with ScriptedPeer([steps.glued]) as peer, connected(peer) as sock:
        sock.sendall(ask(1))
        sock.settimeout(0.03)
        with pytest.raises(TimeoutError):
            sock.recv(10)
        sock.sendall(ask(2))
        sock.settimeout(5.0)
        assert sock.recv(100)[1::11] == b"\x01\x02"
        sock.sendall(ask(3))
        assert sock.recv(100)[1::11] == b"\x03"


class Recorder:
    """A channel that notes what is sent, and how much later."""

    def __init__(self) -> None:
        self.framer: Framer = MbapFramer()
        self.kept = bytearray()
        self.held: list[bytes] = []
        self.sent: list[tuple[float, bytes]] = []

    def send(self, data: bytes) -> None:
        self.sent.append((0.0, data))

    def later(self, after_s: float, data: bytes) -> None:
        self.sent.append((after_s, data))

    def end(self, *, reset: bool = False) -> None:
        raise AssertionError(f"nobody ends it, reset {reset}")

    def restart(self, after_s: float) -> None:
        raise AssertionError(f"nobody restarts it after {after_s}")


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (steps.late(2.0), [(2.0, RIGHT)]),
        (steps.split(9, 2, every_s=1.0), [(0.0, RIGHT[:2]), (1.0, RIGHT[2:9]), (2.0, RIGHT[9:])]),
        (steps.drip(1.0), [(at + 1.0, RIGHT[at : at + 1]) for at in range(len(RIGHT))]),
    ],
)
def test_a_step_may_take_its_time(step: Step, expected: list[tuple[float, bytes]]) -> None:
    channel = Recorder()
    step(steps.Turn(channel, Frame(1, ASK[7:], 5), RIGHT[7:], 1))
    assert channel.sent == expected


@pytest.mark.parametrize(("step", "least_s"), [(steps.split(2, 9, every_s=0.02), 0.04), (steps.drip(0.004), 0.044)])
def test_pieces_come_one_after_the_other(step: Step, least_s: float) -> None:
    with ScriptedPeer([step]) as peer, connected(peer) as sock:
        begin = time.monotonic()
        sock.sendall(ASK)
        assert heard(sock, len(RIGHT)) == RIGHT
        assert time.monotonic() - begin >= least_s


def test_a_restart_refuses_for_a_while_and_serves_again_at_the_same_place() -> None:
    with ScriptedPeer([steps.restart(0.05)]) as peer:
        with connected(peer) as sock, connected(peer) as other:
            sock.sendall(ASK)
            assert (sock.recv(10), other.recv(10)) == (b"", b"")
            with pytest.raises(ConnectionRefusedError):
                connected(peer).__enter__()
        until(peer)
        with connected(peer) as sock:
            sock.sendall(ASK)
            assert heard(sock, len(RIGHT)) == RIGHT


def until(peer: ScriptedPeer) -> None:
    """Wait until somebody listens there."""
    end = time.monotonic() + 5.0
    while time.monotonic() < end:
        try:
            with connected(peer):
                return
        except ConnectionRefusedError:
            time.sleep(0.005)
    raise AssertionError("nobody listens")


def test_a_step_may_choose_by_what_was_asked() -> None:
    def script(turn: steps.Turn) -> None:
        (steps.silent if turn.number % 2 else steps.answer)(turn)

    with ScriptedPeer(script) as peer, connected(peer) as sock:
        sock.sendall(b"".join(map(ask, range(1, 7))))
        assert heard(sock, 33)[1::11] == b"\x02\x04\x06"


def test_what_is_sent_to_a_client_that_does_not_read_is_not_lost() -> None:
    much = bytes(range(256)) * 40_000
    with ScriptedPeer([steps.raw(much)]) as peer, connected(peer) as sock:
        sock.sendall(ASK)
        assert sock.recv(1) == much[:1]
        peer.push(b"after it")
        assert heard(sock, len(much) + 7) == much[1:] + b"after it"
