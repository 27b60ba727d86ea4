"""One process for each role of a node: who may start, who must wait, who must go."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import psutil
import pytest
from celery.exceptions import WorkerShutdown
from celery.signals import worker_shutting_down
from celery.worker import state
from redis import Redis

from fleet.nodes import HEARTBEAT, SILENT_AFTER, Node, NodeRegistry, NodeTaken
from tests.waiting import until
from workers.presence import Presence, Reporter, identity, is_gone
from workers.settings import connect


class Says(Reporter):
    """Facts and history of the test, and what the heartbeats brought back."""

    def __init__(self, **facts: Any) -> None:
        self.said: dict[str, Any] = facts
        self.rows: list[list[float | None]] | None = None
        self.heard_at: list[float] = []

    def facts(self) -> Mapping[str, Any]:
        return self.said

    def history(self) -> list[list[float | None]] | None:
        return self.rows

    def heard(self, at: float) -> None:
        self.heard_at.append(at)


@pytest.fixture(autouse=True)
def _no_shutdown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "should_stop", None)


@pytest.fixture
def nodes(redis: Redis, session_server: Any) -> Iterator[NodeRegistry]:
    client = connect(session_server.url)
    yield NodeRegistry(client)
    client.close()


@pytest.fixture
def appear(nodes: NodeRegistry) -> Iterator[Callable[..., Presence]]:
    """A process of the node n1; all end with the test."""
    made: list[Presence] = []

    def make(reporter: Reporter | None = None, **more: Any) -> Presence:
        made.append(Presence(nodes, "n1", "agent", reporter or Reporter(), **more))
        return made[-1]

    yield make
    for presence in made:
        presence.leave()


def node(nodes: NodeRegistry) -> Node:
    (found,) = nodes.all()
    return found


def server_time(nodes: NodeRegistry) -> float:
    """Redis time, as a heartbeat of another role tells it."""
    return nodes.heartbeat("n1", "jobs", {})


def a_dead_process(*, reaped: bool = True) -> dict[str, Any]:
    """What a process of this machine reported that has ended since; not reaped, it is a zombie."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        created = psutil.Process(child.pid).create_time() - psutil.boot_time()
        facts = {**identity(), "pid": child.pid, "created": created}
        assert not is_gone(facts)
        child.kill()
        if reaped:
            child.wait()
        else:
            until(lambda: psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE)
            assert is_gone(facts)
    return facts


# taking a role -------------------------------------------------------------------------------------------


def test_a_process_reports_who_it_is(nodes: NodeRegistry, appear: Callable[..., Presence]) -> None:
    says = Says(slots=3)
    presence = appear(says)
    presence.take()
    facts = node(nodes).roles["agent"]
    assert {**identity(), "slots": 3}.items() <= facts.items()
    assert facts["pid"] == psutil.Process().pid
    assert says.heard_at == [node(nodes).heard["agent"]]


def test_while_another_process_lives_nobody_else_takes_its_role(
    nodes: NodeRegistry, appear: Callable[..., Presence], caplog: pytest.LogCaptureFixture
) -> None:
    holder, second = appear(Says(name="holder")), appear(Says(name="second"))
    holder.take()
    ended: list[int] = []

    def start() -> None:
        with pytest.raises(WorkerShutdown) as shutdown:
            second.take()
        ended.append(shutdown.value.code)

    thread = threading.Thread(target=start)
    thread.start()
    until(lambda: "waiting until it falls silent" in caplog.text)
    assert thread.is_alive()
    holder.take()  # its next heartbeat
    thread.join(20)
    assert ended == [1]
    (critical,) = [record.getMessage() for record in caplog.records if record.levelno == logging.CRITICAL]
    me = identity()
    assert f"the role agent of node n1 is taken by pid {me['pid']} on {me['host']}, heard " in critical
    assert "BACKBEAT_NODE_ID" in critical
    # and the holder's entry is as it was, also when the refused process ends
    second.leave()
    assert node(nodes).roles["agent"]["name"] == "holder"


@pytest.mark.parametrize("reaped", [True, False], ids=["gone", "zombie"])
def test_who_died_on_this_machine_is_followed_at_once(
    nodes: NodeRegistry, appear: Callable[..., Presence], reaped: bool
) -> None:
    facts = a_dead_process(reaped=reaped)
    heard_at = nodes.heartbeat("n1", "agent", facts, owner="dead")
    appear().take()
    assert node(nodes).roles["agent"]["pid"] == identity()["pid"]
    assert node(nodes).heard["agent"] - heard_at < SILENT_AFTER


def test_a_pid_that_another_process_has_by_now_is_followed_at_once(
    nodes: NodeRegistry, appear: Callable[..., Presence]
) -> None:
    me = identity()
    heard_at = nodes.heartbeat("n1", "agent", {**me, "created": me["created"] - 100}, owner="dead")
    appear().take()
    assert node(nodes).heard["agent"] - heard_at < SILENT_AFTER


