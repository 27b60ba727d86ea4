"""Addresses go down, move to another node and change, in a network of the story's own.

Three nodes and the leader, each in a network namespace, on one switch in a namespace of its own. Each node has
a LAN, a tailnet and a public address, and runs the responder of an agent. The loop's body runs in the leader's
namespace, on the real server.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from redis import Redis

from fleet import resolving
from fleet.fleet import Fleet
from fleet.jobs import JobQueue
from fleet.nodes import NodeRegistry
from fleet.notices import Notices
from fleet.options import FleetOptions
from tasks.ip_discovery import Options, ip_discovery
from tasks.loop import Tick

PORT = 7946
NODES = ("n1", "n2", "n3")
NETS = {"lan": "10.77.0.{}/24", "tailnet": "100.64.77.{}/24", "public": "1.77.0.{}/24", "ipv6": "fd7a:115c:a1e0::{}/64"}
CLONE_NEWNET = 0x40000000

RESPOND = """
import json, sys
from workers.responder import ProbeServer
server = ProbeServer(sys.argv[1], (), int(sys.argv[2]))
server.start(lambda: print(json.dumps(server.listening.facts), flush=True))
sys.stdin.read()
server.stop()
"""


class Network:
    """A switch, and a namespace on it for the leader and each node."""

    def __init__(self) -> None:
        self.prefix = f"bb{os.getpid()}"
        self.responders: dict[str, subprocess.Popen[str]] = {}

    def name(self, place: str) -> str:
        return f"{self.prefix}{place}"

    def ip(self, *words: str) -> None:
        done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"

    def within(self, place: str, *words: str) -> None:
        self.ip("-n", self.name(place), *words)

    def build(self) -> None:
        self.ip("netns", "add", self.name("sw"))
        self.within("sw", "link", "add", "name", "sw0", "type", "bridge")
        self.within("sw", "link", "set", "sw0", "up")
        for number, place in enumerate(("leader", *NODES), 1):
            self.ip("netns", "add", self.name(place))
            veth = ["link", "add", "eth0", "type", "veth", "peer", "name", place, "netns", self.name("sw")]
            self.within(place, *veth)
            for net in NETS.values():
                self.add(place, net.format(number))
            for link in ("lo", "eth0"):
                self.within(place, "link", "set", link, "up")
            self.within("sw", "link", "set", place, "master", "sw0", "up")

    def add(self, place: str, address: str) -> None:
        self.within(place, "addr", "add", address, "dev", "eth0", *(["nodad"] if ":" in address else []))

    def drop(self, place: str, address: str) -> None:
        self.within(place, "addr", "del", address, "dev", "eth0")

    def respond(self, *places: str) -> dict[str, Any]:
        """Start responders; returns their facts."""
        for place in places:
            argv = ["ip", "netns", "exec", self.name(place), sys.executable, "-c", RESPOND, place, str(PORT)]
            self.responders[place] = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
            )
        return {place: json.loads(self._said(place)) for place in places}

    def _said(self, place: str) -> str:
        out = self.responders[place].stdout
        assert out is not None
        return out.readline()

    def silence(self, place: str) -> None:
        responder = self.responders.pop(place)
        responder.kill()
        responder.communicate()

    def remove(self) -> None:
        for place in list(self.responders):
            self.silence(place)
        for place in (*NODES, "leader", "sw"):
            subprocess.run(["ip", "netns", "del", self.name(place)], capture_output=True, check=False)

    @contextlib.contextmanager
    def enter(self, place: str) -> Iterator[None]:
        """This thread's new sockets are in that namespace."""
        setns = ctypes.CDLL(None, use_errno=True).setns
        with Path("/proc/thread-self/ns/net").open() as home, Path("/run/netns", self.name(place)).open() as there:
            assert setns(there.fileno(), CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
            try:
                yield
            finally:
                assert setns(home.fileno(), CLONE_NEWNET) == 0


@pytest.fixture(scope="module")
def network(lacking: Callable[[str], NoReturn]) -> Iterator[Network]:
    if shutil.which("ip") is None:
        lacking("iproute2 is not installed")
    network = Network()
    if subprocess.run(["ip", "netns", "add", network.name("try")], capture_output=True, check=False).returncode:
        lacking("no right to make network namespaces")
    subprocess.run(["ip", "netns", "del", network.name("try")], check=True)
    try:
        network.build()
        yield network
    finally:
        network.remove()


class Cluster:
    """The nodes' heartbeats, and the loop as the leader runs it."""

    def __init__(self, network: Network, redis: Redis, folder: Path) -> None:
        self.network, self.now = network, 1_800_000_000.0
        self.fleet = Fleet(
            redis=redis,
            options=FleetOptions(),
            jobs=JobQueue(redis),
            nodes=NodeRegistry(redis),
            notices=Notices(redis=redis, interval=0),
            node_id="leader",
            data=folder,
        )
        self.probes = network.respond(*NODES)
        self.addresses = {
            place: {kind: [net.format(number).partition("/")[0]] for kind, net in NETS.items() if kind != "ipv6"}
            for number, place in enumerate(NODES, 2)
        }
        self.hosts: dict[str, str] = {}

    def cycle(self, **options: Any) -> dict[str, Any]:
        """One run, five minutes after the last one. Returns the nodes' marks by their ids."""
        self.now += 300
        for place in NODES:
            facts = {"host": self.hosts.get(place, ""), "addresses": self.addresses[place], "probe": self.probes[place]}
            self.fleet.nodes.heartbeat(place, "agent", facts, now=self.now)  # which also opens the connection
        given = Options.model_validate({"probe_timeout": "1s", **options})
        with self.network.enter("leader"):
            asyncio.run(ip_discovery(self.fleet, given, Tick(now=self.now)))
        return {node.node_id: node.marks["address"] for node in self.fleet.nodes.all()}

    def told(self) -> list[str]:
        """Titles of the notices since the last time, the oldest first."""
        titles = [notice.title for _, notice in self.fleet.notices.recent()]
        self.fleet.redis.delete("{backbeat}:events")
        return titles[::-1]


@pytest.fixture
def cluster(network: Network, redis: Redis, tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(network, redis, tmp_path)
    yield cluster
    for place in NODES:
        network.silence(place)


def used(marks: dict[str, Any]) -> list[str]:
    return [marks[place]["address"] for place in NODES]


@pytest.mark.story
def test_addresses_go_down_and_move_and_all_of_them_come_back(cluster: Cluster, network: Network) -> None:
    # every node is found, at its tailnet address
    marks = cluster.cycle()
    assert used(marks) == ["100.64.77.2", "100.64.77.3", "100.64.77.4"]
    assert {mark["source"] for mark in marks.values()} == {"tailnet"}

    # an address goes down: at first it may be a hiccup, then another one is used
    network.drop("n1", "100.64.77.2/24")
    assert used(cluster.cycle())[0] == "100.64.77.2"
    marks = cluster.cycle()
    assert (marks["n1"]["address"], marks["n1"]["source"]) == ("1.77.0.2", "public")
    assert marks["n1"]["changes"][-1]["reason"].endswith("2 times in a row")
    assert cluster.told() == ["Address changed"]

    # it comes back, but the one in use answers
    network.add("n1", "100.64.77.2/24")
    assert used(cluster.cycle())[0] == "1.77.0.2"

    # n1's address moves to n3: somebody answers there on the same port, but not n1
    network.drop("n1", "1.77.0.2/24")
    network.add("n3", "1.77.0.2/24")
    network.within("leader", "neigh", "flush", "all")
    marks = cluster.cycle()
    assert (marks["n1"]["address"], marks["n1"]["source"]) == ("10.77.0.2", "lan")
    assert marks["n1"]["changes"][-1]["reason"] == "wrong node (another node answers)"
    assert used(marks)[1:] == ["100.64.77.3", "100.64.77.4"]
    assert cluster.told() == ["Address changed"]

    # everything is cut: addresses stay, and the operator hears of it once
    for place in NODES:
        network.within("sw", "link", "set", place, "down")
    before = used(marks)
    assert all(mark["reachable"] for mark in cluster.cycle().values())
    for _ in range(2):
        marks = cluster.cycle()
        assert used(marks) == before
        assert not any(mark["reachable"] for mark in marks.values())
    assert cluster.told() == ["Node unreachable"]
    for place in NODES:
        network.within("sw", "link", "set", place, "up")
    network.within("leader", "neigh", "flush", "all")
    marks = cluster.cycle(probe_timeout="5s")
    assert used(marks) == before
    assert all(mark["reachable"] for mark in marks.values())
    assert cluster.told() == ["Node reachable again"]

    network.drop("n3", "1.77.0.2/24")
    network.add("n1", "1.77.0.2/24")


@pytest.mark.story
def test_a_node_changes_its_address_and_another_is_found_by_dns_and_ipv6(
    cluster: Cluster, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lookup(name: str, *_args: Any, **_more: Any) -> list[Any]:
        # in a thread of its own, within the leader's namespace
        assert threading.current_thread() is not threading.main_thread()
        return [(None, None, None, "", ("fd7a:115c:a1e0::3" if name == "n2" else "10.77.0.200", 0, 0, 0))]

    monkeypatch.setattr(resolving.socket, "getaddrinfo", lookup)
    cluster.hosts = {"n1": "n1", "n2": "n2"}
    marks = cluster.cycle(order=["current", "dns", "lan"])
    assert used(marks) == ["10.77.0.2", "fd7a:115c:a1e0::3", "10.77.0.4"]
    assert [marks[place]["source"] for place in NODES] == ["lan", "dns", "lan"]

    # n1 moves: its heartbeat and DNS name another address, and the old one is silent
    network.drop("n1", "10.77.0.2/24")
    network.add("n1", "10.77.0.200/24")
    cluster.addresses["n1"] = {"lan": ["10.77.0.200"], "tailnet": [], "public": []}
    cluster.cycle(order=["current", "dns", "lan"])
    marks = cluster.cycle(order=["current", "dns", "lan"])
    assert (marks["n1"]["address"], marks["n1"]["source"]) == ("10.77.0.200", "dns")

    # an agent that started again has another key, and proves itself with it
    network.silence("n3")
    assert not cluster.cycle(failures_before_switch=1)["n3"]["reachable"]
    cluster.probes |= network.respond("n3")
    assert cluster.cycle()["n3"]["reachable"]
