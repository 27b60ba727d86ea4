"""Which address is used, and who is checked when: pure decisions, tried on worlds that change."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.inventory import StaticNode
from fleet.nodes import Node
from fleet.probing import Answer
from fleet.reachability import CANDIDATES, REMEMBERED, Candidate, candidates, choose, decide, due, host_name
from tasks.ip_discovery import Options

NOW = 1_800_000_000.0
YES, REFUSED, LATE, WRONG = Answer("answered"), Answer("refused"), Answer("timed out"), Answer("wrong node")
LAN, TAIL, PUBLIC, DNS = "10.0.0.7", "100.64.0.7", "1.2.3.7", "10.0.0.8"
ADDRESSES = {"LAN": LAN, "TAIL": TAIL, "PUBLIC": PUBLIC}


def node(
    node_id: str = "n1", *, mark: Mapping[str, Any] | None = None, heard: float = NOW, host: str = "", **agent: Any
) -> Node:
    facts = {"host": host, "addresses": {"lan": [LAN], "tailnet": [TAIL]}, "probe": {"port": 7, "key": "k"}, **agent}
    marks = {} if mark is None else {"address": mark}
    return Node(node_id, heard, {"agent": facts}, {"agent": heard}, marks)


def marked(address: str | None, source: str = "lan", **more: Any) -> dict[str, Any]:
    reachable = address is not None
    mark = {"address": address, "source": source, "since": NOW, "failures": 0, "changes": [], "reachable": reachable}
    return {**mark, "why": "", "checked_at": NOW, **more}


def wanted(node: Node, resolved: tuple[str, ...] = (), static: StaticNode | None = None, **options: Any) -> list[str]:
    return [each.address for each in candidates(node, resolved, static, Options(**options))]


# candidates --------------------------------------------------------------------------------------------------


def test_addresses_come_from_all_sources_in_the_configured_order() -> None:
    told = node(addresses={"lan": [LAN], "tailnet": [TAIL], "public": [PUBLIC]})
    assert wanted(told, (DNS,)) == [DNS, TAIL, PUBLIC, LAN]
    assert wanted(told, (DNS,), order=("lan", "public")) == [LAN, PUBLIC]
    told = node(addresses={"lan": [LAN], "tailnet": [TAIL]}, mark=marked(LAN))
    assert wanted(told, (DNS,)) == [LAN, DNS, TAIL]
    assert wanted(told, (DNS,), order=("dns", "current", "lan")) == [DNS, LAN]


def test_the_inventory_adds_its_addresses_to_the_sources_they_belong_to() -> None:
    static = StaticNode(
        host="10.0.0.9", addresses=(PUBLIC, "fd7a:115c:a1e0::9"), tailscale_ip=TAIL, public_ip="9.9.9.9"
    )
    found = candidates(node(addresses={}), (), static, Options())
    assert found == (
        Candidate(TAIL, "tailnet"), Candidate("fd7a:115c:a1e0::9", "tailnet"),
        Candidate("9.9.9.9", "public"), Candidate(PUBLIC, "public"), Candidate("10.0.0.9", "lan"),
    )  # fmt: skip


def test_the_preferred_family_comes_first_within_a_source() -> None:
    told = node(addresses={"lan": ["10.0.0.7", "2001:db8::7"], "tailnet": ["100.64.0.7", "fd7a:115c:a1e0::7"]})
    assert wanted(told) == ["100.64.0.7", "fd7a:115c:a1e0::7", "10.0.0.7", "2001:db8::7"]
    assert wanted(told, prefer="ipv6") == ["fd7a:115c:a1e0::7", "100.64.0.7", "2001:db8::7", "10.0.0.7"]


def test_an_address_comes_once_in_one_spelling_and_nonsense_not_at_all() -> None:
    told = node(addresses={"lan": ["2001:DB8:0::7", "2001:db8::7", "10.0.0.256", 7, "fe80::1%eth0", "$(reboot)"]})
    assert wanted(told, ("2001:db8::7",)) == ["2001:db8::7"]


@pytest.mark.parametrize("named", [None, [], "10.0.0.7", 7, {"lan": None}, {"lan": 7}, {"lan": "10.0.0.7"}])
def test_addresses_of_another_form_are_none(named: Any) -> None:
    assert wanted(node(addresses=named)) == []


def test_an_agent_bound_to_some_addresses_is_asked_only_there() -> None:
    bound = {"port": 7, "key": "k", "bound": ["127.0.0.1"]}
    assert wanted(node(probe=bound)) == ["127.0.0.1"]


def test_a_machine_with_a_hundred_addresses_does_not_take_the_cycle() -> None:
    many = node(addresses={"lan": [f"10.1.0.{n}" for n in range(100)]}, mark=marked("10.1.0.99"))
    assert len(wanted(many)) == CANDIDATES
    assert "10.1.0.99" in wanted(many, order=("lan", "current"))


def test_dns_is_asked_for_the_inventorys_name_else_for_the_machines() -> None:
    assert host_name(node(host="trainer-1"), None) == "trainer-1"
    assert host_name(node(host="trainer-1"), StaticNode(host="gpu.example.com")) == "gpu.example.com"
    assert host_name(node(host="trainer-1"), StaticNode(host="10.0.0.9")) == ""
    for nonsense in ("10.0.0.9", "::1", "", "-oProxyCommand=x", "a b", "x" * 300, "a..b"):
        assert host_name(node(host=nonsense), None) == ""


# choice ------------------------------------------------------------------------------------------------------


def chosen(mark: Mapping[str, Any] | None, now: float = NOW, **answers: Answer) -> dict[str, Any]:
    """The mark after a check with these answers, by the names of the addresses."""
    said = {ADDRESSES[name]: answer for name, answer in answers.items()}
    it = node(mark=mark, addresses={"lan": [LAN], "tailnet": [TAIL], "public": [PUBLIC]})
    return choose(it, candidates(it, (), None, Options()), said, Options(), now)


def test_the_first_address_is_the_best_that_answers() -> None:
    mark = chosen(None, LAN=YES, TAIL=LATE, PUBLIC=YES)
    assert (mark["address"], mark["source"], mark["reachable"]) == (PUBLIC, "public", True)
    (change,) = mark["changes"]
    assert (change["from"], change["to"], change["reason"]) == (None, PUBLIC, "the first that answered")


def test_none_that_answers_is_no_address() -> None:
    mark = chosen(None, LAN=LATE, TAIL=WRONG, PUBLIC=REFUSED)
    assert (mark["address"], mark["reachable"], mark["changes"]) == (None, False, [])
    assert mark["why"] == f"{TAIL} wrong node; {PUBLIC} refused; {LAN} timed out"


def test_the_current_address_is_kept_while_it_answers() -> None:
    mark = chosen(marked(LAN), LAN=YES, TAIL=YES, PUBLIC=YES)
    assert (mark["address"], mark["changes"]) == (LAN, [])


@pytest.mark.parametrize("answer", [REFUSED, WRONG])
def test_a_certain_failure_is_left_at_once_when_another_answers(answer: Answer) -> None:
    mark = chosen(marked(LAN), LAN=answer, TAIL=YES, PUBLIC=YES)
    assert (mark["address"], mark["source"], mark["failures"]) == (TAIL, "tailnet", 0)
    assert mark["changes"][-1]["reason"] == str(answer)


def test_an_uncertain_failure_is_left_the_second_time() -> None:
    once = chosen(marked(LAN), LAN=LATE, TAIL=YES)
    assert (once["address"], once["failures"], once["reachable"]) == (LAN, 1, True)
    twice = chosen(once, NOW + 300, LAN=LATE, TAIL=YES)
    assert (twice["address"], twice["since"]) == (TAIL, NOW + 300)
    assert twice["changes"][-1]["reason"] == "timed out, 2 times in a row"
    assert chosen(once, NOW + 300, LAN=YES)["failures"] == 0


def test_without_any_answer_the_current_address_stays_and_is_unreachable() -> None:
    mark = marked(LAN)
    for failures in (1, 2, 2, 2):
        mark = chosen(mark, LAN=LATE, TAIL=LATE, PUBLIC=LATE)
        assert (mark["address"], mark["failures"], mark["reachable"]) == (LAN, failures, failures < 2)
    assert "timed out" in mark["why"]
    assert chosen(mark, LAN=YES)["reachable"]


def test_an_address_that_was_left_is_returned_to_early_only_when_the_current_one_keeps_failing() -> None:
    left = chosen(marked(LAN), LAN=REFUSED, TAIL=YES)
    kept = chosen(left, NOW + 300, LAN=YES, TAIL=REFUSED)
    assert kept["address"] == TAIL
    assert chosen(kept, NOW + 600, LAN=YES, TAIL=REFUSED)["address"] == LAN
    assert chosen(left, NOW + 901, LAN=YES, TAIL=REFUSED)["address"] == LAN
    assert chosen(left, NOW + 300, LAN=YES, TAIL=REFUSED, PUBLIC=YES)["address"] == PUBLIC


def test_a_preferred_address_is_returned_to_when_it_has_settled() -> None:
    options = Options(order=("lan", "current", "tailnet"))

    def at(now: float, mark: Mapping[str, Any], **answers: Answer) -> dict[str, Any]:
        it = node(mark=mark)
        return choose(
            it, candidates(it, (), None, options), {ADDRESSES[n]: a for n, a in answers.items()}, options, now
        )

    left = at(NOW, marked(LAN), LAN=REFUSED, TAIL=YES)
    assert left["address"] == TAIL
    assert at(NOW + 899, left, LAN=YES, TAIL=YES)["address"] == TAIL
    back = at(NOW + 900, left, LAN=YES, TAIL=YES)
    assert (back["address"], back["changes"][-1]["reason"]) == (LAN, "lan comes before tailnet")


# worlds that change ------------------------------------------------------------------------------------------

ANSWERS = st.sampled_from([YES, REFUSED, LATE, WRONG])
ORDERS = st.permutations(["current", "tailnet", "public", "lan"]).flatmap(
    lambda order: st.integers(1, 4).map(lambda count: tuple(order[:count]))
)
POLICIES = st.builds(Options, order=ORDERS, failures_before_switch=st.integers(1, 4), settle_for=st.integers(0, 2000))
WORLDS = st.lists(st.fixed_dictionaries(dict.fromkeys(ADDRESSES.values(), ANSWERS)), max_size=30)


@given(POLICIES, WORLDS, st.integers(1, 600))
def test_only_proved_addresses_are_chosen_and_none_flaps(
    policy: Options, world: list[dict[str, Answer]], interval: int
) -> None:
    mark: dict[str, Any] | None = None
    left: dict[str, float] = {}
    in_a_row = 0
    for cycle, answers in enumerate(world):
        now = NOW + cycle * interval
        it = node(mark=mark, addresses={"lan": [LAN], "tailnet": [TAIL], "public": [PUBLIC]})
        options = candidates(it, (), None, policy)
        before, mark = mark, choose(it, options, answers, policy, now)
        was, current = (before or {}).get("address"), mark["address"]
        worked = was is not None and answers[was].is_proof and any(each.address == was for each in options)
        in_a_row = 0 if worked or was is None else in_a_row + 1
        if current != was:
            assert answers[current].is_proof
            early = current in left and now - left[current] < policy.settle_for
            assert not (early and worked), "left an address that works for one that was left just now"
            assert not early or in_a_row >= policy.failures_before_switch
            if was is not None:
                left[was] = now
            in_a_row = 0
        if worked and policy.order[0] == "current":
            assert current == was
        if mark["reachable"]:
            assert in_a_row < policy.failures_before_switch
        assert len(mark["changes"]) <= REMEMBERED
        assert mark["failures"] <= policy.failures_before_switch


@given(st.integers(1, 4), st.integers(1, 60))
def test_two_addresses_that_take_turns_are_switched_at_most_once_in_so_many_checks(limit: int, cycles: int) -> None:
    policy = Options(failures_before_switch=limit, settle_for=1_000_000)
    mark: dict[str, Any] = marked(LAN)
    switches = 0
    for cycle in range(cycles):
        it = node(mark=mark)
        alive = TAIL if mark["address"] == LAN else LAN  # the worst there is: always the other one
        answers = {LAN: REFUSED, TAIL: REFUSED, alive: YES}
        before, mark = mark["address"], choose(it, candidates(it, (), None, policy), answers, policy, NOW + cycle)
        switches += mark["address"] != before
    assert switches <= 1 + math.ceil((cycles - 1) / limit)


# who is checked ----------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(st.integers(1, 30), st.integers(1, 12), st.lists(st.sets(st.integers(0, 29)), max_size=6))
def test_no_node_starves_however_many_have_news(number: int, places: int, news: list[set[int]]) -> None:
    policy = Options(max_nodes_per_cycle=places)
    marks: dict[str, dict[str, Any]] = {}
    checked_in: dict[str, int] = {f"n{n:02}": 0 for n in range(number)}
    longest = math.ceil(number / math.ceil(places / 2))
    for cycle in range(1, 3 * longest + 1):
        now = NOW + cycle * 300
        failing = news[cycle % len(news)] if news else set()
        nodes = [node(each, mark=marks.get(each), heard=now) for each in checked_in]
        picked = due(nodes, policy, now)
        assert len(picked) == min(places, number)
        assert len({each.node_id for each in picked}) == len(picked)
        for each in picked:
            misses = 1 if int(each.node_id[1:]) in failing else 0
            marks[each.node_id] = marked(LAN, failures=misses, checked_at=now)
            checked_in[each.node_id] = cycle
        assert min(checked_in.values()) >= cycle - longest


def test_nodes_with_news_come_first_but_take_no_more_than_half() -> None:
    nodes = [node(f"n{n}", mark=marked(LAN, checked_at=NOW - 100 + n, failures=1 if n >= 4 else 0)) for n in range(10)]
    picked = [each.node_id for each in due(nodes, Options(max_nodes_per_cycle=4), NOW)]
    assert picked == ["n4", "n5", "n0", "n1"]


def test_a_node_that_no_longer_names_its_address_is_news() -> None:
    nodes = [node(f"n{n}", mark=marked(LAN, checked_at=NOW - 100 + n)) for n in range(4)]
    nodes[3] = node("n3", mark=marked("10.0.0.99", checked_at=NOW))
    assert [each.node_id for each in due(nodes, Options(max_nodes_per_cycle=2), NOW)] == ["n3", "n0"]
    nodes[3] = node("n3", mark=marked("10.0.0.99", "dns", checked_at=NOW))
    assert [each.node_id for each in due(nodes, Options(max_nodes_per_cycle=2), NOW)] == ["n0", "n1"]


def test_a_node_whose_tailnet_was_given_up_is_news_until_it_was_checked() -> None:
    nodes = [node(f"n{n}", mark=marked(LAN, checked_at=NOW - 100 + n)) for n in range(4)]
    nodes[3] = replace(nodes[3], marks={**nodes[3].marks, "tailnet": {"gave_up_at": NOW - 50}})
    assert [each.node_id for each in due(nodes, Options(max_nodes_per_cycle=2), NOW)] == ["n3", "n0"]
    nodes[3] = replace(nodes[3], marks={"address": marked(LAN), "tailnet": {"gave_up_at": NOW - 50}})
    assert [each.node_id for each in due(nodes, Options(max_nodes_per_cycle=2), NOW)] == ["n0", "n1"]


def test_a_clock_that_was_set_back_starves_nobody() -> None:
    nodes = [node("n1", mark=marked(LAN, checked_at=NOW + 10_000)), node("n2", mark=marked(LAN, checked_at=NOW - 1))]
    assert [each.node_id for each in due(nodes, Options(max_nodes_per_cycle=1), NOW)] == ["n1"]


def test_a_node_without_a_responder_cannot_prove_itself() -> None:
    assert due([node(probe=None), Node("n2", NOW, {"jobs": {}}), Node("n3", NOW, {})], Options(), NOW) == []


# what the operator hears -------------------------------------------------------------------------------------


def told(*rows: tuple[Node, Mapping[str, Answer]]) -> list[str]:
    found = {it.node_id: (candidates(it, (), None, Options()), answers) for it, answers in rows}
    report = decide([it for it, _ in rows], found, Options(), NOW)
    return [f"{notice.title}: {notice.body}" for notice in report.events]


def test_changes_of_one_cycle_are_one_notice_and_a_first_address_is_none() -> None:
    moved = {LAN: REFUSED, TAIL: YES}
    rows = [(node(f"n{n}", mark=marked(LAN)), moved) for n in (1, 2)]
    change = f"{LAN} -> {TAIL} (refused)"
    assert told(*rows, (node("n3"), {LAN: YES})) == [f"Address changed: n1: {change}; n2: {change}"]


def test_a_live_node_that_nobody_reaches_is_told_once_and_again_when_it_is_reached() -> None:
    cut = {LAN: LATE, TAIL: LATE}
    doubtful = marked(LAN, failures=1)
    (notice,) = told((node(mark=doubtful), cut))
    assert notice == f"Node unreachable: n1: {LAN} timed out; {TAIL} timed out"
    gone = marked(LAN, failures=2, reachable=False)
    assert told((node(mark=gone), cut)) == []
    assert told((node(mark=gone), {LAN: YES})) == [f"Node reachable again: n1: {LAN}"]
    assert told((node(mark=doubtful, heard=NOW - 60), cut)) == []  # silent: health_aggregation tells
    assert told((node(), cut)) == [f"Node unreachable: n1: {TAIL} timed out; {LAN} timed out"]
