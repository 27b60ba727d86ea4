"""What stands in the registry was written by other machines, perhaps by another version: it is read with care."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis

from fleet import health, idleness, reachability, reaping
from fleet.meter import Meter
from fleet.model_plan import NodeModels, plan
from fleet.node_record import _read_parts, read_object
from fleet.nodes import NODE, NODES, ROLES, NodeRegistry, decode_nodes, read_arguments
from fleet.probing import Answer
from fleet.scale_snapshot import Member
from tasks.health_aggregation import Options as HealthOptions
from tasks.idle_detection import Options as IdleOptions
from tasks.ip_discovery import Options as AddressOptions
from tasks.job_reaper import Options as ReaperOptions
from tasks.model_sync import Options as SyncOptions
from tests.fleet.model_stage import models
from workers.presence import identity

NOW = 1_800_000_000.0
LAST = str(NOW * 1000)
NAMES = (
    *("host", "pid", "slots", "capabilities", "running", "last_job_at", "version", "clock_offset", "addresses"),
    *("metrics", "tailnet", "status", "since", "at", "reasons", "silent", "over", "why", "by", "reason"),
)
METRICS = ("cpu", "memory", "memory_total", "disk", "disk_free", "cores", "load", "gpus")
GPU = ("utilization", "memory", "memory_total", "name")

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 10**13)
    | st.just(10**400)
    | st.floats()
    | st.sampled_from(["", "lost", "healthy", "n1"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["utilization", "disk", "x"]), inner, max_size=3)
    ),
    max_leaves=5,
)
records = st.dictionaries(st.sampled_from(NAMES), anything) | st.fixed_dictionaries(
    {"metrics": st.dictionaries(st.sampled_from(METRICS), anything)}
)
places = st.sampled_from(["10.0.0.7", "nowhere"]) | st.none() | anything
changes = st.fixed_dictionaries({}, optional={"at": st.just(NOW) | anything, "from": places, "to": places})
addresses = st.fixed_dictionaries(
    {},
    optional={
        "address": places,
        "source": st.just("lan") | anything,
        "since": st.just(NOW) | anything,
        "failures": st.integers(-1, 3) | anything,
        "changes": st.lists(changes, max_size=3) | anything,
        "checked_at": st.just(NOW) | anything,
    },
)
given_up = st.fixed_dictionaries({"gave_up_at": st.just(NOW) | anything})
tried = st.tuples(st.just(NOW), st.integers(-1, 3)).map(list) | anything
model_marks = st.fixed_dictionaries(
    {}, optional={"tries": st.dictionaries(st.text(), tried) | anything, "silent": tried}
)
model_holdings = st.fixed_dictionaries(
    {},
    optional={
        "hex5_2p": st.fixed_dictionaries({"versions": st.lists(anything), "promoted": anything}) | anything,
        "unpublished": anything,
    },
)
unreadable = ["", "garbage", "[", "null", '{"new": ' + "9" * 5000 + "}"]
texts = st.sampled_from(unreadable) | (records | anything).map(json.dumps)
instants = st.none() | st.sampled_from(["", "x", "nan", str(NOW * 1000), str(NOW * 1000 - 60_000)])


def values(said: dict[str, Any]) -> list[Any]:
    return [said.get(name) for name in read_arguments(history=True)[3:]]


def is_the_same_read_whole_or_part_by_part(text: str, name: str) -> None:
    told: list[list[str]] = [[], []]
    whole, parts = (read(text, name, each) for read, each in zip((read_object, _read_parts), told, strict=True))
    first, second = (json.dumps(each, sort_keys=True) for each in (whole, parts))
    assert first == second  # as texts, for a number that is none is not equal to itself
    assert told[0] == told[1]


@given(text=texts, name=st.sampled_from([*ROLES, "health", "idle", "drain"]))
def test_a_record_that_is_sound_as_a_whole_is_what_it_is_part_by_part(text: str, name: str) -> None:
    is_the_same_read_whole_or_part_by_part(text, name)


VALUES = (None, True, "", "lost", -1, 2, 1.5, math.nan, math.inf, 10**400, [], [1], ["a"], {}, {"a": 1}, {"a": ["b"]})


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:10])
def test_each_part_is_sound_in_a_whole_when_it_is_sound_by_itself(value: Any) -> None:
    for said in (
        *({name: value} for name in NAMES),
        *({"metrics": {name: value}} for name in METRICS),
        *({"metrics": {"gpus": [{name: value}]}} for name in GPU),
    ):
        is_the_same_read_whole_or_part_by_part(json.dumps(said), "agent")


@given(
    said=st.fixed_dictionaries(
        dict.fromkeys((*ROLES, "health", "idle", "drain", "history"), texts)
        | {"address": texts | addresses.map(json.dumps), "tailnet": texts | given_up.map(json.dumps)}
        | {"models": texts | model_marks.map(json.dumps), "held:models": texts | model_holdings.map(json.dumps)}
        | {f"{role}:at": instants for role in ROLES}
    )
)
def test_whatever_one_node_says_the_loops_go_on_with_the_others(said: dict[str, Any]) -> None:
    fine = {"agent": '{"host": "h", "metrics": {"cpu": 1.0}}', "agent:at": str(NOW * 1000)}
    nodes = decode_nodes(([*("evil", LAST), *("fine", LAST)], [values(said), values(fine)]), history=True)
    judged = health.decide(nodes, HealthOptions(), NOW)
    assert judged.changes["fine"]["health"]["status"] == "healthy"
    for each in judged.changes.values():
        json.dumps(each, allow_nan=False)
    idleness.decide(nodes, IdleOptions(), NOW)
    reaping.gone(nodes, ["evil", "fine"], ReaperOptions(), NOW)
    reaping.idle_slots(nodes, NOW)
    where = AddressOptions()
    able = [replace(each, roles={"agent": {"probe": {"port": 7, "key": "k"}}}) for each in nodes]
    assert {each.node_id for each in reachability.due(able, where, NOW)} == {"evil", "fine"}
    options = {each.node_id: reachability.candidates(each, ["10.0.0.8"], None, where) for each in able}
    answers = {"10.0.0.8": Answer("answered")}
    found = {node_id: (each, answers) for node_id, each in options.items()}
    moved = reachability.decide(able, found, where, NOW).changes
    assert moved["fine"]["address"]["address"] == "10.0.0.8"
    json.dumps(moved["evil"], allow_nan=False)
    known = [NodeModels.read(each.node_id, each.held.get("models", {}), each.marks.get("models", {})) for each in nodes]
    transfers = plan(known, [models(2, 1)], SyncOptions(), NOW, lambda _: 60.0).transfers
    assert {each.version.version for each in transfers if each.node_id == "fine"} == set(models(2).by_name)
    json.dumps([each.mark() for each in known], allow_nan=False)
    for node in nodes:
        Member.of(node, ["cpu"], NOW)
        json.dumps(node.document(NOW))


@pytest.mark.parametrize(
    ("fields", "unread"),
    [
        ({"address": '{"address": null, "since": null, "reachable": false}', "tailnet": '{"since": null}'}, []),
        ({"address": '{"address": "10.0.0.7", "failures": 0, "reachable": true}'}, ["address"]),
        ({"agent": "garbage", "agent:at": "1"}, ["agent"]),
        ({"agent": "{}"}, ["agent:at"]),
        ({"agent": '{"metrics": 5}', "agent:at": "1"}, ["agent.metrics"]),
        ({"agent": '{"metrics": {"cpu": "hot", "disk": 5}}', "agent:at": "1"}, ["agent.metrics.cpu"]),
        ({"jobs": '{"running": 5, "slots": "a"}', "jobs:at": "1"}, ["jobs.slots", "jobs.running"]),
        ({"health": '{"status": "odd", "since": "noon"}'}, ["health.since", "health.status"]),
    ],
)
def test_what_cannot_be_read_is_left_out_and_named(redis: Redis, fields: dict[str, str], unread: list[str]) -> None:
    redis.zadd(NODES, {"n1": 1000})
    redis.hset(NODE + "n1", mapping=dict(fields))
    [node] = NodeRegistry(redis).all()
    assert node.unread == tuple(unread)
    assert node.document(1.0)["reasons"] == [f"the registry holds no sound {part} of it" for part in unread]
    assert node.metrics.get("disk", 5) == 5


def test_what_this_version_says_is_read(redis: Redis, tmp_path: Path) -> None:
    registry = NodeRegistry(redis)
    said = {**identity(), "version": "0.1.0", "since": NOW, "clock_offset": 0.0, **Meter(tmp_path).measure()}
    registry.heartbeat("n1", "agent", said)
    registry.heartbeat("n1", "jobs", {**identity(), "slots": 1, "capabilities": ["cpu"], "running": ["j1"]})
    marks = {"health": health.decide(registry.all(), HealthOptions(), NOW).changes["n1"]["health"]}
    marks |= {"idle": {"since": NOW, "at": NOW, "why": "no job"}, "drain": {"at": NOW, "by": "me", "reason": ""}}
    registry.mark({"n1": marks})
    [node] = registry.all()
    assert (node.unread, set(node.marks)) == ((), set(marks))


def test_a_history_that_cannot_be_read_is_none(redis: Redis) -> None:
    redis.hset(NODE + "n1", "history", "garbage")
    assert list(NodeRegistry(redis).history("n1")) == []
    assert list(NodeRegistry(redis).history("n2")) == []
