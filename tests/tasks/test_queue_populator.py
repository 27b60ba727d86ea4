"""The queue populator on a real server and a real rating store, and what its options refuse."""

from __future__ import annotations

import logging
import sqlite3
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from fleet.elo_board import EloBoard
from fleet.fence import Fence, FenceRefused
from fleet.fleet import Fleet
from fleet.jobs import Holder, JobCounts, JobQueue, JobSpec, JobStatus
from fleet.kinds import JobKind
from fleet.notices import Notice
from fleet.options import FleetOptions
from fleet.priority import CURRICULUM_WEIGHTS
from fleet.rating_options import RatingOptions
from tasks.loop import Tick
from tasks.queue_populator import Options, queue_populator

NOW = 1_800_000_000.0
HOLDER = Holder("node-a", "token")
KINDS = {kind: JobKind(command=("true",)) for kind in ("selfplay", "training", "tournament")}


@pytest.fixture
def fleet(fleet: Fleet) -> Fleet:
    return replace(fleet, options=FleetOptions(jobs=KINDS))


def run(fleet: Fleet, tick: Tick | None = None, **options: Any) -> dict[str, int]:
    return dict(queue_populator(fleet, Options.model_validate(options), tick or Tick(now=NOW)))


def rate(
    fleet: Fleet, rating: float, *configs: str, deviation: float = 30.0, games: int = 200, name: str = "gen9"
) -> None:
    """Write a rating store as another program would."""
    db = sqlite3.connect(fleet.data / "unified_elo.db", isolation_level=None)
    db.execute(
        "CREATE TABLE IF NOT EXISTS elo_ratings (participant_id TEXT, board_type TEXT, num_players INTEGER,"
        " rating REAL, games_played INTEGER, rating_deviation REAL, last_update REAL)"
    )
    for config in configs:
        board, players = config.removesuffix("p").split("_")
        row = (name, board, int(players), rating, games, deviation, NOW)
        db.execute("INSERT INTO elo_ratings VALUES (?, ?, ?, ?, ?, ?, ?)", row)
    db.close()


def finish(fleet: Fleet, number: int, games: int = 50) -> Counter[str]:
    """Let a node do the `number` best jobs."""
    done = Counter[str]()
    for _ in range(number):
        job = fleet.jobs.claim(HOLDER, ["cpu"])
        assert job is not None
        assert fleet.jobs.start(HOLDER, job.id, job.attempt)
        assert fleet.jobs.complete(HOLDER, job.id, job.attempt, {"games": games})
        done[job.kind] += 1
    return done


def hold(fleet: Fleet, node: str, **parts: Any) -> None:
    """Let a node say what it holds."""
    fleet.nodes.heartbeat(node, "agent", {}, now=NOW - 5)
    fleet.nodes.hold(node, parts)


def told(fleet: Fleet, title: str) -> list[str]:
    return [notice.body for _, notice in fleet.notices.recent() if notice.title == title]


def filled(fleet: Fleet) -> list[Notice]:
    return [notice for _, notice in fleet.notices.recent() if notice.title == "Job queue filled"]


# The story


def test_it_fills_the_queue_keeps_its_depth_and_refills_what_was_drained(fleet: Fleet) -> None:
    assert run(fleet) == {"added": 50, "depth": 50, "met": 0, "unmet": 12}
    assert run(fleet) == {"added": 0, "depth": 50, "met": 0, "unmet": 12}
    finish(fleet, 12)
    assert run(fleet) == {"added": 12, "depth": 50, "met": 0, "unmet": 12}
    assert fleet.jobs.counts().by_status[JobStatus.PENDING] == 50


def test_ten_ticks_without_a_drain_leave_one_queue_full(fleet: Fleet) -> None:
    for seq in range(1, 11):
        run(fleet, Tick(now=NOW + 60 * seq, seq=seq))
    assert fleet.jobs.counts().depth == 50


def test_claimed_and_running_jobs_are_not_made_up_for(fleet: Fleet) -> None:
    run(fleet)
    for _ in range(20):
        job = fleet.jobs.claim(HOLDER, ["cpu"])
        assert job is not None
        fleet.jobs.start(HOLDER, job.id, job.attempt)
    assert run(fleet)["added"] == 0


def test_jobs_that_somebody_else_enqueues_meanwhile_are_not_exceeded(fleet: Fleet) -> None:
    class Contended(JobQueue):
        def counts(self) -> JobCounts:
            counts = super().counts()
            self.enqueue([JobSpec("selfplay", "hex8_2p") for _ in range(30)])
            return counts

    contended = replace(fleet, jobs=Contended(fleet.redis))
    assert run(contended)["added"] == 20
    assert fleet.jobs.counts().depth == 50


