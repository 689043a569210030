"""The server that is soaked: a named one, or one of our own."""

from __future__ import annotations

import os

import pytest

from everbus.cli import soak_server
from everbus.cli.output import CommandFailure, ExitCode
from everbus.cli.soak_server import named_server, own_server
from everbus.errors import ConfigurationError
from everbus.resources import listening_addresses


def test_a_named_server_is_what_was_named() -> None:
    server = named_server("localhost", 4711)
    assert (str(server.endpoint), server.pid) == ("tcp://localhost:502", 4711)


@pytest.mark.parametrize("url", ["tcp://127.0.0.1:0", "ftp://127.0.0.1", "tcp://", "rtu+tcp://127.0.0.1:502"])
def test_no_server_can_have_such_a_name(url: str) -> None:
    with pytest.raises(ConfigurationError):
        named_server(url, None)


def test_our_own_lives_as_long_as_the_block() -> None:
    with own_server() as server:
        assert server.pid is not None
        assert listening_addresses(server.pid) == (f"127.0.0.1:{server.endpoint.port}",)
    with pytest.raises(ProcessLookupError):
        os.kill(server.pid, 0)


def serve_instead(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    monkeypatch.setattr(soak_server, "_SERVE", ("-c", script))


def entering_fails() -> CommandFailure:
    """How entering it fails."""
    with pytest.raises(CommandFailure) as failure, own_server():
        pass
    return failure.value


def test_one_that_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    serve_instead(monkeypatch, 'import sys; sys.exit(\'{"event": "no luck"}\')')
    failure = entering_fails()
    assert failure.code is ExitCode.CANNOT_CONNECT
    assert failure.message == 'the server of our own did not start; it said: {"event": "no luck"}'
    assert failure.hint == "everbus serve, or give the URL of a server"


@pytest.mark.slow
def test_one_that_says_nothing_and_does_not_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    serve_instead(monkeypatch, "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)")
    monkeypatch.setattr(soak_server, "_READY_S", 0.7)
    monkeypatch.setattr(soak_server, "_STOP_S", 0.2)
    failure = entering_fails()
    assert failure.message.endswith("it said: nothing")


@pytest.mark.parametrize(
    ("line", "url"),
    [
        ('{"event": "ready", "endpoints": ["tcp://127.0.0.1:4711"]}', "tcp://127.0.0.1:4711"),
        ('{"event": "accept_failed", "endpoints": ["tcp://127.0.0.1:4711"]}', ""),
        ('{"event": "ready", "endpoints": []}', ""),
        ('{"message": "no event"}', ""),
        ('"ready"', ""),
        ("everbus ready", ""),
    ],
)
def test_the_line_that_says_ready(line: str, url: str) -> None:
    assert soak_server._url_in(line) == url