@pytest.mark.parametrize(
    "changes",
    [{"boot": "another machine of the same name"}, {"created": None}, {"pid": "7"}, {"pid": None}],
    ids=str,
)
def test_nobody_is_taken_for_dead_who_cannot_be_seen(changes: dict[str, Any]) -> None:
    assert not is_gone({**a_dead_process(), **changes})


def test_who_is_of_another_machine_is_followed_when_it_was_silent_for_long(
    nodes: NodeRegistry, appear: Callable[..., Presence], caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere = {"host": "elsewhere", "pid": 7, "boot": "another", "created": 3.0}
    heard_at = server_time(nodes) - SILENT_AFTER + 0.8
    nodes.heartbeat("n1", "agent", elsewhere, owner="silent", now=heard_at)
    appear().take()
    assert "pid 7 on elsewhere" in caplog.text
    assert node(nodes).heard["agent"] >= heard_at + SILENT_AFTER


def test_a_process_that_waits_obeys_a_signal(
    nodes: NodeRegistry, appear: Callable[..., Presence], monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes.heartbeat("n1", "agent", {"host": "elsewhere", "pid": 7}, owner="other")
    presence = appear()
    timer = threading.Timer(0.3, lambda: monkeypatch.setattr(state, "should_stop", 0))
    timer.start()
    with pytest.raises(WorkerShutdown) as shutdown:
        presence.take()
    timer.join()
    assert shutdown.value.code == 0
    presence.leave()
    assert node(nodes).roles["agent"]["pid"] == 7


def test_a_server_that_is_away_is_waited_for(
    session_server: Any, nodes: NodeRegistry, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    client = connect(session_server.url, timeout=0.1)
    redis.execute_command("CLIENT", "PAUSE", 600, "WRITE")
    Presence(NodeRegistry(client), "n1", "agent", Reporter()).take()
    client.close()
    assert caplog.text.count("no answer from the node registry") == 1
    assert "agent" in node(nodes).roles


# keeping and giving back ---------------------------------------------------------------------------------


def test_the_heartbeat_goes_on_and_tells_what_is_new(nodes: NodeRegistry, appear: Callable[..., Presence]) -> None:
    says = Says(number=1)
    presence = appear(says)
    presence.take()
    presence.start()
    until(lambda: len(says.heard_at) >= 2)
    since = node(nodes).roles["agent"]["since"]
    assert since == says.heard_at[0]
    says.said, says.rows = {"number": 2}, [[1.0, None]]
    presence.nudge()
    until(lambda: node(nodes).roles["agent"].get("number") == 2)
    assert nodes.history("n1") == [[1.0, None]]
    assert node(nodes).roles["agent"]["since"] == since


def test_a_clock_that_is_an_hour_off_is_told_and_changes_nothing(
    nodes: NodeRegistry, appear: Callable[..., Presence]
) -> None:
    presence = appear(wall=lambda: time.time() + 3600)
    presence.take()
    assert "clock_offset" not in node(nodes).roles["agent"]  # it takes an answer to know
    presence.take()
    now = server_time(nodes)
    found = node(nodes)
    assert found.document(now)["clock_offset"] == pytest.approx(3600, abs=5)
    assert found.is_live(now)
    assert found.status(now) == "healthy"
    assert abs(found.roles["agent"]["since"] - now) < HEARTBEAT


def test_who_finds_its_role_taken_gives_up_everything_and_ends(
    nodes: NodeRegistry, appear: Callable[..., Presence], caplog: pytest.LogCaptureFixture
) -> None:
    signals: list[tuple[str, int]] = []

    def shutting_down(how: str, exitcode: int, **_: Any) -> None:
        assert state.should_stop is None  # leases are given up before the consumer ends
        signals.append((how, exitcode))

    says = Says()
    presence = appear(says)
    presence.take()
    presence.start()
    until(lambda: len(says.heard_at) >= 2)
    worker_shutting_down.connect(shutting_down)
    try:
        # it was cut off for long, and another took its place
        nodes.heartbeat("n1", "agent", {"pid": 7, "host": "h"}, owner="other", take=node(nodes).heard["agent"])
        with pytest.raises(NodeTaken):
            nodes.heartbeat("n1", "agent", {}, owner="a third")
        presence.nudge()
        until(lambda: state.should_stop == 1)
        presence.nudge()
        assert not threading.Event().wait(0.2)
    finally:
        worker_shutting_down.disconnect(shutting_down)
    assert signals == [("Warm", 1)]
    assert caplog.text.count("taken by pid 7 on h") == 1
    presence.leave()
    assert node(nodes).roles["agent"]["pid"] == 7


def test_who_is_asked_to_leave_gives_its_role_back_at_once_and_is_heard_no_more(
    nodes: NodeRegistry, appear: Callable[..., Presence]
) -> None:
    says = Says()
    presence = appear(says)
    presence.take()
    presence.start()
    until(lambda: len(says.heard_at) >= 2)
    presence.leave_soon()
    until(lambda: node(nodes).left)
    heard = len(says.heard_at)
    presence.nudge()
    successor = appear()
    successor.take()  # without waiting
    presence.leave()
    assert len(says.heard_at) == heard
    assert not node(nodes).left
