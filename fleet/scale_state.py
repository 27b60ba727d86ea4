"""What scaling knows from run to run, in Redis: written by the loop under its fence, and pinned by an operator."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from redis import Redis

from fleet.decoding import text_of
from fleet.fence import UNFENCED, Fence, FenceRefused, script
from fleet.scale_snapshot import Awaited, Scaling

SCALING = "{backbeat}:scaling"  # hash, field of Scaling -> JSON. No TTL


class ScaleState:
    """The one record of scaling. `pinned` is the operator's field, the others are the loop's."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._write = redis.register_script(script("scale_write"))

    def read(self) -> Scaling:
        """How it stands; a new cluster's is empty. Raises ValueError when the record is malformed."""
        stored: Any = self._redis.hgetall(SCALING)
        known = {}
        for each in fields(Scaling):
            if (value := stored.get(each.name, stored.get(each.name.encode()))) is not None:
                try:
                    known[each.name] = _READ[each.name](json.loads(value))
                except (TypeError, ValueError, OverflowError) as error:
                    raise ValueError(
                        f"{SCALING} is malformed: {each.name} is {text_of(value)[:100]!r} ({error}); to begin anew "
                        f"with it: HDEL {SCALING} {each.name}"
                    ) from error
        return Scaling(**known)

    def write(self, scaling: Scaling, *, fence: Fence = UNFENCED) -> None:
        """Store all but `pinned`. Raises FenceRefused, with nothing written."""
        row = {each.name: getattr(scaling, each.name) for each in fields(scaling) if each.name != "pinned"}
        row["awaited"] = [(name, (wait.since, wait.counted)) for name, wait in sorted(scaling.awaited.items())]
        words = [word for name, value in row.items() for word in (name, json.dumps(value))]
        if refused := self._write(keys=[SCALING, *fence.keys], args=[*fence.args, *words]):
            raise FenceRefused(f"scaling: write refused, for a newer {text_of(refused)} exists")

    def pin(self, nodes: int | None) -> None:
        """Fix the number of nodes, or None: leave it to the loop again. Takes effect at the loop's next run.

        The loop's min_nodes and max_nodes hold all the same. Raises ValueError for a negative number.
        """
        if nodes is None:
            self._redis.hdel(SCALING, "pinned")
        elif type(nodes) is not int or nodes < 0:
            raise ValueError(f"{nodes!r} is no number of nodes: give 0 or more")
        else:
            self._redis.hset(SCALING, "pinned", str(nodes))


#: How each field of Scaling is made of JSON.
_READ: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("last_up_at", "last_down_at", "failed_at", "decided_at"), float),
    **dict.fromkeys(("failures", "seq", "number", "pinned", "nodes", "wanted"), int),
    "reason": str,
    "awaited": lambda rows: {str(name): Awaited(float(at), bool(counted)) for name, (at, counted) in rows},
    "window": lambda rows: tuple((float(since), int(number)) for since, number in rows),
}
