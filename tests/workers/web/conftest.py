"""A dashboard in a thread of the test's own process, on the session's server."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import HTTPError

import pytest
from celery import Celery
from flower.options import default_options
from flower.urls import settings as flower_settings
from redis import Redis
from tornado.ioloop import IOLoop

from fleet.nodes import NodeRegistry
from tests.conftest import free_port
from tests.waiting import until
from workers.ledger import Ledger, Scheduled
from workers.settings import connect
from workers.web.dashboard import Dashboard

NAME, PASSWORD = "ops", "secret"


@dataclass
class Answer:
    """What the dashboard said."""

    code: int
    text: str
    headers: Any

    @property
    def json(self) -> Any:
        return json.loads(self.text)


@dataclass
class Served:
    """A dashboard that listens, and who asks it."""

    port: int
    app: Any
    credentials: str = ""
    cookies: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, path: str, method: str = "GET", *, known: bool = True, **headers: str) -> Answer:
        request = urllib.request.Request(self.url + path, method=method, data=b"" if method == "POST" else None)
        if self.credentials and known:
            request.add_header("Authorization", "Basic " + base64.b64encode(self.credentials.encode()).decode())
        for name, value in headers.items():
            request.add_header(name.replace("_", "-"), value)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return Answer(answer.status, answer.read().decode(), answer.headers)
        except HTTPError as error:
            with error:
                return Answer(error.code, error.read().decode(), error.headers)


def backbeat(url: str) -> Any:
    """What the dashboard takes of a process's run-time."""
    redis = connect(url)
    celery = Celery("backbeat", broker=url, set_as_current=False)
    fleet = SimpleNamespace(nodes=NodeRegistry(redis))
    return SimpleNamespace(
        settings=SimpleNamespace(redis_url=url), redis=redis, ledger=Ledger(redis), fleet=fleet, celery=celery
    )


def serve(url: str, **options: Any) -> Iterator[Served]:
    """A dashboard with these options of Flower's."""
    made: list[Any] = []
    loop = asyncio.new_event_loop()

    def run() -> None:
        asyncio.set_event_loop(loop)
        given = SimpleNamespace(**{**default_options.as_dict(), "port": 0, "address": "127.0.0.1", **options})
        own = backbeat(url)
        own.celery.backbeat = own
        app = Dashboard(options=given, capp=own.celery, io_loop=IOLoop.current(), **flower_settings)
        made.extend((app, app.start_http_server()))
        loop.run_forever()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    until(lambda: len(made) == 2 or not thread.is_alive(), 10, "the dashboard listens")
    app, port = made
    yield Served(port, app, ",".join(options.get("basic_auth", ())))
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    app.executor.shutdown()


@pytest.fixture(scope="session")
def served(session_server: Any) -> Iterator[Served]:
    """A dashboard without credentials."""
    yield from serve(session_server.url)


@pytest.fixture(scope="session")
def guarded(session_server: Any) -> Iterator[Served]:
    """A dashboard that asks who is there."""
    yield from serve(session_server.url, basic_auth=[f"{NAME}:{PASSWORD}"])


@pytest.fixture
def serving(session_server: Any) -> Iterator[Callable[..., Served]]:
    """Start more of them, with any options; `url` is another server."""
    running: list[Iterator[Served]] = []

    def start(url: str = "", **options: Any) -> Served:
        running.append(serve(url or session_server.url, **options))
        return next(running[-1])

    yield start
    for each in running:
        next(each, None)


@pytest.fixture
def nobody() -> str:
    """The address of a server that is away, with a password in it."""
    return f"redis://:hush-hush@127.0.0.1:{free_port()}/0"


class Timetable(Ledger):
    """Loops that have run."""

    def add(self, *names: str, **more: Any) -> None:
        self.seed([Scheduled(name, 60.0, "loops", **more) for name in names], prune=False)

    def ran(self, name: str, outcome: str = "succeeded", *, now: float | None = None, **more: Any) -> None:
        """A manual run of it."""
        self.gate(
            name, None, "r1", ttl=8.0, deadline=9.0, leader_only=False, owner="", identity="n1", call="c1", now=now
        )
        self.record(name, "r1", outcome, **{"duration": 0.05, "now": now, **more})


@pytest.fixture
def timetable(redis: Redis, session_server: Any) -> Iterator[Timetable]:
    client = connect(session_server.url)
    yield Timetable(client)
    client.close()


@pytest.fixture
def registry(redis: Redis) -> NodeRegistry:
    return NodeRegistry(redis)


@pytest.fixture
def docs() -> Path:
    return Path(__file__).parents[3] / "docs"
