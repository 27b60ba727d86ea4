"""The node's place in its tailnet, as its agent's heartbeat says it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from fleet.tailnet_attempt import TailnetWatch
from fleet.tailscale import TailnetOptions
from workers.children import MARK
from workers.presence import Reporter, Rows
from workers.pulse import Pulse

#: Seconds between two looks.
PERIOD = 30.0


def has_tailnet(options: TailnetOptions) -> bool:
    """Whether this node is in a tailnet: it has the program, and is no part of a `backbeat up`, whose nodes share a
    machine that is somebody's own."""
    return MARK not in os.environ and options.is_here()


class Membership(Reporter):
    """Adds `tailnet` to what another reporter says. It looks in a thread of its own: a program that hangs costs
    nothing else."""

    def __init__(self, reporter: Reporter, watch: TailnetWatch) -> None:
        self._reporter, self._watch = reporter, watch
        self._pulse = Pulse("node-tailnet", PERIOD, watch.read)

    def start(self, nudge: Callable[[], None]) -> None:
        """Look from now on; `nudge` is called when there is something new to say."""
        self._watch.told = nudge
        self._pulse.start()

    def stop(self) -> None:
        self._pulse.stop()

    def facts(self) -> Mapping[str, Any]:
        return {**self._reporter.facts(), **self._watch.facts()}

    def history(self) -> Rows | None:
        return self._reporter.history()

    def heard(self, at: float) -> None:
        self._reporter.heard(at)
