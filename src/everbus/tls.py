"""TLS as Modbus/TCP Security wants it (spec.md 6.2): contexts from files, who the peer is, why a handshake failed.

Both hosts use it, for servers and clients; it opens no connection. It needs the standard library alone:
what makes certificates is in ``everbus.certificates``.
"""

from __future__ import annotations

import errno
import os
import re
import ssl
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from time import gmtime, monotonic, strftime
from typing import Any, Final, Literal

from everbus.client.endpoint import TlsFiles
from everbus.errors import ConfigurationError
from everbus.service.role import RoleError, not_after, role_of, subject_text

__all__ = [
    "Certificates",
    "HandshakeFailure",
    "PeerIdentity",
    "TlsOptions",
    "client_context",
    "handshake_failure",
    "in_words",
    "peer_identity",
    "server_context",
]

_SUITES: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2: what R-14 and R-62 demand, and its stronger kin; those of TLS 1.3 are all as strong."""

_UNENCRYPTED_SUITES: Final = f"{_SUITES}:NULL-SHA256:@SECLEVEL=0"
_LOOK_EVERY_S: Final = 1.0
_MOST_FILE_BYTES: Final = 1024 * 1024
_CERTIFICATE: Final = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_CLIENTS: Final = {"required": ssl.CERT_REQUIRED, "optional": ssl.CERT_OPTIONAL, "none": ssl.CERT_NONE}


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsOptions:
    """How a server does TLS. The defaults are the specification's.

    Args:
        clients: whether a client shows a certificate: ``required``; ``optional``: it may, and then it must be
            one that can be verified; ``none``: nobody is asked.
        unencrypted: also take TLS_RSA_WITH_NULL_SHA256 of clients that want nothing better (R-67): what
            they send can be read by others, and not changed. Needs an RSA key.

    Raises:
        ConfigurationError: they are something else.
    """

    clients: Literal["required", "optional", "none"] = "required"
    unencrypted: bool = False

    def __post_init__(self) -> None:
        if self.clients not in _CLIENTS:
            raise ConfigurationError(f"clients is {', '.join(_CLIENTS)}, not {self.clients!r}")


# Contexts


def server_context(files: TlsFiles, options: TlsOptions = TlsOptions()) -> ssl.SSLContext:
    """What a server needs for its handshakes.

    Args:
        files: all three of them; without ``key`` it is in the file of ``cert``, and ``ca`` may be left out
            where no client is asked for a certificate.
        options: how.

    Raises:
        ConfigurationError: a file is missing, or cannot be used; the message names it and says why.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = _CLIENTS[options.clients]
    if options.unencrypted:
        context.set_ciphers(_UNENCRYPTED_SUITES)
    if not files.cert:
        raise ConfigurationError("a TLS server needs a certificate, as in tls://0.0.0.0?cert=FILE&key=FILE&ca=FILE")
    _load_own(context, files)
    if options.clients != "none":
        if not files.ca:
            text = "a TLS server needs the certificate of the CA whose clients it lets in"
            raise ConfigurationError(f"{text}, as in tls://0.0.0.0?cert=FILE&key=FILE&ca=FILE")
        _load_trusted(context, files.ca)
    return context


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """What a client needs for its handshakes: servers are always verified, and their names checked.

    A name is looked for in the subjectAltName of the certificate; hand it over as ``server_hostname``.

    Args:
        files: without ``cert`` it shows none, without ``ca`` it trusts whom the system trusts.

    Raises:
        ConfigurationError: a file is missing, or cannot be used; the message names it and says why.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT)
    context.hostname_checks_common_name = False
    if files.cert:
        _load_own(context, files)
    elif files.key:
        raise ConfigurationError(f"{files.key}: a key without a certificate")
    if files.ca:
        _load_trusted(context, files.ca)
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    return context


def _context(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_SUITES)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    return context


def _load_own(context: ssl.SSLContext, files: TlsFiles) -> None:
    """Our certificate, its chain, and its key."""
    key = files.key or files.cert
    certificate = _CERTIFICATE.search(_read(files.cert))
    if certificate is None:
        raise ConfigurationError(f"{files.cert}: no certificate in PEM is in it")
    if b"PRIVATE KEY-----" not in _read(key):
        raise ConfigurationError(f"{key}: no private key in PEM is in it")
    try:
        context.load_cert_chain(files.cert, key, _no_password)
        end = not_after(ssl.PEM_cert_to_DER_cert(certificate[0].decode("ascii")))
    except (OSError, ValueError, RoleError) as error:  # an SSLError is an OSError
        raise ConfigurationError(_why_not_own(files.cert, key, error)) from error
    if end < strftime("%Y%m%d%H%M%SZ", gmtime()):
        raise ConfigurationError(f"{files.cert}: the certificate has expired, on {end[:4]}-{end[4:6]}-{end[6:8]}")


def _no_password() -> str:
    raise ConfigurationError("it is encrypted")


def _why_not_own(cert: str, key: str, error: Exception) -> str:
    if isinstance(error, ConfigurationError):
        return f"{key}: the private key is encrypted, and nobody is there to give a password; openssl pkey takes it off"
    reason = getattr(error, "reason", None) or "one of them is broken"
    if reason in _MISMATCHES:
        return f"{key} is not the key of the certificate in {cert}"
    return f"{cert} and its key {key} cannot be used: {reason.replace('_', ' ').lower()}"


_MISMATCHES: Final = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")
"""What OpenSSL says of a key that is another's: of the same kind, or of another kind."""


