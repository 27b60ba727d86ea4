"""What the heartbeat says of where its node is reached; the services that tell the public address are real ones."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from redis import Redis

from fleet.nodes import NodeRegistry
from fleet.options import PublicAddress
from fleet.public_address import NoPublicAddress, ask
from tests.waiting import until
from workers.presence import Reporter
from workers.settings import Settings
from workers.whereabouts import ASK_AGAIN, Whereabouts

OURS = "1.2.3.7"


class Service(ThreadingHTTPServer):
    """Answers what it is told to, and counts the questions."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer: tuple[int, bytes] = (200, OURS.encode() + b"\n")
        self.asked = 0
        self.go_on = threading.Event()
        self.go_on.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/ip"


class Handler(BaseHTTPRequestHandler):
    server: Service

    def do_GET(self) -> None:
        self.server.asked += 1
        self.server.go_on.wait(30)
        status, body = self.server.answer
        try:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except ConnectionError:
            pass  # the client had enough

    def log_message(self, *_args: Any) -> None:
        pass


@pytest.fixture
def service() -> Iterator[Service]:
    server = Service()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.go_on.set()
    server.shutdown()
    thread.join(10)
    server.server_close()


class Machine(Reporter):
    """A machine with addresses, and a clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.own: dict[str, Any] = {"lan": ["10.0.0.7"], "tailnet": []}

    def facts(self) -> Mapping[str, Any]:
        return {"metrics": {"cpu": 3}, **({"addresses": self.own} if self.own else {})}


def whereabouts(machine: Machine, *services: str, **settings: Any) -> Whereabouts:
    where = Settings(node_id="n1", bind=("127.0.0.1",), **settings)
    return Whereabouts(machine, where, PublicAddress(services=services), clock=lambda: machine.now)


# the public address ------------------------------------------------------------------------------------------


def test_the_public_address_is_asked_for_seldom_and_when_the_machine_moves(service: Service) -> None:
    machine = Machine()
    where = whereabouts(machine, service.url)
    assert where.facts()["addresses"] == machine.own
    for machine.now in (0, 5, 3599):
        where.look()
    assert service.asked == 1
    assert where.facts()["addresses"] == {"lan": ["10.0.0.7"], "tailnet": [], "public": [OURS]}
    machine.now = 3600
    where.look()
    assert service.asked == 2
    machine.own = {"lan": ["10.9.9.9"], "tailnet": []}
    service.answer = (200, b"1.2.3.8")
    where.look()
    assert where.facts()["addresses"]["public"] == ["1.2.3.8"]


def test_what_was_true_elsewhere_is_not_said_any_more(service: Service) -> None:
    machine = Machine()
    where = whereabouts(machine, service.url)
    where.look()
    machine.own = {"lan": ["10.9.9.9"], "tailnet": []}
    service.answer = (503, b"")
    with pytest.raises(NoPublicAddress):
        where.look()
    assert "public" not in where.facts()["addresses"]


def test_a_service_that_fails_is_asked_again_before_the_hour_is_over(service: Service) -> None:
    machine = Machine()
    where = whereabouts(machine, service.url)
    service.answer = (500, b"")
    with pytest.raises(NoPublicAddress, match="500"):
        where.look()
    machine.now = ASK_AGAIN - 1
    where.look()
    assert service.asked == 1
    machine.now, service.answer = ASK_AGAIN, (200, OURS.encode())
    where.look()
    assert where.facts()["addresses"]["public"] == [OURS]


def test_without_addresses_of_its_own_nobody_is_asked(service: Service) -> None:
    machine = Machine()
    machine.own = {}
    where = whereabouts(machine, service.url)
    where.look()
    assert service.asked == 0
    assert where.facts() == {"metrics": {"cpu": 3}}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((200, b"10.0.0.7"), "10.0.0.7 is no address on the internet"),
        ((200, b"127.0.0.1"), "is no address on the internet"),
        ((200, b"100.64.0.7"), "is no address on the internet"),
        ((200, b"224.0.0.1"), "is no address on the internet"),
        ((200, b"<html>"), "'<html>' is no address"),
        ((200, b""), "is no address"),
        ((200, b"\xff\xfe"), "is no address"),
        ((200, b"1" * 10_000), "closed"),
        ((302, b""), "302"),
        ((404, b"1.2.3.7"), "404"),
    ],
)
def test_only_an_address_on_the_internet_is_believed(service: Service, answer: tuple[int, bytes], said: str) -> None:
    service.answer = answer
    with pytest.raises(NoPublicAddress, match=said):
        asyncio.run(ask([service.url], 10))


def test_the_first_valid_answer_wins(service: Service) -> None:
    dead = "http://127.0.0.1:1/ip"
    assert asyncio.run(ask([dead, service.url], 10)) == OURS
    with pytest.raises(NoPublicAddress, match="no service"):
        asyncio.run(ask([], 10))


def test_a_service_that_hangs_costs_its_time_limit(service: Service) -> None:
    service.go_on.clear()
    began = time.monotonic()
    with pytest.raises(NoPublicAddress, match="imeout"):
        asyncio.run(ask([service.url], 0.1))
    assert time.monotonic() - began < 10


def test_ipv6_answers_are_addresses_too(service: Service) -> None:
    service.answer = (200, b"2606:4700:0:0::7\n")
    assert asyncio.run(ask([service.url], 10)) == "2606:4700::7"


# the heartbeat -----------------------------------------------------------------------------------------------


def test_the_heartbeat_says_where_the_agent_proves_itself_and_status_does_not(redis: Redis, service: Service) -> None:
    where = whereabouts(Machine(), service.url)
    nudged = threading.Semaphore(0)
    where.start(nudged.release)
    try:
        until(lambda: "probe" in where.facts() and "public" in where.facts()["addresses"])
        assert nudged.acquire(timeout=10)
        assert nudged.acquire(timeout=10)  # it answers probes, and it knows its public address
        facts = where.facts()
        registry = NodeRegistry(redis)
        registry.heartbeat("n1", "agent", facts)
        (node,) = registry.all()
        assert node.roles["agent"]["probe"]["port"] > 0
        document = node.document(node.last_seen)
        assert document["addresses"]["public"] == [OURS]
        assert facts["probe"]["key"] not in str(document)
    finally:
        where.stop()
    assert "probe" not in where.facts()
    assert not {"probe-server", "public-address"} & {thread.name for thread in threading.enumerate()}


def test_without_services_nobody_is_asked() -> None:
    where = whereabouts(Machine())
    where.start(lambda: None)
    where.stop()
    assert "public-address" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("url", ["ftp://x/ip", "https://", "api.ipify.org", "https://user:secret@x/", "https://x y/"])
def test_a_service_is_a_web_page(url: str) -> None:
    with pytest.raises(ValueError, match="services"):
        PublicAddress(services=(url,))
