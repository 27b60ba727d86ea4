"""A model that a job leaves on one node reaches the other, and is played there when it is promoted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fleet.jobs import JobSpec
from fleet.model_registry import ModelRegistry
from fleet.models import Manifest
from fleet.store import Store

pytestmark = pytest.mark.story

#: Leaves a model as a training job does; it knows nothing of Backbeat but its folder and its configuration.
TRAIN = """
import json, os, pathlib
new = pathlib.Path("models/new")
new.mkdir(parents=True, exist_ok=True)
(new / "mine.bin").write_bytes(bytes(range(256)) * 4096)
note = {"config": os.environ["BACKBEAT_JOB_CONFIG"], "file": "mine.bin", "generation": 1}
(new / "mine.part").write_text(json.dumps(note))
(new / "mine.part").rename(new / "mine.json")
print("{}")
"""


def escaped(code: str) -> str:
    return code.replace("{", "{{").replace("}", "}}")


def test_what_training_leaves_on_one_node_is_played_on_the_other(house: Any) -> None:
    training = {"command": ["{python}", "-c", escaped(TRAIN)], "nice": 0, "then": ["model_sync"]}
    house.configure(
        {"model_sync": {"interval": "1h", "initial_delay": "1h", "deadline": "10m"}}, jobs={"training": training}
    )
    place = str(house.folder / "store")
    for node in ("n1", "n2"):
        house.agent(node, BACKBEAT_STORE=place)
    house.jobs("n1", BACKBEAT_STORE=place)
    house.beat()
    house.until(lambda: len(house.manager.get_status()["nodes"]) == 2 and house.status("model_sync"), what="two nodes")
    house.queue.enqueue([JobSpec(kind="training", config="hex5_2p")])

    def listed(node: str) -> list[str]:
        return [each.version for each in Manifest.read(Path(house.folder) / node, "hex5_2p").versions]

    def spread() -> bool:
        return bool(listed("n1")) and listed("n1") == listed("n2")

    house.until(spread, 30, "the model on both nodes")
    (version,) = listed("n1")
    for node in ("n1", "n2"):
        model = Path(house.folder) / node / "models" / "hex5_2p" / version
        assert model.read_bytes() == bytes(range(256)) * 4096

    registry = ModelRegistry(Store(place))
    registry.promote(registry.read()["hex5_2p"], version, now=1.0, by="an operator", why="")

    def played() -> bool:
        return all(Manifest.read(Path(house.folder) / node, "hex5_2p").promoted == version for node in ("n1", "n2"))

    house.until(lambda: house.status("model_sync")["last_counts"].get("pulled"), what="the run to be over")
    house.until_in_a_row("model_sync", 1)
    house.until(played, 30, "it is played on both")
    counts = house.status("model_sync")["last_counts"]
    assert counts["failed"] == 0
