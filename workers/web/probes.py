"""What programs ask the dashboard: the status document, liveness, readiness, and Prometheus metrics."""

from __future__ import annotations

from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from pydantic_core import to_json
from redis import RedisError
from tornado.web import authenticated

from fleet.elo_board import EloBoard
from workers.status import read_overview
from workers.web.metrics import Collector
from workers.web.page import Handler, Reader, again


class Status(Handler):
    """`GET /status`: the same document as `backbeat status --json`."""

    @authenticated
    async def get(self) -> None:
        self.set_header("Content-Type", "application/json")
        self.set_header("Cache-Control", "no-store")
        try:
            body = await self.reader.read(self.reader.document.read)
        except RedisError as error:
            self.set_status(503)
            body = to_json({"error": self.reader.trouble(error)})
        self.finish(body)

    def compute_etag(self) -> None:
        """None: the document is another one each time, and its checksum costs more than it saves."""


class Healthy(Handler):
    """`GET /healthz`: this process answers. It needs nothing else, so nobody restarts it for what is not its fault."""

    def get(self) -> None:
        self.set_header("Content-Type", "text/plain")
        self.finish("ok\n")


class Ready(Handler):
    """`GET /readyz`: 200 when the server answers, else 503 and why."""

    async def get(self) -> None:
        self.set_header("Content-Type", "text/plain")
        try:
            await self.reader.read(self.reader.redis.ping)
        except RedisError as error:
            self.set_status(503)
            self.finish(f"{self.reader.trouble(error)}\n")
        else:
            self.finish("ready\n")


class Metrics(Handler):
    """`GET /metrics`: Flower's own metrics and ours, gathered beside the event loop, for ours ask the server."""

    async def get(self) -> None:
        self.application.purge_offline_worker_metrics()
        self.set_header("Content-Type", CONTENT_TYPE_LATEST)
        registries = REGISTRY, self.application.metrics
        self.finish(await self.reader.read(lambda: b"".join(map(generate_latest, registries))))


def registry(reader: Reader) -> CollectorRegistry:
    """Our metrics; Flower's own are in the registry of the process."""
    board = EloBoard(reader.redis)

    def read() -> dict[str, Any]:
        return {**again(lambda: read_overview(reader.ledger)), "elo": again(board.read)}

    ours = CollectorRegistry()
    ours.register(Collector(read))
    return ours
