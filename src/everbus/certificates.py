"""Certificates for Modbus/TCP Security: a CA of one's own, and what it issues (extra ``tls``).

Keys are EC P-256 (R-61), or RSA of 2048 bits for peers without elliptic curves (R-14).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final, Literal, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from everbus.errors import ConfigurationError
from everbus.service.role import ROLE_OID, RoleError, encode_role, role_of, subject_text

__all__ = [
    "CA_CERTIFICATE",
    "CA_KEY",
    "CertificateFacts",
    "Credential",
    "KeyType",
    "create_authority",
    "issue_client",
    "issue_server",
    "load_authority",
    "read_certificates",
]

CA_CERTIFICATE: Final = "ca.pem"
CA_KEY: Final = "ca-key.pem"
"""Names of a CA's files in its folder."""

KeyType = Literal["ec", "rsa"]
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)
_RSA_BITS: Final = 2048
_MOST_NAME: Final = 64
"""Characters of a common name (RFC 5280, ub-common-name)."""

_MOST_HOST: Final = 253
_MOST_DAYS: Final = 36500
_BACKDATED: Final = timedelta(days=1)
"""Certificates are valid from a day before they are made: the clocks of devices differ."""

_MOST_FILE_BYTES: Final = 1024 * 1024
_LABEL: Final = "[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST: Final = re.compile(rf"(\*\.)?{_LABEL}(\.{_LABEL})*")


@dataclass(frozen=True, slots=True)
class Credential:
    """A certificate with its private key.

    Args:
        certificate: whose it is.
        key: its private key.
        issuers: the chain above it, the nearest first; empty for a CA that signed itself.
    """

    certificate: x509.Certificate
    key: PrivateKey
    issuers: tuple[x509.Certificate, ...] = ()

    @property
    def certificate_pem(self) -> bytes:
        """The certificate and its chain, down to the root, as it is sent (R-46)."""
        chain = (self.certificate, *self.issuers)
        return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in chain)

    @property
    def key_pem(self) -> bytes:
        """The private key, not encrypted."""
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    @property
    def facts(self) -> CertificateFacts:
        """What the certificate says."""
        return _facts(self.certificate)


# Issuing


def create_authority(name: str = "everbus CA", *, days: int = 3650, key_type: KeyType = "ec") -> Credential:
    """A new CA, which signs itself.

    Args:
        name: what it is called, 1 to 64 characters.
        days: how long it is valid, 1..36500.
        key_type: of its key.

    Raises:
        ConfigurationError: the name or the days cannot be.
    """
    key = _new_key(key_type)
    builder = _builder(_named(name), key, _end(days))
    builder = builder.issuer_name(_named(name))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage("key_cert_sign", "crl_sign"), critical=True)
    return Credential(builder.sign(key, hashes.SHA256()), key)


def issue_server(
    authority: Credential, names: Sequence[str], *, days: int = 825, key_type: KeyType = "ec"
) -> Credential:
    """A server's certificate.

    Args:
        authority: signs it; it never ends after its CA.
        names: host names and IP addresses by which clients reach the server, at least one.
        days: how long it is valid, 1..36500.
        key_type: of its key.

    Raises:
        ConfigurationError: a name is neither, or the CA has expired.
    """
    alternatives = [_general_name(name) for name in names]
    if not alternatives:
        raise ConfigurationError("a server needs a name: the host name or the address by which clients reach it")
    subject = _named(names[0]) if len(names[0]) <= _MOST_NAME else x509.Name([])
    alternative_names = x509.SubjectAlternativeName(alternatives)
    purpose = ExtendedKeyUsageOID.SERVER_AUTH
    return _issue(authority, subject, purpose, alternative_names, days=days, key_type=key_type)


def issue_client(
    authority: Credential, name: str, role: str = "", *, days: int = 825, key_type: KeyType = "ec"
) -> Credential:
    """A client's certificate.

    Args:
        authority: signs it; it never ends after its CA.
        name: whose it is, 1 to 64 characters.
        role: what its owner is to the server's policy (R-21), up to 255 bytes of UTF-8; empty: no role.
        days: how long it is valid, 1..36500.
        key_type: of its key.

    Raises:
        ConfigurationError: the name or the role cannot be, or the CA has expired.
    """
    extension = _role_extension(role) if role else None
    purpose = ExtendedKeyUsageOID.CLIENT_AUTH
    return _issue(authority, _named(name), purpose, extension, days=days, key_type=key_type)


