"""``everbus cert``: a CA of one's own, certificates of servers and clients, and what they say."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from everbus.cli.helping import HelpfulCommand, HelpfulGroup
from everbus.cli.output import CommandFailure, ExitCode, aligned, write_json, write_line, write_text
from everbus.errors import ConfigurationError

if TYPE_CHECKING:
    from types import ModuleType

    from everbus.certificates import CertificateFacts, Credential

__all__ = ["command"]

_SOON: Final = timedelta(days=30)
_FOLDER: Final = click.Path(path_type=Path)
_OWN_FILES: Final = {"key": "key.pem", "cert": "cert.pem", "ca": "ca.pem"}


@click.group("cert", cls=HelpfulGroup)
def command() -> None:
    """Make certificates for Modbus over TLS, and look at them.

    A CA signs the certificates of servers and of clients; each trusts whom that CA has signed. Keep the
    CA's folder where neither servers nor clients run.

    Examples:
        everbus cert ca --out plant-ca

        everbus cert server --ca plant-ca --name pump7 --name 192.0.2.7 --out pump7

        everbus cert client --ca plant-ca --name alice --role Operator --out alice

        everbus cert show alice/cert.pem
    """


def _making(days: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the options of everything that makes a certificate."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in (
            click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout."),
            click.option("--force", is_flag=True, help="Replace files that are there."),
            click.option("--rsa", is_flag=True, help="An RSA key, for peers without elliptic curves."),
            click.option("--days", type=int, default=days, show_default=True, help="How long it is valid."),
            click.option("--out", type=_FOLDER, required=True, metavar="DIR", help="Where the files go."),
        ):
            function = option(function)
        return function

    return add


_AUTHORITY: Final = click.option("--ca", type=_FOLDER, required=True, metavar="DIR", help="The folder of the CA.")


@command.command("ca", cls=HelpfulCommand)
@click.option("--name", default="everbus CA", show_default=True, help="What the CA is called.")
@_making(3650)
def make_authority(name: str, *, out: Path, days: int, rsa: bool, force: bool, as_json: bool) -> int:
    """Make a CA: ca.pem, which everybody may have, and ca-key.pem, which nobody else may."""
    maker = _certificates()
    made = maker.create_authority(name, days=days, key_type="rsa" if rsa else "ec")
    _write_files(out, {maker.CA_KEY: made.key_pem, maker.CA_CERTIFICATE: made.certificate_pem}, force=force)
    return _tell_made(made, {"ca_key": out / maker.CA_KEY, "ca": out / maker.CA_CERTIFICATE}, as_json=as_json)


@command.command("server", cls=HelpfulCommand)
@_AUTHORITY
@click.option(
    "--name",
    "names",
    multiple=True,
    required=True,
    help="A host name or an address by which clients reach the server; may be given several times.",
)
@_making(825)
def make_server(
    ca: Path, names: tuple[str, ...], *, out: Path, days: int, rsa: bool, force: bool, as_json: bool
) -> int:
    """Make a server's certificate: key.pem, cert.pem, and a copy of the CA's ca.pem."""
    maker = _certificates()
    authority = maker.load_authority(ca)
    made = maker.issue_server(authority, names, days=days, key_type="rsa" if rsa else "ec")
    return _keep(authority, made, out, force=force, as_json=as_json)


@command.command("client", cls=HelpfulCommand)
@_AUTHORITY
@click.option("--name", required=True, help="Whose certificate it is.")
@click.option("--role", default="", help="What its owner is to the policies of servers; none by default.")
@_making(825)
def make_client(ca: Path, name: str, role: str, *, out: Path, days: int, rsa: bool, force: bool, as_json: bool) -> int:
    """Make a client's certificate: key.pem, cert.pem, and a copy of the CA's ca.pem."""
    maker = _certificates()
    authority = maker.load_authority(ca)
    made = maker.issue_client(authority, name, role, days=days, key_type="rsa" if rsa else "ec")
    return _keep(authority, made, out, force=force, as_json=as_json)


def _certificates() -> ModuleType:
    """What makes and reads certificates; an extra."""
    try:
        return import_module("everbus.certificates")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "cryptography":
            raise
        message = "certificates need cryptography"
        raise CommandFailure(ExitCode.USAGE, "usage", message, "pip install 'everbus[tls]'") from error


def _keep(authority: Credential, made: Credential, out: Path, *, force: bool, as_json: bool) -> int:
    """Write what was issued, with the CA's certificate beside it."""
    files = {"key.pem": made.key_pem, "cert.pem": made.certificate_pem, "ca.pem": authority.certificate_pem}
    with suppress(OSError):
        if (out / "ca.pem").read_bytes() == files["ca.pem"]:
            del files["ca.pem"]  # it is there already: the folder of the CA, or of another certificate of it
    _write_files(out, files, force=force)
    return _tell_made(made, {part: out / file for part, file in _OWN_FILES.items()}, as_json=as_json)


