"""The node registry: who is there, and when each was last heard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from redis import Redis

from fleet.fence import script

NODES = "{backbeat}:nodes"  # sorted set: node id -> last_seen, ms of Redis time
NODE = "{backbeat}:node:"  # + node id: hash, role (agent, jobs) -> JSON of what that process reports


@dataclass(frozen=True)
class Node:
    """One node: `last_seen` in seconds since the epoch on Redis time, and what each role's process reports."""

    node_id: str
    last_seen: float
    roles: Mapping[str, Mapping[str, Any]]

    @property
    def host(self) -> str:
        """The machine's name, as any of its processes reports it."""
        return next((str(facts["host"]) for facts in self.roles.values() if "host" in facts), "")

    def document(self) -> dict[str, Any]:
        """The node as `nodes --json` shows it."""
        agent, jobs = self.roles.get("agent", {}), self.roles.get("jobs", {})
        return {
            "node_id": self.node_id,
            "host": self.host,
            "agent_pid": agent.get("pid"),
            "jobs_pid": jobs.get("pid"),
            "slots": jobs.get("slots", 0),
            "running_jobs": jobs.get("running", []),
            "capabilities": jobs.get("capabilities", []),
            "version": agent.get("version", jobs.get("version")),
            "last_seen": self.last_seen,
        }


class NodeRegistry:
    """Heartbeats in Redis. Ages are judged on Redis time: a node's own clock is never asked."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._heartbeat = redis.register_script(script("heartbeat"))
        self._read = redis.register_script(script("nodes"))

    def heartbeat(self, node_id: str, role: str, facts: Mapping[str, Any], *, now: float | None = None) -> None:
        """Record that `role`'s process on `node_id` lives, and what it says; one round trip. Facts must be JSON."""
        at = "" if now is None else round(now * 1000)
        self._heartbeat(keys=[NODES, NODE + node_id], args=[at, node_id, role, json.dumps(facts), NODE])

    def leave(self, node_id: str, role: str) -> None:
        """An orderly stop: this role has no process on the node any more."""
        self._redis.hdel(NODE + node_id, role)

    def all(self) -> list[Node]:
        """Every known node by id, in one round trip."""
        return decode_nodes(self._read(keys=[NODES], args=[NODE]))


def decode_nodes(rows: list[Any]) -> list[Node]:
    """Rows of `nodes.lua`: id, last_seen in ms, flat roles."""
    nodes = []
    for node_id, last_seen, flat in rows:
        roles = {_text(k): json.loads(v) for k, v in zip(flat[::2], flat[1::2], strict=True)}
        nodes.append(Node(_text(node_id), float(last_seen) / 1000, roles))
    return sorted(nodes, key=lambda node: node.node_id)


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