def test_the_mix_follows_games_and_ratings_as_they_come_in(fleet: Fleet) -> None:
    options = {"configs": ["hex8_2p"], "min_games_for_training": 100}
    run(fleet, **options)
    assert fleet.jobs.counts().outstanding == {("selfplay", "hex8_2p"): 50}
    finish(fleet, 50)
    run(fleet, **options)
    assert fleet.jobs.counts().outstanding == {("selfplay", "hex8_2p"): 50}  # played, but nowhere gathered
    rate(fleet, 1500, "hex8_2p")
    hold(fleet, "central", games={"gathered": {"hex8_2p": 100}})
    hold(fleet, "other", games={"gathered": {"hex8_2p": 99}})
    finish(fleet, 50)
    run(fleet, **options)
    outstanding = fleet.jobs.counts().outstanding
    assert {kind: number for (kind, _), number in outstanding.items()} == {
        "selfplay": 48, "training": 1, "tournament": 1,
    }  # fmt: skip


def test_a_model_that_some_node_has_is_one_to_compare_and_its_games_are_old_ones_to_train_on(fleet: Fleet) -> None:
    known = {"versions": ["hex8_2p-g0001-0123456789ab"], "promoted": None, "trained_on": 1000}
    hold(fleet, "central", games={"gathered": {"hex8_2p": 1149}}, models={"hex8_2p": known})
    run(fleet, configs=["hex8_2p"], min_games_for_training=100)
    assert {kind for kind, _ in fleet.jobs.counts().outstanding} == {"selfplay", "tournament"}
    finish(fleet, 50)
    run(fleet, configs=["hex8_2p"], min_games_for_training=100, min_new_games_for_training=149)
    assert {kind for kind, _ in fleet.jobs.counts().outstanding} == {"selfplay", "training", "tournament"}


def test_jobs_carry_their_priority_payload_and_reason(fleet: Fleet) -> None:
    run(fleet, configs=["hex8_2p"], selfplay_games_per_item=7)
    job = fleet.jobs.claim(HOLDER, ["cpu"])
    assert job is not None
    assert job.priority == 54
    assert job.payload == {"games": 7, "reason": "target 2000: no model is rated yet"}


LOST = {"health": {"status": "lost", "at": NOW - 60}}
DRAINING = {"drain": {"at": NOW - 60}}


def nodes(fleet: Fleet, kind: str, number: int, *, silent: float = 5, **marks: Any) -> None:
    for name in (f"{kind}-{n}" for n in range(number)):
        fleet.nodes.heartbeat(name, "jobs", {}, now=NOW - silent)
        fleet.nodes.mark({name: marks})


def test_many_active_nodes_deepen_the_queue_and_those_that_take_no_jobs_do_not(fleet: Fleet) -> None:
    nodes(fleet, "active", 30)
    nodes(fleet, "suspect", 10, silent=100)
    nodes(fleet, "draining", 20, **DRAINING)
    nodes(fleet, "silent", 20, silent=7200)
    nodes(fleet, "left", 20)
    for number in range(20):
        fleet.nodes.leave(f"left-{number}", "jobs")
    assert run(fleet)["depth"] == 80


def test_while_nodes_are_lost_the_queue_fills_in_smaller_steps(fleet: Fleet) -> None:
    nodes(fleet, "active", 1)
    nodes(fleet, "lost", 1, silent=600, **LOST)
    assert [run(fleet)["added"] for _ in range(3)] == [25, 12, 6]


@pytest.mark.parametrize("marks", [DRAINING, LOST | DRAINING])
def test_a_node_that_drains_is_no_sign_of_an_ailing_cluster(fleet: Fleet, marks: dict[str, Any]) -> None:
    nodes(fleet, "active", 1)
    nodes(fleet, "draining", 1, silent=600, **marks)
    assert run(fleet)["added"] == 50


def test_a_lost_node_that_was_heard_again_is_active(fleet: Fleet) -> None:
    nodes(fleet, "active", 1)
    nodes(fleet, "back", 1, **LOST)
    assert run(fleet)["added"] == 50


def test_when_all_targets_are_met_nothing_is_added_and_the_next_look_is_later(fleet: Fleet) -> None:
    rate(fleet, 2100, *Options().config_names)
    tick = Tick(now=NOW)
    assert run(fleet, tick) == {"added": 0, "depth": 0, "met": 12, "unmet": 0}
    assert tick.wanted_after == 300

    tick = Tick(now=NOW)
    run(fleet, tick, all_met_interval="10m")
    assert tick.wanted_after == 600