# Files


def _write_files(folder: Path, files: Mapping[str, bytes], *, force: bool) -> None:
    """Write files, each as a whole, and unless forced all of them or none. Private keys are for their owner alone.

    Raises:
        ConfigurationError: one is there already and is not to be replaced, or cannot be written.
    """
    path = folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as undo:
            for path in [] if force else [folder / name for name in files]:
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))  # ours, and empty
                undo.callback(path.unlink)
            for name, data in files.items():
                path = folder / name
                _replace(path, data)
            undo.pop_all()
    except FileExistsError as error:
        raise CommandFailure(
            ExitCode.USAGE, "usage", f"{path} is there already", "--force, or another --out"
        ) from error
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}") from error


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.everbus")
    mode = 0o600 if b"PRIVATE KEY-----" in data else 0o644
    temporary.unlink(missing_ok=True)
    number = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(number, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(number)
        temporary.replace(path)
    except BaseException:
        temporary.unlink()
        raise


def _tell_made(made: Credential, files: Mapping[str, Path], *, as_json: bool) -> int:
    facts = made.facts
    if as_json:
        write_json({"ok": True, "files": {part: str(path) for part, path in files.items()}, **_document(facts)})
        return ExitCode.OK
    write_text("\n".join(map(str, files.values())))
    role = f", role {_printable(facts.role)}" if facts.role is not None else ""
    write_line(f"{facts.subject}{role}, valid until {facts.not_after:%Y-%m-%d}")
    return ExitCode.OK


# Looking


@command.command("show", cls=HelpfulCommand)
@click.argument("file", type=_FOLDER)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
def show(file: Path, *, as_json: bool) -> int:
    """Say whose certificate is in FILE, which role it gives, and until when it is valid.

    FILE is in PEM, and may have the chain behind the certificate, or one certificate in DER. What it
    says is not verified: that takes the CA.
    """
    first, *chain = _certificates().read_certificates(file)
    if as_json:
        write_json({"ok": True, **_document(first), "chain": [_document(facts) for facts in chain]})
    else:
        write_text("\n\n".join("\n".join(aligned(_rows(facts))) for facts in (first, *chain)))
    for facts in (first, *chain):
        if warning := _WARNINGS.get(_state(facts)):
            write_line(f"warning: {facts.subject}: {warning}, {_when(facts)}")
    return ExitCode.OK


def _rows(facts: CertificateFacts) -> list[tuple[str, str]]:
    """What it says, for people: names and values."""
    role = facts.role
    if role is None and not facts.authority and facts.uses != ("server",):
        role = f"none: {facts.role_error}" if facts.role_error else "none"
    rows = {
        "subject": facts.subject,
        "role": role,
        "names": " ".join(facts.names),
        "use": "CA" if facts.authority else " ".join(facts.uses) or "any",
        "issuer": facts.issuer,
        "valid": f"from {facts.not_before:%Y-%m-%d} until {facts.not_after:%Y-%m-%d %H:%M} UTC, {_when(facts)}",
        "key": facts.key,
        "serial": facts.serial,
        "sha256": facts.fingerprint,
    }
    return [(name, _printable(value)) for name, value in rows.items() if value]


def _document(facts: CertificateFacts) -> dict[str, object]:
    """The same for programs."""
    return {
        **asdict(facts),
        "not_before": facts.not_before.isoformat(),
        "not_after": facts.not_after.isoformat(),
        "days_left": _days_left(facts),
        "state": _state(facts),
    }


def _state(facts: CertificateFacts) -> str:
    now = datetime.now(UTC)
    if now < facts.not_before:
        return "not_yet_valid"
    if now > facts.not_after:
        return "expired"
    return "expires_soon" if facts.not_after - now < _SOON else "valid"


_WARNINGS: Final = {
    "not_yet_valid": "it is not valid yet; is the clock right?",
    "expired": "it has expired",
    "expires_soon": "it expires soon",
}


def _days_left(facts: CertificateFacts) -> int:
    return (facts.not_after - datetime.now(UTC)).days


def _when(facts: CertificateFacts) -> str:
    """How far its end is."""
    days = _days_left(facts)
    if days < 0:
        return f"{_count(-days - 1)} ago"
    return f"{_count(days)} left"


def _count(days: int) -> str:
    return f"{days} day{'' if days == 1 else 's'}"


def _printable(text: str) -> str:
    """Text of a certificate without what a terminal would obey."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)
