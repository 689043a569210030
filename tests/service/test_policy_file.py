from __future__ import annotations

import pickle
from ipaddress import ip_network
from textwrap import dedent

import pytest

from everbus.protocol.codes import FunctionCode
from everbus.service.authorize import FILES, Admission, Kind
from everbus.service.bank import TableName
from everbus.service.policy import Peers, Rule, Span
from everbus.service.policy_file import PolicyFileError, Problem, parse_policy


def problems(text: str) -> list[tuple[int, str, str]]:
    """All that is wrong."""
    with pytest.raises(PolicyFileError) as caught:
        parse_policy(dedent(text))
    found = caught.value.problems
    assert str(caught.value).splitlines() == list(map(str, found))
    return [(problem.line, problem.key, problem.message) for problem in found]


# --- what can be said ---------------------------------------------------------------------------


def test_everything_that_a_file_can_say() -> None:
    policy = parse_policy(
        dedent(
            """\
            [peers]
            allow = ["10.0.0.0/8", "2001:db8::/32"]
            refuse = "10.0.0.66"
            priority = ["10.0.0.10"]

            [[rule]]
            name = "set points"
            roles = ["Operator", ""]
            subjects = "CN=hmi-*"
            networks = ["10.0.0.0/24"]
            endpoints = ["tls://*"]
            functions = ["write", 0x17, "0x14", "24", "Read Holding Registers", "diagnostics"]
            units = [1, "3-5", "0x10"]
            ranges = ["h@100:20", "c@0-15", "i", "discrete@0x10", "holding_registers@7", "files@3-4"]
            rate_per_s = 2.5

            [[rule]]
            action = "deny"
            """
        ).replace('"holding_registers@7"', '"Holding@7"')
    )
    networks = {
        key: tuple(map(ip_network, texts))
        for key, texts in {
            "allow": ["10.0.0.0/8", "2001:db8::/32"],
            "refuse": ["10.0.0.66"],
            "priority": ["10.0.0.10"],
        }.items()
    }
    assert policy.peers == Peers(**networks)
    assert policy.rules == (
        Rule(
            name="set points",
            roles=frozenset({"Operator", ""}),
            subjects=("CN=hmi-*",),
            networks=(ip_network("10.0.0.0/24"),),
            endpoints=("tls://*",),
            kinds=frozenset({Kind.WRITE}),
            functions=frozenset({0x17, 0x14, 24, 3, 8}),
            units=frozenset({1, 3, 4, 5, 16}),
            spans=(
                Span(TableName.HOLDING_REGISTERS, 100, 20),
                Span(TableName.COILS, 0, 16),
                Span(TableName.INPUT_REGISTERS),
                Span(TableName.DISCRETE_INPUTS, 16, 1),
                Span(TableName.HOLDING_REGISTERS, 7, 1),
                Span(FILES, 3, 2),
            ),
            rate_per_s=2.5,
        ),
        Rule(name="rule 2", allow=False),
    )


def test_all_functions_are_read_write_and_the_others() -> None:
    (rule,) = parse_policy('[[rule]]\nfunctions = "all"').rules
    assert rule.kinds == frozenset(Kind)


@pytest.mark.parametrize("code", FunctionCode)
def test_each_public_function_has_a_name(code: FunctionCode) -> None:
    (rule,) = parse_policy(f'[[rule]]\nfunctions = "{code.name.lower()}"').rules
    assert rule.functions == {code}


def test_a_text_may_hold_what_ends_a_line_elsewhere() -> None:
    (rule,) = parse_policy('[[rule]]\r\nname = "a\u2028b"\r\n').rules
    assert rule.name == "a\u2028b"


def test_rules_may_stand_in_one_line() -> None:
    policy = parse_policy('peers.refuse = "10.0.0.1"\nrule = [{ functions = "read" }, { name = "b", units = 3 }]')
    assert [rule.name for rule in policy.rules] == ["rule 1", "b"]
    assert policy.admit("10.0.0.1") is Admission.REFUSE


# --- what is wrong --------------------------------------------------------------------------------


def test_all_errors_are_listed_with_line_and_key() -> None:
    found = problems(
        """\
        [peers]
        refused = ["10.0.0.1"]
        allow = ["10.0.0.1/8", 3]

        [[rule]]
        name = "a"
        role = "Operator"
        units = [1, 300, "5-2", "x"]
        units = [2]

        [[rule]]
        name = "a"
        functions = ["wirte", "tickle", 0, true]
        ranges = [
            "h@65535:2",
            "q@1",
            "h@1:z",
        ]
        rate_per_s = "fast"
        action = "maybe"

        [[rule]]
        rate_per_s = 0

        [[rules]]
        """
    )
    assert [(line, key) for line, key, _ in found] == [
        (2, "peers.refused"),
        (3, "peers.allow"),
        (3, "peers.allow"),
        (7, "rule[1].role"),
        (8, "rule[1].units"),
        (8, "rule[1].units"),
        (8, "rule[1].units"),
        (9, "rule[1].units"),
        (13, "rule[2].functions"),
        (13, "rule[2].functions"),
        (13, "rule[2].functions"),
        (13, "rule[2].functions"),
        (14, "rule[2].ranges"),
        (14, "rule[2].ranges"),
        (14, "rule[2].ranges"),
        (19, "rule[2].rate_per_s"),
        (20, "rule[2].action"),
        (23, "rule[3].rate_per_s"),
        (25, "rules"),
    ]
    words = {message for _, _, message in found}
    for text in (
        "there is no such key; did you mean 'refuse'?",
        "10.0.0.1/8 has host bits set; right ones are 192.0.2.7, 192.0.2.0/24 and 2001:db8::/32",
        "there is no such key; did you mean 'roles'?",
        "it stands in line 8 already",
        "'wirte' is not a function; did you mean 'write'?",
        "2 items from address 65535 leave the table of 0..65535",
        "'q@1' is not a range; right ones are h@100, h@100:10, h@100-109, c, d, i, file@3",
        "it is a number, not 'fast'",
        "it is 'allow' or 'deny', not 'maybe'",
        "there is no such key; did you mean 'rule'?",
    ):
        assert text in words


