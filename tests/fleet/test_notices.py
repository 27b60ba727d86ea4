"""Notices reach the log, the stream and a real HTTP endpoint, and never hold anybody up."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from fleet.notices import BODY_LIMIT, EVENTS, KEPT_EVENTS, Notice, Notices
from tests.waiting import until

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

    @property
    def told(self) -> int:
        """Notices that its messages account for."""
        return sum(accounted(sent["message"]) for sent in self.received)

    def close(self) -> None:
        self.open.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def accounted(message: str) -> int:
    """How many notices a message stands for."""
    number = 0
    for line in message.splitlines():
        found = re.fullmatch(r"and (\d+) more|.* \((\d+) times\)", line)
        number += int(found[1] or found[2]) if found else 1
    return number


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    endpoint = Endpoint()
    yield endpoint
    endpoint.close()


@pytest.fixture
def make(redis: Redis) -> Iterator[Callable[..., Notices]]:
    """Notices that are closed after the test; on the test's server unless told otherwise."""
    made: list[Notices] = []

    def new(*urls: str, server: Redis | None = redis, **more: Any) -> Notices:
        made.append(Notices(urls, server, **more))
        return made[-1]

    yield new
    for notices in made:
        notices.close(5)  # a sender that outlives the test would find its server gone


def test_a_notice_is_logged_at_its_severity(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "backbeat.notices"):
        Notices().send(Notice("Disk full", "node a has 1 % left", "error"))
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("ERROR", "Disk full: node a has 1 % left")
    ]


def test_every_notice_is_logged_and_recorded_at_once(redis: Redis, make: Any, caplog: pytest.LogCaptureFixture) -> None:
    notices = make("json://127.0.0.1:1")
    with caplog.at_level(logging.INFO, "backbeat.notices"):
        for number in range(3):
            notices.send(Notice("again", str(number)))
    assert [record.getMessage() for record in caplog.records] == ["again: 0", "again: 1", "again: 2"]
    assert [notice.body for _, notice in notices.recent()] == ["2", "1", "0"]


def test_nothing_is_held_back_where_nothing_is_sent(redis: Redis, make: Any) -> None:
    make().send(Notice("Node lost"))
    assert redis.keys() == [EVENTS.encode()]


@pytest.mark.parametrize("shared", [True, False])
def test_a_message_has_title_body_and_severity(endpoint: Endpoint, make: Any, redis: Redis, shared: bool) -> None:
    notices = make(endpoint.url, server=redis if shared else None)
    for severity in ("info", "warning", "error"):
        notices.send(Notice(f"a {severity}", "what happened", severity))
    notices.close()
    assert sorted((sent["title"], sent["message"], sent["type"]) for sent in endpoint.received) == [
        ("a error", "what happened", "failure"),
        ("a info", "what happened", "info"),
        ("a warning", "what happened", "warning"),
    ]


def test_those_of_one_title_that_come_together_are_one_message(endpoint: Endpoint, make: Any) -> None:
    notices = make(endpoint.url, group_for=0.3)
    for node, severity in (("a", "info"), ("b", "error"), ("c", "warning"), ("c", "warning")):
        notices.send(Notice("Node lost", f"node {node}", severity))
    until(lambda: endpoint.received)  # nobody closes or sends anything more
    (sent,) = endpoint.received
    assert sent["message"] == "node a\nnode b\nnode c (2 times)"
    assert sent["type"] == "failure"


def test_what_is_held_back_is_in_the_next_message_when_the_interval_is_over(endpoint: Endpoint, make: Any) -> None:
    notices = make(endpoint.url, interval=0.5, group_for=0.05)
    notices.send(Notice("Job queue filled", "50 added"))
    until(lambda: endpoint.received)
    began = time.monotonic()
    for number in (12, 20):
        notices.send(Notice("Job queue filled", f"{number} added"))
    until(lambda: len(endpoint.received) == 2)
    assert time.monotonic() - began > 0.3
    assert [sent["message"] for sent in endpoint.received] == ["50 added", "12 added\n20 added"]


def test_a_thousand_notices_are_a_few_messages_that_account_for_all(endpoint: Endpoint, make: Any) -> None:
    notices = make(endpoint.url, interval=0.3, group_for=0.1)
    began = time.monotonic()
    for number in range(1000):
        notices.send(Notice("Node lost", f"node {number}"))
    until(lambda: endpoint.told == 1000)
    assert len(endpoint.received) <= 2 + (time.monotonic() - began) / 0.3
    assert endpoint.received[0]["message"].splitlines()[0] == "node 0"
    assert max(len(sent["message"].splitlines()) for sent in endpoint.received) <= 21


