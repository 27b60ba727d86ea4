"""When the main loop of this process turned last: what its liveness is judged by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from workers.lease import boottime


class MainLoop:
    """When the main loop of this process turned last, and whether it was told to end."""

    def __init__(self, clock: Callable[[], float] = boottime) -> None:
        self._clock = clock
        self.turned_at, self.ends = clock(), False

    def turn(self, *_: Any) -> None:
        """Called by the main loop."""
        self.turned_at = self._clock()

    def end(self, **_: Any) -> None:
        """This process was told to end: its main loop turns no more, and may wait long for what still runs."""
        self.ends = True

    def idle_for(self) -> float:
        return self._clock() - self.turned_at


#: Of this process.
MAIN_LOOP = MainLoop()
