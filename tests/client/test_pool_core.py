"""The pool's decisions: case by case, then any order of them against a host that believes nothing (E10, H9 to H12)."""

from __future__ import annotations

from collections import Counter
from dataclasses import FrozenInstanceError, dataclass
from math import inf, nan
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from everbus.client.endpoint import Endpoint
from everbus.client.pool_core import (
    Action,
    Close,
    CloseReason,
    Grant,
    PoolCore,
    PoolOptions,
    Refused,
    Wait,
    Wake,
)
from everbus.errors import ConfigurationError, UsageError
from tests.fuzz.budget import budget

A, B, C = (Endpoint("tcp", host=host, port=502) for host in ("192.0.2.1", "192.0.2.2", "192.0.2.3"))
LATER = 1e6


def granted(core: PoolCore, key: Endpoint = A, now: float = 0.0) -> Grant:
    """A loan that nobody has to wait for; its link is open."""
    grant, _ = core.acquire(key, now, LATER)
    assert isinstance(grant, Grant)
    if grant.step == "open":
        core.opened(grant.token, now)
    return grant


def waiting(core: PoolCore, key: Endpoint = A, now: float = 0.0, deadline: float = LATER) -> int:
    """The token of somebody in the queue."""
    wait, actions = core.acquire(key, now, deadline)
    assert isinstance(wait, Wait)
    assert actions == []
    return wait.token


# --- options


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_links_per_endpoint", 0),
        ("max_links_per_endpoint", True),
        ("max_links", 0),
        ("max_links", 1.5),
        ("max_links", None),
        ("max_waiters", -1),
        ("idle_timeout_s", 0),
        ("idle_timeout_s", inf),
        ("idle_timeout_s", None),
        ("idle_timeout_s", True),
        ("max_lifetime_s", 0),
        ("max_lifetime_s", nan),
        ("max_lifetime_s", "3600"),
        ("check_after_s", -0.1),
        ("check_after_s", inf),
    ],
)
def test_a_bound_that_cannot_work_is_named(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"^{name} is "):
        PoolOptions(**{name: value})


def test_options_are_what_they_were_built_with() -> None:
    options = PoolOptions(max_waiters=0, check_after_s=0, max_lifetime_s=None)
    with pytest.raises(FrozenInstanceError):
        options.max_waiters = 5  # type: ignore[misc]
    assert PoolOptions() == PoolOptions(
        max_links_per_endpoint=1,
        max_links=64,
        max_waiters=1000,
        idle_timeout_s=60.0,
        max_lifetime_s=3600.0,
        check_after_s=30.0,
    )


# --- lending


def test_the_first_loan_opens_a_link_and_the_next_uses_it() -> None:
    core = PoolCore()
    first, actions = core.acquire(A, 0.0, 1.0)
    assert isinstance(first, Grant)
    assert first.step == "open"
    assert actions == []
    core.opened(first.token, 0.1)
    assert core.release(first.token, 0.2, clean=True) == []
    second, actions = core.acquire(A, 0.3, 1.0)
    assert second == Grant(second.token, first.link, "use")  # type: ignore[union-attr]
    assert actions == []


def test_the_link_used_last_is_lent_first_so_that_the_others_may_time_out() -> None:
    core = PoolCore(PoolOptions(max_links_per_endpoint=3))
    grants = [granted(core) for _ in range(3)]
    for now, grant in enumerate(grants):
        core.release(grant.token, now, clean=True)
    assert [granted(core, now=3.0).link for _ in range(3)] == [grant.link for grant in reversed(grants)]


@pytest.mark.parametrize(("idle_s", "step"), [(0.0, "use"), (29.9, "use"), (30.0, "check"), (59.9, "check")])
def test_a_link_that_was_idle_for_long_is_checked_first(idle_s: float, step: str) -> None:
    core = PoolCore()
    core.release(granted(core).token, 10.0, clean=True)
    assert granted(core, now=10.0 + idle_s).step == step


