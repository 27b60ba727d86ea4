"""Tournaments go where they tell most: to models of whom little is known, and not to those that are rated tightly."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from fleet.jobs import AGEING
from fleet.population import LEAST_URGENCY, urgency
from fleet.ratings import ConfigStandings, Standing, Standings
from fleet.stock import Stock
from tests.fleet.population_stage import Queue, options, populate

SURE = Standing("g1", 1600.0, 20.0, 900)


def standing(*models: Standing, best: Standing = SURE) -> ConfigStandings:
    return ConfigStandings(best, len(models), len(models) + 2, (), {one.participant: one for one in (best, *models)})


def test_a_tournament_of_an_unknown_model_is_urgent_and_of_well_known_ones_is_not() -> None:
    adrift = Standing("g2", 1600.0, 20.0, 900, anchored=False)
    for unknown in (standing(), standing(Standing("g2", 1600.0, 20.0, 29)), standing(adrift)):
        assert urgency(unknown, "g2", 30) == 1
    assert urgency(ConfigStandings(), None, 30) == 1
    assert urgency(standing(Standing("g2", 1500.0, 20.0, 900)), "g2", 30) == LEAST_URGENCY
    assert urgency(standing(), None, 30) == LEAST_URGENCY
    assert urgency(standing(Standing("g2", 1500.0, 175.0, 40)), "g2", 30) == 0.5
    assert urgency(standing(Standing("g2", 1500.0, 20.0, 40), best=Standing("g1", 1600.0, 175.0, 40)), "g2", 30) == 0.5


@given(st.floats(0, 500), st.floats(0, 500), st.floats(0, 100), st.integers(0, 60), st.booleans())
def test_it_is_never_nothing_and_grows_with_what_is_not_known(
    newest: float, best: float, more: float, games: int, rated: bool
) -> None:
    def of(newest: float, best: float, games: int) -> float:
        models = [Standing("g2", 1500.0, newest, games)] if rated else []
        return urgency(standing(*models, best=Standing("g1", 1600.0, best, 99)), "g2", 30)

    found = of(newest, best, games)
    assert LEAST_URGENCY <= found <= 1
    assert of(newest + more, best, games) >= found
    assert of(newest, best + more, games) >= found
    assert of(newest, best, max(0, games - 1)) >= found


def test_tournaments_go_to_the_unrated_candidate_and_self_play_is_shared_as_before() -> None:
    wanted = options(configs=["hex8_3p", "go9_3p"], curriculum_weights={"hex8_3p": 0.5, "go9_3p": 0.5})
    known = Standings({"hex8_3p": standing(), "go9_3p": standing()})
    stock = {"hex8_3p": Stock(models=1, newest="g1"), "go9_3p": Stock(models=2, newest="g2")}
    queue, done = Queue(games=0), Counter[tuple[str, str]]()
    for _ in range(1200):
        items = populate(queue, wanted, standings=known, stock=stock).items
        for item in items:
            if item.kind == "tournament":
                assert item.priority == (84 if item.config == "go9_3p" else 81)
        done[queue.finish(0)] += 1
    known_one, unrated = done["tournament", "hex8_3p"], done["tournament", "go9_3p"]
    assert 2 * known_one < unrated < 8 * known_one
    assert 0.8 < done["selfplay", "hex8_3p"] / done["selfplay", "go9_3p"] < 1.25


def test_nodes_that_work_by_priority_give_every_configuration_its_share_of_self_play() -> None:
    """Two slots, a job 20 s, filled again each minute, claimed as the queue does: first by priority, then by age."""
    wanted = options(configs=["square8_3p", "square6_2p", "hex5_2p"], min_queue_depth=24)
    known = Standings({"square8_3p": standing(Standing("g2", 1580.0, 60.0, 200))})
    stock = {"square8_3p": Stock(models=2, newest="g2")}
    queue, done = Queue(games=0), Counter[tuple[str, str]]()
    waiting: list[tuple[float, tuple[str, str]]] = []
    for second in range(0, 900, 20):
        if second % 60 == 0:
            items = populate(queue, wanted, standings=known, stock=stock).items
            waiting += [(second - AGEING / 1000 * item.priority, (item.kind, item.config)) for item in items]
            waiting.sort(key=lambda each: each[0])
        for _, job in waiting[:2]:
            queue.finish(queue.jobs.index(job))
            done[job] += 1
        del waiting[:2]
    assert sum(times for (kind, _), times in done.items() if kind == "selfplay") > 0.6 * done.total()
    assert min(done["selfplay", config] for config in wanted.config_names) > 0.15 * done.total()
