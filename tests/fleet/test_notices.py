"""Notices reach the log, the stream and a real HTTP endpoint, and never hold anybody up."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from fleet.notices import EVENTS, KEPT_EVENTS, QUEUED, Notice, Notices

# Apprise imports a module that Python 3.13 no longer has, and has a substitute for it.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")


class Endpoint:
    """An HTTP server that keeps what it is sent; `open` holds its answers back while it is clear."""

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        self.open = threading.Event()
        self.open.set()
        self.asked = threading.Event()
        self.status = 200
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                endpoint.asked.set()
                endpoint.open.wait(30)
                endpoint.received.append(json.loads(body))
                self.send_response(endpoint.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    @property
    def url(self) -> str:
        return f"json://127.0.0.1:{self.server.server_address[1]}/secret-token"

    def close(self) -> None:
        self.open.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    endpoint = Endpoint()
    yield endpoint
    endpoint.close()


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_notice_is_logged_at_its_severity(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "backbeat.notices"):
        Notices().send(Notice("Disk full", "node a has 1 % left", "error"))
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("ERROR", "Disk full: node a has 1 % left")
    ]


def test_a_notice_is_delivered_with_title_body_and_severity(endpoint: Endpoint) -> None:
    notices = Notices([endpoint.url])
    for severity in ("info", "warning", "error"):
        notices.send(Notice(f"a {severity}", "what happened", severity))
    notices.close()
    assert [(sent["title"], sent["message"], sent["type"]) for sent in endpoint.received] == [
        ("a info", "what happened", "info"),
        ("a warning", "what happened", "warning"),
        ("a error", "what happened", "failure"),
    ]


def test_one_title_goes_out_at_most_once_an_interval(endpoint: Endpoint, redis: Redis) -> None:
    clock = Clock()
    notices = Notices([endpoint.url], redis, interval=60, clock=clock)
    assert notices.send(Notice("Job queue filled", "50 added"))
    clock.now += 59.9
    assert not notices.send(Notice("Job queue filled", "12 added"))
    assert notices.send(Notice("Disk full"))
    clock.now += 0.1
    assert notices.send(Notice("Job queue filled", "20 added"))
    notices.close()
    assert [sent["message"] for sent in endpoint.received] == ["50 added", "Disk full", "20 added"]
    assert redis.xlen(EVENTS) == 3


def test_what_is_held_back_is_logged_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    notices = Notices(clock=Clock())
    with caplog.at_level(logging.INFO, "backbeat.notices"):
        notices.send(Notice("again", "first"))
        notices.send(Notice("again", "second"))
    assert [record.getMessage() for record in caplog.records] == ["again: first", "again: second"]


def test_recent_notices_come_newest_first_from_the_whole_fleet(redis: Redis) -> None:
    before = time.time() - 1
    Notices(redis=redis).send(Notice("Node lost", "node b", "warning"))
    Notices(redis=redis).send(Notice("Node found", "node b"))
    (found_at, found), (lost_at, lost) = Notices(redis=redis).recent()
    assert found == Notice("Node found", "node b")
    assert lost == Notice("Node lost", "node b", "warning")
    assert before < lost_at <= found_at < before + 60
    assert len(Notices(redis=redis).recent(1)) == 1


def test_the_stream_stays_capped(redis: Redis) -> None:
    notices = Notices(redis=redis, interval=0)
    for number in range(KEPT_EVENTS + 300):
        notices.send(Notice("n", str(number)))
    assert KEPT_EVENTS <= redis.xlen(EVENTS) < KEPT_EVENTS + 300
    assert notices.recent(1)[0][1].body == str(KEPT_EVENTS + 299)


def test_an_endpoint_that_hangs_delays_nobody(endpoint: Endpoint, caplog: pytest.LogCaptureFixture) -> None:
    endpoint.open.clear()
    notices = Notices([endpoint.url + "?rto=60"], interval=0)
    notices.send(Notice("first"))
    assert endpoint.asked.wait(10)
    began = time.monotonic()
    for number in range(QUEUED + 5):
        notices.send(Notice("more", str(number)))
    assert time.monotonic() - began < 1
    dropped = [record for record in caplog.records if "dropped: 100 are waiting" in record.getMessage()]
    assert len(dropped) == 5
    endpoint.open.set()
    notices.close(timeout=30)
    assert len(endpoint.received) == QUEUED + 1


def test_an_endpoint_that_refuses_is_logged_without_its_address(
    endpoint: Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint.status = 500
    notices = Notices([endpoint.url])
    notices.send(Notice("Node lost"))
    notices.close()
    ours = [record.getMessage() for record in caplog.records if record.name == "backbeat.notices"]
    assert "notification 'Node lost' was not delivered to notify.urls[0] (json)" in ours
    assert "secret-token" not in "".join(ours)


def test_an_address_nobody_understands_does_not_stop_the_others(
    endpoint: Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    notices = Notices(["nonsense://secret-token", endpoint.url])
    notices.send(Notice("Node lost"))
    notices.close()
    assert [sent["title"] for sent in endpoint.received] == ["Node lost"]
    ours = [record.getMessage() for record in caplog.records if record.name == "backbeat.notices"]
    assert "notify.urls[0] (nonsense) is not an address Apprise understands" in ours
    assert "secret-token" not in "".join(ours)


def test_a_server_that_is_gone_stops_neither_the_caller_nor_the_delivery(
    endpoint: Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    with Redis(port=1, retry=Retry(NoBackoff(), 0)) as gone:
        notices = Notices([endpoint.url], gone)
        assert notices.send(Notice("Node lost"))
        notices.close()
    assert [sent["title"] for sent in endpoint.received] == ["Node lost"]
    assert "notice 'Node lost' not recorded" in caplog.text


def test_closing_twice_or_without_a_notice_is_harmless() -> None:
    notices = Notices(["json://127.0.0.1:1"])
    notices.close()
    notices.close()


def test_after_closing_a_notice_starts_sending_again(endpoint: Endpoint) -> None:
    notices = Notices([endpoint.url])
    notices.send(Notice("one"))
    notices.close()
    notices.send(Notice("two"))
    notices.close()
    assert [sent["title"] for sent in endpoint.received] == ["one", "two"]
