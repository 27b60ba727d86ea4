"""No game is lost or doubled, and no half shard seen: whatever is killed and when, and when the disk is full."""

from __future__ import annotations

import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fleet.game_ingest import Ingested
from fleet.game_shard import Limits, check, read_manifest, unpack
from fleet.games import FILE, GATHERED, GamesUnreadable, holdings, unaccounted
from fleet.gathered import arrived
from fleet.store import Store, StoreUnavailable
from tests import killing
from tests.fleet.games_stage import INTAKE, NOW, gathered, ids, keys, play, send, take, total
from tests.waiting import until

ROOT = Path(__file__).parents[2]


class Way:
    """The way of a node's games to the central node, a part of which may be killed."""

    def __init__(self, folder: Path) -> None:
        self.node, self.central, self.place = folder / "n1", folder / "central", folder / "store"
        self.central.mkdir()
        self.played = play(self.node, 3)
        self.now = NOW

    @property
    def store(self) -> Store:
        return Store(str(self.place))

    def export(self) -> None:
        send(self.store, self.node, now=self.now, keep_for=0, shard_games=2)

    def ingest(self) -> None:
        take(self.store, self.central, now=self.now)

    def both(self) -> None:
        self.export()
        self.ingest()

    def play(self) -> None:
        self.played |= play(self.node, 3)
        self.now += 10

    def check_nothing_is_half(self) -> None:
        """Every shard that can be seen is whole."""
        for key in keys(self.store, "inbox"):
            if key.endswith(".json"):
                _, node, name = key.split("/")
                manifest = read_manifest(self.store.read(key, 1 << 16), node, name[:-5], Limits())
                if self.store.entry(key[:-4] + "games") is None:  # it was taken in, and was being deleted
                    assert manifest.games <= len(gathered(self.central))
                    continue
                packed, raw = self.node / "packed", self.node / "raw"
                self.store.get(key[:-4] + "games", packed, size=manifest.size, sha256=manifest.sha256)
                unpack(packed, raw, manifest.unpacked)
                check(raw, manifest)

    def check_nothing_is_lost(self) -> None:
        """After one more cycle every game is there once, and accounted for."""
        assert gathered(self.central) <= self.played
        self.now += 10
        self.both()
        assert gathered(self.central) == self.played
        done = send(self.store, self.node, now=self.now)  # it hears what became of its shards
        counts = total(done.account)
        assert (counts["produced"], counts["gathered"]) == (len(self.played), len(self.played))
        assert holdings(self.node)["new"] == {}
        assert unaccounted(done.account, arrived(self.central / GATHERED, ["n1"])["n1"]) == {}
        assert keys(self.store, "inbox") == keys(self.store, "receipts") == keys(self.store, "refused") == []
        assert sorted(path.name for path in self.node.glob("exports/*")) == ["lock"]


@pytest.fixture
def way(tmp_path: Path) -> Way:
    return Way(tmp_path)


@pytest.mark.parametrize("part", ["export", "ingest"])
def test_a_kill_before_any_step_loses_and_doubles_nothing(way: Way, part: str) -> None:
    def prepare() -> None:
        way.play()
        if part == "ingest":
            way.export()

    prepare()
    steps = killing.steps(getattr(way, part))
    assert len(steps) > 30
    for step in killing.chosen(steps, 35):
        prepare()
        killing.kill_before(getattr(way, part), step)
        way.check_nothing_is_half()
        way.check_nothing_is_lost()


def test_a_kill_at_a_random_moment_loses_and_doubles_nothing(way: Way) -> None:
    way.play()
    seconds = killing.duration(way.both)
    killed = 0
    for seed in range(25):
        way.play()
        before, killed = killed, killed + killing.kill_within(way.both, seconds, seed)
        seconds *= 1 if killed > before else 0.8  # it was slower when it was timed
        way.check_nothing_is_half()
        if seed % 2:  # two kills in a row, sometimes
            way.check_nothing_is_lost()
    way.check_nothing_is_lost()
    assert killed > 5


WRITER = """
import select, sys
from dataclasses import replace
from pathlib import Path
from examples.openspiel.store import GameStore, PlayedGame
game, played = PlayedGame("hex5_2p", ("a", "b"), (1, 2, 3), (1.0, -1.0), 0, 1, 1.0, 2.0), []
with GameStore(Path(sys.argv[1]), node_id="n1") as store:
    while len(played) < 60 or not select.select([sys.stdin], [], [], 0)[0]:
        played.append(store.append(game))
print(*played)
"""


