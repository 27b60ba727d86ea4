"""The right to write, checked by the store itself.

A paused process may act long after its lease is gone, and no clock of its own can tell it. So every
write of a loop carries a fence, and the script that performs the write refuses it when

* the loop is leader-only and an equal or newer fence has been seen from another owner, or
* the run that was handed the fence is no longer the loop's current run (it overran its deadline or
  lost its lease).

This promises at most one accepted stream of leader writes per fence. It does not stop a stale body
from running, nor does it fence effects outside Redis: those need an idempotency key.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources


class FenceRefused(Exception):
    """A newer leader or a newer run exists: this one must stop. Nothing was written."""


@dataclass(frozen=True)
class Fence:
    """What a run shows at each write.

    `leader` is the leader's term number, or 0 for a loop that any node may run; `owner` the lease's
    owner token; `run` the token of this run. The two keys are where Redis remembers the newest fence
    and the loop's current run.
    """

    leader: int
    owner: str
    run: str
    guard_key: str
    loop_key: str

    @property
    def since(self) -> float:
        """When the leader's term began, which its number tells: ms of Redis time. 0 without a leader."""
        return self.leader / 1000

    @property
    def keys(self) -> list[str]:
        return [self.guard_key, self.loop_key]

    @property
    def args(self) -> list[str | int]:
        return [self.leader, self.owner, self.run]


#: For writes that no loop makes (an operator's command, a test): the script skips the check.
UNFENCED = Fence(leader=0, owner="", run="", guard_key="", loop_key="")


def script(name: str) -> str:
    """The text of `fleet/lua/<name>.lua`, with the fence check in front of it."""
    folder = resources.files("fleet") / "lua"
    return (folder / "fence.lua").read_text() + "\n" + (folder / f"{name}.lua").read_text()
