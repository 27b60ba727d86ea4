"""Which address of a node is used: a pure decision on where its agent has just proved itself.

The addresses a node may have are its candidates, in the order of the policy. The current one is given up
for another only when that one answered, and

* it stands above the current one in the order, and was not left within `settle_for`; or
* the current one is refused or another node's, and it was not left within `settle_for`; or
* the current one has failed in `failures_before_switch` checks in a row.

So an address that comes and goes is returned to at most once in `settle_for` while the current one works,
and at most once in `failures_before_switch` checks while it does not.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from fleet.addresses import in_tailnet, told
from fleet.inventory import StaticNode, is_address, is_host_name
from fleet.nodes import Node
from fleet.notices import Notice, listed
from fleet.probing import REFUSED, TIMED_OUT, WRONG_NODE, Answer, Responder
from fleet.tailnet_recovery import Mark

Source = Literal["current", "dns", "tailnet", "public", "lan"]
Family = Literal["ipv4", "ipv6"]

#: Addresses of one node that are probed in one check, at most: a machine full of containers has many.
CANDIDATES = 16
#: Changes that a node's mark remembers.
REMEMBERED = 3

_VERSIONS = {"ipv4": 4, "ipv6": 6}


class Policy(Protocol):
    """The loop's options: seconds and counts."""

    max_nodes_per_cycle: int
    order: tuple[Source, ...]
    prefer: Family
    failures_before_switch: int
    settle_for: float


@dataclass(frozen=True)
class Candidate:
    """An address that a node may have, and who says so."""

    address: str
    source: str


@dataclass(frozen=True)
class Report:
    """What a cycle found: marks to write, what it amounts to, and what the operator should know."""

    changes: Mapping[str, Mapping[str, Mapping[str, Any]]]
    totals: Mapping[str, int]
    events: tuple[Notice, ...]


