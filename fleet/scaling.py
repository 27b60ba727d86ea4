"""How many nodes there should be, and what to do about it: a pure decision.

Demand is what waits: jobs pending for each node. More nodes are asked for at once, fewer only when that
held for a while (`stabilize_for`), so that a load that comes and goes moves nothing. An instance that was
asked for counts until it is heard, or is overdue. A node is never just stopped: it is drained, and its
instance removed when nothing runs there any more. Only what the provider itself lists is ever removed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from fleet.scale_snapshot import LOOP, Awaited, Decision, Member, Policy, Scaling, Snapshot

#: Seconds without a scale-up after failures, however many: the backoff doubles up to this.
LONGEST_BACKOFF = 3600.0
#: Seconds after a drain from which on a heartbeat knows of the jobs that were being claimed at that moment.
SETTLED_AFTER = 1.0


def is_ours(name: str, prefix: str) -> bool:
    """Whether scaling could have given this name."""
    return re.fullmatch(rf"{re.escape(prefix)}-[0-9]+-[0-9]+", name) is not None


def decide(snapshot: Snapshot, policy: Policy) -> Decision:
    """What to do now. The same snapshot gives the same decision."""
    return _Deciding(snapshot, policy).decision()


def after_failure(scaling: Scaling, names: Sequence[str], now: float, *, silent: bool) -> Scaling:
    """The provider did not start these: wait with the next. Without an answer they may come all the same."""
    awaited = {name: wait for name, wait in scaling.awaited.items() if silent or name not in names}
    return replace(scaling, failures=scaling.failures + 1, failed_at=now, awaited=awaited)


def backoff(failures: int, policy: Policy) -> float:
    """Seconds without a scale-up after so many failures in a row."""
    return min(LONGEST_BACKOFF, policy.failure_backoff * 2.0 ** min(failures - 1, 30)) if failures else 0.0


class _Deciding:
    """One decision, in the making."""

    def __init__(self, snapshot: Snapshot, policy: Policy) -> None:
        self.snapshot, self.policy, self.now = snapshot, policy, snapshot.now
        self.listed = {instance.name: instance for instance in snapshot.instances or ()}
        self.members = {member.node_id: member for member in snapshot.members}
        self.scaling = replace(_as_of(self.now, snapshot.scaling), decided_at=self.now)
        self.live = [member for member in snapshot.members if member.live]
        self.serving = [member for member in self.live if member.drained_at is None]
        self.ours = [member for member in snapshot.members if member.drained_by == LOOP]
        self.coming: list[str] = []
        self.failed: list[str] = []
        self.reasons: list[str] = []

    def decision(self) -> Decision:
        self._reconcile()
        supply = len(self.serving) + len(self.coming)
        wanted = self._wanted(supply)
        highest = self._highest(wanted)
        returning = self._returning(wanted - supply)
        missing = wanted - supply - len(returning)
        names = self._names(self._startable(missing, supply + len(returning)))
        drained = self._drainable(supply - highest)
        scaling = replace(
            self.scaling,
            last_up_at=self.now if names else self.scaling.last_up_at,
            last_down_at=self.now if drained else self.scaling.last_down_at,
            awaited={**self._still_awaited(), **{name: Awaited(self.now) for name in names}},
            nodes=supply,
            wanted=wanted,
            reason="; ".join(self.reasons),
        )
        stays = {*returning, *self._lost_drains()}
        leaving = [member for member in self.ours if member.node_id not in stays]
        return Decision(
            scaling,
            key=_key(names, self.snapshot.seq),
            start=names,
            drain=drained,
            undrain=tuple(sorted(stays)),
            remove=tuple(sorted(self._removable(leaving))),
            forget=tuple(sorted(self._gone())),
            failed=tuple(sorted(self.failed)),
            coming=len(self.coming),
            draining=len([member for member in leaving if member.live]) + len(drained),
        )

    # what there is ---------------------------------------------------------------------------------

    def _reconcile(self) -> None:
        """Compare what was asked for with what the provider lists and the registry has heard."""
        if self.snapshot.instances is None:
            return
        live, leaving = {member.node_id for member in self.live}, {member.node_id for member in self.ours}
        awaited: dict[str, Awaited] = {}
        joined = False
        for name, wait in self.scaling.awaited.items():
            if name in live:
                joined |= not wait.counted
            elif self._is_over(name, wait):
                if not wait.counted:
                    self.failed.append(name)
                if name in self.listed:
                    awaited[name] = Awaited(wait.since, counted=True)
            else:
                awaited[name] = wait
        for name in self.listed.keys() - awaited.keys() - live - leaving:
            awaited[name] = Awaited(self.now, counted=True)  # silent, or unknown: it has as long as a new one
        if joined:
            self.scaling = replace(self.scaling, failures=0)
        if self.failed:
            self.scaling = replace(self.scaling, failures=self.scaling.failures + 1, failed_at=self.now)
            self.reasons.append(f"{len(self.failed)} did not join in time")
        self.scaling = replace(self.scaling, awaited=awaited)
        self.coming = [name for name, wait in awaited.items() if not self._is_over(name, wait)]

    def _is_over(self, name: str, wait: Awaited) -> bool:
        return self._has_ended(name) or self.now - wait.since > self.policy.join_within

    def _has_ended(self, name: str) -> bool:
        return name in self.listed and self.listed[name].state == "ended"

    def _still_awaited(self) -> dict[str, Awaited]:
        """Without those that have ended: once they are removed, nothing of them is on its way."""
        return {name: wait for name, wait in self.scaling.awaited.items() if not self._has_ended(name)}

    def _lost_drains(self) -> Iterator[str]:
        """Nodes drained for a removal that cannot come, since the provider knows them no more: they work on."""
        patience = self.policy.drain_for + self.policy.join_within
        for member in self.ours:
            lost = member.node_id not in self.listed and self.now - (member.drained_at or 0.0) > patience
            if member.live and (lost or self.snapshot.instances is None):
                yield member.node_id

    def _gone(self) -> Iterator[str]:
        """Nodes of instances that are no more."""
        if self.snapshot.instances is not None:
            for member in self.snapshot.members:
                known = member.live or member.node_id in self.listed or member.node_id in self.scaling.awaited
                if is_ours(member.node_id, self.policy.name_prefix) and not known:
                    yield member.node_id

    # how many ---------------------------------------------------------------------------------------

    def _wanted(self, supply: int) -> int:
        policy, pending, pinned = self.policy, self.snapshot.pending, self.scaling.pinned
        each = f"jobs pending: {pending}, nodes: {supply}"
        if pinned is not None:
            wanted, why = pinned, f"pinned to {pinned}"
        elif pending > policy.scale_up_threshold * supply:
            wanted, why = math.ceil(pending / policy.scale_up_threshold), each
        elif pending < policy.scale_down_threshold * supply:
            idle = sum(_is_idle(member) for member in self.serving)
            needed = math.ceil(pending / policy.scale_up_threshold)
            wanted, why = max(needed, supply - idle), f"{each}, idle: {idle}"
        else:
            wanted, why = supply, each
        self.reasons.append(why)
        within = max(policy.min_nodes, min(wanted, policy.max_nodes))
        if within != wanted:
            bound = "min_nodes" if within > wanted else "max_nodes"
            self.reasons.append(f"{wanted} wanted, {bound} is {within}")
        return within

    def _highest(self, wanted: int) -> int:
        """The highest recommendation of the window; a number that asks for nothing while it is not full."""
        if self.scaling.pinned is not None:
            self.scaling = replace(self.scaling, window=())
            return wanted
        since, begins = self.now, self.now - self.policy.stabilize_for
        window = list(self.scaling.window)
        while window and window[-1][1] <= wanted:
            since, _ = window.pop()
        window.append((since, wanted))
        while len(window) > 1 and window[1][0] <= begins:
            del window[0]
        self.scaling = replace(self.scaling, window=tuple(window))
        since, highest = window[0]
        return highest if since <= begins else self.policy.max_nodes

    # more --------------------------------------------------------------------------------------------

    def _returning(self, missing: int) -> tuple[str, ...]:
        """Draining nodes to take back, the last drained first."""
        kept = [member for member in self.ours if member.live and not self._drained_out(member)]
        kept.sort(key=lambda member: (-(member.drained_at or 0.0), member.node_id))
        found = tuple(member.node_id for member in kept[: max(0, missing)])
        if found:
            self.reasons.append(f"{len(found)} taken back from draining")
        return found

    def _startable(self, missing: int, supply: int) -> int:
        policy, scaling = self.policy, self.scaling
        if missing <= 0 or self.snapshot.instances is None:
            return 0
        waits = scaling.failed_at + backoff(scaling.failures, policy) - self.now
        if scaling.failures and waits > 0:
            self.reasons.append(f"failures in a row: {scaling.failures}, next try in {waits:.0f} s")
            return 0
        cools = scaling.last_up_at + policy.scale_up_cooldown - self.now
        floor = max(policy.min_nodes, 1 if self.snapshot.pending else 0)
        number = missing if cools <= 0 or scaling.pinned is not None else min(missing, floor - supply)
        if number < missing:
            self.reasons.append(f"the next scale-up may come in {cools:.0f} s")
        there = {member.node_id for member in self.live} | self.listed.keys() | scaling.awaited.keys()
        number = min(number, policy.max_step_up, policy.max_nodes - len(there))
        return max(0, min(number, self._affordable(number))) if number > 0 else 0

    def _affordable(self, number: int) -> int:
        policy = self.policy
        if policy.max_hourly_cost is None:
            return number
        known = [each.cost_per_hour for each in self.listed.values() if each.cost_per_hour is not None]
        live = {member.node_id for member in self.live if is_ours(member.node_id, policy.name_prefix)}
        untold = len(live | self.listed.keys() | self.scaling.awaited.keys()) - len(known)
        price = max(known, default=policy.cost_per_hour)
        if price is None:  # the first one tells
            if untold:
                self.reasons.append("max_hourly_cost is set, but no instance tells its cost: give cost_per_hour")
            return 0 if untold else 1
        spent = sum(known) + price * untold
        room = number if price == 0 else math.floor((policy.max_hourly_cost - spent) / price + 1e-9)
        if room < number:
            self.reasons.append(f"{spent:.2f} of max_hourly_cost {policy.max_hourly_cost:.2f} are spent")
        return room

    def _names(self, number: int) -> tuple[str, ...]:
        """Names that no other decision gives: by tick, and numbered on where a tick has several."""
        taken = self.listed.keys() | self.members.keys() | self.scaling.awaited.keys()
        seq, names = self.snapshot.seq, list[str]()
        last = self.scaling.number if self.scaling.seq == seq else 0
        while len(names) < number:
            last += 1
            if (name := f"{self.policy.name_prefix}-{seq}-{last}") not in taken:
                names.append(name)
        if names:
            self.scaling = replace(self.scaling, seq=seq, number=last)
            self.reasons.append(f"{number} started")
        return tuple(names)

    # fewer --------------------------------------------------------------------------------------------

    def _drainable(self, excess: int) -> tuple[str, ...]:
        """Nodes of ours on which nothing runs, the longest idle first; with a pinned number also busy ones.

        How many are idle is what idle_detection found. Which of ours go instead of others' is all the same.
        """
        policy, scaling = self.policy, self.scaling
        cools = max(scaling.last_up_at, scaling.last_down_at) + policy.scale_down_cooldown - self.now
        if excess <= 0 or (cools > 0 and scaling.pinned is None):
            return ()
        own = [member for member in self.serving if member.node_id in self.listed.keys() - {self.snapshot.here}]
        free = [member for member in own if member.running == 0 or scaling.pinned is not None]
        free.sort(key=lambda member: (member.running, member.idle_since or self.now, member.node_id))
        number = max(0, min(excess, policy.max_step_down, len(self.serving) - policy.min_nodes))
        found = tuple(member.node_id for member in free[:number])
        if found:
            self.reasons.append(f"{len(found)} drained")
        return found

    def _drained_out(self, member: Member) -> bool:
        """Whether nothing runs there any more, by a heartbeat after the drain, and no game stays; or its time is up."""
        drained_at = member.drained_at or 0.0
        told_since = member.heard_at > drained_at + SETTLED_AFTER or drained_at > self.now >= member.heard_at
        quiet = member.running == 0 and told_since and not member.new_games
        return not member.live or quiet or self.now - drained_at >= self.policy.drain_for

    def _removable(self, leaving: Sequence[Member]) -> Iterator[str]:
        """Instances of nodes that are drained, or overdue, or ended."""
        removable = self.listed.keys() - {self.snapshot.here}
        for member in leaving:
            if member.node_id in removable and self._drained_out(member):
                yield member.node_id
        for name, wait in self.scaling.awaited.items():
            if name in removable and self._is_over(name, wait):
                yield name


def _as_of(now: float, scaling: Scaling) -> Scaling:
    """An instant later than now is from before the server's clock was set back: nothing waits for it to come again."""
    return replace(
        scaling,
        last_up_at=min(scaling.last_up_at, now),
        last_down_at=min(scaling.last_down_at, now),
        failed_at=min(scaling.failed_at, now),
        awaited={name: replace(wait, since=min(wait.since, now)) for name, wait in scaling.awaited.items()},
        window=tuple((min(since, now), number) for since, number in scaling.window),
    )


def _key(names: Sequence[str], seq: int) -> str:
    """What tells this decision from every other: the tick, and where a tick has several the first name's number."""
    first = names[0].rpartition("-")[2] if names else "1"
    return f"{LOOP}:{seq}" if first == "1" else f"{LOOP}:{seq}:{first}"


def _is_idle(member: Member) -> bool:
    return member.idle_since is not None and member.running == 0
