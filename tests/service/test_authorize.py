from __future__ import annotations

import pytest

from everbus.protocol.framing.base import Frame
from everbus.protocol.pdu.bits import WriteMultipleCoilsRequest, WriteSingleCoilRequest
from everbus.protocol.pdu.table import PUBLIC, AnyRequest
from everbus.service.authorize import ALLOW_ALL, AllowAll, Policy
from everbus.service.context import ConnectionInfo, RequestContext
from everbus.service.local import LocalDevice
from everbus.service.pipeline import Pipeline
from everbus.service.units import Units, UnknownUnit


class ReadOnly:
    """A policy that lets only engineers write coils, and remembers whom it was asked about."""

    unconditional = False

    def __init__(self) -> None:
        self.asked: list[tuple[AnyRequest, RequestContext]] = []

    def allows(self, request: AnyRequest, context: RequestContext) -> bool:
        self.asked.append((request, context))
        writes = isinstance(request, (WriteSingleCoilRequest, WriteMultipleCoilsRequest))
        return context.role == "Engineer" or not writes


class DenyAll:
    unconditional = False

    def allows(self, request: AnyRequest, context: RequestContext) -> bool:
        return False


def asked(policy: Policy, pdu: str, *, unit: int = 1, role: str | None = None) -> str:
    device = LocalDevice()
    pipeline = Pipeline(Units({1: device}), policy)
    answer = pipeline.answer(Frame(unit, bytes.fromhex(pdu), 7), ConnectionInfo(3, role=role))
    assert isinstance(answer, bytes)
    return answer.hex()


@pytest.mark.parametrize("role", [None, "Operator"])
@pytest.mark.requirement("SEC-R-28")
def test_everybody_may_do_everything_unless_told_otherwise(role: str | None) -> None:
    context = RequestContext(ConnectionInfo(1, role=role), 1, 1)
    for policy in (ALLOW_ALL, AllowAll()):
        assert policy.unconditional
        assert policy.allows(PUBLIC.decode_request(bytes.fromhex("050000FF00")), context)


@pytest.mark.requirement("SEC-R-23", "SEC-R-24")
def test_a_policy_decides_by_role_function_and_range() -> None:
    policy = ReadOnly()
    assert asked(policy, "050007FF00", role="Engineer") == "050007ff00"
    assert asked(policy, "050007FF00", role="Operator") == "8501"
    assert asked(policy, "050007FF00") == "8501"
    assert asked(policy, "0100070001", role="Operator") == "010100"
    requests = [(request, context.role, context.unit, context.transaction) for request, context in policy.asked]
    write = WriteSingleCoilRequest(7, 0xFF00)
    assert requests[:3] == [(write, "Engineer", 1, 7), (write, "Operator", 1, 7), (write, None, 1, 7)]


@pytest.mark.requirement("SEC-R-31")
def test_reads_are_decided_too_where_a_policy_has_conditions() -> None:
    assert asked(DenyAll(), "0300000001") == "8301"


@pytest.mark.requirement("SEC-R-31")
def test_what_is_denied_is_not_executed_and_the_next_request_is_answered() -> None:
    device = LocalDevice()
    pipeline = Pipeline(Units(device), ReadOnly())
    connection = ConnectionInfo(1)
    assert pipeline.answer(Frame(1, bytes.fromhex("050007FF00"), 1), connection) == b"\x85\x01"
    assert device.bank.read_coils(7) == [False]
    assert pipeline.answer(Frame(1, bytes.fromhex("0100070001"), 2), connection) == b"\x01\x01\x00"


@pytest.mark.parametrize("pdu", ["0300000001", "030FFF0001", "03FFFF0001", "11", "1804DE"])
def test_nobody_maps_a_device_by_what_is_denied(pdu: str) -> None:
    denied = f"{int(pdu[:2], 16) | 0x80:02x}01"
    assert asked(DenyAll(), pdu, unit=1) == denied
    assert asked(DenyAll(), pdu, unit=2) == denied


def test_what_is_denied_is_counted() -> None:
    pipeline = Pipeline(Units({1: LocalDevice()}, UnknownUnit.TARGET_FAILED), DenyAll())
    for unit in (1, 2):
        pipeline.answer(Frame(unit, bytes.fromhex("0300000001"), 1), ConnectionInfo(1))
    assert pipeline.exceptions == 2
