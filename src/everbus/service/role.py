"""What a certificate says of its owner: the role of Modbus/TCP Security (spec.md 6.3), and the subject.

TLS has verified a peer's certificate before anybody looks here, but reads no private extension. So this
walks over its DER, down to that extension, and reads nothing else: whatever else a certificate holds may
be as odd as TLS allows. Each byte is passed at most once on each of four levels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from everbus.errors import PeerError

__all__ = [
    "MAX_ROLE_BYTES",
    "ROLE_OID",
    "RoleError",
    "decode_role",
    "encode_role",
    "not_after",
    "role_of",
    "subject_text",
]

ROLE_OID: Final = "1.3.6.1.4.1.50316.802.1"
"""The extension that holds the role (R-21)."""

MAX_ROLE_BYTES: Final = 255
"""A longer role is none: roles are compared for requests and stand in every record of them."""

_ROLE_OID_DER: Final = bytes.fromhex("2B0601040183890C862201")
_BOOLEAN: Final = 0x01
_OCTET_STRING: Final = 0x04
_OID: Final = 0x06
_UTF8_STRING: Final = 0x0C
_UTC_TIME: Final = 0x17
_SEQUENCE: Final = 0x30
_VERSION: Final = 0xA0
_EXTENSIONS: Final = 0xA3
_LONG_TAG: Final = 0x1F
_MAX_LENGTH_BYTES: Final = 4
_VALIDITY: Final = 3
"""Which of the fields it is: behind serial number, algorithm and issuer."""

_Item = tuple[int, int, int]
"""A DER value in a certificate: its tag, where its content begins, and where it ends."""


class RoleError(PeerError):
    """A certificate with a role that is none.

    Args:
        reason: a short fixed label, for counters: ``malformed``, ``duplicate``, ``type``, ``encoding``,
            ``empty`` or ``too_long``.
        message: words for people.
    """

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.reason, str(self))


def role_of(certificate: bytes) -> str | None:
    """The role that a certificate gives its owner.

    Args:
        certificate: in DER, as ``getpeercert(binary_form=True)`` gives it.

    Returns:
        None: it has no role extension.

    Raises:
        RoleError: it has several, or one that is not a UTF8String of 1 to 255 bytes; or it is no certificate.
    """
    roles = [value for oid, value in _extensions(certificate) if oid == _ROLE_OID_DER]
    if len(roles) > 1:
        raise RoleError("duplicate", f"the certificate has {len(roles)} role extensions, one is the most")
    return decode_role(roles[0]) if roles else None


def decode_role(extension: bytes) -> str:
    """The role in the extension's value: one UTF8String, and all of it (R-22, R-65).

    Raises:
        RoleError: it is something else.
    """
    tag, start, end = _item(extension, 0, len(extension))
    if tag != _UTF8_STRING:
        raise RoleError("type", f"the role is a UTF8String, tag 0C, not tag {tag:02X}")
    if end != len(extension):
        raise RoleError("malformed", f"bytes behind the role: {len(extension) - end}")
    _check_size(end - start)
    try:
        return extension[start:end].decode()
    except UnicodeDecodeError as error:
        raise RoleError("encoding", f"the role is not UTF-8: {error.reason}") from None


def encode_role(role: str) -> bytes:
    """The extension's value for a role, as ``decode_role`` reads it.

    Raises:
        RoleError: it is empty, longer than 255 bytes, or no text that UTF-8 has.
    """
    try:
        text = role.encode()
    except UnicodeEncodeError as error:
        raise RoleError("encoding", f"the role is not UTF-8: {error.reason}") from None
    _check_size(len(text))
    return bytes((_UTF8_STRING, *((0x81,) if len(text) >= 0x80 else ()), len(text))) + text


def _check_size(size: int) -> None:
    if not size:
        raise RoleError("empty", "the role is empty")
    if size > MAX_ROLE_BYTES:
        raise RoleError("too_long", f"the role has {size} bytes, {MAX_ROLE_BYTES} are the most")


def not_after(certificate: bytes) -> str:
    """Until when a certificate is valid: ``YYYYMMDDHHMMSSZ``, which sorts as time does.

    Raises:
        RoleError: it is no certificate.
    """
    fields = list(_fields(certificate))
    if len(fields) < _VALIDITY + 1:
        raise RoleError("malformed", "the certificate has no validity")
    _, start, end = fields[_VALIDITY]
    times = list(_items(certificate, start, end))
    if len(times) != 2:
        raise RoleError("malformed", "the certificate's validity is not two times")
    tag, start, end = times[1]
    text = certificate[start:end].decode("ascii", "replace")
    if tag != _UTC_TIME:
        return text
    return ("19" if text >= "5" else "20") + text  # RFC 5280, 4.1.2.5.1


def subject_text(names: Iterable[Iterable[tuple[str, str]]]) -> str:
    """A distinguished name in one line, as RFC 4514 has it: the last part first, ``CN=pump 7,O=Plant``.

    What separates parts is escaped in values, as is what does not print: no name can look like another.

    Args:
        names: its parts, each of them attributes with their values, as ``getpeercert()["subject"]`` has
            them: ``commonName`` and so on, or short as here.
    """
    parts = [[f"{_SHORT_NAMES.get(name, name)}={_escaped(value)}" for name, value in part] for part in names]
    return ",".join("+".join(part) for part in reversed(parts))


_SHORT_NAMES: Final = {
    "commonName": "CN",
    "countryName": "C",
    "domainComponent": "DC",
    "localityName": "L",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "stateOrProvinceName": "ST",
    "streetAddress": "STREET",
    "userId": "UID",
}


def _escaped(value: str) -> str:
    text = "".join(_escaped_character(character) for character in value)
    if text.startswith(("#", " ")):
        text = "\\" + text
    if text.endswith(" ") and len(value) > 1:
        text = text[:-1] + "\\ "
    return text


def _escaped_character(character: str) -> str:
    if character in '\\",+;<>=':
        return "\\" + character
    if character.isprintable():
        return character
    return "".join(f"\\{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))


# DER. Lengths are definite and as short as can be (X.690, 10.1), tags are single bytes.


def _extensions(certificate: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The OID and the value of each extension."""
    for tag, *place in _fields(certificate):
        if tag == _EXTENSIONS:
            for _, *extension in _items(certificate, *_only(certificate, *place)):
                yield _extension(certificate, *extension)


