"""The search for addresses on a real registry, with real responders on addresses of loopback."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError
from redis.connection import Connection

from fleet import resolving, survey
from fleet.fence import Fence, FenceRefused
from fleet.fleet import Fleet
from fleet.inventory import Inventory
from fleet.nodes import NODE
from fleet.options import FleetOptions
from fleet.probing import Answer, Responder
from tasks.ip_discovery import Options, ip_discovery
from tasks.loop import Tick
from tests.waiting import until
from workers.responder import ProbeServer

NOW = 1_800_000_000.0


@pytest.fixture
def serve() -> Iterator[Callable[..., ProbeServer]]:
    servers: list[ProbeServer] = []

    def start(node_id: str, *bind: str, port: int = 0) -> ProbeServer:
        servers.append(ProbeServer(node_id, bind, port))
        servers[-1].start(lambda: None)
        until(lambda: servers[-1].listening)
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def run(fleet: Fleet, now: float = NOW, inventory: Any = None, tick: Any = None, **options: Any) -> dict[str, Any]:
    if inventory is not None:
        known = FleetOptions(inventory=Inventory.model_validate({"hosts": inventory}))
        fleet = replace(fleet, options=known)
    given = Options.model_validate({"probe_timeout": "10s", **options})
    return dict(asyncio.run(ip_discovery(fleet, given, Tick(now=now, **(tick or {})))))


def heard(
    fleet: Fleet, node_id: str, server: ProbeServer | None, *lan: str, now: float = NOW, host: str = "", **more: Any
) -> None:
    where = server.listening if server is not None else Responder(1, "nobody knows this")
    assert where is not None
    # as of an agent that is bound to every address
    probe = {"port": where.port, "key": where.key}
    facts = {"host": host, "addresses": {"lan": list(lan), **more}, "probe": probe}
    fleet.nodes.heartbeat(node_id, "agent", facts, now=now)


def address(fleet: Fleet, node_id: str = "n1") -> dict[str, Any]:
    return dict(next(node for node in fleet.nodes.all() if node.node_id == node_id).marks["address"])


def test_the_address_at_which_the_agent_answers_is_the_nodes(fleet: Fleet, serve: Callable[..., ProbeServer]) -> None:
    heard(fleet, "n1", serve("n1", "127.0.1.2"), "127.0.1.1", "127.0.1.2", "127.0.1.3")
    assert run(fleet) == {"checked": 1, "reachable": 1, "unreachable": 0, "changed": 1, "unresolved": 0}
    (node,) = fleet.nodes.all()
    document = node.document(NOW)
    assert (document["address"], document["address_source"], document["reachable"]) == ("127.0.1.2", "lan", True)
    assert run(fleet, NOW + 300)["changed"] == 0
    assert address(fleet)["since"] == NOW
    assert fleet.notices.recent() == []


def test_another_node_at_the_address_is_refused(fleet: Fleet, serve: Callable[..., ProbeServer]) -> None:
    first = serve("n1", "127.0.1.1", "127.0.1.2")
    heard(fleet, "n1", first, "127.0.1.1", "127.0.1.2")
    run(fleet)
    assert address(fleet)["address"] == "127.0.1.1"
    assert first.listening is not None
    port = first.listening.port
    first.stop()
    serve("n2", "127.0.1.1", port=port)  # it has taken over the address, with the port
    own = serve("n1", "127.0.1.2", port=port)
    heard(fleet, "n1", own, "127.0.1.1", "127.0.1.2", now=NOW + 300)
    assert run(fleet, NOW + 300)["changed"] == 1
    assert address(fleet)["address"] == "127.0.1.2"
    assert address(fleet)["changes"][-1]["reason"] == "wrong node (another node answers)"
    (notice,) = [notice for _, notice in fleet.notices.recent()]
    assert notice.title == "Address changed"
    assert notice.body == "n1: 127.0.1.1 -> 127.0.1.2 (wrong node (another node answers))"


def test_the_inventory_is_asked_too(fleet: Fleet, serve: Callable[..., ProbeServer]) -> None:
    heard(fleet, "n1", serve("n1", "127.0.1.7"))
    assert run(fleet)["unreachable"] == 1
    assert address(fleet)["why"] == "nobody names an address of it"
    assert run(fleet, NOW + 300, inventory={"n1": {"host": "127.0.1.7"}})["reachable"] == 1
    assert address(fleet)["address"] == "127.0.1.7"


def test_a_fleet_larger_than_a_cycle_is_walked_in_turns(fleet: Fleet, serve: Callable[..., ProbeServer]) -> None:
    server = serve("n00", "127.0.1.1")
    for n in range(45):
        heard(fleet, f"n{n:02}", server, "127.0.1.1")
    checked = [run(fleet, NOW + cycle * 300)["checked"] for cycle in range(3)]
    assert checked == [20, 20, 20]
    marks = [node.marks.get("address") for node in fleet.nodes.all()]
    assert all(mark is not None for mark in marks)
    assert sum(mark["reachable"] for mark in marks if mark) == 1  # it answers for itself only


def test_it_takes_two_round_trips_however_many_nodes(
    fleet: Fleet, serve: Callable[..., ProbeServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve("n00", "127.0.1.1")
    for n in range(20):
        heard(fleet, f"n{n:02}", server, "127.0.1.1")
    first = {"order": ["lan"]}
    fleet.nodes.mark({"n00": {"address": None}})
    run(fleet, inventory={}, **first)  # the server has the scripts, and every node its first finding
    sent: list[object] = []
    send = Connection.send_packed_command
    monkeypatch.setattr(
        Connection, "send_packed_command", lambda *args, **more: sent.append(args) or send(*args, **more)
    )
    run(fleet, NOW + 300, inventory={}, **first)
    assert len(sent) == 2


def test_a_run_that_was_replaced_writes_and_tells_nothing(fleet: Fleet, serve: Callable[..., ProbeServer]) -> None:
    heard(fleet, "n1", serve("n1", "127.0.1.1"), "127.0.1.1")
    fleet.redis.hset("{backbeat}:loop:ip_discovery", "run", "the next one")
    late = Fence(leader=0, owner="", run="this one", guard_key="", loop_key="{backbeat}:loop:ip_discovery")
    with pytest.raises(FenceRefused):
        run(fleet, tick={"fence": late})
    assert fleet.redis.hget(NODE + "n1", "address") is None
    assert fleet.notices.recent() == []


@pytest.fixture
def dark() -> Iterator[str]:
    """An address of loopback at which somebody listens on port 1, or so it seems, and never answers."""
    silent = socket.create_server(("127.0.9.9", 0), backlog=512)
    yield f"127.0.9.9:{silent.getsockname()[1]}"
    silent.close()


def in_the_dark(fleet: Fleet, dark: str, *nodes: str, host: str = "") -> None:
    where, _, port = dark.partition(":")
    for node_id in nodes:
        facts = {"host": host, "addresses": {"lan": [where]}, "probe": {"port": int(port), "key": "k"}}
        fleet.nodes.heartbeat(node_id, "agent", facts, now=NOW)


def test_all_probes_go_out_at_once(fleet: Fleet, dark: str) -> None:
    in_the_dark(fleet, dark, *(f"n{n:02}" for n in range(20)))
    began = time.monotonic()
    assert run(fleet, probe_timeout=0.3)["unreachable"] == 20
    assert time.monotonic() - began < 3  # 20 x 0.3 s, one after the other


def test_a_run_that_would_take_too_long_ends_before_its_deadline(fleet: Fleet, dark: str) -> None:
    in_the_dark(fleet, dark, *(f"n{n:02}" for n in range(20)))
    began = time.monotonic()
    counts = run(fleet, tick={"deadline": NOW + 0.5}, probe_timeout=30, max_probes=3)
    assert counts["unreachable"] == 20
    assert time.monotonic() - began < 10
    assert address(fleet, "n19")["why"] == "127.0.9.9 timed out (the run had no more time)"


def test_a_resolver_that_hangs_holds_up_neither_the_probes_nor_the_loop(
    fleet: Fleet, serve: Callable[..., ProbeServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    monkeypatch.setattr(resolving.socket, "getaddrinfo", lambda *_args, **_more: release.wait(60) and [])
    try:
        heard(fleet, "n1", serve("n1", "127.0.1.1"), "127.0.1.1", host="trainer-1")
        began = time.monotonic()
        counts = run(fleet, dns_timeout=0.2)
        assert (counts["reachable"], counts["unresolved"]) == (1, 1)
        assert time.monotonic() - began < 5
    finally:
        release.set()
        until(lambda: not any(thread.name.startswith("dns ") for thread in threading.enumerate()))


def test_what_dns_says_is_probed_before_the_rest(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []

    def lookup(name: str, *_args: Any, **_more: Any) -> list[Any]:
        names.append(name)
        return [(None, None, None, "", ("192.0.2.7", 0))]

    async def reached(where: str, *_args: Any) -> Answer:
        return Answer("answered" if where != "127.0.1.9" else "refused")

    monkeypatch.setattr(resolving.socket, "getaddrinfo", lookup)
    monkeypatch.setattr(survey, "probe", reached)
    heard(fleet, "n1", None, "127.0.1.1", host="trainer-1")
    heard(fleet, "n2", None, "127.0.1.1", host="trainer-2")
    run(fleet, inventory={"n2": {"host": "gpu.example.com"}})
    assert sorted(names) == ["gpu.example.com", "trainer-1"]
    assert (address(fleet, "n1")["address"], address(fleet, "n2")["source"]) == ("192.0.2.7", "dns")


def test_probes_at_once_are_bounded(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    now, most = 0, 0

    async def counted(*_args: Any) -> Answer:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.001)
        now -= 1
        return Answer("refused")

    monkeypatch.setattr(survey, "probe", counted)
    for n in range(20):
        heard(fleet, f"n{n:02}", None, *(f"127.0.1.{m}" for m in range(1, 9)))
    run(fleet, max_probes=7)
    assert most == 7


def test_without_nodes_there_is_nothing_to_do(fleet: Fleet) -> None:
    assert run(fleet)["checked"] == 0


def test_only_the_leader_runs_it_so_that_addresses_are_judged_from_one_place() -> None:
    assert ip_discovery.leader_only


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"order": []}, "at least 1"),
        ({"order": ["current", "dns", "current"]}, "order names current twice"),
        ({"order": ["ipv4"]}, "'current', 'dns', 'tailnet', 'public' or 'lan'"),
        ({"prefer": "both"}, "'ipv4' or 'ipv6'"),
        ({"max_nodes_per_cycle": 0}, "greater than or equal to 1"),
        ({"dns_timeout": 0}, "greater than 0"),
        ({"probe_timeout": "soon"}, "'soon' is not a duration"),
        ({"failures_before_switch": 0}, "greater than or equal to 1"),
        ({"settle_after": 1}, "Extra inputs are not permitted"),
    ],
)
def test_a_mistake_in_the_options_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Options.model_validate(given)
