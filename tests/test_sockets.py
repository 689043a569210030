from __future__ import annotations

import errno
import socket

import pytest

from everbus.client.endpoint import parse_endpoint
from everbus.errors import ConnectError
from everbus.sockets import Address, connect_error, literal_addresses, lost_error, new_socket, resolve_blocking

V4 = Address(socket.AF_INET, ("127.0.0.1", 502))


def test_an_address_needs_no_look_up() -> None:
    assert literal_addresses(parse_endpoint("tcp://127.0.0.1")) == [V4]
    assert literal_addresses(parse_endpoint("tcp://[::1]:5020")) == [Address(socket.AF_INET6, ("::1", 5020))]
    assert literal_addresses(parse_endpoint("unix:///run/m.sock")) == [Address(socket.AF_UNIX, "/run/m.sock")]
    assert literal_addresses(parse_endpoint("tcp://meter.example")) is None


def test_a_name_is_looked_up() -> None:
    assert V4 in resolve_blocking(parse_endpoint("tcp://localhost"))
    for name in ("no-such-host.invalid", "a..b"):
        with pytest.raises(ConnectError, match="is not a name or address here"):
            resolve_blocking(parse_endpoint(f"tcp://{name}"))


@pytest.mark.requirement("TG-4.3.2-client-options")
def test_a_socket_notices_dead_peers_and_sends_at_once() -> None:
    with new_socket(V4) as sock:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 90_000


def test_a_socket_may_have_a_source() -> None:
    with new_socket(V4, "127.0.0.9") as sock:
        assert sock.getsockname()[0] == "127.0.0.9"
    with pytest.raises(OSError, match="address"):
        new_socket(V4, "192.0.2.1")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), "nobody listens there"),
        (TimeoutError(), "no answer within 2 s"),
        (OSError(errno.EHOSTUNREACH, "no route"), "no way to that host"),
        (OSError(errno.EXDEV, "something odd"), "something odd"),
    ],
)
def test_errors_say_what_and_what_to_try(error: OSError, words: str) -> None:
    assert words in str(connect_error(parse_endpoint("tcp://192.0.2.7"), error, 2.0))


@pytest.mark.parametrize(
    ("reason", "cause", "words"),
    [
        ("", None, "was ended by the peer before the answer came"),
        ("takes_nothing", None, "was ended before the answer came (takes_nothing)"),
        ("", ConnectionRefusedError(errno.ECONNREFUSED, "refused"), "before the answer came: nobody listens there; is"),
        ("", ValueError("not Modbus"), "before the answer came: not Modbus"),
    ],
)
def test_an_end_says_when_and_why(reason: str, cause: Exception | None, words: str) -> None:
    error = lost_error(parse_endpoint("udp://192.0.2.7"), reason, cause, "before the answer came")
    assert words in str(error)
    assert error.__cause__ is cause
