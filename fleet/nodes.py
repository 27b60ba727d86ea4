"""The node registry: who is there, what each process of a node reports, and what loops and operators say of a node.

A node has two roles, `agent` and `jobs`, each with one process that reports facts about itself every
few seconds. Beside them stand marks: what others found out or decided about the node (`health`, `idle`,
`drain`, `address`). Ages are judged on Redis time: a node's own clock is never asked.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from typing import Any

from pydantic_core import from_json
from redis import Redis

from fleet.decoding import text_of
from fleet.fence import UNFENCED, Fence, FenceRefused, script
from fleet.job_keys import COUNTS, GAMES
from fleet.node_record import read_instant, read_object, read_rows

NODES = "{backbeat}:nodes"  # sorted set: node id -> last_seen, ms of Redis time
NODE = "{backbeat}:node:"  # + node id: hash, role or mark -> JSON; `role:at` (ms), `role:owner`; `changed` (ms)
TOTALS = "{backbeat}:totals"  # stream: what the nodes and the queue amounted to, a row a cycle of health_aggregation

ROLES = ("agent", "jobs")
#: What others say of a node: health_aggregation, idle_detection, whoever drains it, ip_discovery, tailscale_recovery,
#: model_sync.
MARKS = ("health", "idle", "drain", "address", "tailnet", "models")
#: What a node says of the data it holds, a field each, written when it changes.
HELD = ("matches", "games", "models")
_HELD = "held:"
#: Seconds between two heartbeats of a process.
HEARTBEAT = 5.0
#: Seconds without a heartbeat after which a process counts as silent: another may then take its role.
SILENT_AFTER = 3 * HEARTBEAT
#: Rows of totals that are kept: an hour of one every five seconds.
TOTALS_KEPT = 720

#: What of a node is another thing each time, and when (ms of Redis time) anything else of it last was.
SAID = ("agent", "changed")
_FIELDS = (*SAID, "jobs", *(f"{role}:at" for role in ROLES), *MARKS, *(_HELD + part for part in HELD))
_BRIEF = (*(f"{role}:at" for role in ROLES), "health")


class NodeTaken(Exception):
    """Another process has this role of this node: `facts` are its own, `heard_at` and now, `at`, on Redis time."""

    def __init__(self, node_id: str, role: str, facts: Mapping[str, Any], heard_at: float, at: float) -> None:
        process = f"pid {facts.get('pid')} on {facts.get('host')}"
        super().__init__(f"the role {role} of node {node_id} is taken by {process}")
        self.facts, self.heard_at, self.at = facts, heard_at, at


@dataclass(frozen=True)
class Node:
    """One node. Instants are seconds since the epoch on Redis time.

    `last_seen` is the last heartbeat of any role, `heard` that of each; `roles` holds the facts each
    role's process reports, `marks` what others say, `held` what it has of the cluster's data, by part;
    `history` is read only when asked for. `unread` names
    the parts of all this that have another form than they should.
    """

    node_id: str
    last_seen: float
    roles: Mapping[str, Mapping[str, Any]]
    heard: Mapping[str, float] = field(default_factory=dict)
    marks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    history: Sequence[Sequence[float | None]] = ()
    unread: Sequence[str] = ()
    held: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def host(self) -> str:
        """The machine's name, as any of its processes reports it."""
        return next((str(facts["host"]) for facts in self.roles.values() if "host" in facts), "")

    @property
    def metrics(self) -> Mapping[str, Any]:
        """What the agent measured last; empty without an agent."""
        found: Mapping[str, Any] = self.roles.get("agent", {}).get("metrics", {})
        return found

    @property
    def running(self) -> Sequence[str]:
        """Ids of the jobs that its jobs worker runs."""
        found: Sequence[str] = self.roles.get("jobs", {}).get("running", ())
        return found

    @property
    def left(self) -> bool:
        """Whether every process of it ended in order."""
        return not self.roles

    @property
    def judged(self) -> tuple[str, float]:
        """The last judgement and its instant; `left` when every process of it ended in order since."""
        if self.left:
            return "left", 0.0
        health = self.marks.get("health", {})
        return str(health.get("status", "healthy")), float(health.get("at", 0))

    def is_live(self, now: float) -> bool:
        """Whether it was heard lately."""
        return standing(*self.judged, self.last_seen, now)[1]

    def status(self, now: float) -> str:
        """healthy, suspect, unhealthy, lost or left: the last judgement, corrected by what was heard since.

        A node heard again since it was judged lost is no longer; one that fell silent since is suspect.
        """
        return standing(*self.judged, self.last_seen, now)[0]

    @property
    def reasons(self) -> list[str]:
        """Why it stands as it does."""
        judged: Sequence[str] = self.marks.get("health", {}).get("reasons", ())
        return [*judged, *(f"the registry holds no sound {part} of it" for part in self.unread)]

    def document(self, now: float) -> dict[str, Any]:
        """The node as `status --json` and `nodes --json` show it."""
        agent, jobs = self.roles.get("agent", {}), self.roles.get("jobs", {})
        return {
            "node_id": self.node_id,
            "host": self.host,
            "status": self.status(now),
            "live": self.is_live(now),
            "reasons": self.reasons,
            "agent_pid": agent.get("pid"),
            "jobs_pid": jobs.get("pid"),
            "slots": jobs.get("slots", 0),
            "running_jobs": list(self.running),
            "capabilities": jobs.get("capabilities", []),
            "version": agent.get("version", jobs.get("version")),
            "addresses": agent.get("addresses", {}),
            "address": self.marks.get("address", {}).get("address"),
            "address_source": self.marks.get("address", {}).get("source"),
            "reachable": self.marks.get("address", {}).get("reachable"),
            "metrics": dict(self.metrics),
            "clock_offset": agent.get("clock_offset"),
            "idle_since": self.marks.get("idle", {}).get("since"),
            "draining": self.marks.get("drain"),
            "tailnet": agent.get("tailnet"),
            "tailnet_recovery": self.marks.get("tailnet"),
            "held": {part: dict(value) for part, value in self.held.items()},
            "last_seen": self.last_seen,
        }


