"""Certificates for tests with TLS, made once."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from everbus import certificates
from everbus.certificates import Credential
from everbus.client.endpoint import TlsFiles
from everbus.service.role import ROLE_OID

__all__ = ["HOST", "Plant", "plant"]

HOST = "pump.plant.example"


@dataclass(frozen=True)
class Plant:
    """A CA, a server and a client of it; a client without a certificate, one of another CA, one with two roles."""

    server: TlsFiles
    client: TlsFiles
    nobody: TlsFiles
    stranger: TlsFiles
    odd: TlsFiles


@cache
def plant() -> Plant:
    folder = Path(tempfile.mkdtemp(prefix="everbus-tls-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    authority = certificates.create_authority()

    def files(name: str, made: Credential) -> TlsFiles:
        parts = {"cert": made.certificate_pem, "key": made.key_pem, "ca": authority.certificate_pem}
        for part, data in parts.items():
            (folder / f"{name}-{part}.pem").write_bytes(data)
        return TlsFiles(**{part: str(folder / f"{name}-{part}.pem") for part in parts})

    client = files("client", certificates.issue_client(authority, "alice", "operator"))
    return Plant(
        files("server", certificates.issue_server(authority, [HOST, "127.0.0.1"])),
        client,
        TlsFiles(ca=client.ca),
        files("stranger", certificates.issue_client(certificates.create_authority("other"), "eve", "operator")),
        files("odd", _with_two_roles(authority)),
    )


def _with_two_roles(authority: Credential) -> Credential:
    made, now = certificates.issue_client(authority, "odd"), datetime.now(UTC)
    oid = x509.ObjectIdentifier(ROLE_OID)
    roles = [x509.Extension(oid, False, x509.UnrecognizedExtension(oid, b"\x0c\x01" + role)) for role in (b"a", b"b")]
    names = (authority.certificate.subject, made.certificate.subject)
    between = (now - timedelta(days=1), now + timedelta(days=1))
    builder = x509.CertificateBuilder(*names, made.key.public_key(), 1, *between, [*roles])
    return Credential(builder.sign(authority.key, hashes.SHA256()), made.key)
