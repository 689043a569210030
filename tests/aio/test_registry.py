from __future__ import annotations

import pytest

from everbus.aio.registry import Registry
from everbus.limits import Limits
from everbus.service.authorize import Admission
from tests.aio.members import OTHER, PEER, VIP, Fake, filled, limits, use

# Admission


def test_a_member_holds_a_slot_until_it_is_discarded() -> None:
    registry = Registry(limits())
    (member,) = filled(registry, Fake())
    assert (len(registry), registry.admitted, registry.of_peer(PEER), list(registry)) == (1, 1, 1, [member])
    registry.discard(member)
    assert (len(registry), registry.admitted, registry.of_peer(PEER), list(registry)) == (0, 0, 0, [])


def test_discarding_twice_or_a_stranger_changes_nothing() -> None:
    registry = Registry(limits())
    first, second = filled(registry, Fake(), Fake())
    registry.discard(first)
    registry.discard(first)
    registry.discard(Fake())
    assert list(registry) == [second]
    assert registry.of_peer(PEER) == 1


def test_when_all_are_active_a_newcomer_is_refused() -> None:
    registry = Registry(limits(most=2))
    members = filled(registry, Fake(at=100.0), Fake(at=100.0))
    for member in members:
        use(registry, member, 100.0)
    newcomer = Fake(OTHER)
    assert registry.admit(newcomer, 109.9) == "full"
    assert list(registry) == members
    assert [member.ended for member in [*members, newcomer]] == [[], [], []]


def test_the_cap_of_one_peer_leaves_room_for_others() -> None:
    registry = Registry(limits(most=4, per_peer=2))
    for member in filled(registry, Fake(at=100.0), Fake(at=100.0)):
        use(registry, member, 100.0)
    assert registry.admit(Fake(), 100.0) == "per_peer"
    assert registry.admit(Fake(OTHER), 100.0) is None
    assert (registry.of_peer(PEER), registry.of_peer(OTHER), registry.admitted) == (2, 1, 3)


def test_unix_sockets_have_no_peer_and_no_cap_per_peer() -> None:
    registry = Registry(limits(most=4, per_peer=1))
    filled(registry, *(Fake("", at=100.0) for _ in range(4)))
    assert (registry.admitted, registry.of_peer("")) == (4, 0)
    assert registry.admit(Fake("", at=100.0), 100.0) == "full"


def test_peak_is_the_most_at_once() -> None:
    registry = Registry(limits(most=4, priority_peers=frozenset({VIP})))
    members = filled(registry, Fake(), Fake(), Fake(VIP))
    for member in members:
        registry.discard(member)
    filled(registry, Fake())
    assert (registry.peak, registry.admitted) == (3, 1)


# Eviction


@pytest.mark.requirement("TG-4.2.1.2-oldest-unused")
def test_first_goes_the_oldest_that_never_asked() -> None:
    registry = Registry(limits(most=3))
    used, older, younger = filled(registry, Fake(at=0.0), Fake(at=1.0), Fake(at=2.0))
    use(registry, used, 3.0)
    newcomer = Fake(OTHER, at=50.0)
    assert registry.admit(newcomer, 50.0) is None
    assert older.ended == ["abort evicted_unused"]
    assert used.ended == younger.ended == newcomer.ended == []
    assert (registry.admitted, len(registry)) == (3, 4)  # it leaves when its socket is closed
    registry.discard(older)
    assert len(registry) == 3


def test_then_goes_the_least_recently_active_one_that_is_idle_for_long_enough() -> None:
    registry = Registry(limits(most=3, evict_after_s=10.0))
    first, second, third = filled(registry, Fake(at=0.0), Fake(at=0.0), Fake(at=0.0))
    for member, when in [(second, 1.0), (first, 2.0), (third, 3.0)]:
        use(registry, member, when)
    assert registry.admit(Fake(OTHER, at=10.9), 10.9) == "full"
    assert registry.admit(Fake(OTHER, at=11.0), 11.0) is None
    assert (first.ended, second.ended, third.ended) == ([], ["abort evicted_idle"], [])


def test_a_newcomer_that_may_still_ask_goes_behind_those_that_are_idle() -> None:
    registry = Registry(limits(most=2, evict_after_s=10.0))
    idle, newborn = filled(registry, Fake(at=0.0), Fake(at=19.5))
    use(registry, idle, 1.0)
    assert registry.admit(Fake(OTHER, at=20.0), 20.0) is None
    assert (idle.ended, newborn.ended) == (["abort evicted_idle"], [])


def test_a_newcomer_that_has_not_asked_goes_when_nobody_is_idle() -> None:
    registry = Registry(limits(most=2))
    busy, newborn = filled(registry, Fake(at=0.0), Fake(at=19.5))
    use(registry, busy, 20.0)
    assert registry.admit(Fake(OTHER, at=20.0), 20.0) is None
    assert (busy.ended, newborn.ended) == ([], ["abort evicted_unused"])


