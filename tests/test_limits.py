from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, replace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everbus.errors import ConfigurationError
from everbus.limits import DESCRIPTOR_RESERVE, MIN_CONNECTIONS, Limits

COUNTS = [
    "max_connections",
    "max_connections_per_peer",
    "max_priority_connections",
    "keepalive_idle_s",
    "keepalive_interval_s",
    "keepalive_probes",
    "write_high_water_bytes",
    "max_in_flight",
    "max_buffered_bytes",
    "max_handshakes",
    "max_udp_peers",
    "max_udp_in_flight",
    "datagrams_per_wakeup",
    "accepts_per_wakeup",
    "backlog",
]
DURATIONS = [
    "max_connects_per_peer_per_s",
    "idle_timeout_s",
    "user_timeout_s",
    "handshake_timeout_s",
    "frame_timeout_s",
    "frame_gap_s",
    "write_timeout_s",
    "handler_timeout_s",
]
OPTIONAL = ["max_connections_per_peer", "max_priority_connections", "max_connects_per_peer_per_s"]


def changed(name: str, value: object) -> Limits:
    values: dict[str, Any] = {name: value}
    return Limits(**values)


def test_the_defaults_are_those_of_the_design() -> None:
    limits = Limits()
    assert limits.max_connections == 1024
    assert limits.full == "evict"
    assert limits.evict_after_s == 10
    assert limits.idle_timeout_s == 600
    assert (limits.keepalive_idle_s, limits.keepalive_interval_s, limits.keepalive_probes) == (60, 10, 3)
    assert limits.user_timeout_s == 90
    assert (limits.handshake_timeout_s, limits.max_handshakes) == (10, 64)
    assert (limits.frame_timeout_s, limits.frame_gap_s) == (5, 1)
    assert (limits.write_timeout_s, limits.write_high_water_bytes) == (10, 64 * 1024)
    assert limits.handler_timeout_s == 5
    assert limits.max_in_flight == 16
    assert limits.max_buffered_bytes == 64 * 1024 * 1024
    assert (limits.max_udp_peers, limits.max_udp_in_flight, limits.datagrams_per_wakeup) == (1024, 256, 64)
    assert limits.stop_timeout_s == 5
    assert (limits.accepts_per_wakeup, limits.backlog) == (16, 1024)


def test_the_defaults_that_depend_on_the_process_stay_open_until_they_are_fitted() -> None:
    limits = Limits()
    assert [getattr(limits, name) for name in OPTIONAL] == [None, None, None]


def test_limits_cannot_be_changed() -> None:
    name = "max_connections"
    with pytest.raises(FrozenInstanceError):
        setattr(Limits(), name, 5)


def test_every_number_is_checked() -> None:
    unchecked = {"full", "priority_peers", "evict_after_s", "stop_timeout_s"}
    assert {field.name for field in fields(Limits)} == {*COUNTS, *DURATIONS, *unchecked}


@pytest.mark.parametrize("value", [0, -1, 2.5, "8"])
@pytest.mark.parametrize("name", COUNTS)
def test_a_count_is_a_whole_number_of_at_least_one(name: str, value: object) -> None:
    assert getattr(changed(name, 1), name) == 1
    with pytest.raises(ConfigurationError, match=f"{name} .* not {value!r}"):
        changed(name, value)


@pytest.mark.parametrize("value", [0, -0.5, float("nan")])
@pytest.mark.parametrize("name", DURATIONS)
def test_a_duration_is_above_zero(name: str, value: float) -> None:
    assert getattr(changed(name, 0.001), name) == 0.001
    with pytest.raises(ConfigurationError, match=f"{name} .* not {value!r}"):
        changed(name, value)


@pytest.mark.parametrize("name", ["stop_timeout_s", "evict_after_s"])
def test_a_time_that_may_be_zero_is_not_negative(name: str) -> None:
    assert getattr(changed(name, 0), name) == 0
    for value in (-0.1, float("nan")):
        with pytest.raises(ConfigurationError, match=name):
            changed(name, value)


def test_a_full_server_evicts_or_refuses_and_nothing_else() -> None:
    assert changed("full", "refuse").full == "refuse"
    with pytest.raises(ConfigurationError, match="'evict' or 'refuse', not 'queue'"):
        changed("full", "queue")


@pytest.mark.parametrize(
    ("wanted", "descriptor_limit", "open_descriptors", "usable"),
    [
        (100_000, 256, 20, 192),  # 256 less the reserve of 64
        (100_000, 256, 32, 192),  # what a process has open anyway is part of the reserve
        (100_000, 256, 33, 191),  # what it has open beyond that is not
        (100_000, 256, 132, 92),
        (1024, 1024, 10, 960),
        (1024, 1088, 10, 1024),
        (1024, 65536, 10, 1024),  # never more than asked for
        (1024, 80, 10, 16),  # the least that makes sense
        (4, 68, 10, 4),  # who asks for fewer gets fewer
    ],
)
def test_connections_are_lowered_to_what_the_descriptors_allow(
    wanted: int, descriptor_limit: int, open_descriptors: int, usable: int
) -> None:
    fitted = Limits(max_connections=wanted).fitted(descriptor_limit, open_descriptors)
    assert fitted.max_connections == usable


