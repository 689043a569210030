"""A policy as the text of a TOML file.

::

    [peers]                                     # who may connect; may be left out
    refuse = ["192.0.2.66"]
    priority = "192.0.2.10"

    [[rule]]                                    # in order: the first that matches decides
    name = "operators set the set points"
    roles = ["Operator", "Engineer"]            # also: subjects, networks, endpoints
    functions = ["write", 0x16]                 # also: "read", "all", and the names of codes
    units = [1, "3-8"]
    ranges = ["h@100:20", "c@0-15", "i"]
    rate_per_s = 10

    [[rule]]
    name = "all read"
    functions = "read"

What a rule leaves out fits everything. What no rule allows is denied. A list of one may be written
without brackets. All errors are found at once, each with its line and key.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from ipaddress import ip_network
from typing import Any, Final, TypeVar

from everbus.errors import ConfigurationError, UsageError
from everbus.protocol.codes import EXCEPTION_BIT, FunctionCode
from everbus.service.authorize import FILES, Kind
from everbus.service.bank import TableName
from everbus.service.policy import Network, Peers, Rule, RulePolicy, Span

__all__ = ["PolicyFileError", "Problem", "parse_policy"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """Something wrong in a policy file.

    Args:
        line: where, 1 and up.
        key: which key, ``rule[2].units``; empty: it is not about one.
        message: what is wrong, and what would be right.
    """

    line: int
    key: str
    message: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.key}: {self.message}" if self.key else f"line {self.line}: {self.message}"


class PolicyFileError(ConfigurationError):
    """A policy file has errors; ``problems`` lists all of them, in the order of their lines."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(sorted(problems))
        super().__init__("\n".join(map(str, self.problems)))

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.problems,)


def parse_policy(text: str) -> RulePolicy:
    """Read a policy.

    Raises:
        PolicyFileError: it has errors; all of them are listed.
    """
    reader = _Reader(text)
    document = reader.document()
    policy = reader.policy(document)
    if reader.problems or policy is None:
        raise PolicyFileError(reader.problems)
    return policy


# --- where a key stands -------------------------------------------------------------------------

_HEADER: Final = re.compile(r"\s*\[(\[)?\s*([\w.\"'-]+?)\s*\]")
_KEY: Final = re.compile(r"\s*([\w.\"'-]+)\s*=")
_QUOTES: Final = re.compile(r"'''|\"\"\"")
_AT_LINE: Final = re.compile(r"\(at line (\d+)")
_MOST_MENDED: Final = 100


