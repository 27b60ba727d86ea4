"""Games on their way when time is over: a slow store, a process that ends, a clock that is set back."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest

from fleet.game_export import export
from fleet.games import FILE
from fleet.store import Pace, Stopped, Store
from tests.fleet.games_stage import BOUNDS, INTAKE, NOW, gathered, ids, keys, play, send, take

DAY = 86_400.0


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture
def node(tmp_path: Path) -> Path:
    return tmp_path / "n1"


@pytest.fixture
def central(tmp_path: Path) -> Path:
    return tmp_path / "central"


class Stuck(Store):
    """A store that moves so many files, and gets stuck with the next."""

    quick = 0

    def put(self, source: Path, key: str, *, sha256: str | None = None, pace: Pace | None = None) -> int:
        self._step(pace)
        return super().put(source, key, sha256=sha256, pace=pace)

    def get(self, key: str, target: Path, *, size: int, sha256: str, pace: Pace | None = None) -> int:
        self._step(pace)
        return super().get(key, target, size=size, sha256=sha256, pace=pace)

    def _step(self, pace: Pace | None) -> None:
        self.quick -= 1
        while self.quick < 0:
            assert pace is not None
            pace.check()
            time.sleep(0.005)


def test_an_upload_that_is_not_through_in_time_ends_and_is_begun_anew(store: Store, node: Path) -> None:
    played = play(node, 20)
    stuck = Stuck(store.url)
    with pytest.raises(Stopped, match="out of time"):
        send(stuck, node, upload=0.05)
    stuck.quick = 1
    done = send(stuck, node, upload=0.5)
    assert (done.shards, done.left) == (1, 13)
    cancel = Event()
    cancel.set()
    with pytest.raises(Stopped, match="cancelled"):
        export(store, node, "n1", BOUNDS, NOW, cancel=cancel)
    assert send(store, node).shards == 2
    assert len(keys(store, "inbox")) == 6
    assert ids(node / FILE) == played


def test_a_shard_that_is_not_here_in_time_is_tried_again(store: Store, node: Path, central: Path) -> None:
    play(node, 20)
    send(store, node)
    stuck = Stuck(store.url)
    done = take(stuck, central, replace(INTAKE, seconds=0.05))
    assert (done.shards, done.failed, done.left) == (0, 1, 2)
    assert "out of time" in done.failures[0]
    stuck.quick = 1
    done = take(stuck, central, replace(INTAKE, seconds=0.5))
    assert (done.shards, done.failed, done.left) == (1, 0, 2)
    cancel = Event()
    cancel.set()
    assert take(store, central, cancel=cancel).left == 2
    assert take(store, central).shards == 2


def test_a_shard_that_takes_longer_than_an_ingest_is_gone_on_with(
    store: Store, node: Path, central: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played = play(node, 400)
    send(store, node, shard_games=400)

    class Narrow(Store):
        def get(self, key: str, target: Path, *, size: int, sha256: str, pace: Pace | None = None) -> int:
            assert pace is not None
            step = pace.step

            def narrow(count: int) -> None:
                step(count)
                raise Stopped("out of time")

            pace.step = narrow  # type: ignore[method-assign]
            return super().get(key, target, size=size, sha256=sha256, pace=pace)

    monkeypatch.setattr("fleet.store_place.CHUNK", 10_000)
    for _ in range(2):
        assert take(Narrow(store.url), central).failed == 1
    (part,) = (central / "ingest").glob("*.part")
    assert part.stat().st_size == 20_000
    assert take(store, central).gathered == 400
    assert gathered(central) == played
    assert [path.name for path in (central / "ingest").iterdir()] == ["lock"]


def test_parts_that_nobody_goes_on_with_are_deleted(store: Store, node: Path, central: Path) -> None:
    old, new = central / "ingest" / "n1.old.games.part", central / "ingest" / "n1.new.games.part"
    old.parent.mkdir(parents=True)
    for part in (old, new):
        part.write_bytes(b"x")
    os.utime(old, (NOW - 10 * DAY, time.time() - 2 * DAY))
    play(node, 1)
    send(store, node)
    assert take(store, central).gathered == 1
    assert (old.exists(), new.exists()) == (False, True)


def test_a_clock_that_was_set_back_keeps_no_shard_from_being_sent_again(store: Store, node: Path) -> None:
    play(node, 5)
    send(store, node, now=NOW + 300 * DAY)
    for key in keys(store, "inbox"):
        store.delete(key)
    assert send(store, node, now=NOW).games == 5