@pytest.mark.parametrize(
    ("wanted", "descriptor_limit", "open_descriptors", "room"),
    [(1024, 79, 10, 15), (1024, 80, 33, 15), (4, 67, 10, 3), (1024, 20, 10, 0)],
)
def test_a_server_that_would_serve_nobody_is_refused(
    wanted: int, descriptor_limit: int, open_descriptors: int, room: int
) -> None:
    with pytest.raises(ConfigurationError, match=f"leaves room for {room} connections") as caught:
        Limits(max_connections=wanted).fitted(descriptor_limit, open_descriptors)
    text = str(caught.value)
    assert f"ulimit -n {descriptor_limit + 1024}" in text
    assert f"({open_descriptors} are open)" in text
    assert f"{min(wanted, MIN_CONNECTIONS)} are the least" in text


def test_one_peer_may_take_half_and_priority_a_quarter_of_what_is_usable() -> None:
    fitted = Limits(max_connections=100_000).fitted(256, 20)
    assert fitted.max_connections_per_peer == 96
    assert fitted.max_priority_connections == 48


def test_shares_that_are_given_stay_within_what_is_usable() -> None:
    limits = Limits(max_connections=1000, max_connections_per_peer=300, max_priority_connections=10)
    fitted = limits.fitted(256, 20)
    assert (fitted.max_connections_per_peer, fitted.max_priority_connections) == (192, 10)


@pytest.mark.parametrize(("wanted", "per_peer", "priority"), [(1, 1, 1), (3, 1, 1), (5, 2, 1), (8, 4, 2)])
def test_a_server_for_few_connections_still_admits_one(wanted: int, per_peer: int, priority: int) -> None:
    fitted = Limits(max_connections=wanted).fitted(1024, 10)
    assert (fitted.max_connections_per_peer, fitted.max_priority_connections) == (per_peer, priority)


def test_fitting_settles_the_open_numbers_and_touches_no_other() -> None:
    limits = Limits(max_connections=500, idle_timeout_s=7, full="refuse", priority_peers=frozenset({"192.0.2.7"}))
    fitted = limits.fitted(1024, 10)
    assert fitted == replace(limits, max_connections_per_peer=250, max_priority_connections=125)


@given(
    wanted=st.integers(1, 200_000),
    descriptor_limit=st.integers(1, 2_000_000),
    open_descriptors=st.integers(0, 5000),
)
@settings(deadline=None)
def test_fitted_limits_always_leave_the_reserve_free(wanted: int, descriptor_limit: int, open_descriptors: int) -> None:
    try:
        fitted = Limits(max_connections=wanted).fitted(descriptor_limit, open_descriptors)
    except ConfigurationError:
        assert descriptor_limit - DESCRIPTOR_RESERVE - max(0, open_descriptors - 32) < min(wanted, MIN_CONNECTIONS)
        return
    assert min(wanted, MIN_CONNECTIONS) <= fitted.max_connections <= wanted
    assert fitted.max_connections + DESCRIPTOR_RESERVE <= descriptor_limit
    assert 1 <= (fitted.max_connections_per_peer or 0) <= fitted.max_connections
    assert 1 <= (fitted.max_priority_connections or 0) <= fitted.max_connections
    assert fitted.fitted(descriptor_limit, open_descriptors) == fitted


@pytest.mark.parametrize(
    ("name", "shortest_s", "sweep_s"),
    [
        ("idle_timeout_s", 2, 0.5),
        ("frame_timeout_s", 2, 0.5),
        ("write_timeout_s", 2, 0.5),
        ("handler_timeout_s", 2, 0.5),
        ("idle_timeout_s", 0.01, 0.05),
        ("frame_timeout_s", 5, 1.0),
    ],
)
def test_deadlines_are_looked_at_four_times_within_the_shortest(name: str, shortest_s: float, sweep_s: float) -> None:
    assert changed(name, shortest_s).sweep_s == sweep_s


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("user_timeout_s", float("inf")),
        ("stop_timeout_s", float("inf")),
        ("idle_timeout_s", 1e9),
        ("keepalive_idle_s", 100_000),
        ("backlog", 2**40),
        ("priority_peers", "10.0.0.1"),
    ],
)
def test_what_would_fail_at_start_is_refused_when_it_is_built(name: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=name):
        Limits(**cast(Any, {name: value}))
