"""Who leads: one at a time, with a fence that only rises."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import TimeoutError

from fleet.fence import Fence, FenceRefused
from fleet.jobs import JobQueue, JobSpec
from tests.waiting import until
from workers import keys
from workers.lease import LeaderLease, LeaseTiming, boottime
from workers.settings import connect


@pytest.fixture
def client(redis: Redis, session_server: Any) -> Redis:
    return connect(session_server.url)


@pytest.fixture
def compete(client: Redis) -> Iterator[Callable[..., LeaderLease]]:
    """Start leases that compete until the test is over, however it ends."""
    started: list[LeaderLease] = []

    def start(node: str, **options: Any) -> LeaderLease:
        lease = LeaderLease(client, node, **options)
        started.append(lease)
        lease.start()
        return lease

    yield start
    for lease in started:
        lease.stop()


def expire(client: Redis) -> None:
    client.hset(keys.LEADER, "until", 0)


def test_only_one_holds_it_and_its_renewals_keep_the_fence(client: Redis) -> None:
    first, second = LeaderLease(client, "n1"), LeaderLease(client, "n2")
    assert first.try_once()
    fence = first.fence()
    assert fence > 0
    assert not second.try_once()
    assert second.fence() == 0
    assert first.try_once()
    assert first.fence() == fence


def test_the_fence_rises_with_each_term_and_after_a_loss_of_all_data(client: Redis) -> None:
    fences = []
    for lose in (expire, lambda c: c.flushall(), expire, lambda c: c.delete(keys.GUARD, keys.LEADER)):
        lease = LeaderLease(client, "n1")
        assert lease.try_once()
        fences.append(lease.fence())
        lose(client)
        while client.time()[0] * 1000 + client.time()[1] // 1000 <= fences[-1]:
            pass  # terms shorter than a millisecond run ahead of the clock
    assert fences == sorted(set(fences))


def test_a_lease_that_lapsed_starts_a_new_term_even_for_its_last_holder(client: Redis) -> None:
    lease = LeaderLease(client, "n1")
    lease.try_once()
    before = lease.fence()
    expire(client)
    lease.try_once()
    assert lease.fence() > before


def test_belief_ends_before_the_lease_does_and_without_any_answer(client: Redis) -> None:
    timing = LeaseTiming(ttl=60, renew_deadline=0.05, retry_period=0.01)
    lease = LeaderLease(client, "n1", timing=timing)
    assert lease.try_once()
    until(lambda: lease.fence() == 0, 5)
    assert float(client.hget(keys.LEADER, "until")) / 1000 > time.time() + 50


@pytest.mark.parametrize(("ttl", "deadline", "retry"), [(4, 4, 0.5), (4, 0.5, 0.5), (1, 2, 0.5), (4, 2, 0)])
def test_unsafe_timing_is_refused(ttl: float, deadline: float, retry: float) -> None:
    with pytest.raises(ValueError, match="unsafe lease timing"):
        LeaseTiming(ttl, deadline, retry)


def test_a_resigning_leader_hands_over_at_once(client: Redis, compete: Callable[..., LeaderLease]) -> None:
    leads, gained = threading.Event(), threading.Event()
    first = compete("n1", changed=leads.set)
    assert leads.wait(5)
    second = compete("n2", changed=gained.set)
    started = time.monotonic()
    first.resign()
    assert first.fence() == 0
    assert gained.wait(5)
    assert second.fence() > 0
    assert time.monotonic() - started < 1.0
    second.stop()
    assert client.exists(keys.LEADER) == 0


def test_fifty_candidates_never_lead_at_once(client: Redis, session_server: Any) -> None:
    timing = LeaseTiming(ttl=0.5, renew_deadline=0.3, retry_period=0.05)
    terms: list[tuple[int, str]] = []
    leases = [LeaderLease(connect(session_server.url), f"n{i}", timing=timing) for i in range(50)]

    def seize(lease: LeaderLease) -> None:
        for _ in range(20):
            if lease.try_once():
                terms.append((lease.fence(), lease.token))
            if terms and len(terms) % 5 == 0:
                expire(client)

    threads = [threading.Thread(target=seize, args=(lease,)) for lease in leases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    owners: dict[int, set[str]] = {}
    for fence, owner in terms:
        if fence:  # 0: the belief had ended before it was asked
            owners.setdefault(fence, set()).add(owner)
    assert len(owners) > 1
    assert all(len(who) == 1 for who in owners.values())


def test_a_write_with_an_old_fence_is_refused_and_writes_nothing(client: Redis) -> None:
    old, new = LeaderLease(client, "n1"), LeaderLease(client, "n2")
    old.try_once()
    queue, spec = JobQueue(client), JobSpec(kind="selfplay", config="hex8_2p")
    fence = Fence(old.fence(), old.token, "", keys.GUARD, "")
    assert len(queue.enqueue([spec], fence=fence)) == 1
    expire(client)
    new.try_once()
    with pytest.raises(FenceRefused):
        queue.enqueue([JobSpec(kind="selfplay", config="hex8_2p")], fence=fence)
    with pytest.raises(FenceRefused):  # the same number under another owner is no better
        queue.enqueue([JobSpec(kind="selfplay", config="hex8_2p")], fence=Fence(new.fence(), "me", "", keys.GUARD, ""))
    assert queue.counts().depth == 1


def await_leading(lease: LeaderLease) -> None:
    until(lambda: lease.fence() > 0, 5, "it does not lead")


def test_a_leader_that_steps_down_lets_another_one_lead_first(compete: Callable[..., LeaderLease]) -> None:
    timing = LeaseTiming(ttl=0.5, renew_deadline=0.3, retry_period=0.05)
    first = compete("n1", timing=timing)
    await_leading(first)
    second = compete("n2", timing=timing)
    first.step_down()
    assert first.fence() == 0
    await_leading(second)
    assert first.fence() == 0
    second.stop()
    await_leading(first)  # it competes again once it has rested


def test_a_lease_from_before_the_clock_went_back_keeps_nobody_waiting(client: Redis) -> None:
    old, new = LeaderLease(client, "n1"), LeaderLease(client, "n2")
    old.try_once()
    client.hset(keys.LEADER, "until", round((time.time() + 86_400) * 1000))
    assert new.try_once()
    assert new.fence() > old.fence()


# standing by ---------------------------------------------------------------------------------------------

#: A lease that nobody lives to see the end of.
LONG = LeaseTiming(ttl=60, renew_deadline=40, retry_period=0.05)


def listeners(client: Redis) -> int:
    ((_, number),) = client.pubsub_numsub(keys.LEADER)
    return int(number)


def looks(client: Redis) -> int:
    stats = client.info("commandstats")
    return sum(int(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"]) for name in ("pttl", "evalsha"))


def test_who_stands_by_looks_when_the_lease_ends_and_not_before(
    client: Redis, compete: Callable[..., LeaderLease]
) -> None:
    leader = LeaderLease(client, "n1", timing=LONG)
    leader.try_once()
    client.config_resetstat()
    compete("n2", timing=LONG)
    until(lambda: looks(client) == 2)  # it tried, and then asked until when to wait
    assert not threading.Event().wait(10 * LONG.retry_period)
    assert looks(client) == 2


def test_who_stands_by_hears_that_the_leader_lets_go(client: Redis, compete: Callable[..., LeaderLease]) -> None:
    leader = LeaderLease(client, "n1", timing=LONG)
    leader.try_once()
    standby = compete("n2", timing=LONG)
    until(lambda: listeners(client) == 1)
    client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    until(lambda: listeners(client) == 1)  # it listens again
    leader.step_down()
    await_leading(standby)


def test_a_lease_that_nobody_renews_is_taken_when_it_ends(client: Redis, compete: Callable[..., LeaderLease]) -> None:
    timing = LeaseTiming(ttl=0.5, renew_deadline=0.3, retry_period=0.05)
    dead = LeaderLease(client, "n1", timing=timing)
    dead.try_once()
    ends_in = client.pttl(keys.LEADER) / 1000
    began = boottime()
    await_leading(compete("n2", timing=timing))
    assert ends_in - 0.01 <= boottime() - began


def test_a_lease_whose_grant_got_lost_on_the_way_is_found_to_be_ones_own(
    client: Redis, compete: Callable[..., LeaderLease], monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[object] = []
    acquire = LeaderLease.try_once

    def grant(lease: LeaderLease) -> bool:
        won = acquire(lease)
        if not lost:
            lost.append(won)
            lease._trusted_until = 0.0
            raise TimeoutError("no answer")
        return won

    monkeypatch.setattr(LeaderLease, "try_once", grant)
    await_leading(compete("n1", timing=LONG))
    assert lost == [True]


def test_a_user_who_may_not_listen_leads_and_hands_over_all_the_same(
    client: Redis, session_server: Any, caplog: pytest.LogCaptureFixture
) -> None:
    client.execute_command("ACL", "SETUSER", "deaf", "on", ">secret", "~*", "resetchannels", "+@all")
    try:
        deaf = connect(session_server.url.replace("//", "//deaf:secret@"))
        first, second = LeaderLease(deaf, "n1", timing=LONG), LeaderLease(deaf, "n2", timing=LONG)
        first.start()
        await_leading(first)
        second.start()
        first.stop()
        await_leading(second)
        second.stop()
        assert not client.exists(keys.LEADER)
        deaf.close()
    finally:
        client.execute_command("ACL", "DELUSER", "deaf")
    assert [each.getMessage() for each in caplog.records if each.levelname == "WARNING"] == [
        f"this user of the server may not listen on {keys.LEADER}, so the lease is looked at every 0.05 s; "
        f"to allow it: ACL SETUSER <user> &{keys.LEADER}"
    ] * 2
