from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from ipaddress import ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everbus.errors import ConfigurationError, UsageError
from everbus.protocol.framing.base import Frame
from everbus.protocol.pdu.table import PUBLIC
from everbus.service.authorize import FILES, Admission, Kind, Verdict, touched
from everbus.service.bank import TableName
from everbus.service.context import ConnectionInfo, RequestContext
from everbus.service.local import LocalDevice
from everbus.service.pipeline import Pipeline
from everbus.service.policy import BY_DEFAULT, Network, Peers, Rule, RulePolicy, Span
from everbus.service.units import Units

COILS, HOLDING = TableName.COILS, TableName.HOLDING_REGISTERS
READ, WRITE = frozenset({Kind.READ}), frozenset({Kind.WRITE})
HMI = ConnectionInfo(
    1, "192.0.2.7:40112", "192.0.2.7", "tls://0.0.0.0:802", subject="CN=hmi-3,O=Plant", role="Operator"
)
UNIX = ConnectionInfo(2, endpoint="unix:///run/modbus.sock")


def nets(*texts: str) -> tuple[Network, ...]:
    return tuple(map(ip_network, texts))


def no_clock() -> float:
    raise AssertionError("nobody asked for a rate")


def decided(
    rules: Rule | Iterable[Rule],
    pdu: str,
    connection: ConnectionInfo = HMI,
    unit: int = 1,
    clock: Callable[[], float] = no_clock,
) -> tuple[str, str]:
    """Verdict and rule."""
    policy = RulePolicy([rules] if isinstance(rules, Rule) else rules)
    request = PUBLIC.decode_request(bytes.fromhex(pdu))
    context = RequestContext(connection, unit, 1)
    decision = policy.access(connection).decide(request, context, clock)
    assert policy.allows(request, context) is decision.allowed
    return str(decision.verdict), decision.rule


# --- who ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "fits"),
    [
        (Rule(name="r"), "both"),
        (Rule(name="r", roles=frozenset({"Operator", "Engineer"})), "hmi"),
        (Rule(name="r", roles=frozenset({"operator"})), "none"),
        (Rule(name="r", roles=frozenset({"*"})), "none"),
        (Rule(name="r", roles=frozenset({""})), "unix"),
        (Rule(name="r", subjects=("CN=hmi-*",)), "hmi"),
        (Rule(name="r", subjects=("CN=hmi-3", "CN=other")), "none"),
        (Rule(name="r", subjects=("*",)), "hmi"),
        (Rule(name="r", subjects=("CN=hmi.3,O=Plant",)), "none"),
        (Rule(name="r", networks=nets("2001:db8::/32", "192.0.2.0/24")), "hmi"),
        (Rule(name="r", networks=nets("192.0.2.8/32")), "none"),
        (Rule(name="r", networks=nets("0.0.0.0/0")), "hmi"),
        (Rule(name="r", endpoints=("tls://*", "tcp://*")), "hmi"),
        (Rule(name="r", endpoints=("unix:*",)), "unix"),
        (Rule(name="r", roles=frozenset({"Operator"}), networks=nets("10.0.0.0/8")), "none"),
    ],
)
@pytest.mark.requirement("SEC-R-23", "SEC-R-24")
def test_a_rule_is_about_peers_that_fit_all_it_says(rule: Rule, fits: str) -> None:
    for name, connection in (("hmi", HMI), ("unix", UNIX)):
        expected = ("allowed", "r") if fits in (name, "both") else ("denied", BY_DEFAULT)
        assert decided(rule, "0300000001", connection) == expected


@pytest.mark.parametrize("host", ["::ffff:192.0.2.7", "192.0.2.7"])
def test_an_ipv4_peer_of_an_ipv6_socket_is_itself(host: str) -> None:
    connection = ConnectionInfo(3, host=host)
    rule = Rule(name="r", networks=nets("192.0.2.0/24"))
    assert decided(rule, "0300000001", connection) == ("allowed", "r")
    assert Peers(refuse=nets("192.0.2.0/24")).admit(host) is Admission.REFUSE


