"""How many nodes there should be, over thousands of hours of virtual time and whatever a provider does."""

from __future__ import annotations

import random
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.scale_snapshot import LOOP
from fleet.scaling import LONGEST_BACKOFF, backoff
from tests.fleet.scale_stage import HOUR, MINUTE, Rules, World

FAULTS = ("refuses", "hangs", "lost", "half", "fewer", "deaf", "forgets")
LOADS = {
    "zero": lambda _hours, _chance: 0,
    "steady": lambda _hours, _chance: 60,
    "sawtooth": lambda hours, _chance: int(400 * (hours % 1)),
    "bursts": lambda hours, chance: 5000 if hours % 3 < 0.2 and chance > 0.3 else 0,
    "noise": lambda _hours, chance: int(600 * chance**3),
}

rules = st.builds(
    Rules,
    min_nodes=st.integers(0, 4),
    max_nodes=st.integers(5, 12),
    scale_up_cooldown=st.sampled_from([0, 300, 600]),
    scale_down_cooldown=st.sampled_from([0, 300, 600]),
    max_step_up=st.integers(1, 4),
    max_step_down=st.integers(1, 3),
    stabilize_for=st.sampled_from([0, 300]),
    join_within=st.sampled_from([300, 900]),
    drain_for=st.sampled_from([300, 3600]),
    max_hourly_cost=st.sampled_from([None, 2.0]),
)


class Chaos:
    """Faults, deaths, busy nodes and an operator, all from one seed."""

    def __init__(self, world: World, seed: int, load: str) -> None:
        self.world, self.chance, self.load = world, random.Random(seed), LOADS[load]
        self.rate = self.chance.choice([0.0, 0.1, 0.5, 0.95])
        self.running: dict[str, int] = {}
        world.provider.faults = self._fault
        world.busy = lambda name: self.running.get(name, 0)

    def _fault(self, call: str) -> str:
        fault = self.chance.choice(FAULTS) if self.chance.random() < self.rate else ""
        # one that is silent and not even listed any more can only be taken for gone
        silent = any(name in self.world.dead for name in self.world.provider.joined)
        return "" if fault == "forgets" and (call != "instances" or silent) else fault

    def step(self) -> None:
        world, chance = self.world, self.chance
        hours = (world.now / HOUR) % 1000
        for name in world.live:
            if chance.random() < 0.2:
                jobs = chance.choice([0, 0, 1, 2])
                # one that drains gets no new jobs
                self.running[name] = jobs if name not in world.marks else min(jobs, self.running.get(name, 0))
        if chance.random() < 0.02 and world.provider.joined:
            world.dead.add(chance.choice(world.provider.joined))
        if chance.random() < 0.02:
            world.pin(chance.choice([None, None, 0, 3, 30]))
        world.tick(self.load(hours, chance.random()))


def check(world: World) -> None:
    """What holds whatever happened."""
    rules, ups, downs = world.rules, [], []
    given_names: set[str] = set()
    for now, snapshot, decision in world.history:
        members = {member.node_id: member for member in snapshot.members}
        ours = {instance.name for instance in snapshot.instances}
        before, after = snapshot.scaling, decision.scaling
        assert rules.min_nodes <= after.wanted <= rules.max_nodes
        # steps
        assert len(decision.start) <= rules.max_step_up
        assert len(decision.drain) <= rules.max_step_down
        assert not given_names & set(decision.start), "a name is given once"
        given_names |= set(decision.start)
        # bounds, with what is on its way
        live = {name for name, member in members.items() if member.live}
        if decision.start:
            assert len(live | ours | after.awaited.keys()) <= rules.max_nodes
        # cooldowns: only the minimum is made good sooner, and an operator's number
        serving = {name for name in live if members[name].drained_at is None}
        supply = after.nodes + len(decision.undrain)
        if decision.start and before.pinned is None:
            if ups and now - ups[-1] < rules.scale_up_cooldown:
                assert supply + len(decision.start) <= max(rules.min_nodes, 1)
            assert now - after.failed_at >= backoff(after.failures, rules)
        if decision.drain and before.pinned is None:
            assert now - max(ups[-1:] + downs[-1:], default=0) >= rules.scale_down_cooldown
        assert not (decision.start and decision.drain)
        ups += [now] * bool(decision.start)
        downs += [now] * bool(decision.drain)
        # whom it may touch
        assert set(decision.drain) <= (serving & ours) - {"node-1"}
        assert set(decision.remove) <= ours
        assert len(serving - set(decision.drain)) >= min(rules.min_nodes, len(serving))
        for name in decision.drain:
            assert before.pinned is not None or members[name].running == 0
        for name in decision.remove:
            member = members.get(name)
            if member is not None and member.live:
                assert member.drained_by == LOOP
                assert member.running == 0 or now - member.drained_at >= rules.drain_for
        assert not set(decision.forget) & (live | ours)
        assert not set(decision.undrain) & (set(decision.remove) | set(decision.drain))


