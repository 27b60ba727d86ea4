"""Asks for nodes at every address they may have, all at once: first DNS for more addresses, then probes."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from fleet import reachability
from fleet.inventory import Inventory
from fleet.nodes import Node
from fleet.probing import TIMED_OUT, Answer, Responder, probe
from fleet.reachability import Candidate, candidates, host_name
from fleet.resolving import resolve


class Policy(reachability.Policy, Protocol):
    """The loop's options: seconds and counts."""

    dns_timeout: float
    probe_timeout: float
    max_probes: int


@dataclass(frozen=True)
class Survey:
    """By node its candidates and what came of each; and how many names DNS did not know."""

    found: Mapping[str, tuple[Sequence[Candidate], Mapping[str, Answer]]]
    unresolved: int


async def look(nodes: Sequence[Node], inventory: Inventory, policy: Policy, budget: float) -> Survey:
    """Probe the candidates of these nodes, which all have a responder, within `budget` seconds.

    What is not answered by then has timed out.
    """
    began = asyncio.get_running_loop().time()
    static = {node.node_id: inventory.hosts.get(node.node_id) for node in nodes}
    names = {node.node_id: host_name(node, static[node.node_id]) for node in nodes}
    resolved = await resolve(set(filter(None, names.values())), min(policy.dns_timeout, budget))
    wanted: dict[str, tuple[Candidate, ...]] = {}
    for node in nodes:
        told = resolved.get(names[node.node_id], "")
        wanted[node.node_id] = candidates(node, told if isinstance(told, tuple) else (), static[node.node_id], policy)
    left = budget - (asyncio.get_running_loop().time() - began)
    answers = await _probe_all(nodes, wanted, policy, left)
    found = {
        node_id: (options, {each.address: answers[node_id, each.address] for each in options})
        for node_id, options in wanted.items()
    }
    return Survey(found, sum(isinstance(told, str) for told in resolved.values()))


async def _probe_all(
    nodes: Sequence[Node], wanted: Mapping[str, Sequence[Candidate]], policy: Policy, budget: float
) -> dict[tuple[str, str], Answer]:
    slots = asyncio.Semaphore(policy.max_probes)

    async def ask(node: Node, address: str) -> Answer:
        responder = Responder.of(node.roles["agent"]["probe"])
        assert responder is not None  # noqa: S101 - or it would not be due
        async with slots:
            return await probe(address, responder, node.node_id, policy.probe_timeout)

    probes = {
        (node.node_id, each.address): asyncio.create_task(ask(node, each.address))
        for node in nodes
        for each in wanted[node.node_id]
    }
    if probes:
        _, late = await asyncio.wait(probes.values(), timeout=None if budget == math.inf else max(0.0, budget))
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
    return {
        place: Answer(TIMED_OUT, "the run had no more time") if task.cancelled() else task.result()
        for place, task in probes.items()
    }
