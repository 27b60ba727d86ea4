"""How many nodes there should be: single decisions."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fleet.nodes import Node
from fleet.scale_snapshot import LOOP, Awaited, Member, Scaling
from fleet.scaling import after_failure, backoff, is_ours
from tests.fleet.scale_stage import HOUR, NOW, Rules, judge, listed, node, nodes, quiet

IDLE = 1200.0


def drained(name: str, ago: float = 60, **more):
    return node(name, drained_at=NOW - ago, drained_by=LOOP, **more)


# more


@pytest.mark.parametrize(
    ("pending", "there", "started"),
    [(20, 2, 0), (21, 2, 1), (41, 2, 3), (1000, 2, 3), (0, 2, 0), (1000, 19, 1), (1000, 20, 0), (1000, 25, 0)],
)
def test_more_than_the_threshold_for_each_node_starts_nodes_within_step_and_maximum(pending, there, started):
    decision = judge(pending, nodes(there))
    assert len(decision.start) == started
    assert decision.scaling.last_up_at == (NOW if started else 0)


@pytest.mark.parametrize(("pending", "wanted"), [(0, 0), (1, 1), (10, 1), (11, 2)])
def test_without_a_node_one_pending_job_is_reason_enough(pending, wanted):
    decision = judge(pending, [], min_nodes=0)
    assert (decision.scaling.wanted, len(decision.start)) == (wanted, wanted)


def test_below_the_minimum_nodes_are_started_although_nothing_is_pending_and_a_scale_up_was_just_now():
    scaling = Scaling(last_up_at=NOW - 1)
    assert len(judge(0, nodes(1), (), scaling, min_nodes=3).start) == 2
    assert len(judge(1000, nodes(1), (), scaling, min_nodes=3).start) == 2  # and no more than that


def test_a_recent_scale_up_blocks_the_next_and_a_recent_scale_down_does_not():
    assert judge(1000, nodes(4), (), Scaling(last_up_at=NOW - 599)).start == ()
    assert len(judge(1000, nodes(4), (), Scaling(last_up_at=NOW - 600)).start) == 3
    assert len(judge(1000, nodes(4), (), Scaling(last_down_at=NOW - 1)).start) == 3


def test_instances_on_their_way_count_as_nodes():
    waits = {"auto-3-1": Awaited(NOW - 60), "auto-3-2": Awaited(NOW - 60)}
    assert judge(40, nodes(2), listed("auto-3-1"), Scaling(awaited=waits)).start == ()
    assert len(judge(41, nodes(2), listed("auto-3-1"), Scaling(awaited=waits)).start) == 1
    full = judge(1000, nodes(2), listed("auto-3-1"), Scaling(awaited=waits), max_nodes=5)
    assert len(full.start) == 1


def test_the_maximum_is_of_all_that_is_there_or_on_its_way():
    held = node("held", drained_at=NOW, drained_by="operator")
    ended = listed("auto-1-1", state="ended")
    on_its_way = Scaling(awaited={"auto-3-1": Awaited(NOW - 60)})
    assert len(judge(1000, [*nodes(2), held], ended, on_its_way, max_nodes=6).start) == 1
    assert judge(1000, [*nodes(2), held], ended, on_its_way, max_nodes=5).start == ()
    assert judge(1000, [*nodes(2), held], (), on_its_way, max_nodes=4).start == ()


def test_silent_nodes_and_those_of_other_capabilities_are_no_capacity():
    assert len(judge(41, [*nodes(2), node("gone", live=False)]).start) == 3
    gpu = Node("g", NOW, {"jobs": {"capabilities": ["gpu"]}}, {"jobs": NOW})
    assert not Member.of(gpu, ["cpu"], NOW).live
    assert Member.of(gpu, ["cpu", "gpu"], NOW).live
    assert not Member.of(gpu, ["gpu"], NOW + 16).live


def test_a_node_without_a_jobs_worker_is_no_capacity():
    agent_only = Node("a", NOW, {"agent": {"pid": 1}}, {"agent": NOW})
    assert not Member.of(agent_only, ["cpu"], NOW).live


def test_names_come_from_the_tick_and_no_decision_gives_one_twice():
    first = judge(1000, nodes(2))
    assert first.start == ("auto-7-1", "auto-7-2", "auto-7-3")
    assert first.key == "auto_scaling:7"
    # by hand, between two ticks: the number of the last one
    again = judge(1000, nodes(2), (), replace(first.scaling, awaited={}, last_up_at=0))
    assert again.start == ("auto-7-4", "auto-7-5", "auto-7-6")
    assert again.key == "auto_scaling:7:4"
    later = judge(1000, nodes(2), (), replace(first.scaling, awaited={}, last_up_at=0), seq=8)
    assert later.start == ("auto-8-1", "auto-8-2", "auto-8-3")
    # the record was lost, the instances were not
    survivors = judge(1000, nodes(1), listed("auto-7-1", "auto-7-3"))
    assert survivors.start == ("auto-7-2", "auto-7-4", "auto-7-5")


def test_the_same_tick_again_starts_nothing_more():
    first = judge(1000, nodes(2))
    assert judge(1000, nodes(2), (), first.scaling).start == ()


def test_only_names_that_scaling_gives_are_its_own():
    assert is_ours("auto-17-2", "auto")
    for foreign in ("auto-17", "auto-17-2-3", "auto-x-1", "xauto-17-2", "auto-17-2\n", "node-1", "auto--1", "auto-१-१"):
        assert not is_ours(foreign, "auto"), foreign


# the provider fails


def test_after_a_refusal_the_next_try_waits_longer_and_longer():
    assert [backoff(n, Rules()) for n in (0, 1, 2, 3, 6, 100)] == [0, 180, 360, 720, 3600, 3600]
    names = ("auto-7-1", "auto-7-2")
    failed = after_failure(Scaling(awaited={name: Awaited(NOW) for name in names}), names, NOW, silent=False)
    assert (failed.failures, failed.failed_at) == (1, NOW)
    held = judge(1000, nodes(2), (), replace(failed, failed_at=NOW - 179))
    assert held.start == ()
    assert "failures in a row: 1, next try in 1 s" in held.scaling.reason
    assert held.scaling.awaited == {}  # refused and not there: they do not hold anybody's place
    assert len(judge(1000, nodes(2), (), replace(failed, failed_at=NOW - 180)).start) == 3


def test_what_a_failed_start_left_behind_is_used():
    failed = after_failure(Scaling(), ("auto-7-1", "auto-7-2"), NOW - 200, silent=False)
    decision = judge(1000, nodes(2), listed("auto-7-1"), failed)
    assert decision.remove == ()
    assert decision.coming == 1
    assert decision.scaling.awaited.keys() == {"auto-7-1", *decision.start}


def test_without_an_answer_the_instances_may_come_all_the_same():
    asked = Scaling(awaited={"auto-7-1": Awaited(NOW - 200)}, last_up_at=NOW - 200)
    failed = after_failure(asked, ("auto-7-1",), NOW - 200, silent=True)
    decision = judge(25, nodes(2), (), failed)
    assert (decision.coming, decision.start) == (1, ())


def test_an_instance_that_never_joins_is_removed_and_counts_once_as_a_failure():
    overdue = Scaling(awaited={"auto-7-1": Awaited(NOW - 901), "auto-7-2": Awaited(NOW - 901)})
    decision = judge(15, nodes(2), listed("auto-7-1"), overdue)
    assert decision.remove == ("auto-7-1",)
    assert (decision.scaling.failures, decision.scaling.failed_at) == (1, NOW)
    assert decision.scaling.awaited.keys() == {"auto-7-1"}  # until the provider has it no more
    again = judge(15, nodes(2), listed("auto-7-1"), decision.scaling)
    assert (again.remove, again.scaling.failures) == (("auto-7-1",), 1)
    assert judge(15, nodes(2), (), again.scaling).scaling.awaited == {}


def test_one_that_has_ended_before_it_joined_is_removed_at_once():
    young = Scaling(awaited={"auto-7-1": Awaited(NOW - 5)})
    decision = judge(15, nodes(2), listed("auto-7-1", state="ended"), young)
    assert (decision.remove, decision.scaling.failures) == (("auto-7-1",), 1)


def test_one_that_has_ended_and_is_removed_is_not_waited_for():
    ended = listed("auto-1-1", state="ended")
    for scaling in (Scaling(), Scaling(awaited={"auto-1-1": Awaited(NOW - 60)})):
        first = judge(100, nodes(2), ended, scaling, scale_up_cooldown=0)
        assert (first.remove, "auto-1-1" in first.scaling.awaited) == (("auto-1-1",), False)
        again = judge(0, nodes(2), ended, replace(first.scaling, awaited={}, window=()))  # the provider did not do it
        assert (again.remove, again.failed) == (("auto-1-1",), ())


def test_instants_from_before_the_clock_was_set_back_hold_nothing_up():
    later = NOW + 1000 * HOUR
    before = Scaling(last_up_at=later, last_down_at=later, failed_at=later, window=((later, 9),))
    stored = judge(0, nodes(2), (), before).scaling
    assert (stored.last_up_at, stored.last_down_at, stored.failed_at, stored.window) == (
        NOW,
        NOW,
        NOW,
        ((NOW, 9), (NOW, 2)),
    )
    awaited = judge(0, nodes(2), (), Scaling(awaited={"auto-1-1": Awaited(later)})).scaling.awaited
    assert awaited == {"auto-1-1": Awaited(NOW)}
    for running, gone in ((0, ("auto-1-1",)), (1, ())):
        member = node("auto-1-1", running=running, drained_at=later, drained_by=LOOP)
        assert judge(0, [*nodes(2), member], listed("auto-1-1"), quiet(2)).remove == gone


def test_a_join_ends_the_failures():
    waits = Scaling(failures=3, failed_at=NOW - 1, awaited={"auto-7-1": Awaited(NOW - 60)})
    decision = judge(15, [*nodes(1), node("auto-7-1")], listed("auto-7-1"), waits)
    assert (decision.scaling.failures, decision.scaling.awaited) == (0, {})


def test_a_node_that_falls_silent_has_as_long_as_a_new_one_and_is_then_replaced():
    silent = node("auto-7-1", live=False, heard_at=NOW - 60)
    first = judge(30, [*nodes(2), silent], listed("auto-7-1"))
    assert (first.remove, first.start, first.coming) == ((), (), 1)
    later = replace(first.scaling, awaited={"auto-7-1": replace(first.scaling.awaited["auto-7-1"], since=NOW - 901)})
    second = judge(30, [*nodes(2), silent], listed("auto-7-1"), later)
    assert (second.remove, second.scaling.failures) == (("auto-7-1",), 0)
    assert len(second.start) == 1


def test_a_node_whose_instance_is_no_more_is_forgotten_and_no_other():
    dead, foreign = node("auto-7-1", live=False), node("worker-9", live=False)
    assert judge(15, [*nodes(2), dead, foreign]).forget == ("auto-7-1",)
    assert judge(15, [*nodes(2), dead], listed("auto-7-1")).forget == ()
    assert judge(15, [*nodes(2), node("auto-7-1")]).forget == ()
    assert judge(15, [*nodes(2), dead], None).forget == ()


# fewer


def test_the_longest_idle_of_ours_are_drained_within_the_step():
    ours = [node("auto-1-1", idle=1300), node("auto-1-2", idle=1500), node("auto-1-3", idle=1400)]
    decision = judge(0, [*nodes(2, idle=9000), *ours], listed("auto-1-1", "auto-1-2", "auto-1-3"), quiet(2))
    assert decision.drain == ("auto-1-2", "auto-1-3")
    assert decision.marks["auto-1-2"] == {"drain": {"reason": "not needed any more", "at": NOW, "by": LOOP}}
    assert decision.remove == ()
    assert decision.scaling.last_down_at == NOW


def test_busy_nodes_and_those_of_others_are_never_drained():
    ours = [node("auto-1-1", running=1, idle=IDLE), node("auto-1-2", running=1)]
    decision = judge(0, [*nodes(3, idle=IDLE), *ours], listed("auto-1-1", "auto-1-2"), quiet(2))
    assert decision.drain == ()


def test_as_many_go_as_are_idle_but_of_ours_where_nothing_runs():
    ours = [node("auto-1-1"), node("auto-1-2"), node("auto-1-3", idle=IDLE)]
    names = [each.node_id for each in ours]
    decision = judge(0, [*nodes(2), *ours], listed(*names), quiet(4))
    assert decision.drain == ("auto-1-3",)
    # the others' idle nodes cannot go, but they can take over
    decision = judge(0, [*nodes(2, idle=9000), *ours[:2]], listed(*names[:2]), quiet(2))
    assert decision.drain == ("auto-1-1", "auto-1-2")
    assert judge(0, [*nodes(2), *ours[:2]], listed(*names[:2]), quiet(2)).drain == ()  # none is idle


def test_the_node_that_decides_does_not_drain_or_remove_itself():
    mine, other = node("auto-1-1", idle=IDLE), node("auto-1-2", idle=IDLE)
    decision = judge(0, [*nodes(2), mine, other], listed("auto-1-1", "auto-1-2"), quiet(2), here="auto-1-1")
    assert decision.drain == ("auto-1-2",)
    leads = judge(0, [*nodes(2), drained("auto-1-1", ago=HOUR)], listed("auto-1-1"), quiet(2), here="auto-1-1")
    assert leads.remove == ()


@pytest.mark.parametrize("scaling", [quiet(2, last_up_at=NOW - 599), quiet(2, last_down_at=NOW - 599)])
def test_a_recent_change_in_any_direction_blocks_a_scale_down(scaling):
    members = [*nodes(2), node("auto-1-1", idle=IDLE)]
    assert judge(0, members, listed("auto-1-1"), scaling).drain == ()
    calm = replace(scaling, last_up_at=NOW - 600, last_down_at=NOW - 600)
    assert judge(0, members, listed("auto-1-1"), calm).drain == ("auto-1-1",)


def test_the_minimum_stays():
    ours = [node(f"auto-1-{i}", idle=IDLE) for i in range(1, 5)]
    names = [each.node_id for each in ours]
    assert len(judge(0, ours, listed(*names), quiet(2), max_step_down=4).drain) == 2
    # those that are on their way may never come
    waits = quiet(2, awaited={"auto-2-1": Awaited(NOW), "auto-2-2": Awaited(NOW)})
    assert judge(0, ours[:2], listed(*names[:2], "auto-2-1", "auto-2-2"), waits).drain == ()


def test_the_highest_recommendation_of_the_window_counts_and_an_open_window_gives_none():
    members = [*nodes(2), *[node(f"auto-1-{i}", idle=IDLE) for i in range(1, 5)]]
    instances = listed(*[f"auto-1-{i}" for i in range(1, 5)])
    high = Scaling(window=((NOW - HOUR, 6), (NOW - 299, 2)))
    assert judge(0, members, instances, high).drain == ()
    five = Scaling(window=((NOW - HOUR, 6), (NOW - 300, 5)))
    assert len(judge(0, members, instances, five).drain) == 1
    two = Scaling(window=((NOW - HOUR, 6), (NOW - 300, 2)))
    assert len(judge(0, members, instances, two).drain) == 2
    assert judge(0, members, instances, Scaling()).drain == ()
    assert len(judge(0, members, instances, Scaling(), stabilize_for=0).drain) == 2


def test_a_drained_node_is_removed_when_a_later_heartbeat_says_that_nothing_runs():
    def removed(**more):
        return judge(0, [*nodes(2), drained("auto-1-1", **more)], listed("auto-1-1"), quiet(2)).remove

    assert removed(running=0) == ("auto-1-1",)
    assert removed(running=1) == ()
    assert removed(running=0, heard_at=NOW - 59.5) == ()  # what it says may be from before
    assert removed(running=1, ago=3600) == ("auto-1-1",)  # it had its time
    assert removed(running=1, live=False) == ("auto-1-1",)
    assert removed(running=0, new_games=1) == ()  # they would go with it
    assert removed(running=0, new_games=1, ago=3600) == ("auto-1-1",)
    assert removed(running=0, new_games=1, live=False) == ("auto-1-1",)


def test_a_draining_node_is_no_capacity_and_not_one_that_is_missing():
    decision = judge(0, [*nodes(2), drained("auto-1-1", running=1)], listed("auto-1-1"), quiet(2))
    assert (decision.scaling.nodes, decision.draining, decision.coming, decision.start) == (2, 1, 0, ())
    leaving = judge(0, [*nodes(2), drained("auto-1-1", live=False)], listed("auto-1-1"), quiet(2))
    assert (leaving.coming, leaving.scaling.awaited) == (0, {})


def test_demand_that_returns_takes_draining_nodes_back_before_it_starts_any():
    members = [*nodes(2), drained("auto-1-1", running=1, ago=90), drained("auto-1-2", running=1, ago=30)]
    decision = judge(25, members, listed("auto-1-1", "auto-1-2"), Scaling(last_up_at=NOW - 1, last_down_at=NOW - 30))
    assert (decision.undrain, decision.start) == (("auto-1-2",), ())
    assert decision.marks == {"auto-1-2": {"drain": None}}
    more = judge(1000, members, listed("auto-1-1", "auto-1-2"))
    assert (more.undrain, len(more.start), more.remove) == (("auto-1-1", "auto-1-2"), 3, ())


def test_a_node_that_an_operator_drains_is_left_alone():
    held = node("auto-1-1", drained_at=NOW - 2 * HOUR, drained_by="operator")
    decision = judge(1000, [*nodes(2), held], listed("auto-1-1"), quiet(2))
    assert (decision.undrain, decision.remove) == ((), ())
    assert len(decision.start) == 3


def test_a_drained_node_that_the_provider_does_not_know_works_on_in_the_end():
    assert judge(0, [*nodes(2), drained("auto-1-1", running=1, ago=4000)], (), quiet(2)).undrain == ()
    assert judge(0, [*nodes(2), drained("auto-1-1", running=1, ago=4600)], (), quiet(2)).undrain == ("auto-1-1",)
    assert judge(0, [*nodes(2), drained("auto-1-1", running=1)], None, quiet(2)).undrain == ("auto-1-1",)


# an operator's number, a budget, no provider


def test_a_pinned_number_needs_no_threshold_window_or_cooldown_but_keeps_bounds_and_steps():
    scaling = Scaling(pinned=9, last_up_at=NOW - 1, last_down_at=NOW - 1)
    assert len(judge(0, nodes(4), (), scaling).start) == 3
    assert judge(0, nodes(4), (), scaling, max_nodes=5).scaling.wanted == 5
    ours = [node("auto-1-1", running=2), node("auto-1-2", running=1), node("auto-1-3", running=3)]
    down = judge(1000, [*nodes(1), *ours], listed(*[each.node_id for each in ours]), replace(scaling, pinned=0))
    assert (down.scaling.wanted, down.drain) == (2, ("auto-1-2", "auto-1-1"))
    assert "0 wanted, min_nodes is 2" in down.scaling.reason


def test_a_pinned_number_waits_for_the_provider_to_recover():
    assert judge(0, nodes(4), (), Scaling(pinned=9, failures=1, failed_at=NOW - 1)).start == ()


def test_the_budget_is_kept_by_what_instances_cost():
    two = listed("auto-1-1", "auto-1-2", cost_per_hour=0.5)
    members = [*nodes(1), node("auto-1-1"), node("auto-1-2")]
    assert len(judge(1000, members, two, max_hourly_cost=2.0).start) == 2
    assert len(judge(1000, members, two, max_hourly_cost=1.49).start) == 0
    waits = Scaling(awaited={"auto-2-1": Awaited(NOW - 5)})
    assert len(judge(1000, members, two, waits, max_hourly_cost=2.0).start) == 1
    assert len(judge(1000, nodes(1), (), max_hourly_cost=1.0, cost_per_hour=0.4).start) == 2
    assert judge(0, nodes(1), (), max_hourly_cost=0.3, cost_per_hour=0.4).start == ()  # not even for min_nodes


def test_where_nobody_tells_a_price_one_instance_is_tried_and_no_second():
    assert len(judge(1000, nodes(2), (), max_hourly_cost=5.0).start) == 1
    mute = judge(1000, [*nodes(2), node("auto-1-1")], listed("auto-1-1"), max_hourly_cost=5.0)
    assert mute.start == ()
    assert "give cost_per_hour" in mute.scaling.reason


def test_without_a_provider_it_only_recommends():
    decision = judge(1000, nodes(2), None)
    assert decision.scaling.wanted == 20
    assert (decision.start, decision.drain, decision.remove, decision.forget, decision.marks) == ((), (), (), (), {})
    assert decision.scaling.last_up_at == 0
