from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everbus.client.endpoint import DEFAULT_SERVER_ENDPOINT, MODBUS_PORT, Endpoint, parse_endpoint
from everbus.errors import ConfigurationError


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("tcp://192.0.2.7", "192.0.2.7", 502),
        ("tcp://192.0.2.7:5020", "192.0.2.7", 5020),
        ("tcp://plc.example:0", "plc.example", 0),
        ("tcp://plc.example:65535/", "plc.example", 65535),
        ("192.0.2.7", "192.0.2.7", 502),
        ("plc.example:1502", "plc.example", 1502),
        ("  tcp://plc.example  ", "plc.example", 502),
        ("TCP://PLC.example", "PLC.example", 502),
        ("tcp://[::1]", "::1", 502),
        ("tcp://[fe80::1%eth0]:5020", "fe80::1%eth0", 5020),
        ("[2001:db8::7]:1502", "2001:db8::7", 1502),
    ],
)
@pytest.mark.requirement("TG-4.2.1.1-port-configurable")
def test_a_tcp_endpoint_has_a_host_and_perhaps_a_port(text: str, host: str, port: int) -> None:
    assert parse_endpoint(text) == Endpoint("tcp", host=host, port=port)


def test_the_port_that_a_url_lacks_is_the_callers_choice() -> None:
    assert MODBUS_PORT == 502
    assert parse_endpoint("plc.example", default_port=5020).port == 5020
    assert parse_endpoint("[::1]", default_port=5020).port == 5020
    assert parse_endpoint("plc.example:502", default_port=5020).port == 502


@pytest.mark.parametrize("text", ["unix:///run/modbus.sock", "UNIX:///run/modbus.sock", " unix:///run/modbus.sock "])
def test_a_unix_endpoint_has_a_path_and_nothing_else(text: str) -> None:
    endpoint = parse_endpoint(text)
    assert (endpoint.scheme, endpoint.path) == ("unix", "/run/modbus.sock")
    assert (endpoint.host, endpoint.port) == ("", 0)


def test_the_path_of_a_unix_endpoint_is_kept_as_it_is() -> None:
    assert parse_endpoint("unix:///tmp/a b:1/[x]/").path == "/tmp/a b:1/[x]/"


def test_an_endpoint_cannot_be_changed() -> None:
    name = "port"
    with pytest.raises(FrozenInstanceError):
        setattr(parse_endpoint("plc.example"), name, 5020)


@pytest.mark.requirement("TG-4.2.1.1-port-502")
def test_servers_listen_where_nobody_else_reaches_them_unless_told_otherwise() -> None:
    assert parse_endpoint(DEFAULT_SERVER_ENDPOINT) == Endpoint("tcp", host="127.0.0.1", port=5020)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "there is no host in it"),
        ("tcp://", "there is no host in it"),
        (":502", "there is no host in it"),
        ("tcp://:502", "there is no host in it"),
        ("tcp://[]:502", "there is no host in it"),
        ("/dev/ttyUSB0", "there is no host in it"),
        ("tcp://plc example", "there is no host in it"),
        ("tcp://user@plc.example", "there is no host in it"),
        ("tcp://plc.example/path", "there is no host in it"),
        ("tcp://plc.example?unit=1", "there is no host in it"),
        ("tcp://plc.example:65536", "port '65536' is not a number"),
        ("tcp://plc.example:-1", "port '-1' is not a number"),
        ("tcp://plc.example:modbus", "port 'modbus' is not a number"),
        ("tcp://plc.example:502/path", "port '502/path' is not a number"),
        ("tcp://plc.example:５０２", "port '５０２' is not a number"),  # noqa: RUF001
        ("tcp://plc.example:²", "port '²' is not a number"),
        ("tcp://[::1]:65536", "port '65536' is not a number"),
        ("::1", "an IPv6 address stands in brackets"),
        ("tcp://fe80::1:502", "an IPv6 address stands in brackets"),
        ("tcp://[::1", "an IPv6 address stands in brackets"),
        ("tcp://[::1]502", "an IPv6 address stands in brackets"),
        ("unix://", "needs an absolute path"),
        ("unix://run/modbus.sock", "needs an absolute path"),
        ("http://plc.example", "scheme 'http' is not one of"),
        ("://plc.example", "scheme '' is not one of"),
    ],
)
def test_a_bad_endpoint_is_refused_with_its_text_and_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_endpoint(text)
    assert str(caught.value).startswith(repr(text))
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    "text", ["tcp://192.0.2.7:502", "tcp://[::1]:5020", "tcp://[fe80::1%eth0]:1", "unix:///run/modbus.sock"]
)
def test_an_endpoint_reads_as_its_url(text: str) -> None:
    assert str(parse_endpoint(text)) == text


names = st.from_regex(r"[a-z0-9][a-z0-9.-]{0,20}", fullmatch=True)
addresses = st.ip_addresses().map(str)
endpoints = st.builds(
    lambda host, port: Endpoint("tcp", host=host, port=port), names | addresses, st.integers(0, 65535)
) | st.from_regex(r"/[a-zA-Z0-9/._-]{1,30}", fullmatch=True).map(lambda path: Endpoint("unix", path=path))


@given(endpoint=endpoints)
@settings(deadline=None)
def test_every_endpoint_is_read_back_from_its_url(endpoint: Endpoint) -> None:
    assert parse_endpoint(str(endpoint)) == endpoint


@given(text=st.text(max_size=30) | st.text(alphabet="tcpunix:/[].0129%", max_size=20))
@settings(deadline=None)
def test_any_text_is_an_endpoint_or_a_configuration_error(text: str) -> None:
    try:
        endpoint = parse_endpoint(text)
    except ConfigurationError:
        return
    assert endpoint.path.startswith("/") if endpoint.scheme == "unix" else endpoint.host
    assert 0 <= endpoint.port <= 65535
