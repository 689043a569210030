from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everbus.client.endpoint import (
    DEFAULT_SERVER_ENDPOINT,
    MODBUS_PORT,
    TLS_PORT,
    Endpoint,
    SerialSettings,
    TlsFiles,
    as_endpoint,
    parse_endpoint,
)
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
    assert (MODBUS_PORT, TLS_PORT) == (502, 802)
    assert parse_endpoint("plc.example", default_port=5020).port == 5020
    assert parse_endpoint("[::1]", default_port=5020).port == 5020
    assert parse_endpoint("plc.example:502", default_port=5020).port == 502
    assert parse_endpoint("udp://plc.example", default_port=5020).port == 5020
    assert parse_endpoint("tls://plc.example", default_port=5020).port == 802


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
        ("tcp://plc example", "there is no host in it"),
        ("tcp://user@plc.example", "there is no host in it"),
        ("tcp://plc.example/path", "there is no host in it"),
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
        ("http://plc.example", "scheme 'http' is not one of tcp, tls, udp, rtu, ascii, rtu+tcp, ascii+tcp, unix"),
        ("://plc.example", "scheme '' is not one of"),
        ("modbus+foo://plc.example", "scheme 'foo' is not one of"),
        ("tcp://plc.example?unit=1", "unknown key 'unit'; tcp knows none"),
        ("udp://?", "there is no host in it"),
        ("udp://plc.example:99999", "port '99999' is not a number"),
        ("tls://plc.example?password=x", "unknown key 'password'; tls knows cert, key, ca"),
        ("tls://plc.example?key=a&key=b", "key 'key' is there twice"),
        ("tls://plc.example?cert=", "key 'cert' needs a value"),
        ("tls://plc.example?cert=%00", "key 'cert' needs a value"),
        ("rtu://", "needs an absolute path, as in rtu:///dev/ttyUSB0?baudrate=9600&parity=N"),
        ("ascii://ttyUSB0", "needs an absolute path, as in ascii:///dev/ttyUSB0"),
        ("/dev/tty\x07", "needs an absolute path"),
        ("/dev/ttyUSB0?baud=9600", "unknown key 'baud'; rtu knows baudrate, bytesize, parity, stopbits, rs485, echo"),
        ("/dev/ttyUSB0?baudrate=fast", "baudrate is a whole number of 50..20000000, not 'fast'"),
        ("/dev/ttyUSB0?baudrate=1", "baudrate is a whole number of 50..20000000, not 1"),
        ("/dev/ttyUSB0?bytesize=9", "bytesize is 7 or 8, not 9"),
        ("/dev/ttyUSB0?bytesize=7", "bytesize is 8 for rtu, not 7"),
        ("/dev/ttyUSB0?parity=X", "parity is E or O or N, not 'X'"),
        ("/dev/ttyUSB0?stopbits=1.5", "stopbits is 1 or 2, not '1.5'"),
        ("/dev/ttyUSB0?rs485=maybe", "rs485 is 1 or 0 or true or false or yes or no, not 'maybe'"),
    ],
)
def test_a_bad_endpoint_is_refused_with_its_text_and_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_endpoint(text)
    assert str(caught.value).startswith(repr(text))
    assert reason in str(caught.value)


