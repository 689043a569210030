from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from everbus.aio.registry import Registry
from everbus.aio.statistics import RegistryStatistics
from everbus.limits import Limits
from tests.aio.members import OTHER, PEER, VIP, Fake, limits, use

# Everything at once


def test_statistics_say_who_is_connected() -> None:
    limits = Limits(max_connections=3, priority_peers=frozenset({"10.0.0.9"})).fitted(4096, 0)
    registry = Registry(limits)
    silent, asker, marked = Fake("10.0.0.1"), Fake("10.0.0.2", unsent_bytes=70), Fake("10.0.0.9")
    for member in (silent, asker, marked):
        assert registry.admit(member, 0.0) is None
    registry.touch(asker)
    registry.unsent.add(asker)
    registry.watched.add(asker)
    assert registry.statistics() == RegistryStatistics(3, 1, 0, 2, 3, 1, 70)
    assert registry.make_room(60.0)
    assert registry.statistics() == RegistryStatistics(2, 1, 1, 1, 3, 1, 70)


class Crowd(RuleBasedStateMachine):
    """Peers that come, ask, wait and go in any order, against a model of who is in."""

    hosts = st.sampled_from([PEER, OTHER, "192.0.2.3", VIP, ""])
    pick = st.integers(0, 1000)

    @initialize(
        full=st.sampled_from(["evict", "refuse"]), rate=st.sampled_from([None, 2.0]), per_peer=st.integers(1, 5)
    )
    def begin(self, full: Any, rate: float | None, per_peer: int) -> None:
        self.now = 1000.0
        self.limits = limits(
            most=6,
            per_peer=per_peer,
            full=full,
            max_connects_per_peer_per_s=rate,
            priority_peers=frozenset({VIP}),
            max_priority_connections=2,
            idle_timeout_s=60.0,
        )
        self.registry = Registry(self.limits)
        self.slots: list[Fake] = []
        self.leaving: list[Fake] = []
        self.priority: set[Fake] = set()
        self.peak = 0

    def chosen(self, pick: int) -> Fake:
        return self.slots[pick % len(self.slots)]

    @rule(host=hosts)
    def connect(self, host: str) -> None:
        newcomer = Fake(host, self.now)
        preferred = host == VIP and len(self.priority) < 2
        of_peer = self.of_peer(host)
        capped = of_peer == self.limits.max_connections_per_peer and not preferred
        reason = self.registry.admit(newcomer, self.now)
        evicted = self.settle_evictions()
        assert newcomer.ended == []
        if reason is not None:
            assert not evicted
            self.explain_refusal(reason, host, of_peer, preferred)
            return
        if evicted:
            assert self.limits.full == "evict" or preferred
            assert len(self.slots) + 1 == 6 or capped
            assert (evicted[0].ended == ["abort evicted_per_peer"]) == capped
            assert (evicted[0].ended == ["abort evicted_for_priority"]) == preferred
        self.slots.append(newcomer)
        if preferred:
            self.priority.add(newcomer)
        self.peak = max(self.peak, len(self.slots))

    def explain_refusal(self, reason: str, host: str, of_peer: int, preferred: bool) -> None:
        if reason == "rate":
            assert self.limits.max_connects_per_peer_per_s
            assert host
        elif reason == "per_peer":
            assert not preferred
            assert of_peer == self.limits.max_connections_per_peer
        else:
            assert reason == "full"
            assert len(self.slots) == 6

    @rule()
    def make_room(self) -> None:
        made = self.registry.make_room(self.now)
        assert len(self.settle_evictions()) == made

    def settle_evictions(self) -> list[Fake]:
        """Move those that were told to go; at most one, and one that may be evicted."""
        evicted = [member for member in self.slots if member.ended]
        assert len(evicted) <= 1
        for member in evicted:
            (order,) = member.ended
            assert order.startswith("abort evicted_")
            assert not member.busy
            assert member not in self.priority
            self.slots.remove(member)
            self.leaving.append(member)
        return evicted

    @precondition(lambda self: self.slots)
    @rule(pick=pick)
    def ask(self, pick: int) -> None:
        use(self.registry, self.chosen(pick), self.now)

    @precondition(lambda self: self.slots)
    @rule(pick=pick)
    def begin_a_long_request(self, pick: int) -> None:
        member = self.chosen(pick)
        use(self.registry, member, self.now)
        member.busy = True
        self.registry.watched.add(member)
        self.registry.unsent.add(member)

    @precondition(lambda self: self.slots)
    @rule(pick=pick)
    def end_a_long_request(self, pick: int) -> None:
        self.chosen(pick).busy = False

    @precondition(lambda self: self.slots)
    @rule(pick=pick)
    def leave(self, pick: int) -> None:
        member = self.chosen(pick)
        self.registry.discard(member)
        self.slots.remove(member)
        self.priority.discard(member)

    @precondition(lambda self: self.leaving)
    @rule(pick=pick)
    def closed_at_last(self, pick: int) -> None:
        member = self.leaving.pop(pick % len(self.leaving))
        self.registry.discard(member)

    @rule(seconds=st.sampled_from([0.01, 0.2, 1.5, 11.0, 70.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def sweep(self) -> None:
        self.registry.sweep(self.now)
        for member in self.slots:
            idle = member.last_active <= self.now - 60.0 and not member.busy
            assert member.ended == (["close idle"] if idle else [])
            member.ended.clear()

    def of_peer(self, host: str) -> int:
        return sum(member.host == host and member not in self.priority for member in self.slots) if host else 0

    @invariant()
    def the_limits_hold(self) -> None:
        assert self.registry.admitted <= self.limits.max_connections
        for host in (PEER, OTHER, "192.0.2.3", VIP):
            assert self.registry.of_peer(host) == self.of_peer(host)
            assert self.of_peer(host) <= (self.limits.max_connections_per_peer or 0)
        assert len(self.priority) <= (self.limits.max_priority_connections or 0)

    @invariant()
    def nobody_is_lost_and_nobody_there_twice(self) -> None:
        found = list(self.registry)
        assert len(found) == len(set(found)) == len(self.registry)
        assert set(found) == {*self.slots, *self.leaving}
        assert self.registry.admitted == len(self.slots)
        assert self.registry.peak == self.peak

    @invariant()
    def everybody_who_is_in_is_in_exactly_one_lane(self) -> None:
        everyone = self.registry._everyone
        ordinary = [member for member in self.slots if member not in self.priority]
        assert sorted(map(id, [*everyone.unused, *everyone.used])) == sorted(map(id, ordinary))
        lanes = self.registry._peers
        with_host = [member for member in ordinary if member.host]
        assert sorted(id(m) for lane in lanes.values() for m in [*lane.unused, *lane.used]) == sorted(
            map(id, with_host)
        )
        for host, lane in lanes.items():
            assert {member.host for member in [*lane.unused, *lane.used]} == {host}
            assert [m for m in everyone.unused if m.host == host] == list(lane.unused)
            assert [m for m in everyone.used if m.host == host] == list(lane.used)

    @invariant()
    def who_has_gone_is_remembered_nowhere(self) -> None:
        known = {*self.slots, *self.leaving}
        assert self.registry.watched <= known
        assert self.registry.unsent <= known


Crowd.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestCrowd = Crowd.TestCase


@pytest.mark.parametrize("most", [1, 1000])
@pytest.mark.requirement("TG-4.2.1.2-maximum")
def test_a_flood_of_newcomers_never_overshoots(most: int) -> None:
    registry = Registry(limits(most=most))
    refused = sum(registry.admit(Fake(f"198.51.100.{n % 250}", at=5.0), 5.0) is not None for n in range(3 * most + 5))
    assert (registry.admitted, len(registry), registry.peak) == (most, most, most)
    assert refused == 2 * most + 5
