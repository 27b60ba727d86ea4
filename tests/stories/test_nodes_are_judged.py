"""A real node falls silent and comes back, and the loop says so."""

from __future__ import annotations

import signal
from typing import Any

from fleet.nodes import NodeRegistry
from fleet.notices import Notices

LOST_AFTER = 6.0
HEALTH = {"interval": "500ms", "suspect_after": "5.5s", "lost_after": f"{LOST_AFTER}s"}


def test_a_frozen_node_is_lost_and_a_resumed_one_is_healthy_again(house: Any) -> None:
    house.configure({"health_aggregation": HEALTH})
    registry, notices = NodeRegistry(house.redis), Notices(redis=house.redis)

    def judged() -> dict[str, str]:
        return {node.node_id: node.marks.get("health", {}).get("status", "") for node in registry.all()}

    def told() -> list[str]:
        return [f"{notice.title}: {notice.body}" for _, notice in notices.recent() if "n2" in notice.body]

    house.agent("n1")
    frozen = house.agent("n2")
    house.beat()
    house.until(lambda: judged() == {"n1": "healthy", "n2": "healthy"}, what="two healthy nodes")
    house.until(lambda: all(node.metrics for node in registry.all()), what="measurements")
    frozen.freeze()
    house.until(lambda: judged()["n2"] == "lost", what="a lost node")
    (node,) = (node for node in registry.all() if node.node_id == "n2")
    assert node.marks["health"]["at"] - node.last_seen > LOST_AFTER
    assert node.metrics, "the last ones stay"
    house.until(told, what="a notice")
    assert told()[0].startswith(f"Node lost: n2 on {node.host}: last seen ")
    frozen.send(signal.SIGCONT)
    house.until(lambda: judged()["n2"] == "healthy", what="a healthy node")
    house.until(lambda: len(told()) == 2, what="another notice")
    assert told()[0].startswith(f"Node back: n2 on {node.host}")
    assert any((row["healthy"], row["lost"]) == (1, 1) for row in registry.totals())
