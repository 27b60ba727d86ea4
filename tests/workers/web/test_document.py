"""What is written of a node once and kept is what would be written of it now."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from fleet.nodes import HELD, MARKS, NODE, NODES, ROLES, NodeRegistry
from tests.waiting import until
from workers.ledger import Ledger
from workers.status import read_status
from workers.web import document
from workers.web.document import StatusDocument

AGENT = {
    "host": "h", "pid": 7, "version": "1", "since": 1.5, "clock_offset": 0.01, "addresses": {"lan": ["10.0.0.7"]},
    "metrics": {"cpu": 12.5, "gpus": [{"name": "H100 \u00fc", "memory": 80}], "new": {"a": [1]}},
}  # fmt: skip
JOBS = {"host": "other", "pid": 8, "version": "2", "slots": 2, "running": ["j1"], "capabilities": ["cpu"]}
TEXTS = (
    '{"pid": 1, "new": ' + "9" * 5000 + "}",
    json.dumps(AGENT),
    json.dumps(AGENT | {"metrics": {}}),
    "",
    "garbage",
    "[" * 500,
    '{"metrics": {"cpu": "hot"}}',
    '{"metrics": {"new": ' + "[" * 300 + "]" * 300 + "}}",
)

WRITTEN = (*ROLES, "agent:at", "jobs:at", "health")

nodes = st.just("n1") | st.sampled_from(["n1", "n2"])
roles = st.sampled_from(ROLES)
others: dict[str, Any] = {
    "host": "moved", "pid": 9, "version": "3", "clock_offset": None, "addresses": {"tailnet": ["100.64.0.7"]},
    "metrics": {"cpu": 99}, "tailnet": {"ip": "100.64.0.7"}, "slots": 3, "running": [], "unheard_of": {"x": 1},
}  # fmt: skip
CHANGES: list[Callable[[dict[str, Any]], dict[str, Any]]] = [
    lambda said: said,
    *(partial(lambda name, said: said | {name: others[name]}, name) for name in others),
    *(partial(lambda name, said: {key: said[key] for key in said if key != name}, name) for name in {**AGENT, **JOBS}),
]
marks = st.none() | st.sampled_from(
    [{"status": "suspect", "since": 1.0, "at": 2.0, "reasons": ["why"]}, {"since": 5.0}, {"address": "10.0.0.7"}]
)
steps = st.one_of(
    st.tuples(st.just("heartbeat"), nodes, roles, st.sampled_from(CHANGES)),
    st.tuples(st.just("leave"), nodes, roles),
    st.tuples(st.just("mark"), nodes, st.sampled_from(MARKS), marks),
    st.tuples(st.just("hold"), nodes, st.sampled_from(HELD), st.sampled_from([{"count": 1}, {"count": 2}])),
    st.tuples(st.just("forget"), nodes),
    st.tuples(st.just("write"), nodes, st.sampled_from(WRITTEN), st.sampled_from(TEXTS)),
)  # fmt: skip


def carry_out(registry: NodeRegistry, redis: Redis, step: tuple[Any, ...]) -> None:
    match step:
        case "heartbeat", node, role, changed:
            registry.heartbeat(node, role, changed(AGENT if role == "agent" else JOBS))
        case "leave", node, role:
            registry.leave(node, role)
        case "mark", node, mark, value:
            registry.mark({node: {mark: value}})
        case "hold", node, part, value:
            registry.hold(node, {part: value})
        case "forget", node:
            registry.mark({}, forget=[node])
        case "write", node, name, text:
            if redis.zscore(NODES, node):
                redis.hset(NODE + node, name, text)
                redis.hdel(NODE + node, "changed")


def read_later(kept: StatusDocument, registry: NodeRegistry, ledger: Ledger) -> Any:
    """What stands in it of nodes once the instant of the last change is over: what changes within it is read again."""
    changed = max(int(registry._redis.hget(NODE + node.node_id, "changed")) for node in registry.all())
    until(lambda: read_status(ledger)["now"] * 1000 > changed, 5)
    return json.loads(kept.read())


def check(kept: StatusDocument, ledger: Ledger) -> None:
    ours, theirs = json.loads(kept.read()), json.loads(json.dumps(read_status(ledger)))
    assert ours.pop("now") <= theirs.pop("now")
    assert ours == theirs


@settings(suppress_health_check=list(HealthCheck), max_examples=200)
@given(walk=st.lists(steps, max_size=20))
def test_the_document_is_that_of_the_command_line_after_every_step(
    walk: list[Any], redis: Redis, registry: NodeRegistry, timetable: Ledger
) -> None:
    redis.flushdb()
    kept = StatusDocument(timetable)
    for step in walk:
        carry_out(registry, redis, step)
        check(kept, timetable)


@pytest.mark.parametrize(("role", "said"), [("agent", AGENT), ("jobs", JOBS)])
def test_whatever_a_process_says_otherwise_is_in_the_document(
    role: str, said: dict[str, Any], redis: Redis, registry: NodeRegistry, timetable: Ledger
) -> None:
    kept = StatusDocument(timetable)
    registry.heartbeat("n1", "jobs", JOBS)
    for change in CHANGES:
        for spoken in (said, change(said)):
            registry.heartbeat("n1", role, spoken)
            check(kept, timetable)


def test_what_an_agent_says_of_which_it_is_unknown_when_is_not_in_the_document(
    redis: Redis, registry: NodeRegistry, timetable: Ledger
) -> None:
    kept = StatusDocument(timetable)
    registry.heartbeat("n1", "agent", AGENT)
    redis.hset(NODE + "n1", "agent:at", "noon")
    for said in (AGENT, AGENT | {"metrics": {"cpu": 1.0}}):
        redis.hset(NODE + "n1", "agent", json.dumps(said))
        check(kept, timetable)


def test_a_node_is_written_anew_only_for_what_is_new(
    redis: Redis, registry: NodeRegistry, timetable: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    of = document._Written.of
    monkeypatch.setattr(document._Written, "of", lambda *row: written.append(row[0]) or of(*row))
    kept = StatusDocument(timetable)
    registry.heartbeat("n1", "agent", AGENT)
    registry.heartbeat("n1", "jobs", JOBS)
    registry.heartbeat("n2", "agent", AGENT)
    read_later(kept, registry, timetable)
    assert written == ["n1", "n2"]
    registry.heartbeat("n1", "jobs", JOBS)
    registry.heartbeat("n1", "agent", {**AGENT, "metrics": {"cpu": 99}})
    assert json.loads(kept.read())["nodes"][0]["metrics"] == {"cpu": 99}
    assert written == ["n1", "n2"]
    registry.heartbeat("n1", "jobs", {**JOBS, "running": []})
    read_later(kept, registry, timetable)
    assert written == ["n1", "n2", "n1"]


def test_marks_are_read_again_only_when_a_node_was_marked_and_then_all_of_them(
    redis: Redis, registry: NodeRegistry, timetable: Ledger
) -> None:
    kept = StatusDocument(timetable)
    registry.heartbeat("n1", "agent", AGENT)
    registry.mark({"n1": {"drain": {"at": 1.0, "reason": "repair"}, "idle": {"since": 2.0}}})
    first = read_later(kept, registry, timetable)
    redis.hset(NODE + "n1", "drain", "unread")
    assert json.loads(kept.read())["nodes"] == first["nodes"]
    registry.mark({"n1": {"idle": None}})
    assert json.loads(kept.read())["nodes"][0]["idle_since"] is None
    registry.mark({"n1": {"drain": {"at": 3.0, "reason": "again"}}})
    assert json.loads(kept.read())["nodes"][0]["draining"] == {"at": 3.0, "reason": "again"}


def test_what_a_process_of_another_version_changed_without_a_word_is_read_once_all_is(
    redis: Redis, registry: NodeRegistry, timetable: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = StatusDocument(timetable)
    registry.heartbeat("n1", "jobs", JOBS)
    read_later(kept, registry, timetable)
    redis.hset(NODE + "n1", "jobs", json.dumps(JOBS | {"slots": 7}))
    assert json.loads(kept.read())["nodes"][0]["slots"] == 2
    monkeypatch.setattr(document, "WHOLE_EVERY", 0.0)
    check(kept, timetable)


def test_an_answer_that_is_older_than_the_last_one_is_asked_for_again(
    redis: Redis, registry: NodeRegistry, timetable: Ledger
) -> None:
    kept = StatusDocument(timetable)
    registry.heartbeat("n1", "agent", AGENT)
    kept.read()
    older = timetable.read(since=kept._since)
    until(lambda: json.loads(kept.read())["now"] * 1000 > int(older[0]), 5)
    with pytest.raises(document._Unknown):
        kept._document(older)
    kept._document(older, whole=True)  # read in full: the server's clock went back


def test_what_was_marked_by_a_clock_that_went_back_is_read(
    redis: Redis, registry: NodeRegistry, timetable: Ledger
) -> None:
    kept = StatusDocument(timetable)
    registry.heartbeat("n1", "agent", AGENT)
    registry.mark({"n1": {"idle": {"since": 1.0}}})
    kept.read()
    registry.mark({"n1": {"idle": {"since": 2.0}}})
    redis.hset(NODE + "n1", "changed", "1000")
    check(kept, timetable)
    registry.heartbeat("n2", "agent", AGENT)
    registry.mark({"n2": {"idle": {"since": 3.0}}})
    redis.hset(NODE + "n2", "changed", "1000")
    check(kept, timetable)


def test_what_is_no_json_does_not_get_into_the_document(
    redis: Redis, registry: NodeRegistry, timetable: Ledger
) -> None:
    registry.heartbeat("n1", "agent", {**AGENT, "metrics": {"cpu": float("nan"), "odd": float("inf")}})
    read = json.loads(StatusDocument(timetable).read(), parse_constant=pytest.fail)
    assert read["nodes"][0]["metrics"] == {"odd": None}
    assert read["nodes"][0]["reasons"] == ["the registry holds no sound agent.metrics.cpu of it"]
