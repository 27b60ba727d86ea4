"""Games that are played on two real nodes, by jobs and otherwise, all come to the central one."""

from __future__ import annotations

from typing import Any

import pytest

from fleet.jobs import JobSpec
from fleet.nodes import NodeRegistry
from tests.fleet.games_stage import gathered, ids, play

pytestmark = pytest.mark.story

PLAYER = """
import os
from pathlib import Path
from examples.openspiel.store import GameStore, PlayedGame
with GameStore(Path("games.db"), os.environ["BACKBEAT_JOB_ID"], os.environ["BACKBEAT_NODE_ID"]) as store:
    for n in range(5):
        store.append(PlayedGame("hex5_2p", ("a", "b"), (1, 2, n), (1.0, -1.0), 0, n, 1.0, 2.0))
print('{"games": 5}')
"""
SELFPLAY = {"command": ["{python}", "-c", PLAYER.replace("{", "{{").replace("}", "}}")], "nice": 0}


def test_games_of_two_nodes_come_to_the_central_one_although_an_agent_is_killed(house: Any) -> None:
    quick = {"interval": "1s", "min_games": 1, "export_timeout": 5, "ingest_timeout": 5}
    patient = {"node_backoff": {"initial_delay": 0.5, "max_delay": 0.5}, "backoff": {"initial_delay": 0.5}}
    house.configure(
        {"data_aggregation": {**quick, **patient}},
        jobs={"selfplay": SELFPLAY},
        store={"url": str(house.folder / "store"), "min_free": 0},
    )
    house.beat()
    house.agent("n1")
    house._worker("n1-jobs", "n1", ["-n", "jobs@n1", "-Q", "jobs.cpu,jobs.central", "-c", "2"])
    second = house.agent("n2")
    house.queue.enqueue([JobSpec(kind="selfplay", config="hex5_2p") for _ in range(2)])
    central, other = house.folder / "n1", house.folder / "n2"
    played = play(other, 7)

    house.until(lambda: len(gathered(central)) == 17, 30, "ten games of jobs, and seven")
    assert gathered(central) == ids(central / "games.db") | played

    second.kill()
    played |= play(other, 8)
    house.agent("n2")
    house.until(lambda: len(gathered(central)) == 25, 30, "eight more")
    assert gathered(central) == ids(central / "games.db") | played
    counts = house.until(lambda: house.status("data_aggregation").get("last_counts"))
    assert (counts["unaccounted"], counts["refused"], counts["doubled"]) == (0, 0, 0)
    house.until(lambda: held(house) == {"n1": {"hex5_2p": 25}, "n2": {}}, 10, "what both nodes hold")


def held(house: Any) -> dict[str, Any]:
    return {node.node_id: node.held["games"].get("gathered") for node in NodeRegistry(house.redis).all()}
