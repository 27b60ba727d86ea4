"""Models for tests: small contents, whose versions are named as real ones are."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from fleet.model_registry import ModelRegistry
from fleet.model_shelf import Keeping, Published, Shelf
from fleet.models import ConfigModels, Manifest, Promotion, Version, assembled, version_name
from fleet.store import Pace, Store

NOW = 1_700_000_000.0


#: Bytes of a model.
SIZE = 1984


def contents(number: int) -> bytes:
    """What model `number` consists of."""
    return hashlib.sha256(str(number).encode()).digest() * (SIZE // 32)


def version(number: int, config: str = "hex5_2p", *, created_at: float | None = None, **changed: Any) -> Version:
    """The record of model `number`."""
    sha256 = hashlib.sha256(contents(number)).hexdigest()
    return Version(
        **{
            "config": config,
            "version": version_name(config, number, sha256),
            "sha256": sha256,
            "size": len(contents(number)),
            "created_at": NOW + number if created_at is None else created_at,
            "generation": number,
            "games": 100 * number,
            **changed,
        }
    )


def promotion(number: int, at: int, config: str = "hex5_2p", *, kind: str = "promotion") -> Promotion:
    return Promotion.model_validate(
        {"config": config, "version": version(number, config).version, "at": at, "kind": kind}
    )


def models(count: int, *promoted: int, config: str = "hex5_2p") -> ConfigModels:
    """Versions 1 to `count`, and the promotions in their order; a negative number is a rollback to it."""
    records = [
        promotion(abs(number), 1000 + at, config, kind="promotion" if number > 0 else "rollback")
        for at, number in enumerate(promoted)
    ]
    return assembled(config, [version(number, config) for number in range(1, count + 1)], records)


def leave(data: Path, number: int, board: str = "hex5_2p", **changed: Any) -> Path:
    """What a training job does with a new model; returns the note."""
    new = data / "models" / "new"
    new.mkdir(parents=True, exist_ok=True)
    stem = f"{board}-{number}"
    (new / f"{stem}.npz").write_bytes(contents(number))
    note = {"config": board, "file": f"{stem}.npz", "parent": None, "generation": number, "games": 100 * number}
    part = new / f".{stem}.json.part"
    part.write_text(json.dumps({**note, "metrics": {"loss": 0.5}, **changed}))
    return part.replace(new / f"{stem}.json")


def stocked(store: Store, folder: Path, *versions: Version) -> ModelRegistry:
    """A registry that holds them."""
    registry = ModelRegistry(store)
    for each in versions:
        file = folder / "source"
        file.write_bytes(contents(each.generation))
        registry.add(each, file)
    return registry


KEEPING = Keeping(newest=2, unlisted_for=100.0)
CONFIG = "hex5_2p"


def name(number: int) -> str:
    return version(number).version


def publish(data: Path, store: Store, *, keeping: Keeping = KEEPING) -> Published:
    return Shelf(data).publish(ModelRegistry(store), "n1", keeping, Pace())


def pull(data: Path, store: Store, number: int, *, keeping: Keeping = KEEPING) -> int:
    return Shelf(data).pull(ModelRegistry(store), CONFIG, name(number), keeping, Pace())


def listed(data: Path) -> list[str]:
    return [each.version for each in Manifest.read(data, CONFIG).versions]


def whole(data: Path) -> bool:
    """Whether everything that jobs can see here is what it is called."""
    for number in range(1, 10):
        for path in (data / "models" / CONFIG).glob(name(number)):
            if path.read_bytes() != contents(number):
                return False
    return all((data / "models" / CONFIG / each).is_file() for each in listed(data))
