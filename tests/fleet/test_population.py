"""What goes into the queue next: depth, mix, configurations, and who must never be left out."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.job import OUTSTANDING, JobCounts, JobStatus
from fleet.kinds import JobKind
from fleet.options import EloTarget, FleetOptions
from fleet.population import MAX_BOOST, Item, Snapshot, decide
from fleet.rating_options import RatingOptions
from fleet.ratings import ConfigStandings, Standing, Standings
from fleet.stock import Stock
from tests.fleet.population_stage import (
    ALL,
    EVERYTHING_READY,
    FLEET,
    KINDS,
    MANY,
    NOW,
    STRONG,
    WEAK,
    Queue,
    options,
    populate,
    standings,
)

# Depth


def test_an_empty_queue_is_filled_to_the_minimum_and_then_left_alone() -> None:
    queue = Queue()
    assert len(populate(queue).items) == 50
    again = populate(queue)
    assert again.items == ()
    assert again.reason == "the queue holds 50 jobs, as many as it should"


def test_only_what_was_drained_is_refilled() -> None:
    queue = Queue()
    populate(queue)
    for _ in range(7):
        queue.finish(0)
    assert len(populate(queue).items) == 7


def test_the_depth_follows_the_nodes_up_to_the_maximum() -> None:
    assert len(populate(Queue(), active_nodes=25, known_nodes=25).items) == 50
    assert len(populate(Queue(), active_nodes=40, known_nodes=40).items) == 80
    assert len(populate(Queue(), active_nodes=400, known_nodes=400).items) == 800
    assert len(populate(Queue(), active_nodes=4000, known_nodes=4000).items) == 1000


def test_claimed_and_running_jobs_count_towards_the_depth() -> None:
    counts = Queue().counts()
    counts = JobCounts({**counts.by_status, JobStatus.CLAIMED: 15, JobStatus.RUNNING: 25}, counts.by_kind, {}, {})
    assert len(decide(Snapshot(NOW, counts, EVERYTHING_READY), ALL, FLEET).items) == 10


def test_backpressure_slows_the_filling_between_the_limits_and_stops_it_at_the_hard_one() -> None:
    def added(pending: int) -> int:
        queue = Queue([("selfplay", "hex8_2p")] * pending)
        limits = options(min_queue_depth=1000, backpressure_soft=500, backpressure_hard=900)
        return len(populate(queue, limits).items)

    assert [added(500), added(700), added(899), added(900), added(950)] == [500, 150, 1, 0, 0]


def test_an_ailing_cluster_fills_slower_but_to_the_same_depth() -> None:
    queue = Queue()
    added = [len(populate(queue, active_nodes=2, known_nodes=10).items) for _ in range(30)]
    assert added[:3] == [10, 8, 6]
    assert len(queue.jobs) == 50
    assert len(populate(Queue(), active_nodes=0, known_nodes=10).items) == 10


def test_before_the_first_node_joins_the_queue_fills_at_once() -> None:
    assert len(populate(Queue(), active_nodes=0, known_nodes=0).items) == 50


# Mix


def test_an_empty_queue_is_filled_in_the_ratios_and_so_is_every_prefix() -> None:
    items = populate(Queue()).items
    for length in range(1, 51):
        mix = Counter(item.kind for item in items[:length])
        assert mix["selfplay"] <= math.ceil(length * 0.6)
        assert mix["training"] <= math.ceil(length * 0.3)
        assert mix["tournament"] <= math.ceil(length * 0.1)
    assert Counter(item.kind for item in items) == {"selfplay": 30, "training": 15, "tournament": 5}


@pytest.mark.parametrize("kind", KINDS)
def test_a_deficit_of_one_is_made_good_with_what_was_drained(kind: str) -> None:
    queue = Queue()
    populate(queue)
    queue.finish(next(index for index, (queued, _) in enumerate(queue.jobs) if queued == kind))
    assert [item.kind for item in populate(queue).items] == [kind]


@settings(max_examples=25)
@given(st.integers(0, 20), st.integers(0, 20), st.integers(1, 20), st.integers(1, 12), st.integers(3, 60), st.randoms())
def test_the_mix_holds_while_jobs_are_drained_in_any_order(
    selfplay: int, training: int, tournament: int, drained: int, depth: int, rng: random.Random
) -> None:
    total = selfplay + training + tournament
    ratios = [selfplay / total, training / total, tournament / total]
    wanted = options(
        configs=MANY,
        min_queue_depth=depth,
        selfplay_ratio=ratios[0],
        training_ratio=ratios[1],
        tournament_ratio=ratios[2],
    )
    ready = standings(dict.fromkeys(MANY, WEAK))
    queue, done = Queue(), Counter[str]()
    for _ in range(60):
        populate(queue, wanted, standings=ready)
        assert len(queue.jobs) == depth
        for number, ratio in zip(queue.mix(), ratios, strict=True):
            assert abs(number - ratio * depth) < 2
        for _ in range(min(drained, depth)):
            done[queue.finish(rng.randrange(len(queue.jobs)))[0]] += 1
    for kind, ratio in zip(KINDS, ratios, strict=True):
        # what was drained is what was added, but for what is still there: the noise is the drain's own
        assert abs(done[kind] - ratio * done.total()) < depth + 4 * math.sqrt(done.total())


def test_a_kind_that_nobody_drains_keeps_to_its_share() -> None:
    queue = Queue()
    for _ in range(200):
        populate(queue)
        for kind in ("selfplay", "tournament"):
            queue.finish(next(index for index, (queued, _) in enumerate(queue.jobs) if queued == kind))
    populate(queue)
    assert queue.mix() == (30, 15, 5)


def test_a_small_queue_gives_every_kind_its_turn() -> None:
    queue, done = Queue(), Counter[str]()
    small = options(min_queue_depth=2)
    for _ in range(1000):
        populate(queue, small)
        done[queue.finish(0)[0]] += 1
    assert min(done[kind] for kind in KINDS) >= 50


def test_the_share_of_a_kind_without_a_command_goes_to_the_others() -> None:
    queue = Queue()
    populate(queue, fleet=FleetOptions(jobs={kind: FLEET.jobs[kind] for kind in ("selfplay", "training")}))
    assert queue.mix() == (33, 17, 0) or queue.mix() == (34, 16, 0)


def test_a_kind_with_ratio_0_is_not_queued() -> None:
    queue = Queue()
    populate(queue, options(configs=MANY, selfplay_ratio=0.5, training_ratio=0.5, tournament_ratio=0))
    assert queue.mix() == (25, 25, 0)


def test_no_kind_to_queue_at_all_is_an_error_that_says_what_to_give() -> None:
    with pytest.raises(ValueError, match=r"give selfplay, training or tournament a command in `jobs`.*has export"):
        populate(Queue(), fleet=FleetOptions(jobs={"export": FLEET.jobs["selfplay"]}))


# Configurations


def test_a_met_configuration_gets_nothing_and_the_others_everything() -> None:
    best = dict.fromkeys(ALL.config_names, WEAK) | {"hex8_2p": STRONG, "square8_2p": STRONG}
    decision = populate(Queue(), standings=standings(best))
    assert decision.met == ("square8_2p", "hex8_2p")
    assert {item.config for item in decision.items} == set(ALL.config_names) - {"hex8_2p", "square8_2p"}


def test_when_every_target_is_met_nothing_is_queued() -> None:
    decision = populate(Queue(), standings=standings(dict.fromkeys(ALL.config_names, STRONG)))
    assert (decision.items, decision.unmet, decision.reason) == ((), (), "every target is met")
    assert decision.met == ALL.config_names


def test_a_high_rating_that_may_be_luck_does_not_meet_the_target() -> None:
    lucky = Standing("gen9", 2200.0, 150.0, 400)
    untried = Standing("gen9", 2200.0, 1.0, 29)
    decision = populate(Queue(), standings=standings({"hex8_2p": lucky, "hex8_3p": untried}))
    assert decision.met == ()


def test_how_many_games_show_that_a_target_is_met_is_the_operators_choice() -> None:
    known = standings({"hex8_2p": Standing("gen9", 2200.0, 40.0, 40)})
    for min_games, met in ((40, ("hex8_2p",)), (41, ())):
        fleet = FleetOptions(jobs=FLEET.jobs, ratings=RatingOptions(min_games=min_games))
        assert populate(Queue(), fleet=fleet, standings=known).met == met


def test_a_configuration_may_have_its_own_target() -> None:
    fleet = FleetOptions(jobs=FLEET.jobs, elo_targets={"hex8_2p": EloTarget(target_elo=1500)})
    assert populate(Queue(), fleet=fleet).met == ("hex8_2p",)


def test_needier_configurations_get_more_and_equal_ones_the_same() -> None:
    pair = options(configs=["aa_2p", "bb_2p"], min_queue_depth=60, board_priority_overrides={"bb_2p": 1})
    queue = Queue()
    decision = populate(queue, pair, standings=Standings())
    assert Counter(config for _, config in queue.jobs) == {"aa_2p": 20, "bb_2p": 40}
    assert {item.config: item.priority for item in decision.items} == {"aa_2p": 52, "bb_2p": 54}

    queue = Queue()
    populate(queue, options(configs=["aa_2p", "bb_2p"]), standings=Standings())
    assert Counter(config for _, config in queue.jobs) == {"aa_2p": 25, "bb_2p": 25}


@settings(max_examples=10)
@given(st.integers(2, 60), st.randoms(), st.booleans())
def test_every_unmet_configuration_is_served_in_every_kind(depth: int, rng: random.Random, oldest: bool) -> None:
    queue, served = Queue(), Counter[tuple[str, str]]()
    small = options(min_queue_depth=depth)
    every = {(kind, config) for kind in KINDS for config in ALL.config_names}
    for _ in range(6000):
        served.update((item.kind, item.config) for item in populate(queue, small).items)
        if served.keys() == every:
            break
        queue.finish(0 if oldest else rng.randrange(len(queue.jobs)))
    assert served.keys() == every


def test_a_configuration_that_nobody_drains_leaves_the_others_their_turns() -> None:
    queue, served = Queue(), Counter[str]()
    for _ in range(600):
        populate(queue)
        drained = next((index for index, (_, config) in enumerate(queue.jobs) if config != "square8_2p"), None)
        assert drained is not None
        served[queue.finish(drained)[1]] += 1
    assert served.keys() == set(ALL.config_names) - {"square8_2p"}


# Jobs


def test_every_job_carries_its_games_and_why_it_exists() -> None:
    known = Standings({"hex8_2p": ConfigStandings(WEAK, models=1, rated=1)})
    wanted = options(configs=["hex8_2p", "hex8_3p"], selfplay_games_per_item=20, tournament_games=10)
    decision = populate(Queue(), wanted, standings=known)
    payloads = {(item.kind, item.config): item.payload for item in decision.items}
    why = "target 2000: gen1 has 1600 after 100 games, lower bound 1522"
    assert payloads["selfplay", "hex8_2p"] == {"games": 20, "reason": why}
    assert payloads["training", "hex8_2p"] == {"reason": why}
    assert payloads["tournament", "hex8_2p"] == {"games": 10, "reason": why}
    assert payloads["selfplay", "hex8_3p"] == {"games": 20, "reason": "target 2000: no model is rated yet"}


def test_a_job_takes_its_limits_from_its_kind() -> None:
    gpu = JobKind(command=("train",), capability="gpu", timeout=7200, max_attempts=2)
    spec = Item("training", "hex8_2p", 120, {"reason": "why"}).spec(gpu)
    assert (spec.kind, spec.config, spec.priority, spec.payload) == ("training", "hex8_2p", 120, {"reason": "why"})
    assert (spec.capability, spec.timeout, spec.max_attempts) == ("gpu", 7200, 2)


def test_the_priority_is_the_kinds_with_a_boost_for_the_neediest() -> None:
    bases = {"selfplay": 50, "training": 100, "tournament": 80}
    items = populate(Queue()).items
    boosts = [item.priority - bases[item.kind] for item in items]
    assert min(boosts) >= 0
    assert max(boosts) == MAX_BOOST


# Properties of any decision

ratios = st.tuples(*[st.integers(0, 10)] * 3).filter(any)
queues = st.lists(st.tuples(st.sampled_from([*KINDS, "export"]), st.sampled_from([*ALL.config_names, "other_2p"])))
bests = st.none() | st.builds(
    Standing, st.just("m"), st.floats(0, 4000), st.floats(0, 400), st.integers(0, 500), st.none() | st.floats(0, NOW)
)


@given(
    ratios, queues, st.integers(0, 1000), st.lists(bests, min_size=18, max_size=18), st.integers(1, 100),
    st.integers(0, 60), st.integers(0, 60), st.integers(1, 40), st.none() | st.integers(0, 1000),
)  # fmt: skip
def test_no_decision_breaks_the_rules(
    ratios: tuple[int, int, int],
    jobs: list[tuple[str, str]],
    games: int,
    best: list[Standing | None],
    depth: int,
    active: int,
    silent: int,
    soft: int,
    trained_on: int | None,
) -> None:
    shares = [ratio / sum(ratios) for ratio in ratios]
    wanted = options(
        min_queue_depth=depth, backpressure_soft=soft, backpressure_hard=soft + 20,
        selfplay_ratio=shares[0], training_ratio=shares[1], tournament_ratio=shares[2],
    )  # fmt: skip
    known = {
        name: ConfigStandings(standing, models=1, rated=1)
        for name, standing in zip(ALL.config_names, best, strict=True)
    }
    queue = Queue(jobs, games)
    stock = {name: Stock(games, 1, trained_on) for name in ALL.config_names}
    snapshot = Snapshot(NOW, queue.counts(), Standings(known), active, active + silent, stock)
    decision = decide(snapshot, wanted, FLEET)

    assert decide(snapshot, wanted, FLEET) == decision
    assert set(decision.met) | set(decision.unmet) == set(ALL.config_names)
    assert not set(decision.met) & set(decision.unmet)
    assert len(jobs) + len(decision.items) <= max(len(jobs), decision.depth_target)
    assert decision.depth_target == max(depth, 2 * active)
    for item in decision.items:
        assert item.config in decision.unmet
        assert shares[KINDS.index(item.kind)] > 0
        assert item.kind != "training" or games >= max(300, -150 if trained_on is None else trained_on + 150)
        assert 50 <= item.priority <= 150
    trainings = Counter(item.config for item in decision.items if item.kind == "training")
    assert all(number == 1 and ("training", config) not in jobs for config, number in trainings.items())
    can_add = bool(decision.unmet) and len(jobs) < min(decision.depth_target, soft + 20)
    if not can_add or shares[0] > 0:
        assert bool(decision.items) == can_add


def test_outstanding_statuses_are_what_the_depth_counts() -> None:
    counts = Queue([("selfplay", "hex8_2p")] * 3).counts()
    assert counts.depth == sum(counts.by_kind["selfplay"][status] for status in OUTSTANDING) == 3
