"""Nodes as containers: the real SDK against a small engine of the tests' own, and against a real one if there is one.

What the small engine does not show stands in `engine_stage`.
"""

from __future__ import annotations

import gc
import secrets
import shutil
import subprocess

import pytest

from fleet.providers.docker import Docker, DockerOptions
from fleet.providers.port import ProviderError, ProviderSilent
from tests.waiting import until


def test_a_node_is_a_container_for_each_process_with_one_volume_and_our_settings(docker):
    provider = docker.provider(
        environment={"EXTRA": "1", "BACKBEAT_CONFIG": "/etc/loops.yaml"},
        network="cluster",
        volumes=("/srv/store:/store:ro",),
        slots=4,
    )
    provider.start(["auto-1-1"], "auto_scaling:1")
    agent, jobs = docker.engine.containers.values()
    assert (agent.name, jobs.name) == ("auto-1-1-agent", "auto-1-1-jobs")
    assert agent.config["Cmd"][-2:] == ["-n", "agent@auto-1-1"]
    assert jobs.config["Cmd"][-6:] == ["-n", "jobs@auto-1-1", "-Q", "jobs.cpu,jobs.gpu", "-c", "4"]
    for container in (agent, jobs):
        config = container.config
        assert config["Labels"]["backbeat.node"] == "auto-1-1"
        assert config["Labels"]["backbeat.key"] == "auto_scaling:1"
        assert config["Image"] == "backbeat:test"
        assert config["HostConfig"]["Binds"] == ["auto-1-1:/data", "/srv/store:/store:ro"]
        assert config["HostConfig"]["NetworkMode"] == "cluster"
        assert sorted(config["Env"]) == [
            "BACKBEAT_CONFIG=/etc/loops.yaml",
            "BACKBEAT_DATA=/data",
            "BACKBEAT_NODE_ID=auto-1-1",
            "BACKBEAT_REDIS_URL=redis://:secret@redis:6379/0",
            "EXTRA=1",
        ]
    provider.stop(["auto-1-1"], "auto_scaling:2")
    assert (docker.engine.containers, docker.engine.volumes) == ({}, set())


def test_a_node_of_which_a_container_has_exited_has_ended(docker):
    provider = docker.provider()
    provider.start(["auto-1-1"], "auto_scaling:1")
    next(iter(docker.engine.containers.values())).state = "exited"
    (instance,) = provider.instances()
    assert (instance.state, instance.detail) == ("ended", "agent exited, jobs running")
    provider.stop(["auto-1-1"], "auto_scaling:2")
    assert provider.instances() == []


def test_a_container_that_ignores_sigterm_is_removed_in_the_end(docker):
    docker.engine.stubborn = True
    provider = docker.provider(stop_within=0.5)
    provider.start(["auto-1-1"], "auto_scaling:1")
    provider.stop(["auto-1-1"], "auto_scaling:2")
    assert provider.instances() == []
    assert docker.engine.requests.count("POST /containers/X/kill") == 2


def test_an_answer_that_is_lost_is_no_refusal_and_the_container_is_found_later(docker):
    docker.engine.fault = lambda _method, path: "lose" if path == "/containers/create" else ""
    with pytest.raises(ProviderSilent, match="does not answer"):
        docker.provider().start(["auto-1-1"], "auto_scaling:1")
    docker.heal()
    (instance,) = docker.provider().instances()
    assert (instance.name, instance.state, instance.detail) == ("auto-1-1", "ended", "agent created")


def test_an_image_that_is_not_there_is_named(docker):
    with pytest.raises(ProviderError, match="refuses: No such image: nobody:1"):
        docker.provider(image="nobody:1").start(["auto-1-1"], "auto_scaling:1")
    assert docker.provider().instances() == []


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the SDK leaves it to the collector to close its socket
def test_without_an_engine_the_error_says_where_it_was_looked_for(tmp_path):
    options = DockerOptions(image="backbeat:test", engine=f"unix://{tmp_path}/none.sock")
    with pytest.raises(ProviderError, match=r"none.sock.*see auto_scaling.docker.engine") as error:
        Docker(options).instances()
    del error
    gc.collect()


@pytest.mark.containers
def test_on_a_real_engine_a_node_starts_and_ends(lacking):
    """With any image that is there and has a shell; it downloads none."""
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "info"], capture_output=True, check=False).returncode
    ):
        lacking("no Docker engine answers here")
    listed = subprocess.run(
        ["docker", "images", "--format", "{{.Repository}}:{{.Tag}}", "--filter", "dangling=false"],
        capture_output=True, check=True, text=True,
    )  # fmt: skip
    if not (images := listed.stdout.split()):
        lacking("the Docker engine has no image")
    name = f"auto-{secrets.randbelow(10**9)}-1"
    sleep = ("sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done")
    commands = {"agent": sleep, "jobs": sleep}
    provider = Docker(DockerOptions(image=images[0], commands=commands, stop_within=10), environment={})
    try:
        provider.start([name], "auto_scaling:1")
        provider.start([name], "auto_scaling:1")
        until(lambda: [each.state for each in provider.instances() if each.name == name] == ["running"])
    finally:
        provider.stop([name], "auto_scaling:2")
    assert name not in {each.name for each in provider.instances()}
