"""Who is recovered when, over which way: examples, and a world of nodes under any weather."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.nodes import SILENT_AFTER, Node
from fleet.tailnet import Tailnet
from fleet.tailnet_attempt import Attempt
from fleet.tailnet_recovery import STEPS, Report, concluded, decide
from tasks.tailscale_recovery import Options as Policy

NOW = 1_800_000_000.0
DAY = 86400.0


POLICY = Policy()


def fact(state: str = "Running", **more: Any) -> dict[str, Any]:
    return {"state": state, "online": state == "Running", "age": 1.0} | more


def node(
    name: str = "n1",
    tailnet: Mapping[str, Any] | None = None,
    mark: Mapping[str, Any] | None = None,
    *,
    now: float = NOW,
    silent: float = 1.0,
    **marks: Mapping[str, Any],
) -> Node:
    marks |= {} if mark is None else {"tailnet": mark}
    facts = {} if tailnet is None else {"tailnet": tailnet}
    return Node(name, now - silent, {"agent": facts}, {"agent": now - silent}, marks)


def lost(name: str = "n1", tailnet: Mapping[str, Any] | None = None, mark: Mapping[str, Any] | None = None) -> Node:
    health = {"status": "lost", "at": NOW}
    return node(name, fact() if tailnet is None else tailnet, mark, silent=500.0, health=health)


def one(given: Node, now: float = NOW, **more: Any) -> tuple[list[str], dict[str, Any] | None, list[str]]:
    """The way of the attempt that is made, the mark afterwards, and the notices."""
    report = decide([given], POLICY, now, **more)
    changed = report.changes.get(given.node_id, {"tailnet": given.marks.get("tailnet")})
    return (
        [each.way for each in report.wanted],
        changed["tailnet"],
        [f"{each.title}: {each.body}" for each in report.events],
    )


def test_a_node_that_is_well_or_in_no_tailnet_is_left_alone() -> None:
    assert one(node(tailnet=fact())) == ([], None, [])
    assert one(node()) == ([], None, [])
    assert one(node(mark={"attempts": 3})) == ([], None, []), "its tailscale was removed"
    assert one(Node("n1", NOW, {}, {}, {"tailnet": {"attempts": 3}})) == ([], None, []), "it left"


@pytest.mark.parametrize("tailnet", [fact("Stopped"), fact("NeedsLogin"), fact(expired=True)])
def test_a_state_that_waiting_does_not_change_is_acted_on_at_once(tailnet: dict[str, Any]) -> None:
    ways, mark, _ = one(node(tailnet=tailnet))
    assert ways == ["queue"]
    assert mark == {"since": NOW, "state": tailnet["state"], "attempts": 1, "last_attempt_at": NOW}


@pytest.mark.parametrize(
    "tailnet",
    [
        fact("Starting"),
        fact("NoState"),
        fact("unknown", error="no answer"),
        fact(online=False),
        fact(age=500.0),
        {"state": 7},
    ],
)
def test_a_state_that_may_pass_gets_its_time(tailnet: dict[str, Any]) -> None:
    ways, mark, _ = one(node(tailnet=tailnet))
    assert ways == []
    assert mark is not None
    assert mark["since"] == NOW
    assert one(node(tailnet=tailnet, mark=mark, now=NOW + 119), NOW + 119)[0] == []
    assert one(node(tailnet=tailnet, mark=mark, now=NOW + 120), NOW + 120)[0] == ["queue"]


def test_attempts_keep_their_distance_end_at_the_limit_and_the_operator_is_told_once() -> None:
    mark: dict[str, Any] | None = None
    made, told = [], []
    for second in range(0, 3000, 60):
        now = NOW + second
        failing = fact("Stopped", attempt={"steps": ["restart", "up"], "error": "up: no route"})
        ways, mark, notices = one(node(tailnet=failing, mark=mark, now=now), now)
        made += [second] * len(ways)
        told += [(second, notice) for notice in notices]
    assert made == [0, 300, 600]
    assert [second for second, _ in told] == [900]
    assert told[0][1] == (
        "Tailnet not recovered: n1: Stopped after 3 attempts; up: no route; "
        "ip_discovery looks for a direct address next"
    )
    assert mark is not None
    assert (mark["attempts"], mark["gave_up_at"], mark["step"]) == (3, NOW + 900, "up")


def test_a_node_given_up_that_recovers_by_itself_has_all_its_attempts_again() -> None:
    given_up = {
        "since": NOW - 999,
        "state": "Stopped",
        "attempts": 3,
        "last_attempt_at": NOW - 900,
        "gave_up_at": NOW - 600,
    }
    assert one(node(tailnet=fact("Stopped"), mark=given_up))[0] == []
    assert one(node(tailnet=fact(), mark=given_up)) == ([], None, ["Tailnet back: n1"])


def test_the_notice_names_the_direct_address_where_there_is_one() -> None:
    mark = {"since": NOW - 999, "attempts": 3, "last_attempt_at": NOW - 300}
    direct = {"reachable": True, "source": "lan", "address": "10.0.0.7"}
    notices = one(node(tailnet=fact("Stopped"), mark=mark, address=direct))[2]
    assert notices[0].endswith("others reach it directly at 10.0.0.7")


def test_only_a_person_can_approve_a_machine_and_is_told_once() -> None:
    ways, mark, notices = one(node(tailnet=fact("NeedsMachineAuth")))
    assert ways == []
    assert notices == ["Tailnet approval wanted: n1: an administrator must approve the machine in the admin console"]
    assert one(node(tailnet=fact("NeedsMachineAuth"), mark=mark, now=NOW + 9999), NOW + 9999)[::2] == ([], [])


def test_the_expiry_of_a_key_is_told_once_ahead_of_it() -> None:
    expires = fact(key_expiry=NOW + 8 * DAY)
    assert one(node(tailnet=expires)) == ([], None, [])
    ways, mark, notices = one(node(tailnet=expires, now=NOW + DAY), NOW + DAY)
    assert (ways, notices) == ([], ["Tailnet key expires: n1: key expires 2027-01-23 08:00 UTC"])
    assert one(node(tailnet=expires, mark=mark, now=NOW + 2 * DAY), NOW + 2 * DAY) == ([], mark, [])
    renewed = fact(key_expiry=NOW + 180 * DAY)
    assert one(node(tailnet=renewed, mark=mark)) == ([], None, [])


@pytest.mark.parametrize("tailnet", ["Running", ["Running"], 7, {"state": 7}, fact("Stopped", attempt=["x"])])
def test_a_tailnet_of_another_form_stops_nobody(tailnet: Any) -> None:
    given = node(tailnet=tailnet, mark={"since": NOW - 600, "attempts": 1, "last_attempt_at": NOW - 300})
    assert one(given)[0] == ["queue"]


def test_an_expiry_before_all_calendars_is_one_too() -> None:
    assert one(node(tailnet=fact(key_expiry=-1e300)))[2] == [
        "Tailnet key expires: n1: key expires 1970-01-01 00:00 UTC"
    ]


def test_a_lost_node_is_reached_over_ssh_or_not_at_all() -> None:
    assert one(lost())[0] == []
    assert one(lost(), by_ssh=["n1"])[0] == ["ssh"]
    assert one(node(tailnet=fact("Stopped"), silent=60.0), by_ssh=["n1"])[0] == [], "silent, but not lost yet"
    assert one(node(silent=500.0, health={"status": "lost", "at": NOW}), by_ssh=["n1"])[0] == [], "in no tailnet"


def test_what_a_lost_machine_says_itself_decides_whether_the_attempt_counts() -> None:
    away = lost(mark={"since": NOW - 600, "attempts": 1, "last_attempt_at": NOW - 600})
    failed = Attempt(Tailnet(state="Stopped"), (("restart", ""), ("up", "no route")))
    mark = concluded(away, failed, 2, NOW)
    assert mark == {
        "since": NOW - 600, "state": "Stopped", "attempts": 2, "last_attempt_at": NOW, "step": "up",
        "error": "up: no route",
    }  # fmt: skip
    well = concluded(away, Attempt(Tailnet(state="Running", online=True)), 2, NOW)
    assert well == {"state": "Running", "last_attempt_at": NOW}
    assert one(lost(mark=well), by_ssh=["n1"])[0] == [], "after the cooldown only"
    unreached = concluded(away, Attempt(Tailnet.unknown("not reached over SSH: refused")), 2, NOW)
    assert unreached is not None
    assert unreached["error"] == "not reached over SSH: refused"


def test_the_one_that_waits_for_longest_comes_first_and_those_under_way_count() -> None:
    def at(name: str, ago: float | None) -> Node:
        mark = None if ago is None else {"since": NOW - 9999, "attempts": 1, "last_attempt_at": NOW - ago}
        return node(name, fact("Stopped"), mark)

    nodes = [at("a", 400), at("b", 179), at("c", 500), at("d", None), at("e", 150)]
    report = decide(nodes, Policy(max_nodes_per_cycle=4), NOW)
    assert [(each.node.node_id, each.number) for each in report.wanted] == [("d", 1), ("c", 2)]
    assert report.counts == {"tailnets": 5, "well": 0, "attempted": 2, "waiting": 1, "given_up": 0}


def test_nodes_that_change_together_share_a_notice() -> None:
    nodes = [node(f"n{number:02}", fact("NeedsMachineAuth")) for number in range(12)]
    (notice,) = decide(nodes, POLICY, NOW).events
    assert notice.body.count("an administrator") == 10
    assert notice.body.endswith("and 2 more")


def test_a_mark_of_another_version_is_as_none() -> None:
    assert one(node(tailnet=fact("Stopped"), mark={"attempts": "many"}))[0] == ["queue"]


# a world of nodes -----------------------------------------------------------------------------------------

STATES = ("Running", "Stopped", "NeedsLogin", "NeedsMachineAuth", "Starting", "unknown", "lost", "gone")
POLICIES = st.builds(
    Policy,
    max_attempts=st.integers(1, 4),
    cooldown=st.sampled_from([180.0, 300.0, 1000.0]),
    starting_for=st.sampled_from([0.0, 120.0]),
    max_nodes_per_cycle=st.integers(1, 3),
)
#: Each cycle: seconds since the last one, each node's state, and the node that an operator resets.
CYCLES = st.lists(
    st.tuples(st.integers(-30, 400), st.lists(st.sampled_from(STATES), min_size=5, max_size=5), st.integers(0, 30)),
    max_size=40,
)


@settings(max_examples=150)
@given(policy=POLICIES, cycles=CYCLES)
def test_no_weather_makes_an_attempt_too_many_too_early_or_too_much_at_once(
    policy: Policy, cycles: list[tuple[int, list[str], int]]
) -> None:
    now, marks = NOW, dict.fromkeys(map(str, range(5)))
    made: dict[str, list[float]] = {name: [] for name in marks}
    under_way: list[float] = []
    for later, states, reset in cycles:
        now += later
        if str(reset) in marks:
            marks[str(reset)], made[str(reset)] = None, []
        nodes = [_in(state, name, marks[name], now) for name, state in zip(marks, states, strict=True)]
        report: Report = decide(nodes, policy, now, by_ssh=marks)
        for name, changed in report.changes.items():
            marks[name] = changed["tailnet"]
        for name, state in zip(marks, states, strict=True):
            if state in ("Running", "gone"):
                made[name] = []
                assert marks[name] is None
        for wanted in report.wanted:
            name = wanted.node.node_id
            assert states[int(name)] not in ("Running", "NeedsMachineAuth", "gone")
            assert (wanted.way == "ssh") == (states[int(name)] == "lost")
            assert not made[name] or not 0 <= now - made[name][-1] < policy.cooldown
            made[name].append(now)
            under_way.append(now)
            assert wanted.number == len(made[name]) <= policy.max_attempts
            assert marks[name] is not None
        assert max(Counter(each.node.node_id for each in report.wanted).values(), default=0) <= 1
        assert len(report.wanted) <= policy.max_nodes_per_cycle
        attempting = [name for name in marks if made[name] and 0 <= now - made[name][-1] < STEPS * policy.step_timeout]
        if report.wanted:
            assert len(attempting) <= policy.max_nodes_per_cycle
        again = decide(
            [_in(s, n, marks[n], now) for n, s in zip(marks, states, strict=True)], policy, now, by_ssh=marks
        )
        twice = {each.node.node_id for each in again.wanted} & {each.node.node_id for each in report.wanted}
        assert not twice, "the same tick again"


def _in(state: str, name: str, mark: dict[str, Any] | None, now: float) -> Node:
    if state == "gone":
        return Node(name, now, {}, {}, {} if mark is None else {"tailnet": mark})
    if state == "lost":
        health = {"status": "lost", "at": now}
        return node(name, fact(), mark, now=now, silent=2 * SILENT_AFTER, health=health)
    return node(name, fact(state), mark, now=now)
