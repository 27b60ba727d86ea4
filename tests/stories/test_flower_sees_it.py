"""Flower, Celery's dashboard, shows the loops' runs and their retries without being told anything."""

from __future__ import annotations

import json
import socket
import urllib.request
from typing import Any
from urllib.error import URLError


def test_a_failed_run_is_a_retry_with_its_cause_and_a_good_one_a_success(house: Any) -> None:
    house.configure({"failing": {"interval": "2s"}, "note": {"interval": "1s"}})
    house.agent("n1")
    house.beat()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    house.process("flower", ["flower", "--address=127.0.0.1", f"--port={port}"], FLOWER_UNAUTHENTICATED_API="1")

    def ask(path: str) -> Any:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
                return json.loads(answer.read())
        except (URLError, TimeoutError, ConnectionError):
            return None

    house.until(lambda: ask("/api/workers?refresh=1"), 30, "Flower is up")
    retries = house.until(lambda: ask("/api/tasks?state=RETRY"), 60, "a retry in Flower")
    task_id, task = next(iter(retries.items()))
    assert task["name"] == "loops.failing"
    assert task_id.startswith("failing:")
    assert "no such luck" in task["exception"]
    assert "in failing" in task["traceback"]
    successes = house.until(lambda: ask("/api/tasks?state=SUCCESS&taskname=loops.note"), 30, "a success in Flower")
    assert all(task_id.startswith("note:") for task_id in successes)
    page = urllib.request.urlopen(f"http://127.0.0.1:{port}/tasks", timeout=5).read().decode()
    assert "Flower" in page

    # and its pages of ours, in the same process
    loops = urllib.request.urlopen(f"http://127.0.0.1:{port}/loops", timeout=5).read().decode()
    assert "no such luck" in loops
    assert "in failing" in loops
    assert ask("/status")["loops"]["failing"]["consecutive_errors"] > 0
    metrics = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
    assert 'backbeat_loop_runs_total{loop="note",outcome="succeeded"}' in metrics
    assert 'flower_events_total{task="loops.note"' in metrics