def standing(judged: str, at: float, last_seen: float, now: float) -> tuple[str, bool]:
    """The status of a node that was judged so then, and whether it is live."""
    if judged == "left":
        return judged, False
    live = now - last_seen <= SILENT_AFTER
    if judged == "lost" and last_seen > at:
        judged = "healthy"
    return ("suspect" if judged == "healthy" and not live else judged), live


class NodeRegistry:
    """Heartbeats and marks in Redis. `now`, seconds since the epoch, stands in for Redis time in tests."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._heartbeat = redis.register_script(script("node_heartbeat"))
        self._leave = redis.register_script(script("node_leave"))
        self._mark = redis.register_script(script("node_mark"))
        self._read = redis.register_script(READ_LUA + "return read_nodes(KEYS[1], ARGV)")

    def heartbeat(
        self,
        node_id: str,
        role: str,
        facts: Mapping[str, Any],
        *,
        owner: str = "",
        history: Sequence[Sequence[float | None]] | None = None,
        take: float | None = None,
        now: float | None = None,
    ) -> float:
        """Record that `role`'s process on `node_id` lives, and what it says; one round trip.

        `owner` is a token of that process. Raises NodeTaken while a process with another token was heard
        within SILENT_AFTER, unless that was last at `take`: that one is known to be dead. `history` replaces
        the node's, when given. Facts must be JSON. Returns Redis time.
        """
        rows = "" if history is None else json.dumps(history)
        args: list[Any] = [
            _ms(now),
            node_id,
            role,
            owner,
            round(SILENT_AFTER * 1000),
            _ms(take),
            json.dumps(facts, separators=(",", ":")),
            rows,
            NODE,
        ]
        at, holder, heard = self._heartbeat(keys=[NODES, NODE + node_id], args=args)
        if holder:
            raise NodeTaken(node_id, role, json.loads(text_of(holder)), float(heard) / 1000, float(at) / 1000)
        return float(at) / 1000

    def leave(self, node_id: str, role: str, *, owner: str = "") -> None:
        """An orderly stop: this role has no process on the node any more, unless another has taken it."""
        self._leave(keys=[NODE + node_id], args=[role, owner])

    def mark(
        self,
        changes: Mapping[str, Mapping[str, Mapping[str, Any] | None]],
        *,
        forget: Iterable[str] = (),
        totals: Mapping[str, float] | None = None,
        fence: Fence = UNFENCED,
    ) -> None:
        """Set marks (node id -> mark -> value, None: take it away) and forget nodes altogether; one round trip.

        A node that is not in the registry stays out of it. `totals` become a row of `totals()`, to which
        the script adds the queue's pending, claimed and running jobs, and how many jobs were completed and games
        played in them since the beginning. Raises FenceRefused, with nothing written.
        """
        words: list[str] = []
        for node_id, marks in changes.items():
            for name, value in marks.items():
                if name not in MARKS:
                    raise ValueError(f"mark {name!r}: one of {', '.join(MARKS)}")
                words += [node_id, name, "" if value is None else json.dumps(value)]
        gone = list(forget)
        row = "" if totals is None else json.dumps(totals)
        if not words and not gone and not row:
            return
        args = [*fence.args, NODE, TOTALS_KEPT, row, len(gone), *gone, *words]
        if refused := self._mark(keys=[NODES, *fence.keys, TOTALS, COUNTS, GAMES], args=args):
            raise FenceRefused(f"nodes: mark refused, for a newer {text_of(refused)} exists")

    def hold(self, node_id: str, parts: Mapping[str, Mapping[str, Any]]) -> None:
        """Record what a node holds of the cluster's data, by part; one round trip. An unknown node stays unknown."""
        if unknown := parts.keys() - set(HELD):
            raise ValueError(f"parts {', '.join(sorted(unknown))}: of {', '.join(HELD)}")
        words = [word for part, value in parts.items() for word in (node_id, _HELD + part, json.dumps(value))]
        self._mark(
            keys=[NODES, *UNFENCED.keys, TOTALS, COUNTS], args=[*UNFENCED.args, NODE, TOTALS_KEPT, "", 0, *words]
        )

    def holdings(self, part: str, now: float) -> dict[str, Mapping[str, Any]]:
        """One part of what each node holds whose agent was heard lately, by node id; one small round trip.

        A node that has not said it, or not in a sound form, is there with an empty one.
        """
        if part not in HELD:
            raise ValueError(f"part {part!r}: one of {', '.join(HELD)}")
        found: dict[str, Mapping[str, Any]] = {}
        for node_id, _, (heard, said) in node_rows(self._read(keys=[NODES], args=_words("agent:at", _HELD + part))):
            at = read_instant(heard)
            if at is not None and now - at <= SILENT_AFTER:
                found[text_of(node_id)] = (read_object(said, _HELD + part, []) if said else None) or {}
        return found

    def all(self, *, history: bool = False) -> list[Node]:
        """Every known node by id, in one round trip."""
        return decode_nodes(self._read(keys=[NODES], args=read_arguments(history=history)), history=history)

    def ids(self) -> list[str]:
        """Of every known node."""
        found: Any = self._redis.zrange(NODES, 0, -1)
        return [text_of(each) for each in found]

    def totals(self) -> list[dict[str, float]]:
        """The rows of totals that are kept, oldest first: what `mark` was given, and the queue's counts."""
        rows: Any = self._redis.xrange(TOTALS)
        return [decode_total(row) for _, row in rows]

    def one(self, node_id: str) -> tuple[Node, float] | None:
        """A node with its history, and the server's time; None when nobody knows it. One round trip."""
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.zscore(NODES, node_id)
            pipe.hmget(NODE + node_id, [*_FIELDS, "history"])
            pipe.time()
            last_seen, values, (seconds, micros) = pipe.execute()
        if last_seen is None:
            return None
        (node,) = decode_nodes(([node_id, last_seen], [values]), history=True)
        return node, seconds + micros / 1e6

    def history(self, node_id: str) -> Sequence[Sequence[float | None]]:
        """A node's own history, as its agent kept it."""
        return read_rows(self._redis.hget(NODE + node_id, "history"))


