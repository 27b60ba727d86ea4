"""What gathering remembers from run to run, in Redis, written under the loop's fence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from redis import Redis

from fleet.decoding import text_of
from fleet.fence import UNFENCED, Fence, FenceRefused, script
from fleet.gathering import Memory

#: hash: node -> JSON of its Memory; `` -> the central node, and what operators were told. No TTL
GATHERING = "{backbeat}:gathering"


@dataclass(frozen=True)
class Record:
    """All of it. `said` are the complaints that an operator was told of and that still hold."""

    memories: Mapping[str, Memory] = field(default_factory=dict)
    central: str | None = None
    said: tuple[str, ...] = ()


class GatheringState:
    """The one record of gathering."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._write = redis.register_script(script("gathering_write"))

    def read(self) -> Record:
        """How it stands. A field of another form counts as absent: what is remembered only spares work."""
        stored: Any = self._redis.hgetall(GATHERING)
        fields = {text_of(name): value for name, value in stored.items()}
        memories, whole = {}, _read(fields.pop("", None), _whole) or Record()
        for name, value in fields.items():
            if (memory := _read(value, _memory)) is not None:
                memories[name] = memory
        return Record(memories, whole.central, whole.said)

    def write(self, record: Record, *, fence: Fence = UNFENCED) -> None:
        """Replace all of it. Raises FenceRefused, with nothing written."""
        rows = {name: json.dumps(asdict(memory)) for name, memory in record.memories.items()}
        rows[""] = json.dumps({"central": record.central, "said": record.said})
        words = [word for row in rows.items() for word in row]
        if refused := self._write(keys=[GATHERING, *fence.keys], args=[*fence.args, *words]):
            raise FenceRefused(f"gathering: write refused, for a newer {text_of(refused)} exists")


def _read(value: Any, form: Any) -> Any:
    try:
        return None if value is None else form(json.loads(value))
    except (TypeError, ValueError, KeyError, AttributeError):
        return None


def _memory(row: Any) -> Memory:
    return Memory(float(row["since"]), int(row["failures"]), float(row["not_before"]))


def _whole(row: Any) -> Record:
    return Record({}, None if row["central"] is None else str(row["central"]), tuple(map(str, row["said"])))
