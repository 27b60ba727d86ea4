"""One cycle of elo_sync among nodes on one server: whoever runs it, everybody who is reached agrees afterwards."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from fleet import rating
from fleet.elo_board import ELO, EloBoard
from fleet.elo_exchange import longest_ago
from fleet.fence import Fence, FenceRefused
from fleet.holdings import READERS
from fleet.job import JobSpec
from fleet.jobs import Holder
from fleet.match import Match
from fleet.match_ratings import Rules, settle
from fleet.match_store import FILE
from fleet.matches import holdings
from fleet.options import FleetOptions
from fleet.rating_options import RatingOptions
from tasks.elo_sync import Options, elo_sync
from tasks.loop import Tick
from tests.fleet.match_stage import T0, matches, played, published, row, write_original
from tests.tasks.nodes_stage import Nodes

NAMES = ("n0", "n1", "n2")


@pytest.fixture
def nodes(redis: Redis, tmp_path: Path) -> Nodes:
    return Nodes(redis, tmp_path, *NAMES)


def add(nodes: Nodes, name: str, *told: Match) -> None:
    with matches(nodes[name].data / FILE) as found:
        found.merge(told)
    nodes[name].report_holdings()


def sync(nodes: Nodes, name: str = "n0", deadline: float = 60.0, **options: Any) -> tuple[dict[str, Any], Tick]:
    seconds, micro = nodes.redis.time()
    tick = Tick(now=seconds + micro / 1e6, deadline=seconds + deadline)
    return dict(elo_sync(nodes[name], Options(**{"answer_timeout": 20.0, **options}), tick)), tick


def seen(nodes: Nodes, name: str) -> tuple[str, list[Any]]:
    with matches(nodes[name].data / FILE) as found:
        return found.state().hex, published(found)


def agreed(nodes: Nodes, *names: str) -> bool:
    return len({str(seen(nodes, name)) for name in names or NAMES}) == 1


def test_matches_are_a_part_of_what_a_node_says_it_holds() -> None:
    assert READERS["matches"] is holdings


def test_after_a_cycle_everybody_agrees_whoever_knew_what(nodes: Nodes) -> None:
    add(nodes, "n0", *[played(number, ("a", "random")) for number in range(10)])
    add(nodes, "n1", *[played(number, ("b", "random"), (2, 1)) for number in range(5, 400)])
    add(nodes, "n2", *[played(number, ("a", "b", "c"), (1, 2, 2)) for number in range(300, 310)])
    counts, tick = sync(nodes)
    assert counts["agreed"] == counts["nodes"] == 3
    assert counts["conflicts"] > 0
    assert agreed(nodes)
    assert seen(nodes, "n0")[1]
    assert tick.wanted_after is None
    counts, _ = sync(nodes, "n1")
    assert (counts["pulled"], counts["pushed"], counts["rated"], counts["published"]) == (0, 0, 0, 0)


def test_what_is_learned_from_the_last_node_reaches_the_first(nodes: Nodes) -> None:
    add(nodes, "n2", played(1))
    counts, _ = sync(nodes, nodes_at_once=1)
    assert counts["agreed"] == 3
    assert agreed(nodes)


def test_a_node_that_is_silent_holds_nobody_up_and_catches_up_later(nodes: Nodes) -> None:
    add(nodes, "n0", played(1))
    add(nodes, "n1", played(2))
    nodes.away.add("n1")
    counts, _ = sync(nodes, answer_timeout=2.0)
    assert (counts["silent"], counts["agreed"]) == (1, 2)
    assert agreed(nodes, "n0", "n2")
    nodes.away.clear()
    counts, _ = sync(nodes, "n2")
    assert counts["agreed"] == 3
    assert agreed(nodes)


def test_those_that_were_tried_longest_ago_come_first(nodes: Nodes) -> None:
    add(nodes, "n0", played(1))
    nodes.away |= {"n1", "n2"}
    for _ in range(2):
        sync(nodes, answer_timeout=0.1, max_nodes_per_cycle=1)
    assert sorted(node for node, _ in nodes.asked) == ["n1", "n2"]


def test_whoever_runs_it_those_that_were_never_tried_come_in_no_fixed_order(nodes: Nodes) -> None:
    """Each node knows only its own tries: by name, the last of many nodes would never have their turn."""
    with matches(nodes["n0"].data / FILE) as found:
        many = [f"node-{number}" for number in range(100)]
        orders = {tuple(longest_ago(found.db, many)[:64]) for _ in range(3)}
    assert len(orders) == 3


def test_rows_of_a_job_are_adopted_and_spread(nodes: Nodes) -> None:
    db = write_original(nodes["n1"].data / FILE)
    row(db, participant_ids=["a", "random"], rankings=[1, 2], game_id="x" * 32)
    db.execute("INSERT INTO participants (participant_id, participant_type) VALUES ('random', 'baseline')")
    db.close()
    nodes.report()
    counts, _ = sync(nodes)
    assert counts["pulled"] == 1
    assert agreed(nodes)
    document = EloBoard(nodes.redis).read()["hex8_2p"]
    assert document["best"]["participant"] == "a"
    assert document["matches"] == 1
    assert [(each["participant"], each["type"]) for each in document["ranking"]] == [
        ("a", "model"),
        ("random", "baseline"),
    ]
    assert document["target"] is None


def test_a_node_that_trains_is_left_alone(nodes: Nodes) -> None:
    add(nodes, "n0", played(1))
    queue = nodes["n0"].jobs
    queue.enqueue([JobSpec(kind="training", config="hex8_2p")])
    holder = Holder("n1", "o")
    job = queue.claim(holder, ["cpu"])
    assert job is not None
    assert queue.start(holder, job.id, job.attempt)
    counts, tick = sync(nodes, "n1")
    assert counts == {"skipped_training": 1}
    assert tick.wanted_after == 60
    counts, _ = sync(nodes, "n0")
    assert counts["training"] == 1
    assert agreed(nodes, "n0", "n2")
    assert seen(nodes, "n1")[0] == "0" * 32
    counts, _ = sync(nodes, "n0", skip_while_training=False)
    assert agreed(nodes)


def test_it_stops_in_time_and_goes_on_at_once(nodes: Nodes) -> None:
    add(nodes, "n1", *map(played, range(5)))
    counts, tick = sync(nodes, deadline=0.2)
    assert counts["exchanged"] == 0
    assert tick.wanted_after == 1.0


def test_a_node_that_answers_nonsense_is_named_and_left_out(nodes: Nodes, monkeypatch: Any) -> None:
    add(nodes, "n0", played(1))
    real = nodes["n0"].ask

    def ask(node_id: str, task: str, arguments: Any, reply: Any = None, /) -> None:
        if node_id == "n1":
            nodes.redis.rpush("{backbeat}:reply:" + reply, b'{"answer": {"digest": "no", "ranges": 7}}')
        else:
            real(node_id, task, arguments, reply)

    nodes.change("n0", ask=ask)
    counts, _ = sync(nodes)
    assert (counts["failed"], counts["agreed"]) == (1, 2)


def test_what_contradicts_itself_is_told_once_and_resolved_alike(nodes: Nodes) -> None:
    add(nodes, "n0", played(1, ranks=(1, 2)))
    add(nodes, "n1", played(1, ranks=(2, 1)))
    counts, _ = sync(nodes)
    assert counts["conflicts"] == 1
    assert agreed(nodes)
    assert [notice.title for _, notice in nodes["n0"].notices.recent()] == ["Matches contradict each other"]
    sync(nodes)
    assert len(nodes["n0"].notices.recent()) == 1


def test_a_damaged_file_is_kept_aside_told_and_filled_from_the_others(nodes: Nodes) -> None:
    for name in NAMES:
        add(nodes, name, *map(played, range(50)))
    path = nodes["n1"].data / FILE
    path.write_bytes(b"this was a database once" * 1000)
    nodes.report()
    counts, _ = sync(nodes)
    assert counts["corrupt"] == 1
    assert agreed(nodes)
    assert path.with_name(f"{FILE}.corrupt-1").read_bytes().startswith(b"this was a database once")
    assert [notice.title for _, notice in nodes["n0"].notices.recent()] == ["Damaged ratings set aside"]
    sync(nodes)
    assert len(nodes["n0"].notices.recent()) == 1


def test_a_run_that_is_superseded_publishes_nothing(nodes: Nodes, redis: Redis) -> None:
    add(nodes, "n0", played(1))
    redis.hset("loop", "run", "another")
    tick = Tick(now=T0 / 1000, deadline=T0 / 1000 + 60, fence=Fence(0, "", "mine", "guard", "loop"))
    with pytest.raises(FenceRefused):
        elo_sync(nodes["n0"], Options(), tick)
    assert not redis.exists(ELO)


def test_a_node_that_knows_less_does_not_publish_over_more(nodes: Nodes) -> None:
    add(nodes, "n0", *map(played, range(3)))
    sync(nodes)
    digest = EloBoard(nodes.redis).basis()
    nodes.away |= {"n0", "n2"}
    (nodes["n1"].data / FILE).unlink()
    add(nodes, "n1", played(1))
    counts, _ = sync(nodes, "n1", answer_timeout=0.1)
    assert counts["published"] == 0
    assert EloBoard(nodes.redis).basis() == digest


def test_ratings_that_are_behind_are_made_good_on_every_node(nodes: Nodes) -> None:
    for name in NAMES:
        add(nodes, name, played(1))
    counts, _ = sync(nodes)
    assert counts["agreed"] == 3
    assert agreed(nodes)
    held = nodes["n0"].nodes.holdings("matches", sync_now(nodes))
    assert {held[name]["settled"] for name in NAMES} == {Rules().mark}


def test_a_node_that_does_not_rate_keeps_nothing_from_being_published(nodes: Nodes) -> None:
    for name in NAMES:
        add(nodes, name, played(1))
    nodes.away.add("n1")
    began = time.monotonic()
    counts, _ = sync(nodes, deadline=2.5, answer_timeout=60)
    assert time.monotonic() - began < 2.5
    assert (counts["rated"], counts["published"]) == (1, 1)
    assert agreed(nodes, "n0", "n2")


def test_other_rules_reach_every_node(nodes: Nodes) -> None:
    for name in NAMES:
        add(nodes, name, played(1, ("a", "random")))
    sync(nodes)
    options = FleetOptions(ratings=RatingOptions(anchors={"random": 500.0}))
    for name in NAMES:
        nodes.change(name, options=options)
    counts, _ = sync(nodes)
    assert (counts["rated"], counts["published"]) == (1, 1)
    assert agreed(nodes)
    assert EloBoard(nodes.redis).read()["hex8_2p"]["ranking"][0]["rating"] > 500


def test_a_node_that_is_configured_to_rate_otherwise_is_counted(nodes: Nodes) -> None:
    nodes.change("n1", options=FleetOptions(ratings=RatingOptions(anchors={"random": 500.0})))
    add(nodes, "n0", played(1, ("a", "random")))
    assert "other_rules" not in sync(nodes)[0]
    assert sync(nodes)[0]["other_rules"] == 1


def test_ratings_by_other_rules_are_published_whoever_has_made_them(nodes: Nodes) -> None:
    add(nodes, "n0", played(1, ("a", "random")))
    sync(nodes)
    options = FleetOptions(ratings=RatingOptions(anchors={"random": 500.0}))
    for name in NAMES:
        nodes.change(name, options=options)
        with matches(nodes[name].data / FILE) as found:  # as an import does, or a question of another node
            settle(found.db, Rules({"random": 500.0}))
    nodes.report()
    counts, _ = sync(nodes)
    assert (counts["rated"], counts["published"]) == (0, 1)
    assert EloBoard(nodes.redis).read()["hex8_2p"]["ranking"][0]["rating"] > 500


def test_rows_that_were_refused_are_told_once_with_their_reason(nodes: Nodes) -> None:
    with closing(write_original(nodes["n0"].data / FILE)) as db:
        row(db, participant_ids=["a", "a"], rankings=[1, 2])
    nodes.report()
    sync(nodes)
    sync(nodes)
    ((_, notice),) = nodes["n0"].notices.recent()
    assert (notice.title, notice.body) == ("Matches refused", "n0: 1 set aside so far: 1 x 'a' plays against itself")


def test_that_a_configuration_cannot_be_rated_is_told_once(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rating, "MOST_PARTICIPANTS", 1)
    add(nodes, "n0", played(1))
    counts, _ = sync(nodes)
    assert (counts["rated"], counts["published"]) == (1, 1)
    sync(nodes)
    bodies = [notice.body for _, notice in nodes["n0"].notices.recent() if notice.title == "Matches cannot be rated"]
    assert [body.partition(":")[0] for body in bodies] == ["hex8_2p"]


def sync_now(nodes: Nodes) -> float:
    seconds, micro = nodes.redis.time()
    return float(seconds + micro / 1e6)


def test_nodes_that_agree_cost_less_than_a_kilobyte_and_ask_each_other_nothing(nodes: Nodes) -> None:
    add(nodes, "n0", *map(played, range(300)))
    sync(nodes)
    del nodes.asked[:]
    sync(nodes)

    def traffic() -> int:
        stats = nodes.redis.info("stats")
        return int(stats["total_net_input_bytes"]) + int(stats["total_net_output_bytes"])

    tick = Tick(now=sync_now(nodes), deadline=sync_now(nodes) + 60)
    quiet = -traffic() + traffic()
    before = traffic()
    elo_sync(nodes["n0"], Options(), tick)
    assert traffic() - before - quiet < 1000
    assert nodes.asked == []