@settings(max_examples=60)
@given(rules, st.integers(0, 5), st.sampled_from([60, 300, 600]), st.sampled_from(sorted(LOADS)), st.integers(0, 2**32))
def test_whatever_the_provider_and_the_load_do_bounds_steps_and_cooldowns_hold_and_the_minimum_comes_back(
    rules, static, step, load, seed
):
    world = World(rules, min(static, rules.max_nodes), step, cost=0.25)
    chaos = Chaos(world, seed, load)
    for _ in range(400):
        chaos.step()
        assert world.machines <= max(rules.max_nodes, static)
        if rules.max_hourly_cost is not None:
            assert 0.25 * (world.machines - world.static) <= rules.max_hourly_cost
    check(world)

    # the provider works again: what never joined is gone, and the minimum is there
    world.provider.faults = lambda _call: ""
    chaos.rate = 0.0
    world.pin(None)
    for _ in range(int((LONGEST_BACKOFF + 2 * rules.join_within + 30 * MINUTE) / world.step)):
        world.tick(0)
    check(world)
    assert len(world.live) >= rules.min_nodes
    assert set(world.provider._machines) <= set(world.live)
    assert world.scaling.failures == 0 or not world.scaling.awaited


@settings(max_examples=10)
@given(st.integers(2, 200), st.integers(2, 16), st.integers(1, 3), st.floats(0, 0.9))
def test_a_load_that_comes_and_goes_within_the_window_moves_nothing(height, ticks, step_down, share):
    """Nodes count as idle at the first moment without a job here, which is as bad as it can be."""
    rules = Rules(max_step_down=step_down, stabilize_for=300, scale_down_cooldown=0, scale_up_cooldown=0)
    world = World(rules, static=1, step=15)
    high = lambda: world.seq % ticks <= share * (ticks - 1)  # noqa: E731
    world.busy = lambda _name: int(high())
    for _ in range(int(3 * HOUR / world.step)):
        world.tick(height if high() else 0)
    check(world)
    downs = sum(bool(decision.drain) for _, _, decision in world.history)
    ups = sum(bool(decision.start) for _, _, decision in world.history)
    assert downs <= 1
    assert ups <= 20


def test_without_the_window_the_same_load_flaps():
    world = World(Rules(stabilize_for=0, scale_down_cooldown=0, scale_up_cooldown=0), static=1, step=15)
    high = lambda: (world.now % 240) < 120  # noqa: E731
    world.busy = lambda _name: int(high())
    for _ in range(int(3 * HOUR / world.step)):
        world.tick(60 if high() else 0)
    assert sum(bool(decision.drain) for _, _, decision in world.history) > 10


def test_a_load_that_ends_gives_every_node_back_in_steps():
    world = World(Rules(), static=2)
    world.busy = lambda _name: 1
    for _ in range(60):
        world.tick(200)
    assert len(world.live) == 20
    world.busy = lambda _name: 0
    for _ in range(120):
        world.tick(0)
    check(world)
    assert world.live == ["node-1", "node-2"]
    assert (world.machines, world.marks, world.scaling.awaited) == (2, {}, {})
    assert set(world.known) == {"node-1", "node-2"}


def test_an_operators_number_is_reached_and_left_again():
    world = World(Rules(), static=2)
    world.pin(7)
    for _ in range(10):
        world.tick(0)
    assert len(world.live) == 7
    world.pin(4)
    for _ in range(10):
        world.tick(1000)
    assert len(world.live) == 4
    world.pin(None)
    for _ in range(60):
        world.tick(1000)
    assert len(world.live) == 20
    check(replace(world, history=world.history[20:]))
