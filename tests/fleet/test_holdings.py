"""What a node holds: read from its files, said when it changes, never in the way of another part."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from fleet.holdings import AGAIN_AFTER, READERS, Holdings
from fleet.nodes import HELD, SILENT_AFTER, NodeRegistry

NOW = 1_800_000_000.0


class Part:
    """A reader of the test."""

    def __init__(self, **value: Any) -> None:
        self.value: Mapping[str, Any] = value
        self.error: Exception | None = None

    def __call__(self, _data: Path) -> Mapping[str, Any]:
        if self.error is not None:
            raise self.error
        return self.value


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Counting(NodeRegistry):
    """Counts what is written."""

    def __init__(self, redis: Redis) -> None:
        super().__init__(redis)
        self.writes: list[set[str]] = []

    def hold(self, node_id: str, parts: Mapping[str, Mapping[str, Any]]) -> None:
        self.writes.append(set(parts))
        super().hold(node_id, parts)


@pytest.fixture
def registry(redis: Redis) -> Counting:
    registry = Counting(redis)
    registry.heartbeat("n1", "agent", {}, now=NOW)
    return registry


def test_only_what_is_new_is_said_and_all_of_it_again_after_a_while(registry: Counting, tmp_path: Path) -> None:
    matches, games, clock = Part(count=1), Part(new={}), Clock()
    held = Holdings(registry, "n1", tmp_path, readers={"matches": matches, "games": games}, clock=clock)
    held.report()
    held.report()
    matches.value = {"count": 2}
    held.report()
    assert registry.writes == [{"matches", "games"}, {"matches"}]
    clock.now = AGAIN_AFTER
    held.report()
    assert registry.writes[2:] == [{"matches", "games"}]
    (node,) = registry.all()
    assert node.held == {"matches": {"count": 2}, "games": {"new": {}}}
    assert node.document(NOW)["held"] == node.held


def test_a_part_that_cannot_be_read_says_why_and_leaves_the_others_alone(
    registry: Counting, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    matches, games = Part(), Part(new={"hex8_2p": 3})
    matches.error = OSError("disk on fire")
    held = Holdings(registry, "n1", tmp_path, readers={"matches": matches, "games": games})
    with caplog.at_level(logging.WARNING):
        held.report()
        held.report()
    assert registry.all()[0].held == {
        "matches": {"unreadable": "OSError: disk on fire"},
        "games": {"new": {"hex8_2p": 3}},
    }
    assert len([record for record in caplog.records if "disk on fire" in record.message]) == 1
    matches.error = None
    held.report()
    assert registry.all()[0].held["matches"] == {}


def test_an_unknown_node_stays_unknown_and_an_unknown_part_is_refused(redis: Redis, tmp_path: Path) -> None:
    registry = NodeRegistry(redis)
    registry.hold("ghost", {"matches": {"count": 1}})
    assert redis.keys() == []
    with pytest.raises(ValueError, match="parts wishes: of matches, games, models"):
        registry.hold("n1", {"wishes": {}})
    with pytest.raises(ValueError, match="'wishes': one of"):
        registry.holdings("wishes", NOW)
    with pytest.raises(ValueError, match="parts wishes"):
        Holdings(registry, "n1", tmp_path, readers={"wishes": Part()})


def test_one_part_is_read_of_those_whose_agent_was_heard_lately(redis: Redis) -> None:
    registry = NodeRegistry(redis)
    for node_id, role, at in (("old", "agent", NOW - SILENT_AFTER - 1), ("new", "agent", NOW), ("half", "jobs", NOW)):
        registry.heartbeat(node_id, role, {}, now=at)
        registry.hold(node_id, {"matches": {"count": 7}, "games": {"new": {}}})
    registry.heartbeat("mute", "agent", {}, now=NOW)
    registry.heartbeat("odd", "agent", {}, now=NOW)
    redis.hset("{backbeat}:node:odd", "held:matches", "no JSON")
    assert registry.holdings("matches", NOW) == {"new": {"count": 7}, "mute": {}, "odd": {}}


def test_what_is_read_is_what_the_registry_takes() -> None:
    assert READERS.keys() <= set(HELD)
