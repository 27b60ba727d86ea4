"""Decides which nodes to bring back into their tailnet now, over which way, and what the operator should know.

Pure. Per node the mark `tailnet` remembers what was tried:

    well --not well--> watched --ripe--> attempt, after each the cooldown --max_attempts--> given up
      ^__________________________ well again, or an operator's reset ____________________________|

An attempt is written down before it is made, so however it ends, and whoever leads next, it counts.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from fleet.nodes import SILENT_AFTER, Node
from fleet.notices import Notice, Severity, listed
from fleet.tailnet import Tailnet
from fleet.tailnet_attempt import Attempt

#: Steps of one attempt, at most: a restart, `up`, and a new login if that shows to be needed.
STEPS = 3
#: Characters of an error that the mark keeps.
ERROR_LIMIT = 500

Way = Literal["queue", "ssh"]

Told = tuple[str, Severity, str]  # a notice's title and severity, and what it says of one node

_APPROVE = "an administrator must approve the machine in the admin console"


class Policy(Protocol):
    """The loop's options: seconds and counts."""

    max_attempts: int
    cooldown: float
    step_timeout: float
    starting_for: float
    warn_before: float
    max_nodes_per_cycle: int


class Mark(BaseModel):
    """The mark `tailnet`. Instants are on Redis time; `since` is when the node was first seen not to be well.

    `state` is the last one that was seen, `step` the last that was taken, `error` what went wrong with it.
    `told` is what the operator was told of: an approval that is wanted, or a key's expiry.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    since: float | None = None
    state: str = ""
    attempts: int = 0
    last_attempt_at: float | None = None
    step: str = ""
    error: str = ""
    gave_up_at: float | None = None
    told: str = ""

    @classmethod
    def of(cls, node: Node) -> Mark:
        """The node's mark; an empty one when it has none, or none of ours."""
        try:
            return cls.model_validate(node.marks.get("tailnet", {}))
        except ValidationError:
            return cls()

    def written(self) -> dict[str, Any] | None:
        """As it stands in the registry; None when there is nothing to remember."""
        return self.model_dump(exclude_defaults=True) or None

    def but(self, **changes: Any) -> Mark:
        return self.model_copy(update=changes)


@dataclass(frozen=True)
class Wanted:
    """An attempt to make now, which is the `number`th of this node."""

    node: Node
    way: Way
    number: int


@dataclass
class Report:
    """Marks to write, attempts to make once they are written, and notices to send."""

    changes: dict[str, dict[str, dict[str, Any] | None]] = field(default_factory=dict)
    wanted: list[Wanted] = field(default_factory=list)
    events: list[Notice] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)


def decide(nodes: Iterable[Node], policy: Policy, now: float, *, by_ssh: Iterable[str] = ()) -> Report:
    """What to do in this cycle. `by_ssh` are the nodes that SSH may reach when they are lost.

    At most `max_nodes_per_cycle` attempts go on at once, those of earlier cycles included; the node that
    waits for longest comes first.
    """
    reached = set(by_ssh)
    marks: dict[str, tuple[Mapping[str, Any] | None, Mark]] = {}
    ready: list[tuple[float, Node, Way]] = []
    events: dict[tuple[str, Severity], list[str]] = {}
    counts = dict.fromkeys(("tailnets", "well", "attempted", "waiting", "given_up"), 0)
    attempting = 0
    for node in nodes:
        mark = Mark.of(node)
        seen = _seen(node, now, reached)
        after, told = (mark, []) if seen is None else _judge(node, seen, mark, policy, now)
        if node.left or (seen is None and _has_agent(node, now)):
            after = Mark()  # it is not in a tailnet
        for title, severity, line in told:
            events.setdefault((title, severity), []).append(f"{node.node_id}{line}")
        counts["tailnets"] += seen is not None
        counts["well"] += seen is not None and seen[1] is not None and seen[1].is_well
        counts["given_up"] += after.gave_up_at is not None
        attempting += _is_under_way(after, policy, now)
        if seen is not None and _is_ripe(seen[1], after, policy, now):
            ready.append((after.last_attempt_at or 0.0, node, seen[0]))
        marks[node.node_id] = node.marks.get("tailnet"), after

    report = Report(counts=counts)
    ready.sort(key=lambda each: (each[0], each[1].node_id))
    for _, node, way in ready[: max(0, policy.max_nodes_per_cycle - attempting)]:
        before, mark = marks[node.node_id]
        marks[node.node_id] = before, mark.but(attempts=mark.attempts + 1, last_attempt_at=now)
        report.wanted.append(Wanted(node, way, mark.attempts + 1))
    counts["attempted"] = len(report.wanted)
    counts["waiting"] = len(ready) - len(report.wanted)
    for node_id, (before, mark) in marks.items():
        if mark.written() != before:
            report.changes[node_id] = {"tailnet": mark.written()}
    report.events += [Notice(title, listed(lines), severity) for (title, severity), lines in events.items()]
    return report