class _Places:
    """The lines of keys, by their paths: ``rule[2].units``; of a table, the line of its header."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines: dict[str, int] = {}
        self.twice: list[tuple[int, str]] = []
        """Keys that stand there already, and where they stand again."""
        counts: dict[str, int] = {}
        section = ""
        inside = False  # a text of several lines
        for number, line in enumerate(lines, 1):
            if len(_QUOTES.findall(line)) % 2:
                inside = not inside
                if not inside:
                    continue
            elif inside:
                continue
            if header := _HEADER.match(line):
                section = _plain(header[2])
                if header[1]:
                    self.lines.setdefault(section, number)
                    counts[section] = counts.get(section, 0) + 1
                    section = f"{section}[{counts[section]}]"
                self._note(section, number)
            elif key := _KEY.match(line):
                self._note(f"{section}.{_plain(key[1])}" if section else _plain(key[1]), number)

    def _note(self, path: str, number: int) -> None:
        if path in self.lines:
            self.twice.append((number, path))
        else:
            self.lines[path] = number

    def line(self, path: str) -> int:
        """Where a key stands, or the table around it, or the file begins."""
        while path and path not in self.lines:
            path = path.rpartition(".")[0] or (path.partition("[")[0] if "[" in path else "")
        return self.lines.get(path, 1)


def _plain(key: str) -> str:
    return key.replace('"', "").replace("'", "")


# --- what it says -------------------------------------------------------------------------------


class _Reader:
    """Reads one file and gathers what is wrong with it."""

    def __init__(self, text: str) -> None:
        self._lines = text.replace("\r\n", "\n").split("\n")
        self._places = _Places(self._lines)
        self.problems: list[Problem] = []

    def document(self) -> dict[str, Any]:
        """The file's tables. A line that cannot be read is reported, left out, and the rest is read."""
        lines = [*self._lines]
        for _ in range(_MOST_MENDED):
            try:
                return tomllib.loads("\n".join(lines))
            except (ValueError, RecursionError) as error:
                if not self._mend(lines, error):
                    break
        return {}

    def _mend(self, lines: list[str], error: Exception) -> bool:
        """Leave out what is wrong, if that can be told: keys that stand twice, or a line that is wrong by itself."""
        twice = [
            (number, path) for number, path in self._places.twice if lines[number - 1] and _reads(lines[number - 1])
        ]
        for number, path in twice:
            first = self._places.lines[path]
            self.problems.append(Problem(number, path, f"it stands in line {first} already"))
            if not lines[number - 1].lstrip().startswith("["):  # what is in a table goes with its header
                lines[number - 1] = ""
        if twice:
            return not any(lines[number - 1] for number, _ in twice)
        found = _AT_LINE.search(str(error))
        last = max((number for number, line in enumerate(lines, 1) if line.strip()), default=1)
        number = int(found[1]) if found else last
        key = next((path for path, at in self._places.lines.items() if at == number), "")
        message = str(error).partition(" (at ")[0]
        self.problems.append(Problem(number, key, f"not TOML: {message[:1].lower()}{message[1:]}"))
        if _reads(lines[number - 1]):
            return False  # the mistake is elsewhere, as with a bracket that is never closed
        lines[number - 1] = ""
        return True

    def _wrong(self, path: str, message: str) -> None:
        self.problems.append(Problem(self._places.line(path), path, message))

    def policy(self, document: Mapping[str, Any]) -> RulePolicy | None:
        """The policy, if nothing is wrong with it."""
        self._known("", document, {"rule", "peers"})
        peers = self._peers(document.get("peers", {}))
        rules = document.get("rule", [])
        if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
            self._wrong("rule", "rules are tables: each begins with [[rule]]")
            return None
        if not rules and not self.problems:
            self._wrong("", "there is no [[rule]]: nobody could do anything")
        built = [self._rule(f"rule[{number}]", number, rule) for number, rule in enumerate(rules, 1)]
        whole = [rule for rule in built if rule is not None]
        self._names(built)
        if self.problems:
            return None
        return RulePolicy(whole, peers)

    def _names(self, rules: Iterable[Rule | None]) -> None:
        seen: dict[str, int] = {}
        for number, rule in enumerate(rules, 1):
            if rule is None:
                continue
            if rule.name in seen:
                self._wrong(f"rule[{number}].name", f"{rule.name!r} is the name of rule {seen[rule.name]} too")
            seen.setdefault(rule.name, number)

    def _known(self, path: str, table: Mapping[str, Any], keys: set[str]) -> None:
        for key in table:
            if key not in keys:
                close = get_close_matches(key, keys, 1)
                hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(sorted(keys))}"
                self._wrong(f"{path}.{key}" if path else key, f"there is no such key; {hint}")

    def _peers(self, table: object) -> Peers | None:
        if not isinstance(table, dict):
            self._wrong("peers", "it is a table: [peers]")
            return None
        keys = ("allow", "refuse", "priority")
        self._known("peers", table, {*keys})
        networks = {key: tuple(self._list("peers", table, key, _network)) for key in keys}
        return self._built("peers", table, lambda: Peers(**networks))

    def _rule(self, path: str, number: int, table: Mapping[str, Any]) -> Rule | None:
        self._known(path, table, {*_RULE_KEYS})
        before = len(self.problems)
        name = self._one(path, table, "name", str, f"rule {number}")
        action = self._one(path, table, "action", str, "allow")
        if action not in ("allow", "deny"):
            self._wrong(f"{path}.action", f"it is 'allow' or 'deny', not {action!r}")
        rate = self._one(path, table, "rate_per_s", (int, float), None)
        functions = [one for some in self._list(path, table, "functions", _functions) for one in some]
        fields: dict[str, Any] = {
            "name": name,
            "allow": action == "allow",
            "roles": frozenset(self._list(path, table, "roles", _text)),
            "subjects": tuple(self._list(path, table, "subjects", _text)),
            "networks": tuple(self._list(path, table, "networks", _network)),
            "endpoints": tuple(self._list(path, table, "endpoints", _text)),
            "kinds": frozenset(one for one in functions if isinstance(one, Kind)),
            "functions": frozenset(one for one in functions if not isinstance(one, Kind)),
            "units": frozenset(unit for units in self._list(path, table, "units", _units) for unit in units),
            "spans": tuple(self._list(path, table, "ranges", _span)),
            "rate_per_s": rate,
        }
        return self._built(path, table, lambda: Rule(**fields)) if len(self.problems) == before else None

    def _built(self, path: str, table: Mapping[str, Any], build: Callable[[], T]) -> T | None:
        try:
            return build()
        except UsageError as error:
            key = str(error).partition(" ")[0]
            self._wrong(f"{path}.{key}" if key in table else path, str(error))
            return None

    def _one(self, path: str, table: Mapping[str, Any], key: str, kind: type | tuple[type, ...], default: T) -> Any | T:
        value = table.get(key, default)
        if key in table and (not isinstance(value, kind) or isinstance(value, bool)):
            self._wrong(f"{path}.{key}", f"it is {'a text' if kind is str else 'a number'}, not {value!r}")
            return default
        return value

    def _list(self, path: str, table: Mapping[str, Any], key: str, read: Callable[[object], T]) -> list[T]:
        """The values of a list, or of one that stands alone."""
        if key not in table:
            return []
        given = table[key] if isinstance(table[key], list) else [table[key]]
        if not given:
            self._wrong(f"{path}.{key}", "it is empty: leave it out if everything fits")
        return list(self._read(f"{path}.{key}", given, read))

    def _read(self, path: str, given: Iterable[object], read: Callable[[object], T]) -> Iterator[T]:
        for value in given:
            try:
                yield read(value)
            except UsageError as error:
                self._wrong(path, str(error))


