"""The board of Elo: how strong the models of each configuration are, and what is wanted of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json
from redis import Redis

from fleet.decoding import text_of

ELO = "{backbeat}:elo"  # hash: configuration -> what elo_sync published of it (JSON); "" -> digest of the whole set
TARGETS = "{backbeat}:targets"  # hash: configuration -> its target, and since when it is met (JSON)


class EloBoard:
    """What elo_sync and queue_populator publish. Raises redis.RedisError when Redis is away."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

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
