from __future__ import annotations

import pytest

from everbus.protocol.pdu.table import PUBLIC
from everbus.service.context import ConnectionInfo, RequestContext
from everbus.service.policy_file import parse_policy
from everbus.service.ready_made import READY_MADE

READ, IDENTIFY = "0300000001", "2B0E0100"
COIL, REGISTER, MASK, BOTH = "050000FF00", "0600000001", "16000400F20025", "170000000200030001020009"
RESTART, RECORDS, CANOPEN = "0800010000", "150D0600040007000306AF04BE100D", "2B0D001F"


@pytest.mark.parametrize(
    ("name", "role", "allowed"),
    [
        ("read-only", None, {READ, IDENTIFY}),
        ("read-only", "Engineer", {READ, IDENTIFY}),
        ("operator", None, {READ, IDENTIFY}),
        ("operator", "Guest", {READ, IDENTIFY}),
        ("operator", "Operator", {READ, IDENTIFY, COIL, REGISTER, MASK, BOTH}),
        ("operator", "Engineer", {READ, IDENTIFY, COIL, REGISTER, MASK, BOTH}),
        ("engineer", None, {READ, IDENTIFY}),
        ("engineer", "Operator", {READ, IDENTIFY, COIL, REGISTER, MASK, BOTH}),
        ("engineer", "Engineer", {READ, IDENTIFY, COIL, REGISTER, MASK, BOTH, RESTART, RECORDS, CANOPEN}),
    ],
)
@pytest.mark.requirement("SEC-R-28")
def test_what_a_ready_made_policy_lets_a_role_do(name: str, role: str | None, allowed: set[str]) -> None:
    policy = parse_policy(READY_MADE[name])
    context = RequestContext(ConnectionInfo(1, host="192.0.2.7", role=role), 1, 1)
    asked = {READ, IDENTIFY, COIL, REGISTER, MASK, BOTH, RESTART, RECORDS, CANOPEN}
    assert {pdu for pdu in asked if policy.allows(PUBLIC.decode_request(bytes.fromhex(pdu)), context)} == allowed


def test_there_are_three() -> None:
    assert list(READY_MADE) == ["read-only", "operator", "engineer"]
