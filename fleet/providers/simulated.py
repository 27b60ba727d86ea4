"""A provider in memory, on a clock that whoever drives it sets, with the faults that real ones have.

In a configuration it is a rehearsal: its instances live and die with the process that leads, and their
nodes are heard of, but run nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from fleet.providers.port import Instance, ProviderError, ProviderSilent, check_name

#: refuses: does nothing and says so; hangs: does nothing and does not answer; lost: does it, but the answer
#: does not come; half: does it for the first ones, then refuses; fewer: the same, and says nothing of it;
#: deaf: does it, but the nodes never join; forgets: leaves those that have joined out of the list.
Fault = Literal["", "refuses", "hangs", "lost", "half", "fewer", "deaf", "forgets"]


class SimulatedOptions(BaseModel):
    """What its instances are like."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    join_after: float = Field(default=60.0, ge=0, allow_inf_nan=False, description="seconds from start to join")
    cost_per_hour: float | None = Field(default=None, ge=0, allow_inf_nan=False)


@dataclass
class _Machine:
    started_at: float
    joins: bool


class Simulated:
    """`faults` is asked at each call (`instances`, `start`, `stop`) what goes wrong this time; "" is nothing.

    `now` is its clock, in seconds.
    """

    def __init__(self, options: SimulatedOptions, faults: Callable[[str], Fault] = lambda _call: "") -> None:
        self.now = 0.0
        self.faults = faults
        self._options = options
        self._machines: dict[str, _Machine] = {}

    @property
    def joined(self) -> list[str]:
        """Names of the instances whose nodes should be heard by now."""
        since = self.now - self._options.join_after
        return [name for name, machine in self._machines.items() if machine.joins and machine.started_at <= since]

    def instances(self) -> list[Instance]:
        """See `Provider`."""
        fault = self._fault("instances")
        joined = set(self.joined)
        return [
            Instance(name, "running" if name in joined else "starting", self._options.cost_per_hour)
            for name in self._machines
            if fault != "forgets" or name not in joined
        ]

    def start(self, names: Sequence[str], key: str) -> None:
        """See `Provider`."""
        fault = self._fault("start")
        for name in self._reached(names, fault):
            self._machines.setdefault(name, _Machine(self.now, fault != "deaf"))
        self._answer(fault, "start", key)

    def stop(self, names: Sequence[str], key: str) -> None:
        """See `Provider`."""
        fault = self._fault("stop")
        for name in self._reached(names, fault):
            self._machines.pop(name, None)
        self._answer(fault, "stop", key)

    def _fault(self, call: str) -> Fault:
        fault = self.faults(call)
        if fault == "refuses":
            raise ProviderError(f"the simulated provider refuses: {call}")
        if fault == "hangs":
            raise ProviderSilent(f"the simulated provider does not answer: {call}")
        return fault

    def _reached(self, names: Sequence[str], fault: Fault) -> Sequence[str]:
        checked = list(map(check_name, names))
        return checked[: len(checked) // 2] if fault in ("half", "fewer") else checked

    def _answer(self, fault: Fault, call: str, key: str) -> None:
        if fault == "half":
            raise ProviderError(f"the simulated provider gives up half-way: {call} {key}")
        if fault == "lost":
            raise ProviderSilent(f"the simulated provider's answer was lost: {call} {key}")
