"""Nodes as processes on this machine."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from fleet.providers import local as module
from fleet.providers.local import Local, LocalNode, LocalOptions
from fleet.providers.port import ProviderError
from tests.fleet.node_stage import lives
from tests.waiting import until

#: Says its environment, then obeys SIGTERM or not; it has a child in a session of its own, as a job is.
NODE = """
import json, os, signal, subprocess, sys
def note(_number, _frame):
    open(os.environ["BACKBEAT_DATA"] + "/terminated", "w").close()
    if sys.argv[1] != "stubborn":
        sys.exit(0)
signal.signal(signal.SIGTERM, note)
sleeper = [sys.executable, "-I", "-S", "-c", "import signal; signal.pause()"]
job = subprocess.Popen(sleeper, start_new_session=True).pid
said = {"argv": sys.argv[1:], "job": job, "cwd": os.getcwd(), "env": dict(os.environ)}
path = os.environ["BACKBEAT_DATA"] + "/said.json"
open(path + ".new", "w").write(json.dumps(said))
os.rename(path + ".new", path)
while True: signal.pause()
"""


def node_of(local, *, kind: str = "", stop_within: float = 5, environment=None) -> Local:
    code = ("{python}", "-I", "-S", "-c", NODE.replace("{", "{{").replace("}", "}}"))
    commands = {"agent": (*code, kind or "{name}", "{slots}", "{queues}")}
    options = LocalOptions(commands=commands, stop_within=stop_within, slots=3)
    return Local(local.folder, options, ("cpu", "gpu"), environment)


def said(local, name: str = "auto-1-1") -> dict:
    path = local.folder / name / "data" / "said.json"
    until(path.exists)
    return json.loads(path.read_text())


def test_a_node_is_told_who_it_is_and_what_the_agent_was_told(local):
    environment = {
        "BACKBEAT_REDIS_URL": "redis://:p@h/0",
        "BACKBEAT_DATA": "mine",
        "CELERY_BROKER_URL": "x",
        "PATH": "/p",
    }
    node_of(local, environment=environment).start(["auto-1-1"], "auto_scaling:1")
    found = said(local)
    assert found["argv"] == ["auto-1-1", "3", "jobs.cpu,jobs.gpu"]
    assert found["cwd"] == str(Path.cwd())  # as the agent: relative paths of the configuration hold
    env = found["env"]
    assert (env["BACKBEAT_NODE_ID"], env["BACKBEAT_REDIS_URL"], env["PATH"]) == ("auto-1-1", "redis://:p@h/0", "/p")
    assert env["BACKBEAT_DATA"] == str(local.folder / "auto-1-1" / "data")
    assert env["BACKBEAT_INSTANCES"] == str(local.folder)
    assert "CELERY_BROKER_URL" not in env
    assert json.loads((local.folder / "auto-1-1" / "instance.json").read_text())["key"] == "auto_scaling:1"


def test_its_processes_are_nobodys_children_here_and_lead_sessions_of_their_own(local):
    provider = local.provider()
    provider.start(["auto-1-1"], "auto_scaling:1")
    pids = [pid for node in provider.nodes for pid in node.pids]
    assert len(pids) == 2
    assert not {child.pid for child in psutil.Process().children(recursive=True)} & set(pids)
    assert [os.getsid(pid) for pid in pids] == pids


def test_a_node_of_which_a_process_died_has_ended_and_says_where_to_look(local):
    provider = local.provider()
    provider.start(["auto-1-1", "auto-1-2"], "auto_scaling:1")
    victim = LocalNode(local.folder / "auto-1-1").processes["jobs"]["pid"]
    os.kill(victim, signal.SIGKILL)
    until(lambda: not lives(victim))
    ended, whole = local.provider().instances()
    assert (ended.name, ended.state, whole.state) == ("auto-1-1", "ended", "running")
    assert ended.detail == f"jobs died; see {local.folder / 'auto-1-1' / 'logs'}"


def test_a_pid_that_somebody_else_has_by_now_is_not_taken_for_the_node(local):
    provider = local.provider()
    provider.start(["auto-1-1"], "auto_scaling:1")
    node = LocalNode(local.folder / "auto-1-1")
    mine = node.processes["jobs"]["pid"]
    other = psutil.Popen([sys.executable, "-c", "import signal; signal.pause()"], start_new_session=True)
    node.write(processes={**node.processes, "jobs": {"pid": other.pid, "create_time": other.create_time() - 60}})
    provider.stop(["auto-1-1"], "auto_scaling:2")
    assert lives(other.pid)
    assert not lives(mine)  # known by its environment
    other.kill()
    other.wait()


def test_a_stop_lets_it_drain_and_leaves_no_job_behind(local):
    provider = node_of(local)
    provider.start(["auto-1-1"], "auto_scaling:1")
    job = said(local)["job"]
    provider.stop(["auto-1-1"], "auto_scaling:2")
    assert (local.folder / "auto-1-1" / "data" / "terminated").exists()
    until(lambda: not lives(job))
    assert local.processes() == []


def test_one_that_does_not_end_is_killed(local):
    provider = node_of(local, kind="stubborn", stop_within=0.3)
    provider.start(["auto-1-1"], "auto_scaling:1")
    said(local)
    provider.stop(["auto-1-1"], "auto_scaling:2")
    until(lambda: not [each for each in local.processes() if each.status() != psutil.STATUS_ZOMBIE])
    assert provider.instances() == []


def test_the_folders_of_the_newest_ended_nodes_are_kept(local, monkeypatch):
    monkeypatch.setattr(module, "KEPT", 2)
    provider = local.provider()
    for number in range(1, 5):
        provider.start([f"auto-{number}-1"], "auto_scaling:1")
        os.utime(local.folder / f"auto-{number}-1", (number, number))
        if number < 4:
            LocalNode(local.folder / f"auto-{number}-1").kill("auto_scaling:2")
            os.utime(local.folder / f"auto-{number}-1", (number, number))
    stranger = local.folder / "pictures"
    stranger.mkdir()
    provider.start(["auto-5-1"], "auto_scaling:1")
    assert sorted(path.name for path in local.folder.iterdir()) == [
        "auto-2-1", "auto-3-1", "auto-4-1", "auto-5-1", "pictures",
    ]  # fmt: skip


def test_a_command_that_is_not_there_is_named_with_the_option(local):
    local.refuse()
    with pytest.raises(
        ProviderError, match=r"cannot run 'no-such-program': .*No such file.*auto_scaling.local.commands"
    ):
        local.provider().start(["auto-1-1"], "auto_scaling:1")


def test_a_folder_that_cannot_be_written_is_named(local, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ProviderError, match=r"no node can be kept in .*file/instances"):
        Local(tmp_path / "file" / "instances").start(["auto-1-1"], "auto_scaling:1")


def test_unknown_placeholders_are_refused_with_the_configuration():
    with pytest.raises(ValueError, match=r"there is no \{nome\}; there is \{name\}, \{python\}, \{queues\}, \{slots\}"):
        LocalOptions(commands={"agent": ("celery", "{nome}")})
    with pytest.raises(ValueError, match="the first word names what is executed"):
        LocalOptions(commands={"agent": ()})
