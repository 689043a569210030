from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from everbus.service.context import ConnectionInfo, RequestContext


def test_a_request_is_told_who_asks_and_whom() -> None:
    connection = ConnectionInfo(7, peer="192.0.2.7:40112", host="192.0.2.7", role="Operator", subject="CN=hmi")
    context = RequestContext(connection, unit=17, transaction=0xABCD)
    assert (context.peer, context.connection_id, context.role) == ("192.0.2.7:40112", 7, "Operator")
    assert context.subject == "CN=hmi"
    assert (context.unit, context.transaction) == (17, 0xABCD)


def test_a_connection_is_plain_and_without_a_role_unless_told_otherwise() -> None:
    connection = ConnectionInfo(1)
    assert (connection.peer, connection.host, connection.endpoint) == ("", "", "")
    assert (connection.serial, connection.subject, connection.role) == (False, None, None)
    assert RequestContext(connection, 1, 1).role is None


def test_a_handler_cannot_change_who_asks() -> None:
    context = RequestContext(ConnectionInfo(1), 1, 1)
    for target, name in ((context, "unit"), (context.connection, "role")):
        with pytest.raises(FrozenInstanceError):
            setattr(target, name, "admin")
