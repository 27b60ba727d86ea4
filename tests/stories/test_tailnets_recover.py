"""Real nodes fall out of their tailnet, and their own agents bring them back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from redis import Redis

from fleet.nodes import NodeRegistry
from tests.fleet.tailscale_stage import KEY, Machine

RECOVERY = {"interval": "500ms", "step_timeout": "20s", "cooldown": "60s"}


def test_one_is_restarted_another_logs_in_anew_and_nobody_sees_the_key(house: Any, tmp_path: Path) -> None:
    house.configure(
        {"tailscale_recovery": RECOVERY}, tailnet={"command": ["tailscale"], "restart": ["tailscale", "restart"]}
    )
    registry = NodeRegistry(house.redis)

    def tailnets() -> dict[str, Any]:
        return {node.node_id: node.roles.get("agent", {}).get("tailnet", {}) for node in registry.all()}

    machines, agents = [Machine(tmp_path / name) for name in ("m1", "m2")], []
    machines[0].set("Stopped", ("restart",))
    machines[1].set("NeedsLogin", ("reauth",))
    for name, machine in zip(("n1", "n2"), machines, strict=True):
        path = os.pathsep.join([str(machine.folder), os.environ["PATH"]])
        agents.append(house.agent(name, PATH=path, BACKBEAT_TAILSCALE_AUTH_KEY_FILE=str(machine.key)))
    house.beat()
    house.until(lambda: [each.get("state") for each in tailnets().values()] == ["Running"] * 2, what="well nodes")
    assert [each["attempt"]["steps"] for each in tailnets().values()] == [["restart"], ["reauth"]]
    house.until(lambda: all("tailnet" not in node.marks for node in registry.all()), what="all attempts again")
    assert [machine.calls for machine in machines] == [["restart"], ["reauth"]]
    (call,) = machines[1].noted
    assert (call["seen"], call["secrets"]) == ([], [])
    assert not any(KEY in agent.text() for agent in agents)
    with Redis.from_url(house.server.url) as raw:  # values as the server holds them
        assert all(KEY.encode() not in (raw.dump(key) or b"") for key in raw.scan_iter())
