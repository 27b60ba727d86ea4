"""Which nodes are asked for their games, and which node gathers them: pure decisions.

Counts are of new games, so a node that was drained counts nothing until it has played again. The largest come first;
a few places are kept for the nodes that have waited for longest, so that nobody's games stay behind for good. A node
that fails waits longer each time, and holds up no other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from fleet.games import number_of, unaccounted
from fleet.kinds import CENTRAL
from fleet.nodes import SILENT_AFTER, Node

#: Of the places of a cycle, the share that is kept for those that are overdue; at least one.
RESERVED = 0.2


class Policy(Protocol):
    """The loop's options: games, nodes, seconds."""

    min_games: int
    max_nodes_per_cycle: int
    flush_after: float


@dataclass(frozen=True)
class Member:
    """A node as gathering sees it. `live`: its agent answers; `new`: games that it has not exported; `central`:
    whether its jobs worker offers to gather, None while it has none; `draining`: it may leave soon; `sent`: games of
    which it has not heard yet whether they were gathered."""

    node_id: str
    live: bool = True
    new: int = 0
    draining: bool = False
    central: bool | None = None
    sent: int = 0

    @classmethod
    def of(cls, node: Node, now: float) -> Member:
        """What the registry says of a node."""
        jobs, held = node.roles.get("jobs"), node.held.get("games", {})
        return cls(
            node.node_id,
            live=now - node.heard.get("agent", 0.0) <= SILENT_AFTER,
            new=number_of("new", held),
            sent=number_of("sent", held),
            draining="drain" in node.marks,
            central=None if jobs is None else CENTRAL in jobs.get("capabilities", ()),
        )


@dataclass(frozen=True)
class Memory:
    """What is remembered of a node: `since` when games of it have waited, and its failures in a row, after which it
    is not asked before `not_before`."""

    since: float
    failures: int = 0
    not_before: float = 0.0


@dataclass(frozen=True)
class Plan:
    """The nodes to ask for their games, in order, and what is remembered of every node that has some."""

    ask: tuple[str, ...]
    memories: Mapping[str, Memory]
    backing_off: int = 0


def decide(members: Sequence[Member], memories: Mapping[str, Memory], policy: Policy, now: float) -> Plan:
    """Whom to ask now. The same snapshot gives the same plan."""
    having = {member.node_id: member for member in members if member.new or member.sent}
    known = {name: _as_of(now, memories.get(name, Memory(now))) for name in having}
    due, backing_off = [], 0
    for name, member in having.items():
        overdue = now - known[name].since >= policy.flush_after
        if member.live and (member.new >= policy.min_games or (member.draining and member.new) or overdue):
            if now < known[name].not_before:
                backing_off += 1
            else:
                due.append(member)
    places = policy.max_nodes_per_cycle
    late = [member for member in due if now - known[member.node_id].since >= policy.flush_after]
    late.sort(key=lambda member: (known[member.node_id].since, member.node_id))
    first = late[: max(1, int(places * RESERVED))] if len(due) > places else []
    rest = [member for member in due if member not in first]
    rest.sort(key=lambda member: (not member.draining, -member.new, member.node_id))
    ask = [*first, *rest[: places - len(first)]]
    ask.sort(key=lambda member: (-member.new, member.node_id))
    return Plan(tuple(member.node_id for member in ask), known, backing_off)


def remember(
    plan: Plan, answered: Iterable[str], failed: Iterable[str], delay: Callable[[int], float], now: float
) -> dict[str, Memory]:
    """What is remembered after the nodes were asked: `delay(failures)` says how long one that failed is left alone."""
    memories = dict(plan.memories)
    for name in answered:
        memories[name] = Memory(now)
    for name in failed:
        failures = memories[name].failures + 1
        memories[name] = replace(memories[name], failures=failures, not_before=now + delay(failures))
    return memories


def central(members: Sequence[Member], before: str | None) -> tuple[str | None, str]:
    """The central node, and what is wrong about it, or ''.

    It is the first by id that offers to be, and stays so, even while it is away, until it is forgotten or its jobs
    worker offers it no more: games gathered in two places would be trained on in neither.
    """
    offering = sorted(member.node_id for member in members if member.central)
    stays = [member for member in members if member.node_id == before and member.central is not False]
    chosen = before if stays else next(iter(offering), None)
    if chosen is None:
        return None, "no node gathers games: let the jobs worker of one consume the queue jobs.central"
    if others := [name for name in offering if name != chosen]:
        return (
            chosen,
            f"{chosen} gathers games, {', '.join(others[:5])} could too: let one jobs worker alone be central",
        )
    return chosen, ""


def names(node: str, answers: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What a node that answered is called, and was called when it sent games before."""
    return list(dict.fromkeys([node, *answers[node].get("names", ())]))


def lost_games(
    answers: Mapping[str, Mapping[str, Any]], arrived: Mapping[str, Mapping[str, int]]
) -> dict[str, dict[str, int]]:
    """Of the nodes that answered, those with unaccounted games, by configuration; `arrived` is by name."""
    lost = {}
    for node, answer in answers.items():
        if node in arrived:
            total: Counter[str] = Counter()
            for name in names(node, answers):
                total.update(arrived.get(name, {}))
            if missing := unaccounted(answer.get("account", {}), total):
                lost[node] = missing
    return lost


def _as_of(now: float, memory: Memory) -> Memory:
    """Instants later than now are from before the server's clock was set back: they are not waited for."""
    longest = max(0.0, memory.not_before - memory.since)
    if memory.since <= now:
        return memory
    return replace(memory, since=now, not_before=min(memory.not_before, now + longest))
