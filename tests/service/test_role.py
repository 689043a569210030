from __future__ import annotations

import pickle
from time import perf_counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from everbus.service.role import MAX_ROLE_BYTES, RoleError, decode_role, encode_role, not_after, role_of, subject_text
from tests.vectors import Vector, each, of_kind

ROLES = of_kind("role_extension")

OPERATOR = bytes.fromhex("0C084F70657261746F72")
ROLE_OID = bytes.fromhex("060B2B0601040183890C862201")


def der(tag: int, *parts: bytes) -> bytes:
    """One value in DER."""
    content = b"".join(parts)
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes((tag, 0x80 | len(length))) + length + content


def sequence(*parts: bytes) -> bytes:
    return der(0x30, *parts)


def extension(value: bytes, oid: bytes = ROLE_OID, critical: bytes = b"") -> bytes:
    return sequence(oid, critical, der(0x04, value))


USAGE = extension(bytes.fromhex("03020780"), bytes.fromhex("0603551D0F"), bytes.fromhex("0101FF"))
VALIDITY = sequence(der(0x17, b"260101000000Z"), der(0x17, b"360203040506Z"))


def certificate(*extensions: bytes, validity: bytes = VALIDITY, version: bytes = bytes.fromhex("A003020102")) -> bytes:
    """What a certificate looks like; names, keys and signatures are of no interest here."""
    nothing = sequence()
    behind = (der(0xA3, sequence(*extensions)),) if extensions else ()
    fields = (version, bytes.fromhex("020107"), nothing, nothing, validity, nothing, nothing, *behind)
    return sequence(sequence(*fields), nothing, bytes.fromhex("03020000"))


def test_the_vectors_are_there() -> None:
    assert {vector["valid"] for vector in ROLES} == {True, False}
    assert {bytes.fromhex(vector["oid_der_hex"]) for vector in ROLES} == {ROLE_OID}


@pytest.mark.requirement("SEC-R-21", "SEC-R-22")
@each(ROLES)
def test_a_role_is_what_its_vector_says(vector: Vector) -> None:
    value = bytes.fromhex(vector["extn_value_hex"])
    if vector["valid"]:
        assert decode_role(value) == role_of(certificate(USAGE, extension(value))) == vector["role"]
        return
    with pytest.raises(RoleError):
        decode_role(value)
    with pytest.raises(RoleError):
        role_of(certificate(USAGE, extension(value)))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "malformed"),
        (b"\x0c", "malformed"),
        (b"\x0c\x00", "empty"),
        (der(0x0C, b"x" * (MAX_ROLE_BYTES + 1)), "too_long"),
        (b"\x0c\x81\x08Operator", "malformed"),  # a length longer than needed
        (b"\x0c\x82\x00\x80" + b"x" * 128, "malformed"),
        (b"\x0c\x80Operator\x00\x00", "malformed"),  # an indefinite length
        (b"\x0c\x85\x01\x00\x00\x00\x00x", "malformed"),
        (b"\x0c\xffx", "malformed"),
        (b"\x1f\x0c\x01x", "malformed"),  # a tag of several bytes
        (b"\x2c\x03\x0c\x01x", "type"),  # in parts, which DER does not allow
        (b"\x1e\x04\x00x\x00y", "type"),
        (b"\x0c\x02\xc0\x80", "encoding"),
        (OPERATOR + OPERATOR, "malformed"),
    ],
)
def test_what_is_no_role(value: bytes, reason: str) -> None:
    with pytest.raises(RoleError) as caught:
        role_of(certificate(extension(value)))
    assert caught.value.reason == reason
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.reason, str(copy)) == (reason, str(caught.value))


