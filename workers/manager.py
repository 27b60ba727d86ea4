"""LoopManager: what an operator or a program says to the loops, from any process.

It writes desired state into the ledger; beat and the workers read it at their next poll (half a
second). Nothing is broadcast, so it works while workers are away, and what it says outlives restarts.
"""

from __future__ import annotations

import difflib
import math
import uuid
from collections.abc import Callable
from typing import Any

from workers.ledger import Ledger, Scheduled
from workers.status import read_status


class UnknownLoop(LookupError):
    """No loop of that name is in the timetable. Names the nearest, or all there are."""

    def __init__(self, name: str, known: list[str]) -> None:
        if near := difflib.get_close_matches(name, known, 1):
            hint = f"did you mean {near[0]!r}?"
        else:
            hint = f"known are {', '.join(known)}" if known else "there are none yet: beat writes them when it starts"
        super().__init__(f"no loop is named {name!r}; {hint}")


class RefusedByState(Exception):
    """The loop's state does not allow what was asked."""


class LoopManager:
    """Steers loops through the ledger. `send(name, queue, call)` publishes a manual run under the id `call`.

    Every method raises redis.RedisError when Redis is away, and UnknownLoop for a name it does not know.
    """

    def __init__(self, ledger: Ledger, send: Callable[[str, str, str], None]) -> None:
        self._ledger, self._send = ledger, send

    def register(self, loop: Scheduled) -> None:
        """Add a loop to the timetable, or change its row; workers must know its task."""
        self._ledger.seed([loop], prune=False)

    def start(self, name: str) -> None:
        """Let a stopped loop tick again; its backoff is forgotten."""
        self._say(name, "start")

    def stop(self, name: str) -> None:
        """No more runs, manual ones included, until `start`. A run that goes on ends by itself."""
        self._say(name, "stop")

    def pause(self, name: str) -> None:
        """No more scheduled ticks until `resume`; a manual run is still possible."""
        self._say(name, "pause")

    def resume(self, name: str) -> None:
        """The next slot ticks again."""
        self._say(name, "resume")

    def set_interval(self, name: str, seconds: float) -> None:
        """Change the cadence, kept until the plan's interval is edited. ValueError: below 0.1 s, or infinite."""
        if not 0.1 <= seconds < math.inf:
            raise ValueError(f"an interval is at least 0.1 s and finite, not {seconds!r}")
        self._say(name, "interval", seconds)

    def run(self, name: str, call: str | None = None) -> str:
        """Send a manual run: it skips cadence and backoff, never the run lease or the leader gate.

        Returns its id: the loop's status tells under `manual` what came of it.
        """
        loop = self.get_all_status().get(name)
        if loop is None:
            raise UnknownLoop(name, self.names())
        if not loop["enabled"]:
            raise RefusedByState(f"{name} is disabled in the configuration (enabled: false)")
        if loop["stopped"]:
            raise RefusedByState(f"{name} is stopped; start it first: backbeat start {name}")
        call = call or f"{name}:manual:{uuid.uuid4().hex[:12]}"
        self._send(name, loop["queue"], call)
        return call

    def start_all(self) -> list[str]:
        """Start every loop; returns their names."""
        return self._all(self.start)

    def stop_all(self) -> list[str]:
        """Stop every loop; returns their names."""
        return self._all(self.stop)

    def pause_all(self) -> list[str]:
        """Pause every loop; returns their names."""
        return self._all(self.pause)

    def resume_all(self) -> list[str]:
        """Resume every loop; returns their names."""
        return self._all(self.resume)

    def names(self) -> list[str]:
        """Every loop in the timetable."""
        return self._ledger.names()

    def get_status(self) -> dict[str, Any]:
        """The status document of the whole cluster."""
        return read_status(self._ledger)

    def get_all_status(self) -> dict[str, dict[str, Any]]:
        """Each loop's part of the status document, by name."""
        loops: dict[str, dict[str, Any]] = self.get_status()["loops"]
        return loops

    def _all(self, act: Callable[[str], None]) -> list[str]:
        names = self.names()
        for name in names:
            act(name)
        return names

    def _say(self, name: str, action: str, value: float | None = None) -> None:
        if not self._ledger.control(name, action, value):
            raise UnknownLoop(name, self.names())