def _issue(
    authority: Credential,
    subject: x509.Name,
    purpose: x509.ObjectIdentifier,
    extension: x509.ExtensionType | None,
    *,
    days: int,
    key_type: KeyType,
) -> Credential:
    issuer = authority.certificate
    if issuer.not_valid_after_utc <= datetime.now(UTC):
        raise ConfigurationError(f"the CA has expired, on {issuer.not_valid_after_utc:%Y-%m-%d}")
    key = _new_key(key_type)
    builder = _builder(subject, key, min(_end(days), issuer.not_valid_after_utc)).issuer_name(issuer.subject)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    usages = ("digital_signature", "key_encipherment") if key_type == "rsa" else ("digital_signature",)
    builder = builder.add_extension(_usage(*usages), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    builder = builder.add_extension(signer, critical=False)
    if extension is not None:
        builder = builder.add_extension(extension, critical=not subject.rdns)  # RFC 5280, 4.1.2.6
    return Credential(builder.sign(authority.key, hashes.SHA256()), key, (issuer, *authority.issuers))


def _builder(subject: x509.Name, key: PrivateKey, end: datetime) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(datetime.now(UTC) - _BACKDATED).not_valid_after(end)
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)


def _end(days: int) -> datetime:
    if not 1 <= days <= _MOST_DAYS:
        raise ConfigurationError(f"a certificate is valid for 1 to {_MOST_DAYS} days, not {days}")
    return datetime.now(UTC) + timedelta(days=days)


def _new_key(key_type: KeyType) -> PrivateKey:
    if key_type == "rsa":
        return rsa.generate_private_key(public_exponent=65537, key_size=_RSA_BITS)
    return ec.generate_private_key(ec.SECP256R1())


def _named(name: str) -> x509.Name:
    if not 1 <= len(name) <= _MOST_NAME or not name.isprintable():
        raise ConfigurationError(f"a certificate's name has 1 to {_MOST_NAME} characters that print, not {name!r}")
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _usage(*names: str) -> x509.KeyUsage:
    usages = dict.fromkeys(_USAGES, False) | dict.fromkeys(names, True)
    return x509.KeyUsage(**usages)


_USAGES: Final = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def _general_name(name: str) -> x509.GeneralName:
    with suppress(ValueError):
        return x509.IPAddress(ip_address(name))
    with suppress(UnicodeError):
        ascii_name = name if name.isascii() else name.encode("idna").decode()
        if len(ascii_name) <= _MOST_HOST and _HOST.fullmatch(ascii_name):
            return x509.DNSName(ascii_name)
    raise ConfigurationError(f"{name!r} is neither a host name nor an IP address; no port and no scheme belong to it")


def _role_extension(role: str) -> x509.UnrecognizedExtension:
    try:
        value = encode_role(role)
    except RoleError as error:
        raise ConfigurationError(f"a certificate cannot have this role: {error}") from error
    return x509.UnrecognizedExtension(x509.ObjectIdentifier(ROLE_OID), value)


# Files


def load_authority(folder: Path) -> Credential:
    """The CA whose files are in a folder.

    Raises:
        ConfigurationError: there is none that can issue certificates; the message names the file.
    """
    path, key_path = folder / CA_CERTIFICATE, folder / CA_KEY
    (certificate, facts), *above = _load_certificates(path)
    data = _read(key_path)
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except TypeError:
        raise ConfigurationError(f"{key_path}: the key is encrypted; openssl pkey takes the password off") from None
    except ValueError as error:
        raise ConfigurationError(f"{key_path}: no private key in PEM is in it") from error
    if not isinstance(key, PrivateKey):
        raise ConfigurationError(f"{key_path}: the key is neither EC nor RSA")
    if facts.key == _UNKNOWN or key.public_key() != certificate.public_key():
        raise ConfigurationError(f"{key_path} is not the key of {path}")
    if not facts.authority:
        raise ConfigurationError(f"{path} is not the certificate of a CA")
    return Credential(certificate, key, tuple(issuer for issuer, _ in above))


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MOST_FILE_BYTES)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error