def test_a_link_that_fails_its_check_is_replaced_at_once() -> None:
    """H12: whoever waits behind does not overtake, and the token stays."""
    core = PoolCore()
    core.release(granted(core).token, 0.0, clean=True)
    grant = granted(core, now=40.0)
    behind = waiting(core, now=41.0)
    fresh, actions = core.replace(grant.token, 42.0)
    assert isinstance(fresh, Grant)
    assert (fresh.token, fresh.step) == (grant.token, "open")
    assert fresh.link != grant.link
    assert actions == [Close(grant.link, "stale")]
    core.opened(fresh.token, 42.0)
    assert core.release(fresh.token, 43.0, clean=True) == [Wake(behind, Grant(behind, fresh.link, "use"))]


def test_a_connect_that_failed_may_be_tried_again() -> None:
    core = PoolCore()
    grant, _ = core.acquire(A, 0.0, LATER)
    assert isinstance(grant, Grant)
    assert core.replace(grant.token, 1.0) == (
        Grant(grant.token, grant.link + 1, "open"),
        [Close(grant.link, "connect")],
    )


def test_an_unclean_link_is_closed_and_the_next_user_opens_another() -> None:
    core = PoolCore()
    grant = granted(core)
    behind = waiting(core)
    close, wake = core.release(grant.token, 1.0, clean=False)
    assert close == Close(grant.link, "unclean")
    assert isinstance(wake, Wake)
    assert isinstance(wake.outcome, Grant)
    assert (wake.token, wake.outcome.token, wake.outcome.step) == (behind, behind, "open")
    assert wake.outcome.link != grant.link
    assert core.statistics().discarded_unclean == 1


def test_a_connect_that_failed_leaves_the_turn_to_the_next() -> None:
    core = PoolCore()
    grant, _ = core.acquire(A, 0.0, LATER)
    assert isinstance(grant, Grant)
    behind = waiting(core)
    close, wake = core.release(grant.token, 3.0, clean=False)
    assert close == Close(grant.link, "connect")
    assert wake == Wake(behind, Grant(behind, grant.link + 1, "open"))
    assert core.statistics().opened == 0
    assert core.statistics().discarded_unclean == 0


# --- waiting


def test_users_of_an_endpoint_are_served_in_the_order_they_came() -> None:
    core = PoolCore()
    grant = granted(core)
    token, tokens = grant.token, [waiting(core, now=float(at)) for at in range(5)]
    for behind in tokens:
        assert core.release(token, 10.0, clean=True) == [Wake(behind, Grant(behind, grant.link, "use"))]
        token = behind
    assert core.statistics().wait_s == 10 + 9 + 8 + 7 + 6
    assert core.statistics().longest_wait_s == 10


def test_who_waits_too_long_is_told_at_the_deadline_and_not_granted() -> None:
    core = PoolCore()
    grant = granted(core)
    early, late = waiting(core, deadline=5.0), waiting(core, deadline=6.0)
    assert core.next_deadline() == 5.0
    assert core.expire(4.9) == []
    assert core.expire(5.0) == [Wake(early, Refused("deadline"))]
    assert core.next_deadline() == 6.0
    assert core.release(grant.token, 6.0, clean=True) == [Wake(late, Refused("deadline"))]
    assert core.statistics().timed_out == 2


def test_a_deadline_that_has_passed_gets_no_link_even_if_there_is_one() -> None:
    core = PoolCore()
    assert core.acquire(A, 5.0, 5.0) == (Refused("deadline"), [])
    assert core.statistics().timed_out == 1


def test_no_more_wait_than_may() -> None:
    core = PoolCore(PoolOptions(max_waiters=1))
    granted(core)
    waiting(core)
    assert core.acquire(A, 0.0, LATER) == (Refused("full"), [])
    assert isinstance(core.acquire(B, 0.0, LATER)[0], Grant)
    assert core.statistics().refused == 1


