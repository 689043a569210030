"""Handshakes of real contexts, over pairs of memory BIOs; the certificates are made once."""

from __future__ import annotations

import os
import ssl
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from everbus import certificates
from everbus.certificates import Credential
from everbus.client.endpoint import TlsFiles
from everbus.errors import ConfigurationError
from everbus.service.role import ROLE_OID
from everbus.tls import (
    Certificates,
    HandshakeFailure,
    PeerIdentity,
    TlsOptions,
    client_context,
    handshake_failure,
    peer_identity,
    server_context,
)

HOST = "pump.plant.example"
OPERATOR = bytes.fromhex("0C084F70657261746F72")
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
EACH_VERSION = pytest.mark.parametrize("version", VERSIONS, ids=lambda version: str(version.name))


@dataclass
class Plant:
    """A CA, and whom it has signed."""

    folder: Path
    authority: Credential = field(default_factory=certificates.create_authority)

    def files(self, name: str, made: Credential, ca: bytes = b"") -> TlsFiles:
        """A certificate's files."""
        parts = {"cert": made.certificate_pem, "key": made.key_pem, "ca": ca or self.authority.certificate_pem}
        paths = {part: self.folder / f"{name}-{part}.pem" for part in parts}
        for part, path in paths.items():
            path.write_bytes(parts[part])
        return TlsFiles(**{part: str(path) for part, path in paths.items()})

    def signed(
        self,
        *extensions: x509.ExtensionType,
        begins: timedelta = timedelta(days=-1),
        ends: timedelta = timedelta(days=1),
        use: x509.ObjectIdentifier = ExtendedKeyUsageOID.CLIENT_AUTH,
    ) -> Credential:
        """What the CA of everbus does not sign."""
        key, issuer, now = certificates.create_authority().key, self.authority, datetime.now(UTC)
        added = [x509.Extension(one.oid, False, one) for one in (x509.ExtendedKeyUsage([use]), *extensions)]
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "odd")])
        builder = x509.CertificateBuilder(
            issuer.certificate.subject, subject, key.public_key(), 7, now + begins, now + ends, added
        )
        return Credential(builder.sign(issuer.key, hashes.SHA256()), key, (issuer.certificate,))


@pytest.fixture(scope="session")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Plant:
    return Plant(tmp_path_factory.mktemp("plant"))


@pytest.fixture(scope="session")
def server(plant: Plant) -> TlsFiles:
    names = [HOST, "192.0.2.7", "2001:db8::7"]
    return plant.files("server", certificates.issue_server(plant.authority, names))


@pytest.fixture(scope="session")
def client(plant: Plant) -> TlsFiles:
    return plant.files("client", certificates.issue_client(plant.authority, "alice", "operator"))


@pytest.fixture(scope="session")
def stranger(plant: Plant) -> TlsFiles:
    """Of another CA; it trusts ours."""
    other = certificates.create_authority("another CA")
    return plant.files("stranger", certificates.issue_client(other, "eve", "operator"))


class Pair:
    """Two ends of a connection, and how its handshake went.

    Args:
        theirs: of the server.
        ours: of the client.
        name: of the server, as the client calls it.
        session: to resume.
    """

    def __init__(
        self, theirs: ssl.SSLContext, ours: ssl.SSLContext, name: str = HOST, session: ssl.SSLSession | None = None
    ) -> None:
        self.up, self.down = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.server = theirs.wrap_bio(self.up, self.down, server_side=True)
        self.client = ours.wrap_bio(self.down, self.up, server_hostname=name, session=session)
        self.refused: HandshakeFailure | None = None
        """By the server."""
        self.failed: HandshakeFailure | None = None
        """At the client: in the handshake, or with the first read."""
        for _ in range(4):
            self.failed = self.failed or turn(self.client.do_handshake)
            self.refused = self.refused or turn(self.server.do_handshake)
        self.failed = self.failed or turn(partial(self.client.read, 1))  # tickets come with it, and alerts

    @property
    def established(self) -> bool:
        return self.refused is None and self.failed is None

    @property
    def reasons(self) -> tuple[str, str]:
        """Why the server refused it, and what the client was told."""
        assert self.refused is not None
        assert self.failed is not None
        return self.refused.reason, self.failed.reason


