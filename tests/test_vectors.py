from __future__ import annotations

import pytest

from tests.vectors import Vector, each

GOOD, ODD, REFUSED = {"name": "good"}, {"name": "odd"}, {"name": "refused"}


def test_every_vector_that_fails_is_named_with_its_reason() -> None:
    @each([ODD, GOOD, REFUSED])
    def check(vector: Vector) -> None:
        assert vector is not ODD, "it is odd"
        with pytest.raises(KeyError):
            _ = vector["kind"] if vector is not REFUSED else None

    with pytest.raises(BaseExceptionGroup, match="2 of 3 vectors") as failed:
        check()
    odd, refused = failed.value.exceptions
    assert (type(odd), type(refused)) == (AssertionError, pytest.fail.Exception)
    assert "it is odd" in str(odd)
    assert [error.__notes__ for error in failed.value.exceptions] == [["vector: odd"], ["vector: refused"]]


def test_no_vector_is_no_test() -> None:
    with pytest.raises(AssertionError):
        each([])
