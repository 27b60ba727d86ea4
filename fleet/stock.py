"""What the cluster has of each configuration to work with, from what its nodes say they hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Stock:
    """One configuration's: games gathered for training, model versions, and how many games the last one saw.

    `trained_on` is None where no training has left a model yet.
    """

    gathered: int = 0
    models: int = 0
    trained_on: int | None = None


def stock(held: Iterable[Mapping[str, Mapping[str, Any]]]) -> dict[str, Stock]:
    """By configuration, from each node's holdings, a part each (see fleet.holdings).

    Nodes hold the same things, or some of them, so it is the most that any node has, and not the sum.
    What has another form than it should counts as nothing: another node's word may be of another version.
    """
    found: dict[str, Stock] = {}
    for parts in held:
        for config, gathered in _items(parts.get("games"), "gathered"):
            known = found.get(config, Stock())
            found[config] = replace(known, gathered=max(known.gathered, _number(gathered) or 0))
        for config, models in _items(parts.get("models")):
            if isinstance(models, Mapping):
                known = found.get(config, Stock())
                versions, seen = models.get("versions"), _number(models.get("trained_on"))
                have = len(versions) if isinstance(versions, list | tuple) else 0
                newest = known.trained_on if seen is None else max(known.trained_on or 0, seen)
                found[config] = replace(known, models=max(known.models, have), trained_on=newest)
    return found


def _items(part: Any, key: str | None = None) -> list[tuple[str, Any]]:
    value = part.get(key) if key is not None and isinstance(part, Mapping) else part
    return list(value.items()) if isinstance(value, Mapping) else []


def _number(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None
