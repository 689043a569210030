"""Each harness's check over its corpus, and over what hypothesis makes of that; atheris looks further."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Protocol, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

CORPUS = Path(__file__).parent / "corpus"
NAMES = sorted(file.stem for file in (Path(__file__).parent / "harnesses").glob("[a-z]*.py"))
INPUTS = {name: sorted((CORPUS / name).iterdir()) for name in NAMES}
FILES = [file for files in INPUTS.values() for file in files]

ALPHABET = b"\x00\x01\x02\x03\x06\x08\x0a\x0b\x0d\x0e\x10\x11\x14\x17\x18\x2b\x3a\x30\x46\x61\x83\xab\xf6\xff"
"""Bytes that begin, count and end frames, so that hypothesis finds the corners."""

plain = st.binary(max_size=300) | st.lists(st.sampled_from(ALPHABET), max_size=80).map(bytes)


class Harness(Protocol):
    """What every harness is."""

    def check(self, data: bytes) -> None: ...


def harness(name: str) -> Harness:
    return cast(Harness, importlib.import_module(f"tests.fuzz.harnesses.{name}"))


def damaged(name: str) -> st.SearchStrategy[bytes]:
    """Inputs of a harness's corpus, glued, cut and changed in one place."""
    inputs = st.sampled_from([file.read_bytes() for file in INPUTS[name]])

    def build(first: bytes, second: bytes, at: int, by: int) -> bytes:
        data = bytearray(first[: at % (len(first) + 1)] + second if by % 2 else first)
        if data:
            data[at % len(data)] ^= by
        return bytes(data)

    return st.builds(build, inputs, inputs, st.integers(0, 300), st.integers(0, 255))


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_every_input_of_the_corpus_passes(file: Path) -> None:
    harness(file.parent.name).check(file.read_bytes())


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@settings(deadline=None, max_examples=100)
def test_any_input_passes(name: str, data: st.DataObject) -> None:
    harness(name).check(data.draw(plain | damaged(name)))


@pytest.mark.parametrize("name", NAMES)
def test_the_shortest_inputs_pass(name: str) -> None:
    check = harness(name).check
    check(b"")
    for byte in range(256):
        check(bytes((byte,)))
