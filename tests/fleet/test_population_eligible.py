"""Nothing is queued that would have nothing to work on."""

from __future__ import annotations

from fleet.job import JobCounts, JobStatus
from fleet.options import EloTarget, FleetOptions
from fleet.population import Snapshot, decide
from fleet.ratings import ConfigStandings, Standings
from fleet.stock import Stock
from tests.fleet.population_stage import (
    EVERYTHING_READY,
    FLEET,
    NOW,
    WEAK,
    Queue,
    options,
    populate,
)


def test_training_waits_for_the_games_of_that_configuration() -> None:
    queue = Queue(games=299)
    queue.games["hex8_2p"] = 300
    decision = populate(queue)
    assert {item.config for item in decision.items if item.kind == "training"} == {"hex8_2p"}
    assert queue.mix() == (42, 1, 7)


def test_training_waits_for_new_games_since_the_last_model() -> None:
    def trained(gathered: int, trained_on: int | None) -> bool:
        stock = {"hex8_2p": Stock(gathered, 1, trained_on)}
        items = populate(Queue(), options(configs=["hex8_2p"]), stock=stock).items
        return any(item.kind == "training" for item in items)

    assert [trained(300, None), trained(300, 151), trained(300, 150), trained(449, 300), trained(450, 300)] == [
        True, False, True, False, True,
    ]  # fmt: skip
    assert not trained(299, 0)


def test_games_that_jobs_played_but_nobody_gathered_are_nothing_to_train_on() -> None:
    counts = JobCounts(dict.fromkeys(JobStatus, 0), {}, {}, {"hex8_2p": 10_000})
    decision = decide(Snapshot(NOW, counts, EVERYTHING_READY), options(configs=["hex8_2p"]), FLEET)
    assert {item.kind for item in decision.items} == {"selfplay", "tournament"}


def test_nobody_can_ask_for_training_without_a_game() -> None:
    decision = populate(Queue(games=0), options(min_games_for_training=0))
    assert {item.kind for item in decision.items} == {"selfplay", "tournament"}


def test_a_configuration_has_one_training_outstanding_at_most_and_the_others_take_its_share() -> None:
    queue = Queue()
    one = options(configs=["hex8_2p"])
    populate(queue, one)
    assert queue.mix() == (48, 1, 1)
    for index in range(49, -1, -1):
        if queue.jobs[index][0] != "training":
            queue.finish(index)
    populate(queue, one)
    assert len(queue.jobs) == 50
    assert queue.mix()[1] == 1


def test_a_configuration_may_ask_for_more_or_fewer_games_before_training() -> None:
    targets = {"hex8_2p": EloTarget(min_games_for_training=1000), "hex8_3p": EloTarget(min_games_for_training=1)}
    fleet = FleetOptions(jobs=FLEET.jobs, elo_targets=targets)
    queue = Queue(games=0)
    queue.games |= {"hex8_2p": 999, "hex8_3p": 1}
    decision = populate(queue, fleet=fleet)
    assert {item.config for item in decision.items if item.kind == "training"} == {"hex8_3p"}


def test_without_games_or_ratings_there_is_only_self_play() -> None:
    queue = Queue(games=0)
    populate(queue, standings=Standings())
    assert queue.mix() == (50, 0, 0)


def test_a_tournament_needs_a_model_or_two_rated_participants() -> None:
    known = {
        "hex8_2p": ConfigStandings(WEAK, models=1, rated=1),
        "hex8_3p": ConfigStandings(None, models=0, rated=2),
        "hex8_4p": ConfigStandings(None, models=0, rated=1),
    }
    stock = {"go9_2p": Stock(models=1), "go9_3p": Stock(gathered=1000)}
    decision = populate(Queue(), standings=Standings(known), stock=stock)
    compared = {item.config for item in decision.items if item.kind == "tournament"}
    assert compared == {"hex8_2p", "hex8_3p", "go9_2p"}


def test_when_nothing_can_be_queued_yet_the_reason_is_given() -> None:
    decision = populate(Queue(games=0), options(selfplay_ratio=0, training_ratio=1, tournament_ratio=0))
    assert decision.items == ()
    assert decision.reason == "no configuration has the games or the participants that the kinds of jobs need"
