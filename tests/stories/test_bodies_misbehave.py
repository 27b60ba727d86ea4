"""Bodies that raise, hang, return nonsense, print a megabyte, or take their worker with them."""

from __future__ import annotations

import time
from typing import Any

from workers.runner import RUN_TTL


def test_each_is_recorded_and_backed_off_and_no_other_loop_suffers(house: Any) -> None:
    every = {"interval": "1s", "backoff": {"initial_delay": "2s", "jitter": False}}
    bad = ("failing", "hanging", "nonsense")
    house.configure(
        {"note": {"interval": "1s"}, "loud": {"interval": "1s"}, **{name: {**every, "deadline": "1s"} for name in bad}}
    )
    house.agent("n1")
    house.beat()
    for name in ("failing", "nonsense"):
        house.until(lambda name=name: house.status(name).get("error_count", 0) >= 2, 30, f"{name} failed twice")
    house.until(lambda: house.status("hanging")["skipped"].get("overrunning"), 30, "the hung one is kept out")
    house.until(lambda: len(house.notes("note")) >= 4 and house.status("loud")["success_count"] >= 3)
    state = {name: house.status(name) for name in (*bad, "loud", "note")}
    assert state["failing"]["last_error"] == "RuntimeError: no such luck"
    assert "in failing" in state["failing"]["last_traceback"]
    assert state["hanging"]["last_error"] == "did not end within its deadline of 1 s"
    assert state["hanging"]["state"] == "overrun"
    assert "returned list, not a mapping of counts" in state["nonsense"]["last_error"]
    for name in bad:
        assert state[name]["consecutive_errors"] == state[name]["error_count"] >= 1
    tries = [float(now) for _, _, now, *_ in house.notes("failing")]
    assert tries[1] - tries[0] >= 2.0
    assert state["loud"]["error_count"] == 0
    # the healthy loop ran in every second meanwhile, on time
    notes = house.notes("note")
    lateness = [float(now) - float(slot) for _, slot, now, *_ in notes[1:]]
    assert max(lateness) < 1.0
    assert state["note"]["missed"] <= 2


def test_a_hung_body_costs_the_only_slot_of_its_agent_until_its_deadline_and_no_longer(house: Any) -> None:
    house.configure({"hanging": {"interval": "300s", "deadline": "1s"}, "note": {"interval": "500ms"}})
    agent = house.agent("n1", slots=1)
    house.beat()
    house.until(lambda: house.notes("hanging"), what="a hung body")
    ran = len(house.notes("note"))
    house.until(lambda: house.status("hanging")["last_outcome"] == "timed_out", 10)
    house.until(lambda: len(house.notes("note")) >= ran + 3, 10, "the other loop goes on")
    assert agent.terminate() == 0  # and nobody waits for its thread


def test_a_loop_that_takes_its_worker_with_it_runs_again_elsewhere(house: Any) -> None:
    house.configure({"note": {"interval": "1s"}, "exiting": {"interval": "300s"}})
    agents = [house.agent("n1"), house.agent("n2")]
    house.beat()
    house.until(lambda: any(not agent.alive for agent in agents), 20, "an agent is gone")
    gone_at = time.monotonic()
    house.until(lambda: house.status("exiting")["success_count"] == 1, 20, "its loop ran elsewhere")
    assert time.monotonic() - gone_at < RUN_TTL + 3.0
    status = house.status("exiting")
    assert (status["error_count"], status["consecutive_errors"]) == (1, 0)
    assert "its worker died" in status["last_error"]
    ran = len(house.notes("note"))
    house.until(lambda: len(house.notes("note")) > ran, 5, "the other loop goes on")


def test_a_worker_killed_in_the_middle_of_a_run(house: Any) -> None:
    house.configure({"slow": {"interval": "300s", "seconds": 2, "deadline": "60s"}})
    first = house.agent("n1")
    house.beat()
    house.until(lambda: house.notes("slow"), what="a run in progress")
    first.kill()
    killed_at = time.monotonic()
    assert house.status("slow")["executing"]
    house.agent("n2")
    house.until(lambda: len(house.notes("slow")) == 2, 20, "the loop runs again")
    assert time.monotonic() - killed_at < RUN_TTL + 3.0  # the run lease, and two polls of beat
    house.until(lambda: house.status("slow")["success_count"] == 1, 20)
    status = house.status("slow")
    assert status["error_count"] == 1
    assert "its worker died" in status["last_error"]
    assert status["last_outcome"] == "succeeded"
