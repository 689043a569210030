from __future__ import annotations

from functools import reduce

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everbus.protocol.framing.checksums import CRC_INITIAL, CRC_TABLE, crc16, lrc8


def bitwise_crc(data: bytes) -> int:
    """The definition of SL 6.2.2, bit by bit."""
    register = 0xFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register, low = register >> 1, register & 1
            register ^= 0xA001 if low else 0
    return register


@pytest.mark.parametrize(
    ("data", "crc"),
    [(b"\x02\x07", 0x1241), (b"123456789", 0x4B37), (b"", 0xFFFF), (bytes.fromhex("010300000001"), 0x0A84)],
)
@pytest.mark.requirement("SL-2.5.1.2-crc")
def test_the_crc_has_its_known_values(data: bytes, crc: int) -> None:
    assert crc16(data) == crc


@given(data=st.binary(max_size=256))
@settings(deadline=None)
@pytest.mark.requirement("SL-2.5.1.2-crc")
def test_the_crc_by_table_is_the_crc_by_definition(data: bytes) -> None:
    assert crc16(data) == bitwise_crc(data)


@given(data=st.binary(max_size=254))
@settings(deadline=None)
def test_the_crc_over_a_whole_frame_is_zero(data: bytes) -> None:
    assert crc16(data + crc16(data).to_bytes(2, "little")) == 0


@given(data=st.binary(max_size=64), cut=st.integers(0, 64))
@settings(deadline=None)
def test_the_crc_can_be_taken_piece_by_piece(data: bytes, cut: int) -> None:
    assert crc16(data[cut:], crc16(data[:cut])) == crc16(data)


@given(data=st.binary(max_size=64))
@settings(deadline=None)
def test_the_table_steps_the_register_by_one_byte(data: bytes) -> None:
    assert reduce(lambda crc, byte: crc >> 8 ^ CRC_TABLE[(crc ^ byte) & 0xFF], data, CRC_INITIAL) == crc16(data)


@given(data=st.binary(min_size=1, max_size=64), bit=st.integers(0, 511))
@settings(deadline=None)
@pytest.mark.requirement("SL-2.5.1.2-bad")
def test_one_wrong_bit_shows_in_both_checksums(data: bytes, bit: int) -> None:
    at, shift = divmod(bit % (8 * len(data)), 8)
    wrong = data[:at] + bytes((data[at] ^ 1 << shift,)) + data[at + 1 :]
    assert crc16(wrong) != crc16(data)
    assert lrc8(wrong) != lrc8(data)


@pytest.mark.parametrize(("data", "lrc"), [("0207", 0xF7), ("", 0), ("FF01", 0), ("F7031389000A", 0x60)])
@pytest.mark.requirement("SL-2.5.2.2-lrc")
def test_the_lrc_has_its_known_values(data: str, lrc: int) -> None:
    assert lrc8(bytes.fromhex(data)) == lrc


@given(data=st.binary(max_size=254))
@settings(deadline=None)
@pytest.mark.requirement("SL-2.5.2.2-lrc")
def test_the_sum_over_a_frame_and_its_lrc_is_zero(data: bytes) -> None:
    assert sum(data + bytes((lrc8(data),))) % 256 == 0


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_checksums_take_any_bytes(kind: type[bytes]) -> None:
    assert (crc16(kind(b"\x02\x07")), lrc8(kind(b"\x02\x07"))) == (0x1241, 0xF7)