def test_who_cancels_in_the_queue_is_passed_over() -> None:
    core = PoolCore()
    grant = granted(core)
    gone, behind = waiting(core), waiting(core)
    assert core.cancel(gone, 2.0) == []
    assert core.release(grant.token, 3.0, clean=True) == [Wake(behind, Grant(behind, grant.link, "use"))]
    statistics = core.statistics()
    assert (statistics.cancelled, statistics.wait_s) == (1, 5.0)


def test_a_holder_that_dies_costs_the_link_and_no_slot() -> None:
    core = PoolCore()
    grant = granted(core)
    behind = waiting(core)
    assert core.cancel(grant.token, 1.0) == [
        Close(grant.link, "unclean"),
        Wake(behind, Grant(behind, grant.link + 1, "open")),
    ]


def test_one_that_is_stuck_delays_nobody_past_the_deadline() -> None:
    """H10: 5 links, 100 users, one stuck: who can be served is, and in the end 5 links can be lent."""
    core = PoolCore(PoolOptions(max_links_per_endpoint=5))
    stuck, *others = [granted(core) for _ in range(5)]
    holders = [grant.token for grant in others]
    queue = [waiting(core, deadline=30.0) for _ in range(95)]
    served = []
    for now in range(1, 21):
        woken = [action for token in holders for action in core.release(token, now, clean=True)]
        holders = [action.token for action in woken if isinstance(action, Wake)]
        served += holders
    assert served == queue[:80]
    assert core.expire(30.0) == [Wake(token, Refused("deadline")) for token in queue[80:]]
    for token in [*holders, stuck.token]:
        core.release(token, 31.0, clean=token != stuck.token)
    assert sum(isinstance(core.acquire(A, 32.0, LATER)[0], Grant) for _ in range(6)) == 5


# --- room


def test_the_least_recently_used_idle_link_makes_room() -> None:
    core = PoolCore(PoolOptions(max_links=2))
    first, second = granted(core, A), granted(core, B)
    core.release(second.token, 1.0, clean=True)
    core.release(first.token, 2.0, clean=True)
    grant, actions = core.acquire(C, 3.0, LATER)
    assert isinstance(grant, Grant)
    assert grant.step == "open"
    assert actions == [Close(second.link, "evicted")]
    assert core.statistics().peak == 2


def test_a_link_goes_to_the_longest_waiting_endpoint_when_links_lack() -> None:
    core = PoolCore(PoolOptions(max_links=1))
    grant = granted(core, A)
    other, own = waiting(core, B), waiting(core, A)
    close, wake = core.release(grant.token, 1.0, clean=True)
    assert close == Close(grant.link, "evicted")
    assert wake == Wake(other, Grant(other, grant.link + 1, "open"))
    assert core.cancel(other, 2.0)[1] == Wake(own, Grant(own, grant.link + 2, "open"))


def test_a_busy_endpoint_does_not_hold_up_others() -> None:
    core = PoolCore(PoolOptions(max_links=2))
    grant = granted(core, A)
    other = granted(core, B)
    waiting(core, A)
    own = waiting(core, B)
    assert core.release(other.token, 1.0, clean=True) == [Wake(own, Grant(own, other.link, "use"))]
    assert core.statistics().lent == 2
    assert grant.link != other.link


# --- time


def test_an_idle_link_is_closed_in_time() -> None:
    core = PoolCore()
    grant = granted(core)
    assert core.next_deadline() is None
    core.release(grant.token, 5.0, clean=True)
    assert core.next_deadline() == 65.0
    assert core.expire(64.9) == []
    assert core.expire(65.0) == [Close(grant.link, "idle")]
    assert core.next_deadline() is None


def test_an_idle_link_that_is_over_age_is_not_lent() -> None:
    core = PoolCore()
    grant = granted(core)
    core.release(grant.token, 5.0, clean=True)
    fresh, actions = core.acquire(A, 65.0, LATER)
    assert actions == [Close(grant.link, "idle")]
    assert isinstance(fresh, Grant)
    assert fresh.step == "open"


