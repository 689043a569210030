from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import NameOID

from everbus.certificates import (
    CA_CERTIFICATE,
    CA_KEY,
    CertificateFacts,
    Credential,
    create_authority,
    issue_client,
    issue_server,
    load_authority,
    read_certificates,
)
from everbus.errors import ConfigurationError
from everbus.service.role import ROLE_OID, subject_text


@pytest.fixture(scope="module")
def authority() -> Credential:
    return create_authority("plant CA")


def kept(folder: Path, made: Credential) -> Path:
    """A CA's folder."""
    (folder / CA_CERTIFICATE).write_bytes(made.certificate_pem)
    (folder / CA_KEY).write_bytes(made.key_pem)
    return folder


def critical(made: Credential) -> set[str]:
    return {one.oid._name for one in made.certificate.extensions if one.critical}


def test_a_ca_signs_certificates_and_nothing_else(authority: Credential) -> None:
    found = authority.certificate
    found.verify_directly_issued_by(found)
    assert critical(authority) == {"basicConstraints", "keyUsage"}
    assert found.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0
    usage = found.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.key_cert_sign, usage.crl_sign, usage.digital_signature) == (True, True, False)
    assert isinstance(authority.key, ec.EllipticCurvePrivateKey)
    assert isinstance(authority.key.curve, ec.SECP256R1)
    facts = authority.facts
    assert (facts.subject, facts.issuer, facts.authority, facts.key) == (
        "CN=plant CA",
        "CN=plant CA",
        True,
        "EC secp256r1",
    )
    assert (facts.not_after - datetime.now(UTC)).days == 3649


def test_a_server_has_its_names(authority: Credential) -> None:
    names = ["pump7.plant.example", "192.0.2.7", "2001:DB8::7", "*.plant.example", "müller.example", "pump_7"]
    made = issue_server(authority, names, days=10)
    made.certificate.verify_directly_issued_by(authority.certificate)
    found = made.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    known = ["pump7.plant.example", "*.plant.example", "xn--mller-kva.example", "pump_7"]
    assert found.get_values_for_type(x509.DNSName) == known
    assert found.get_values_for_type(x509.IPAddress) == [ip_address("192.0.2.7"), ip_address("2001:db8::7")]
    facts = made.facts
    assert facts.subject == "CN=pump7.plant.example"
    assert set(facts.names) == {*known, "192.0.2.7", "2001:db8::7"}
    assert (facts.uses, facts.authority, facts.role) == (("server",), False, None)
    assert timedelta(days=9) < facts.not_after - datetime.now(UTC) <= timedelta(days=10)
    assert facts.not_before < datetime.now(UTC) - timedelta(hours=23)
    assert critical(made) == {"basicConstraints", "keyUsage"}


def test_a_name_that_is_too_long_for_a_subject_stands_in_the_names_alone(authority: Credential) -> None:
    name = f"{'a' * 60}.plant.example"
    made = issue_server(authority, [name])
    assert (made.facts.subject, made.facts.names) == ("", (name,))
    assert "subjectAltName" in critical(made)


@pytest.mark.parametrize("role", ["", "operator", "Bediener äöü", "ü" * 127])
def test_a_client_has_its_role(authority: Credential, role: str) -> None:
    made = issue_client(authority, "alice", role)
    assert made.facts.role == (role or None)
    assert made.facts.uses == ("client",)
    found = [one.value for one in made.certificate.extensions if one.oid.dotted_string == ROLE_OID]
    values = [one.value for one in found if isinstance(one, x509.UnrecognizedExtension)]
    assert values == ([asn1.encode_der(role)] if role else [])


def test_the_chain_goes_down_to_the_root(authority: Credential) -> None:
    made = issue_client(authority, "alice")
    chain = x509.load_pem_x509_certificates(made.certificate_pem)
    assert chain == [made.certificate, authority.certificate]


def test_an_rsa_key(authority: Credential) -> None:
    made = issue_server(authority, ["pump"], key_type="rsa")
    assert made.facts.key == "RSA 2048"
    usage = made.certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.digital_signature, usage.key_encipherment) == (True, True)


