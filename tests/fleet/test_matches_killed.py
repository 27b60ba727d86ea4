"""SIGKILL at every step of merging, adopting, rating and setting aside: nothing is lost, doubled or half.

After each kill the sums are those of the rows, and once the work is done again all is as if nobody had been killed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fleet import match_set
from fleet.match_audit import verify
from fleet.match_ratings import Rules, settle
from fleet.match_store import FILE
from fleet.matches import holdings, opened
from tests import killing
from tests.fleet.match_stage import matches, played, published, row, write_original

FOUND = [played(number, ("abcd"[number % 4], "random"), (1 + number % 2, 2)) for number in range(40)]
CONTRADICTING = [played(number, ("a", "random"), (2, 1)) for number in range(5)]


def merging(data: Path) -> None:
    """What another node sent, in chunks, and the ratings."""
    with opened(data / FILE) as found:
        found.merge(FOUND)
        found.merge(CONTRADICTING)
        found.exclude([("m00007", "crashed")])
        found.tell_types({"random": "baseline"})
        settle(found.db, Rules())


def adopting(data: Path) -> None:
    """Rows that a job appended, one of them none of ours."""
    holdings(data)
    with opened(data / FILE) as found:
        settle(found.db, Rules())


def appended(data: Path) -> None:
    db = write_original(data / FILE)
    db.execute("INSERT INTO participants (participant_id, participant_type) VALUES ('random', 'baseline')")
    for each in [*FOUND, *CONTRADICTING]:
        row(
            db,
            participant_ids=list(each.result.participants),
            rankings=list(each.result.ranks),
            timestamp=each.ended / 1000,
            game_id=each.id,
        )
    row(db, participant_ids=["a", "a"], rankings=[1, 2], game_id="twice")
    db.close()


def nothing(data: Path) -> None:
    """An empty folder."""


def damaged(data: Path) -> None:
    (data / FILE).write_bytes(b"this was a database once" * 100)
    (data / f"{FILE}-wal").write_bytes(b"and this its journal")


def stand(data: Path) -> tuple[Any, ...]:
    with matches(data / FILE) as found:
        audit = verify(found)
        assert audit.sound, audit.problems
        return found.state(), published(found)


WORKS = {"merging": (nothing, merging), "adopting": (appended, adopting), "damaged": (damaged, merging)}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transactions of a few matches, so that there are many of them."""
    monkeypatch.setattr(match_set, "CHUNK", 15)


@pytest.mark.parametrize("name", WORKS)
def test_killed_at_every_step_it_is_as_if_nobody_had_been(name: str, small: None, tmp_path: Path) -> None:
    prepare, work = WORKS[name]
    stage = _stage(tmp_path, prepare)
    whole = stage()
    found = killing.steps(lambda: work(whole))
    wanted = stand(whole)
    assert len(found) > 30
    # a damaged file is moved in the first steps
    for step in sorted({*killing.chosen(found, 12), *range(8 if name == "damaged" else 0)}):
        data = stage()
        killing.kill_before(lambda data=data: work(data), step)  # type: ignore[misc]
        if (data / FILE).exists() and name != "damaged":
            stand(data)
        work(data)
        assert stand(data) == wanted, found[step]
        if name == "damaged":
            assert (data / f"{FILE}.corrupt-1").read_bytes().startswith(b"this was")
            assert (data / f"{FILE}.corrupt-1-wal").read_bytes() == b"and this its journal"
            assert not (data / f"{FILE}.corrupt-2").exists()


@pytest.mark.parametrize("name", WORKS)
def test_killed_at_random_moments_too(name: str, small: None, tmp_path: Path) -> None:
    prepare, work = WORKS[name]
    stage = _stage(tmp_path, prepare)
    whole = stage()
    seconds = killing.duration(lambda: work(whole))
    wanted = stand(whole)
    kills = 0
    for seed in range(7):
        data = stage()
        killed = killing.kill_within(lambda data=data: work(data), seconds, seed)  # type: ignore[misc]
        kills += killed
        seconds *= 1 if killed else 0.5  # it was slower when it was timed
        work(data)
        assert stand(data) == wanted
    assert kills


def _stage(folder: Path, prepare: Callable[[Path], None]) -> Callable[[], Path]:
    """Makes a node's folder as the work finds it."""
    first = folder / "first"
    first.mkdir()
    prepare(first)
    made = 0

    def stage() -> Path:
        nonlocal made
        made += 1
        return Path(shutil.copytree(first, folder / f"n{made}"))

    return stage