def test_nobody_goes_who_came_in_the_same_moment() -> None:
    registry = Registry(limits(most=2))
    members = filled(registry, Fake(at=20.0), Fake(at=20.0))
    assert registry.admit(Fake(OTHER, at=20.05), 20.05) == "full"
    assert [member.ended for member in members] == [[], []]


@pytest.mark.requirement("TG-4.2.1.2-all-used")
def test_whoever_has_a_request_in_progress_stays() -> None:
    registry = Registry(limits(most=3))
    asked, unused, idle = filled(registry, Fake(at=0.0), Fake(at=0.0), Fake(at=0.0))
    use(registry, asked, 0.0)
    use(registry, idle, 1.0)
    asked.busy = unused.busy = True
    assert registry.admit(Fake(OTHER, at=900.0), 900.0) is None
    assert (asked.ended, unused.ended, idle.ended) == ([], [], ["abort evicted_idle"])
    registry.discard(idle)
    (third,) = [member for member in registry if member not in (asked, unused)]
    assert isinstance(third, Fake)
    third.busy = True
    assert registry.admit(Fake(OTHER, at=1800.0), 1800.0) == "full"


def test_a_peer_at_its_cap_makes_room_among_its_own() -> None:
    registry = Registry(limits(most=4, per_peer=2))
    foreign, old, new = filled(registry, Fake(OTHER, at=0.0), Fake(at=1.0), Fake(at=2.0))
    assert registry.admit(Fake(at=50.0), 50.0) is None
    assert (foreign.ended, old.ended, new.ended) == ([], ["abort evicted_per_peer"], [])
    assert (registry.of_peer(PEER), registry.of_peer(OTHER)) == (2, 1)


def test_by_choice_nobody_is_evicted() -> None:
    registry = Registry(limits(most=2, per_peer=1, full="refuse"))
    filled(registry, Fake(at=0.0), Fake(OTHER, at=0.0))
    assert registry.admit(Fake(at=900.0), 900.0) == "per_peer"
    assert registry.admit(Fake("192.0.2.3", at=900.0), 900.0) == "full"
    assert registry.make_room(900.0) is False
    assert registry.admitted == 2


def test_room_is_made_when_descriptors_run_out() -> None:
    registry = Registry(limits(most=4))
    assert registry.make_room(0.0) is False
    (member,) = filled(registry, Fake(at=0.0))
    assert registry.make_room(0.05) is False
    assert registry.make_room(5.0) is True
    assert member.ended == ["abort evicted_unused"]
    assert registry.make_room(5.0) is False


# Priority


@pytest.mark.requirement("TG-4.2.1.2-priority-accepted")
def test_a_priority_peer_comes_in_when_full_and_the_least_recently_active_one_goes() -> None:
    registry = Registry(limits(most=3, priority_peers=frozenset({VIP})))
    first, second, third = filled(registry, Fake(at=0.0), Fake(at=0.0), Fake(at=0.0))
    for member, when in [(second, 9.7), (first, 9.8), (third, 9.9)]:
        use(registry, member, when)
    vip = Fake(VIP, at=10.0)
    assert registry.admit(vip, 10.0) is None
    assert (first.ended, second.ended, third.ended) == ([], ["abort evicted_for_priority"], [])
    assert (registry.admitted, registry.of_peer(VIP)) == (3, 0)
    assert vip in list(registry)


def test_a_priority_peer_needs_no_eviction_while_there_is_room() -> None:
    registry = Registry(limits(most=3, priority_peers=frozenset({VIP})))
    (member,) = filled(registry, Fake(at=0.0))
    assert registry.admit(Fake(VIP, at=900.0), 900.0) is None
    assert member.ended == []


@pytest.mark.requirement("TG-4.2.1.2-priority-maximum")
def test_beyond_its_number_a_priority_peer_is_like_any_other() -> None:
    registry = Registry(limits(most=3, priority_peers=frozenset({VIP}), max_priority_connections=1))
    ordinary, first, second = filled(registry, Fake(at=0.0), Fake(VIP, at=0.0), Fake(VIP, at=0.0))
    use(registry, ordinary, 49.0)
    assert (registry.of_peer(VIP), registry.admitted) == (1, 3)
    assert registry.admit(Fake(OTHER, at=50.0), 50.0) is None
    assert (ordinary.ended, first.ended, second.ended) == ([], [], ["abort evicted_unused"])
    assert registry.admit(Fake(OTHER, at=50.0), 50.0) == "full"


