from __future__ import annotations

import json

import pytest

from everbus.protocol.pdu.table import PUBLIC
from everbus.service.audit import AuditRecord, Outcome, PendingAudit, audited, denial, outcome_of
from everbus.service.authorize import Decision, Kind, Touch, Verdict, touched
from everbus.service.bank import Bank, TableName
from everbus.service.context import ConnectionInfo, RequestContext
from everbus.service.handler import SILENT, Handler
from everbus.service.local import LocalDevice
from everbus.service.units import as_handler

HMI = ConnectionInfo(7, "192.0.2.7:40112", "192.0.2.7", "tls://0.0.0.0:802", subject="CN=hmi", role="Operator")
CONTEXT = RequestContext(HMI, 3, 9)
ALLOWED = Decision(Verdict.ALLOWED, "set points")


def device() -> LocalDevice:
    bank = Bank(holding_registers=20)
    bank.write_holding_registers(0, list(range(100, 120)))
    bank.write_coils(0, [1, 0, 1, 1])
    return LocalDevice(bank)


def written(pdu: str, handler: Handler | None = None) -> list[dict[str, object]]:
    """The documents of a write that was done."""
    request = PUBLIC.decode_request(bytes.fromhex(pdu))
    pending = PendingAudit(request, CONTEXT, ALLOWED, handler or device())
    records = pending.records(Outcome())
    assert all(isinstance(record, AuditRecord) for record in records)
    return [json.loads(json.dumps(record.document())) for record in records]


def test_a_record_says_who_did_what_where() -> None:
    assert written("1000050002040007" + "0008") == [
        {
            "decision": "allowed",
            "rule": "set points",
            "peer": "192.0.2.7:40112",
            "subject": "CN=hmi",
            "role": "Operator",
            "endpoint": "tls://0.0.0.0:802",
            "connection": 7,
            "unit": 3,
            "transaction": 9,
            "function": 16,
            "name": "write multiple registers",
            "table": "holding_registers",
            "address": 5,
            "reference": "400006",
            "count": 2,
            "old": [105, 106],
            "new": [7, 8],
            "exception": None,
        }
    ]


@pytest.mark.parametrize(
    ("pdu", "place", "old", "new"),
    [
        ("050001FF00", ("coils", "000002"), [0], [1]),
        ("0500000000", ("coils", "000001"), [1], [0]),
        ("0F00000004010A", ("coils", "000001"), [1, 0, 1, 1], [0, 1, 0, 1]),
        ("0600130001", ("holding_registers", "400020"), [119], [1]),
        ("16000400F20025", ("holding_registers", "400005"), [104], [104 & 0xF2 | 0x25 & ~0xF2]),
        ("170000000200030001020009", ("holding_registers", "400004"), [103], [9]),
        ("0600140001", ("holding_registers", "400021"), None, [1]),
    ],
)
def test_old_values_are_those_of_the_bank(pdu: str, place: tuple[str, str], old: object, new: object) -> None:
    (document,) = written(pdu)
    assert (document["table"], document["reference"]) == place
    assert (document["old"], document["new"]) == (old, new)
    assert "request" not in document


def test_a_device_elsewhere_keeps_its_old_values_to_itself() -> None:
    remote = as_handler(lambda request, context: SILENT)
    (document,) = written("0600130001", remote)
    assert (document["old"], document["new"]) == (None, [1])
    (document,) = written("16000400F20025", remote)
    assert (document["old"], document["new"], document["request"]) == (None, None, "16000400f20025")


def test_each_range_that_is_written_has_a_record() -> None:
    first, second = written("151406000400070001" + "06AF" + "0600050009000204BE100D")
    assert [first[key] for key in ("table", "file", "record", "count", "old", "new")] == [
        "files",
        4,
        7,
        1,
        None,
        [0x6AF],
    ]
    assert [second[key] for key in ("file", "record", "new")] == [5, 9, [0x4BE, 0x100D]]
    assert "address" not in first


