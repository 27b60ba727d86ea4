"""Who gets which model next: bounded, fair, in the order that is promised. What is pruned: nothing that is needed."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.model_plan import REFRESHED, TIDY_EVERY, NodeModels, Plan, Tried, plan, prunable, publishers, remembered
from fleet.models import ConfigModels, Version
from fleet.store import Entry
from tests.fleet.model_stage import NOW, models, version


@dataclass(frozen=True)
class Policy:
    max_transfers_per_cycle: int = 5
    priority_configs: tuple[str, ...] = ("hex8_2p",)
    keep_candidates: int = 2


def delay(failures: int) -> float:
    return 60.0 * 2**failures


def never(_: int) -> float:
    return 0.0


def name(number: int, config: str = "hex5_2p") -> str:
    return version(number, config).version


def holding(node_id: str, *known: Version, promoted: str | None = None, **more: Any) -> NodeModels:
    by_config: dict[str, set[str]] = {}
    for each in known:
        by_config.setdefault(each.config, set()).add(each.version)
    stands = dict.fromkeys(by_config, (promoted, None))
    return NodeModels(node_id, {config: frozenset(names) for config, names in by_config.items()}, stands, **more)


def pairs(decided: Plan) -> list[tuple[str, str]]:
    return [(each.node_id, each.version.version) for each in decided.transfers]


def test_priority_comes_first_then_what_was_promoted_last_then_the_newest() -> None:
    known = [models(3, 2), models(2, 1, config="hex8_2p"), models(2, 2, 1, config="square6_2p")]
    decided = plan([NodeModels("n1")], known, Policy(max_transfers_per_cycle=100), NOW, delay)
    assert pairs(decided) == [
        ("n1", name(1, "hex8_2p")),
        ("n1", name(2, "hex8_2p")),
        ("n1", name(1, "square6_2p")),
        ("n1", name(2)),
        ("n1", name(3)),
        ("n1", name(2, "square6_2p")),
    ]


def test_what_failed_comes_last_and_rests_first() -> None:
    tried = {name(2, "hex8_2p"): Tried(NOW - 500, 1), name(1): Tried(NOW - 900, 1), name(2): Tried(NOW - 100, 1)}
    nodes = [NodeModels("n1", tries=tried)]
    known = [models(2, 1), models(2, config="hex8_2p")]
    decided = plan(nodes, known, Policy(), NOW, delay)
    assert pairs(decided) == [("n1", name(1, "hex8_2p")), ("n1", name(1)), ("n1", name(2, "hex8_2p"))]
    assert (decided.missing, decided.resting) == (4, 1)
    silent = [replace(nodes[0], silent=Tried(NOW - 100, 1))]
    assert pairs(plan(silent, known, Policy(), NOW, delay)) == []


def test_one_turn_is_the_longest_waitings() -> None:
    nodes = [NodeModels("n1"), NodeModels("n2")]
    old = replace(models(1), versions=(version(1, created_at=5.0),))
    known = [models(3, 3, config="hex8_2p"), models(3, config="square6_2p"), old]
    decided = plan(nodes, known, Policy(max_transfers_per_cycle=3), NOW, delay)
    assert pairs(decided) == [("n1", name(3, "hex8_2p")), ("n2", name(3, "hex8_2p")), ("n1", name(1))]


def test_convergence_is_counted() -> None:
    known = [models(2, 1, 2), models(1, config="hex8_2p")]
    nodes = [
        holding("n1", version(1), version(2), promoted=name(2)),
        holding("n2", version(1), version(2), promoted=name(1)),
        NodeModels("n3"),
    ]
    decided = plan(nodes, known, Policy(), NOW, delay)
    assert (decided.converged, decided.behind, decided.missing) == (1, 2, 5)


def test_only_nodes_whose_manifests_could_say_more_are_told_to_list() -> None:
    known = [models(2, 1, 2)]
    fine = NodeModels("fine", {"hex5_2p": frozenset((name(1), name(2)))}, {"hex5_2p": (name(2), name(1))})
    outdated = replace(fine, node_id="outdated", promoted={"hex5_2p": (name(1), None)})
    waiting = NodeModels("waiting", {"hex5_2p": frozenset((name(1),))}, {"hex5_2p": (name(1), None)})
    untidy = replace(fine, node_id="untidy", unlisted=1, told_at=NOW - TIDY_EVERY)
    tidied = replace(untidy, node_id="tidied", told_at=NOW - TIDY_EVERY + 1)
    silent = replace(outdated, node_id="silent", silent=Tried(NOW, 1))
    decided = plan([fine, outdated, waiting, untidy, tidied, silent], known, Policy(), NOW, delay)
    assert decided.refresh == ("outdated", "untidy")
    many = [replace(outdated, node_id=f"n{number}", told_at=float(number)) for number in range(REFRESHED + 5)]
    assert plan(many, known, Policy(), NOW, delay).refresh == tuple(f"n{number}" for number in range(REFRESHED))


def test_publishers_take_turns() -> None:
    nodes = [NodeModels(f"n{number}", unpublished=1, asked_at=float(-number)) for number in range(8)]
    nodes += [NodeModels("idle"), NodeModels("silent", unpublished=1, silent=Tried(NOW, 1), asked_at=-100.0)]
    assert publishers(nodes, Policy(), NOW, delay) == ["n7", "n6", "n5", "n4", "n3"]


CONFIGS = ("hex5_2p", "hex8_2p", "square6_2p", "square8_3p")


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[NodeModels], list[ConfigModels]]:
    known = []
    for config in draw(st.lists(st.sampled_from(CONFIGS), min_size=1, unique=True)):
        count = draw(st.integers(1, 5))
        promoted = draw(st.lists(st.integers(1, count), max_size=3))
        known.append(models(count, *promoted, config=config))
    every = [each for config in known for each in config.versions]
    nodes = [
        holding(f"n{number}", *draw(st.lists(st.sampled_from(every), unique_by=lambda each: each.version)))
        for number in range(draw(st.integers(1, 4)))
    ]
    return nodes, known


@settings(max_examples=60)
@given(worlds(), st.integers(1, 7), st.randoms(use_true_random=False), st.booleans())
def test_every_missing_pair_is_tried_within_as_many_cycles_as_it_takes(
    world: tuple[list[NodeModels], list[ConfigModels]], most: int, fate: random.Random, rests: bool
) -> None:
    nodes, known = world
    policy = Policy(max_transfers_per_cycle=most)
    wait = delay if rests else never
    missing = {
        (node.node_id, each.version)
        for node in nodes
        for config in known
        for each in config.wanted(2)
        if not node.holds(each)
    }
    tried: set[tuple[str, str]] = set()
    for cycle in range(math.ceil(len(missing) / most)):
        now = NOW + 120 * cycle
        decided = plan(fate.sample(nodes, len(nodes)), fate.sample(known, len(known)), policy, now, wait)
        assert decided == plan(nodes, known, policy, now, wait)
        chosen = pairs(decided)
        assert len(chosen) == len(set(chosen)) <= most
        assert set(chosen) <= missing
        tried |= set(chosen)
        outcomes: dict[str, dict[str, str]] = {}
        for node_id, each in chosen:  # some arrive, some never do
            outcomes.setdefault(node_id, {})[each] = fate.choice(["done", "corrupt", "busy"])
        nodes = [_after(node, decided, outcomes.get(node.node_id, {}), now) for node in nodes]
    assert tried == missing


def _after(node: NodeModels, decided: Plan, outcomes: Mapping[str, str], now: float) -> NodeModels:
    arrived = {each: "hex" for each, outcome in outcomes.items() if outcome == "done"}
    versions = {config: set(names) for config, names in node.versions.items()}
    for each in arrived:
        versions.setdefault(each.partition("-")[0], set()).add(each)
    after = remembered(node, decided.lacking[node.node_id], outcomes, now)
    assert NodeModels.read(node.node_id, {}, after.mark()).tries == after.tries
    assert set(after.tries) <= decided.lacking[node.node_id]
    return replace(after, versions={config: frozenset(names) for config, names in versions.items()})


def test_failures_are_remembered_until_they_do_not_matter() -> None:
    node = NodeModels("n1")
    once = remembered(node, ["a", "b"], {"a": "corrupt", "b": "busy"}, 10.0, asked=True)
    assert once.tries == {"a": Tried(10.0, 1), "b": Tried(10.0, 0)}
    assert (once.asked_at, once.told_at, once.silent) == (10.0, 0.0, None)
    twice = remembered(once, ["a", "b"], {"a": "silent"}, 20.0, told=True)
    assert (twice.tries["a"], twice.silent, twice.told_at) == (Tried(20.0, 2), Tried(20.0, 1), 20.0)
    assert remembered(twice, ["b"], {}, 30.0).tries == {"b": Tried(10.0, 0)}
    thrice = remembered(twice, ["a", "b"], {"a": "done"}, 30.0)
    assert (thrice.tries, thrice.silent) == ({"b": Tried(10.0, 0)}, None)
    assert remembered(thrice, ["a", "b"], {}, 40.0) == thrice
    assert NodeModels.read("n1", {}, twice.mark()) == twice


@given(
    st.lists(
        st.tuples(st.integers(1, 8), st.lists(st.integers(1, 8), max_size=4), st.sampled_from(CONFIGS)),
        max_size=3,
        unique_by=lambda each: each[2],
    ),
    st.integers(1, 4),
    st.integers(2, 3),
    st.floats(0, 12),
)
def test_nothing_that_is_needed_is_pruned_from_the_store(
    given_: list[tuple[int, list[int], str]], newest: int, standing: int, after: float
) -> None:
    known = [
        models(count, *(each for each in promoted if each <= count), config=config)
        for count, promoted, config in given_
    ]
    now = NOW + 10  # version n was made at NOW + n, and contents n are shared by all configurations
    blobs = [Entry(version(number).blob, 1, NOW + number + 1) for number in range(1, 12)]
    gone = {each.key for each in prunable(known, blobs, newest=newest, standing=standing, now=now, after=after)}
    for each in known:
        kept = {promotion.version for promotion in each.standing[-standing:]} | {each.promoted, each.previous}
        kept |= {one.version for one in each.versions[-newest:]}
        for one in each.versions:
            if one.version in kept or now - one.created_at <= after:
                assert one.blob not in gone
    named = {one.blob for each in known for one in each.versions}
    assert gone <= named
    for blob in blobs:
        assert blob.key not in gone or (blob.modified is not None and now - blob.modified > after)


def test_what_is_old_and_replaced_is_pruned() -> None:
    known = [models(6, 1, 2, 3)]
    blobs = [Entry(version(number).blob, 1, NOW) for number in range(1, 8)]
    gone = prunable(known, blobs, newest=2, standing=2, now=NOW + 100, after=50)
    assert [each.key for each in gone] == sorted(version(number).blob for number in (1, 4))
    assert prunable(known, [Entry(version(1).blob, 1, None)], newest=2, standing=2, now=NOW + 100, after=50) == []


@pytest.mark.parametrize("held", [{}, {"hex5_2p": 5}, {"hex5_2p": {"versions": 7, "promoted": []}, "unpublished": "x"}])
def test_what_a_node_says_in_another_form_counts_as_nothing(held: dict[str, Any]) -> None:
    node = NodeModels.read("n1", held, {"tries": [], "silent": [1], "asked_at": "x", "told_at": -1e300})
    assert len(plan([node], [models(2)], Policy(), NOW, delay).transfers) == 2
    assert node.mark() == NodeModels("n1").mark()