@pytest.mark.parametrize("text", ["tcp://me:secret@plc.example", "tls://:secret@h?ca=x", "foo://me:secret@h"])
def test_a_password_is_not_repeated(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_endpoint(text)
    assert "secret" not in str(caught.value)
    assert "***" in str(caught.value)


@pytest.mark.requirement("SEC-port-802")
@pytest.mark.parametrize(
    ("scheme", "framing", "identified", "port"),
    [
        ("tcp", "mbap", True, 502),
        ("tls", "mbap", True, 802),
        ("udp", "mbap", True, 502),
        ("rtu+tcp", "rtu", False, 502),
        ("ascii+tcp", "ascii", False, 502),
    ],
)
def test_each_scheme_has_its_framing_and_its_port(scheme: str, framing: str, identified: bool, port: int) -> None:
    for prefix in ("", "modbus+", "MODBUS+"):
        endpoint = parse_endpoint(f"{prefix}{scheme}://plc.example")
        assert (endpoint.scheme, endpoint.framing, endpoint.identified) == (scheme, framing, identified)
        assert (endpoint.host, endpoint.port) == ("plc.example", port)
        assert parse_endpoint(f"{prefix}{scheme}://[::1]:1").port == 1
    assert parse_endpoint("unix:///run/modbus.sock").framing == "mbap"


def test_a_serial_line_is_set_as_the_specification_has_it_unless_told_otherwise() -> None:
    usual = parse_endpoint("/dev/ttyUSB0")
    assert usual == parse_endpoint("rtu:///dev/ttyUSB0") == Endpoint("rtu", path="/dev/ttyUSB0")
    assert usual.serial == SerialSettings(19200, 8, "E", 1, rs485=False, echo=False)
    assert (usual.framing, usual.identified, usual.host, usual.port) == ("rtu", False, "", 0)
    text = parse_endpoint("ascii:///dev/ttyUSB0")
    assert text.serial == SerialSettings(bytesize=7)
    assert (text.framing, text.identified) == ("ascii", False)


def test_the_settings_of_a_serial_line_are_behind_the_question_mark() -> None:
    text = "rtu:///dev/ttyUSB0?baudrate=9600&bytesize=8&parity=none&stopbits=2&rs485=yes&echo=1"
    assert parse_endpoint(text).serial == SerialSettings(9600, 8, "N", 2, rs485=True, echo=True)
    assert parse_endpoint("ascii:///dev/ttyUSB0?parity=o&bytesize=8&echo=false").serial == SerialSettings(parity="O")


def test_the_files_of_a_tls_endpoint_are_behind_the_question_mark() -> None:
    endpoint = parse_endpoint("tls://plc.example?cert=/etc/a%26b.pem&key=k.pem&ca=/etc/my ca.pem")
    assert endpoint == Endpoint("tls", "plc.example", 802, tls=TlsFiles("/etc/a&b.pem", "k.pem", "/etc/my ca.pem"))
    assert parse_endpoint("tls://plc.example").tls == TlsFiles()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"scheme": "http"}, "scheme 'http' is not one of"),
        ({"scheme": "tcp", "serial": SerialSettings()}, "tcp has no serial settings, rtu or ascii has"),
        ({"scheme": "unix", "tls": TlsFiles()}, "unix has no certificates, tls has"),
        ({"scheme": "rtu", "serial": SerialSettings(bytesize=7)}, "bytesize is 8 for rtu"),
    ],
)
def test_an_endpoint_that_means_nothing_cannot_be_built(arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        Endpoint(**arguments)


@pytest.mark.parametrize(
    "wrong", [{"baudrate": True}, {"baudrate": 9600.0}, {"parity": "M"}, {"echo": "yes"}, {"stopbits": 0}]
)
def test_a_port_that_cannot_be_set_so_cannot_be_built(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        SerialSettings(**wrong)


def test_a_client_takes_an_endpoint_or_its_url() -> None:
    assert as_endpoint("rtu+tcp://plc.example") == Endpoint("rtu+tcp", "plc.example", 502)
    assert as_endpoint(Endpoint("unix", path="/run/modbus.sock")).scheme == "unix"


@pytest.mark.parametrize(
    "text",
    [
        "tcp://192.0.2.7:502",
        "tcp://[::1]:5020",
        "tcp://[fe80::1%eth0]:1",
        "unix:///run/modbus.sock",
        "rtu:///dev/ttyUSB0?baudrate=19200&parity=E",
        "ascii:///dev/a%20b?baudrate=9600&bytesize=8&parity=N&stopbits=2&rs485=1&echo=1",
        "tls://plc.example:802?cert=/etc/a%26b.pem&ca=ca.pem",
        "udp://[::1]:5020",
    ],
)
def test_an_endpoint_reads_as_its_url(text: str) -> None:
    assert str(parse_endpoint(text)) == text


names = st.from_regex(r"[a-z0-9][a-z0-9.-]{0,20}", fullmatch=True)
addresses = st.ip_addresses().map(str)
ports = st.integers(0, 65535)
schemes = st.sampled_from(["tcp", "udp", "tls", "rtu+tcp", "ascii+tcp"])
paths = st.text(st.characters(exclude_categories=("C", "Z")), max_size=20).map(lambda text: "/" + text)
serial = st.builds(
    SerialSettings,
    baudrate=st.integers(50, 20_000_000),
    parity=st.sampled_from("ENO"),
    stopbits=st.sampled_from([1, 2]),
    rs485=st.booleans(),
    echo=st.booleans(),
)
endpoints = (
    st.builds(Endpoint, schemes, names | addresses, ports)
    | st.builds(Endpoint, st.just("unix"), path=paths)
    | st.builds(Endpoint, st.sampled_from(["rtu", "ascii"]), path=paths, serial=serial | st.none())
    | st.builds(Endpoint, st.just("tls"), names, ports, tls=st.builds(TlsFiles, cert=paths, key=paths, ca=paths))
)


@given(endpoint=endpoints)
@settings(deadline=None)
def test_every_endpoint_is_read_back_from_its_url(endpoint: Endpoint) -> None:
    assert parse_endpoint(str(endpoint)) == endpoint


@given(text=st.text(max_size=30) | st.text(alphabet="rtucpsnix:/[].0129%?&=", max_size=20))
@settings(deadline=None)
def test_any_text_is_an_endpoint_or_a_configuration_error(text: str) -> None:
    try:
        endpoint = parse_endpoint(text)
    except ConfigurationError:
        return
    assert endpoint.path.startswith("/") != bool(endpoint.host)
    assert 0 <= endpoint.port <= 65535
