"""A server and the endpoints that its policy names."""

from __future__ import annotations

import pytest

from everbus.aio.server import Server
from everbus.errors import ConfigurationError
from everbus.service.bank import Bank
from everbus.service.policy import Rule, RulePolicy
from tests.aio.wire import ZERO, peer

ALL = Rule(name="all")


def denying(endpoint: str) -> RulePolicy:
    return RulePolicy([Rule(name="not there", allow=False, endpoints=(endpoint,)), ALL])


@pytest.mark.parametrize("named", ["tcp://localhost:45020", "127.0.0.1:45020", "tls://0.0.0.0", "/dev/ttyUSB0"])
async def test_a_rule_about_an_endpoint_that_is_not_here_keeps_the_server_from_starting(named: str) -> None:
    server = Server(Bank(), "tcp://127.0.0.1:0", policy=denying(named))
    with pytest.raises(ConfigurationError, match=f"the policy names {named}, .* these are: tcp://127.0.0.1:"):
        await server.start()
    assert not server.serving


@pytest.mark.parametrize("named", ["tcp://127.0.0.1:*", "tls://*"])
async def test_one_with_a_star_may_be_for_another_server(named: str) -> None:
    server = Server(Bank(), "tcp://127.0.0.1:0", policy=denying(named))
    async with server, peer(server.endpoints[0]) as one:
        assert await one.ask() == (b"\x83\x01" if named.startswith("tcp") else ZERO)
