"""Which nodes are idle and which are flagged so, by cases and by any cluster that may be observed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.idleness import Report, decide, idle_since
from fleet.metrics import Minute
from fleet.nodes import Node
from tasks.idle_detection import Options as Policy

NOW = 1_800_000_030.0  # half a minute into a minute
MINUTE = 60
NEWEST = 1_800_000_000 - MINUTE  # the minute that ended last


POLICY = Policy()
ALONE = Policy(min_nodes_to_keep=0)


def minutes(*peaks: float, ago: int = 0, gpu: float | None = None) -> list[Minute]:
    """Minutes with these CPU peaks, the last of which ended `ago` minutes before the newest one that may have."""
    first = NEWEST - MINUTE * (ago + len(peaks) - 1)
    mean = None if gpu is None else gpu / 20
    return [Minute(first + MINUTE * n, 12, peak / 20, peak, mean, gpu, 40.0, 40.0) for n, peak in enumerate(peaks)]


QUIET_HOUR = minutes(*[3.0] * 60)


def node(
    node_id: str = "n1",
    *,
    history: Sequence[Minute] = QUIET_HOUR,
    metrics: Mapping[str, Any] | None = None,
    running: Sequence[str] = (),
    last_job_at: float | None = None,
    agent: float | None = 1.0,
    jobs: float | None = 1.0,
    health: str = "healthy",
    since: float | None = None,
) -> Node:
    """A node whose processes were heard so many seconds ago, flagged as idle when `since` says since when."""
    facts: dict[str, Any] = {
        "agent": {"metrics": {"cpu": 3.0} if metrics is None else metrics},
        "jobs": {"running": list(running), **({} if last_job_at is None else {"last_job_at": last_job_at})},
    }
    heard = {role: NOW - ago for role, ago in (("agent", agent), ("jobs", jobs)) if ago is not None}
    marks: dict[str, Any] = {"health": {"status": health, "at": NOW}}
    if since is not None:
        marks["idle"] = {"since": since, "at": since + 900, "why": "?"}
    roles = {role: facts[role] for role in heard}
    return Node(node_id, max(heard.values(), default=NOW), roles, heard, marks, history)


def after(seen: Node, report: Report) -> Node:
    """The node with what the report changes."""
    marks = {**seen.marks, **report.changes.get(seen.node_id, {})}
    return replace(seen, marks={name: mark for name, mark in marks.items() if mark is not None})


def flagged(*nodes: Node, policy: Policy = POLICY) -> list[str]:
    report = decide(nodes, policy, NOW)
    marked = [each.node_id for each in nodes if "idle" in after(each, report).marks]
    assert len(marked) == report.flagged
    return marked


def is_idle(seen: Node, **options: Any) -> bool:
    return idle_since(seen, Policy(**options), NOW) is not None


# what counts as idle -------------------------------------------------------------------------------------


def test_a_node_without_load_and_jobs_for_the_whole_time_is_idle() -> None:
    assert idle_since(node(), POLICY, NOW) == QUIET_HOUR[0].at
    assert is_idle(node(jobs=None))


@pytest.mark.parametrize(("number", "expected"), [(14, False), (15, True)])
def test_it_takes_as_many_minutes_as_the_whole_time_has(number: int, expected: bool) -> None:
    assert is_idle(node(history=minutes(*[3.0] * number))) is expected


def test_a_peak_in_one_minute_is_work_though_its_mean_is_low() -> None:
    busy = minutes(*[3.0] * 50, 10.0, *[3.0] * 9)
    assert busy[50].cpu < 10
    assert not is_idle(node(history=busy))
    assert is_idle(node(history=busy), idle_after=500)


@pytest.mark.parametrize(
    "history",
    [
        [],
        minutes(*[3.0] * 60, ago=2),
        [each for each in QUIET_HOUR if each.at != QUIET_HOUR[50].at],
        minutes(*[3.0] * 50, float("nan"), *[3.0] * 9),
        minutes(*[3.0] * 60, ago=-60),
    ],
    ids=["none", "ended too early", "one is missing", "one is no number", "of the future"],
)
def test_minutes_that_are_missing_are_not_idle(history: list[Minute]) -> None:
    assert not is_idle(node(history=history))


@pytest.mark.parametrize(
    "metrics", [{}, {"cpu": 55.0}, {"memory": 1.0}, {"cpu": 3.0, "gpus": [{"name": "x", "utilization": 55.0}]}]
)
def test_what_is_busy_now_or_not_known_now_is_not_idle(metrics: Mapping[str, Any]) -> None:
    assert not is_idle(node(metrics=metrics))


def test_of_a_node_with_a_gpu_the_busiest_one_counts_and_not_the_cpu() -> None:
    gpus = [{"name": "x", "utilization": 1.0}, {"name": "x", "utilization": 4.0}]
    quiet = node(history=minutes(*[90.0] * 60, gpu=5.0), metrics={"cpu": 90.0, "gpus": gpus})
    assert is_idle(quiet)
    assert decide([quiet], ALONE, NOW).changes["n1"]["idle"] == {
        "since": QUIET_HOUR[0].at, "at": NOW, "why": "GPU below 10 % and no job",
    }  # fmt: skip
    assert not is_idle(replace(quiet, history=minutes(*[3.0] * 60, gpu=95.0)))
    # a GPU that said nothing of itself in that time may have been at work
    assert not is_idle(replace(quiet, history=QUIET_HOUR))


def test_a_job_now_or_within_the_time_is_work_whatever_was_measured() -> None:
    assert not is_idle(node(running=["j1"]))
    assert not is_idle(node(last_job_at=NOW - 899))
    assert idle_since(node(last_job_at=NOW - 900), POLICY, NOW) == NOW - 900


@pytest.mark.parametrize("heard", [{"agent": 16.0}, {"jobs": 16.0}, {"agent": None}])
def test_what_a_silent_process_said_last_does_not_make_a_node_idle(heard: dict[str, Any]) -> None:
    assert not is_idle(node(**heard))


# who is flagged ------------------------------------------------------------------------------------------


def test_when_all_are_idle_those_that_are_idle_longest_are_flagged_and_the_others_kept() -> None:
    nodes = [node(f"n{number}", history=minutes(*[3.0] * (20 + number))) for number in range(5)]
    assert flagged(*nodes) == ["n2", "n3", "n4"]


def test_nodes_of_other_kinds_that_are_idle_for_longer_do_not_keep_the_flag_from_one() -> None:
    def offers(seen: Node, capability: str) -> Node:
        return replace(seen, roles={**seen.roles, "jobs": {**seen.roles["jobs"], "capabilities": [capability]}})

    static = [offers(node(f"n{number}"), "cpu") for number in range(3)]
    rented = offers(node("rented", history=minutes(*[3.0] * 20)), "gpu")
    assert flagged(*static, rented) == ["n0", "rented"]
    rows = minutes(*[3.0] * 20, gpu=1.0)
    dear = replace(rented, history=rows, roles={**rented.roles, "agent": {"metrics": {"gpus": [{"utilization": 1.0}]}}})
    assert flagged(*static[1:], dear) == ["rented"]  # what costs most comes first


def test_busy_nodes_count_among_those_that_are_kept() -> None:
    busy = node("busy", running=["j1"])
    assert flagged(busy, node("n1"), node("n2")) == ["n1"]
    assert flagged(busy, replace(busy, node_id="busy-too"), node("n1"), node("n2")) == ["n1", "n2"]


@pytest.mark.parametrize(
    "absent",
    [
        node("x", agent=None, jobs=None),
        node("x", agent=300.0, jobs=300.0),
        node("x", agent=16.0, jobs=16.0),
        node("x", health="lost"),
        node("x", health="unhealthy"),
    ],
    ids=["left", "silent for long", "silent", "lost", "unhealthy"],
)
def test_a_node_that_cannot_work_is_neither_flagged_nor_kept_and_loses_its_flag(absent: Node) -> None:
    absent = replace(absent, last_seen=min(absent.last_seen, NOW))
    assert flagged(absent, node("n1"), node("n2")) == []
    flagged_once = replace(absent, marks={**absent.marks, "idle": {"since": 0.0}})
    assert decide([flagged_once, node("n1"), node("n2")], POLICY, NOW).changes == {"x": {"idle": None}}


def test_draining_is_another_matter() -> None:
    drained = node("n1")
    drained = replace(drained, marks={**drained.marks, "drain": {"at": NOW}})
    assert flagged(drained, node("n2"), node("n3")) == ["n1"]


@pytest.mark.parametrize(
    "work",
    [
        {"running": ["j1"]},
        {"metrics": {"cpu": 80.0}},
        {"last_job_at": NOW - 5},
        {"history": minutes(*[3.0] * 59, 80.0)},
    ],
    ids=["a job", "load now", "a short job", "load since"],
)
def test_the_flag_goes_when_work_returns(work: dict[str, Any]) -> None:
    assert decide([node(since=NOW - 2000, **work)], ALONE, NOW).changes == {"n1": {"idle": None}}


def test_a_flag_is_written_once_and_keeps_its_instant_when_the_history_begins_later() -> None:
    seen = node()
    for later in range(0, 7200, 60):
        now = NOW + later
        rows = [row._replace(at=row.at + later) for row in QUIET_HOUR]
        seen = replace(seen, history=rows, last_seen=now, heard=dict.fromkeys(seen.heard, now))
        report = decide([seen], ALONE, now)
        assert (report.flagged, bool(report.changes)) == (1, later == 0)
        seen = after(seen, report)
    assert seen.marks["idle"]["since"] == QUIET_HOUR[0].at


def test_a_flag_that_outlived_work_nobody_saw_gets_its_true_instant() -> None:
    """The loop was off for an hour, and the node at work meanwhile."""
    (change,) = decide([node(since=NOW - 9000, history=minutes(90.0, *[3.0] * 20))], ALONE, NOW).changes.values()
    assert change["idle"] is not None
    assert change["idle"]["since"] == NEWEST - 19 * MINUTE


# any cluster ---------------------------------------------------------------------------------------------

#: mostly quiet, with a gap or a busy minute at times
row = st.tuples(st.integers(0, 59), st.sampled_from(["gap", "busy", "busy gpu"]))


@st.composite
def histories(draw: st.DrawFn) -> list[Minute]:
    odd = dict(draw(st.lists(row, max_size=2)))
    rows = []
    for back in range(draw(st.integers(0, 60)) - 1, -1, -1):
        kind = odd.get(back)
        gpu = 80.0 if kind == "busy gpu" else None
        if kind != "gap":
            rows.append(Minute(NEWEST - 60 * back, 12, 1.0, 80.0 if kind == "busy" else 3.0, gpu, gpu, 40.0, 40.0))
    return rows


ages = st.sampled_from([None, 1.0, 1.0, 1.0, 16.0, 300.0])
clusters = st.lists(
    st.builds(
        node,
        history=histories(),
        metrics=st.sampled_from([{"cpu": 3.0}, {"cpu": 3.0}, {"cpu": 80.0}, {}]),
        running=st.sampled_from([(), (), ("j1",)]),
        last_job_at=st.sampled_from([None, None, NOW - 10, NOW - 899, NOW - 3600]),
        agent=ages,
        jobs=ages,
        health=st.sampled_from(["healthy", "healthy", "suspect", "unhealthy", "lost"]),
        since=st.sampled_from([None, NOW - 7200]),
    ),
    max_size=8,
).map(lambda nodes: [replace(each, node_id=f"n{number}") for number, each in enumerate(nodes)])


@given(clusters, st.integers(0, 4))
def test_what_holds_for_any_cluster(nodes: list[Node], keep: int) -> None:
    policy = Policy(min_nodes_to_keep=keep)
    report = decide(nodes, policy, NOW)
    nodes = [after(each, report) for each in nodes]
    able = [each for each in nodes if each.is_live(NOW) and each.status(NOW) not in ("left", "lost", "unhealthy")]
    marked = [each for each in nodes if "idle" in each.marks]

    assert len([each for each in able if "idle" not in each.marks]) >= min(keep, len(able))
    assert len(marked) == min(report.idle, max(0, len(able) - keep))
    for each in marked:
        assert each in able
        assert not each.running
        assert each.roles.get("jobs", {}).get("last_job_at", 0) <= NOW - policy.idle_after
        assert each.metrics["cpu"] < policy.idle_threshold
        # every minute of the whole time was measured, and none of them had a peak
        rows = {minute.at: minute for minute in each.history if isinstance(minute, Minute)}
        whole = range(int(NEWEST), int(NOW - policy.idle_after) - MINUTE, -MINUTE)
        assert all((rows[at].gpu_peak or rows[at].cpu_peak) < policy.idle_threshold for at in whole)
    longest = max((each.marks["idle"]["since"] for each in marked), default=0)
    for each in able:
        if "idle" not in each.marks and len(marked) < report.idle:
            since = idle_since(each, policy, NOW)
            assert since is None or since >= longest
    assert decide(nodes, policy, NOW).changes == {}  # the same again changes nothing


@given(clusters, st.floats(-3600, 3600))
def test_a_nodes_own_clock_changes_nothing(nodes: list[Node], offset: float) -> None:
    own = {"clock_offset": offset, "since": NOW + offset}
    wrong = [replace(n, roles={role: {**facts, **own} for role, facts in n.roles.items()}) for n in nodes]
    assert decide(wrong, POLICY, NOW) == decide(nodes, POLICY, NOW)