#: Defines `read_nodes(nodes key, words)` for the scripts that read the registry; words: `read_arguments()`.
READ_LUA = (resources.files("fleet") / "lua" / "nodes_read.lua").read_text()


def read_arguments(*, history: bool = False, brief: bool = False, since: float | None = None) -> list[str]:
    """What `read_nodes` takes. `brief`: for `decode_brief`; `since`: of nodes not `changed` since, what is SAID."""
    return _words(*(_BRIEF if brief else _FIELDS), *(["history"] if history else []), since=since)


def _words(*fields: str, since: float | None = None) -> list[str]:
    return [NODE, _ms(since), str(len(SAID)), *fields]


def node_rows(answer: Any) -> Iterator[tuple[Any, Any, Any]]:
    """What `read_nodes` answers, node by node: its id, last_seen in ms, and the fields' values."""
    members, values = answer
    return zip(members[::2], members[1::2], values, strict=True)


def decode_nodes(answer: Any, *, history: bool = False) -> list[Node]:
    """The nodes in an answer of `read_nodes`, by id."""
    nodes = []
    for node_id, last_seen, values in node_rows(answer):
        fields = dict(zip((*_FIELDS, "history") if history else _FIELDS, values, strict=True))
        nodes.append(_node(text_of(node_id), float(last_seen) / 1000, fields))
    return sorted(nodes, key=lambda node: node.node_id)


