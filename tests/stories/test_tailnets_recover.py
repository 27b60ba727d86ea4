"""A real node falls out of its tailnet, and its own agent brings it back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from fleet.nodes import NodeRegistry
from tests.fleet.tailscale_stage import KEY, Machine

RECOVERY = {"interval": "500ms", "step_timeout": "20s", "cooldown": "60s"}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "machine")


def test_a_node_that_needs_a_login_is_recovered_by_its_own_agent(house: Any, machine: Machine) -> None:
    machine.set("NeedsLogin", ("reauth",))
    tailnet = {"command": [str(machine.program)], "restart": [str(machine.program), "restart"]}
    house.configure({"tailscale_recovery": RECOVERY}, tailnet=tailnet)
    registry = NodeRegistry(house.redis)

    def node() -> Any:
        return next(iter(registry.all()), None)

    agent = house.agent("n1", BACKBEAT_TAILSCALE_AUTH_KEY_FILE=str(machine.key))
    house.beat()
    house.until(
        lambda: node() and node().roles["agent"].get("tailnet", {}).get("state") == "Running", what="a well node"
    )
    told = node().roles["agent"]["tailnet"]
    assert told["attempt"] == {"steps": ["reauth"], "error": ""}
    house.until(lambda: "tailnet" not in node().marks, what="its attempts again")
    (call,) = machine.noted
    assert (call["seen"], call["secrets"]) == ([], [])
    assert KEY not in agent.text()
    with Redis.from_url(house.server.url) as raw:  # values as the server holds them
        assert all(KEY.encode() not in (raw.dump(key) or b"") for key in raw.scan_iter())
