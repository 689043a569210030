from __future__ import annotations

from ipaddress import ip_network

import pytest

from everbus.protocol.framing.base import Frame
from everbus.protocol.pdu.bits import WriteMultipleCoilsRequest, WriteSingleCoilRequest
from everbus.protocol.pdu.table import PUBLIC, AnyRequest
from everbus.service.authorize import (
    ALLOW_ALL,
    Admission,
    AllowAll,
    CompiledPolicy,
    Kind,
    Policy,
    Touch,
    admission,
    touched,
)
from everbus.service.bank import TableName
from everbus.service.context import ConnectionInfo, RequestContext
from everbus.service.local import LocalDevice
from everbus.service.pipeline import Pipeline
from everbus.service.policy import Peers, Rule, RulePolicy
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


# --- what a request touches ---------------------------------------------------------------------

HOLDING = TableName.HOLDING_REGISTERS


@pytest.mark.parametrize(
    ("pdu", "parts"),
    [
        ("0100130013", [Touch(Kind.READ, TableName.COILS, 0x13, 0x26)]),
        ("0200C40016", [Touch(Kind.READ, TableName.DISCRETE_INPUTS, 0xC4, 0xDA)]),
        ("03006B0003", [Touch(Kind.READ, HOLDING, 0x6B, 0x6E)]),
        ("0400080001", [Touch(Kind.READ, TableName.INPUT_REGISTERS, 8, 9)]),
        ("0500ACFF00", [Touch(Kind.WRITE, TableName.COILS, 0xAC, 0xAD)]),
        ("06FFFF0003", [Touch(Kind.WRITE, HOLDING, 0xFFFF, 0x10000)]),
        ("0F0013000A02CD01", [Touch(Kind.WRITE, TableName.COILS, 0x13, 0x1D)]),
        ("1000010002040A0A0102", [Touch(Kind.WRITE, HOLDING, 1, 3)]),
        ("160004" + "00F20025", [Touch(Kind.READ, HOLDING, 4, 5), Touch(Kind.WRITE, HOLDING, 4, 5)]),
        ("170003000600090001020000", [Touch(Kind.READ, HOLDING, 3, 9), Touch(Kind.WRITE, HOLDING, 9, 10)]),
        ("1804DE", [Touch(Kind.READ, HOLDING, 0x4DE, 0x4FE)]),
        ("140E0600040001000206000300090002", [Touch(Kind.READ, "files", 4, 5), Touch(Kind.READ, "files", 3, 4)]),
        ("150D0600040007000306AF04BE100D", [Touch(Kind.WRITE, "files", 4, 5)]),
        ("2B0D001F", [Touch(Kind.OTHER)]),
    ],
)
def test_what_a_request_reads_and_writes(pdu: str, parts: list[Touch]) -> None:
    assert list(touched(PUBLIC.decode_request(bytes.fromhex(pdu)))) == parts


@pytest.mark.parametrize("pdu", ["07", "0B", "0C", "11", "2B0E0100", "080000A537", "0800020000", "08000B0000"])
def test_questions_about_the_device_are_reads(pdu: str) -> None:
    assert touched(PUBLIC.decode_request(bytes.fromhex(pdu))) == (Touch(Kind.READ),)


@pytest.mark.parametrize("pdu", ["0800010000", "0800030A00", "0800040000", "08000A0000", "0800140000"])
def test_what_changes_the_devices_state_is_a_write(pdu: str) -> None:
    assert touched(PUBLIC.decode_request(bytes.fromhex(pdu))) == (Touch(Kind.WRITE),)


# --- policies of one's own and policies of rules --------------------------------------------------


def test_a_policy_of_ones_own_is_asked_each_time_and_admits_everybody() -> None:
    policy = ReadOnly()
    pipeline = Pipeline(Units(LocalDevice()), policy)
    connection = ConnectionInfo(1, host="192.0.2.7")
    for _ in range(3):
        assert pipeline.answer(Frame(1, bytes.fromhex("0300000001"), 1), connection) == b"\x03\x02\0\0"
    assert len(policy.asked) == 3
    assert admission(policy)("192.0.2.7") is admission(ALLOW_ALL)("") is Admission.ALLOW
    assert not isinstance(policy, CompiledPolicy)


def test_a_policy_of_rules_is_asked_about_peers() -> None:
    peers = Peers(refuse=(ip_network("192.0.2.0/24"),))
    policy = RulePolicy([Rule(name="all")], peers)
    assert isinstance(policy, CompiledPolicy)
    assert admission(policy)("192.0.2.7") is Admission.REFUSE
