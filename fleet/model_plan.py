"""Which node gets which model next, who publishes, and what may be deleted from the store: pure decisions.

A node lacks a version when it should hold it (`ConfigModels.wanted`) and its manifest does not list it. What
was never tried comes first: configurations with priority, then the promoted ones, the latest promotion first, then
the newest. What failed comes after, the one tried longest ago first, and not before its delay is over. So a pair
that fails again and again keeps nobody from their turn: while nothing new comes, every pair is tried within
as many cycles as it takes to try all. Of a cycle's turns one belongs to the version that has waited longest, so
that news of some configurations never keep the others waiting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from fleet.models import ConfigModels, Version
from fleet.store import Entry

#: Nodes that are asked to write their manifests anew in one cycle: an answer takes them milliseconds.
REFRESHED = 100
#: Seconds between two such questions to one node, when all it has to do is delete.
TIDY_EVERY = 3_600.0

#: How long to wait after so many failures in a row.
Delay = Callable[[int], float]


class Policy(Protocol):
    """How much and in which order: options of model_sync."""

    @property
    def max_transfers_per_cycle(self) -> int: ...
    @property
    def priority_configs(self) -> tuple[str, ...]: ...
    @property
    def keep_candidates(self) -> int: ...


@dataclass(frozen=True)
class Tried:
    """The last attempt: when, and how many failed in a row; 0 when it only has to wait for its turn."""

    at: float
    failures: int

    def rests(self, now: float, delay: Delay) -> bool:
        return self.failures > 0 and now - self.at < delay(self.failures)


@dataclass(frozen=True)
class NodeModels:
    """A node as the plan sees it: what it says it holds, and what attempts came to."""

    node_id: str
    versions: Mapping[str, frozenset[str]] = field(default_factory=dict)
    promoted: Mapping[str, tuple[str | None, str | None]] = field(default_factory=dict)
    unpublished: int = 0
    unlisted: int = 0
    tries: Mapping[str, Tried] = field(default_factory=dict)
    silent: Tried | None = None
    asked_at: float = 0.0
    told_at: float = 0.0

    def holds(self, version: Version) -> bool:
        return version.version in self.versions.get(version.config, ())

    def plays(self, config: str) -> str | None:
        """The version that its manifest calls promoted."""
        return self.promoted.get(config, (None, None))[0]

    @classmethod
    def read(cls, node_id: str, held: Mapping[str, Any], mark: Mapping[str, Any]) -> NodeModels:
        """From what the node says and what was remembered; what has another form counts as never said."""
        sound = {name: each for name, each in held.items() if isinstance(each, dict)}
        return cls(
            node_id,
            {name: frozenset(_texts(each.get("versions"))) for name, each in sound.items()},
            {name: (each.get("promoted"), each.get("previous")) for name, each in sound.items()},
            _count(held.get("unpublished")),
            _count(held.get("unlisted")),
            _tries(mark.get("tries")),
            _tried(mark.get("silent")),
            _instant(mark.get("asked_at")),
            _instant(mark.get("told_at")),
        )

    def mark(self) -> dict[str, Any]:
        """What is to be remembered of it."""
        return {
            "tries": {name: [each.at, each.failures] for name, each in sorted(self.tries.items())},
            "silent": [self.silent.at, self.silent.failures] if self.silent else None,
            "asked_at": self.asked_at,
            "told_at": self.told_at,
        }


@dataclass(frozen=True)
class Transfer:
    """A version that a node should fetch."""

    node_id: str
    version: Version


@dataclass(frozen=True)
class Plan:
    """What one cycle does. `lacking` are the versions that each node should hold and does not.

    `converged` and `behind` count pairs of a node and a configuration with a promoted version: those whose manifest
    has it, and the others; `resting` those pairs of a node and a version it lacks that wait after failures.
    """

    transfers: tuple[Transfer, ...]
    refresh: tuple[str, ...]
    lacking: Mapping[str, frozenset[str]]
    converged: int
    behind: int
    resting: int

    @property
    def missing(self) -> int:
        """Pairs of a node and a version that it lacks."""
        return sum(map(len, self.lacking.values()))


def publishers(nodes: Iterable[NodeModels], policy: Policy, now: float, delay: Delay) -> list[str]:
    """Nodes to ask for what jobs left there, those first that were asked longest ago."""
    waiting = [node for node in nodes if node.unpublished and not (node.silent and node.silent.rests(now, delay))]
    waiting.sort(key=lambda node: (node.asked_at, node.node_id))
    return [node.node_id for node in waiting[: policy.max_transfers_per_cycle]]


def plan(nodes: Sequence[NodeModels], models: Iterable[ConfigModels], policy: Policy, now: float, delay: Delay) -> Plan:
    """What to do now. The same snapshot gives the same plan, in whatever order it is given."""
    known = sorted(models, key=lambda each: each.config)
    wanted = {each.config: each.wanted(policy.keep_candidates) for each in known}
    promoted_at = {each.config: each.standing[-1].at for each in known if each.standing}
    missing = [
        (node, version)
        for node in sorted(nodes, key=lambda each: each.node_id)
        for versions in wanted.values()
        for version in versions
        if not node.holds(version)
    ]
    ready = [(node, version) for node, version in missing if not _rests(node, version, now, delay)]
    ranks = {config: rank for rank, config in enumerate(policy.priority_configs)}
    promoted = {each.promoted for each in known}

    def order(pair: tuple[NodeModels, Version]) -> tuple[Any, ...]:
        node, version = pair
        tried = node.tries.get(version.version)
        first = version.version in promoted
        return (
            tried.at if tried else 0.0,
            ranks.get(version.config, len(ranks)),
            not first,
            -promoted_at[version.config] if first else 0,
            -version.created_at,
            version.version,
            node.node_id,
        )

    ready.sort(key=order)
    chosen = _with_the_longest_waiting(ready, policy.max_transfers_per_cycle)
    ruled = [each for each in known if each.promoted is not None]
    converged = sum(
        node.promoted.get(each.config, (None, None))[0] == each.promoted for node in nodes for each in ruled
    )
    return Plan(
        tuple(Transfer(node.node_id, version) for node, version in chosen),
        tuple(_outdated(nodes, known, now, delay)),
        {node.node_id: frozenset(each.version for other, each in missing if other is node) for node in nodes},
        converged,
        len(ruled) * len(nodes) - converged,
        len(missing) - len(ready),
    )


def _rests(node: NodeModels, version: Version, now: float, delay: Delay) -> bool:
    tried = node.tries.get(version.version)
    return any(each is not None and each.rests(now, delay) for each in (node.silent, tried))


def _with_the_longest_waiting(
    ready: Sequence[tuple[NodeModels, Version]], most: int
) -> Sequence[tuple[NodeModels, Version]]:
    """The first ones, but for the last turn: of those that were never tried, the oldest version's."""
    if most < 2 or len(ready) <= most:
        return ready[:most]
    chosen, others = list(ready[: most - 1]), ready[most - 1 :]
    untried = [pair for pair in others if pair[1].version not in pair[0].tries]
    chosen.append(min(untried, key=lambda pair: pair[1].created_at) if untried else others[0])
    return chosen


