"""Nodes are asked for their games, and the central one gathers them, by way of a real store."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from redis import Redis

from fleet.fence import Fence, FenceRefused
from fleet.gathering import Memory
from fleet.gathering_state import GATHERING, GatheringState, Record
from fleet.store import Store
from tasks.data_aggregation import Options, data_aggregation
from tasks.loop import Tick
from tests.fleet.games_stage import gathered, keys, play, put
from tests.tasks.nodes_stage import Nodes


class Stage:
    """Nodes with a store, of which n1 is central unless said otherwise."""

    def __init__(self, redis: Redis, folder: Path, *names: str, central: tuple[str, ...] = ("n1",)) -> None:
        self.redis, self.folder = redis, folder
        self.nodes = Nodes(redis, folder, *names, capabilities={name: ["cpu", "central"] for name in central})
        self.store = Store(str(folder / "store"))
        for name in names:
            self.nodes.change(name, store=self.store)
        seconds, micros = redis.time()
        self.now = seconds + micros / 1e6

    def play(self, name: str, number: int, config: str = "hex5_2p") -> set[str]:
        played = play(self.folder / name, number, config)
        self.nodes.report()
        return played

    def run(self, *, after: float = 0.0, tick: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
        given = Options.model_validate({"min_games": 10, "export_timeout": 10, "ingest_timeout": 10, **options})
        self.now += after
        for name in self.nodes.fleets if after else ():
            self.nodes[name].nodes.heartbeat(name, "agent", {"host": name, "pid": 1}, now=self.now)
        return dict(data_aggregation(self.nodes["n1"], given, Tick(now=self.now, **(tick or {}))))

    def notices(self) -> list[str]:
        return [notice.body for _, notice in self.nodes["n1"].notices.recent()]


@pytest.fixture
def stage(redis: Redis, tmp_path: Path) -> Stage:
    return Stage(redis, tmp_path, "n1", "n2", "n3")


def test_the_games_of_all_nodes_come_to_the_central_one(stage: Stage, tmp_path: Path) -> None:
    played = stage.play("n1", 12) | stage.play("n2", 30, "hex4_3p") | stage.play("n3", 10)
    done = stage.run()
    assert (done["asked"], done["exported"], done["gathered"], done["shards"]) == (3, 52, 52, 3)
    assert (done["doubled"], done["refused"], done["failed"], done["unaccounted"]) == (0, 0, 0, 0)
    assert done["bytes"] == done["bytes_exported"] > 0
    assert gathered(tmp_path / "n1") == played
    held = {node.node_id: node.held["games"] for node in stage.nodes["n1"].nodes.all()}
    assert held["n1"] == {"new": {}, "sent": {"hex5_2p": 12}, "gathered": {"hex5_2p": 22, "hex4_3p": 30}}
    assert held["n2"] == {"new": {}, "sent": {"hex4_3p": 30}, "gathered": {}}
    assert stage.run()["asked"] == 0  # what was gathered is not new any more
    stage.nodes.report()
    assert stage.run(after=1_800)["asked"] == 3  # to hear what became of what they sent
    assert stage.run(after=1_800)["asked"] == 0
    assert keys(stage.store, "receipts") == []
    assert stage.notices() == []


def test_fewer_games_wait_for_a_while_and_then_come_too(stage: Stage, tmp_path: Path) -> None:
    played = stage.play("n2", 9)
    assert stage.run()["asked"] == 0
    assert stage.run(after=1_799)["asked"] == 0
    assert stage.run(after=2)["gathered"] == 9
    assert gathered(tmp_path / "n1") == played


def test_a_node_that_drains_is_asked_at_once(stage: Stage) -> None:
    stage.play("n2", 1)
    stage.play("n3", 1)
    stage.nodes["n1"].nodes.mark({"n2": {"drain": {"at": stage.now, "by": "auto_scaling"}}})
    assert stage.run()["gathered"] == 1
    assert stage.nodes.asked == [("n2", "export_games"), ("n1", "ingest_games")]


def test_a_node_that_says_nothing_is_left_alone_and_holds_up_no_other(stage: Stage, tmp_path: Path) -> None:
    lost, played = stage.play("n2", 20), stage.play("n3", 10)
    stage.nodes.away.add("n2")
    done = stage.run(export_timeout=0.3)
    assert (done["asked"], done["failed"], done["gathered"]) == (2, 1, 10)
    assert gathered(tmp_path / "n1") == played
    stage.nodes.away.clear()
    assert stage.run()["backing_off"] == 1
    done = stage.run(after=60)  # at most: the delay has jitter
    assert (done["failed"], done["backing_off"], done["gathered"]) == (0, 0, 20)
    assert gathered(tmp_path / "n1") == played | lost


def test_a_node_with_a_broken_file_is_counted_and_left_alone(stage: Stage, tmp_path: Path) -> None:
    stage.play("n2", 20)
    (tmp_path / "n2" / "games.db").write_bytes(b"nonsense " * 1_000)
    for suffix in ("-wal", "-shm"):
        (tmp_path / "n2" / f"games.db{suffix}").unlink(missing_ok=True)
    assert stage.run()["failed"] == 1
    assert (tmp_path / "n2" / "games.db").read_bytes().startswith(b"nonsense")


def test_without_a_store_nothing_is_asked(stage: Stage) -> None:
    stage.play("n2", 20)
    stage.nodes.change("n1", store=None)
    assert stage.run() == {"without_store": 1}
    assert stage.nodes.asked == []


def test_a_node_without_a_store_counts_as_failed(stage: Stage) -> None:
    stage.play("n2", 20)
    stage.nodes.change("n2", store=None)
    assert stage.run()["failed"] == 1


def test_without_a_central_node_games_wait_in_the_store_and_it_is_said_once(redis: Redis, tmp_path: Path) -> None:
    stage = Stage(redis, tmp_path, "n1", "n2", central=())
    stage.play("n2", 20)
    assert stage.run()["exported"] == 20
    assert stage.run()["gathered"] == 0
    assert stage.notices() == ["no node gathers games: let the jobs worker of one consume the queue jobs.central"]
    assert len(keys(stage.store, "inbox")) == 2


def test_of_several_central_nodes_the_first_gathers_and_stays_so(redis: Redis, tmp_path: Path) -> None:
    stage = Stage(redis, tmp_path, "n1", "n2", "n3", central=("n2", "n3"))
    stage.play("n3", 20)
    assert stage.run()["gathered"] == 20
    assert len(gathered(tmp_path / "n2")) == 20
    assert stage.notices() == ["n2 gathers games, n3 could too: let one jobs worker alone be central"]
    stage.nodes["n2"].nodes.leave("n2", "jobs")  # it restarts
    stage.play("n3", 20)
    assert stage.run()["gathered"] == 20
    assert len(gathered(tmp_path / "n2")) == 40


def test_a_central_node_that_is_away_is_not_waited_for(stage: Stage, tmp_path: Path) -> None:
    played = stage.play("n2", 20)
    assert stage.run(min_games=100)["asked"] == 0  # n1 is chosen
    stage.nodes.asked.clear()
    stage.now += 60
    for name in ("n2", "n3"):
        stage.nodes[name].nodes.heartbeat(name, "agent", {"host": name, "pid": 1}, now=stage.now)
    for _ in range(2):
        done = stage.run()
        assert ("n1", "ingest_games") not in stage.nodes.asked
    assert stage.notices() == ["n1, which gathers games, is away: they wait in the store"]
    assert done["gathered"] == 0
    assert stage.run(after=1)["gathered"] == 20
    assert gathered(tmp_path / "n1") == played


def test_whoever_is_to_end_complains_of_nobody(stage: Stage) -> None:
    stage.play("n2", 20)
    stage.nodes.away |= {"n1", "n2"}
    stage.nodes["n1"].stopping.set()
    assert stage.run()["failed"] == 0
    stage.nodes["n1"].stopping.clear()
    assert stage.notices() == []
    stage.nodes.away.clear()
    assert stage.run()["gathered"] == 20  # none of them is left alone for that


def test_a_node_that_still_does_what_it_was_asked_before_is_counted(stage: Stage, tmp_path: Path) -> None:
    stage.play("n2", 20)
    for folder in (tmp_path / "n2" / "exports", tmp_path / "n1" / "ingest"):
        folder.mkdir()
        (folder / "lock").touch()
    with (
        (tmp_path / "n2" / "exports" / "lock").open("w") as one,
        (tmp_path / "n1" / "ingest" / "lock").open("w") as two,
    ):
        fcntl.flock(one, fcntl.LOCK_EX)
        fcntl.flock(two, fcntl.LOCK_EX)
        assert stage.run()["busy"] == 2


def test_what_a_node_could_not_do_is_logged_where_it_was_asked(
    stage: Stage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stage.play("n2", 20)
    (tmp_path / "n2" / "games.db").write_bytes(b"nonsense " * 1_000)
    for suffix in ("-wal", "-shm"):
        (tmp_path / "n2" / f"games.db{suffix}").unlink(missing_ok=True)
    assert stage.run()["failed"] == 1
    assert "n2: export_games: GamesUnreadable" in caplog.text


def test_a_central_node_that_fails_is_told_of_once_and_loses_nothing(stage: Stage, tmp_path: Path) -> None:
    played = stage.play("n2", 20)
    (tmp_path / "n1" / "gathered.db").write_bytes(b"nonsense " * 1_000)
    assert stage.run()["gathered"] == 0
    assert stage.run()["gathered"] == 0
    (notice,) = stage.notices()
    assert notice.startswith("n1 did not gather: GamesUnreadable")
    assert "file is not a database" in notice
    (tmp_path / "n1" / "gathered.db").unlink()
    assert stage.run()["gathered"] == 20
    assert gathered(tmp_path / "n1") == played


def test_games_that_vanish_from_where_they_were_gathered_are_told_of(stage: Stage, tmp_path: Path) -> None:
    stage.play("n2", 20)
    stage.run()
    stage.play("n2", 10)
    stage.run()  # n2 hears that the twenty were gathered
    for path in (tmp_path / "n1").glob("gathered.db*"):
        path.unlink()
    stage.play("n2", 10)
    done = stage.run()
    assert done["unaccounted"] == 20
    assert stage.notices() == ["games of n2 are unaccounted for: {'hex5_2p': 20}"]


def test_a_node_that_was_renamed_misses_nothing(stage: Stage, tmp_path: Path) -> None:
    played = stage.play("n2", 20)
    stage.run()
    stage.play("n2", 10)
    stage.run()  # n2 hears that the twenty were gathered
    stage.nodes.away.add("n2")
    for path in (tmp_path / "n2").glob("games.db*"):
        path.rename(tmp_path / "n3" / path.name)
    played |= stage.play("n3", 10)
    done = stage.run()
    assert (done["gathered"], done["unaccounted"]) == (10, 0)
    assert gathered(tmp_path / "n1") >= played
    assert stage.notices() == []


def test_a_refused_shard_is_a_notice_of_the_central_node(stage: Stage) -> None:
    stage.play("n2", 20)
    stage.store.write("inbox/n9/001800000000000-00000000.json", b"{}")
    done = stage.run()
    assert (done["refused"], done["gathered"]) == (1, 20)
    (notice,) = stage.notices()
    assert notice.startswith("n9/001800000000000-00000000: its manifest: ")


def test_games_that_their_own_node_refuses_are_told_of_once_and_the_others_come(stage: Stage, tmp_path: Path) -> None:
    played = stage.play("n2", 10)
    bad = put(tmp_path / "n2", moves="[]")
    done = stage.run()
    assert (done["rejected"], done["gathered"], done["unaccounted"]) == (1, 10, 0)
    assert gathered(tmp_path / "n1") == played
    stage.play("n2", 10)
    assert stage.run()["rejected"] == 0
    said = f"1 of n2 will go nowhere as they are, such as '{bad}': moves must be a JSON list with a move"
    assert stage.notices() == [said]


def test_the_same_tick_again_changes_nothing(stage: Stage, tmp_path: Path) -> None:
    played = stage.play("n2", 20)
    stage.run()
    done = stage.run()
    assert (done["asked"], done["gathered"], done["doubled"]) == (0, 0, 0)
    assert gathered(tmp_path / "n1") == played


def test_a_run_that_was_replaced_writes_nothing(stage: Stage) -> None:
    stage.play("n2", 20)
    stage.redis.hset("{backbeat}:loop:data_aggregation", "run", "the next one")
    late = Fence(leader=0, owner="", run="this one", guard_key="", loop_key="{backbeat}:loop:data_aggregation")
    with pytest.raises(FenceRefused):
        stage.run(tick={"fence": late})
    assert not stage.redis.exists(GATHERING)


def test_what_is_remembered_is_read_as_it_was_written_and_nonsense_is_left_out(redis: Redis) -> None:
    state = GatheringState(redis)
    record = Record({"n1": Memory(1.5, 2, 3.25)}, "n2", ("a", "b"))
    state.write(record)
    assert state.read() == record
    redis.hset(GATHERING, mapping={"n3": "[]", "n4": "{", "": json.dumps({"central": 1})})
    assert state.read() == Record(record.memories)
    state.write(Record())
    assert state.read() == Record()


def test_whatever_the_options_allow_nodes_accept(stage: Stage) -> None:
    stage.play("n2", 20)
    done = stage.run(
        min_games=1, max_nodes_per_cycle=1_000, max_shards_per_cycle=100_000,
        export_timeout="75m", ingest_timeout="75m", shard_games=1_000_000, shard_bytes=128 << 20, keep_for=1e9,
    )  # fmt: skip
    assert (done["failed"], done["gathered"]) == (0, 20)


@pytest.mark.parametrize(
    "options",
    [
        {"export_timeout": "76m"},
        {"ingest_timeout": "76m"},
        {"min_games": 0},
        {"max_nodes_per_cycle": 0},
        {"shard_bytes": 1 << 40},
        {"keep_for": -1},
        {"min": 1},
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Options.model_validate(options)
