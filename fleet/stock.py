"""What the cluster has of each configuration to work with, from what its nodes say they hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Stock:
    """One configuration's: games gathered for training, model versions, how many games the last one saw, and its name.

    `trained_on` is None where no training has left a model yet, and `newest` where no node has one.
    """

    gathered: int = 0
    models: int = 0
    trained_on: int | None = None
    newest: str | None = None


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
                have = (
                    [each for each in versions if isinstance(each, str)] if isinstance(versions, list | tuple) else []
                )
                found[config] = Stock(
                    known.gathered,
                    max(known.models, len(have)),
                    known.trained_on if seen is None else max(known.trained_on or 0, seen),
                    # a generation has four digits or more, so of longer names the generation is higher
                    max(
                        [*have, *([known.newest] if known.newest else [])],
                        key=lambda name: (len(name), name),
                        default=None,
                    ),
                )
    return found


def _items(part: Any, key: str | None = None) -> list[tuple[str, Any]]:
    value = part.get(key) if key is not None and isinstance(part, Mapping) else part
    return list(value.items()) if isinstance(value, Mapping) else []


def _number(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None