def test_a_link_is_not_lent_past_its_lifetime() -> None:
    core = PoolCore(PoolOptions(max_lifetime_s=100.0))
    idle = granted(core, A)
    core.release(idle.token, 90.0, clean=True)
    lent = granted(core, B, now=90.0)
    assert core.next_deadline() == 100.0
    assert core.expire(100.0) == [Close(idle.link, "lifetime")]
    assert core.release(lent.token, 190.0, clean=True) == [Close(lent.link, "lifetime")]


def test_without_a_lifetime_a_link_lives_on() -> None:
    core = PoolCore(PoolOptions(max_lifetime_s=None))
    grant = granted(core)
    assert core.release(grant.token, 1e9, clean=True) == []
    assert core.next_deadline() == 1e9 + 60


# --- mistakes


@pytest.mark.parametrize("end", ["release", "cancel", "never granted"])
def test_a_token_is_answered_once(end: str) -> None:
    core = PoolCore()
    token = 77
    if end == "release":
        token = granted(core).token
        core.release(token, 0.0, clean=True)
    elif end == "cancel":
        token = granted(core).token
        core.cancel(token, 0.0)
    before = core.statistics()
    for misuse in (
        lambda: core.release(token, 1.0, clean=True),
        lambda: core.release(token, 1.0, clean=False),
        lambda: core.cancel(token, 1.0),
        lambda: core.replace(token, 1.0),
        lambda: core.opened(token, 1.0),
    ):
        with pytest.raises(UsageError, match=f"^token {token} has no link"):
            misuse()
    assert core.statistics() == before


def test_who_waits_has_nothing_to_release() -> None:
    core = PoolCore()
    granted(core)
    token = waiting(core)
    with pytest.raises(UsageError, match="has no link"):
        core.release(token, 0.0, clean=True)


def test_a_link_is_opened_once_and_not_clean_before() -> None:
    core = PoolCore()
    grant, _ = core.acquire(A, 0.0, LATER)
    assert isinstance(grant, Grant)
    with pytest.raises(UsageError, match="not opened"):
        core.release(grant.token, 0.0, clean=True)
    core.opened(grant.token, 0.0)
    with pytest.raises(UsageError, match="open already"):
        core.opened(grant.token, 0.0)
    assert core.release(grant.token, 0.0, clean=True) == []


# --- the end


def test_a_closed_pool_lends_nothing_and_takes_everything_back() -> None:
    core = PoolCore()
    idle, lent, unclean = granted(core, A), granted(core, B), granted(core, C)
    core.release(idle.token, 0.0, clean=True)
    token = waiting(core, B)
    assert core.close(1.0) == [Close(idle.link, "closed"), Wake(token, Refused("closed"))]
    assert core.close(1.0) == []
    assert core.acquire(A, 1.0, LATER) == (Refused("closed"), [])
    assert core.release(lent.token, 2.0, clean=True) == [Close(lent.link, "closed")]
    assert core.release(unclean.token, 2.0, clean=False) == [Close(unclean.link, "unclean")]
    assert (core.statistics().links, core.statistics().endpoints) == (0, 0)


def test_a_closed_pool_replaces_nothing() -> None:
    core = PoolCore()
    grant = granted(core)
    core.close(1.0)
    assert core.replace(grant.token, 1.0) == (Refused("closed"), [])
    assert core.release(grant.token, 1.0, clean=False) == [Close(grant.link, "unclean")]
    assert core.statistics().links == 0


def test_nothing_is_kept_of_an_endpoint_without_links_and_waiters() -> None:
    core = PoolCore(PoolOptions(max_links=2))
    for at in range(100):
        key = Endpoint("tcp", host=f"192.0.2.{at}", port=502)
        core.release(granted(core, key, now=at).token, at, clean=at % 3 > 0)
    assert core.statistics().endpoints <= 2
    held = [granted(core, key, now=100.0) for key in (A, B)]
    core.cancel(waiting(core, C, now=100.0), 101.0)
    assert core.statistics().endpoints == 2
    waiting(core, C, now=101.0, deadline=102.0)
    core.expire(102.0)
    assert core.statistics().endpoints == 2
    for grant in held:
        core.release(grant.token, 103.0, clean=True)
    core.expire(200.0)
    assert core.statistics().endpoints == 0
    granted(core, A, now=200.0)
    assert (core.statistics().links, core.statistics().peak) == (1, 2)