def test_that_every_target_is_met_is_said_once_with_the_bounds(fleet: Fleet) -> None:
    configs = ["hex8_2p", "hex8_3p"]
    rate(fleet, 2100, "hex8_2p")
    run(fleet, configs=configs)
    assert told(fleet, "Every target is met") == []
    rate(fleet, 2200, "hex8_3p")
    for minutes in range(3):
        run(fleet, Tick(now=NOW + 60 * minutes), configs=configs)
    (body,) = told(fleet, "Every target is met")
    assert body == (
        "hex8_2p: target 2000: gen9 has 2100 after 200 games, lower bound 2041; "
        "hex8_3p: target 2000: gen9 has 2200 after 200 games, lower bound 2141"
    )


def test_the_targets_are_on_the_board_and_how_each_stands(fleet: Fleet) -> None:
    rate(fleet, 2100, "hex8_2p")
    run(fleet, configs=["hex8_2p", "hex8_3p"])
    run(fleet, Tick(now=NOW + 60), configs=["hex8_2p", "hex8_3p"])
    board = EloBoard(fleet.redis).read_targets()
    assert board["hex8_2p"] == {
        "target": 2000.0, "met": True, "since": NOW, "at": NOW + 60,
        "reason": "target 2000: gen9 has 2100 after 200 games, lower bound 2041",
    }  # fmt: skip
    assert (board["hex8_3p"]["met"], board["hex8_3p"]["reason"]) == (False, "target 2000: no model is rated yet")


def test_while_the_ratings_cannot_be_read_the_board_keeps_what_it_said(fleet: Fleet) -> None:
    rate(fleet, 2100, "hex8_2p")
    run(fleet, configs=["hex8_2p"])
    file = fleet.data / "unified_elo.db"
    sound = file.read_bytes()
    file.write_bytes(b"this was a database once " * 100)
    assert run(fleet, configs=["hex8_2p"])["unmet"] == 1
    assert EloBoard(fleet.redis).read_targets()["hex8_2p"]["met"] is True
    file.write_bytes(sound)
    run(fleet, configs=["hex8_2p"])
    assert len(told(fleet, "Every target is met")) == 1


def test_how_many_games_decide_is_the_clusters_choice(fleet: Fleet) -> None:
    rate(fleet, 2100, "hex8_2p", games=200)
    strict = replace(fleet, options=FleetOptions(jobs=KINDS, ratings=RatingOptions(min_games=201)))
    assert run(strict, configs=["hex8_2p"])["met"] == 0
    assert EloBoard(fleet.redis).read_targets()["hex8_2p"]["met"] is False
    assert run(fleet, configs=["hex8_2p"])["met"] == 1


def test_a_model_with_too_few_games_does_not_stand_for_the_others(fleet: Fleet) -> None:
    rate(fleet, 2600, "hex8_2p", games=50, name="young")
    rate(fleet, 2100, "hex8_2p", games=300, name="proven")
    strict = replace(fleet, options=FleetOptions(jobs=KINDS, ratings=RatingOptions(min_games=51)))
    run(strict, configs=["hex8_2p"])
    assert EloBoard(fleet.redis).read_targets()["hex8_2p"]["reason"].startswith("target 2000: proven has 2100")


def test_a_deposed_leader_changes_nothing_on_the_board(fleet: Fleet) -> None:
    guard = "{backbeat}:leader:guard"
    fleet.redis.hset(guard, mapping={"fence": 8, "owner": "the new leader"})
    rate(fleet, 2100, "hex8_2p")  # so nothing is to be enqueued
    deposed = Fence(leader=7, owner="the old leader", run="", guard_key=guard, loop_key="")
    with pytest.raises(FenceRefused):
        run(fleet, Tick(now=NOW, fence=deposed), configs=["hex8_2p"])
    assert EloBoard(fleet.redis).read_targets() == {}


def test_one_unmet_target_keeps_the_usual_interval_and_gets_all_the_work(fleet: Fleet) -> None:
    rate(fleet, 2100, *(name for name in Options().config_names if name != "hexagonal_4p"))
    rate(fleet, 2100, "hexagonal_4p", deviation=60)
    tick = Tick(now=NOW)
    assert run(fleet, tick) == {"added": 50, "depth": 50, "met": 11, "unmet": 1}
    assert tick.wanted_after is None
    assert {config for _, config in fleet.jobs.counts().outstanding} == {"hexagonal_4p"}