def test_games_that_a_job_appends_meanwhile_are_neither_lost_nor_doubled(way: Way) -> None:
    argv = [sys.executable, "-c", WRITER, str(way.node / FILE)]
    with subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        until(lambda: total_new(way) > 3)
        sent = 0
        for _ in range(8):
            sent += send(way.store, way.node, now=way.now, shard_games=20, shards=2, keep_for=0).games
            take(way.store, way.central, now=way.now)
            way.now += 1
        assert sent
        said, _ = writer.communicate("enough")
        way.played |= set(said.split())
    until(lambda: send(way.store, way.node, now=way.now, shard_games=1_000).left == 0)
    way.check_nothing_is_lost()
    assert len(way.played) > 60


def test_a_full_store_loses_nothing(way: Way, mount_small: Callable[[Path, int], Path]) -> None:
    mount_small(way.place, 64)
    way.played |= play(way.node, 200, moves=500, seed=7)
    with pytest.raises(StoreUnavailable):
        send(way.store, way.node, shard_games=100)
    assert total_new(way) == 203
    assert not [key for key in keys(way.store, "inbox") if key.endswith(".json")]
    way.place = way.place.with_name("larger")
    way.check_nothing_is_lost()


def total_new(way: Way) -> int:
    return sum(holdings(way.node)["new"].values())


def test_a_full_disk_on_the_node_loses_nothing(way: Way, mount_small: Callable[[Path, int], Path]) -> None:
    small = mount_small(way.node.with_name("small"), 8_000)
    way.node = small
    way.played = play(small, 150, moves=500, seed=7)
    (small / "ballast").write_bytes(b"x" * (shutil.disk_usage(small).free - 60_000))
    with pytest.raises((GamesUnreadable, OSError)) as caught:
        send(way.store, small, shard_games=1_000)
    assert "full" in str(caught.value) or "space" in str(caught.value)
    (small / "ballast").unlink()
    assert ids(small / FILE) == way.played


@pytest.mark.parametrize("warned", [True, False])
def test_a_full_disk_on_the_central_node_loses_nothing(
    way: Way, mount_small: Callable[[Path, int], Path], monkeypatch: pytest.MonkeyPatch, warned: bool
) -> None:
    """Whether the lack of room is seen before, or only when the disk is full."""
    small = mount_small(way.central.with_name("small"), 1_200)
    if not warned:
        monkeypatch.setattr("fleet.game_ingest.shutil.disk_usage", lambda _path: type("Usage", (), {"free": 1 << 40}))
    way.played |= play(way.node, 400, moves=500, seed=7)
    send(way.store, way.node, shard_games=1_000)
    done: Ingested = take(way.store, small)
    assert (done.gathered, done.left, done.refused, done.failed) == (0, 1, 0, 0)
    assert done.full
    assert gathered(small) == set()
    monkeypatch.undo()
    way.check_nothing_is_lost()


def test_a_small_shard_fits_where_a_large_one_does_not(way: Way, mount_small: Callable[[Path, int], Path]) -> None:
    small = mount_small(way.central.with_name("small"), 1_200)
    play(way.node, 400, moves=500, seed=7)
    send(way.store, way.node, shard_games=1_000)
    late = play(way.node, 1)
    send(way.store, way.node, now=NOW + 1)
    done = take(way.store, small)
    assert (done.gathered, done.left) == (1, 1)
    assert gathered(small) == late


def test_a_writer_that_holds_the_file_costs_an_export_only_time(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fleet.game_ledger.BUSY_SECONDS", 0.05)
    writer = sqlite3.connect(way.node / FILE, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    with pytest.raises(GamesUnreadable, match=r"games\.db: database is locked"):
        way.export()
    writer.execute("COMMIT")
    writer.close()
    way.check_nothing_is_lost()


def test_kills_come_in_any_order(way: Way) -> None:
    """Many kills with no whole cycle between them, and then one."""
    chance = random.Random(3)
    steps = {part: len(killing.steps(getattr(way, part))) for part in ("export", "ingest")}
    for _ in range(12):
        way.play()
        part = chance.choice(["export", "ingest"])
        killing.kill_before(getattr(way, part), chance.randrange(steps[part]))
        way.check_nothing_is_half()
    way.check_nothing_is_lost()


def test_shards_that_cannot_be_read_take_no_places_of_others(way: Way) -> None:
    way.export()
    entries = [entry for entry in way.store.list("inbox") if entry.key.endswith(".json")]
    first = min(entries, key=lambda entry: (entry.modified, entry.key)).key

    class Half(Store):
        def read(self, key: str, limit: int) -> bytes:
            if key == first:
                raise StoreUnavailable("input/output error")
            return super().read(key, limit)

    done = take(Half(str(way.place)), way.central, replace(INTAKE, shards=1), now=way.now)
    assert (done.failed, done.shards) == (1, 1)
    way.both()
    way.check_nothing_is_lost()
