"""How nodes are judged, by cases and by any sequence of what may be observed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.health import Report, decide, judge
from fleet.nodes import Node
from fleet.notices import NAMED
from tasks.health_aggregation import Options as Policy

NOW = 1_800_000_000.0
FINE = {"cpu": 50.0, "memory": 40.0, "disk": 40.0}


POLICY = Policy()


def node(
    node_id: str = "n1",
    *,
    agent: float | None = 2.0,
    jobs: float | None = 1.0,
    metrics: Mapping[str, Any] = FINE,
    running: tuple[str, ...] = (),
    health: Mapping[str, Any] | None = None,
    now: float = NOW,
) -> Node:
    """A node whose processes were heard so many seconds ago; None: it has no such process."""
    facts: dict[str, Any] = {"agent": {"host": "h1", "metrics": metrics}, "jobs": {"host": "h1", "slots": 4}}
    facts["jobs"]["running"] = running
    heard = {role: now - ago for role, ago in (("agent", agent), ("jobs", jobs)) if ago is not None}
    marks = {} if health is None else {"health": health}
    return Node(node_id, max(heard.values(), default=now), {role: facts[role] for role in heard}, heard, marks)


def after(seen: Node, report: Report) -> Node:
    """The node with what the report changes."""
    for name, mark in report.changes.get(seen.node_id, {}).items():
        marks = {**seen.marks, name: mark}
        seen = replace(seen, marks={name: mark for name, mark in marks.items() if mark is not None})
    return seen


def status(seen: Node, now: float = NOW, **options: Any) -> str:
    return str(judge(seen, seen.marks.get("health"), Policy(**options), now)["status"])


# silence -------------------------------------------------------------------------------------------------


def test_a_new_node_is_healthy_whatever_it_has_not_measured_yet() -> None:
    for metrics in ({}, {"disk": None}, {"cpu": 12.0}):
        (mark,) = decide([node(metrics=metrics)], POLICY, NOW).changes.values()
        assert mark["health"]["status"] == "healthy"
    assert status(node(jobs=None)) == "healthy"


@pytest.mark.parametrize(("silence", "expected"), [(30, "healthy"), (31, "suspect"), (120, "suspect"), (121, "lost")])
def test_silence_makes_a_node_suspect_and_then_lost(silence: float, expected: str) -> None:
    assert status(node(agent=silence, jobs=None)) == expected
    assert status(node(agent=silence, jobs=silence)) == expected


@pytest.mark.parametrize(
    ("agent", "jobs", "reason"),
    [
        (31, 1, "agent not heard since 2027-01-15 07:59:29 UTC"),
        (1, 31, "jobs worker not heard since 2027-01-15 07:59:29 UTC"),
        (1, 3600, "jobs worker not heard since 2027-01-15 07:00:00 UTC"),
        (None, 1, "no agent reports"),
    ],
)
def test_a_process_that_is_silent_while_the_other_reports_makes_it_suspect(
    agent: float | None, jobs: float, reason: str
) -> None:
    mark = judge(node(agent=agent, jobs=jobs), None, POLICY, NOW)
    assert (mark["status"], mark["reasons"]) == ("suspect", [reason])


def test_a_node_whose_processes_all_left_is_not_counted_and_loses_its_mark() -> None:
    left = node(agent=None, jobs=None, health={"status": "lost", "at": NOW})
    report = decide([left, node("n2")], POLICY, NOW)
    assert report.changes["n1"] == {"health": None}
    assert report.totals["nodes"] == 1
    assert "n1" not in decide([after(left, report)], POLICY, NOW).changes


def test_a_lost_node_is_judged_at_the_instant_of_the_judgement_and_healthy_when_heard_again() -> None:
    lost = after(silent := node(agent=121, jobs=None), decide([silent], POLICY, NOW))
    assert lost.marks["health"]["at"] == NOW
    assert lost.status(NOW) == "lost"
    heard = replace(lost, last_seen=NOW + 1, heard={"agent": NOW + 1})
    assert heard.status(NOW + 1) == "healthy"  # before any cycle has said so
    assert status(heard, NOW + 2) == "healthy"


@pytest.mark.parametrize(("disk", "expected"), [(93, "healthy"), (97, "suspect")])
def test_a_node_that_is_back_is_judged_afresh(disk: float, expected: str) -> None:
    before = {**judge(node(), None, POLICY, NOW), "status": "unhealthy", "over": {"disk": NOW - 900}}
    silent = node(agent=121, jobs=121, metrics={"disk": 97}, health=before)
    lost = after(silent, decide([silent], POLICY, NOW))
    assert status(replace(node(metrics={"disk": disk}), marks=lost.marks)) == expected


def test_after_cycles_that_did_not_happen_a_new_silence_has_to_be_seen_twice() -> None:
    """The server was away: no node could be heard, and none of them is to blame."""
    everyone = [node("n1", agent=300, jobs=300), node("n2", agent=300, jobs=300)]
    report = decide(everyone, POLICY, NOW, resumed=True)
    assert report.totals["suspect"] == 2
    assert report.events == ()
    n1, n2 = (after(each, report) for each in everyone)
    n1 = replace(n1, last_seen=NOW + 3, heard={"agent": NOW + 3, "jobs": NOW + 3})
    report = decide([n1, n2], POLICY, NOW + 30, resumed=True)  # however often cycles are missed
    assert (report.totals["healthy"], report.totals["lost"]) == (1, 1)


# limits --------------------------------------------------------------------------------------------------


def test_a_full_disk_is_suspect_at_once_unhealthy_when_it_lasts_and_well_again_below_the_margin() -> None:
    seen = node(health=judge(node(), None, POLICY, NOW - 30))
    course = [
        (95, "healthy"),
        (97, "suspect"),
        (97, "suspect"),
        (99, "unhealthy"),
        (93, "unhealthy"),
        (91, "unhealthy"),
    ]
    for step, (disk, expected) in enumerate([*course, (90, "healthy"), (95, "healthy"), (96, "suspect")]):
        now = NOW + 30 * step
        seen = replace(node(metrics={**FINE, "disk": disk}, now=now), marks=seen.marks)
        seen = after(seen, decide([seen], POLICY, now))
        assert seen.marks["health"]["status"] == expected, f"step {step}: {disk} %"
    assert seen.marks["health"]["reasons"] == ["disk 96 % full"]


def test_disk_and_memory_are_judged_each_for_itself() -> None:
    mark = judge(node(metrics={"disk": 99.0, "memory": 98.0}), None, POLICY, NOW)
    assert mark["reasons"] == ["disk 99 % full", "memory 98 % in use"]
    assert status(node(metrics={"memory": 98.0}), memory_limit=99.0) == "healthy"


def test_what_was_measured_last_counts_until_there_is_more_and_does_not_age_into_a_fault() -> None:
    """One measurement above the limit is no minute above it, however long ago it was."""
    seen = node(metrics={"disk": 99.0})
    seen = after(seen, decide([seen], POLICY, NOW))
    later = replace(seen, heard={**seen.heard, "jobs": NOW + 600}, last_seen=NOW + 600)  # the agent fell silent
    mark = judge(later, later.marks["health"], POLICY, NOW + 600)
    assert mark["status"] == "suspect"
    assert "disk 99 % full" in mark["reasons"]


@pytest.mark.parametrize("value", [None, "full", float("nan"), float("inf"), [99]])
def test_what_is_no_number_is_no_measurement(value: object) -> None:
    assert status(node(metrics={"disk": value, "memory": value})) == "healthy"


# totals and events ---------------------------------------------------------------------------------------


def test_totals_count_nodes_by_status_and_the_capacity_that_is_not_lost() -> None:
    nodes = [
        node("a", running=("j1", "j2"), metrics={**FINE, "gpus": [{"name": "x"}, {"name": "x"}]}),
        node("b", agent=60),
        node("c", agent=200, jobs=200, running=("j3",), metrics={**FINE, "gpus": [{"name": "x"}]}),
        node("d", agent=None, jobs=None),
    ]
    assert decide(nodes, POLICY, NOW).totals == {
        "nodes": 3, "healthy": 1, "suspect": 1, "unhealthy": 0, "lost": 1, "slots": 8, "busy_slots": 2, "gpus": 2,
    }  # fmt: skip


def test_a_lost_node_is_told_of_once_and_so_is_its_return() -> None:
    silent = node(agent=121, jobs=130, running=("j1", "j2"))
    report = decide([silent], POLICY, NOW)
    (notice,) = report.events
    assert (notice.title, notice.severity) == ("Node lost", "error")
    assert notice.body == "n1 on h1: last seen 2027-01-15 07:57:59 UTC, holds j1, j2"
    lost = after(silent, report)
    assert decide([lost], POLICY, NOW + 30).events == ()
    heard = replace(lost, last_seen=NOW + 30, heard={"agent": NOW + 30, "jobs": NOW + 30})
    (notice,) = decide([heard], POLICY, NOW + 31).events
    assert (notice.title, notice.body) == ("Node back", "n1 on h1")


def test_a_node_that_turns_unhealthy_is_told_of_with_its_reasons() -> None:
    before = {**judge(node(), None, POLICY, NOW), "status": "suspect", "over": {"disk": NOW - 100}}
    (notice,) = decide([node(metrics={"disk": 97.4}, health=before)], POLICY, NOW).events
    assert (notice.title, notice.body) == ("Node unhealthy", "n1 on h1: disk 97 % full")


def test_many_nodes_at_once_are_one_notice() -> None:
    (notice,) = decide([node(f"n{n:04}", agent=500, jobs=None) for n in range(1000)], POLICY, NOW).events
    assert notice.body.count("last seen") == NAMED
    assert notice.body.endswith("; and 990 more")
    assert len(notice.body) < 1000


# any sequence of observations ----------------------------------------------------------------------------

percent = st.one_of(st.none(), st.floats(0, 100))
#: seconds until the next cycle, what the agent measured, whether the agent and the jobs worker were heard
step = st.tuples(st.floats(0, 200), percent, percent, st.booleans(), st.booleans())


@given(st.lists(step, max_size=30))
def test_what_holds_after_any_sequence_of_observations(steps: list[Any]) -> None:
    now, seen = NOW, node()
    for wait, disk, memory, agent_heard, jobs_heard in steps:
        now += wait
        heard = {**seen.heard} | ({"agent": now} if agent_heard else {}) | ({"jobs": now} if jobs_heard else {})
        metrics = {"disk": disk, "memory": memory} if agent_heard else seen.metrics
        roles = {**seen.roles, "agent": {**seen.roles["agent"], "metrics": metrics}}
        seen = replace(seen, roles=roles, heard=heard, last_seen=max(heard.values()))
        report = decide([seen], POLICY, now)
        was, seen = seen.marks.get("health", {}), after(seen, report)
        mark = seen.marks["health"]

        assert (mark["status"] == "lost") == (now - seen.last_seen > POLICY.lost_after)
        if agent_heard or jobs_heard:
            assert seen.status(now) != "lost"
        assert decide([seen], POLICY, now) == Report({}, report.totals, ())  # the same again changes nothing
        if mark["status"] == "unhealthy":
            assert any(seen.heard["agent"] - since >= POLICY.unhealthy_after for since in mark["over"].values())
        if mark["status"] == "healthy":
            assert all(now - at <= POLICY.suspect_after for at in seen.heard.values())
            assert not any(value is not None and value > 95 for value in metrics.values())
        if was.get("status") == mark["status"]:
            assert was["since"] == mark["since"]


inside = st.floats(90, 95, exclude_min=True)


@given(st.booleans(), st.lists(inside, min_size=1, max_size=20))
def test_a_value_that_wavers_inside_the_margin_changes_no_judgement(over: bool, values: list[float]) -> None:
    start = judge(node(), None, POLICY, NOW - 600)
    lasting = {**start, "status": "unhealthy", "over": {"disk": NOW - 600}}
    seen = node(health=lasting if over else start)
    for number, value in enumerate(values):
        now = NOW + 5 * number
        seen = replace(node(metrics={**FINE, "disk": value}, now=now), marks=seen.marks)
        assert decide([seen], POLICY, now).changes == {}


@given(st.floats(-3600, 3600), st.floats(0, 300), st.floats(0, 300), percent)
def test_a_nodes_own_clock_changes_nothing(offset: float, agent: float, jobs: float, disk: float | None) -> None:
    right = node(agent=agent, jobs=jobs, metrics={"disk": disk})
    own = {"clock_offset": offset, "since": NOW - 1000 + offset}
    wrong = replace(right, roles={role: {**facts, **own} for role, facts in right.roles.items()})
    assert decide([wrong], POLICY, NOW) == decide([right], POLICY, NOW)