def _load_certificates(path: Path) -> list[tuple[x509.Certificate, CertificateFacts]]:
    """The certificates in PEM, one at least, or one in DER; and what they say."""
    data = _read(path)
    try:
        if b"-----BEGIN " in data:
            found = x509.load_pem_x509_certificates(data)
        else:
            found = [x509.load_der_x509_certificate(data)]
        return [(certificate, _facts(certificate)) for certificate in found]
    except ValueError as error:
        text = "no certificate that can be read is in it, in PEM or DER"
        raise ConfigurationError(f"{path}: {text}") from error


# Looking


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """What a certificate says.

    Args:
        subject: whose it is, as in policies.
        issuer: who signed it.
        role: of its owner; None: it has none.
        role_error: why it has none, if something is in its place.
        names: host names and addresses of a server.
        uses: ``server``, ``client``; empty: it is not limited to these.
        authority: it is a CA's.
        key: its kind.
        not_before, not_after: when it is valid.
        serial: its number, in hexadecimal.
        fingerprint: its SHA-256, in hexadecimal.
    """

    subject: str
    issuer: str
    role: str | None
    role_error: str
    names: tuple[str, ...]
    uses: tuple[str, ...]
    authority: bool
    key: str
    not_before: datetime
    not_after: datetime
    serial: str
    fingerprint: str


def read_certificates(path: Path) -> list[CertificateFacts]:
    """What the certificates of a file say, in its order, at least one. Nothing is verified.

    Args:
        path: of a file in PEM, or of one certificate in DER.

    Raises:
        ConfigurationError: there is none, or it cannot be read.
    """
    return [facts for _, facts in _load_certificates(path)]


def _facts(certificate: x509.Certificate) -> CertificateFacts:
    role, role_error = None, ""
    try:
        role = role_of(certificate.public_bytes(serialization.Encoding.DER))
    except RoleError as error:
        role_error = str(error)
    constraints = _extension(certificate, x509.BasicConstraints)
    alternatives = _extension(certificate, x509.SubjectAlternativeName)
    usage = _extension(certificate, x509.ExtendedKeyUsage)
    return CertificateFacts(
        subject=_text(certificate.subject),
        issuer=_text(certificate.issuer),
        role=role,
        role_error=role_error,
        names=tuple(str(name.value) for name in alternatives or () if isinstance(name, _NAMES)),
        uses=tuple(use for oid, use in _USES.items() if usage is not None and oid in usage),
        authority=constraints is not None and constraints.ca,
        key=_key_text(certificate),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        serial=f"{certificate.serial_number:X}",
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
    )


_UNKNOWN: Final = "unknown"
_NAMES: Final = (x509.DNSName, x509.IPAddress)
_USES: Final = {ExtendedKeyUsageOID.SERVER_AUTH: "server", ExtendedKeyUsageOID.CLIENT_AUTH: "client"}
_OPENSSL_NAMES: Final = {NameOID.EMAIL_ADDRESS: "emailAddress", NameOID.SERIAL_NUMBER: "serialNumber"}
"""Names that RFC 4514 has not, as OpenSSL and so a TLS connection calls them."""


def _extension(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    """An extension's value; None where it is not, or where the extensions are not what RFC 5280 allows."""
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, ValueError):
        return None


def _text(name: x509.Name) -> str:
    return subject_text(
        [(_OPENSSL_NAMES.get(one.oid, one.rfc4514_attribute_name), str(one.value)) for one in part]
        for part in name.rdns
    )


def _key_text(certificate: x509.Certificate) -> str:
    try:
        key = certificate.public_key()
    except (UnsupportedAlgorithm, ValueError):
        return _UNKNOWN
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"EC {key.curve.name}"
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA {key.key_size}"
    return type(key).__name__.removesuffix("PublicKey").upper()
