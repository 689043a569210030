from __future__ import annotations

import pytest

from everbus import errors
from everbus.errors import (
    ClientClosedError,
    ConfigurationError,
    ConnectError,
    ConnectionLostError,
    ExceptionResponseError,
    FramingError,
    InvalidRequestError,
    MismatchError,
    ModbusError,
    ModbusTimeoutError,
    NetworkError,
    PduError,
    PeerError,
    PoolExhaustedError,
    ServerStateError,
    UsageError,
)
from everbus.protocol.codes import ExceptionCode

TREE: list[tuple[type[Exception], type[Exception]]] = [
    (UsageError, ModbusError),
    (InvalidRequestError, UsageError),
    (ConfigurationError, UsageError),
    (ServerStateError, UsageError),
    (PeerError, ModbusError),
    (ExceptionResponseError, PeerError),
    (PduError, PeerError),
    (FramingError, PeerError),
    (MismatchError, PeerError),
    (NetworkError, ModbusError),
    (ConnectError, NetworkError),
    (PoolExhaustedError, ConnectError),
    (ConnectionLostError, NetworkError),
    (ClientClosedError, ConnectionLostError),
    (ModbusTimeoutError, ModbusError),
]


@pytest.mark.parametrize(("error", "parent"), TREE, ids=lambda kind: kind.__name__)
def test_each_error_hangs_where_the_tree_says(error: type[Exception], parent: type[Exception]) -> None:
    assert parent in error.__bases__


@pytest.mark.parametrize(
    ("error", "builtin"),
    [(UsageError, ValueError), (NetworkError, ConnectionError), (ModbusTimeoutError, TimeoutError)],
)
def test_errors_are_caught_by_the_builtin_that_people_know(error: type[Exception], builtin: type[Exception]) -> None:
    with pytest.raises(builtin, match="why"):
        raise error("why")


def test_the_branches_of_the_tree_do_not_meet() -> None:
    branches = [UsageError, PeerError, NetworkError, ModbusTimeoutError]
    for error, _ in TREE:
        assert sum(issubclass(error, branch) for branch in branches) == 1


def test_every_error_of_the_module_is_exported() -> None:
    kinds = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    assert sorted(kind.__name__ for kind in kinds) == sorted(errors.__all__)
    assert {error for error, _ in TREE} | {ModbusError} == set(kinds)


def test_an_exception_response_names_its_code() -> None:
    error = ExceptionResponseError(ExceptionCode.ILLEGAL_DATA_ADDRESS, 3)
    assert (error.code, error.function_code) == (2, 3)
    assert type(error.code) is int
    assert str(error) == "exception 02: illegal data address"


def test_an_exception_response_keeps_a_vendor_code_as_it_is() -> None:
    error = ExceptionResponseError(0x80)
    assert (error.code, error.function_code) == (0x80, 0)
    assert str(error) == "exception 80: vendor code 80"


def test_an_exception_response_says_what_it_was_given_to_say() -> None:
    assert str(ExceptionResponseError(6, message="later")) == "later"


def test_a_pdu_error_knows_what_a_server_answers() -> None:
    error = PduError(ExceptionCode.ILLEGAL_DATA_VALUE, "quantity 0 is outside 1..125")
    assert error.exception_code is ExceptionCode.ILLEGAL_DATA_VALUE
    assert str(error) == "quantity 0 is outside 1..125"


def test_a_framing_error_has_a_label_for_counters_and_words_for_people() -> None:
    error = FramingError("length", "length 1 is outside 2..254")
    assert error.reason == "length"
    assert str(error) == "length 1 is outside 2..254"
