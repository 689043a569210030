from __future__ import annotations

import json
import stat
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from everbus.certificates import Credential, create_authority, load_authority
from everbus.cli.main import run
from everbus.client.endpoint import TlsFiles
from everbus.tls import client_context, server_context


@pytest.fixture
def ca(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    folder = tmp_path / "ca"
    assert run(["cert", "ca", "--out", str(folder), "--name", "plant CA"]) == 0
    capsys.readouterr()
    return folder


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Rights and contents of what is there, hidden files too."""
    return {path.name: (stat.S_IMODE(path.stat().st_mode), path.read_bytes()) for path in folder.iterdir()}


def own(folder: Path) -> TlsFiles:
    return TlsFiles(*(str(folder / name) for name in ("cert.pem", "key.pem", "ca.pem")))


def test_from_a_ca_to_contexts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ca, pump, alice = (str(tmp_path / name) for name in ("new/ca", "pump", "alice"))
    assert run(["cert", "ca", "--out", ca]) == 0
    out, err = capsys.readouterr()
    assert out == f"{ca}/ca-key.pem\n{ca}/ca.pem\n"
    assert err.startswith("CN=everbus CA, valid until 20")
    assert run(["cert", "server", "--ca", ca, "--name", "pump", "--name", "192.0.2.7", "--out", pump]) == 0
    out, err = capsys.readouterr()
    assert out == f"{pump}/key.pem\n{pump}/cert.pem\n{pump}/ca.pem\n"
    assert run(["cert", "client", "--ca", ca, "--name", "alice", "--role", "operator", "--out", alice]) == 0
    assert capsys.readouterr().err.startswith("CN=alice, role operator, valid until 20")
    server_context(own(Path(pump)))
    client_context(own(Path(alice)))
    for folder in (ca, pump, alice):
        for name, (mode, _) in files(Path(folder)).items():
            assert mode == (0o600 if "key" in name else 0o644)


def test_documents(ca: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "alice"
    assert run(["cert", "client", "--ca", str(ca), "--name", "alice", "--role", "r1", "--out", str(out), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made.pop("files") == {"key": f"{out}/key.pem", "cert": f"{out}/cert.pem", "ca": f"{out}/ca.pem"}
    assert run(["cert", "show", str(out / "cert.pem"), "--json"]) == 0
    shown, err = capsys.readouterr()
    document = json.loads(shown)
    (issuer,) = document.pop("chain")
    assert document == made
    assert err == ""
    assert document["ok"] is True
    assert (document["subject"], document["role"], document["issuer"]) == ("CN=alice", "r1", "CN=plant CA")
    assert (document["uses"], document["state"], document["days_left"]) == (["client"], "valid", 824)
    ends = datetime.fromisoformat(document["not_after"])
    assert timedelta(days=824) < ends - datetime.now(UTC) < timedelta(days=825)
    assert (issuer["subject"], issuer["authority"]) == ("CN=plant CA", True)
    assert run(["cert", "ca", "--out", str(tmp_path / "other"), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["files"] == {"ca_key": f"{tmp_path}/other/ca-key.pem", "ca": f"{tmp_path}/other/ca.pem"}


def rows(text: str) -> list[dict[str, str]]:
    blocks = text.strip().split("\n\n")
    return [dict(line.split(maxsplit=1) for line in block.splitlines()) for block in blocks]


def test_what_people_see_of_a_client_and_of_a_server(
    ca: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = ["--ca", str(ca), "--out"]
    run(["cert", "client", *made, str(tmp_path / "a"), "--name", "alice", "--role", "op\x1b[31m"])
    run(["cert", "server", *made, str(tmp_path / "s"), "--name", "pump", "--name", "::1", "--rsa"])
    run(["cert", "client", *made, str(tmp_path / "b"), "--name", "bob"])
    capsys.readouterr()
    assert run(["cert", "show", str(tmp_path / "a" / "cert.pem")]) == 0
    out, err = capsys.readouterr()
    alice, issuer = rows(out)
    assert list(alice) == ["subject", "role", "use", "issuer", "valid", "key", "serial", "sha256"]
    assert (alice["subject"], alice["role"], alice["use"]) == ("CN=alice", "op\\x1b[31m", "client")
    assert alice["valid"].endswith("UTC, 824 days left")
    assert (issuer["subject"], issuer["use"]) == ("CN=plant CA", "CA")
    assert "role" not in issuer
    assert err == ""
    assert run(["cert", "show", str(tmp_path / "s" / "cert.pem")]) == 0
    pump = rows(capsys.readouterr().out)[0]
    assert (pump["names"], pump["use"], pump["key"]) == ("pump ::1", "server", "RSA 2048")
    assert "role" not in pump
    assert run(["cert", "show", str(tmp_path / "b" / "cert.pem")]) == 0
    assert rows(capsys.readouterr().out)[0]["role"] == "none"


@pytest.mark.parametrize(
    ("begins", "ends", "state", "warning"),
    [
        (-9, 29, "expires_soon", "it expires soon, 28 days left"),
        (-9, 1, "expires_soon", "it expires soon, 0 days left"),
        (-9, -1, "expired", "it has expired, 1 day ago"),
        (-9, -3, "expired", "it has expired, 3 days ago"),
        (1, 99, "not_yet_valid", "it is not valid yet; is the clock right?"),
    ],
)
def test_a_warning_of_what_is_not_valid_or_not_for_long(
    ca: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], begins: int, ends: int, state: str, warning: str
) -> None:
    path = odd(tmp_path, load_authority(ca), begins, ends)
    assert run(["cert", "show", str(path)]) == 0
    out, err = capsys.readouterr()
    assert err.startswith(f"warning: CN=plant CA: {warning}")
    assert rows(out)[0]["use"] == "any"
    assert run(["cert", "show", str(path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["ok"], document["state"]) == (True, state)


def odd(folder: Path, made: Credential, begins: int, ends: int, *roles: bytes) -> Path:
    """A certificate that our CA does not make."""
    name, now = made.certificate.subject, datetime.now(UTC)
    oid = x509.ObjectIdentifier("1.3.6.1.4.1.50316.802.1")
    added = [x509.Extension(oid, False, x509.UnrecognizedExtension(oid, role)) for role in roles]
    between = (now + timedelta(days=begins, minutes=-1), now + timedelta(days=ends, minutes=-1))
    builder = x509.CertificateBuilder(name, name, made.key.public_key(), 1, *between, [*added])
    path = folder / "odd.pem"
    path.write_bytes(Credential(builder.sign(made.key, hashes.SHA256()), made.key).certificate_pem)
    return path


def test_a_role_that_is_none_is_told(ca: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = odd(tmp_path, load_authority(ca), -1, 99, b"\x13\x01x")
    assert run(["cert", "show", str(path)]) == 0
    assert rows(capsys.readouterr().out)[0]["role"] == "none: the role is a UTF8String, tag 0C, not tag 13"


# Files


def test_what_is_there_is_not_overwritten(ca: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "cert.pem").write_bytes(b"mine")
    client = ["cert", "client", "--ca", str(ca), "--name", "alice", "--out", str(out)]
    for command, folder, name in ((["cert", "ca", "--out", str(ca)], ca, "ca-key.pem"), (client, out, "cert.pem")):
        before = files(folder)
        assert run(command) == 2
        assert capsys.readouterr() == (
            "",
            f"error: {folder / name} is there already\n  try: --force, or another --out\n",
        )
        assert files(folder) == before
        assert run([*command, "--force"]) == 0
        assert files(folder)[name] != before[name]
        capsys.readouterr()
    assert files(out).keys() == {"key.pem", "cert.pem", "ca.pem"}
    assert files(out)["key.pem"][0] == 0o600


def test_into_the_folder_of_the_ca(ca: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(ca)
    assert run(["cert", "server", "--ca", str(ca), "--name", "pump", "--out", str(ca)]) == 0
    assert capsys.readouterr().out.endswith("ca.pem\n")
    after = files(ca)
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == {"key.pem", "cert.pem"}


def test_another_ca_s_certificate_is_not_overwritten_either(
    ca: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ca.pem").write_bytes(create_authority().certificate_pem)
    before = {path.name for path in tmp_path.iterdir()}
    assert run(["cert", "server", "--ca", str(ca), "--name", "pump", "--out", str(tmp_path)]) == 2
    assert f"{tmp_path / 'ca.pem'} is there already" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == before


def test_files_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert run(["cert", "ca", "--out", str(tmp_path / "file" / "ca")]) == 2
    assert f"{tmp_path / 'file' / 'ca'} cannot be written: Not a directory" in capsys.readouterr().err
    (tmp_path / "ca" / "ca.pem").mkdir(parents=True)
    assert run(["cert", "ca", "--out", str(tmp_path / "ca"), "--force"]) == 2
    assert f"{tmp_path / 'ca' / 'ca.pem'} cannot be written: Is a directory" in capsys.readouterr().err
    assert {path.name for path in (tmp_path / "ca").iterdir()} == {"ca.pem", "ca-key.pem"}


def test_what_a_command_left_that_was_killed_does_not_matter(tmp_path: Path) -> None:
    for name in ("ca.pem", "ca-key.pem"):
        (tmp_path / f".{name}.everbus").write_bytes(b"half of")
    assert run(["cert", "ca", "--out", str(tmp_path)]) == 0
    assert files(tmp_path).keys() == {"ca.pem", "ca-key.pem"}
    load_authority(tmp_path)


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ca"], "Missing option '--out'"),
        (["ca", "--out", "OUT", "--days", "0"], "valid for 1 to 36500 days, not 0"),
        (["server", "--ca", "CA", "--out", "OUT"], "Missing option '--name'"),
        (["server", "--ca", "CA", "--out", "OUT", "--name", "tcp://pump"], "'tcp://pump' is neither a host name nor"),
        (["client", "--out", "OUT", "--name", "alice"], "Missing option '--ca'"),
        (["client", "--ca", "OUT", "--out", "OUT", "--name", "alice"], "out/ca.pem cannot be read: No such file"),
        (["client", "--ca", "CA", "--out", "OUT", "--name", "alice", "--role", "x" * 300], "the role has 300 bytes"),
        (["show"], "Missing argument 'FILE'"),
        (["show", "OUT"], "out cannot be read: No such file"),
        (["show", "CA"], "ca cannot be read: Is a directory"),
        (["show", "CA/ca-key.pem"], "ca-key.pem: no certificate that can be read is in it"),
        (["bogus"], "No such command 'bogus'"),
    ],
)
def test_mistakes(
    ca: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    given = [one.replace("CA", str(ca)).replace("OUT", str(tmp_path / "out")) for one in arguments]
    assert run(["cert", *given]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert "\n  try: everbus cert" in err
    assert not (tmp_path / "out").exists()
    assert run(["cert", *given, "--json"]) == 2
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (document["ok"], document["error"]["kind"], document["error"]["code"]) == (False, "usage", 2)


def test_without_cryptography(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "everbus.certificates")
    monkeypatch.setitem(sys.modules, "cryptography", None)
    assert run(["cert", "--help"]) == 0
    capsys.readouterr()
    assert run(["cert", "show", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "error: certificates need cryptography\n  try: pip install 'everbus[tls]'\n"


def test_another_module_that_is_not_there_is_a_defect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "everbus.certificates", None)
    with pytest.raises(ModuleNotFoundError):
        run(["cert", "show", str(tmp_path)])
