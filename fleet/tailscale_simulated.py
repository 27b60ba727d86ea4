"""A tailscale in memory, on a clock of its own: what `Tailscale` talks to, with its faults on demand."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any, Literal

from fleet.tailnet import Step, Tailnet, read
from fleet.tailscale import STATUS_WITHIN, TailscaleError

#: hang: never ends. lie: says that all went well, and did nothing. fail: says that it failed, and did nothing.
#: sulk: says that it failed, and did it. slow: takes 3 s. malformed: prints half of its answer.
Fault = Literal["hang", "lie", "fail", "sulk", "slow", "malformed"]

SLOW = 3.0


class SimulatedTailscale:
    """See `fleet.tailscale.Port`. `helps` are the steps that bring it to Running; `faults` go by step, or `status`."""

    def __init__(
        self,
        state: str = "Running",
        *,
        itself: Mapping[str, Any] | None = None,
        helps: Collection[Step] = (),
        faults: Mapping[str, Fault] | None = None,
    ) -> None:
        self.state = state
        self.itself: dict[str, Any] = {"Online": state == "Running", "TailscaleIPs": ["100.64.0.1"], **(itself or {})}
        self.helps, self.faults = helps, dict(faults or {})
        self.calls: list[str] = []
        self.now = 0.0

    def clock(self) -> float:
        """Seconds that went by so far."""
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Let time go by."""
        self.now += seconds

    async def status(self) -> Tailnet:
        """See `Port`."""
        fault = self.faults.get("status")
        if fault == "hang":
            self.now += STATUS_WITHIN
            return Tailnet.unknown(f"tailscale did not end within {STATUS_WITHIN:g} s")
        if fault == "fail":
            return Tailnet.unknown("failed to connect to local tailscaled")
        self.now += SLOW if fault == "slow" else 0.0
        printed = json.dumps({"BackendState": self.state, "Self": self.itself, "Peer": {}, "NotOurs": [1]}).encode()
        return read(printed[: len(printed) // 2] if fault == "malformed" else printed)

    async def restart(self, seconds: float) -> None:
        """See `Port`."""
        self._do("restart", seconds)

    async def up(self, seconds: float, *, reauth: bool = False) -> None:
        """See `Port`."""
        self._do("reauth" if reauth else "up", seconds)

    def _do(self, step: Step, seconds: float) -> None:
        self.calls.append(step)
        fault = self.faults.get(step)
        if fault == "hang":
            self.now += seconds
            raise TailscaleError(f"{step} did not end within {seconds:g} s")
        self.now += SLOW if fault == "slow" else 0.0
        if step in self.helps and fault not in ("lie", "fail"):
            self.state = "Running"
            self.itself |= {"Online": True, "Expired": False}
            self.faults.pop("status", None)
        if fault in ("fail", "sulk"):
            raise TailscaleError(f"{step} ended with exit code 1")