def _load_trusted(context: ssl.SSLContext, ca: str) -> None:
    """Whom we trust, and a list of what is revoked, if there is one in the file (R-46)."""
    _read(ca)
    try:
        context.load_verify_locations(ca)
    except OSError as error:
        raise ConfigurationError(f"{ca}: no certificate of a CA in PEM is in it, or a broken one") from error
    found = context.cert_store_stats()
    if not found["x509"]:
        raise ConfigurationError(f"{ca}: no certificate of a CA is in it")
    if found["crl"]:
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF


def _read(path: str) -> bytes:
    try:
        if _is_odd(path):
            raise OSError(errno.EINVAL, "it is not a file")
        with open(path, "rb") as file:
            return file.read(_MOST_FILE_BYTES)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _is_odd(path: str) -> bool:
    """A pipe, or another thing that would hold up whoever opens it; what else is wrong, opening tells."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


class Certificates:
    """The context of some files, made anew when they change: connections stay, new handshakes get it.

    What is new and cannot be used, as files that are half written, changes nothing: the old one stays, and
    ``error`` says why.

    Args:
        files: what it is made of.
        make: makes it, as ``server_context`` does.
        report: told of each change for the next handshakes: None: new files are used; an error: they cannot be.
        clock: tells the time in seconds.

    Raises:
        ConfigurationError: they cannot be used to begin with.
    """

    def __init__(
        self,
        files: TlsFiles,
        make: Callable[[TlsFiles], ssl.SSLContext],
        report: Callable[[ConfigurationError | None], None],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.files: TlsFiles = files
        self.error: ConfigurationError | None = None
        self._make = make
        self._report = report
        self._clock = clock
        self._stamp = self._look()
        self._context = make(files)
        self._look_at = clock() + _LOOK_EVERY_S

    def current(self) -> ssl.SSLContext:
        """The context for the next handshake. The files are looked at once a second at the most."""
        now = self._clock()
        if now >= self._look_at:
            self._look_at = now + _LOOK_EVERY_S
            if self._look() != self._stamp:
                self._renew()
        return self._context

    def reload(self) -> None:
        """Use the files as they are now.

        Raises:
            ConfigurationError: they cannot be used; the old context stays.
        """
        self._renew()
        if self.error is not None:
            raise self.error

    def _renew(self) -> None:
        stamp = self._look()
        before = self.error
        try:
            self._context = self._make(self.files)
        except ConfigurationError as error:  # the stamp stays: the next look tries again
            self.error = error
            if str(error) != str(before):
                self._report(error)
        else:
            self._stamp = stamp
            self.error = None
            self._report(None)

    def _look(self) -> list[tuple[int, ...]]:
        """What is different when a file is written, replaced, or made readable."""
        stamps: list[tuple[int, ...]] = []
        for path in (self.files.cert, self.files.key, self.files.ca):
            try:
                found = os.stat(path)
            except (OSError, ValueError):
                stamps.append(())
            else:
                stamps.append((found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns))
        return stamps


# Peers


@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """Who is at the other end, as a certificate that was verified says.

    Args:
        subject: whose certificate it is, ``CN=pump 7,O=Plant``; None: it showed none; empty: it is for
            nobody, or names somebody in a way that cannot be read.
        role: its role (R-21); None: it has none.
        role_error: why it has none, if something is in its place.
    """

    subject: str | None = None
    role: str | None = None
    role_error: RoleError | None = None


def peer_identity(connection: ssl.SSLObject | ssl.SSLSocket) -> PeerIdentity:
    """Who the peer is, after the handshake; the same when a session was resumed.

    A role that cannot be told is none: what its owner may do is for the policy to say (R-23).
    """
    certificate = connection.getpeercert(binary_form=True)
    if certificate is None or connection.context.verify_mode is ssl.CERT_NONE:
        return PeerIdentity()
    subject = ""
    with suppress(ValueError, ssl.SSLError):  # names that are no text
        said: Any = connection.getpeercert()
        subject = subject_text(said["subject"])
    try:
        return PeerIdentity(subject, role_of(certificate))
    except RoleError as error:
        return PeerIdentity(subject, None, error)


@dataclass(frozen=True, slots=True)
class HandshakeFailure:
    """Why there is no TLS connection.

    Args:
        reason: a short fixed label, for counters.
        message: words for people.
    """

    reason: str
    message: str


def handshake_failure(error: BaseException) -> HandshakeFailure:
    """What an error means that ended a handshake, or the first read behind it.

    In TLS 1.3 a client's handshake is over before the server has seen its certificate: that it was refused
    comes with the first read.
    """
    if isinstance(error, TimeoutError):
        return HandshakeFailure("timeout", "the handshake was not over in time")
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = _VERIFY_CODES.get(error.verify_code, "unverified")
        return HandshakeFailure(reason, f"the peer's certificate is refused: {error.verify_message}")
    name = getattr(error, "reason", None) if isinstance(error, ssl.SSLError) else None
    if name in _REASONS:
        return HandshakeFailure(*_REASONS[name])
    if name and not isinstance(error, ssl.SSLEOFError):
        return HandshakeFailure("tls", f"TLS failed: {name.replace('_', ' ').lower()}")
    text = "the peer ended the connection; does it speak TLS there, does it want another certificate?"
    return HandshakeFailure("closed", text)


def in_words(error: BaseException) -> ConnectionAbortedError:
    """The same in words for people, as an error of a client's connection."""
    named = ConnectionAbortedError(handshake_failure(error).message)
    named.__cause__ = error
    return named