def decode_total(row: Mapping[Any, Any]) -> dict[str, float]:
    """A row of totals: what `mark` was given, and beside it what its script added."""
    decoded = {text_of(name): from_json(value) for name, value in row.items()}
    return {**decoded.pop("nodes"), **decoded}


def decode_brief(answer: Any) -> list[Node]:
    """An answer that was asked for in brief: nodes that know how they stand and which roles they have, no facts."""
    nodes = []
    for node_id, last_seen, (*instants, health) in node_rows(answer):
        heard = {role: at for role, text in zip(ROLES, instants, strict=True) if (at := read_instant(text)) is not None}
        judged = _judged(health) if health else None
        marks = {"health": judged} if judged else {}
        nodes.append(Node(text_of(node_id), float(last_seen) / 1000, {role: {} for role in heard}, heard, marks))
    return nodes


@lru_cache(maxsize=10_000)  # a judgement is read far more often than made
def _judged(text: str | bytes) -> Mapping[str, Any] | None:
    return read_object(text, "health", [])


def _node(node_id: str, last_seen: float, fields: Mapping[str, Any]) -> Node:
    unread: list[str] = []
    roles, heard, marks, held = {}, {}, {}, {}
    for role in ROLES:
        if (text := fields[role]) and (facts := read_object(text, role, unread)) is not None:
            if (at := read_instant(fields[f"{role}:at"])) is None:
                unread.append(f"{role}:at")
            else:
                roles[role], heard[role] = facts, at
    for mark in MARKS:
        if (text := fields[mark]) and (value := read_object(text, mark, unread)) is not None:
            marks[mark] = value
    for part in HELD:
        if (text := fields[_HELD + part]) and (value := read_object(text, _HELD + part, unread)) is not None:
            held[part] = value
    return Node(node_id, last_seen, roles, heard, marks, read_rows(fields.get("history")), tuple(unread), held)


def _ms(now: float | None) -> str:
    return "" if now is None else f"{now * 1000:.0f}"
