"""Several nodes on one server, in this process: what one asks of another is served at once, as its agent would."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from redis import Redis

from fleet.fleet import Fleet
from fleet.holdings import READERS, Holdings, Read
from fleet.jobs import JobQueue
from fleet.nodes import NodeRegistry
from fleet.notices import Notices
from fleet.options import FleetOptions
from tasks.node import discover_node_tasks, serve


class Nodes:
    """Nodes by name, each with a data directory of its own. One of `away` is heard, but answers nobody."""

    def __init__(
        self,
        redis: Redis,
        folder: Path,
        *names: str,
        options: FleetOptions | None = None,
        readers: Mapping[str, Read] = READERS,
        capabilities: Mapping[str, list[str]] | None = None,
    ) -> None:
        self.redis = redis
        self.away: set[str] = set()
        self.asked: list[tuple[str, str]] = []
        self.runs: list[str] = []
        self._tasks = discover_node_tasks()
        registry = NodeRegistry(redis)
        self.fleets: dict[str, Fleet] = {}
        for name in names:
            data = folder / name
            data.mkdir(parents=True, exist_ok=True)
            offered = (capabilities or {}).get(name, ["cpu"])
            registry.heartbeat(name, "agent", {"host": name, "pid": 1})
            registry.heartbeat(name, "jobs", {"host": name, "pid": 2, "capabilities": offered, "slots": 1})
            self.fleets[name] = Fleet(
                redis=redis,
                options=options or FleetOptions(),
                jobs=JobQueue(redis),
                nodes=registry,
                notices=Notices(redis=redis, interval=0),
                node_id=name,
                data=data,
                ask=self.ask,
                run=self.runs.append,
                holdings=Holdings(registry, name, data, readers=readers),
            )

    def __getitem__(self, name: str) -> Fleet:
        return self.fleets[name]

    def change(self, name: str, **changes: Any) -> Fleet:
        """Give one node something else, such as a store."""
        self.fleets[name] = replace(self.fleets[name], **changes)
        return self.fleets[name]

    def report(self) -> None:
        """Every node says what it holds."""
        for fleet in self.fleets.values():
            fleet.report_holdings()

    def ask(self, node_id: str, task: str, arguments: Mapping[str, Any], reply: str | None = None, /) -> None:
        """Serve it in a thread, as an agent's pool would; what it raises is answered, as there."""
        self.asked.append((node_id, task))
        if node_id in self.away:
            return

        def run() -> None:
            try:
                serve(self.fleets[node_id], self._tasks[task], dict(arguments), reply)
            except Exception:
                if reply is None:
                    raise

        threading.Thread(target=run, daemon=True).start()