def test_without_a_number_of_them_a_priority_peer_is_like_any_other() -> None:
    registry = Registry(Limits(max_connections=1, priority_peers=frozenset({VIP})))
    for member in filled(registry, Fake(at=10.0)):
        use(registry, member, 10.0)
    assert registry.admit(Fake(VIP, at=10.0), 10.0) == "full"


def test_a_priority_peer_takes_the_slot_of_a_newborn_before_that_of_a_request_in_progress() -> None:
    registry = Registry(limits(most=2, priority_peers=frozenset({VIP})))
    asked, newborn = filled(registry, Fake(at=0.0), Fake(at=10.0))
    use(registry, asked, 10.0)
    asked.busy = True
    assert registry.admit(Fake(VIP, at=10.0), 10.0) is None
    assert (asked.ended, newborn.ended) == ([], ["abort evicted_for_priority"])


def test_a_priority_peer_never_ends_a_request_in_progress() -> None:
    registry = Registry(limits(most=2, priority_peers=frozenset({VIP})))
    members = filled(registry, Fake(at=0.0), Fake(at=0.0))
    for member in members:
        use(registry, member, 1.0)
        member.busy = True
    assert registry.admit(Fake(VIP, at=900.0), 900.0) == "full"
    assert [member.ended for member in members] == [[], []]


@pytest.mark.requirement("TG-4.2.1.2-priority")
def test_priority_alone_may_fill_the_server() -> None:
    registry = Registry(limits(most=2, priority_peers=frozenset({VIP}), max_priority_connections=2))
    filled(registry, Fake(VIP, at=0.0), Fake(VIP, at=0.0))
    assert registry.admit(Fake(at=900.0), 900.0) == "full"
    assert registry.admit(Fake(VIP, at=900.0), 900.0) == "full"
    assert registry.make_room(900.0) is False


def test_the_policy_refuses_peers_and_gives_others_priority() -> None:
    marks = {OTHER: Admission.REFUSE, VIP: Admission.PRIORITY}
    registry = Registry(limits(most=2), lambda host: marks.get(host, Admission.ALLOW))
    assert registry.admit(Fake(OTHER), 0.0) == "policy"
    assert len(registry) == 0
    first, _ = filled(registry, Fake(at=1.0), Fake(at=2.0))
    assert registry.admit(Fake(VIP), 3.0) is None
    assert first.ended == ["abort evicted_for_priority"]
    assert registry.statistics().priority == 1


def test_touching_a_priority_member_keeps_it_where_it_is() -> None:
    registry = Registry(limits(priority_peers=frozenset({VIP})))
    (vip,) = filled(registry, Fake(VIP))
    use(registry, vip, 5.0)
    assert list(registry) == [vip]
    registry.discard(vip)
    assert len(registry) == 0


# Rate


def test_a_peer_may_connect_so_often_a_second_and_no_more() -> None:
    registry = Registry(limits(most=100, max_connects_per_peer_per_s=2.0))
    seen = [registry.admit(Fake(at=now), now) for now in (10.0, 10.0, 10.0, 10.4, 10.5, 10.5, 11.0)]
    assert seen == [None, None, "rate", "rate", None, "rate", None]
    assert registry.admit(Fake(OTHER, at=10.0), 10.0) is None
    assert registry.admitted == 5


def test_a_rate_under_one_a_second_still_lets_the_first_one_in() -> None:
    registry = Registry(limits(most=100, max_connects_per_peer_per_s=0.1))
    assert [registry.admit(Fake(), now) for now in (0.0, 5.0, 9.9, 10.1)] == [None, "rate", "rate", None]


def test_no_more_than_a_second_of_connects_is_saved_up() -> None:
    registry = Registry(limits(most=100, max_connects_per_peer_per_s=2.0))
    assert [registry.admit(Fake(), now) for now in (0.0, 500.0, 500.0, 500.0)] == [None, None, None, "rate"]


def test_unix_sockets_have_no_rate() -> None:
    registry = Registry(limits(most=100, max_connects_per_peer_per_s=1.0))
    assert [registry.admit(Fake(""), 0.0) for _ in range(5)] == [None] * 5


def test_forgetting_old_peers_gives_nobody_a_fresh_start() -> None:
    registry = Registry(limits(most=100, max_connects_per_peer_per_s=0.5))
    assert [registry.admit(Fake(host), 0.0) for host in (PEER, OTHER)] == [None, None]
    registry.sweep(1.9)
    assert registry.admit(Fake(), 1.9) == "rate"
    registry.sweep(2.0)
    assert registry.admit(Fake(OTHER), 2.0) is None


def test_strangers_leave_nothing_behind() -> None:
    registry = Registry(limits(most=5000, per_peer=5000, max_connects_per_peer_per_s=1.0))
    for number in range(1000):
        member = Fake(f"198.51.100.{number}", at=0.0)
        assert registry.admit(member, 0.0) is None
        registry.discard(member)
    registry.sweep(10.0)
    assert not registry._buckets
    assert not registry._peers


