"""The recovery of tailnets on a real registry: who is asked, what is written, and the way over SSH."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
from pydantic import ValidationError

from fleet.fence import Fence, FenceRefused
from fleet.fleet import Fleet
from fleet.options import FleetOptions
from fleet.tailnet_attempt import TailnetWatch
from fleet.tailscale import SshOptions, TailnetOptions, TailscaleError
from fleet.tailscale_simulated import SimulatedTailscale
from tasks.loop import Tick
from tasks.node import serve
from tasks.tailscale_recovery import Options, recover_tailnet, tailscale_recovery
from tests.fleet.tailscale_stage import KEY, Machine, SshServer

NOW = 1_800_000_000.0
STOPPED = {"state": "Stopped", "online": False}
WELL = {"state": "Running", "online": True}


class Asked(list[tuple[str, str, dict[str, Any]]]):
    """What nodes were asked for."""

    def __call__(self, node_id: str, name: str, arguments: Any) -> None:
        self.append((node_id, name, dict(arguments)))


@pytest.fixture
def asked() -> Asked:
    return Asked()


@pytest.fixture
def fleet(fleet: Fleet, asked: Asked) -> Fleet:
    return replace(fleet, ask=asked)


def heard(fleet: Fleet, node: str, tailnet: Any, now: float = NOW, **facts: Any) -> None:
    fleet.nodes.heartbeat(node, "agent", {"host": "h", "tailnet": tailnet, **facts}, now=now)


def run(fleet: Fleet, now: float = NOW, **tick: Any) -> dict[str, int]:
    return dict(asyncio.run(tailscale_recovery(fleet, Options(), Tick(now=now, **tick))))


def mark(fleet: Fleet) -> Any:
    return fleet.nodes.all()[0].marks.get("tailnet")


def test_a_node_in_reach_is_asked_by_its_queue_and_no_command_goes_with_it(fleet: Fleet, asked: Asked) -> None:
    heard(fleet, "n1", STOPPED)
    heard(fleet, "n2", WELL)
    counts = {"tailnets": 2, "well": 1, "attempted": 1, "waiting": 0, "given_up": 0, "by_ssh": 0}
    assert run(fleet) == counts
    assert asked == [("n1", "recover_tailnet", {"step_timeout": 60.0, "until": NOW + 300})]
    assert run(fleet)["attempted"] == 0, "the same tick again"
    heard(fleet, "n1", WELL, now=NOW + 10)
    run(fleet, NOW + 10)
    assert mark(fleet) is None
    assert [notice.title for _, notice in fleet.notices.recent()] == ["Tailnet back"]


def test_a_node_given_up_is_shown_until_it_is_reset(fleet: Fleet, asked: Asked) -> None:
    for minute in range(0, 60, 2):
        heard(fleet, "n1", STOPPED, now=NOW + 60 * minute)
        run(fleet, NOW + 60 * minute)
    assert len(asked) == 3
    document = fleet.nodes.all()[0].document(NOW)
    assert document["tailnet"] == STOPPED
    assert document["tailnet_recovery"]["gave_up_at"] == NOW + 1080
    assert [notice.title for _, notice in fleet.notices.recent()] == ["Tailnet not recovered"]
    fleet.nodes.mark({"n1": {"tailnet": None}})
    heard(fleet, "n1", STOPPED, now=NOW + 3600)
    assert run(fleet, NOW + 3600)["attempted"] == 1


def test_an_attempt_is_written_down_before_anybody_is_asked(fleet: Fleet) -> None:
    heard(fleet, "n1", STOPPED)

    def away(*_: Any) -> None:
        raise ConnectionError("the broker is away")

    with pytest.raises(ConnectionError):
        run(replace(fleet, ask=away))
    assert mark(fleet)["attempts"] == 1


def test_a_run_that_was_replaced_writes_and_asks_nothing(fleet: Fleet, asked: Asked) -> None:
    heard(fleet, "n1", STOPPED)
    key = "{backbeat}:loop:tailscale_recovery"
    fleet.redis.hset(key, "run", "the next one")
    with pytest.raises(FenceRefused):
        run(fleet, fence=Fence(leader=0, owner="", run="this one", guard_key="", loop_key=key))
    assert (asked, mark(fleet)) == ([], None)


def test_only_the_leader_runs_it() -> None:
    assert tailscale_recovery.leader_only


# what the node does ---------------------------------------------------------------------------------------


def test_the_node_makes_an_attempt_and_its_facts_tell_what_came_of_it(fleet: Fleet) -> None:
    port = SimulatedTailscale("NoState", helps=("restart",))
    mine = replace(fleet, tailnet=TailnetWatch(port))
    until = fleet.redis.time()[0] + 60.0
    assert serve(mine, recover_tailnet, {"step_timeout": 60.0, "until": until}) == "done"
    assert port.calls == ["restart"]
    told = mine.tailnet.facts()["tailnet"] if mine.tailnet else {}
    assert (told["state"], told["attempt"]) == ("Running", {"steps": ["restart"], "error": ""})
    serve(mine, recover_tailnet, {"step_timeout": 60.0, "until": until})
    assert port.calls == ["restart"], "the message came twice"


def test_a_message_that_comes_too_late_is_left(fleet: Fleet) -> None:
    port = SimulatedTailscale("NoState", helps=("restart",))
    mine = replace(fleet, tailnet=TailnetWatch(port))
    assert recover_tailnet(mine, recover_tailnet.arguments(step_timeout=60.0, until=NOW - 9e8))["made"] is False
    assert port.calls == []


@pytest.mark.parametrize(
    "arguments",
    [{"step_timeout": 60.0, "until": NOW, "command": ["rm"]}, {"step_timeout": 1e9, "until": NOW}, {"until": NOW}, []],
)
def test_arguments_of_another_kind_are_refused(fleet: Fleet, arguments: Any) -> None:
    with pytest.raises(ValidationError):
        serve(fleet, recover_tailnet, arguments)


# lost nodes ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(lacking: Callable[[str], NoReturn], tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    if SshServer.program() is None:
        lacking("there is no sshd")
    server = SshServer(tmp_path_factory.mktemp("ssh") / "server")
    yield server
    server.close()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "machine")


def lose(fleet: Fleet, server: SshServer, machine: Machine) -> Fleet:
    """n1 is lost, and SSH is configured."""
    heard(fleet, "n1", WELL, now=NOW - 500, addresses={"lan": ["127.0.0.1"]})
    fleet.nodes.mark({"n1": {"health": {"status": "lost", "at": NOW}}})
    tailnet = machine.options.model_copy(update={"ssh": server.options()})
    return replace(fleet, options=FleetOptions(tailnet=tailnet))


def test_a_lost_node_is_recovered_over_ssh(
    fleet: Fleet, server: SshServer, machine: Machine, asked: Asked, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    machine.set("NeedsLogin", ("reauth",))
    lost = lose(fleet, server, machine)
    assert run(lost)["by_ssh"] == 1
    assert machine.calls == ["reauth"]
    assert mark(fleet) == {"state": "Running", "last_attempt_at": NOW}
    assert asked == []
    assert KEY not in caplog.text
    for key in fleet.redis.scan_iter():
        assert KEY.encode() not in fleet.redis.dump(key)


def test_a_lost_node_that_is_well_in_its_tailnet_is_left_alone_and_no_attempt_counts(
    fleet: Fleet, server: SshServer, machine: Machine
) -> None:
    lost = lose(fleet, server, machine)
    for minute in range(0, 14, 2):
        run(lost, NOW + 60 * minute)
    assert machine.calls == []
    assert "attempts" not in mark(fleet)
    assert fleet.notices.recent() == []


def test_a_lost_node_that_nobody_lets_in_is_given_up(fleet: Fleet, server: SshServer, machine: Machine) -> None:
    lost = lose(fleet, server, machine)
    server.know("other")
    try:
        for minute in range(0, 40, 2):
            run(lost, NOW + 60 * minute)
    finally:
        server.know("host")
    assert mark(fleet)["attempts"] == 3
    (notice,) = [notice for _, notice in fleet.notices.recent()]
    assert notice.title == "Tailnet not recovered"
    assert "its host key is not the one in" in notice.body


def test_a_reset_during_an_attempt_over_ssh_is_kept(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard(fleet, "n1", WELL, now=NOW - 500, addresses={"lan": ["127.0.0.1"]})
    fleet.nodes.mark({"n1": {"health": {"status": "lost", "at": NOW}}})
    options = TailnetOptions(ssh=SshOptions(known_hosts=tmp_path / "known_hosts", key=tmp_path / "key"))
    lost = replace(fleet, options=FleetOptions(tailnet=options))

    def reset_meanwhile(_: Any) -> NoReturn:
        assert mark(fleet)["attempts"] == 1
        fleet.nodes.mark({"n1": {"tailnet": None}})
        raise TailscaleError("no route")

    monkeypatch.setattr("tasks.tailscale_recovery.connected", reset_meanwhile)
    assert run(lost)["by_ssh"] == 1
    assert mark(fleet) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_attempts": 0}, "greater than or equal to 1"),
        ({"cooldown": "2m"}, r"cooldown \(120 s\) must be 3 times step_timeout \(60 s\) or more"),
        ({"step_timeout": "1h"}, "less than or equal to 600"),
        ({"starting_for": "soon"}, "'soon' is not a duration"),
        ({"max_nodes": 3}, "Extra inputs are not permitted"),
    ],
)
def test_a_mistake_in_the_options_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Options.model_validate(given)