def test_a_certificate_ends_with_its_ca_at_the_latest() -> None:
    authority = create_authority(days=5)
    assert issue_client(authority, "alice", days=10).facts.not_after == authority.facts.not_after


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda ca: create_authority(""), "1 to 64 characters that print, not ''"),
        (lambda ca: create_authority("x" * 65), "1 to 64 characters that print"),
        (lambda ca: create_authority(days=0), "valid for 1 to 36500 days, not 0"),
        (lambda ca: create_authority(days=36501), "valid for 1 to 36500 days, not 36501"),
        (lambda ca: issue_client(ca, "a\nb"), "characters that print"),
        (lambda ca: issue_client(ca, "alice", "x" * 256), "cannot have this role: the role has 256 bytes, 255 are"),
        (lambda ca: issue_client(ca, "alice", "\udcff"), "cannot have this role"),
        (lambda ca: issue_server(ca, []), "a server needs a name"),
        (lambda ca: issue_server(ca, ["pump", "tcp://pump"]), "'tcp://pump' is neither a host name nor an IP address"),
        (lambda ca: issue_server(ca, ["pump:802"]), "'pump:802' is neither .*; no port and no scheme belong to it"),
        (lambda ca: issue_server(ca, [""]), "'' is neither"),
        (lambda ca: issue_server(ca, ["-pump"]), "'-pump' is neither"),
        (lambda ca: issue_server(ca, ["a..b"]), "'a..b' is neither"),
        (lambda ca: issue_server(ca, ["ü" * 70]), "is neither"),
        (lambda ca: issue_server(ca, [".".join(["abc"] * 64)]), "is neither"),
    ],
)
def test_what_cannot_be_made(authority: Credential, make: Callable[[Credential], object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make(authority)


def self_signed(
    key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey, *, days: int, ca: bool = True
) -> x509.Certificate:
    """What somebody else's tools make."""
    attributes = [
        x509.NameAttribute(NameOID.COUNTRY_NAME, "DE"),
        x509.NameAttribute(NameOID.EMAIL_ADDRESS, "it@plant.example"),
        x509.NameAttribute(NameOID.COMMON_NAME, "plant, CA"),
    ]
    subject = x509.Name(attributes)
    now = datetime.now(UTC)
    begins, ends = now - timedelta(days=30), now + timedelta(days=days)
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), 255, begins, ends)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=False)
    return builder.sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())


def test_a_ca_of_somebody_else_signs_too(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    authority = load_authority(kept(tmp_path, Credential(self_signed(key, days=5), key)))
    made = issue_client(authority, "alice")
    assert made.facts.issuer == "CN=plant\\, CA,emailAddress=it@plant.example,C=DE"
    made.certificate.verify_directly_issued_by(authority.certificate)


def test_a_ca_that_has_expired_signs_nothing(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    authority = load_authority(kept(tmp_path, Credential(self_signed(key, days=-2), key)))
    with pytest.raises(ConfigurationError, match="the CA has expired, on 20"):
        issue_client(authority, "alice")


def test_a_ca_is_loaded_as_it_was_kept(authority: Credential, tmp_path: Path) -> None:
    loaded = load_authority(kept(tmp_path, authority))
    assert loaded.certificate == authority.certificate
    assert loaded.key_pem == authority.key_pem
    assert loaded.issuers == ()


def test_a_ca_below_another_brings_its_chain(authority: Credential, tmp_path: Path) -> None:
    kept(tmp_path, Credential(authority.certificate, authority.key, (create_authority("root").certificate,)))
    made = issue_client(load_authority(tmp_path), "alice")
    (tmp_path / "chain.pem").write_bytes(made.certificate_pem)
    assert [facts.subject for facts in read_certificates(tmp_path / "chain.pem")] == [
        "CN=alice",
        "CN=plant CA",
        "CN=root",
    ]


def encrypted(made: Credential) -> bytes:
    password = serialization.BestAvailableEncryption(b"secret")
    return made.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, password)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (CA_CERTIFICATE, lambda ca: None, r"ca.pem cannot be read: No such file"),
        (CA_CERTIFICATE, lambda ca: b"", r"ca.pem: no certificate that can be read is in it, in PEM or DER"),
        (CA_CERTIFICATE, lambda ca: ca.certificate_pem[:99], r"ca.pem: no certificate that can be read is in it"),
        (CA_CERTIFICATE, lambda ca: ca.key_pem, r"ca.pem: no certificate that can be read is in it"),
        (CA_KEY, lambda ca: None, r"ca-key.pem cannot be read: No such file"),
        (CA_KEY, lambda ca: b"", r"ca-key.pem: no private key in PEM is in it"),
        (CA_KEY, lambda ca: ca.certificate_pem, r"ca-key.pem: no private key in PEM is in it"),
        (CA_KEY, encrypted, r"ca-key.pem: the key is encrypted"),
        (CA_KEY, lambda ca: create_authority().key_pem, r"ca-key.pem is not the key of \S+ca.pem"),
    ],
)
def test_a_ca_that_cannot_be_loaded(
    authority: Credential, tmp_path: Path, name: str, change: Callable[[Credential], bytes | None], message: str
) -> None:
    data = change(authority)
    kept(tmp_path, authority)
    (tmp_path / name).unlink()
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ConfigurationError, match=message):
        load_authority(tmp_path)