def test_a_link_local_peer_is_in_its_network() -> None:
    rule = Rule(name="r", networks=nets("fe80::/10"))
    assert decided(rule, "0300000001", ConnectionInfo(3, host="fe80::1%eth0")) == ("allowed", "r")


# --- what ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "pdu", "allowed"),
    [
        (Rule(name="r", kinds=READ), "0300000001", True),
        (Rule(name="r", kinds=READ), "0600000001", False),
        (Rule(name="r", kinds=WRITE), "0600000001", True),
        (Rule(name="r", kinds=READ), "2B0E0100", True),
        (Rule(name="r", kinds=READ), "080000A537", True),
        (Rule(name="r", kinds=READ), "0800010000", False),
        (Rule(name="r", kinds=WRITE), "0800010000", True),
        (Rule(name="r", kinds=READ | WRITE), "2B0D001F", False),
        (Rule(name="r", functions=frozenset({0x2B})), "2B0D001F", True),
        (Rule(name="r"), "2B0D001F", True),
        (Rule(name="r", functions=frozenset({3})), "0400000001", False),
        (Rule(name="r", functions=frozenset({4}), kinds=WRITE), "0400000001", True),
        (Rule(name="r", functions=frozenset({4}), kinds=WRITE), "050000FF00", True),
        (Rule(name="r", units=frozenset({2})), "0300000001", False),
        (Rule(name="r", units=frozenset({1, 2})), "0300000001", True),
        # an address range: the whole request must be inside
        (Rule(name="r", spans=(Span(HOLDING, 10, 10),)), "03000A000A", True),
        (Rule(name="r", spans=(Span(HOLDING, 10, 10),)), "03000A000B", False),
        (Rule(name="r", spans=(Span(HOLDING, 10, 10),)), "030009000A", False),
        (Rule(name="r", spans=(Span(HOLDING, 10, 10),)), "04000A000A", False),
        (Rule(name="r", spans=(Span(HOLDING, 10, 5), Span(HOLDING, 15, 5))), "03000A000A", True),
        (Rule(name="r", spans=(Span(COILS),)), "0FFFF800080101", True),
        (Rule(name="r", spans=(Span(COILS),)), "11", False),
        # both ranges, or not at all
        (Rule(name="r", spans=(Span(HOLDING, 0, 10),)), "170000000A00090001020000", True),
        (Rule(name="r", spans=(Span(HOLDING, 0, 10),)), "170000000A000A0001020000", False),
        (Rule(name="r", spans=(Span(HOLDING, 0, 10),)), "170001000A00000001020000", False),
        (Rule(name="r", kinds=READ), "170000000A00090001020000", False),
        (Rule(name="r", kinds=WRITE), "170000000A00090001020000", False),
        (Rule(name="r", functions=frozenset({0x17})), "170000000A00090001020000", True),
        (Rule(name="r", kinds=WRITE), "16000400F20025", False),
        (Rule(name="r", kinds=WRITE | READ), "16000400F20025", True),
        (Rule(name="r", spans=(Span(HOLDING, 4, 1),)), "16000400F20025", True),
        (Rule(name="r", spans=(Span(HOLDING, 100, 32),)), "180064", True),
        (Rule(name="r", spans=(Span(HOLDING, 100, 31),)), "180064", False),
        (Rule(name="r", spans=(Span(HOLDING, 65530, 6),)), "18FFFA", True),
        (Rule(name="r", spans=(Span(FILES, 3, 2),)), "140E0600040001000206000300090002", True),
        (Rule(name="r", spans=(Span(FILES, 3, 1),)), "140E0600040001000206000300090002", False),
        (Rule(name="r", kinds=READ, spans=(Span(FILES, 4, 1),)), "150D0600040007000306AF04BE100D", False),
    ],
)
@pytest.mark.requirement("SEC-R-24")
def test_a_rule_allows_what_it_covers_wholly(rule: Rule, pdu: str, allowed: bool) -> None:
    assert decided(rule, pdu) == (("allowed", "r") if allowed else ("denied", BY_DEFAULT))