def due(nodes: Iterable[Node], policy: Policy, now: float) -> list[Node]:
    """The nodes to check in this cycle, out of those that can prove themselves.

    Up to half of the places go to nodes about which there is news: their address failed, they no longer name
    it, or tailscale_recovery gave them up. The others go to those checked longest ago, so that none of n nodes
    waits for more than 2n / max_nodes_per_cycle cycles, rounded up, whatever the news.
    """
    able = sorted(
        (node for node in nodes if Responder.of(node.roles.get("agent", {}).get("probe")) is not None),
        key=lambda node: (_checked_at(node, now), node.node_id),
    )
    news = [node for node in able if _is_news(node, policy, now)]
    first = {node.node_id for node in news[: policy.max_nodes_per_cycle // 2]}
    rest = [node for node in able if node.node_id not in first]
    return [node for node in able if node.node_id in first] + rest[: policy.max_nodes_per_cycle - len(first)]


def candidates(node: Node, resolved: Sequence[str], static: StaticNode | None, policy: Policy) -> tuple[Candidate, ...]:
    """Where the node may be reached, best first; the current address keeps its source and comes once."""
    before = node.marks.get("address", {})
    current: str | None = before.get("address")
    sources: dict[str, str] = {} if current is None else {current: str(before["source"])}
    for address, source in [*((each, "dns") for each in resolved), *_told(node), *_known(static)]:
        sources.setdefault(address, source)

    def places(address: str) -> list[int]:
        named = {sources[address], "current" if address == current else ""}
        return [place for place, source in enumerate(policy.order) if source in named]

    ranked = sorted(
        filter(places, sources), key=lambda address: (places(address)[0], _version(address) != _VERSIONS[policy.prefer])
    )
    kept = ranked[:CANDIDATES]
    if current in ranked and current not in kept:
        kept[-1:] = [current]
    return tuple(Candidate(address, sources[address]) for address in kept)


def host_name(node: Node, static: StaticNode | None) -> str:
    """The name to ask DNS for: the inventory's, else what the machine calls itself; or nothing."""
    name = static.host if static is not None and static.host is not None else node.host
    return name if is_host_name(name) else ""


def choose(
    node: Node, options: Sequence[Candidate], answers: Mapping[str, Answer], policy: Policy, now: float
) -> dict[str, Any]:
    """The node's `address` mark as of now. `answers` holds what came of probing each of the candidates.

    `address` is the one to use (None: none has ever answered), `source` who named it, `since` when it was
    chosen, `failures` how often in a row it did not answer (at most the policy's limit), `reachable` whether it is
    below that limit, `why` what its candidates said when none was used, `changes` the newest changes, each
    with its reason.
    """
    before = node.marks.get("address", {})
    current: str | None = before.get("address")
    proved = [each for each in options if each.address in answers and answers[each.address].is_proof]
    answers_now = any(each.address == current for each in proved)
    failures = 0 if answers_now or current is None else min(before["failures"] + 1, policy.failures_before_switch)
    said = answers.get(current, Answer(TIMED_OUT)) if current is not None else None
    choice, reason = _switch(before, said, proved, failures, policy, now)
    mark = {
        "address": before.get("address"),
        "source": before.get("source"),
        "since": before.get("since"),
        "failures": failures,
        "changes": before.get("changes", []),
    }
    if choice is not None:
        change = {"at": now, "from": current, "to": choice.address, "source": choice.source, "reason": reason}
        mark |= {
            "address": choice.address,
            "source": choice.source,
            "since": now,
            "failures": 0,
            "changes": [*mark["changes"], change][-REMEMBERED:],
        }
    answered = choice is not None or answers_now
    doubtful = failures < policy.failures_before_switch and bool(before.get("reachable"))
    why = "" if answered else _nobody(options, answers)
    return {**mark, "reachable": answered or doubtful, "why": why, "checked_at": now}


def decide(
    nodes: Sequence[Node],
    found: Mapping[str, tuple[Sequence[Candidate], Mapping[str, Answer]]],
    policy: Policy,
    now: float,
) -> Report:
    """Choose for each of the nodes, out of its candidates and what they answered."""
    marks = {node.node_id: choose(node, *found[node.node_id], policy, now) for node in nodes}
    before = {node.node_id: node.marks.get("address", {}) for node in nodes}
    changed = [each for each, mark in marks.items() if mark["address"] != before[each].get("address")]
    reachable = sum(mark["reachable"] for mark in marks.values())
    totals = {
        "checked": len(nodes),
        "reachable": reachable,
        "unreachable": len(nodes) - reachable,
        "changed": len(changed),
    }
    live = [node.node_id for node in nodes if node.is_live(now)]
    events = tuple(_notices(marks, before, changed, live))
    return Report({node_id: {"address": mark} for node_id, mark in marks.items()}, totals, events)


def _notices(
    marks: Mapping[str, Mapping[str, Any]],
    before: Mapping[str, Mapping[str, Any]],
    changed: Sequence[str],
    live: Sequence[str],
) -> Iterator[Notice]:
    """At most one of a title. A first address is no change, and of a node that is silent others tell."""
    moves = {each: marks[each]["changes"][-1] for each in changed}
    moved = [
        f"{each}: {move['from']} -> {move['to']} ({move['reason']})" for each, move in moves.items() if move["from"]
    ]
    if moved:
        yield Notice("Address changed", listed(moved))
    if cut := [each for each in live if not marks[each]["reachable"] and before[each].get("reachable", True)]:
        yield Notice("Node unreachable", listed([f"{each}: {marks[each]['why']}" for each in cut]), "warning")
    if back := [each for each in live if marks[each]["reachable"] and before[each].get("reachable") is False]:
        yield Notice("Node reachable again", listed([f"{each}: {marks[each]['address']}" for each in back]))


def _switch(
    before: Mapping[str, Any],
    said: Answer | None,
    proved: Sequence[Candidate],
    failures: int,
    policy: Policy,
    now: float,
) -> tuple[Candidate | None, str]:
    """Where to go, and why; None: stay."""
    if said is None:
        return (proved[0], "the first that answered") if proved else (None, "")
    others = [each for each in proved if each.address != before["address"]]
    settled = [each for each in others if not _was_left(each.address, before, policy, now)]
    if said.is_proof:
        above = proved[: next(place for place, each in enumerate(proved) if each.address == before["address"])]
        better = [each for each in settled if each in above]
        return (better[0], f"{better[0].source} comes before {before['source']}") if better else (None, "")
    is_certain = said.reason in (REFUSED, WRONG_NODE)
    if is_certain and settled:
        return settled[0], str(said)
    if failures >= policy.failures_before_switch and others:
        return (settled or others)[0], f"{said}, {failures} times in a row" if failures > 1 else str(said)
    return None, ""


def _was_left(address: str, before: Mapping[str, Any], policy: Policy, now: float) -> bool:
    left = [change["at"] for change in before["changes"] if change["from"] == address]
    return any(0 <= now - at < policy.settle_for for at in left)


def _nobody(options: Sequence[Candidate], answers: Mapping[str, Answer]) -> str:
    said = [f"{each.address} {answers.get(each.address, Answer(TIMED_OUT))}" for each in options]
    return "; ".join(said) or "nobody names an address of it"


def _checked_at(node: Node, now: float) -> float:
    """When it was checked last; one checked later than now was checked before the server's clock was set back."""
    at = float(node.marks.get("address", {}).get("checked_at", 0.0))
    return at if at <= now else 0.0


def _is_news(node: Node, policy: Policy, now: float) -> bool:
    mark = node.marks.get("address")
    if mark is None or mark.get("address") is None:
        return False
    if 0 < mark["failures"] < policy.failures_before_switch:
        return True
    if (Mark.of(node).gave_up_at or 0.0) > _checked_at(node, now):
        return True  # tailscale_recovery can do no more: a direct address is wanted
    named = dict(_told(node))
    return node.is_live(now) and mark["source"] in ("tailnet", "lan") and bool(named) and mark["address"] not in named


def _told(node: Node) -> list[tuple[str, str]]:
    """Addresses in the node's own heartbeat, and their source. An agent bound to some answers only there."""
    agent = node.roles.get("agent", {})
    responder = Responder.of(agent.get("probe"))
    if responder is not None and responder.bound:
        return [(_plain(address), _source(address)) for address in responder.bound if is_address(address)]
    named = agent.get("addresses")
    return [(_plain(address), source) for source in ("tailnet", "public", "lan") for address in told(named, source)]


def _known(static: StaticNode | None) -> list[tuple[str, str]]:
    if static is None:
        return []
    named = [(static.tailscale_ip, "tailnet"), (static.public_ip, "public")]
    plain = [address for address in (static.host, *static.addresses) if address is not None and is_address(address)]
    return [
        *((address, source) for address, source in named if address is not None),
        *((address, _source(address)) for address in plain),
    ]


def _source(address: str) -> str:
    """The kind of network that an address belongs to."""
    parsed = ipaddress.ip_address(address)
    if in_tailnet(parsed):
        return "tailnet"
    return "public" if parsed.is_global else "lan"


def _version(address: str) -> int:
    return ipaddress.ip_address(address).version


def _plain(address: str) -> str:
    """One spelling for each address."""
    return str(ipaddress.ip_address(address))