@pytest.mark.parametrize(
    ("text", "line", "key", "words"),
    [
        ("", 1, "", "there is no [[rule]]"),
        ("rule = 3", 1, "rule", "each begins with [[rule]]"),
        ("rule = [3]", 1, "rule", "each begins with [[rule]]"),
        ("\npeers = 3\n[[rule]]", 2, "peers", "it is a table"),
        ("[[rule]]\nunits = 256", 2, "rule[1].units", "256 is not within 0 to 255"),
        ("[[rule]]\nunits = -1", 2, "rule[1].units", "-1 is not within"),
        ("[[rule]]\nunits = 1.5", 2, "rule[1].units", "1.5 is not a whole number"),
        ("[[rule]]\nfunctions = 128", 2, "rule[1].functions", "function code 128 is outside 1..127"),
        ("[[rule]]\nfunctions = 'tickle'", 2, "rule[1].functions", "right ones are read, write"),
        ("[[rule]]\nranges = 'h@9-3'", 2, "rule[1].ranges", "leave the table"),
        ("[[rule]]\nranges = 'h@@3'", 2, "rule[1].ranges", "not a range"),
        ("[[rule]]\nroles = []", 2, "rule[1].roles", "it is empty"),
        ("[[rule]]\nroles = [1]", 2, "rule[1].roles", "1 is not a text"),
        ("[[rule]]\nname = ''", 1, "rule[1]", "has a name"),
        ("[[rule]]\nname = 3", 2, "rule[1].name", "it is a text, not 3"),
        ("[[rule]]\nrate_per_s = true", 2, "rule[1].rate_per_s", "it is a number"),
        ("[[rule]]\nrate_per_s = nan", 2, "rule[1].rate_per_s", "above 0"),
        ("[[rule]]\naction = 'deny'\nrate_per_s = 1", 1, "rule[1]", "a rule that denies has no rate"),
        ("[[rule]]\nname='a'\n[[rule]]\nname='a'", 4, "rule[2].name", "'a' is the name of rule 1 too"),
        ("[[rule]]\nname='rule 2'\n[[rule]]", 3, "rule[2].name", "'rule 2' is the name of rule 1 too"),
        ("[peers]\nallow='::1'\nrefuse='::1'\n[[rule]]", 1, "peers", "in two of"),
        ("[[rule]]\n[[rule]]\nxyz = 1", 3, "rule[2].xyz", "there are action, endpoints"),
        ("[[rule]]\nunits = [1,", 2, "rule[1].units", "not TOML"),
        ("[[rule]]\nunits = [1\nroles = 'a'\nunit = 3", 3, "rule[1].roles", "not TOML: unclosed array"),
        ("[[rule]]\nunits = abc", 2, "rule[1].units", "not TOML: invalid value"),
        ("[[rule]]\n[peers]\nallow='::1'\n[peers]\nrefuse='::2'", 4, "peers", "it stands in line 2 already"),
        ("[[rule]]\nroles = '''\nunits = 300\n'''\nunits = 300", 5, "rule[1].units", "300"),
        ("[[rule]]\n\nunits = [1,\n\n", 3, "rule[1].units", "not TOML"),
        ("[[rule]]\r\nunits = 1\r\nunits = 2\r\n", 3, "rule[1].units", "it stands in line 2 already"),
        (f"[[rule]]\nunits = {'9' * 5000}\n", 2, "rule[1].units", "not TOML"),
        (f"[[rule]]\nunits = {'[' * 5000}\n", 2, "rule[1].units", "not TOML"),
        ("rule = [{ units = 300 }]", 1, "rule[1].units", "300"),
    ],
)
def test_an_error_says_where_it_is_and_what_would_be_right(text: str, line: int, key: str, words: str) -> None:
    ((found_line, found_key, message),) = problems(text)
    assert words in message
    assert (found_line, found_key) == (line, key)


def test_a_line_that_is_no_toml_does_not_hide_the_others() -> None:
    text = "[[rule]]\nname = a b\nunits = 300\n???\nroles = 3\n\n[[rule]]\nroles = 'a'\nroles = 'b'"
    assert [(line, key) for line, key, _ in problems(text)] == [
        (2, "rule[1].name"),
        (3, "rule[1].units"),
        (4, ""),
        (5, "rule[1].roles"),
        (9, "rule[2].roles"),
    ]


@pytest.mark.parametrize("number", ["0x" + "9" * 6000, '"0x' + "9" * 6000 + '"', "99999999999"])
def test_a_number_of_any_size_is_an_error(number: str) -> None:
    for key in ("functions", "units"):
        with pytest.raises(PolicyFileError, match=r"line 3"):
            parse_policy(f"[[rule]]\nname = 'x'\n{key} = {number}\n")


def test_a_file_of_nonsense_ends() -> None:
    assert len(problems("?\n" * 500)) <= 101


def test_an_error_is_a_line_for_people_and_survives_pickling() -> None:
    error = PolicyFileError([Problem(3, "", "b"), Problem(1, "rule[1].units", "a")])
    assert str(error) == "line 1: rule[1].units: a\nline 3: b"
    assert pickle.loads(pickle.dumps(error)).problems == error.problems
