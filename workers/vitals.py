"""What the agent's heartbeat says of its machine, and the hour of it that the node remembers."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from typing import Any

import celery

from fleet.meter import Meter
from fleet.metrics import Minute, Minutes
from fleet.nodes import HEARTBEAT, NodeRegistry
from workers.presence import Reporter, Rows
from workers.pulse import Pulse
from workers.settings import VERSION

#: Seconds after which a measurement is no longer reported: the next one hangs.
STALE_AFTER = 3 * HEARTBEAT


class Vitals(Reporter):
    """Measures in a thread of its own: a file system or a driver that hangs costs the metrics, not the heartbeat."""

    def __init__(
        self,
        nodes: NodeRegistry,
        node_id: str,
        meter: Meter,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._nodes, self._node_id, self._clock = nodes, node_id, clock
        self._first: Callable[[], None] = lambda: None
        self._meter = meter
        self._measured: tuple[float, dict[str, Any]] | None = None
        self._counted: dict[str, Any] | None = None
        self._minutes: Minutes | None = None
        self._is_new = False
        versions = {"python": platform.python_version(), "celery": celery.__version__, "backbeat": VERSION}
        self._facts = {"versions": versions}
        self._pulse = Pulse("node-metrics", HEARTBEAT, self.measure)

    def start(self, first: Callable[[], None]) -> None:
        """Measure from now on; `first` is called after the first time."""
        self._first = first
        self._pulse.start()

    def stop(self) -> None:
        self._pulse.stop()

    def measure(self) -> None:
        """Take a measurement, for the heartbeats of the next seconds."""
        is_first = self._measured is None
        self._measured = (self._clock(), self._meter.measure())
        if is_first:
            self._first()

    def facts(self) -> Mapping[str, Any]:
        return {**self._facts, **self._latest()}

    def history(self) -> Rows | None:
        return self._minutes.rows if self._is_new and self._minutes is not None else None

    def heard(self, at: float) -> None:
        if self._minutes is None:  # this process has the role now: what its predecessor remembered is final
            self._minutes = Minutes(Minute.rows(self._nodes.history(self._node_id)))
        latest = self._latest()
        self._is_new = False
        if latest and latest is not self._counted:
            self._counted = latest
            self._is_new = self._minutes.add(at, latest["metrics"])

    def _latest(self) -> dict[str, Any]:
        measured = self._measured
        return {} if measured is None or self._clock() - measured[0] > STALE_AFTER else measured[1]
