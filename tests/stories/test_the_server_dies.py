"""Redis is killed and comes back, with its data and without: nobody needs a restart."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fleet.jobs import JobSpec, JobStatus

JOBS = {"selfplay": {"command": ["{python}", "-c", "print('{{\"games\": 1}}')"], "nice": 0}}
UNTIL_TOLD = {"command": ["sh", "-c", "while [ ! -e go ]; do sleep 0.05; done; touch over"], "nice": 0}
#: Long enough that retries which back off without a limit would be late after it.
AWAY = 6.5


@pytest.fixture
def own_house(make_house: Any, own_server: Any) -> Iterator[Any]:
    """A house on a server of its own, which the story may kill."""
    house = make_house(own_server)
    yield house
    house.close()


@pytest.mark.parametrize("empty", [False, True], ids=["with its data", "empty"])
def test_every_process_lives_on_and_resumes_within_five_seconds(own_house: Any, own_server: Any, empty: bool) -> None:
    house = own_house
    house.configure(
        {
            "note": {"interval": "1s"},
            "leading": {"interval": "1s"},
            "queue_populator": {
                "interval": "1s",
                "min_queue_depth": 4,
                "configs": ["hex8_2p"],
                "selfplay_ratio": 1.0,
                "training_ratio": 0.0,
                "tournament_ratio": 0.0,
            },
        },
        jobs=JOBS,
    )
    # one beat alone must see by itself that the server came back empty: to a new active one every server is new
    beats = [house.beat(f"beat{number}") for number in range(1 if empty else 2)]
    processes = [house.agent("n1"), house.agent("n2"), house.jobs("n1"), *beats]
    house.until(lambda: house.notes("leading") and house.queue.counts().by_status["completed"] >= 2, 30)
    own_server.kill()
    down_at = time.monotonic()
    house.until(lambda: time.monotonic() - down_at > AWAY)
    if empty:
        shutil.rmtree(own_server.folder)
    own_server.start()
    came_back, back_at = time.time(), time.monotonic()
    seen = {name: len(house.notes(name)) for name in ("note", "leading")}
    done = house.queue.counts().by_status["completed"]

    def resumed() -> bool:
        ticking = all(len(house.notes(name)) > seen[name] for name in seen)
        beating = len(house.manager.get_status()["beat"]["replicas"]) == len(beats)
        return ticking and beating and house.queue.counts().by_status["completed"] > done and bool(house.leader())

    house.until(resumed, 15, "ticks, a leader, jobs, and every beat")
    assert time.monotonic() - back_at < 5.0

    def heard_of() -> bool:
        nodes = house.manager.get_status()["nodes"]
        fresh = [node for node in nodes if node["agent_pid"] and node["last_seen"] > came_back]
        return len(fresh) == 2 and sum(node["jobs_pid"] is not None for node in nodes) == 1

    house.until(heard_of, 10, "heartbeats of every node")
    assert all(process.alive for process in processes)
    if empty:
        assert house.status("note")["seq"] < 30  # a new timetable, made by the beats themselves
    folder = Path(own_server.folder)
    assert folder.exists()


def test_a_leader_that_reconnects_after_another_has_taken_over_leads_no_more(own_house: Any, own_server: Any) -> None:
    house = own_house
    house.configure({"leading": {"interval": "300s"}})
    house.agent("n1")
    house.agent("n2")
    house.until(lambda: len(house.manager.get_status()["nodes"]) == 2, what="two agents")
    house.beat()
    house.until(lambda: house.notes("leading"))
    old = house.by_pid(house.await_leader()["pid"])
    own_server.kill()
    house.until(lambda: "no connection" in old.text(), what="it has lost its connection")
    old.freeze()
    own_server.start()
    successor = house.await_leader(other_than=old.pid)
    ran = len(house.notes("leading"))
    old.send(signal.SIGCONT)

    def waiting() -> int:
        return sum(client["cmd"] == "brpop" for client in house.redis.client_list())

    house.until(lambda: waiting() == 2, what="both wait for messages")
    # of two consumers of the leader's queue, each would get one message in two
    house.until_in_a_row("leading", 6)
    assert {note[4] for note in house.notes("leading")[ran:]} == {str(successor["pid"])}


def test_a_job_that_ends_while_the_server_is_away_is_reported_when_it_is_back(
    own_house: Any, own_server: Any, tmp_path: Path
) -> None:
    house = own_house
    house.configure({"note": {}}, jobs={"selfplay": UNTIL_TOLD})
    (job_id,) = house.queue.enqueue([JobSpec(kind="selfplay", config="hex8_2p")])
    house.jobs("n1")
    house.until(lambda: house.queue.get(job_id).status is JobStatus.RUNNING)
    own_server.kill()
    (tmp_path / "n1" / "go").touch()
    house.until((tmp_path / "n1" / "over").exists, what="its end")
    down_at = time.monotonic()
    house.until(lambda: time.monotonic() - down_at > 2)  # it has tried to say so
    own_server.start()
    back_at = time.monotonic()
    house.until(lambda: house.queue.get(job_id).status is JobStatus.COMPLETED, 15, "its report")
    assert time.monotonic() - back_at < 5.0
    assert house.queue.get(job_id).attempt == 1
    # and jobs that nobody woke it for are still found
    (another,) = house.queue.enqueue([JobSpec(kind="selfplay", config="hex8_2p")])
    house.until(lambda: house.queue.get(another).status is JobStatus.COMPLETED, 10, "the next job")