def _extension(data: bytes, start: int, end: int) -> tuple[bytes, bytes]:
    parts = [part for part in _items(data, start, end) if part[0] != _BOOLEAN]  # whether it is critical
    if [tag for tag, _, _ in parts] != [_OID, _OCTET_STRING]:
        raise RoleError("malformed", "an extension of the certificate is not an OID and a value")
    (_, *oid), (_, *value) = parts
    return data[slice(*oid)], data[slice(*value)]


def _fields(certificate: bytes) -> Iterator[_Item]:
    """What the signature covers, from the serial number on."""
    start, end = _only(certificate, 0, len(certificate))
    tag, start, end = _item(certificate, start, end)
    if tag != _SEQUENCE:
        raise RoleError("malformed", "this is no certificate")
    return (field for field in _items(certificate, start, end) if field[0] != _VERSION)


def _only(data: bytes, start: int, end: int) -> tuple[int, int]:
    """Where the content of a sequence is that stands here alone."""
    tag, inner, inner_end = _item(data, start, end)
    if tag != _SEQUENCE or inner_end != end:
        raise RoleError("malformed", "the certificate is not the sequences that it should be")
    return inner, inner_end


def _items(data: bytes, start: int, end: int) -> Iterator[_Item]:
    """The values that stand one behind the other, to the very end."""
    while start < end:
        item = _item(data, start, end)
        yield item
        start = item[2]


def _item(data: bytes, start: int, end: int) -> _Item:
    """The value that begins here, and ends at ``end`` or before."""
    if end - start < 2:
        raise RoleError("malformed", "a value of the certificate is cut off")
    tag, length = data[start], data[start + 1]
    start += 2
    if length & 0x80:
        size = length & 0x7F
        length = int.from_bytes(data[start : start + size])
        start += size
        if not 1 <= size <= _MAX_LENGTH_BYTES or length < 0x80 or length >> 8 * (size - 1) == 0:
            raise RoleError("malformed", "a length in the certificate is not in DER")
    if tag & _LONG_TAG == _LONG_TAG or length > end - start:
        raise RoleError("malformed", "a value of the certificate is longer than what holds it")
    return tag, start, start + length