SENDER = """
import sys, warnings
warnings.simplefilter("ignore")
from redis import Redis
from fleet.notices import Notice, Notices
notices = Notices([sys.argv[2]], Redis.from_url(sys.argv[1]), interval=3600, group_for=3600)
for number in range(200):
    notices.send(Notice("Node lost", f"{sys.argv[3]} {number}"))
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def processes(session_server: Any, redis: Redis, endpoint: Endpoint) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Two processes that have sent 200 notices of one title each, and wait for the end of their input."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SENDER, session_server.url, endpoint.url, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for name in ("a", "b")
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
    yield started
    for process in started:
        with process:
            process.kill()


def test_two_processes_share_one_limit(endpoint: Endpoint, processes: Any, make: Any) -> None:
    for process in processes:
        process.communicate()  # it ends in order, and tells what may be told
        assert process.returncode == 0
    assert [accounted(sent["message"]) for sent in endpoint.received] == [400]


def test_what_a_killed_process_held_back_is_in_the_next_message(endpoint: Endpoint, processes: Any, make: Any) -> None:
    for process in processes:
        process.kill()
        process.wait()
    assert endpoint.received == []
    notices = make(endpoint.url, interval=3600)
    notices.send(Notice("Node lost", "one more"))
    notices.close()
    assert [accounted(sent["message"]) for sent in endpoint.received] == [401]


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
    notices = Notices(redis=redis)
    for number in range(KEPT_EVENTS + 300):
        notices.send(Notice("n", str(number)))
    assert KEPT_EVENTS <= redis.xlen(EVENTS) < KEPT_EVENTS + 300
    assert notices.recent(1)[0][1].body == str(KEPT_EVENTS + 299)


def test_a_notice_may_hold_anything_of_any_length(endpoint: Endpoint, make: Any) -> None:
    notices = make(endpoint.url)
    notices.send(Notice("Loop fails", "half a pair: \ud800 " + "x" * 100_000))
    assert len(notices.recent()[0][1].body) <= BODY_LIMIT + 10
    notices.close()
    (sent,) = endpoint.received
    assert sent["message"].startswith("half a pair: \\ud800 xxx")
    assert len(sent["message"]) < 600


def test_an_endpoint_that_hangs_delays_nobody(endpoint: Endpoint, make: Any, caplog: pytest.LogCaptureFixture) -> None:
    endpoint.open.clear()
    notices = make(endpoint.url + "?rto=60", interval=0.05, group_for=0)
    notices.send(Notice("first"))
    assert endpoint.asked.wait(10)
    began = time.monotonic()
    for number in range(100):
        notices.send(Notice("more", str(number)))
    assert time.monotonic() - began < 2
    notices.close(timeout=0.1)
    assert time.monotonic() - began < 4
    assert "an endpoint does not answer" in caplog.text
    endpoint.open.set()
    until(lambda: endpoint.told == 101)  # by the thread that hung: it ends when all is said
    until(lambda: not any(thread.name == "notices" for thread in threading.enumerate()))


def test_what_comes_while_a_message_is_sent_follows_by_itself(endpoint: Endpoint, make: Any) -> None:
    endpoint.open.clear()
    notices = make(endpoint.url, interval=0.05, group_for=0)
    notices.send(Notice("Node lost", "a"))
    assert endpoint.asked.wait(10)
    notices.send(Notice("Node lost", "b"))
    endpoint.open.set()
    until(lambda: [sent["message"] for sent in endpoint.received] == ["a", "b"])


def test_a_message_that_nobody_takes_is_kept_for_the_next_one(
    endpoint: Endpoint, make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint.status = 500
    notices = make(endpoint.url, interval=0)
    notices.send(Notice("Node lost", "a"))
    notices.close()
    ours = [record.getMessage() for record in caplog.records if record.name == "backbeat.notices"]
    assert "notification 'Node lost' was not delivered to notify.urls[0] (json)" in ours
    assert "secret-token" not in "".join(ours)
    endpoint.status = 200
    notices.send(Notice("Node lost", "b"))
    notices.close()
    assert [sent["message"] for sent in endpoint.received] == ["a", "a\nb"]


def test_an_address_nobody_understands_does_not_stop_the_others(
    endpoint: Endpoint, make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    notices = make("nonsense://secret-token", endpoint.url)
    notices.send(Notice("Node lost"))
    notices.close()
    assert [sent["title"] for sent in endpoint.received] == ["Node lost"]
    ours = [record.getMessage() for record in caplog.records if record.name == "backbeat.notices"]
    assert "notify.urls[0] (nonsense) is not an address Apprise understands" in ours
    assert "secret-token" not in "".join(ours)


def test_without_the_server_a_process_has_its_own_limit(
    endpoint: Endpoint, make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with Redis(port=1, retry=Retry(NoBackoff(), 0)) as gone:
        notices = make(endpoint.url, server=gone, group_for=0.05, interval=0.5)
        for number in range(50):
            notices.send(Notice("Node lost", f"node {number}"))
        until(lambda: endpoint.received)
        for number in range(50):
            notices.send(Notice("Node lost", f"node {number}"))
        until(lambda: endpoint.told == 100)
        assert len(endpoint.received) <= 4
        notices.close()
    assert "notice 'Node lost' not recorded" in caplog.text


def test_closing_twice_or_without_a_notice_is_harmless() -> None:
    notices = Notices(["json://127.0.0.1:1"])
    notices.close()
    notices.close()


def test_closing_does_not_break_the_limit_and_loses_nothing(endpoint: Endpoint, make: Any) -> None:
    first = make(endpoint.url)
    first.send(Notice("Node lost", "one"))
    first.close()
    first.send(Notice("Node lost", "two"))
    first.close()
    assert [sent["message"] for sent in endpoint.received] == ["one"]
    later = make(endpoint.url, interval=0)
    later.send(Notice("Disk full", "three"))
    later.close()
    assert sorted(sent["message"] for sent in endpoint.received) == ["one", "three", "two"]