def _outdated(nodes: Sequence[NodeModels], known: Sequence[ConfigModels], now: float, delay: Delay) -> list[str]:
    """Nodes whose manifests do not say what they could, or that have something to delete; the longest untold first."""

    def stands(node: NodeModels, models: ConfigModels) -> tuple[str | None, str | None]:
        here = node.versions.get(models.config, ())
        names = [each.version for each in reversed(models.standing) if each.version in here]
        first, second, *_ = [*dict.fromkeys(names), None, None]
        return first, second

    def is_outdated(node: NodeModels) -> bool:
        if node.silent is not None and node.silent.rests(now, delay):
            return False
        if node.unlisted and now - node.told_at >= TIDY_EVERY:
            return True
        return any(node.promoted.get(each.config, (None, None)) != stands(node, each) for each in known)

    return [node.node_id for node in sorted(nodes, key=lambda each: (each.told_at, each.node_id)) if is_outdated(node)][
        :REFRESHED
    ]


def remembered(
    node: NodeModels,
    lacking: Iterable[str],
    outcomes: Mapping[str, str],
    now: float,
    *,
    asked: bool = False,
    told: bool = False,
) -> NodeModels:
    """The node after a cycle: outcomes by version are `done`, `busy`, `silent`, or why it failed; `asked` and `told`
    are whether it was asked to publish, and to list.

    What it no longer lacks is forgotten, so there is never more to remember than versions that it should hold.
    """
    still = set(lacking)
    tries = {name: tried for name, tried in node.tries.items() if name in still}
    for version, outcome in outcomes.items():
        before = tries.pop(version, Tried(0.0, 0))
        if outcome != "done":
            tries[version] = Tried(now, before.failures + (outcome != "busy"))
    silent = node.silent
    if outcomes:
        said_nothing = "silent" in outcomes.values()
        silent = Tried(now, (silent.failures if silent else 0) + 1) if said_nothing else None
    return replace(
        node,
        tries=tries,
        silent=silent,
        asked_at=now if asked else node.asked_at,
        told_at=now if told else node.told_at,
    )


def prunable(
    models: Iterable[ConfigModels], blobs: Iterable[Entry], *, newest: int, standing: int, now: float, after: float
) -> list[Entry]:
    """Contents that the store need not keep: those of known versions only, none of which is among the `newest` of its
    configuration or the `standing` last promotions, and which were put there more than `after` seconds ago.

    Contents that no record names may be those of a version that is being published; they stay.
    """
    spared: set[str] = set()
    named: set[str] = set()
    for each in models:
        promoted = {promotion.version for promotion in each.standing[-max(2, standing) :]}
        kept = {version.version for version in each.versions[-max(1, newest) :]}
        for version in each.versions:
            named.add(version.blob)
            if version.version in kept | promoted or now - version.created_at <= after:
                spared.add(version.blob)
    return sorted(
        (
            blob
            for blob in blobs
            if blob.key in named - spared and blob.modified is not None and now - blob.modified > after
        ),
        key=lambda blob: blob.key,
    )


def _tries(value: Any) -> dict[str, Tried]:
    rows = value.items() if isinstance(value, dict) else ()
    return {name: tried for name, each in rows if (tried := _tried(each)) is not None}


def _tried(value: Any) -> Tried | None:
    if isinstance(value, list) and len(value) == 2 and type(value[1]) is int and 0 <= value[1] < 1 << 53:
        return Tried(_instant(value[0]), value[1])
    return None


def _texts(value: Any) -> list[str]:
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []


def _count(value: Any) -> int:
    return value if type(value) is int and 0 < value < 1 << 53 else 0


def _instant(value: Any) -> float:
    return float(value) if type(value) in (int, float) and 0 <= value < 1e15 else 0.0
