"""``everbus policy``: what a policy file says, and what it makes of a request."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Final

import click

from everbus.cli.helping import HelpfulCommand, HelpfulGroup
from everbus.cli.output import CommandFailure, ExitCode, write_json, write_line, write_text
from everbus.errors import InvalidRequestError
from everbus.maps.notation import parse_point
from everbus.maps.points import Point
from everbus.maps.requests import read_request
from everbus.protocol.codes import function_name
from everbus.protocol.pdu.bits import WriteMultipleCoilsRequest, WriteSingleCoilRequest
from everbus.protocol.pdu.registers import WriteMultipleRegistersRequest, WriteSingleRegisterRequest
from everbus.protocol.pdu.table import AnyRequest
from everbus.protocol.values import pack_bits
from everbus.service.authorize import Admission, Decision, Verdict
from everbus.service.context import ConnectionInfo
from everbus.service.policy import BY_DEFAULT, RulePolicy
from everbus.service.policy_file import PolicyFileError, Problem, parse_policy
from everbus.service.ready_made import READY_MADE

__all__ = ["command", "load_policy"]

_BY_PEERS: Final = "peers"
"""In place of a rule, where the peer may not even connect."""


@click.group("policy", cls=HelpfulGroup)
def command() -> None:
    """Say who may do what: check a policy file, ask it, begin with a ready-made one.

    A policy is a TOML file of rules, in order; the first that matches decides, and what no rule allows
    is denied. FILE may also be the name of a ready-made one: read-only, operator, engineer.

    Examples:
        everbus policy show operator > policy.toml

        everbus policy check policy.toml

        everbus policy explain policy.toml --role Operator --write h@100 --unit 3

        everbus serve --policy policy.toml --audit audit.jsonl
    """


def load_policy(source: str) -> RulePolicy:
    """The policy in a file, or the ready-made one of that name.

    Raises:
        CommandFailure: the file cannot be read, or has errors; all of them are named.
    """
    try:
        return parse_policy(_text(source))
    except PolicyFileError as error:
        lines = "\n".join(_lines(source, error.problems))
        hint = f"everbus policy check {source}"
        raise CommandFailure(ExitCode.USAGE, "policy", f"{_count(error)} in {source}\n{lines}", hint) from error


def _text(source: str) -> str:
    path = Path(source)
    if source in READY_MADE and not path.exists():
        return READY_MADE[source]
    try:
        return path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        names = f"a TOML file, or one of {', '.join(READY_MADE)}"
        raise CommandFailure(ExitCode.USAGE, "policy", f"cannot read the policy {source}: {why}", names) from error


def _lines(source: str, problems: tuple[Problem, ...]) -> list[str]:
    return [f"{source}:{one.line}: {one.key}: {one.message}".replace(": : ", ": ") for one in problems]


def _count(error: PolicyFileError) -> str:
    count = len(error.problems)
    return f"{count} error{'' if count == 1 else 's'}"


@command.command("check", cls=HelpfulCommand)
@click.argument("source", metavar="FILE")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
def check(source: str, *, as_json: bool) -> int:
    """Check a policy file: every error, with its line and key.

    Exit codes: 0 it is right, 2 it has errors.
    """
    text = _text(source)
    try:
        policy = parse_policy(text)
    except PolicyFileError as error:
        message = f"{_count(error)} in {source}"
        if as_json:
            failure = CommandFailure(ExitCode.USAGE, "policy", message)
            problems = [{"line": one.line, "key": one.key, "message": one.message} for one in error.problems]
            write_json({"ok": False, "error": failure.document(), "errors": problems})
        for line in _lines(source, error.problems):
            write_line(line)
        write_line(f"error: {message}")
        return ExitCode.USAGE
    names = [rule.name for rule in policy.rules]
    if as_json:
        write_json({"ok": True, "rules": names})
    else:
        write_text(f"{source} is right: {len(names)} rule{'' if len(names) == 1 else 's'}")
    return ExitCode.OK


@command.command("explain", cls=HelpfulCommand)
@click.argument("source", metavar="FILE")
@click.option("--read", "read", metavar="POINT", help="May it read this? As for everbus read: h@100:10.")
@click.option("--write", "write", metavar="POINT", help="May it write this?")
@click.option("--unit", type=click.IntRange(0, 255), default=1, show_default=True, help="Of which unit.")
@click.option("--role", help="The role in its certificate.  [default: none]")
@click.option("--subject", help="The subject of its certificate.  [default: none]")
@click.option("--peer", default="", metavar="IP", help="Its address.  [default: none, as on a Unix socket]")
@click.option("--endpoint", default="", metavar="URL", help="Which endpoint of the server it has come to.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
def explain(
    source: str,
    *,
    read: str | None,
    write: str | None,
    unit: int,
    role: str | None,
    subject: str | None,
    peer: str,
    endpoint: str,
    as_json: bool,
) -> int:
    """Say whether a policy allows a request, and by which rule.

    Give --read or --write. The answer is the same for any value. Exit code: 0, allowed or not.
    """
    policy = load_policy(source)
    if (read is None) == (write is None):
        raise click.UsageError("Give one of --read and --write.")
    point = parse_point(write or read or "")
    request = read_request(point.table, point.range) if write is None else _writing(point)
    unit = unit if point.unit is None else point.unit
    connection = ConnectionInfo(1, peer, _checked_peer(peer), endpoint, subject=subject, role=role)
    decision, rate = _asked(policy, request, connection, unit)
    where = {
        "function": int(request.function_code),
        "name": function_name(request.function_code),
        "unit": unit,
        "table": str(point.table),
        "address": point.address,
        "reference": point.reference,
        "count": point.items,
    }
    if as_json:
        write_json({"ok": True, "allowed": decision.allowed, "rule": decision.rule, "rate_per_s": rate, **where})
    else:
        write_text(f"{_verdict(policy, decision, rate)}\n  {_what(request, point, unit)}")
    return ExitCode.OK


def _checked_peer(peer: str) -> str:
    try:
        return str(ip_address(peer)) if peer else ""
    except ValueError as error:
        raise click.UsageError(f"--peer: {error}") from error


def _writing(point: Point) -> AnyRequest:
    """A write to a point, as everbus write would send it."""
    first, count = point.address, point.items
    if not point.table.writable:
        raise InvalidRequestError(f"{point.table.item}s cannot be written: coils and holding registers can")
    if point.table.bits:
        if count == 1:
            return WriteSingleCoilRequest.of(first, on=True)
        return WriteMultipleCoilsRequest(first, count, pack_bits([1] * count))
    return WriteSingleRegisterRequest(first, 0) if count == 1 else WriteMultipleRegistersRequest(first, count, b"")


def _asked(
    policy: RulePolicy, request: AnyRequest, connection: ConnectionInfo, unit: int
) -> tuple[Decision, float | None]:
    """The decision, and how often it is the same."""
    if policy.admit(connection.host) is Admission.REFUSE:
        return Decision(Verdict.DENIED, _BY_PEERS), None
    decision, rated = policy.access(connection).judge(request, unit)
    return decision, min((rule.rate for rule in rated if rule.rate is not None), default=None)


def _verdict(policy: RulePolicy, decision: Decision, rate: float | None) -> str:
    if decision.rule == _BY_PEERS:
        return "denied: the peer may not connect"
    if decision.rule == BY_DEFAULT:
        return "denied: no rule allows it"
    number = [rule.name for rule in policy.rules].index(decision.rule) + 1
    often = "" if rate is None else f", up to {rate:g} a second"
    return f"{decision.verdict.value} by rule {number}, {decision.rule!r}{often}"


def _what(request: AnyRequest, point: Point, unit: int) -> str:
    name = f"{function_name(request.function_code)} ({request.function_code:02X})"
    return f"{name} of unit {unit}: {point} (reference {point.reference})"


@command.command("show", cls=HelpfulCommand)
@click.argument("name", type=click.Choice(list(READY_MADE)))
def show(name: str) -> int:
    """Print a ready-made policy: a file to begin with."""
    write_text(READY_MADE[name].rstrip())
    return ExitCode.OK