def test_a_deposed_leader_adds_nothing(fleet: Fleet) -> None:
    guard = "{backbeat}:leader:guard"
    fleet.redis.hset(guard, mapping={"fence": 8, "owner": "the new leader"})
    deposed = Fence(leader=7, owner="the old leader", run="", guard_key=guard, loop_key="")
    with pytest.raises(FenceRefused):
        run(fleet, Tick(now=NOW, fence=deposed))
    assert fleet.jobs.counts().depth == 0
    assert fleet.notices.recent() == []
    assert EloBoard(fleet.redis).read_targets() == {}


def test_ratings_that_cannot_be_read_are_told_of_and_do_not_stop_the_games(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    (fleet.data / "unified_elo.db").write_bytes(b"this was a database once " * 100)
    with caplog.at_level(logging.ERROR, "backbeat.notices"):
        counts = run(fleet)
    assert counts == {"added": 50, "depth": 50, "met": 0, "unmet": 12, "ratings_unreadable": 1}
    assert {kind for kind, _ in fleet.jobs.counts().outstanding} == {"selfplay"}
    assert "unified_elo.db: file is not a database; no target counts as met" in caplog.text


def test_ten_jobs_are_worth_a_notice_and_nine_are_not(fleet: Fleet) -> None:
    run(fleet)
    (notice,) = filled(fleet)
    assert notice.body == "50 jobs added (50 selfplay); 50 outstanding; 12 of 12 targets unmet"
    finish(fleet, 9)
    run(fleet)
    assert len(filled(fleet)) == 1
    finish(fleet, 10)
    run(fleet)
    assert len(filled(fleet)) == 2


def test_no_kind_with_a_command_is_an_error_and_not_a_silent_stall(fleet: Fleet) -> None:
    nothing = replace(fleet, options=FleetOptions(jobs={}))
    with pytest.raises(ValueError, match="no kind of job can be queued"):
        run(nothing)


def test_it_is_declared_for_the_leader_only() -> None:
    assert queue_populator.name == "queue_populator"
    assert queue_populator.leader_only
    assert "Idempotent" in (queue_populator.body.__doc__ or "")


# Options


def test_the_defaults_are_twelve_configurations_and_60_30_10() -> None:
    options = Options()
    assert len(options.config_names) == 12
    assert (options.selfplay_ratio, options.training_ratio, options.tournament_ratio) == (0.6, 0.3, 0.1)
    assert options.all_met_interval == 300
    assert options.curriculum_weights == CURRICULUM_WEIGHTS


def test_configurations_are_given_by_name_or_by_boards_and_players() -> None:
    assert Options(configs=("hex8_2p", "square8_3p", "hex8_2p")).config_names == ("hex8_2p", "square8_3p")
    assert Options(board_types=("hex8",), player_counts=(2, 4)).config_names == ("hex8_2p", "hex8_4p")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"selfplay_ratio": 0.5}, r"must be 1, not 0\.5 \+ 0\.3 \+ 0\.1 = 0\.9"),
        ({"selfplay_ratio": 1.2, "training_ratio": 0, "tournament_ratio": -0.2}, "less than or equal to 1"),
        ({"min_queue_depth": 0}, "greater than or equal to 1"),
        ({"min_queue_depth": 2000}, r"max_queue_depth \(1000\) is below min_queue_depth \(2000\)"),
        ({"backpressure_soft": 1000}, r"backpressure_hard \(1000\) must be above backpressure_soft \(1000\)"),
        ({"configs": ["hex8"]}, "'hex8' is not a board configuration such as hex8_2p"),
        ({"configs": ["hex8_2p"], "board_types": ["hex8"]}, "either configs or board_types and player_counts"),
        ({"configs": []}, "no configuration is left to train"),
        ({"board_types": []}, "no configuration is left to train"),
        ({"player_counts": [1]}, "greater than or equal to 2"),
        ({"all_met_interval": "soon"}, "'soon' is not a duration"),
        ({"board_priority_overrides": {"hex8_2p": 4}}, "less than or equal to 3"),
        ({"curriculum_weights": {"hex8_2p": 0}}, "greater than 0"),
        ({"min_depth": 50}, "Extra inputs are not permitted"),
    ],
)
def test_a_mistake_in_the_options_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Options.model_validate(given)


def test_ratios_may_miss_1_by_a_rounding_error() -> None:
    thirds = {"selfplay_ratio": 0.3333333, "training_ratio": 0.3333333, "tournament_ratio": 0.3333333}
    assert Options.model_validate(thirds).selfplay_ratio == pytest.approx(1 / 3)
