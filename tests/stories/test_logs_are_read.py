"""An operator reads the log of a job, from the node that runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from fleet.jobs import JobSpec

BODY = "echo first; while [ ! -e go ]; do sleep 0.05; done; echo second; echo '{{\"games\": 1}}'"
TALKING = {"command": ["sh", "-c", BODY], "nice": 0}


def backbeat(house: Any, *arguments: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", "from workers.cli import main; main()", *arguments, "--redis", house.server.url]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_log_is_followed_from_another_machine_and_a_node_that_is_gone_is_named(house: Any) -> None:
    house.configure({"note": {}}, jobs={"selfplay": TALKING})
    agent = house.agent("n1")
    house.jobs("n1")
    (job,) = house.queue.enqueue([JobSpec(kind="selfplay", config="hex8_2p")])
    house.until(lambda: house.queue.get(job).status == "running", 30, "the job runs")

    with backbeat(house, "jobs", "logs", job, "--follow", "--wait", "20s") as follow:
        assert follow.stdout is not None
        lines = [follow.stdout.readline() for _ in range(2)]
        assert lines[0].startswith("--- attempt 1 on n1")
        assert lines[1] == "first\n"
        (Path(house.folder) / "n1" / "go").touch()
        rest, errors = follow.communicate(timeout=30)
    assert rest == 'second\n{"games": 1}\n'
    assert (follow.returncode, errors) == (0, f"{job}: running, on n1\n")
    assert not house.redis.keys("{backbeat}:reply:*")

    agent.freeze()
    with backbeat(house, "jobs", "logs", job, "--wait", "300ms") as asked:
        _, errors = asked.communicate(timeout=30)
    assert asked.returncode == 1
    assert f"backbeat: n1, which has the log of {job}, does not answer: it is " in errors
    assert "its agent was last heard" in errors
