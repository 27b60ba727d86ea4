"""A process that publishes or fetches models is killed: no half model is ever seen, and nothing is lost or doubled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fleet.model_registry import ModelRegistry
from fleet.models import Manifest, refusals
from fleet.store import Store
from tests import killing
from tests.fleet import model_stage
from tests.fleet.model_stage import CONFIG, leave, listed, name, publish, pull, stocked, version, whole


class Scene:
    """A store and a node, begun anew for each kill."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._number = folder, 0

    def fresh(self) -> tuple[Path, Store]:
        self._number += 1
        place = self._folder / str(self._number)
        return place / "node", Store(str(place / "store"))


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def publish_after(kill: Callable[[Callable[[], Any]], Any], data: Path, store: Store) -> None:
    leave(data, 1)
    leave(data, 2)
    kill(lambda: publish(data, store))
    registry = ModelRegistry(store).read()
    for each in registry[CONFIG].versions:  # whatever is in the registry can be fetched
        ModelRegistry(store).fetch(each, data / "check" / each.version)
    assert registry.refused == {}
    assert whole(data)
    publish(data, store)
    assert [each.version for each in ModelRegistry(store).read()[CONFIG].versions] == [name(1), name(2)]
    assert listed(data) == [name(1), name(2)]
    assert whole(data)
    assert list((data / "models" / "new").iterdir()) == []
    assert refusals(data) == {}


def pull_after(kill: Callable[[Callable[[], Any]], Any], data: Path, store: Store, folder: Path) -> None:
    registry = stocked(store, folder, version(1), version(2))
    registry.promote(registry.read()[CONFIG], name(2), now=1.0, by="", why="")
    pull(data, store, 1)
    kill(lambda: pull(data, store, 2))
    assert whole(data)
    assert Manifest.read(data, CONFIG).promoted in (None, name(2))
    pull(data, store, 2)
    assert listed(data) == [name(1), name(2)]
    assert Manifest.read(data, CONFIG).promoted == name(2)
    assert whole(data)


def test_a_kill_at_any_step_of_publishing_loses_and_doubles_nothing(scene: Scene) -> None:
    data, store = scene.fresh()
    leave(data, 1)
    leave(data, 2)
    found = killing.steps(lambda: publish(data, store))
    assert len(found) > 20
    for step in killing.chosen(found, 24):
        publish_after(lambda work, step=step: killing.kill_before(work, step), *scene.fresh())


def test_a_kill_at_any_step_of_pulling_shows_no_half_model(scene: Scene, tmp_path: Path) -> None:
    data, store = scene.fresh()
    stocked(store, tmp_path, version(1))
    found = killing.steps(lambda: pull(data, store, 1))
    for step in killing.chosen(found, 14):
        pull_after(lambda work, step=step: killing.kill_before(work, step), *scene.fresh(), tmp_path)


def test_a_kill_at_any_moment_loses_nothing(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_stage, "SIZE", 3 << 20)  # most moments are in the midst of a copy
    data, store = scene.fresh()
    leave(data, 1)
    leave(data, 2)
    seconds = killing.duration(lambda: publish(data, store))
    for seed in range(12):
        publish_after(lambda work, seed=seed: killing.kill_within(work, seconds, seed), *scene.fresh())
    for seed in range(12):
        pull_after(lambda work, seed=seed: killing.kill_within(work, seconds / 3, seed), *scene.fresh(), tmp_path)
