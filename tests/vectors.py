"""The vectors of ``tests/data/vectors.json``, and tests that go through many of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, Final

import pytest

Vector = dict[str, Any]

VECTORS: Final[list[Vector]] = json.loads((Path(__file__).parent / "data" / "vectors.json").read_bytes())


def of_kind(kind: str) -> list[Vector]:
    return [vector for vector in VECTORS if vector["kind"] == kind]


def each(vectors: Sequence[Vector]) -> Callable[[Callable[[Vector], None]], Callable[[], None]]:
    """Make one test of a check: it is made on every vector, and each that fails is named with its reason.

    As tests of their own, thousands of vectors would cost more time around the checks than in them.
    """
    assert vectors

    def test_of(check: Callable[[Vector], None]) -> Callable[[], None]:
        @wraps(check)
        def test() -> None:
            failures = []
            for vector in vectors:
                try:
                    check(vector)
                except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001  the others are checked too
                    failures.append(_named(error, vector))
            if failures:
                raise BaseExceptionGroup(f"{len(failures)} of {len(vectors)} vectors", failures)

        del test.__wrapped__  # pytest would ask for a fixture named vector
        return test

    return test_of


def _named(error: BaseException, vector: Vector) -> BaseException:
    error.add_note(f"vector: {vector['name']}")
    return error
