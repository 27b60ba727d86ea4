"""Groups of notices on virtual time: the fleet's and one process's are the same thing."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from fleet.notice_groups import DUE, HELD, LEASE, LINES, OTHER, RETRY, TITLES, Group, OwnGroups, SharedGroups

INTERVAL, GROUP_FOR = 60.0, 10.0


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Own(OwnGroups):
    def __init__(self, _redis: Redis, clock: Clock) -> None:
        super().__init__(INTERVAL, GROUP_FOR, clock=clock)


class Shared(SharedGroups):
    """On the clock of the test."""

    def __init__(self, redis: Redis, clock: Clock) -> None:
        super().__init__(redis, INTERVAL, GROUP_FOR)
        self.clock = clock

    def _call(self, now: float | None, *words: Any) -> Any:
        return super()._call(self.clock(), *words)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=[Own, Shared])
def groups(request: Any, redis: Redis, clock: Clock) -> Any:
    return request.param(redis, clock)


def said(found: tuple[list[Group], float]) -> list[tuple[str, int, tuple[str, ...]]]:
    return [(group.title, group.count, group.lines) for group in found[0]]


def test_a_first_one_waits_for_company_and_then_the_interval_rules(groups: Any, clock: Clock) -> None:
    assert groups.add("t", 0, "a") == pytest.approx(GROUP_FOR)
    clock.now += 9
    assert groups.add("t", 2, "b") == pytest.approx(1)
    assert groups.take() == ([], pytest.approx(1))
    clock.now += 1
    (group,), wait = groups.take()
    assert group == Group("t", 2, 2, 2, ("a", "b"))
    assert wait == pytest.approx(LEASE)
    groups.done(group, delivered=True)
    assert groups.take() == ([], math.inf)
    clock.now += 5
    assert groups.add("t", 1, "c") == pytest.approx(INTERVAL - 5)
    clock.now += INTERVAL - 5
    assert groups.take()[0] == [Group("t", 3, 1, 1, ("c",))]


def test_a_title_that_was_quiet_for_long_begins_anew(groups: Any, clock: Clock) -> None:
    groups.add("t", 0, "a")
    clock.now += GROUP_FOR
    groups.done(groups.take()[0][0], delivered=True)
    clock.now += INTERVAL + 1
    assert groups.add("t", 0, "b") == pytest.approx(GROUP_FOR)


def test_what_comes_while_a_message_is_sent_is_in_the_next_one(groups: Any, clock: Clock) -> None:
    groups.add("t", 0, "a")
    clock.now += GROUP_FOR
    (group,), _ = groups.take()
    groups.add("t", 2, "b")
    assert groups.take()[0] == []  # it is somebody's
    groups.done(group, delivered=True)
    assert groups.take()[1] == pytest.approx(INTERVAL)
    clock.now += INTERVAL
    assert said(groups.take()) == [("t", 1, ("b",))]


def test_what_a_dead_sender_took_is_due_again(groups: Any, clock: Clock) -> None:
    groups.add("t", 0, "a")
    clock.now += GROUP_FOR
    taken = said(groups.take())
    clock.now += LEASE - 1
    assert said(groups.take()) == []
    clock.now += 1
    assert said(groups.take()) == taken


def test_what_nobody_took_is_tried_again_later(groups: Any, clock: Clock) -> None:
    groups.add("t", 0, "a")
    clock.now += GROUP_FOR
    (group,), _ = groups.take()
    groups.done(group, delivered=False)
    assert groups.take() == ([], pytest.approx(max(INTERVAL, RETRY)))
    assert groups.take(early=True)[0] == []
    clock.now += max(INTERVAL, RETRY)
    assert said(groups.take()) == [("t", 1, ("a",))]


def test_early_takes_what_waits_for_company_but_not_what_the_interval_holds_back(groups: Any, clock: Clock) -> None:
    groups.add("t", 0, "a")
    assert said(groups.take(early=True)) == [("t", 1, ("a",))]
    groups.add("u", 0, "b")
    groups.done(Group("t", 1, 1, 0, ("a",)), delivered=True)
    groups.add("t", 0, "c")
    assert said(groups.take(early=True)) == [("u", 1, ("b",))]


def test_lines_and_titles_are_bounded_and_all_are_counted(groups: Any, clock: Clock, redis: Redis) -> None:
    for number in range(1000):
        groups.add("t", 0, str(number))
    for number in range(TITLES + 5):
        groups.add(f"title {number}", 1, "x")
    assert redis.zcard(DUE) in (0, TITLES + 1)
    assert not redis.exists(HELD + "t") or redis.hlen(HELD + "t") <= LINES + 3
    clock.now += GROUP_FOR
    found = {group.title: group for group in groups.take()[0]}
    assert len(found) == TITLES + 1
    assert found["t"].count == 1000
    assert found["t"].body.splitlines() == [*map(str, range(LINES)), f"and {1000 - LINES} more"]
    assert found[OTHER].body.splitlines()[0] == f"title {TITLES - 1}: x"
    assert sum(group.count for group in found.values()) == 1000 + TITLES + 5


def test_the_fleet_forgets_a_title_after_a_day(redis: Redis, clock: Clock) -> None:
    Shared(redis, clock).add("t", 0, "a")
    assert 86_000 < redis.ttl(HELD + "t") <= 86_400
    redis.delete(HELD + "t")  # as when it has ended
    clock.now += GROUP_FOR
    assert Shared(redis, clock).take() == ([], math.inf)
    assert redis.keys() == []


def test_alike_lines_are_told_together() -> None:
    assert Group("t", 9, 5, 0, ("a", "b", "a")).body == "a (2 times)\nb\nand 2 more"


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.sampled_from("tu"), st.integers(0, 2), st.sampled_from([1, 2, LINES + 3])),
            st.tuples(st.just("wait"), st.sampled_from([1.0, 10.0, 60.0, LEASE])),
            st.tuples(st.just("take"), st.booleans()),
            st.tuples(st.just("done"), st.booleans()),
        ),
        max_size=30,
    )
)
def test_both_kinds_say_the_same_hold_the_limit_and_forget_nothing(redis: Redis, steps: list[Any]) -> None:
    redis.flushdb()
    clock = Clock()
    own, shared = Own(redis, clock), Shared(redis, clock)
    added: Counter[str] = Counter()
    told: Counter[str] = Counter()
    taken: list[Group] = []
    tried: dict[str, float] = {}

    def take(*, early: bool) -> None:
        groups, wait = shared.take(early=early)
        others, expected = own.take(early=early)
        assert sorted(groups, key=str) == sorted(others, key=str)
        assert wait == pytest.approx(expected)
        for group in groups:
            assert clock.now - tried.get(group.title, 0) >= INTERVAL
            tried[group.title] = clock.now
        taken.extend(groups)

    def done(*, delivered: bool) -> None:  # perhaps twice of the same: a lease may have ended
        for group in taken:
            for each in (own, shared):
                each.done(group, delivered=delivered)
            if delivered:
                told[group.title] = max(told[group.title], group.upto)
        taken.clear()

    for number, (step, *arguments) in enumerate(steps):
        if step == "add":
            title, severity, times = arguments
            added[title] += times
            for _ in range(times):
                assert own.add(title, severity, str(number)) == pytest.approx(shared.add(title, severity, str(number)))
        elif step == "wait":
            clock.now += arguments[0]
        elif step == "take":
            take(early=arguments[0])
        else:
            done(delivered=arguments[0])
    for _ in range(3):
        clock.now += LEASE + INTERVAL
        take(early=False)
        done(delivered=True)
    assert told == added
