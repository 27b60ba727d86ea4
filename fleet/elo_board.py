"""The board of Elo: how strong the models of each configuration are, and what is wanted of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json
from redis import Redis

from fleet.decoding import text_of
from fleet.fence import UNFENCED, Fence, FenceRefused, script

ELO = "{backbeat}:elo"  # hash: configuration -> what elo_sync published of it (JSON); "" -> digest of the whole set
TARGETS = "{backbeat}:targets"  # hash: configuration -> its target, and since when it is met (JSON)


class EloBoard:
    """What elo_sync and queue_populator publish. Raises redis.RedisError when Redis is away."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._write = redis.register_script(script("board_write"))

    def targets(self, documents: Mapping[str, Mapping[str, Any]], fence: Fence = UNFENCED) -> None:
        """Publish the targets of exactly these configurations. Raises FenceRefused, with nothing written."""
        words = [word for config, document in documents.items() for word in (config, json.dumps(document))]
        if refused := self._write(keys=[TARGETS, *fence.keys], args=[*fence.args, *words]):
            raise FenceRefused(f"targets: write refused, for a newer {text_of(refused)} exists")

    def read(self) -> dict[str, dict[str, Any]]:
        """By configuration, what is known of its Elo and its target; one round trip."""
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(ELO)
            pipe.hgetall(TARGETS)
            return decode(*pipe.execute())


def decode(elo: Mapping[Any, Any], targets: Mapping[Any, Any]) -> dict[str, dict[str, Any]]:
    """The two hashes as one, by configuration."""
    board: dict[str, dict[str, Any]] = {}
    for published in (elo, targets):
        for name, value in sorted(published.items()):
            if config := text_of(name):
                board.setdefault(config, {"config": config}).update(from_json(value))
    return board