_VERIFY_CODES: Final = {
    3: "no_crl",
    9: "not_yet_valid",
    10: "expired",
    12: "crl_expired",
    18: "unknown_ca",
    19: "unknown_ca",
    20: "unknown_ca",
    21: "unknown_ca",
    23: "revoked",
    26: "wrong_purpose",
    62: "wrong_name",
    64: "wrong_name",
}
"""OpenSSL's numbers (X509_V_ERR_...)."""

_REASONS: Final = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": ("no_certificate", "the peer has shown no certificate"),
    "UNSUPPORTED_PROTOCOL": ("version", "the peer does not speak TLS 1.2 or newer"),
    "WRONG_VERSION_NUMBER": ("not_tls", "the peer does not speak TLS there"),
    "HTTP_REQUEST": ("not_tls", "the peer does not speak TLS there: this is HTTP"),
    "NO_SHARED_CIPHER": ("no_shared_suite", "the peer has no cipher suite that is allowed here"),
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": (
        "no_certificate",
        "the peer wants a certificate: ?cert=FILE&key=FILE in a URL",
    ),
    "TLSV1_ALERT_UNKNOWN_CA": ("unknown_ca", "the peer does not know the CA of our certificate"),
    "TLSV1_ALERT_PROTOCOL_VERSION": ("version", "the peer does not speak TLS 1.2 or newer"),
    "SSLV3_ALERT_BAD_CERTIFICATE": ("refused", "the peer refuses our certificate"),
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": ("expired", "our certificate has expired, the peer says"),
    "SSLV3_ALERT_CERTIFICATE_REVOKED": ("revoked", "our certificate is revoked, the peer says"),
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": ("refused", "the peer refuses our certificate"),
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": ("wrong_purpose", "our certificate is not for this use, the peer says"),
    "SSLV3_ALERT_HANDSHAKE_FAILURE": (
        "no_agreement",
        "the peer wants a certificate, or has no cipher suite that is allowed here",
    ),
}
"""OpenSSL's names: what we refuse, then the alerts by which the peer does."""