def test_the_first_rule_that_matches_decides() -> None:
    rules = [
        Rule(name="not the pump", allow=False, kinds=WRITE, spans=(Span(HOLDING, 10, 1),)),
        Rule(name="set points", kinds=WRITE, spans=(Span(HOLDING, 0, 20),)),
        Rule(name="more", kinds=WRITE, spans=(Span(HOLDING, 20, 20),)),
        Rule(name="too late", allow=False, spans=(Span(HOLDING, 5, 1),)),
        Rule(name="read", kinds=READ),
    ]
    assert decided(rules, "0600050001") == ("allowed", "set points")
    assert decided(rules, "06000A0001") == ("denied", "not the pump")
    assert decided(rules, "0600280001") == ("denied", BY_DEFAULT)
    # a denied register in the middle, and two rules side by side
    assert decided(rules, "10000900030600010002" + "0003") == ("denied", "not the pump")
    assert decided(rules, "10001300020400010002") == ("allowed", "set points")
    assert decided(rules, "03000A0001") == ("allowed", "read")
    assert decided(rules, "0300050001") == ("denied", "too late")


def test_a_denial_says_which_part_is_denied() -> None:
    policy = RulePolicy([Rule(name="read", kinds=READ)])
    request = PUBLIC.decode_request(bytes.fromhex("170003000600090001020000"))
    decision = policy.access(HMI).decide(request, RequestContext(HMI, 1, 1), no_clock)
    assert decision.touch == (Kind.WRITE, HOLDING, 9, 10)
    assert decision.exception_code == 1


spans = st.builds(
    Span,
    st.sampled_from([HOLDING, COILS]),
    st.integers(0, 12),
    st.integers(1, 6),
)
some_rules = st.lists(
    st.builds(
        Rule,
        name=st.just("r"),
        allow=st.booleans(),
        roles=st.sampled_from([frozenset(), frozenset({"Operator"}), frozenset({"", "Engineer"})]),
        networks=st.sampled_from([(), nets("192.0.2.0/24"), nets("10.0.0.0/8")]),
        kinds=st.sampled_from([frozenset(), READ, WRITE]),
        functions=st.sampled_from([frozenset(), frozenset({3}), frozenset({6, 0x17})]),
        units=st.sampled_from([frozenset(), frozenset({1})]),
        spans=st.lists(spans, max_size=2).map(tuple),
    ),
    min_size=1,
    max_size=5,
).map(lambda rules: [replace(rule, name=f"rule {number}") for number, rule in enumerate(rules)])
address, count = st.integers(0, 15), st.integers(1, 4)
some_requests = st.one_of(
    st.builds(lambda code, at, n: f"{code:02X}{at:04X}{n:04X}", st.sampled_from([1, 3]), address, count),
    st.builds(lambda at: f"06{at:04X}0001", address),
    st.builds(lambda at: f"16{at:04X}00FF0000", address),
    st.builds(lambda at, n, to: f"17{at:04X}{n:04X}{to:04X}0001020007", address, count, address),
    st.just("11"),
)


def naively(rules: list[Rule], pdu: str, connection: ConnectionInfo, unit: int) -> bool:
    """Each item that a request touches, one after the other, against each rule."""
    request = PUBLIC.decode_request(bytes.fromhex(pdu))

    def fits(rule: Rule, kind: Kind, table: str | None, item: int) -> bool:
        functional = not (rule.kinds or rule.functions)
        functional |= kind in rule.kinds or request.function_code in rule.functions
        placed = any(span.table == table and span.address <= item < span.end for span in rule.spans)
        network = [ip_network(connection.host).subnet_of(net) for net in rule.networks]  # type: ignore[arg-type]
        return (
            functional
            and (placed or not rule.spans)
            and (not rule.units or unit in rule.units)
            and (not rule.roles or (connection.role or "") in rule.roles)
            and (not rule.networks or any(network))
        )

    for kind, table, start, end in touched(request):
        for item in range(start, end):
            decision = next((rule.allow for rule in rules if fits(rule, kind, table, item)), False)
            if not decision:
                return False
    return True


