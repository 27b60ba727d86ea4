"""One attempt to bring a node back into its tailnet, and what its agent tells of its tailnet."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fleet.tailnet import Step, Tailnet, next_step
from fleet.tailscale import Port, TailscaleError

#: Seconds between two looks at the status after a step.
LOOK = 1.0
#: Seconds for which a settled state must last: a daemon that starts passes through several.
SETTLED_FOR = 5.0


@dataclass(frozen=True)
class Attempt:
    """The status at its end, and each step that was taken with what went wrong with it."""

    tailnet: Tailnet
    steps: tuple[tuple[Step, str], ...] = ()

    @property
    def errors(self) -> str:
        """What went wrong, in one line."""
        return "; ".join(f"{step}: {error}" for step, error in self.steps if error)


async def attempt(
    port: Port,
    step_timeout: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Attempt:
    """Take the steps that the status calls for, until it is well or none is left.

    A step has `step_timeout` seconds to run and show its effect. What it says of itself only explains a
    failure: whether it helped is read from the status. A node that is well is left alone.
    """
    tailnet = await port.status()
    taken: dict[Step, str] = {}
    while step := next_step(tailnet, taken):
        until = clock() + step_timeout
        taken[step] = ""
        try:
            if step == "restart":
                await port.restart(step_timeout)
            else:
                await port.up(step_timeout, reauth=step == "reauth")
        except TailscaleError as error:
            taken[step] = str(error)
        tailnet = await _settle(port, until, clock, sleep)
    return Attempt(tailnet, tuple(taken.items()))


async def _settle(
    port: Port, until: float, clock: Callable[[], float], sleep: Callable[[float], Awaitable[None]]
) -> Tailnet:
    """The first status that is well, or that will not change any more, or the last one in time."""
    settled: tuple[str, float] | None = None
    while True:
        tailnet = await port.status()
        now = clock()
        if not tailnet.is_settled:
            settled = None
        elif settled is None or settled[0] != tailnet.state:
            settled = tailnet.state, now
        if tailnet.is_well or now >= until or (settled is not None and now - settled[1] >= SETTLED_FOR):
            return tailnet
        await sleep(min(LOOK, until - now))


class TailnetWatch:
    """What this node's agent tells of its tailnet: the last status with its age, and the last attempt.

    `read` and `attempt` block for as long as the programs do, which is bounded; `facts` never does.
    """

    def __init__(
        self, port: Port, is_here: Callable[[], bool] = lambda: True, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._port, self._is_here, self._clock = port, is_here, clock
        self._last: tuple[float, Tailnet] | None = None
        self._attempted: dict[str, Any] | None = None
        self._attempting = threading.Lock()
        #: Called when there is something new to tell.
        self.told: Callable[[], None] = lambda: None

    def read(self) -> None:
        """Read the status, if this machine has the program."""
        self._keep(asyncio.run(self._port.status()) if self._is_here() else None)

    def attempt(self, step_timeout: float) -> bool:
        """Make an attempt, and tell what came of it; False when one is being made already."""
        if not self._attempting.acquire(blocking=False):
            return False
        try:
            made = asyncio.run(attempt(self._port, step_timeout))
            self._attempted = {"steps": [step for step, _ in made.steps], "error": made.errors}
            self._keep(made.tailnet)
        finally:
            self._attempting.release()
        return True

    def facts(self) -> Mapping[str, Any]:
        """The fact `tailnet`: `age` is how many seconds old the status is. Nothing on a machine without the program."""
        if self._last is None:
            return {}
        at, tailnet = self._last
        told = {**tailnet.model_dump(mode="json"), "age": round(self._clock() - at, 1)}
        return {"tailnet": told | ({} if self._attempted is None else {"attempt": self._attempted})}

    def _keep(self, tailnet: Tailnet | None) -> None:
        before = self._last
        self._last = None if tailnet is None else (self._clock(), tailnet)
        if (before and before[1]) != tailnet:
            self.told()