def sequence(*parts: bytes) -> bytes:
    """One in DER, of a certificate's size."""
    return b"\x30\x82" + sum(map(len, parts)).to_bytes(2) + b"".join(parts)


def turn(step: Callable[[], object]) -> HandshakeFailure | None:
    """One step of one end; why it failed, unless it only waits for the other."""
    try:
        step()
    except ssl.SSLWantReadError:
        return None
    except ssl.SSLError as error:
        return handshake_failure(error)
    return None


def only(context: ssl.SSLContext, version: ssl.TLSVersion) -> ssl.SSLContext:
    context.minimum_version = context.maximum_version = version
    return context


# Who is let in


@EACH_VERSION
@pytest.mark.requirement("SEC-R-01", "SEC-R-02", "SEC-R-07", "SEC-R-21", "SEC-R-59")
def test_both_ends_prove_who_they_are(server: TlsFiles, client: TlsFiles, version: ssl.TLSVersion) -> None:
    pair = Pair(server_context(server), only(client_context(client), version))
    assert pair.established
    assert pair.server.version() == version.name.replace("v1_", "v1.")
    assert peer_identity(pair.server) == PeerIdentity("CN=alice", "operator")
    assert peer_identity(pair.client) == PeerIdentity(f"CN={HOST}")
    assert pair.server.compression() is None


@pytest.mark.parametrize("name", ["192.0.2.7", "2001:db8::7"])
def test_a_server_is_known_by_its_addresses_too(server: TlsFiles, client: TlsFiles, name: str) -> None:
    assert Pair(server_context(server), client_context(client), name).established


@EACH_VERSION
@pytest.mark.requirement("SEC-R-07", "SEC-R-10")
def test_a_client_without_a_certificate(server: TlsFiles, client: TlsFiles, version: ssl.TLSVersion) -> None:
    pair = Pair(server_context(server), only(client_context(replace(client, cert="", key="")), version))
    told = "no_certificate" if version == ssl.TLSVersion.TLSv1_3 else "no_agreement"
    assert pair.reasons == ("no_certificate", told)
    with pytest.raises(ssl.SSLError):
        pair.server.read(1)


@pytest.mark.parametrize(
    ("kind", "reasons"),
    [
        ("unknown CA", ("unknown_ca", "unknown_ca")),
        ("expired", ("expired", "expired")),
        ("not yet valid", ("not_yet_valid", "refused")),
        ("wrong purpose", ("wrong_purpose", "wrong_purpose")),
        ("revoked", ("revoked", "revoked")),
    ],
)
@pytest.mark.requirement("SEC-R-02", "SEC-R-10", "SEC-R-46")
def test_a_client_that_is_refused_is_told_why(
    plant: Plant, server: TlsFiles, stranger: TlsFiles, kind: str, reasons: tuple[str, str]
) -> None:
    theirs = server_context(server)
    if kind == "unknown CA":
        ours = client_context(stranger)
    else:
        ours = client_context(replace(server, cert="", key=""))
        odd: dict[str, Callable[[], Credential]] = {
            "expired": partial(plant.signed, begins=timedelta(days=-2), ends=timedelta(days=-1)),
            "not yet valid": partial(plant.signed, begins=timedelta(hours=1)),
            "wrong purpose": partial(plant.signed, use=ExtendedKeyUsageOID.SERVER_AUTH),
            "revoked": plant.signed,
        }
        files = plant.files("odd", odd[kind]())
        ours.load_cert_chain(files.cert, files.key)  # client_context refuses to show an expired one
    if kind == "revoked":
        theirs = server_context(replace(server, ca=str(revoking(plant, 7))))
    assert Pair(theirs, ours).reasons == reasons


