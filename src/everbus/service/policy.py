"""Rules: who may do what, in order, the first that matches decides, and what none allows is denied.

Everything is judged item by item: a request is allowed when everything that it touches is
(``authorize.touched``), whether one rule allows that or several side by side; a denied register in the
middle of a range denies the whole request. What a connection's identity makes of the rules is
worked out once; what was allowed is remembered and costs a look-up.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, Final

from everbus.errors import ConfigurationError
from everbus.protocol.codes import EXCEPTION_BIT, ITEMS_PER_TABLE
from everbus.protocol.pdu.table import AnyRequest
from everbus.protocol.values import AddressRange, check_unit
from everbus.service.authorize import FILES, Admission, Decision, Kind, Verdict, touched
from everbus.service.bank import TableName
from everbus.service.context import ConnectionInfo, RequestContext

__all__ = ["BY_DEFAULT", "Network", "Peers", "Rule", "RulePolicy", "Span"]

Network = IPv4Network | IPv6Network

BY_DEFAULT: Final = "default"
"""The name that decisions give where no rule allows a request."""

_MOST_PER_S: Final = 1e6
_MOST_KNOWN: Final = 1024
_MOST_NARROWED: Final = 512
_MOST_IDENTITIES: Final = 1024
_MOST_BUCKETS: Final = 4096
"""What is remembered, at most; strangers with odd requests push each other out."""


@dataclass(frozen=True, slots=True)
class Span:
    """A run of items of one table, or of file numbers.

    Args:
        table: one of ``TableName``, or ``files``.
        address: first item, 0..65535; of files their number.
        count: how many; None: all from there on.

    Raises:
        UsageError: it leaves the table.
    """

    table: str
    address: int = 0
    count: int | None = None

    def __post_init__(self) -> None:
        if self.table != FILES and self.table not in set(TableName):
            raise ConfigurationError(f"{self.table!r} is not a table: {', '.join(TableName)} or {FILES}")
        AddressRange(self.address, self.end - self.address)

    @property
    def end(self) -> int:
        """First address behind it."""
        return ITEMS_PER_TABLE if self.count is None else self.address + self.count


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule. It matches who fits all that it says of peers, and what fits all that it says of requests.

    What is left empty fits everything.

    Args:
        name: for decisions and the audit.
        allow: allow or deny.
        roles: of the certificate, whole; an empty text stands for "no role".
        subjects: of the certificate; ``*`` stands for any text. A peer without one never fits.
        networks: of the peer's address.
        endpoints: ours, as a server shows them when it is ready, without what is behind a question
            mark; ``*`` stands for any text.
        kinds: what is done, as ``authorize.touched`` has it; custom function codes are ``other``.
        functions: function codes, 1..127; with ``kinds`` either fits.
        units: 0..255. A broadcast on a serial line is decided for each device, by its own unit.
        spans: addresses; then nothing fits that has none.
        rate_per_s: requests a second of each peer that this rule allows, with one second's worth at
            once, at least one; None: any number.

    Raises:
        ConfigurationError: it cannot work.
    """

    name: str
    allow: bool = True
    roles: frozenset[str] = frozenset()
    subjects: tuple[str, ...] = ()
    networks: tuple[Network, ...] = ()
    endpoints: tuple[str, ...] = ()
    kinds: frozenset[Kind] = frozenset()
    functions: frozenset[int] = frozenset()
    units: frozenset[int] = frozenset()
    spans: tuple[Span, ...] = ()
    rate_per_s: float | None = None

    def __post_init__(self) -> None:
        if not self.name or self.name == BY_DEFAULT:
            raise ConfigurationError(f"a rule has a name, and it is not {BY_DEFAULT!r}")
        for unit in self.units:
            check_unit(unit)
        for code in self.functions:
            if not 1 <= code < EXCEPTION_BIT:
                raise ConfigurationError(f"function code {code} is outside 1..127")
        if self.rate_per_s is not None:
            if not self.allow:
                raise ConfigurationError("a rule that denies has no rate")
            if not 0 < self.rate_per_s <= _MOST_PER_S:
                raise ConfigurationError(f"rate_per_s is a number above 0 and at most {_MOST_PER_S:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Peers:
    """Who may connect: of the networks that an address is in, the narrowest decides.

    Args:
        allow: these may; if there are any, others may not.
        refuse: these may not.
        priority: these may, also when the server is full, and are not evicted.

    Raises:
        ConfigurationError: a network is in two of them.
    """

    allow: tuple[Network, ...] = ()
    refuse: tuple[Network, ...] = ()
    priority: tuple[Network, ...] = ()
    _narrowest: tuple[tuple[Network, Admission], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        given = [(network, how) for how in Admission for network in getattr(self, how.value)]
        if len({network for network, _ in given}) < len({*given}):
            raise ConfigurationError("a network is in two of allow, refuse and priority")
        given.sort(key=lambda one: one[0].prefixlen, reverse=True)
        object.__setattr__(self, "_narrowest", tuple(given))

    def admit(self, host: str) -> Admission:
        """What happens to a peer of this address; one without, on a Unix socket or a serial line, is allowed."""
        address = _address(host)
        if address is None:
            return Admission.ALLOW
        for network, how in self._narrowest:
            if address in network:
                return how
        return Admission.REFUSE if self.allow else Admission.ALLOW


def _address(host: str) -> IPv4Address | IPv6Address | None:
    """A peer's address; an IPv4 one that came through an IPv6 socket is itself. None: it has none."""
    try:
        address = ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


class RulePolicy:
    """A policy of rules.

    Args:
        rules: in order; each with a name of its own.
        peers: who may connect.

    Raises:
        ConfigurationError: there is no rule, or two have the same name.
    """

    unconditional = False

    def __init__(self, rules: Iterable[Rule], peers: Peers | None = None) -> None:
        self.rules: tuple[Rule, ...] = tuple(rules)
        self.peers: Peers = peers or Peers()
        names = [rule.name for rule in self.rules]
        if not names:
            raise ConfigurationError("a policy without a rule allows nothing")
        if len({*names}) < len(names):
            raise ConfigurationError("two rules have the same name")
        self._compiled = [_Compiled(rule) for rule in self.rules]
        self._buckets = _Buckets()
        self._identities: dict[tuple[int, ...], _RuleAccess] = {}

    def __repr__(self) -> str:
        return f"<RulePolicy {len(self.rules)} rules>"

    def allows(self, request: AnyRequest, context: RequestContext) -> bool:
        """Whether a request may be executed, whatever the rates."""
        return self.access(context.connection).judge(request, context.unit)[0].allowed

    def access(self, connection: ConnectionInfo) -> _RuleAccess:
        """What a connection may do. Connections to which the same rules apply share it."""
        address = _address(connection.host)
        applying = tuple(number for number, rule in enumerate(self._compiled) if rule.concerns(connection, address))
        found = self._identities.get(applying)
        if found is None:
            _make_room(self._identities, _MOST_IDENTITIES)
            found = _RuleAccess(self, [self._compiled[number] for number in applying], self._buckets)
            self._identities[applying] = found
        return found

    def admit(self, host: str) -> Admission:
        """What happens to a peer of this address, before anything is read."""
        return self.peers.admit(host)

    def strangers(self, endpoints: Iterable[str]) -> list[str]:
        """What rules call an endpoint and is none of these; not what has a ``*``, as that may be for another server."""
        here = {_place(endpoint) for endpoint in endpoints}
        named = (text for rule in self.rules for text in rule.endpoints if "*" not in text)
        return [text for text in dict.fromkeys(named) if _place(text) not in here]


class _Compiled:
    """A rule, ready to be asked."""

    __slots__ = ("_codes", "_endpoints", "_kinds", "_rule", "_spans", "_subjects", "allow", "allowed", "name", "rate")

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._subjects = _pattern(rule.subjects)
        self._endpoints = _pattern(tuple(map(_place, rule.endpoints)))
        self._codes = rule.functions if rule.functions or rule.kinds else None
        self._kinds = rule.kinds
        self._spans: dict[str | None, list[tuple[int, int]]] = {}
        for span in rule.spans:
            self._spans.setdefault(span.table, []).append((span.address, span.end))
        self.name: str = rule.name
        self.allow: bool = rule.allow
        self.rate: float | None = rule.rate_per_s
        self.allowed: Decision = Decision(Verdict.ALLOWED, rule.name, lasting=True)

    def concerns(self, connection: ConnectionInfo, address: IPv4Address | IPv6Address | None) -> bool:
        """Whether it is about this peer."""
        rule = self._rule
        return (
            (not rule.roles or (connection.role or "") in rule.roles)
            and _fits(self._subjects, connection.subject)
            and (not rule.networks or (address is not None and any(address in network for network in rule.networks)))
            and _fits(self._endpoints, _place(connection.endpoint))
        )

    def covers(self, unit: int, function_code: int, kind: Kind) -> bool:
        """Whether it is about this, somewhere."""
        units = self._rule.units
        codes = self._codes
        return (not units or unit in units) and (codes is None or function_code in codes or kind in self._kinds)

    def cut(self, parts: list[tuple[int, int]], table: str | None) -> list[tuple[int, int]]:
        """What of these ranges it does not concern."""
        if not self._spans:
            return []
        for start, end in self._spans.get(table, ()):
            left: list[tuple[int, int]] = []
            for low, high in parts:
                if end <= low or high <= start:
                    left.append((low, high))
                    continue
                if low < start:
                    left.append((low, start))
                if end < high:
                    left.append((end, high))
            parts = left
        return parts


def _pattern(texts: tuple[str, ...]) -> re.Pattern[str] | None:
    """What matches one of these texts, in which ``*`` stands for any text."""
    if not texts:
        return None
    return re.compile("|".join(".*".join(map(re.escape, text.split("*"))) for text in texts), re.DOTALL)


def _place(url: str) -> str:
    """An endpoint without its settings, which nobody has to repeat."""
    return url.partition("?")[0]


def _fits(pattern: re.Pattern[str] | None, text: str | None) -> bool:
    return pattern is None or (text is not None and pattern.fullmatch(text) is not None)


class _RuleAccess:
    """The rules that apply to connections of one kind."""

    __slots__ = ("_buckets", "_narrowed", "_rules", "known", "policy")

    def __init__(self, policy: RulePolicy, rules: list[_Compiled], buckets: _Buckets) -> None:
        self.policy: RulePolicy = policy
        self._rules = rules
        self._buckets = buckets
        self._narrowed: dict[tuple[int, int, Kind], list[_Compiled]] = {}
        self.known: dict[tuple[int, bytes], Decision] = {}

    def remember(self, unit: int, head: bytes, decision: Decision) -> None:
        """Requests that begin like this are allowed for ever."""
        _make_room(self.known, _MOST_KNOWN)
        self.known[unit, head] = decision

    def decide(self, request: AnyRequest, context: RequestContext, clock: Callable[[], float]) -> Decision:
        """Decide about one request."""
        decision, rated = self.judge(request, context.unit)
        if not rated or not decision.allowed:
            return decision
        connection = context.connection
        short = self._buckets.take(rated, connection.host or connection.endpoint, clock())
        if short is not None:
            return Decision(Verdict.LIMITED, short.name, touched(request)[0])
        return decision._replace(lasting=False)

    def judge(self, request: AnyRequest, unit: int) -> tuple[Decision, list[_Compiled]]:
        """Decide by the rules alone; name those that allow it, but only so often."""
        deciding: _Compiled | None = None
        rated: list[_Compiled] = []
        for touch in touched(request):
            parts = [(touch.start, touch.end)]
            for rule in self._about(unit, request.function_code, touch.kind):
                left = rule.cut(parts, touch.table)
                if left == parts:
                    continue
                if not rule.allow:
                    return Decision(Verdict.DENIED, rule.name, touch), []
                deciding = deciding or rule
                if rule.rate is not None and rule not in rated:
                    rated.append(rule)
                parts = left
                if not parts:
                    break
            if parts:
                return Decision(Verdict.DENIED, BY_DEFAULT, touch), []
        assert deciding is not None, "every request touches something"
        return deciding.allowed, rated

    def _about(self, unit: int, function_code: int, kind: Kind) -> list[_Compiled]:
        """The rules that are about this, somewhere."""
        key = (unit, function_code, kind)
        found = self._narrowed.get(key)
        if found is None:
            _make_room(self._narrowed, _MOST_NARROWED)
            found = self._narrowed[key] = [rule for rule in self._rules if rule.covers(unit, function_code, kind)]
        return found


def _make_room(memory: dict[Any, Any], most: int) -> None:
    if len(memory) >= most:
        memory.clear()


class _Buckets:
    """Tokens by rule and peer; those that were used longest ago are forgotten first."""

    __slots__ = ("_tokens",)

    def __init__(self) -> None:
        self._tokens: dict[tuple[str, str], tuple[float, float]] = {}

    def take(self, rules: list[_Compiled], peer: str, now: float) -> _Compiled | None:
        """Take one of each rule, or none and say which has none."""
        levels: list[float] = []
        for rule in rules:
            assert rule.rate is not None
            most = max(rule.rate, 1.0)
            tokens, stamp = self._tokens.get((rule.name, peer), (most, now))
            levels.append(min(most, tokens + (now - stamp) * rule.rate))
            if levels[-1] < 1:
                return rule
        for rule, level in zip(rules, levels, strict=True):
            self._tokens.pop((rule.name, peer), None)
            self._tokens[rule.name, peer] = (level - 1, now)
        while len(self._tokens) > _MOST_BUCKETS:
            self._tokens.pop(next(iter(self._tokens)), None)
        return None