@pytest.mark.parametrize(
    "role", ["x", "Betreiber äöü", "o" * 127, "o" * 128, "ü" * (MAX_ROLE_BYTES // 2), "x" * MAX_ROLE_BYTES, "a,b\n\0"]
)
def test_all_of_the_text_is_the_role(role: str) -> None:
    value = encode_role(role)
    assert value == der(0x0C, role.encode())
    assert role_of(certificate(extension(value))) == role


@pytest.mark.parametrize(("role", "reason"), [("", "empty"), ("ü" * 128, "too_long"), ("\udcff", "encoding")])
def test_what_cannot_be_a_role(role: str, reason: str) -> None:
    with pytest.raises(RoleError) as caught:
        encode_role(role)
    assert caught.value.reason == reason


def test_a_critical_role_is_one_too() -> None:
    assert role_of(certificate(extension(OPERATOR, critical=bytes.fromhex("0101FF")))) == "Operator"


@pytest.mark.parametrize("found", [certificate(), certificate(USAGE), certificate(version=b"")])
def test_a_certificate_without_a_role_has_none(found: bytes) -> None:
    assert role_of(found) is None


@pytest.mark.requirement("SEC-R-22")
def test_two_roles_are_none_the_same_ones_too() -> None:
    with pytest.raises(RoleError, match="2 role extensions") as caught:
        role_of(certificate(extension(OPERATOR), USAGE, extension(OPERATOR)))
    assert caught.value.reason == "duplicate"


@pytest.mark.parametrize(
    "found",
    [
        b"",
        b"0",
        b"\x30\x00",
        sequence(der(0x31)),
        certificate() + b"\0",
        certificate()[:-1],
        der(0x31, certificate()),
        certificate(ROLE_OID),
        certificate(sequence()),
        certificate(sequence(ROLE_OID)),
        certificate(sequence(der(0x04), ROLE_OID)),
        certificate(extension(OPERATOR) + b"\0"),
        certificate(sequence(ROLE_OID, der(0x04, OPERATOR), der(0x04, OPERATOR))),
    ],
)
def test_what_is_no_certificate(found: bytes) -> None:
    with pytest.raises(RoleError) as caught:
        role_of(found)
    assert caught.value.reason == "malformed"


@given(st.binary(max_size=80))
@example(certificate(extension(OPERATOR)))
@settings(max_examples=60)
def test_any_bytes_are_a_role_or_none_or_an_error(data: bytes) -> None:
    for found in (data, certificate(data), certificate(extension(data)), certificate(sequence(data))):
        try:
            role = role_of(found)
        except RoleError:
            continue
        assert role is None or 0 < len(role.encode()) <= MAX_ROLE_BYTES


@given(st.data())
@settings(max_examples=60)
def test_a_certificate_with_wrong_bytes_in_it(data: st.DataObject) -> None:
    found = bytearray(certificate(USAGE, extension(OPERATOR)))
    for _ in range(data.draw(st.integers(1, 3))):
        found[data.draw(st.integers(0, len(found) - 1))] = data.draw(st.integers(0, 255))
    try:
        role = role_of(bytes(found))
    except RoleError:
        return
    assert role is None or len(role) == 8


def test_what_is_nested_or_long_costs_no_more_than_its_length() -> None:
    nested = b""
    for _ in range(20_000):
        nested = der(0x30, nested) if len(nested) < 100_000 else nested
    many = b"".join(extension(b"\x05\x00", bytes.fromhex("0603551D0F")) for _ in range(10_000))
    began = perf_counter()
    assert role_of(certificate(many, extension(OPERATOR))) == "Operator"
    with pytest.raises(RoleError):
        role_of(certificate(extension(nested)))
    assert perf_counter() - began < 2  # 20 ms; quadratic: half a minute


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (der(0x17, b"260203040506Z"), "20260203040506Z"),
        (der(0x17, b"491231235959Z"), "20491231235959Z"),
        (der(0x17, b"500101000000Z"), "19500101000000Z"),
        (der(0x18, b"20600203040506Z"), "20600203040506Z"),
    ],
)
def test_until_when_a_certificate_is_valid(end: bytes, said: str) -> None:
    assert not_after(certificate(validity=sequence(der(0x17, b"250101000000Z"), end))) == said


@pytest.mark.parametrize("validity", [b"", sequence(), sequence(der(0x17, b"250101000000Z")), b"\0"])
def test_a_certificate_without_an_end(validity: bytes) -> None:
    with pytest.raises(RoleError):
        not_after(sequence(sequence(bytes.fromhex("020107"), sequence(), sequence(), validity)))


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], ""),
        ([[("commonName", "alice")]], "CN=alice"),
        (
            [[("countryName", "DE")], [("organizationName", "Plant")], [("commonName", "pump 7")]],
            "CN=pump 7,O=Plant,C=DE",
        ),
        ([[("commonName", "a"), ("userId", "b")]], "CN=a+UID=b"),
        ([[("emailAddress", "a@b.example")], [("CN", "x")]], "CN=x,emailAddress=a@b.example"),
        ([[("commonName", "eve,O=Plant")]], "CN=eve\\,O\\=Plant"),
        ([[("commonName", '#a+b"c\\<d>;')]], 'CN=\\#a\\+b\\"c\\\\\\<d\\>\\;'),
        ([[("commonName", " two  ")]], "CN=\\ two \\ "),
        ([[("commonName", " ")]], "CN=\\ "),
        ([[("commonName", "")]], "CN="),
        ([[("commonName", "a\n\x1b\0ü")]], "CN=a\\0A\\1B\\00ü"),
    ],
)
def test_a_subject_in_one_line(names: list[list[tuple[str, str]]], text: str) -> None:
    assert subject_text(names) == text
