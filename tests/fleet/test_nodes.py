"""The node registry: who is there, by Redis time."""

from __future__ import annotations

from redis import Redis

from fleet.nodes import NODE, NodeRegistry

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
    registry.heartbeat("here", "agent", {"pid": 2}, now=NOW + 86_401)
    assert [node.node_id for node in registry.all()] == ["here"]
    assert not redis.exists(NODE + "gone")
