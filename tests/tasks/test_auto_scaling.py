"""Scaling on a real server with the simulated provider: what is stored, marked, asked for and told, and when."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from fleet.fence import Fence, FenceRefused
from fleet.fleet import Fleet
from fleet.jobs import JobSpec
from fleet.providers.command import Command, CommandOptions
from fleet.providers.local import Local
from fleet.providers.port import Instance, ProviderError, ProviderSilent
from fleet.providers.simulated import Simulated
from fleet.scale_snapshot import LOOP, Awaited
from fleet.scale_state import SCALING, ScaleState
from fleet.store import Store
from tasks import auto_scaling as module
from tasks.auto_scaling import Options, auto_scaling, simulated
from tasks.loop import Tick

NOW = 1_800_000_000.0


class Cluster:
    """Two static nodes, a provider in memory, and a clock that the ticks move."""

    def __init__(self, fleet: Fleet, **options: Any) -> None:
        self.fleet = replace(fleet, node_id="node-1")
        self.options = Options.model_validate({"provider": "simulated", **options})
        self.now, self.seq = NOW, 0
        self.state = ScaleState(fleet.redis)

    @property
    def provider(self) -> Simulated:
        return simulated(self.options.simulated)

    def enqueue(self, number: int, capability: str = "cpu") -> list[str]:
        specs = [JobSpec(kind="selfplay", config="hex8_2p", capability=capability) for _ in range(number)]
        return self.fleet.jobs.enqueue(specs)

    def beat(self, node_id: str, **facts: Any) -> None:
        self.fleet.nodes.heartbeat(node_id, "jobs", {"capabilities": ["cpu"], "running": [], **facts}, now=self.now)

    def tick(self, after: float = 120.0, **more: Any) -> dict[str, float]:
        self.now += after
        self.seq += 1
        for node_id in ("node-1", "node-2"):
            self.beat(node_id)
        return dict(auto_scaling(self.fleet, self.options, Tick(now=self.now, seq=self.seq, **more)))

    def machines(self) -> list[str]:
        return sorted(instance.name for instance in self.provider.instances())

    def mark(self, name: str) -> Any:
        (node,) = (node for node in self.fleet.nodes.all() if node.node_id == name)
        return node.marks.get("drain")

    def notices(self) -> list[tuple[str, str]]:
        return [(notice.title, notice.body) for _, notice in reversed(self.fleet.notices.recent())]


@pytest.fixture
def cluster(fleet: Fleet) -> Iterator[Cluster]:
    simulated.cache_clear()
    yield Cluster(fleet)
    simulated.cache_clear()


def test_a_drained_node_stays_until_its_games_are_out_where_there_is_a_store(cluster: Cluster, tmp_path: Path) -> None:
    cluster.options = cluster.options.model_copy(update={"min_nodes": 0})
    cluster.state.pin(3)
    cluster.tick()
    (name,) = cluster.machines()
    cluster.tick()
    cluster.fleet.nodes.hold(name, {"games": {"new": {"hex5_2p": 7}}})
    cluster.state.pin(2)
    cluster.fleet = replace(cluster.fleet, store=Store(str(tmp_path / "store")))
    assert cluster.tick()["drained"] == 1
    assert (cluster.tick()["draining"], cluster.tick()["removed"]) == (1, 0)
    cluster.fleet.nodes.hold(name, {"games": {"new": {}}})
    assert cluster.tick()["removed"] == 1


def test_without_a_store_no_node_waits_for_its_games(cluster: Cluster) -> None:
    cluster.state.pin(3)
    cluster.tick()
    (name,) = cluster.machines()
    cluster.tick()
    cluster.fleet.nodes.hold(name, {"games": {"new": {"hex5_2p": 7}}})
    cluster.state.pin(2)
    assert cluster.tick()["drained"] == 1
    assert cluster.tick()["removed"] == 1


def test_from_pending_jobs_to_more_nodes_and_back(cluster: Cluster) -> None:
    jobs = cluster.enqueue(50)
    assert cluster.tick() == {
        "pending": 50, "nodes": 2, "wanted": 5, "coming": 0, "draining": 0,
        "started": 3, "drained": 0, "undrained": 0, "removed": 0,
    }  # fmt: skip
    assert cluster.machines() == ["auto-1-1", "auto-1-2", "auto-1-3"]
    counts = cluster.tick(30)
    assert (counts["nodes"], counts["coming"], counts["started"]) == (5, 3, 0)
    counts = cluster.tick()
    assert (counts["nodes"], counts["coming"]) == (5, 0)
    assert {node.node_id for node in cluster.fleet.nodes.all() if node.is_live(cluster.now)} >= set(cluster.machines())

    for job_id in jobs:
        cluster.fleet.jobs.cancel(job_id, "not needed")
    idle = {"idle": {"since": cluster.now, "at": cluster.now, "why": "no job"}}
    cluster.fleet.nodes.mark(dict.fromkeys(cluster.machines(), idle))
    cluster.tick()
    assert cluster.tick(300)["drained"] == 0  # the last scale-up is too recent
    counts = cluster.tick(200)
    assert (counts["drained"], counts["removed"]) == (2, 0)
    assert cluster.mark("auto-1-1") == {"reason": "not needed any more", "at": cluster.now, "by": LOOP}
    assert cluster.tick()["removed"] == 2
    assert cluster.machines() == ["auto-1-3"]
    assert cluster.tick()["nodes"] == 3
    assert {node.node_id for node in cluster.fleet.nodes.all()} == {"node-1", "node-2", "auto-1-3"}
    started, removed = cluster.notices()
    assert started[0] == "Scaled up"
    assert started[1].startswith("auto-1-1, auto-1-2, auto-1-3: jobs pending: 50, nodes: 2; 3 started")
    assert (removed[0], removed[1].partition(":")[0]) == ("Scaled down", "auto-1-1, auto-1-2")


def test_the_intent_is_stored_before_the_provider_hears_of_it(cluster: Cluster, monkeypatch: Any) -> None:
    class Killed(BaseException):
        """The process dies at this moment."""

    def die(names: Any, key: str) -> None:
        assert key == "auto_scaling:1"
        assert cluster.state.read().awaited.keys() == set(names) == {"auto-1-1", "auto-1-2", "auto-1-3"}
        raise Killed

    cluster.enqueue(50)
    monkeypatch.setattr(cluster.provider, "start", die)
    with pytest.raises(Killed):
        cluster.tick()
    monkeypatch.undo()
    # the next leader counts them, wherever the first one died
    assert cluster.tick()["started"] == 0
    assert cluster.tick()["coming"] == 3


@pytest.mark.parametrize("fault", ["lost", "half"])
def test_after_a_reply_that_was_lost_or_a_failure_half_way_the_list_tells(cluster: Cluster, fault: Any) -> None:
    cluster.enqueue(40)
    cluster.provider.faults = lambda call: fault if call == "start" else ""
    with pytest.raises(ProviderError, match="start auto_scaling:1"):
        cluster.tick()
    cluster.provider.faults = lambda _call: ""
    left = len(cluster.machines())
    counts = cluster.tick()
    assert (counts["started"], counts["nodes"]) == (0, 2 + left)
    assert cluster.state.read().awaited.keys() <= set(cluster.machines())


def test_a_refusal_fails_the_run_is_told_and_makes_the_next_one_wait(cluster: Cluster) -> None:
    cluster.enqueue(50)
    cluster.provider.faults = lambda call: "refuses" if call == "start" else ""
    with pytest.raises(ProviderError, match="refuses: start"):
        cluster.tick()
    assert cluster.notices() == [("Scaling failed", "the simulated provider refuses: start")]
    scaling = cluster.state.read()
    assert (scaling.failures, scaling.failed_at, scaling.awaited) == (1, cluster.now, {})
    cluster.provider.faults = lambda _call: ""
    assert cluster.tick(179)["started"] == 0
    assert "failures in a row: 1" in cluster.state.read().reason
    assert cluster.tick(600)["started"] == 3


def test_a_list_that_fails_changes_nothing(cluster: Cluster) -> None:
    cluster.enqueue(50)
    cluster.provider.faults = lambda call: "hangs"
    with pytest.raises(ProviderSilent):
        cluster.tick()
    assert not cluster.fleet.redis.exists(SCALING)


def test_an_instance_that_never_joins_is_removed_and_told(cluster: Cluster) -> None:
    cluster.enqueue(25)
    cluster.provider.faults = lambda call: "deaf" if call == "start" else ""
    cluster.tick()
    assert cluster.tick(899)["removed"] == 0
    with pytest.raises(ProviderError, match="auto-1-1 did not join in time"):
        cluster.tick(2)
    assert cluster.machines() == []
    assert "Scaling failed" in [title for title, _ in cluster.notices()]


def test_a_deposed_leader_stores_marks_and_starts_nothing(cluster: Cluster) -> None:
    cluster.enqueue(50)
    guard = "{backbeat}:leader:guard"
    cluster.fleet.redis.hset(guard, mapping={"fence": 8, "owner": "the new leader"})
    deposed = Fence(leader=7, owner="the old leader", run="", guard_key=guard, loop_key="")
    with pytest.raises(FenceRefused):
        cluster.tick(fence=deposed)
    assert cluster.machines() == []
    assert not cluster.fleet.redis.exists(SCALING)


def test_only_jobs_that_its_nodes_could_run_count(cluster: Cluster) -> None:
    cluster.enqueue(50, "gpu")
    assert cluster.tick()["pending"] == 0
    cluster.options = replace_options(cluster.options, capabilities=("cpu", "gpu"))
    assert cluster.tick()["pending"] == 50


def replace_options(options: Options, **changes: Any) -> Options:
    return Options.model_validate(options.model_dump() | changes)


def test_instances_with_names_of_others_are_not_touched(cluster: Cluster) -> None:
    cluster.provider.faults = lambda call: "deaf" if call == "start" else ""
    cluster.provider.start(["auto", "other-1-1", "autos-1-1"], "somebody")
    for _ in range(3):
        assert cluster.tick(10_000)["removed"] == 0
    assert cluster.machines() == ["auto", "autos-1-1", "other-1-1"]


def test_without_a_provider_it_says_what_is_wanted(cluster: Cluster) -> None:
    cluster.options = Options()
    cluster.enqueue(50)
    counts = cluster.tick()
    assert (counts["wanted"], counts["started"]) == (5, 0)
    assert cluster.state.read().wanted == 5
    assert cluster.notices() == []


def test_a_pinned_number_is_kept_by_the_loop_and_given_back_by_the_operator(cluster: Cluster) -> None:
    cluster.state.pin(4)
    assert cluster.tick()["wanted"] == 4
    assert cluster.state.read().pinned == 4
    cluster.state.pin(None)
    assert cluster.tick()["wanted"] == 4  # nothing is idle
    assert cluster.state.read().pinned is None
    for wrong in (-1, True, 2.0, "3"):
        with pytest.raises(ValueError, match="is no number of nodes"):
            cluster.state.pin(wrong)  # type: ignore[arg-type]


def test_what_is_stored_is_what_is_read(cluster: Cluster) -> None:
    assert cluster.state.read().decided_at == 0
    scaling = replace(
        cluster.state.read(),
        last_up_at=NOW,
        failures=2,
        awaited={"auto-1-1": Awaited(NOW), "auto-1-2": Awaited(NOW + 0.5, counted=True)},
        window=((NOW, 5), (NOW + 1, 2)),
        reason="50 jobs pending",
    )
    cluster.state.write(scaling)
    assert cluster.state.read() == scaling
    for field, wrong in (("window", "7"), ("awaited", "[[1]]"), ("failures", '"many"'), ("pinned", "garbage")):
        cluster.fleet.redis.hset(SCALING, field, wrong)
        with pytest.raises(ValueError, match=f"is malformed: {field} is .*; to begin anew with it: HDEL .* {field}"):
            cluster.state.read()
        cluster.fleet.redis.hdel(SCALING, field)


def test_local_nodes_are_kept_where_the_environment_says(cluster: Cluster, tmp_path: Path, monkeypatch: Any) -> None:
    options = Options(provider="local")
    monkeypatch.delenv("BACKBEAT_INSTANCES", raising=False)
    local = module._provider(cluster.fleet, options)
    assert isinstance(local, Local)
    assert local.folder == tmp_path / "instances"
    monkeypatch.setenv("BACKBEAT_INSTANCES", str(tmp_path / "elsewhere"))
    local = module._provider(cluster.fleet, options)
    assert isinstance(local, Local)
    assert local.folder == tmp_path / "elsewhere"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"min_nodes": 5, "max_nodes": 4}, r"max_nodes \(4\) is below min_nodes \(5\)"),
        ({"scale_down_threshold": 10}, r"scale_down_threshold \(10\) must be below scale_up_threshold \(10\)"),
        ({"provider": "docker"}, "provider docker needs docker.image"),
        (
            {"provider": "command", "command": {"up": ["x", "{name}"]}},
            "needs command.up, command.down and command.list",
        ),
        ({"provider": "local", "max_hourly_cost": 2.0}, "provider local tells no cost; give cost_per_hour"),
        ({"provider": "aws"}, "Input should be 'none', 'local', 'docker', 'command' or 'simulated'"),
        ({"capabilities": []}, "at least 1 item"),
        ({"name_prefix": "Auto"}, "should match pattern"),
        ({"drain_for": "soon"}, "'soon' is not a duration"),
        ({"local": {"slot": 2}}, "Extra inputs are not permitted"),
    ],
)
def test_a_mistake_in_the_options_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Options.model_validate(given)


def test_the_examples_of_providers_are_stanzas() -> None:
    page = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text()
    examples = [yaml.safe_load(block)["auto_scaling"] for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    for example in examples:
        del example["interval"]
    assert [Options.model_validate(example).provider for example in examples] == ["docker", "command", "command"]
    (listing,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    provider = Command(CommandOptions(list=("printf", "%s", listing.replace("{", "{{").replace("}", "}}"))))
    assert provider.instances() == [Instance("auto-17-1", "running", 0.31, "running")]


def test_it_is_declared_for_the_leader_only() -> None:
    assert auto_scaling.name == LOOP
    assert auto_scaling.leader_only
    assert "Idempotent" in (auto_scaling.body.__doc__ or "")