@given(
    some_rules,
    st.lists(some_requests, min_size=1, max_size=3),
    st.sampled_from([HMI, replace(HMI, role=None), replace(HMI, role="Engineer", host="10.1.2.3")]),
    st.sampled_from([0, 1, 2]),
)
@settings(max_examples=60, deadline=None)
def test_what_is_compiled_decides_as_the_rules_read(
    rules: list[Rule], pdus: list[str], connection: ConnectionInfo, unit: int
) -> None:
    connection = replace(connection)  # nothing is remembered of it
    policy = RulePolicy(rules)
    for pdu in pdus:
        request = PUBLIC.decode_request(bytes.fromhex(pdu))
        expected = naively(rules, pdu, connection, unit)
        assert policy.allows(request, RequestContext(connection, unit, 1)) is expected
        pipeline = Pipeline(Units(LocalDevice()), policy)
        answers = [pipeline.answer(Frame(unit, bytes.fromhex(pdu), 1), connection) for _ in range(2)]
        assert answers[0] == answers[1]  # decided, and remembered
        assert isinstance(answers[0], bytes)
        assert (answers[0][0] < 0x80) is expected


# --- how often ----------------------------------------------------------------------------------


def test_a_rate_is_a_bucket_of_one_seconds_worth_for_each_peer() -> None:
    policy = RulePolicy([Rule(name="slowly", rate_per_s=2)])
    other = ConnectionInfo(9, host="192.0.2.8")
    again = replace(HMI, connection_id=10)
    now = 100.0

    def asked(connection: ConnectionInfo) -> str:
        request = PUBLIC.decode_request(bytes.fromhex("0300000001"))
        decision = policy.access(connection).decide(request, RequestContext(connection, 1, 1), lambda: now)
        assert decision.rule == "slowly"
        assert decision.allowed or decision.exception_code == 6
        assert not decision.lasting
        return str(decision.verdict)

    assert [asked(HMI), asked(HMI), asked(HMI)] == ["allowed", "allowed", "limited"]
    assert asked(again) == "limited"  # a new connection does not bring new tokens
    assert asked(other) == "allowed"
    now += 0.5
    assert [asked(HMI), asked(HMI)] == ["allowed", "limited"]
    now += 100
    assert [asked(HMI) for _ in range(4)] == ["allowed", "allowed", "limited", "limited"]


def test_a_rate_below_one_a_second_lets_one_through() -> None:
    times = iter([0.0, 1.0, 9.9, 10.1])
    policy = RulePolicy([Rule(name="seldom", rate_per_s=0.1)])
    request = PUBLIC.decode_request(bytes.fromhex("0300000001"))
    access = policy.access(UNIX)
    verdicts = [access.decide(request, RequestContext(UNIX, 1, 1), lambda: next(times)).verdict for _ in range(4)]
    assert verdicts == [Verdict.ALLOWED, Verdict.LIMITED, Verdict.LIMITED, Verdict.ALLOWED]


def test_a_request_takes_a_token_of_each_rule_that_allows_a_part_or_none() -> None:
    policy = RulePolicy([Rule(name="write", kinds=WRITE, rate_per_s=1), Rule(name="read", kinds=READ, rate_per_s=2)])
    access, context = policy.access(HMI), RequestContext(HMI, 1, 1)

    def asked(pdu: str) -> tuple[str, str]:
        decision = access.decide(PUBLIC.decode_request(bytes.fromhex(pdu)), context, lambda: 0.0)
        return str(decision.verdict), decision.rule

    both, read = "170000000100000001020007", "0300000001"
    assert [asked(both), asked(both), asked(read), asked(read)] == [
        ("allowed", "read"),
        ("limited", "write"),
        ("allowed", "read"),
        ("limited", "read"),
    ]


def test_what_a_rate_remembers_of_peers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("everbus.service.policy._MOST_BUCKETS", 2)
    policy = RulePolicy([Rule(name="once", rate_per_s=1)])
    request = PUBLIC.decode_request(bytes.fromhex("0300000001"))

    def asked(host: str) -> bool:
        connection = ConnectionInfo(1, host=host)
        return policy.access(connection).decide(request, RequestContext(connection, 1, 1), lambda: 5.0).allowed

    assert [asked("192.0.2.1"), asked("192.0.2.2"), asked("192.0.2.2"), asked("192.0.2.3")] == [True, True, False, True]
    assert [asked("192.0.2.2"), asked("192.0.2.1")] == [False, True]  # the first one was forgotten


