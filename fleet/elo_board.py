"""What everybody is shown of ratings and targets, in Redis: written by elo_sync and queue_populator under their fences.

One document a configuration, so that a page or a command needs no node's database.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from redis import Redis

from fleet.decoding import text_of
from fleet.fence import UNFENCED, Fence, FenceRefused, script

ELO = "{backbeat}:elo"  # hash: config -> JSON, "" -> what all of it follows from. No TTL
TARGETS = "{backbeat}:targets"  # hash: config -> JSON {target, met, since, reason, at}. No TTL

#: Entries of a ranking, and points of a curve.
RANKED = 50
POINTS = 500

Document = Mapping[str, Any]


class EloBoard:
    """Both hashes."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._publish = redis.register_script(script("elo_publish"))

    def basis(self) -> str:
        """What the published ratings follow from: the digest of the matches, and the mark of the rules; empty when
        nothing is published."""
        found: Any = self._redis.hget(ELO, "")
        return "" if found is None else text_of(found)

    def publish(self, documents: Mapping[str, Document], basis: str, *, fence: Fence = UNFENCED) -> None:
        """Replace what stands there, by configuration, and what it follows from.

        Raises FenceRefused, with nothing written.
        """
        self._replace(ELO, {"": basis, **{config: json.dumps(each) for config, each in documents.items()}}, fence)

    def targets(self, documents: Mapping[str, Document], *, fence: Fence = UNFENCED) -> None:
        """Replace the targets, by configuration: {target, met, since, reason, at}. Raises FenceRefused."""
        self._replace(TARGETS, {config: json.dumps(each) for config, each in documents.items()}, fence)

    def read_targets(self) -> dict[str, dict[str, Any]]:
        """The targets as they stand, by configuration."""
        return decode_board(self._redis.hgetall(TARGETS))

    def read(self) -> dict[str, dict[str, Any]]:
        """By configuration what elo_sync published, with what is said of its target under `target`; one round trip.

        Either may be missing. What cannot be read is left out.
        """
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(ELO)
            pipe.hgetall(TARGETS)
            elo, targets = map(decode_board, pipe.execute())
        merged = {}
        for config in sorted(elo.keys() | targets.keys()):
            merged[config] = {"config": config, **_whole(elo.get(config, {})), "target": targets.get(config)}
        return merged

    def _replace(self, key: str, fields: Mapping[str, str], fence: Fence) -> None:
        words = [word for pair in fields.items() for word in pair]
        if refused := self._publish(keys=[key, *fence.keys], args=[*fence.args, *words]):
            raise FenceRefused(f"ratings: write refused, for a newer {text_of(refused)} exists")


def _whole(document: dict[str, Any]) -> dict[str, Any]:
    """Without those of whom not all is said that is shown: another version may have written it."""
    if "best" in document and not _said({"participant"}, {*_NUMBERS, "lower_bound"}, document["best"]):
        document["best"] = None
    if "ranking" in document:
        listed = document["ranking"] if isinstance(document["ranking"], list) else []
        document["ranking"] = [each for each in listed if _said({"participant", "type"}, _NUMBERS, each)]
    return document


def _said(words: set[str], numbers: set[str], each: Any) -> bool:
    """Whether it says all of that."""
    return (
        isinstance(each, dict)
        and all(isinstance(each.get(name), str) for name in words)
        and all(isinstance(each.get(name), int | float) for name in numbers)
    )


_NUMBERS = {"rating", "deviation", "games"}


def decode_board(stored: Mapping[Any, Any]) -> dict[str, dict[str, Any]]:
    """Either hash, by configuration. What cannot be read is left out."""
    found = {}
    for name, value in stored.items():
        if not (config := text_of(name)):
            continue
        try:
            document = json.loads(value)
        except ValueError:
            continue
        if isinstance(document, dict):
            found[config] = document
    return found
