"""The node registry: who is there, by Redis time."""

from __future__ import annotations

import pytest
from redis import Redis

from fleet.nodes import NODE, SILENT_AFTER, NodeRegistry, NodeTaken

NOW = 1_800_000_000.0


def test_each_role_reports_for_itself_and_any_of_them_keeps_the_node_alive(redis: Redis) -> None:
    registry = NodeRegistry(redis)
    registry.heartbeat("n1", "agent", {"host": "h", "pid": 7, "version": "1"}, now=NOW)
    registry.heartbeat("n1", "jobs", {"host": "h", "pid": 8, "slots": 2, "running": ["j"]}, now=NOW + 5)
    (node,) = registry.all()
    assert node.last_seen == NOW + 5
    document = node.document(NOW + 6)
    assert (document["agent_pid"], document["jobs_pid"], document["slots"]) == (7, 8, 2)
    assert (document["host"], document["running_jobs"], document["version"]) == ("h", ["j"], "1")


def test_a_process_that_left_in_order_is_no_longer_shown(redis: Redis) -> None:
    registry = NodeRegistry(redis)
    registry.heartbeat("n1", "agent", {"host": "h", "pid": 7}, now=NOW)
    registry.leave("n1", "agent")
    assert registry.all()[0].document(NOW)["agent_pid"] is None


def test_nodes_are_listed_by_name(redis: Redis) -> None:
    registry = NodeRegistry(redis)
    registry.heartbeat("b", "agent", {}, now=NOW)
    registry.heartbeat("a", "agent", {}, now=NOW - 61)
    assert [node.node_id for node in registry.all()] == ["a", "b"]


def test_a_node_that_was_silent_for_a_day_is_forgotten(redis: Redis) -> None:
    registry = NodeRegistry(redis)
    registry.heartbeat("gone", "agent", {"pid": 1}, now=NOW)
    registry.heartbeat("here", "agent", {"pid": 2}, history=[], now=NOW + 86_401)  # an agent's, once a minute
    assert [node.node_id for node in registry.all()] == ["here"]
    assert not redis.exists(NODE + "gone")


def test_a_drain_outlasts_any_silence(redis: Redis) -> None:
    registry = NodeRegistry(redis)
    registry.heartbeat("mended", "jobs", {"pid": 1}, now=NOW)
    registry.mark({"mended": {"drain": {"by": "me"}}})
    registry.leave("mended", "jobs")
    registry.heartbeat("here", "agent", {"pid": 2}, history=[], now=NOW + 2 * 86_400)
    registry.heartbeat("mended", "jobs", {"pid": 3}, now=NOW + 2 * 86_400)
    assert [node.marks for node in registry.all()] == [{}, {"drain": {"by": "me"}}]
    registry.mark({"mended": {"drain": None}})
    registry.heartbeat("here", "agent", {"pid": 2}, history=[], now=NOW + 4 * 86_400)
    assert [node.node_id for node in registry.all()] == ["here"]


# who has a role ------------------------------------------------------------------------------------------


def test_a_role_that_another_process_has_is_refused_with_who_has_it(redis: Redis) -> None:
    registry = NodeRegistry(redis)
    registry.heartbeat("n1", "agent", {"host": "h", "pid": 7}, owner="a", now=NOW)
    with pytest.raises(NodeTaken, match="role agent of node n1 is taken by pid 7 on h") as taken:
        registry.heartbeat("n1", "agent", {"host": "i", "pid": 8}, owner="b", now=NOW + 2)
    assert (taken.value.facts["pid"], taken.value.heard_at, taken.value.at) == (7, NOW, NOW + 2)
    (node,) = registry.all()
    assert (node.roles["agent"]["pid"], node.last_seen) == (7, NOW)
    registry.heartbeat("n1", "jobs", {"pid": 9}, owner="b", now=NOW)  # the other role is free
    registry.heartbeat("n1", "agent", {"pid": 10}, owner="a", now=NOW + 3)


def test_a_role_is_free_when_its_process_is_silent_or_has_left(redis: Redis) -> None:
    registry = NodeRegistry(redis)
    registry.heartbeat("n1", "agent", {"pid": 7}, owner="a", now=NOW)
    with pytest.raises(NodeTaken):
        registry.heartbeat("n1", "agent", {"pid": 8}, owner="b", now=NOW + SILENT_AFTER - 0.01)
    registry.heartbeat("n1", "agent", {"pid": 8}, owner="b", now=NOW + SILENT_AFTER)
    with pytest.raises(NodeTaken):  # who comes back finds it taken
        registry.heartbeat("n1", "agent", {"pid": 7}, owner="a", now=NOW + SILENT_AFTER)
    registry.leave("n1", "agent", owner="a")
    assert registry.all()[0].roles["agent"]["pid"] == 8
    registry.leave("n1", "agent", owner="b")
    registry.heartbeat("n1", "agent", {"pid": 7}, owner="a", now=NOW + SILENT_AFTER)


def test_one_of_two_successors_takes_the_role_of_a_dead_process(redis: Redis) -> None:
    registry = NodeRegistry(redis)
    died_at = registry.heartbeat("n1", "agent", {"pid": 7}, owner="dead", now=NOW + 0.123)
    registry.heartbeat("n1", "agent", {"pid": 8}, owner="b", take=died_at, now=NOW + 1)
    with pytest.raises(NodeTaken):
        registry.heartbeat("n1", "agent", {"pid": 9}, owner="c", take=died_at, now=NOW + 1)
    assert registry.all()[0].roles["agent"]["pid"] == 8


def test_a_heartbeat_from_before_the_clock_went_back_keeps_nobody_waiting(redis: Redis) -> None:
    registry = NodeRegistry(redis)
    registry.heartbeat("n1", "agent", {"pid": 7}, owner="a", now=NOW + 3600)
    registry.heartbeat("n1", "agent", {"pid": 8}, owner="b", now=NOW)
    assert registry.all()[0].last_seen == NOW


def test_the_history_is_what_was_sent_last(redis: Redis) -> None:
    registry = NodeRegistry(redis)
    assert registry.history("n1") == ()
    registry.heartbeat("n1", "agent", {}, history=[[60, None, 1.5]], now=NOW)
    registry.heartbeat("n1", "agent", {}, now=NOW + 5)
    assert registry.history("n1") == [[60, None, 1.5]]
    assert registry.all(history=True)[0].history == [[60, None, 1.5]]


def test_a_node_that_is_forgotten_before_its_process_ends_leaves_nothing_behind(redis: Redis) -> None:
    nodes = NodeRegistry(redis)
    nodes.heartbeat("n1", "agent", {"pid": 1}, owner="a")
    nodes.mark({}, forget=["n1"])
    nodes.leave("n1", "agent", owner="a")
    assert not redis.exists(NODE + "n1")