def concluded(node: Node, made: Attempt, number: int, now: float) -> dict[str, Any] | None:
    """The mark of a lost node after an attempt over SSH: what that machine itself said last.

    One that is well in its tailnet, and whose agent is silent for another reason, keeps its attempts for
    when it is not; it is looked at again after the cooldown.
    """
    if made.tailnet.is_well:
        return Mark(state=made.tailnet.state, last_attempt_at=now).written()
    mark = Mark.of(node)
    step = made.steps[-1][0] if made.steps else ""
    error = (made.errors or made.tailnet.error)[:ERROR_LIMIT]
    since = now if mark.since is None else mark.since
    return mark.but(
        since=since, attempts=number, last_attempt_at=now, step=step, error=error, state=made.tailnet.state
    ).written()


def _has_agent(node: Node, now: float) -> bool:
    """Whether its agent is heard, so that its queue is served."""
    return "agent" in node.roles and now - node.heard["agent"] <= SILENT_AFTER


def _seen(node: Node, now: float, by_ssh: set[str]) -> tuple[Way, Tailnet | None] | None:
    """The way to the node and what it says of its tailnet: nothing when it is lost. None: nothing can be done."""
    fact = node.roles.get("agent", {}).get("tailnet")
    if fact is None:
        return None
    if _has_agent(node, now):
        return "queue", Tailnet.from_fact(fact)
    return ("ssh", None) if node.node_id in by_ssh and node.status(now) == "lost" else None


def _judge(
    node: Node, seen: tuple[Way, Tailnet | None], mark: Mark, policy: Policy, now: float
) -> tuple[Mark, list[Told]]:
    """The mark after what was seen, before any new attempt."""
    _, tailnet = seen
    if tailnet is not None and tailnet.is_well:
        back: list[Told] = [("Tailnet back", "info", "")] if mark.attempts else []
        told, warning = _expiry(tailnet, mark, policy, now)
        return Mark(told=told), [*back, *warning]
    mark = mark.but(since=now if mark.since is None else min(mark.since, now))
    if tailnet is not None:
        mark = mark.but(
            state=tailnet.state,
            **(_said(node.roles["agent"]["tailnet"]) if mark.attempts else {"error": tailnet.error}),
        )
        if tailnet.state == "NeedsMachineAuth":
            if mark.told == _APPROVE:
                return mark, []
            return mark.but(told=_APPROVE), [("Tailnet approval wanted", "warning", f": {_APPROVE}")]
    if mark.gave_up_at is not None or mark.attempts < policy.max_attempts or _is_cooling(mark, policy, now):
        return mark, []
    why = "lost" if tailnet is None else tailnet.describe()
    line = f": {why} after {mark.attempts} attempts; {mark.error or 'no step says why'}; {_fallback(node)}"
    return mark.but(gave_up_at=now), [("Tailnet not recovered", "error", line)]


def _is_ripe(tailnet: Tailnet | None, mark: Mark, policy: Policy, now: float) -> bool:
    """Whether an attempt may be made now, as far as this node is concerned."""
    if mark.gave_up_at is not None or _is_cooling(mark, policy, now):
        return False
    if tailnet is None:
        return True
    if tailnet.is_well or tailnet.state == "NeedsMachineAuth":
        return False
    return tailnet.is_settled or (mark.since is not None and now - mark.since >= policy.starting_for)


def _is_cooling(mark: Mark, policy: Policy, now: float) -> bool:
    """Whether its last attempt was just now. One later than now was before the server's clock was set back."""
    return mark.last_attempt_at is not None and 0 <= now - mark.last_attempt_at < policy.cooldown


def _is_under_way(mark: Mark, policy: Policy, now: float) -> bool:
    """Whether its last attempt may still go on."""
    return mark.last_attempt_at is not None and 0 <= now - mark.last_attempt_at < STEPS * policy.step_timeout


def _said(fact: Any) -> dict[str, str]:
    """What the node's agent says of its last attempt: from another machine, so anything."""
    made = fact.get("attempt") if isinstance(fact, Mapping) else None
    if not isinstance(made, Mapping):
        return {}
    steps, error = made.get("steps"), made.get("error")
    step = steps[-1] if isinstance(steps, Sequence) and steps else ""
    return {"step": str(step)[:40], "error": str(error or "")[:ERROR_LIMIT]}


def _expiry(tailnet: Tailnet, mark: Mark, policy: Policy, now: float) -> tuple[str, list[Told]]:
    """A key's expiry, told once for each instant, `warn_before` ahead of it."""
    at = tailnet.key_expiry
    if at is None or at - now > policy.warn_before:
        return "", []
    told = f"key expires {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime(min(max(at, 0.0), 253_402_300_799)))}"
    return told, [] if mark.told == told else [("Tailnet key expires", "warning", f": {told}")]


def _fallback(node: Node) -> str:
    """By which address it is reached without its tailnet: ip_discovery looks for one, and first at nodes given up."""
    mark = node.marks.get("address", {})
    if mark.get("reachable") and mark.get("source") != "tailnet":
        return f"others reach it directly at {mark.get('address')}"
    return "ip_discovery looks for a direct address next"
