"""Whom to ask for games: whatever nodes there are, each gets its turn, and none its own way."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.gathering import Member, Memory, central, decide, remember
from fleet.nodes import Node

NOW = 1_800_000_000.0


@dataclass
class Rules:
    min_games: int = 100
    max_nodes_per_cycle: int = 10
    flush_after: float = 1_800.0


names = st.sampled_from([f"n{number:02}" for number in range(30)])
members = st.lists(
    st.builds(
        Member,
        names,
        st.booleans(),
        st.integers(0, 300),
        st.booleans(),
        st.sampled_from([None, True, False]),
        st.sampled_from([0, 0, 70]),
    ),
    unique_by=lambda member: member.node_id,
    max_size=30,
)
memories = st.dictionaries(
    names, st.builds(Memory, st.floats(NOW - 4_000, NOW), st.integers(0, 5), st.floats(NOW - 4_000, NOW + 4_000))
)
rules = st.builds(Rules, st.integers(1, 200), st.integers(1, 12), st.floats(0, 4_000))


@given(members, memories, rules)
def test_only_nodes_that_are_due_are_asked_and_no_more_than_fit(
    found: list[Member], known: dict[str, Memory], policy: Rules
) -> None:
    plan = decide(found, known, policy, NOW)
    by_name = {member.node_id: member for member in found}
    due = set()
    for name, member in by_name.items():
        memory = known.get(name, Memory(NOW))
        enough = (
            member.new >= policy.min_games
            or (member.draining and member.new)
            or NOW - memory.since >= policy.flush_after
        )
        if member.live and (member.new or member.sent) and enough and memory.not_before <= NOW:
            due.add(name)
    assert len(plan.ask) == len(set(plan.ask)) == min(len(due), policy.max_nodes_per_cycle)
    assert set(plan.ask) <= due
    assert plan.memories.keys() == {member.node_id for member in found if member.new or member.sent}
    assert decide(list(reversed(found)), known, policy, NOW) == plan or set(
        decide(list(reversed(found)), known, policy, NOW).ask
    ) == set(plan.ask)


@given(members, rules)
def test_those_with_most_new_games_come_first_and_draining_ones_before(found: list[Member], policy: Rules) -> None:
    policy.flush_after = 10.0  # nobody has waited yet
    plan = decide(found, {}, policy, NOW)
    left = [m for m in found if m.live and (m.new >= policy.min_games or (m.new and m.draining))]
    left = [m for m in left if m.node_id not in plan.ask]
    asked = [m for m in found if m.node_id in plan.ask]
    for member in left:
        for other in asked:
            assert (other.draining, other.new) >= (member.draining, member.new)
    new = {member.node_id: member.new for member in found}
    assert [new[name] for name in plan.ask] == sorted((new[name] for name in plan.ask), reverse=True)


@settings(max_examples=30)
@given(
    st.lists(st.integers(0, 150), min_size=1, max_size=40),
    st.integers(1, 6),
    st.integers(0, 3),
    st.randoms(use_true_random=False),
)
def test_every_nodes_games_come_in_bounded_time_whoever_fails(
    rates: list[int], places: int, broken: int, chance
) -> None:
    """Nodes play at their own rates; a few of them never answer. Nobody else's games stay behind."""
    policy = Rules(max_nodes_per_cycle=places)
    waiting = dict.fromkeys((f"n{number:02}" for number in range(len(rates))), 0)
    failing = set(sorted(waiting)[:broken])
    known: dict[str, Memory] = {}
    began: dict[str, float] = {}
    now, longest = NOW, 0.0
    for _ in range(120):
        for name, rate in zip(sorted(waiting), rates, strict=True):
            waiting[name] += rate
            if waiting[name]:
                began.setdefault(name, now)
        plan = decide([Member(name, new=number) for name, number in waiting.items()], known, policy, now)
        failed = [name for name in plan.ask if name in failing]
        done = [name for name in plan.ask if name not in failing]
        known = remember(plan, done, failed, lambda failures: min(3_600.0, 60.0 * 2**failures), now)
        for name in done:
            waiting[name] = 0
            longest = max(longest, now - began.pop(name))
        now += 300
    for name in began.keys() - failing:
        longest = max(longest, now - began[name])
    reserved = max(1, places // 5)
    assert longest <= policy.flush_after + 300.0 * (len(rates) / reserved + 2 + 40 * bool(failing))


def test_a_failure_waits_longer_each_time_and_a_success_forgets_it() -> None:
    plan = decide([Member("n1", new=500)], {}, Rules(), NOW)
    known = remember(plan, [], ["n1"], lambda failures: 60.0 * failures, NOW)
    assert known == {"n1": Memory(NOW, 1, NOW + 60)}
    later = decide([Member("n1", new=500)], known, Rules(), NOW + 59)
    assert (later.ask, later.backing_off) == ((), 1)
    plan = decide([Member("n1", new=500)], known, Rules(), NOW + 60)
    assert plan.ask == ("n1",)
    assert remember(plan, [], ["n1"], lambda failures: 60.0 * failures, NOW + 60)["n1"] == Memory(NOW, 2, NOW + 180)
    assert remember(plan, ["n1"], [], lambda failures: 60.0, NOW + 60)["n1"] == Memory(NOW + 60)


def test_a_clock_that_is_set_back_makes_nobody_wait_for_it() -> None:
    known = {"n1": Memory(NOW, 1, NOW + 60)}
    plan = decide([Member("n1", new=500)], known, Rules(), NOW - 10_000)
    assert plan.memories["n1"] == Memory(NOW - 10_000, 1, NOW - 9_940)


@given(members, st.none() | names)
def test_the_central_node_is_one_that_offers_it_and_stays(found: list[Member], before: str | None) -> None:
    chosen, complaint = central(found, before)
    offering = {member.node_id for member in found if member.central}
    kept = {member.node_id for member in found if member.central is not False}
    if before in kept:
        assert chosen == before
    else:
        assert chosen == min(offering, default=None)
    assert bool(complaint) == (chosen is None or bool(offering - {chosen}))
    assert central(found, chosen)[0] == chosen  # once chosen, it stays


def test_what_a_node_says_of_its_games_is_read_as_far_as_it_is_sound() -> None:
    node = Node("n1", NOW, {"agent": {}, "jobs": {"capabilities": ["cpu", "central"]}}, {"agent": NOW})
    assert Member.of(node, NOW) == Member("n1", live=True, new=0, central=True)
    held = {"games": {"new": {"hex5_2p": 7, "hex4_2p": -3, "x": "many", "y": None, "z": True}}}
    assert Member.of(replace(node, held=held), NOW).new == 7
    assert Member.of(replace(node, held={"games": {"sent": {"hex5_2p": 7}}}), NOW).sent == 7
    assert Member.of(replace(node, held={"games": {"unreadable": "why"}}), NOW).new == 0
    assert Member.of(replace(node, held={"games": {"new": [1]}}, marks={"drain": {}}), NOW).draining
    assert not Member.of(node, NOW + 60).live
