"""Probes tell the truth about real processes: frozen, cut off, no longer consuming, ending."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path

import pytest

from tests.stories.conftest import House, Process
from tests.waiting import until
from workers import probe
from workers.app import configure
from workers.settings import Settings

pytestmark = pytest.mark.story


def ask(question: str, role: str, folder: Path) -> tuple[bool, str]:
    return probe.ask(question, role, {"BACKBEAT_DATA": str(folder)})


def until_ready(house: House, *processes: tuple[str, Path]) -> None:
    house.until(
        lambda: all(ask("ready", *each)[0] for each in processes), what=str([ask("ready", *p) for p in processes])
    )


def turned_at(role: str, folder: Path) -> float:
    """When its main loop turned last."""
    _, reason = ask("live", role, folder)
    return time.monotonic() - float(re.search(r"turned ([\d.]+) s ago", reason)[1])


def until_all_turn(house: House, folder: Path) -> None:
    """What is live now is so in a minute too: the main loops go on turning."""
    before = {role: turned_at(role, folder) for role in ("agent", "jobs", "beat")}
    house.until(lambda: all(turned_at(role, folder) > at + 0.5 for role, at in before.items()), what="turns")


@pytest.fixture
def everyone(house: House, tmp_path: Path) -> dict[str, Process]:
    house.configure({"note": {"interval": 5}})
    return {
        "agent": house.agent("n1"),
        "jobs": house.jobs("n1"),
        "beat": house.beat(BACKBEAT_RUN=str(tmp_path / "n1" / "run")),
    }


def test_a_frozen_process_is_not_live_and_the_others_do_not_answer_for_it(house, everyone, tmp_path):
    n1 = tmp_path / "n1"
    until_ready(house, *((role, n1) for role in everyone))
    for role, process in everyone.items():
        process.freeze()
        assert ask("live", role, n1) == (False, "not live: no answer within 2 s")
        process.send(signal.SIGCONT)
    until_ready(house, *((role, n1) for role in everyone))


def test_a_queue_that_is_no_longer_consumed_makes_a_worker_unready_and_not_dead(house, everyone, tmp_path):
    n1 = tmp_path / "n1"
    until_ready(house, ("agent", n1), ("jobs", n1))
    app = configure(Settings(redis_url=house.server.url))
    for role, queue, missing in (
        ("agent", "node.n1", "node.n1"),
        ("agent", "loops", "loops, node.n1"),
        ("jobs", "jobs.cpu", "jobs.cpu"),
    ):
        app.control.cancel_consumer(queue, destination=[f"{role}@n1"])
        says = (False, f"not ready: it does not consume {missing}")
        until(lambda role=role, says=says: ask("ready", role, n1) == says)
        assert ask("live", role, n1)[0]
    app.close()


def test_without_the_server_all_are_live_and_none_is_ready_and_with_it_all_are_again(make_house, own_server, tmp_path):
    house = make_house(own_server)
    try:
        house.configure({"note": {"interval": 5}})
        own_server.kill()
        n1 = tmp_path / "n1"
        house.agent("n1")
        house.jobs("n1")
        house.beat(BACKBEAT_RUN=str(n1 / "run"))
        roles = ("agent", "jobs", "beat")
        house.until(lambda: all(ask("live", role, n1)[0] for role in roles), what="processes that live")
        assert [ask("ready", role, n1)[0] for role in roles] == [False, False, False]
        until_all_turn(house, n1)
        own_server.start()
        until_ready(house, *((role, n1) for role in roles))
        until_all_turn(house, n1)
        own_server.kill()
        house.until(lambda: not any(ask("ready", role, n1)[0] for role in roles), what="nobody is ready")
        until_all_turn(house, n1)
    finally:
        house.close()


def test_a_process_that_ends_is_live_and_not_ready(house, tmp_path):
    house.configure({"slow": {"interval": 60, "seconds": 2}})
    agent = house.agent("n1")
    house.beat()
    house.until(lambda: house.notes("slow"), what="a run")
    agent.send(signal.SIGTERM)
    n1 = tmp_path / "n1"
    until(lambda: ask("ready", "agent", n1) == (False, "not ready: it ends"))
    assert ask("live", "agent", n1) == (True, "live: it ends")
    agent.popen.wait(20)
    assert not ask("live", "agent", n1)[0]