def _reads(line: str) -> bool:
    """Whether a line is right by itself."""
    try:
        tomllib.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


# --- values -------------------------------------------------------------------------------------

_RULE_KEYS: Final = (
    "name",
    "action",
    "roles",
    "subjects",
    "networks",
    "endpoints",
    "functions",
    "units",
    "ranges",
    "rate_per_s",
)
_WORDS: Final[Mapping[str, Sequence[Kind | int]]] = {
    "read": [Kind.READ],
    "write": [Kind.WRITE],
    "all": [*Kind],
    **{code.name.lower(): [int(code)] for code in FunctionCode},
}
_TABLES: Final = {
    "c": TableName.COILS,
    "coil": TableName.COILS,
    "d": TableName.DISCRETE_INPUTS,
    "discrete": TableName.DISCRETE_INPUTS,
    "i": TableName.INPUT_REGISTERS,
    "input": TableName.INPUT_REGISTERS,
    "h": TableName.HOLDING_REGISTERS,
    "holding": TableName.HOLDING_REGISTERS,
    "file": FILES,
}
_MOST_NUMBER: Final = 0xFFFFFFFF
_MOST_DIGITS: Final = 10
_RANGE: Final = re.compile(r"(\w+)(?:@(\w+)(?:([:-])(\w+))?)?")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ConfigurationError(f"{value!r} is not a text")
    return value


def _network(value: object) -> Network:
    try:
        return ip_network(_text(value))
    except ValueError as error:
        raise ConfigurationError(f"{error}; right ones are 192.0.2.7, 192.0.2.0/24 and 2001:db8::/32") from error


def _number(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        if abs(value) > _MOST_NUMBER:
            raise ConfigurationError("a number is too large")  # Python refuses to print some of them
        return value
    try:
        if isinstance(value, str) and len(value) <= _MOST_DIGITS:
            return int(value, 16 if value[:2] in ("0x", "0X") else 10)
    except ValueError:
        pass
    raise ConfigurationError(f"{value!r} is not a whole number")


def _functions(value: object) -> Sequence[Kind | int]:
    """A function code, the name of one, or read, write or all."""
    if isinstance(value, str) and not value[:1].isdigit():
        word = value.lower().replace(" ", "_")
        if word in _WORDS:
            return _WORDS[word]
        close = get_close_matches(word, _WORDS, 1)
        hint = f"did you mean {close[0]!r}?" if close else "right ones are read, write, all, 0x17 and diagnostics"
        raise ConfigurationError(f"{value!r} is not a function; {hint}")
    code = _number(value)
    if not 1 <= code < EXCEPTION_BIT:
        raise ConfigurationError(f"function code {code} is outside 1..127")
    return [code]


def _units(value: object) -> range:
    """Units of a number, or of two with a dash."""
    first, dash, last = value.partition("-") if isinstance(value, str) else (value, "", "")
    low = _number(first)
    high = _number(last) if dash else low
    if not 0 <= low <= high <= 255:
        raise ConfigurationError(f"{value!r} is not within 0 to 255, a unit as 3, or units as '3-8'")
    return range(low, high + 1)


def _span(value: object) -> Span:
    """``h``, ``h@100``, ``h@100:10`` or ``h@100-109``."""
    found = _RANGE.fullmatch(_text(value))
    table = _TABLES.get(found[1].lower().removesuffix("s")) if found else None
    if found is None or table is None:
        raise ConfigurationError(
            f"{value!r} is not a range; right ones are h@100, h@100:10, h@100-109, c, d, i, file@3"
        )
    if found[2] is None:
        return Span(table)
    first = _number(found[2])
    if found[4] is None:
        return Span(table, first, 1)
    last = _number(found[4])
    return Span(table, first, last if found[3] == ":" else last - first + 1)
