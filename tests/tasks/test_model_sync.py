"""Models on the way between three nodes, with a store in a folder."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError
from redis import Redis

from fleet.fence import UNFENCED, Fence, FenceRefused
from fleet.fleet import Fleet
from fleet.match_ratings import Rules, settle
from fleet.model_promotion import contests
from fleet.model_registry import ModelRegistry
from fleet.models import Manifest, holdings
from fleet.notices import Notice
from fleet.promotion import decide
from fleet.ratings import read_everybody
from fleet.store import Store, StoreUnavailable
from tasks.loop import Tick
from tasks.model_sync import Options, model_sync
from tests.fleet.match_stage import matches, played
from tests.fleet.model_stage import contents, leave, stocked, version
from tests.tasks.nodes_stage import Nodes
from workers.agent import AgentStep

CONFIG = "hex5_2p"


def name(number: int, config: str = CONFIG) -> str:
    return version(number, config).version


class Stage:
    """Nodes n1 to n3, each with the store; `run` is a run of the loop on n1, `seconds` after the last."""

    def __init__(self, redis: Redis, folder: Path) -> None:
        self.nodes, self.store = Nodes(redis, folder, "n1", "n2", "n3"), Store(str(folder / "store"))
        self.folder, self.registry = folder, ModelRegistry(self.store)
        for each in ("n1", "n2", "n3"):
            self.nodes.change(each, store=self.store)
        self._redis, self._later = redis, 0.0

    def run(
        self, seconds: float = 120.0, *, fence: Fence | None = None, within: float = 1e9, **options: Any
    ) -> dict[str, Any]:
        self.nodes.report()
        seconds_of_redis, micro = self._redis.time()
        now = seconds_of_redis + micro / 1e6 + self._later
        self._later += seconds
        for each in ("n1", "n2", "n3"):
            self.nodes[each].nodes.heartbeat(each, "agent", {"host": each, "pid": 1}, now=now)
        tick = Tick(now=now, deadline=now + within, fence=fence or UNFENCED)
        return dict(model_sync(self.nodes["n1"], Options.model_validate(options), tick))

    def listed(self, node: str, config: str = CONFIG) -> list[str]:
        return [each.version for each in Manifest.read(self.nodes[node].data, config).versions]

    def promoted(self, node: str) -> str | None:
        return Manifest.read(self.nodes[node].data, CONFIG).promoted


@pytest.fixture
def stage(redis: Redis, tmp_path: Path) -> Stage:
    return Stage(redis, tmp_path)


def rated(fleet: Fleet, **ratings: tuple[float, float, int]) -> None:
    """Ratings as elo_sync leaves them on a node: rating, deviation, games."""
    with sqlite3.connect(fleet.data / "unified_elo.db") as db:
        db.execute(
            "CREATE TABLE IF NOT EXISTS elo_ratings (participant_id TEXT, board_type TEXT, num_players INT,"
            " rating REAL, games_played INT, rating_deviation REAL, last_update REAL)"
        )
        db.execute("DELETE FROM elo_ratings")
        for participant, (rating, deviation, games) in ratings.items():
            row = (participant, "hex5", 2, rating, games, deviation, 1.0)
            db.execute(
                "INSERT INTO elo_ratings (participant_id, board_type, num_players, rating, games_played,"
                " rating_deviation, last_update) VALUES (?, ?, ?, ?, ?, ?, ?)",
                row,
            )
    db.close()


def test_without_a_store_there_is_nothing_to_do(fleet: Fleet) -> None:
    assert model_sync(fleet, Options(), Tick(now=1.0)) == {"without_store": 1}


def test_a_model_left_on_one_node_reaches_all(stage: Stage) -> None:
    leave(stage.nodes["n2"].data, 1)
    counts = stage.run()
    assert {key: counts[key] for key in ("published", "pulled", "missing", "failed")} == {
        "published": 1,
        "pulled": 2,
        "missing": 0,
        "failed": 0,
    }
    assert counts["bytes"] == 3 * len(contents(1))
    for node in ("n1", "n2", "n3"):
        assert stage.listed(node) == [name(1)]
        assert (stage.nodes[node].data / "models" / CONFIG / name(1)).read_bytes() == contents(1)
    quiet = stage.run()
    assert {key: quiet[key] for key in ("published", "pulled", "bytes", "missing")} == {
        "published": 0,
        "pulled": 0,
        "bytes": 0,
        "missing": 0,
    }
    assert stage.nodes.asked == [("n2", "publish_models"), ("n1", "pull_model"), ("n3", "pull_model")]


def test_a_run_moves_no_more_than_it_may_and_the_next_ones_the_rest(stage: Stage) -> None:
    stocked(stage.store, stage.folder, *(version(number) for number in range(1, 4)))
    for left in (7, 5, 3, 1, 0):
        assert stage.run(max_transfers_per_cycle=2)["missing"] == left
    assert stage.listed("n3") == [name(1), name(2), name(3)]


def test_a_run_that_has_time_for_one_transfer_a_node_begins_with_the_first(stage: Stage) -> None:
    stocked(stage.store, stage.folder, version(1), version(2))
    assert stage.run(within=300, max_transfers_per_cycle=6)["pulled"] == 3
    assert {tuple(stage.listed(node)) for node in ("n1", "n2", "n3")} == {(name(2),)}


def test_the_stronger_is_promoted_everywhere_and_an_operator_hears_how_sure_it_is(stage: Stage) -> None:
    stocked(stage.store, stage.folder, version(1), version(2))
    assert stage.run(max_transfers_per_cycle=6)["pulled"] == 6
    rated(stage.nodes["n1"], **{"random": (400, 0, 100), name(1): (700, 20, 60)})
    counts = stage.run()
    assert (counts["promoted"], counts["listed"], counts["converged"], counts["behind"]) == (1, 3, 3, 0)
    assert [stage.promoted(node) for node in ("n1", "n2", "n3")] == [name(1)] * 3
    assert stage.run()["converged"] == 3
    rated(stage.nodes["n1"], **{"random": (400, 0, 100), name(1): (700, 20, 60), name(2): (730, 20, 60)})
    assert stage.run()["promoted"] == 0  # it may be luck
    rated(stage.nodes["n1"], **{"random": (400, 0, 100), name(1): (700, 20, 60), name(2): (800, 20, 60)})
    assert stage.run()["promoted"] == 1
    known = stage.registry.read()[CONFIG]
    assert (known.promoted, known.previous, known.promotions[-1].by) == (name(2), name(1), "n1")
    assert {stage.promoted(node) for node in ("n1", "n2", "n3")} == {name(2)}
    (_, second), (_, first) = stage.nodes["n1"].notices.recent()
    assert first.title == second.title == "Model promoted"
    assert second.body.startswith(f"{name(2)} in place of {name(1)}: +100 Elo, at least +53 with 95 % certainty")
    stage.registry.roll_back(known, now=1.0, by="operator", why="")
    assert stage.run()["promoted"] == 0  # what was rolled back stays so
    assert {stage.promoted(node) for node in ("n1", "n2", "n3")} == {name(1)}


def test_two_that_met_each_other_are_surer_of_their_difference_than_of_their_ratings(stage: Stage) -> None:
    stocked(stage.store, stage.folder, version(1), version(2))
    stage.registry.promote(stage.registry.read()[CONFIG], name(1), now=1.0, by="operator", why="")
    number, fleet = count(), stage.nodes["n1"]
    with matches(fleet.data / "unified_elo.db") as found:
        for one, other, wins, losses in (
            (name(1), "random", 40, 1), (name(2), "random", 40, 1), (name(2), name(1), 40, 20),
        ):  # fmt: skip
            for ranks, times in (((1, 2), wins), ((2, 1), losses)):
                found.merge(played(next(number), (one, other), ranks, board="hex5") for _ in range(times))
        settle(found.db, Rules())
    everybody = read_everybody(fleet.data / "unified_elo.db")
    (contest,) = contests(stage.registry.read().configs.values(), everybody)
    assert decide(contest, fleet.options.ratings).version is None, "by published ratings it may be luck"
    assert stage.run()["promoted"] == 1
    assert stage.registry.read()[CONFIG].promoted == name(2)


def test_ratings_that_cannot_be_read_promote_nothing_and_stop_nothing(stage: Stage) -> None:
    stocked(stage.store, stage.folder, version(1))
    (stage.nodes["n1"].data / "unified_elo.db").write_bytes(b"this is no database, but long enough" * 50)
    counts = stage.run()
    assert (counts["promoted"], counts["pulled"]) == (0, 3)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda store: store.write(version(1).blob, contents(2)), "corrupt"),
        (lambda store: store.write(version(1).blob, b""), "corrupt"),
        (lambda store: store.delete(version(1).blob), "missing"),
    ],
)
def test_what_cannot_be_had_is_counted_and_rests_and_the_rest_arrives(
    stage: Stage, spoil: Callable[[Store], None], reason: str
) -> None:
    stocked(stage.store, stage.folder, version(1), version(2))
    spoil(stage.store)
    counts = stage.run(max_transfers_per_cycle=10)
    assert (counts["pulled"], counts["failed"], counts[reason]) == (3, 3, 3)
    assert stage.listed("n2") == [name(2)]
    counts = stage.run(max_transfers_per_cycle=10, seconds=1)
    assert (counts["failed"], counts["missing"], counts["resting"]) == (3, 3, 3)
    assert stage.run()["resting"] == 3
    stocked(stage.store, stage.folder, version(1))
    stage.store.put(stage.folder / "source", version(1).blob)
    assert stage.run()["pulled"] == 3
    stage.run()
    assert stage.nodes["n1"].nodes.all()[0].marks["models"]["tries"] == {}


def test_a_node_that_says_nothing_keeps_nobody_waiting(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.model_asking.ANSWER_WITHIN", -0.5)
    stocked(stage.store, stage.folder, version(1), version(2))
    stage.nodes.away.add("n3")
    options: dict[str, Any] = {"transfer_timeout": 1, "max_transfers_per_cycle": 4}
    counts = stage.run(**options)
    assert counts["silent"] == counts["failed"] >= 1
    counts = stage.run(1, **options)
    while counts["pulled"]:
        counts = stage.run(1, **options)
    assert stage.listed("n1") == stage.listed("n2") == [name(1), name(2)]
    assert counts["missing"] == counts["resting"] == 2


def test_hostile_leftovers_and_records_are_counted_and_the_rest_goes_on(stage: Stage) -> None:
    leave(stage.nodes["n1"].data, 1, config="../../etc_2p")
    leave(stage.nodes["n1"].data, 2)
    stage.store.write("models/hex5_2p/versions/huge.json", b" " * 100_000)
    counts = stage.run()
    assert (counts["set_aside"], counts["published"], counts["refused"], counts["pulled"]) == (1, 1, 1, 2)
    assert holdings(stage.nodes["n1"].data)["refused"] == 1


def test_a_store_that_is_away_fails_the_run_with_its_reason(stage: Stage) -> None:
    (stage.folder / "file").write_bytes(b"")
    for each in ("n1", "n2", "n3"):
        stage.nodes.change(each, store=Store(str(stage.folder / "file" / "store")))
    leave(stage.nodes["n2"].data, 1)
    with pytest.raises(StoreUnavailable, match="file/store"):
        stage.run()


def test_a_node_without_a_store_says_so(stage: Stage) -> None:
    stocked(stage.store, stage.folder, version(1))
    stage.nodes.change("n3", store=None)
    counts = stage.run()
    assert (counts["pulled"], counts["unavailable"]) == (2, 1)


def test_what_is_long_unwanted_is_pruned_from_the_store_but_never_its_record(stage: Stage) -> None:
    old = [version(number, created_at=1000.0 + number) for number in range(1, 5)]
    stocked(stage.store, stage.folder, *old)
    options: dict[str, Any] = {"store_candidates": 1, "store_for": "1h", "keep_candidates": 1}
    assert stage.run(**options)["pruned"] == 0  # put there lately
    counts = stage.run(seconds=7200, **options)
    counts = stage.run(seconds=7200, **options)
    assert counts["pruned"] == 3
    assert [entry.key for entry in stage.store.list("blobs")] == [version(4).blob]
    assert len(stage.registry.read()[CONFIG].versions) == 4
    assert stage.run(**options)["failed"] == 0


def test_what_nodes_should_hold_stays_in_the_store_whatever_it_is_told_to_keep(stage: Stage) -> None:
    stocked(stage.store, stage.folder, *(version(number, created_at=1000.0 + number) for number in range(1, 5)))
    options: dict[str, Any] = {"store_candidates": 1, "store_for": "1h", "keep_candidates": 3}
    stage.run(seconds=7200, **options)
    assert stage.run(seconds=7200, **options)["pruned"] == 1
    assert {entry.key for entry in stage.store.list("blobs")} == {version(number).blob for number in (2, 3, 4)}


def test_a_process_that_is_to_end_stops_its_transfers(stage: Stage) -> None:
    stocked(stage.store, stage.folder, version(1))
    fleet = stage.nodes["n2"]
    AgentStep._resign(SimpleNamespace(lease=None, presence=None, backbeat=SimpleNamespace(fleet=fleet)))  # type: ignore[arg-type]
    counts = stage.run()
    assert (counts["pulled"], counts["stopped"]) == (2, 1)
    fleet.stopping.clear()
    assert stage.run()["pulled"] == 1


def test_a_run_that_ends_with_its_process_holds_nothing_against_whom_it_did_not_wait_for(stage: Stage) -> None:
    stocked(stage.store, stage.folder, version(1))
    stage.nodes.away.update(("n1", "n2", "n3"))
    stage.nodes["n1"].stopping.set()
    counts = stage.run()
    assert (counts["pulled"], counts["failed"], counts["resting"]) == (0, 0, 0)


def test_nodes_that_leave_are_not_served(stage: Stage) -> None:
    stocked(stage.store, stage.folder, version(1))
    stage.nodes["n1"].nodes.mark({"n3": {"drain": {"at": 1.0}}})
    assert stage.run()["pulled"] == 2


def test_a_run_that_was_replaced_remembers_nothing(stage: Stage) -> None:
    stocked(stage.store, stage.folder, version(1))
    stage.store.delete(version(1).blob)
    stage.nodes["n1"].redis.hset("{backbeat}:loop:model_sync", "run", "the next one")
    late = Fence(leader=0, owner="", run="this one", guard_key="", loop_key="{backbeat}:loop:model_sync")
    with pytest.raises(FenceRefused):
        stage.run(fence=late)
    assert all("models" not in node.marks for node in stage.nodes["n1"].nodes.all())


def test_any_node_may_run_it() -> None:
    assert not model_sync.leader_only


def test_a_notice_is_what_the_dashboards_expect() -> None:
    assert Notice("Model promoted").severity == "info"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_transfers_per_cycle": 0}, "greater than or equal to 1"),
        ({"transfer_timeout": "2h"}, "less than or equal to 3600"),
        ({"priority_configs": ["../etc"]}, "is not a board configuration"),
        ({"store_for": "1m"}, "greater than or equal to 3600"),
        ({"keep": 3}, "Extra inputs"),
    ],
)
def test_a_mistake_in_the_options_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Options.model_validate(given)