def test_what_has_no_range_is_recorded_as_it_came() -> None:
    (document,) = written("0800010000")
    assert (document["function"], document["request"]) == (8, "0800010000")
    assert "table" not in document


@pytest.mark.parametrize(
    ("pdu", "leaves_a_record"),
    [
        ("0300000001", False),
        ("11", False),
        ("2B0E0100", False),
        ("08000B0000", False),
        ("1804DE", False),
        ("0600000001", True),
        ("16000400F20025", True),
        ("170000000200030001020009", True),
        ("0800010000", True),
        ("2B0D001F", True),
    ],
)
def test_what_writes_leaves_a_record_and_what_reads_does_not(pdu: str, leaves_a_record: bool) -> None:
    assert audited(PUBLIC.decode_request(bytes.fromhex(pdu))) is leaves_a_record


@pytest.mark.parametrize(
    ("pdu", "part", "place"),
    [
        ("0300050002", 0, {"table": "holding_registers", "address": 5, "count": 2, "new": None}),
        ("0200050002", 0, {"table": "discrete_inputs", "reference": "100006", "count": 2}),
        ("0600050007", 0, {"table": "holding_registers", "address": 5, "count": 1, "new": [7], "old": None}),
        ("170000000200030001020009", 0, {"address": 0, "count": 2, "new": None}),
        ("170000000200030001020009", 1, {"address": 3, "count": 1, "new": [9]}),
        ("140E0600040001000206000300090003", 1, {"file": 3, "record": 9, "count": 3, "new": None}),
        ("151406000400070001" + "06AF" + "0600050009000204BE100D", 1, {"file": 5, "record": 9, "new": [0x4BE, 0x100D]}),
        ("0800010000", 0, {"request": "0800010000"}),
    ],
)
@pytest.mark.requirement("SEC-R-31")
def test_a_denial_is_about_the_part_that_is_denied(pdu: str, part: int, place: dict[str, object]) -> None:
    # F8
    request = PUBLIC.decode_request(bytes.fromhex(pdu))
    decision = Decision(Verdict.DENIED, "default", touched(request)[part])
    document = denial(request, CONTEXT, decision).document()
    assert {key: document.get(key) for key in place} == place
    assert (document["decision"], document["rule"], document["exception"]) == ("denied", "default", 1)


def test_a_denial_without_a_part_or_a_rule_is_recorded_too() -> None:
    request = PUBLIC.decode_request(b"\x2b\x0d\x00")
    for touch in (None, Touch(Kind.OTHER)):
        document = denial(request, CONTEXT, Decision(Verdict.LIMITED, touch=touch)).document()
        assert (document["decision"], document["rule"], document["exception"]) == ("limited", None, 6)
        assert document["request"] == "2b0d00"


@pytest.mark.parametrize(
    ("pdu", "outcome"),
    [
        (None, Outcome()),
        (b"\x06\0\x05\0\x07", Outcome()),
        (b"\x86\x02", Outcome(2)),
        (b"\xab\xff\0\1\0", Outcome(0xFF)),
    ],
)
def test_how_it_ended_is_read_from_the_answer(pdu: bytes | None, outcome: Outcome) -> None:
    assert outcome_of(pdu) == outcome


def test_what_is_given_up_says_so() -> None:
    pending = PendingAudit(PUBLIC.decode_request(bytes.fromhex("0600050007")), CONTEXT, ALLOWED, device())
    (record,) = pending.records(Outcome(abandoned=True))
    assert record.document()["abandoned"] is True


def test_a_table_is_named_by_its_reference_numbers() -> None:
    request = PUBLIC.decode_request(bytes.fromhex("0300050002"))
    for table, digit in zip(TableName, "0134", strict=True):
        decision = Decision(Verdict.DENIED, "r", Touch(Kind.READ, table, 65535, 65536))
        assert denial(request, CONTEXT, decision).document()["reference"] == f"{digit}65536"
