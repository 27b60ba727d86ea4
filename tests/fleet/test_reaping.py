"""What is taken back, why, in which order, and what never is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.execution import GRACE
from fleet.job import HELD, Job, JobStatus
from fleet.jobs import POLL_EVERY
from fleet.nodes import SILENT_AFTER, Node
from fleet.reaping import CATEGORIES, Finding, decide, gone, idle_slots
from tasks.job_reaper import Options

NOW = 1_750_000_000.0
POLICY = Options()
LIVE = Node("n1", NOW, {"jobs": {"slots": 4, "capabilities": ["cpu"], "running": ["a"]}}, {"jobs": NOW})


def job(
    job_id: str = "a", *, claimed: float = 10.0, started: float | None = None, heard: float = 0.0, **more: Any
) -> Job:
    """A held job of n1: claimed, started and last heard so many seconds ago."""
    fields: dict[str, Any] = {
        "kind": "selfplay", "config": "hex8_2p", "capability": "cpu", "priority": 50, "payload": {},
        "status": JobStatus.CLAIMED if started is None else JobStatus.RUNNING,
        "attempt": 1, "failures": 0, "max_attempts": 3, "timeout": 3600.0, "created_at": NOW - 1e5,
        "node": "n1", "owner": "o1", "claimed_at": NOW - claimed, "heartbeat_at": NOW - heard,
        "started_at": None if started is None else NOW - started,
    }  # fmt: skip
    return Job(id=job_id, **fields | more)


def verdict(*jobs: Job, gone: dict[str, str] | None = None) -> list[tuple[str, str]]:
    return [(finding.job.id, finding.category) for finding in decide(jobs, gone or {}, POLICY, NOW)]


@pytest.mark.parametrize(
    ("bad", "category", "reason"),
    [
        (job(claimed=3601), "stale", "stale: n1 claimed it 3601 s ago and has not started it"),
        (job(started=3901), "stuck", "stuck: 301 s past its timeout, n1 has not ended it"),
        (job(started=361, timeout=60.0), "stuck", "stuck: 301 s past its timeout, n1 has not ended it"),
        (job(started=60, heard=3601), "abandoned", "abandoned: no heartbeat for 3601 s from n1"),
        (job(heard=3601), "abandoned", "abandoned: no heartbeat for 3601 s from n1"),
        (job(heard=61), "orphaned", "orphaned: n1 is lost; no heartbeat for 61 s"),
        (job(started=50, heard=61), "orphaned", "orphaned: n1 is lost; no heartbeat for 61 s"),
    ],
)
def test_each_category_is_told_by_name_and_reason(bad: Job, category: str, reason: str) -> None:
    (finding,) = decide([bad], {"n1": "is lost"} if category == "orphaned" else {}, POLICY, NOW)
    assert (finding.category, finding.reason) == (category, reason)
    assert finding.since == pytest.approx(NOW - 1)
    assert finding.timed_out == (category == "stuck")


@pytest.mark.parametrize(
    "good",
    [
        job(claimed=3600),
        job(claimed=9999, started=3900),
        job(started=7000, timeout=18_000.0),  # five hours of training
        job(heard=3600),
        job(heard=60),
    ],
)
def test_at_its_limit_a_job_is_not_past_it(good: Job) -> None:
    assert verdict(good, gone={"n1": "is lost"} if good.heartbeat_at == NOW - 60 else None) == []


def test_a_job_that_its_holder_reports_on_is_no_orphan_whatever_is_said_of_the_node() -> None:
    assert verdict(job(heard=2), gone={"n1": "is lost"}) == []


def test_what_a_job_became_first_is_what_it_is() -> None:
    everything = job(started=4100, heard=4000, timeout=60.0)
    assert verdict(everything, gone={"n1": "is lost"}) == [("a", "orphaned")]
    assert verdict(everything) == [("a", "stuck")]
    assert verdict(replace(everything, timeout=3600.0)) == [("a", "abandoned")]


def test_what_has_been_bad_for_longest_goes_first() -> None:
    jobs = [
        job("late", claimed=3700),
        job("first", started=9000),
        job("last", heard=3650),
        job("orphan", heard=200, node="n2"),
    ]
    assert [name for name, _ in verdict(*jobs, gone={"n2": "is lost"})] == ["first", "orphan", "late", "last"]


def test_a_live_holder_has_time_to_end_the_attempt_before_the_next_one() -> None:
    (stuck, stale) = decide([job("a", started=9000), job("b", claimed=9000)], {}, POLICY, NOW)
    assert stuck.retry_after == stale.retry_after >= POLL_EVERY + GRACE
    (silent,) = decide([job(heard=9000)], {}, POLICY, NOW)
    assert silent.retry_after == 0


ages = st.integers(0, 10_000).map(float)
held_jobs = st.builds(
    lambda name, claimed, started, heard, timeout, node: job(
        name, claimed=claimed, started=min(claimed, started) if started is not None else None,
        heard=min(claimed, heard), timeout=timeout, node=node,
    ),
    st.integers(0, 10**6).map("j{}".format), ages, st.none() | ages, ages, st.sampled_from([60.0, 3600.0]),
    st.sampled_from(["n1", "n2", "n3"]),
)  # fmt: skip


class TestAnyJobs:
    @given(st.lists(held_jobs, max_size=12, unique_by=lambda each: each.id), st.sets(st.sampled_from(["n1", "n2"])))
    def test_exactly_the_bad_ones_are_found_each_once_and_longest_bad_first(
        self, jobs: list[Job], lost: set[str]
    ) -> None:
        def is_bad(each: Job) -> bool:
            assert each.claimed_at is not None
            assert each.heartbeat_at is not None
            silent = NOW - each.heartbeat_at
            return (
                (each.started_at is None and NOW - each.claimed_at > 3600)
                or (each.started_at is not None and NOW - each.started_at > each.timeout + 300)
                or silent > 3600
                or (each.node in lost and silent > 60)
            )

        found = decide(jobs, dict.fromkeys(lost, "is lost"), POLICY, NOW)
        assert {finding.job.id for finding in found} == {each.id for each in jobs if is_bad(each)}
        assert [finding.since for finding in found] == sorted(finding.since for finding in found)
        assert len({finding.job.id for finding in found}) == len(found)
        for finding in found:
            assert finding.category in CATEGORIES
            assert finding.reason.startswith(f"{finding.category}: ")
            assert finding.since < NOW

    @given(st.lists(held_jobs, max_size=6, unique_by=lambda each: each.id))
    def test_the_order_in_which_they_were_read_does_not_matter(self, jobs: list[Job]) -> None:
        found: list[Finding] = decide(jobs, {}, POLICY, NOW)
        assert decide(reversed(jobs), {}, POLICY, NOW) == found

    @given(held_jobs, st.floats(0, 1e5))
    def test_once_bad_it_stays_bad_until_it_is_heard(self, each: Job, later: float) -> None:
        if decide([each], {}, POLICY, NOW):
            assert decide([each], {}, POLICY, NOW + later)

    @pytest.mark.parametrize("status", sorted(set(JobStatus) - HELD))
    def test_nothing_is_decided_of_what_is_not_held(self, status: JobStatus) -> None:
        over = replace(job(claimed=9e4, started=9e4, heard=9e4), status=status, heartbeat_at=None)
        assert verdict(over) == []


class TestGone:
    def gone(self, *nodes: Node, holders: tuple[str, ...] = ("n1",)) -> dict[str, str]:
        return gone(nodes, holders, POLICY, NOW)

    def test_a_live_one_is_not(self) -> None:
        assert self.gone(LIVE) == {}
        assert self.gone(LIVE, holders=()) == {}

    def test_one_that_is_in_no_registry(self) -> None:
        assert self.gone() == {"n1": "is not in the node registry"}

    def test_one_that_is_lost_until_it_is_heard_again(self) -> None:
        lost = replace(
            LIVE, marks={"health": {"status": "lost", "at": NOW}}, last_seen=NOW - 200, heard={"jobs": NOW - 200}
        )
        assert self.gone(lost) == {"n1": "is lost"}
        assert self.gone(replace(lost, last_seen=NOW + 1, heard={"jobs": NOW + 1})) == {}

    def test_one_that_only_ails_is_not(self) -> None:
        for status in ("suspect", "unhealthy"):
            assert self.gone(replace(LIVE, marks={"health": {"status": status, "at": NOW}})) == {}

    def test_one_whose_jobs_worker_ended_in_order(self) -> None:
        assert self.gone(Node("n1", NOW, {"agent": {}}, {"agent": NOW})) == {"n1": "has no jobs worker any more"}
        assert self.gone(Node("n1", NOW, {})) == {"n1": "has no jobs worker any more"}

    def test_one_whose_agent_alone_is_heard(self) -> None:
        half = replace(LIVE, roles={**LIVE.roles, "agent": {}}, heard={"agent": NOW, "jobs": NOW - 61})
        assert self.gone(half) == {"n1": "has a jobs worker that is silent"}
        assert self.gone(replace(half, heard={"agent": NOW, "jobs": NOW - 60})) == {}

    def test_nodes_that_hold_nothing_are_nobodys_business(self) -> None:
        assert self.gone(Node("n2", NOW - 1e5, {}), LIVE) == {}


class TestIdleSlots:
    def test_a_slot_counts_for_each_capability_it_offers(self) -> None:
        both = replace(LIVE, roles={"jobs": {"slots": 2, "capabilities": ["cpu", "gpu"], "running": []}})
        assert idle_slots([LIVE, both], NOW) == {"cpu": 5, "gpu": 2}

    def test_none_on_a_node_that_drains_is_silent_or_has_no_jobs_worker(self) -> None:
        drains = replace(LIVE, marks={"drain": {"at": NOW}})
        silent = replace(LIVE, last_seen=NOW - SILENT_AFTER - 1)
        assert idle_slots([drains, silent, Node("n1", NOW, {"agent": {}}, {"agent": NOW})], NOW) == {}

    def test_a_full_one_has_none_to_lend_to_others(self) -> None:
        full = replace(LIVE, roles={"jobs": {"slots": 1, "capabilities": ["cpu"], "running": ["a", "b"]}})
        assert idle_slots([full, LIVE], NOW)["cpu"] == 3
