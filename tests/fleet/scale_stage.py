"""Policies, snapshots and a cluster in virtual time for the tests of scaling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fleet.providers.port import Instance, ProviderError, ProviderSilent
from fleet.providers.simulated import Simulated, SimulatedOptions
from fleet.scale_snapshot import LOOP, Decision, Member, Scaling, Snapshot
from fleet.scaling import after_failure, decide
from tasks.auto_scaling import Options as Rules

NOW = 1_800_000_000.0
MINUTE, HOUR = 60.0, 3600.0


def node(node_id: str, *, running: int = 0, idle: float | None = None, **more: Any) -> Member:
    """A live node; `idle` is for how long."""
    return Member(
        node_id,
        live=more.pop("live", True),
        running=running,
        heard_at=more.pop("heard_at", NOW),
        idle_since=None if idle is None else NOW - idle,
        **more,
    )


def nodes(number: int, prefix: str = "node", **more: Any) -> list[Member]:
    return [node(f"{prefix}-{i}", **more) for i in range(1, number + 1)]


def listed(*names: str, **more: Any) -> list[Instance]:
    return [Instance(name, **more) for name in names]


def judge(
    pending: int,
    members: Sequence[Member],
    instances: Sequence[Instance] | None = (),
    scaling: Scaling | None = None,
    *,
    here: str = "",
    seq: int = 7,
    **rules: Any,
) -> Decision:
    snapshot = Snapshot(NOW, pending, members, instances, scaling or Scaling(), here, seq)
    return decide(snapshot, Rules(**rules))


def quiet(number: int, **more: Any) -> Scaling:
    """A record of hours in which so many nodes were wanted."""
    return Scaling(window=((NOW - 2 * HOUR, number),), **more)


@dataclass
class World:
    """A cluster of static nodes and a provider's, whose time passes in steps. What it decides is in `history`."""

    rules: Rules
    static: int
    step: float = 120.0
    join_after: float = 60.0
    cost: float | None = None
    now: float = NOW
    seq: int = 0
    scaling: Scaling = field(default_factory=Scaling)
    marks: dict[str, float] = field(default_factory=dict)
    idle_since: dict[str, float] = field(default_factory=dict)
    known: dict[str, float] = field(default_factory=dict)
    dead: set[str] = field(default_factory=set)
    history: list[tuple[float, Snapshot, Decision]] = field(default_factory=list)
    busy: Callable[[str], int] = lambda _name: 0

    def __post_init__(self) -> None:
        self.provider = Simulated(SimulatedOptions(join_after=self.join_after, cost_per_hour=self.cost))

    @property
    def live(self) -> list[str]:
        joined = [name for name in self.provider.joined if name not in self.dead]
        return [f"node-{i}" for i in range(1, self.static + 1)] + joined

    @property
    def machines(self) -> int:
        """Everything that costs: static nodes and the provider's instances, heard or not."""
        return self.static + len(self.provider._machines)

    def members(self) -> list[Member]:
        live = self.live
        self.known |= dict.fromkeys(live, self.now)
        found = []
        for name, heard_at in self.known.items():
            running = self.busy(name) if name in live else 0
            if name not in live or running:
                self.idle_since.pop(name, None)
            else:
                self.idle_since.setdefault(name, self.now)
            drained_at = self.marks.get(name)
            found.append(
                Member(
                    name,
                    name in live,
                    running,
                    heard_at,
                    self.idle_since.get(name),
                    drained_at,
                    LOOP if name in self.marks else "",
                )
            )
        return found

    def tick(self, pending: int) -> Decision | None:
        """One run of the loop; None when the provider did not even list."""
        self.now += self.step
        self.seq += 1
        self.provider.now = self.now
        try:
            instances = self.provider.instances()
        except ProviderError:
            return None
        snapshot = Snapshot(self.now, pending, self.members(), instances, self.scaling, "node-1", self.seq)
        decision = decide(snapshot, self.rules)
        if self.seq % 50 == 0:
            assert decide(snapshot, self.rules) == decision
        self.history.append((self.now, snapshot, decision))
        self.scaling = decision.scaling
        self.marks |= dict.fromkeys(decision.drain, self.now)
        for name in (*decision.undrain, *decision.forget):
            self.marks.pop(name, None)
        for name in decision.forget:
            self.known.pop(name, None)
        self._act(decision)
        return decision

    def _act(self, decision: Decision) -> None:
        try:
            if decision.start:
                self.provider.start(decision.start, decision.key)
        except ProviderError as error:
            silent = isinstance(error, ProviderSilent)
            self.scaling = after_failure(self.scaling, decision.start, self.now, silent=silent)
        try:
            if decision.remove:
                self.provider.stop(decision.remove, decision.key)
        except ProviderError:
            return

    def pin(self, number: int | None) -> None:
        self.scaling = replace(self.scaling, pinned=number)