# Time


def test_a_sweep_looks_at_those_that_are_watched() -> None:
    registry = Registry(limits())
    watched, unwatched = filled(registry, Fake(at=0.0), Fake(at=0.0))
    registry.watched.add(watched)
    registry.sweep(1.0)
    registry.sweep(2.0)
    registry.discard(watched)
    registry.sweep(3.0)
    assert (watched.swept, unwatched.swept) == ([1.0, 2.0], [])


def test_a_member_may_leave_the_watch_during_the_sweep() -> None:
    registry = Registry(limits())
    members = filled(registry, Fake(at=0.0), Fake(at=0.0))

    class Leaving(Fake):
        def sweep(self, now: float) -> None:
            super().sweep(now)
            for member in [*members, self]:
                registry.watched.discard(member)

    leaving = Leaving(at=0.0)
    members += filled(registry, leaving)
    registry.watched.update(members)
    registry.sweep(1.0)
    assert leaving.swept == [1.0]
    assert not registry.watched


def test_the_idle_are_closed_and_the_others_stay() -> None:
    registry = Registry(
        limits(most=8, idle_timeout_s=600.0, priority_peers=frozenset({VIP}), max_priority_connections=3)
    )
    unused, used, young, busy, vip, busy_vip, young_vip = filled(
        registry,
        Fake(at=0.0),
        Fake(at=0.0),
        Fake(at=0.0),
        Fake(at=0.0),
        Fake(VIP, at=0.0),
        Fake(VIP, at=0.0),
        Fake(VIP, at=0.0),
    )
    use(registry, busy, 50.0)
    use(registry, used, 100.0)
    use(registry, young, 100.1)
    young_vip.last_active = 100.1
    busy.busy = busy_vip.busy = True
    assert registry.idle(599.9) == []
    assert registry.idle(700.0) == [unused, used, vip]
    registry.sweep(700.0)
    closed = [member for member in registry if isinstance(member, Fake) and member.ended]
    assert closed == [unused, used, vip]
    assert {tuple(member.ended) for member in closed} == {("close idle",)}


def test_one_that_has_to_go_already_is_not_idle() -> None:
    registry = Registry(limits(most=1))
    (evicted,) = filled(registry, Fake(at=0.0))
    filled(registry, Fake(OTHER, at=500.0))
    registry.sweep(1000.0)
    assert evicted.ended == ["abort evicted_unused"]


# Unsent answers


def test_the_largest_go_until_the_rest_is_within_the_cap() -> None:
    registry = Registry(limits(max_buffered_bytes=1000))
    small, large, middle = filled(registry, Fake(unsent_bytes=300), Fake(unsent_bytes=900), Fake(unsent_bytes=800))
    registry.unsent.update({small, large, middle})
    assert registry.unsent_bytes == 2000
    assert registry.shed() == [large, middle]
    assert (small.ended, large.ended, middle.ended) == ([], ["abort buffer_limit"], ["abort buffer_limit"])


def test_up_to_the_cap_everybody_stays() -> None:
    registry = Registry(limits(max_buffered_bytes=1000))
    members = filled(registry, Fake(unsent_bytes=400), Fake(unsent_bytes=600))
    registry.unsent.update(members)
    assert registry.shed() == []
    registry.sweep(0.0)
    assert [member.ended for member in members] == [[], []]
    members[0].unsent_bytes += 1
    registry.sweep(0.0)
    assert [member.ended for member in members] == [[], ["abort buffer_limit"]]


def test_who_has_sent_all_is_forgotten() -> None:
    registry = Registry(limits())
    done, waiting = filled(registry, Fake(unsent_bytes=0), Fake(unsent_bytes=5))
    registry.unsent.update({done, waiting})
    registry.shed()
    assert registry.unsent == {waiting}
    registry.discard(waiting)
    assert (registry.unsent, registry.unsent_bytes) == (set(), 0)


def test_unsent_bytes_may_be_read_while_it_changes() -> None:
    """Statistics are read by other threads; the loop's own thread goes on meanwhile."""
    registry = Registry(limits())

    class Moving(Fake):
        @property
        def unsent_bytes(self) -> int:
            registry.unsent.add(Fake(unsent_bytes=1))
            return 7

        @unsent_bytes.setter
        def unsent_bytes(self, value: int) -> None:
            pass

    registry.unsent.add(Moving())
    assert registry.unsent_bytes >= 7


def test_iterating_is_safe_while_members_leave() -> None:
    registry = Registry(limits())
    members = filled(registry, Fake(), Fake(), Fake())
    seen = []
    for member in registry:
        seen.append(member)
        registry.discard(member)
    assert seen == members
    assert len(registry) == 0
