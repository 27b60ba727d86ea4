"""The harness that kills: each step of a piece of work is seen, and it ends before exactly that one."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from tests import killing


def work(folder: Path) -> None:
    """Three kinds of steps: a file made whole, renamed, and a row."""
    with (folder / "part").open("w") as file:
        file.write("whole")
        file.flush()
        os.fsync(file.fileno())
    (folder / "part").replace(folder / "done")
    with sqlite3.connect(folder / "db") as db:
        db.execute("CREATE TABLE t (x)")
    db.close()


def seen(folder: Path) -> tuple[bool, bool, bool]:
    return (folder / "part").exists(), (folder / "done").exists(), (folder / "db").exists()


def test_every_step_is_seen_and_the_work_is_done(tmp_path: Path) -> None:
    found = killing.steps(lambda: work(tmp_path))
    assert [step.split()[0] for step in found] == ["open", "fsync", "os.rename", "CREATE", "the"]
    assert seen(tmp_path) == (False, True, True)


@pytest.mark.parametrize(
    ("step", "left"),
    [(0, (False, False)), (1, (True, False)), (2, (True, False)), (3, (False, True)), (4, (False, True))],
)
def test_it_ends_before_the_step_that_is_named(tmp_path: Path, step: int, left: tuple[bool, bool]) -> None:
    killing.kill_before(lambda: work(tmp_path), step)
    assert seen(tmp_path)[:2] == left
    if step == 3:
        with sqlite3.connect(tmp_path / "db") as db:
            assert db.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
        db.close()


def test_a_child_that_fails_fails_the_test(capfd: pytest.CaptureFixture[str]) -> None:
    def broken() -> None:
        raise RuntimeError("no such luck")

    with pytest.raises(AssertionError, match="the child failed"):
        killing.steps(broken)
    assert "no such luck" in capfd.readouterr().err


def test_moments_are_random_and_the_same_for_the_same_seed(tmp_path: Path) -> None:
    def endless() -> None:
        while True:
            (tmp_path / "tick").touch()

    assert killing.kill_within(endless, 0.01, seed=1)
    assert not killing.kill_within(lambda: None, 60.0, seed=1)


def test_steps_are_chosen_evenly() -> None:
    assert killing.chosen([""] * 5, 9) == [0, 1, 2, 3, 4]
    assert killing.chosen([""] * 101, 5) == [0, 25, 50, 75, 100]