def revoking(plant: Plant, *serials: int) -> Path:
    """The CA's certificate, with a list of those that it revokes."""
    now = datetime.now(UTC)
    builder = x509.CertificateRevocationListBuilder().issuer_name(plant.authority.certificate.subject)
    builder = builder.last_update(now - timedelta(days=1)).next_update(now + timedelta(days=1))
    for serial in serials:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now - timedelta(hours=1))
        builder = builder.add_revoked_certificate(entry.build())
    revoked = builder.sign(plant.authority.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    path = plant.folder / "ca-with-list.pem"
    path.write_bytes(plant.authority.certificate_pem + revoked)
    return path


def test_who_is_not_on_the_list_is_let_in(plant: Plant, server: TlsFiles, client: TlsFiles) -> None:
    assert Pair(server_context(replace(server, ca=str(revoking(plant, 7)))), client_context(client)).established


@pytest.mark.parametrize(
    ("kind", "reasons"),
    [
        ("unknown CA", ("unknown_ca", "unknown_ca")),
        ("expired", ("expired", "expired")),
        ("wrong name", ("refused", "wrong_name")),
        ("wrong address", ("refused", "wrong_name")),
        ("wrong purpose", ("wrong_purpose", "wrong_purpose")),
        ("name in the subject alone", ("refused", "wrong_name")),
    ],
)
@pytest.mark.requirement("SEC-R-02", "SEC-R-46")
def test_a_server_that_is_refused_is_told_why(
    plant: Plant, server: TlsFiles, client: TlsFiles, stranger: TlsFiles, kind: str, reasons: tuple[str, str]
) -> None:
    theirs = server_context(server)
    name = {"wrong name": "other.plant.example", "wrong address": "192.0.2.8"}.get(kind, HOST)
    files = server
    if kind == "unknown CA":
        files = stranger
    elif kind == "wrong purpose":
        files = client
    elif kind in ("expired", "name in the subject alone"):
        ends = timedelta(days=1 if kind != "expired" else -1)
        names = [x509.SubjectAlternativeName([x509.DNSName("odd")])] if kind == "expired" else []
        odd = plant.signed(*names, begins=timedelta(days=-2), ends=ends, use=ExtendedKeyUsageOID.SERVER_AUTH)
        files, name = plant.files("odd", odd), "odd"
    theirs.load_cert_chain(files.cert, files.key)
    assert Pair(theirs, client_context(client), name).reasons == reasons


def test_certificates_of_clients_can_be_optional(server: TlsFiles, client: TlsFiles, stranger: TlsFiles) -> None:
    theirs = server_context(server, TlsOptions(clients="optional"))
    nobody = Pair(theirs, client_context(replace(client, cert="", key="")))
    assert nobody.established
    assert peer_identity(nobody.server) == PeerIdentity()
    assert peer_identity(Pair(theirs, client_context(client)).server).role == "operator"
    assert Pair(theirs, client_context(stranger)).reasons[0] == "unknown_ca"


def test_certificates_of_clients_can_be_left_alone(server: TlsFiles, stranger: TlsFiles) -> None:
    theirs = server_context(replace(server, ca=""), TlsOptions(clients="none"))
    pair = Pair(theirs, client_context(stranger))
    assert pair.established
    assert peer_identity(pair.server) == PeerIdentity()


# Versions and suites


def old(version: ssl.TLSVersion, suites: str = "ALL:@SECLEVEL=0") -> ssl.SSLContext:
    """A client that speaks what nobody should."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers(suites)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return only(context, version)


@pytest.mark.parametrize(
    "version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1], ids=lambda version: str(version.name)
)
@pytest.mark.requirement("SEC-R-01", "SEC-R-34")
def test_what_is_older_than_tls_1_2_is_refused(server: TlsFiles, version: ssl.TLSVersion) -> None:
    assert Pair(server_context(server), old(version)).reasons == ("version", "version")


@pytest.mark.requirement("SEC-R-34")
def test_an_old_server_is_refused_too(server: TlsFiles, client: TlsFiles) -> None:
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(server.cert, server.key)
    theirs.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        only(theirs, ssl.TLSVersion.TLSv1_1)
    assert Pair(theirs, client_context(client)).refused == HandshakeFailure(
        "version", "the peer does not speak TLS 1.2 or newer"
    )


@pytest.mark.parametrize("suites", ["AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-SHA256", "NULL-SHA256:@SECLEVEL=0"])
@pytest.mark.requirement("SEC-R-67", "SEC-R-12")
def test_a_client_with_other_suites_is_refused(server: TlsFiles, suites: str) -> None:
    pair = Pair(server_context(server), old(ssl.TLSVersion.TLSv1_2, suites))
    assert pair.reasons == ("no_shared_suite", "no_agreement")


@pytest.mark.parametrize("make", [server_context, client_context])
@pytest.mark.requirement("SEC-R-12", "SEC-R-37", "SEC-R-52")
def test_suites_encrypt_and_authenticate_with_sha_256_or_better(
    make: Callable[[TlsFiles], ssl.SSLContext], server: TlsFiles
) -> None:
    context = make(server)
    suites = context.get_ciphers()
    names = {suite["name"] for suite in suites}
    assert {"ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256", "TLS_AES_128_GCM_SHA256"} <= names
    for suite in suites:
        assert suite["name"].startswith(("ECDHE-ECDSA-", "ECDHE-RSA-", "TLS_"))
        assert suite["aead"]
        assert suite["strength_bits"] >= 128
        assert "SHA1" not in suite["name"]
    assert context.options & ssl.OP_NO_COMPRESSION
    assert context.options & ssl.OP_NO_RENEGOTIATION


@pytest.mark.parametrize(
    ("rsa", "suite"), [(False, "ECDHE-ECDSA-AES128-GCM-SHA256"), (True, "ECDHE-RSA-AES128-GCM-SHA256")]
)
@pytest.mark.requirement("SEC-R-14", "SEC-R-61")
def test_the_suite_that_the_key_demands(
    plant: Plant, client: TlsFiles, rsa_server: TlsFiles, server: TlsFiles, rsa: bool, suite: str
) -> None:
    ours = only(client_context(client), ssl.TLSVersion.TLSv1_2)
    ours.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256")
    cipher = Pair(server_context(rsa_server if rsa else server), ours).server.cipher()
    assert cipher is not None
    assert cipher[0] == suite


@pytest.fixture(scope="session")
def rsa_server(plant: Plant) -> TlsFiles:
    return plant.files("rsa", certificates.issue_server(plant.authority, [HOST], key_type="rsa"))


@pytest.mark.requirement("SEC-R-67")
def test_what_is_not_encrypted_is_taken_where_it_is_wanted(rsa_server: TlsFiles, client: TlsFiles) -> None:
    theirs = server_context(rsa_server, TlsOptions(unencrypted=True))
    pair = Pair(theirs, client_context(client))
    assert pair.established
    ours = only(client_context(client), ssl.TLSVersion.TLSv1_2)
    assert "NULL" not in str(Pair(theirs, ours).server.cipher())
    ours.set_ciphers("NULL-SHA256:@SECLEVEL=0")
    pair = Pair(theirs, ours)
    assert pair.server.cipher() == ("NULL-SHA256", "TLSv1.2", 0)
    assert peer_identity(pair.server).role == "operator"
    pair.client.write(b"anybody can read this")
    assert b"anybody can read this" in pair.up.read()


def test_options_that_are_none() -> None:
    with pytest.raises(ConfigurationError, match="clients is required, optional, none, not 'never'"):
        TlsOptions(clients="never")  # type: ignore[arg-type]


# What is no TLS


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (bytes.fromhex("000100000006010300000001"), "not_tls"),
        (b"GET / HTTP/1.1\r\n\r\n", "not_tls"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "not_tls"),
        (b"\x16\x03\x01\xff\xff" + bytes(40), "tls"),
    ],
)
def test_other_bytes_are_refused_at_once(server: TlsFiles, data: bytes, reason: str) -> None:
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    end = server_context(server).wrap_bio(up, down, server_side=True)
    up.write(data)
    failure = turn(end.do_handshake)
    assert failure is not None
    assert failure.reason == reason


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TimeoutError(), "timeout"),
        (ConnectionResetError(), "closed"),
        (ssl.SSLEOFError(8, "EOF occurred in violation of protocol"), "closed"),
        (ssl.SSLError("no reason"), "closed"),
    ],
)
def test_other_ends_of_a_handshake(error: Exception, reason: str) -> None:
    assert handshake_failure(error).reason == reason


def test_an_end_in_the_middle_of_a_handshake(server: TlsFiles) -> None:
    up = ssl.MemoryBIO()
    end = server_context(server).wrap_bio(up, ssl.MemoryBIO(), server_side=True)
    up.write(b"\x16\x03\x01")
    up.write_eof()
    with pytest.raises(ssl.SSLError) as caught:
        end.do_handshake()
    assert handshake_failure(caught.value).reason == "closed"


# Roles


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([], None),
        ([OPERATOR, OPERATOR], "duplicate"),
        ([b"\x13" + OPERATOR[1:]], "type"),
        ([OPERATOR[2:]], "malformed"),
        ([b"\x0c\x82\x01\x01" + b"x" * 257], "too_long"),
        ([b"\x0c\x02\xff\xfe"], "encoding"),
    ],
)
@EACH_VERSION
def test_a_role_that_is_none_is_none(
    plant: Plant, server: TlsFiles, version: ssl.TLSVersion, values: list[bytes], reason: str | None
) -> None:
    oid = x509.ObjectIdentifier(ROLE_OID)
    files = plant.files("odd", plant.signed(*(x509.UnrecognizedExtension(oid, value) for value in values)))
    pair = Pair(server_context(server), only(client_context(files), version))
    assert pair.established
    identity = peer_identity(pair.server)
    assert (identity.subject, identity.role) == ("CN=odd", None)
    assert (identity.role_error and identity.role_error.reason) == reason


def test_names_that_are_no_text_do_not_hide_the_role(plant: Plant, server: TlsFiles) -> None:
    role = x509.UnrecognizedExtension(x509.ObjectIdentifier(ROLE_OID), OPERATOR)
    made = plant.signed(x509.SubjectAlternativeName([x509.DNSName("hallo.example")]), role)
    signed = made.certificate.tbs_certificate_bytes.replace(b"hallo.example", b"hall\xff.example")
    signature = plant.authority.key.sign(signed, ec.ECDSA(hashes.SHA256()))  # type: ignore[call-arg, arg-type]  # EC
    algorithm = bytes.fromhex("300A06082A8648CE3D040302")
    der = sequence(signed, algorithm, b"\x03" + bytes((len(signature) + 1, 0)) + signature)
    ours = client_context(plant.files("odd", Credential(x509.load_der_x509_certificate(der), made.key)))
    pair = Pair(server_context(server), ours)
    assert pair.established
    assert peer_identity(pair.server) == PeerIdentity("", "Operator")


# Sessions


@pytest.mark.parametrize("tickets", [True, False])
@EACH_VERSION
@pytest.mark.requirement("SEC-R-42")
def test_a_resumed_session_keeps_subject_and_role(
    server: TlsFiles, client: TlsFiles, version: ssl.TLSVersion, tickets: bool
) -> None:
    theirs, ours = server_context(server), only(client_context(client), version)
    if not tickets:
        theirs.options |= ssl.OP_NO_TICKET
    first = Pair(theirs, ours)
    assert not first.client.session_reused
    again = Pair(theirs, ours, session=first.client.session)
    assert again.established
    assert again.server.session_reused
    assert peer_identity(again.server) == PeerIdentity("CN=alice", "operator")


@EACH_VERSION
def test_a_session_of_other_files_is_not_resumed(server: TlsFiles, client: TlsFiles, version: ssl.TLSVersion) -> None:
    ours = only(client_context(client), version)
    first = Pair(server_context(server), ours)
    again = Pair(server_context(server), ours, session=first.client.session)
    assert again.established
    assert not again.server.session_reused


@EACH_VERSION
@pytest.mark.requirement("SEC-R-11")
def test_a_handshake_that_failed_leaves_no_session(server: TlsFiles, client: TlsFiles, version: ssl.TLSVersion) -> None:
    theirs, ours = server_context(server), only(client_context(replace(client, cert="", key="")), version)
    failed = Pair(theirs, ours)
    assert not failed.established
    session = failed.client.session
    assert Pair(theirs, ours, session=session).reasons[0] == "no_certificate"
    assert theirs.session_stats()["hits"] == 0


# Records


@EACH_VERSION
def test_a_frame_in_many_records_and_many_in_one(server: TlsFiles, client: TlsFiles, version: ssl.TLSVersion) -> None:
    pair = Pair(server_context(server), only(client_context(client), version))
    request = bytes.fromhex("000100000006010300000001")
    for byte in request:
        pair.client.write(bytes((byte,)))
    arrived = b"".join(iter(partial(read, pair.server), b""))
    assert arrived == request
    pair.client.write(request * 100)
    assert read(pair.server) == request * 100


def read(end: ssl.SSLObject) -> bytes:
    try:
        return end.read(8192)
    except ssl.SSLWantReadError:
        return b""


@pytest.mark.requirement("SEC-R-46", "SEC-R-60")
def test_the_chain_is_sent_down_to_the_root(plant: Plant, server: TlsFiles, client: TlsFiles) -> None:
    theirs, ours = server_context(server), only(client_context(client), ssl.TLSVersion.TLSv1_2)
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    hello = ours.wrap_bio(ssl.MemoryBIO(), up, server_hostname=HOST)
    answer = theirs.wrap_bio(up, down, server_side=True)
    assert turn(hello.do_handshake) is turn(answer.do_handshake) is None
    sent = down.read()  # in TLS 1.2 all of it can be read
    assert plant.authority.certificate.public_bytes(serialization.Encoding.DER) in sent
    # renegotiation_info: the secure one (RFC 5746); and nothing is renegotiated
    assert bytes.fromhex("FF01000100") in sent


@pytest.mark.requirement("SEC-R-57")
def test_records_are_as_short_as_a_client_wants(server: TlsFiles) -> None:
    """The ssl module cannot ask for it; so the extension (RFC 6066, 4) is put into a ClientHello here."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    hello = old(ssl.TLSVersion.TLSv1_2).wrap_bio(ssl.MemoryBIO(), up)
    assert turn(hello.do_handshake) is None
    sent, wanted = up.read(), bytes.fromhex("0001000101")  # 512 bytes
    answer = server_context(server).wrap_bio(up, down, server_side=True)
    up.write(with_extension(sent, wanted))
    assert turn(answer.do_handshake) is None
    records = list(split(down.read()))
    assert wanted in records[0]
    assert max(map(len, records)) == 512


def with_extension(record: bytes, extension: bytes) -> bytes:
    """A ClientHello with another extension; all lengths that hold it grow."""
    body = record[9:]
    at = 34  # version and random
    at += 1 + body[at]  # session
    at += 2 + int.from_bytes(body[at : at + 2])  # suites
    at += 1 + body[at]  # compression
    extensions = body[at + 2 :] + extension
    body = body[:at] + len(extensions).to_bytes(2) + extensions
    return record[:3] + (len(body) + 4).to_bytes(2) + record[5:6] + len(body).to_bytes(3) + body


def split(stream: bytes) -> Iterator[bytes]:
    while stream:
        size = int.from_bytes(stream[3:5])
        yield stream[5 : 5 + size]
        stream = stream[5 + size :]


# Files


def spoiled(files: TlsFiles, folder: Path, part: str, change: Callable[[bytes], bytes]) -> TlsFiles:
    """The same files, one of them with something else in it."""
    path = folder / f"spoiled-{part}.pem"
    path.write_bytes(change(Path(getattr(files, part)).read_bytes()))
    return replace(files, **{part: str(path)})


@cache
def foreign_key(key_type: certificates.KeyType = "ec") -> bytes:
    return certificates.create_authority(key_type=key_type).key_pem


def encrypted(data: bytes) -> bytes:
    key = serialization.load_pem_private_key(data, None)
    password = serialization.BestAvailableEncryption(b"secret")
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, password)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("cert", lambda data: b"", r"spoiled-cert.pem: no certificate in PEM is in it"),
        ("cert", lambda data: data[:300], r"spoiled-cert.pem: no certificate in PEM is in it"),
        ("cert", lambda data: data[300:], r"server-key.pem is not the key of the certificate in \S+spoiled-cert.pem"),
        ("cert", lambda data: data.replace(b"M", b"?", 3), r"spoiled-cert.pem and its key \S+ cannot be used: "),
        ("key", lambda data: b"", r"spoiled-key.pem: no private key in PEM is in it"),
        ("key", lambda data: data[:100], r"spoiled-key.pem cannot be used: "),
        ("key", lambda data: foreign_key(), r"spoiled-key.pem is not the key of the certificate in \S+server-cert.pem"),
        ("key", lambda data: foreign_key("rsa"), r"spoiled-key.pem is not the key of the certificate in "),
        ("key", encrypted, r"spoiled-key.pem: the private key is encrypted, .* openssl pkey"),
        ("ca", lambda data: b"", r"spoiled-ca.pem: no certificate of a CA in PEM is in it"),
        ("ca", lambda data: data[:300], r"spoiled-ca.pem: no certificate of a CA in PEM is in it"),
        ("ca", lambda data: foreign_key(), r"spoiled-ca.pem: no certificate of a CA in PEM is in it"),
    ],
)
@pytest.mark.parametrize("make", [server_context, client_context])
def test_a_file_that_cannot_be_used(
    server: TlsFiles,
    tmp_path: Path,
    make: Callable[[TlsFiles], ssl.SSLContext],
    part: str,
    change: Callable[[bytes], bytes],
    message: str,
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make(spoiled(server, tmp_path, part, change))


@pytest.mark.parametrize("part", ["cert", "key", "ca"])
def test_a_pipe_in_the_place_of_a_file_holds_nobody_up(server: TlsFiles, tmp_path: Path, part: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigurationError, match="it is not a file"):
        server_context(replace(server, **{part: str(tmp_path / "pipe")}))


@pytest.mark.parametrize("make", [server_context, client_context])
@pytest.mark.parametrize("part", ["cert", "key", "ca"])
def test_a_file_that_cannot_be_read(
    server: TlsFiles, tmp_path: Path, make: Callable[[TlsFiles], ssl.SSLContext], part: str
) -> None:
    for path, reason in ((tmp_path / "gone.pem", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(ConfigurationError, match=f"{path} cannot be read: {reason}"):
            make(replace(server, **{part: str(path)}))
    with pytest.raises(ConfigurationError, match="cannot be read: embedded null byte"):
        make(replace(server, **{part: "a\0b"}))


def test_a_list_of_what_is_revoked_is_no_ca(plant: Plant, server: TlsFiles, tmp_path: Path) -> None:
    path = tmp_path / "list.pem"
    path.write_bytes(revoking(plant, 7).read_bytes().removeprefix(plant.authority.certificate_pem))
    with pytest.raises(ConfigurationError, match=r"list.pem: no certificate of a CA is in it"):
        server_context(replace(server, ca=str(path)))


def test_files_that_are_not_named(server: TlsFiles, client: TlsFiles) -> None:
    with pytest.raises(ConfigurationError, match="a TLS server needs a certificate, as in tls://"):
        server_context(TlsFiles())
    with pytest.raises(ConfigurationError, match=r"needs the certificate of the CA .*, as in tls://"):
        server_context(replace(server, ca=""))
    with pytest.raises(ConfigurationError, match="a key without a certificate"):
        client_context(replace(client, cert=""))


def test_an_expired_certificate_of_our_own_is_not_shown(plant: Plant, client: TlsFiles) -> None:
    ended = datetime.now(UTC) - timedelta(days=2)
    files = plant.files("odd", plant.signed(begins=timedelta(days=-3), ends=timedelta(days=-2)))
    for make in (server_context, client_context):
        with pytest.raises(ConfigurationError, match=f"odd-cert.pem: the certificate has expired, on {ended:%Y-%m-%d}"):
            make(files)


def test_the_key_may_be_in_the_file_of_its_certificate(server: TlsFiles, client: TlsFiles, tmp_path: Path) -> None:
    key = Path(client.key).read_bytes()
    files = replace(spoiled(client, tmp_path, "cert", lambda data: data + key), key="")
    assert Pair(server_context(server), client_context(files)).established


def test_without_a_ca_a_client_trusts_whom_the_system_trusts(server: TlsFiles, client: TlsFiles) -> None:
    pair = Pair(server_context(server), client_context(replace(client, ca="")))
    assert pair.failed is not None
    assert pair.failed.reason == "unknown_ca"


# Files that change


class Watched:
    """The certificates of a server, with a clock that is set by hand, and what was reported of them."""

    def __init__(self, plant: Plant, folder: Path) -> None:
        self.plant = plant
        self.place = Plant(folder, plant.authority)
        self.now = 0.0
        self.reports: list[ConfigurationError | None] = []
        self.made = 0
        self.files = self.renew()
        self.certificates = Certificates(self.files, self.make, self.reports.append, lambda: self.now)

    def make(self, files: TlsFiles) -> ssl.SSLContext:
        self.made += 1
        return server_context(files)

    def renew(self, name: str = "first") -> TlsFiles:
        """Another certificate, in the same files."""
        return self.place.files("own", certificates.issue_server(self.plant.authority, [HOST, name]))

    def serves(self, ours: ssl.SSLContext, after_s: float = 0.0) -> str:
        """The name by which a client knows the server now."""
        self.now += after_s
        for name in ("first", "second", "third"):
            if Pair(self.certificates.current(), ours, name).established:
                return name
        raise AssertionError


@pytest.fixture
def watched(plant: Plant, tmp_path: Path) -> Watched:
    return Watched(plant, tmp_path)


def test_new_files_are_used_by_the_next_handshake(watched: Watched, client: TlsFiles) -> None:
    ours = client_context(client)
    old_pair = Pair(watched.certificates.current(), ours)
    assert watched.serves(ours, 10) == "first"
    watched.renew("second")
    assert watched.serves(ours, 0.9) == "first"
    assert watched.serves(ours, 0.1) == "second"
    assert watched.reports == [None]
    assert watched.made == 2
    old_pair.client.write(b"still here")
    assert old_pair.server.read(100) == b"still here"
    assert peer_identity(old_pair.server).role == "operator"


def test_broken_files_keep_what_is_there_until_they_are_whole(watched: Watched, client: TlsFiles) -> None:
    ours = client_context(client)
    whole = Path(watched.files.cert).read_bytes()
    Path(watched.files.cert).write_bytes(whole[:300])
    for _ in range(3):
        assert watched.serves(ours, 1) == "first"
    assert [str(error) for error in watched.reports] == [f"{watched.files.cert}: no certificate in PEM is in it"]
    assert str(watched.certificates.error) == str(watched.reports[0])
    with pytest.raises(ConfigurationError, match="no certificate in PEM"):
        watched.certificates.reload()
    Path(watched.files.key).unlink()
    Path(watched.files.cert).write_bytes(whole)
    assert watched.serves(ours, 1) == "first"
    assert "key.pem cannot be read: No such file" in str(watched.reports[1])
    watched.renew("third")
    assert watched.serves(ours, 1) == "third"
    assert watched.certificates.error is None
    assert len(watched.reports) == 3


def test_files_are_used_at_once_when_it_is_asked_for(watched: Watched, client: TlsFiles) -> None:
    watched.renew("second")
    watched.certificates.reload()
    assert watched.serves(client_context(client)) == "second"


def test_a_session_ends_with_the_files_that_it_was_made_with(watched: Watched, client: TlsFiles) -> None:
    ours = client_context(client)
    session = Pair(watched.certificates.current(), ours).client.session
    assert Pair(watched.certificates.current(), ours, session=session).server.session_reused
    watched.certificates.reload()
    assert not Pair(watched.certificates.current(), ours, session=session).server.session_reused


def test_files_that_cannot_be_used_to_begin_with(client: TlsFiles) -> None:
    with pytest.raises(ConfigurationError, match="needs a certificate"):
        Certificates(TlsFiles(ca=client.ca), server_context, print)