# --- what is remembered ---------------------------------------------------------------------------


def test_connections_to_which_the_same_rules_apply_share_what_is_known() -> None:
    policy = RulePolicy([Rule(name="a", roles=frozenset({"Operator"})), Rule(name="b", networks=nets("192.0.2.0/24"))])
    access = policy.access(HMI)
    assert policy.access(replace(HMI, connection_id=2, host="192.0.2.9")) is access
    assert policy.access(replace(HMI, role=None)) is not access


def test_what_is_known_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_MOST_KNOWN", "_MOST_NARROWED", "_MOST_IDENTITIES"):
        monkeypatch.setattr(f"everbus.service.policy.{name}", 3)
    policy = RulePolicy([Rule(name=f"r{n}", roles=frozenset({f"role {n}"})) for n in range(8)])
    pipeline = Pipeline(Units(LocalDevice()), policy)
    for n in range(8):
        connection = ConnectionInfo(n, role=f"role {n}")
        for unit in range(8):
            assert pipeline.answer(Frame(unit, bytes.fromhex("0300000001"), 1), connection) == b"\x03\x02\0\0"
        assert connection.access is not None
        assert len(connection.access.known) <= 3


# --- peers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peers", "admitted"),
    [
        (Peers(), {"192.0.2.7": "allow", "": "allow", "somewhere": "allow"}),
        (Peers(refuse=nets("192.0.2.0/24")), {"192.0.2.7": "refuse", "192.0.3.7": "allow", "": "allow"}),
        (
            Peers(allow=nets("192.0.2.0/24")),
            {"192.0.2.7": "allow", "192.0.3.7": "refuse", "::1": "refuse", "": "allow"},
        ),
        (Peers(priority=nets("192.0.2.7/32")), {"192.0.2.7": "priority", "192.0.2.8": "allow"}),
        (
            Peers(refuse=nets("10.0.0.0/8"), allow=nets("10.1.0.0/16", "::/0"), priority=nets("10.1.2.3/32")),
            {"10.0.0.1": "refuse", "10.1.0.1": "allow", "10.1.2.3": "priority", "::1": "allow", "192.0.2.7": "refuse"},
        ),
    ],
)
def test_the_narrowest_network_decides_about_a_peer(peers: Peers, admitted: dict[str, str]) -> None:
    policy = RulePolicy([Rule(name="r")], peers)
    assert {host: str(policy.admit(host)) for host in admitted} == admitted


# --- what cannot work -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Rule(name=""), "a rule has a name"),
        (lambda: Rule(name="default"), "not 'default'"),
        (lambda: Rule(name="r", units=frozenset({256})), "unit 256"),
        (lambda: Rule(name="r", functions=frozenset({0})), "function code 0 is outside 1..127"),
        (lambda: Rule(name="r", functions=frozenset({128})), "function code 128"),
        (lambda: Rule(name="r", rate_per_s=0), "above 0"),
        (lambda: Rule(name="r", rate_per_s=float("nan")), "above 0"),
        (lambda: Rule(name="r", rate_per_s=10**400), "at most 1e"),
        (lambda: Rule(name="r", allow=False, rate_per_s=1), "denies has no rate"),
        (lambda: Span("register", 0, 1), "'register' is not a table: coils,"),
        (lambda: Span(HOLDING, 65535, 2), "leave the table"),
        (lambda: Peers(allow=nets("10.0.0.0/8"), refuse=nets("10.0.0.0/8")), "in two of"),
        (lambda: RulePolicy([]), "allows nothing"),
        (lambda: RulePolicy([Rule(name="r"), Rule(name="r")]), "same name"),
    ],
)
def test_what_cannot_work_is_not_built(build: Callable[[], object], words: str) -> None:
    with pytest.raises((ConfigurationError, UsageError), match=words):
        build()


def test_a_policy_shows_how_many_rules_it_has() -> None:
    assert repr(RulePolicy([Rule(name="a"), Rule(name="b")])) == "<RulePolicy 2 rules>"