def test_a_closed_pool_forgets_who_waited_for_room() -> None:
    core = PoolCore(PoolOptions(max_links=1))
    grant = granted(core, A)
    token = waiting(core, B)
    assert core.close(1.0) == [Wake(token, Refused("closed"))]
    assert core.statistics().endpoints == 1
    assert core.release(grant.token, 2.0, clean=True) == [Close(grant.link, "closed")]


def test_who_cancels_late_brings_what_is_due() -> None:
    core = PoolCore()
    granted(core)
    overdue, gone = waiting(core, deadline=5.0), waiting(core, deadline=5.0)
    assert core.cancel(gone, 6.0) == [Wake(overdue, Refused("deadline"))]
    assert (core.statistics().cancelled, core.statistics().timed_out) == (1, 1)


# --- any order


@dataclass
class Link:
    key: int
    opened_at: float | None = None
    lent: bool = True
    doomed: bool = False
    """Closed is what it must be next."""


@dataclass
class User:
    key: int
    since: float
    deadline: float


class Pool(RuleBasedStateMachine):
    """Users that come, hold, fail, wait, give up and go; every action is looked at before it is carried out."""

    pick = st.integers(0, 99)

    @initialize(
        per_endpoint=st.integers(1, 2),
        most=st.integers(1, 4),
        waiters=st.sampled_from([6, 2, 0]),
        lifetime_s=st.sampled_from([50.0, None]),
    )
    def begin(self, per_endpoint: int, most: int, waiters: int, lifetime_s: float | None) -> None:
        self.options = PoolOptions(
            max_links_per_endpoint=per_endpoint, max_links=most, max_waiters=waiters, max_lifetime_s=lifetime_s
        )
        self.core = PoolCore(self.options)
        self.now = 1000.0
        self.closed = self.late = False
        self.links: dict[int, Link] = {}
        self.idle: dict[int, float] = {}  # since when, in the order of their return
        self.loans: dict[int, int] = {}
        self.queue: dict[int, User] = {}
        self.over: list[int] = []
        self.opened = self.last_link = self.peak = 0
        self.users: Counter[str] = Counter()
        self.reasons: Counter[CloseReason] = Counter()
        self.wait_s = self.longest_wait_s = 0.0

    # What a host does

    @rule(keys=st.lists(st.integers(0, 3), min_size=1, max_size=4), patience_s=st.sampled_from([200.0, 20.0, 0.0]))
    def come(self, keys: list[int], patience_s: float) -> None:
        for key in keys:
            self.acquire(key, patience_s)

    def acquire(self, key: int, patience_s: float) -> None:
        deadline = self.now + patience_s
        outcome, actions = self.core.acquire(key, self.now, deadline)
        self.play(actions)
        self.users["came"] += 1
        if isinstance(outcome, Grant):
            assert deadline > self.now
            assert outcome.token not in self.over
            self.lend(key, outcome)
        elif isinstance(outcome, Wait):
            assert not self.can_serve(key)
            assert len(self.queue) < self.options.max_waiters
            assert outcome.token not in {*self.over, *self.loans, *self.queue}
            self.queue[outcome.token] = User(key, self.now, deadline)
        else:
            self.refuse(outcome, deadline)
            full = len(self.queue) == self.options.max_waiters and not self.can_serve(key)
            assert outcome.reason == "deadline" or full

    @precondition(lambda self: self.loans)
    @rule(pick=pick, ending=st.sampled_from(["well", "opened", "stale", "badly", "cancelled", "unconnected"]))
    def go_on(self, pick: int, ending: str) -> None:
        self.use(list(self.loans)[pick % len(self.loans)], ending)

    @precondition(lambda self: self.loans)
    @rule()
    def all_end_well(self) -> None:
        for token in list(self.loans):
            self.use(token, "well")

    def use(self, token: int, ending: str) -> None:
        """A link that is to be opened opens, or not; then it is replaced, or given back in some way."""
        link = self.links[self.loans[token]]
        if link.opened_at is None and ending != "unconnected":
            self.core.opened(token, self.now)
            link.opened_at = self.now
            self.opened += 1
        if ending == "stale":
            self.replace(token, link)
        elif ending != "opened":
            self.give_back(token, ending)

    def replace(self, token: int, link: Link) -> None:
        link.doomed = True
        outcome, actions = self.core.replace(token, self.now)
        del self.loans[token]
        self.play(actions)
        assert isinstance(outcome, Grant)
        assert (outcome.token, outcome.step) == (token, "open")
        self.lend(link.key, outcome)
        self.users["granted"] -= 1

    def give_back(self, token: int, ending: str) -> None:
        number = self.loans.pop(token)
        link = self.links[number]
        link.doomed = ending != "well" or self.closed
        link.doomed |= link.opened_at is not None and self.now >= link.opened_at + (self.options.max_lifetime_s or inf)
        self.over.append(token)
        if not link.doomed:
            link.lent = False
            self.idle[number] = self.now
        if ending == "cancelled":
            self.play(self.core.cancel(token, self.now))
        else:
            self.play(self.core.release(token, self.now, clean=ending == "well"))
        assert not link.doomed or number not in self.links

    @precondition(lambda self: self.queue)
    @rule(pick=pick)
    def leave(self, pick: int) -> None:
        token = list(self.queue)[pick % len(self.queue)]
        self.end_wait(token)
        self.over.append(token)
        self.users["cancelled"] += 1
        self.play(self.core.cancel(token, self.now))

    @rule(passed_s=st.sampled_from([0.5, 10.0, 35.0, 61.0]), asleep=st.booleans())
    def pass_time(self, passed_s: float, asleep: bool) -> None:
        """A host may be late: then the next call finds what is due."""
        self.now += passed_s
        self.late = asleep
        if not asleep:
            self.expire()

    def expire(self) -> None:
        due = self.core.next_deadline()
        actions = self.core.expire(self.now)
        assert not actions or (due is not None and due <= self.now)
        self.play(actions)

    @precondition(lambda self: self.over)
    @rule(pick=pick)
    def answer_again(self, pick: int) -> None:
        token = self.over[pick % len(self.over)]
        with pytest.raises(UsageError):
            self.core.release(token, self.now, clean=True)
        with pytest.raises(UsageError):
            self.core.cancel(token, self.now)

    # What it is told

    def play(self, actions: list[Action]) -> None:
        self.late = False
        for action in actions:
            if isinstance(action, Close):
                self.close(action)
            else:
                self.wake(action)

    def close(self, action: Close) -> None:
        link = self.links.pop(action.link)
        if link.lent:
            assert link.doomed, "somebody has it"
            expected = {"connect"} if link.opened_at is None else {"unclean", "stale", "lifetime", "closed"}
            assert action.reason in expected
        else:
            assert link.opened_at is not None
            since = self.idle[action.link]
            if action.reason == "evicted":
                assert len(self.links) + 1 == self.options.max_links
                assert next(iter(self.idle)) == action.link, "another one was used less recently"
            elif action.reason == "lifetime":
                assert self.now >= link.opened_at + (self.options.max_lifetime_s or inf)
            else:
                due = self.now >= since + self.options.idle_timeout_s
                assert action.reason == ("idle" if due else "closed")
                assert due or self.closed
            del self.idle[action.link]
        self.reasons[action.reason] += 1

    def wake(self, action: Wake) -> None:
        earlier = [user.key for token, user in self.queue.items() if token < action.token]
        user = self.end_wait(action.token)
        if isinstance(action.outcome, Grant):
            assert action.outcome.token == action.token
            assert user.deadline > self.now
            assert user.key not in earlier, "overtaken"
            assert not any(self.can_serve(key) for key in earlier), "overtaken"
            self.lend(user.key, action.outcome)
        else:
            self.over.append(action.token)
            self.refuse(action.outcome, user.deadline)

    def lend(self, key: int, grant: Grant) -> None:
        assert grant.token not in self.loans
        if grant.step == "open":
            assert grant.link > self.last_link
            self.last_link = grant.link
            self.links[grant.link] = Link(key)
        else:
            link, since = self.links[grant.link], self.idle.pop(grant.link)
            assert (link.key, link.lent, link.doomed) == (key, False, False)
            assert (grant.step == "check") == (self.now - since >= self.options.check_after_s)
            link.lent = True
        self.loans[grant.token] = grant.link
        self.peak = max(self.peak, len(self.links))
        self.users["granted"] += 1
        self.within_caps()

    def refuse(self, refused: Refused, deadline: float) -> None:
        self.users["timed_out" if refused.reason == "deadline" else "refused"] += 1
        assert (refused.reason == "deadline") == (deadline <= self.now)

    def end_wait(self, token: int) -> User:
        user = self.queue.pop(token)
        self.wait_s += self.now - user.since
        self.longest_wait_s = max(self.longest_wait_s, self.now - user.since)
        return user

    # What holds

    def of(self, key: int) -> list[int]:
        return [number for number, link in self.links.items() if link.key == key]

    def can_serve(self, key: int) -> bool:
        own = self.of(key)
        room = len(self.links) < self.options.max_links or self.idle
        return bool(any(number in self.idle for number in own) or (room and len(own) < self.most_of_one))

    @property
    def most_of_one(self) -> int:
        return self.options.max_links_per_endpoint

    def within_caps(self) -> None:
        assert len(self.links) <= self.options.max_links
        assert all(len(self.of(key)) <= self.most_of_one for key in range(4))
        assert len(self.queue) <= self.options.max_waiters

    @invariant()
    def nobody_is_lost(self) -> None:
        assert not any(self.can_serve(user.key) for user in self.queue.values())
        ends = [user.deadline for user in self.queue.values()]
        for number, since in self.idle.items():
            opened_at = self.links[number].opened_at
            assert opened_at is not None
            ends.append(min(since + self.options.idle_timeout_s, opened_at + (self.options.max_lifetime_s or inf)))
        due = self.core.next_deadline()
        if ends:
            assert self.late or min(ends) > self.now
            assert due is not None
            assert due <= min(ends)

    @invariant()
    def the_figures_add_up(self) -> None:
        self.within_caps()
        figures = self.core.statistics()
        assert (figures.links, figures.idle, figures.lent) == (len(self.links), len(self.idle), len(self.loans))
        assert (figures.waiting, figures.peak, figures.opened) == (len(self.queue), self.peak, self.opened)
        keys = {link.key for link in self.links.values()} | {user.key for user in self.queue.values()}
        assert figures.endpoints == len(keys)
        assert figures.closed_by_reason == self.reasons
        ended = {name: getattr(figures, name) for name in ("granted", "timed_out", "refused", "cancelled")}
        assert ended == {name: self.users[name] for name in ended}
        assert sum(ended.values()) + figures.waiting == self.users["came"]
        assert (figures.wait_s, figures.longest_wait_s) == (self.wait_s, self.longest_wait_s)

    def teardown(self) -> None:
        if not hasattr(self, "core"):
            return
        self.expire()
        self.closed = True
        self.play(self.core.close(self.now))
        assert not self.queue
        for token in list(self.loans):
            self.give_back(token, "cancelled")
        assert not self.links
        assert self.core.statistics().endpoints == 0
        assert self.core.expire(self.now + LATER) == []
        assert self.core.next_deadline() is None


def test_in_any_order_nothing_is_lost_lent_twice_or_over_a_cap() -> None:
    run_state_machine_as_test(Pool, settings=budget(60, 100))


@pytest.mark.slow
def test_in_many_more_orders_too() -> None:
    run_state_machine_as_test(Pool, settings=budget(300, 100))