def test_who_is_no_ca_signs_nothing(authority: Credential, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"ca.pem is not the certificate of a CA"):
        load_authority(kept(tmp_path, issue_client(authority, "alice")))
    odd = ed25519.Ed25519PrivateKey.generate()
    with pytest.raises(ConfigurationError, match=r"ca-key.pem: the key is neither EC nor RSA"):
        load_authority(kept(tmp_path, Credential(self_signed(odd, days=5), odd)))  # type: ignore[arg-type]


# Looking


def looked(folder: Path, data: bytes) -> list[CertificateFacts]:
    (folder / "some.pem").write_bytes(data)
    return read_certificates(folder / "some.pem")


def test_what_a_certificate_says_in_either_form(authority: Credential, tmp_path: Path) -> None:
    made = issue_client(authority, "alice", "operator")
    der = made.certificate.public_bytes(serialization.Encoding.DER)
    assert looked(tmp_path, der) == looked(tmp_path, made.certificate_pem)[:1] == [made.facts]
    assert made.facts.serial == f"{made.certificate.serial_number:X}"
    assert made.facts.fingerprint == made.certificate.fingerprint(hashes.SHA256()).hex()
    text = b"Bag Attributes\n" + made.certificate_pem
    assert looked(tmp_path, text)[0] == made.facts


def test_a_certificate_with_two_roles_and_one_of_another_kind(tmp_path: Path) -> None:
    role = x509.UnrecognizedExtension(x509.ObjectIdentifier(ROLE_OID), bytes.fromhex("0C084F70657261746F72"))
    odd = ed25519.Ed25519PrivateKey.generate()
    name, now = x509.Name([]), datetime.now(UTC)
    added: list[x509.Extension[x509.ExtensionType]] = [x509.Extension(role.oid, False, role)] * 2
    builder = x509.CertificateBuilder(name, name, odd.public_key(), 1, now, now + timedelta(days=1), added)
    (facts,) = looked(tmp_path, builder.sign(odd, None).public_bytes(serialization.Encoding.PEM))
    assert facts.role is None
    assert facts.role_error == "the certificate has 2 role extensions, one is the most"
    assert (facts.subject, facts.key, facts.authority, facts.names) == ("", "ED25519", False, ())


def test_a_key_that_nobody_knows(tmp_path: Path) -> None:
    der = self_signed(ed25519.Ed25519PrivateKey.generate(), days=5).public_bytes(serialization.Encoding.DER)
    (facts,) = looked(tmp_path, der.replace(bytes.fromhex("06032B6570"), bytes.fromhex("06032B6501")))
    assert facts.key == "unknown"


def test_a_subject_that_is_no_text(tmp_path: Path) -> None:
    der = create_authority("plant").certificate.public_bytes(serialization.Encoding.DER)
    with pytest.raises(ConfigurationError, match=r"some.pem: no certificate that can be read is in it"):
        looked(tmp_path, der.replace(b"\x0c\x05plant", b"\x14\x05pl\xfft\xfe"))


def test_a_subject_is_the_same_as_in_a_connection(tmp_path: Path) -> None:
    """Policies name it: what the command shows must be what the server sees."""
    key = ec.generate_private_key(ec.SECP256R1())
    made = self_signed(key, days=1)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=made.public_bytes(serialization.Encoding.DER))
    assert Credential(made, key).facts.subject == subject_text(context.get_ca_certs()[0]["subject"])  # type: ignore[arg-type]
