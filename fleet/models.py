"""What models there are: the versions of a configuration, and which of them is promoted.

Both are records in the store that never change: one for each version, and a growing list of promotions, whose
last one rules; to roll back is to add one more. Records come from other machines and are read strictly.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    ValidationError,
    model_validator,
)

from fleet.configs import BoardConfig

#: Bytes of the largest record, manifest of one configuration, and note that a model is left with.
RECORD_LIMIT, MANIFEST_LIMIT = 64 << 10, 8 << 20
MODELS, NEW, MANIFEST = "models", "new", "manifest.json"
#: Of a node: what was refused, and why.
REFUSALS = "refused.json"
#: What a note becomes when its model is published, until the model has moved to its place.
DONE = ".json.done"

_VERSION = re.compile(r"[a-z][a-z0-9]{0,31}_[2-9]p-g[0-9]{4,9}-[0-9a-f]{12}")


class Refused(Exception):
    """A record, or what a job left, is not what it should be; the message says where and why."""


def check_config(name: str) -> str:
    """The name, if it is a configuration's; else raise ValueError. It becomes part of a path."""
    return str(BoardConfig.parse(name))


def check_version(name: str) -> str:
    """The name, if it is a version's; else raise ValueError. It becomes part of a path."""
    if _VERSION.fullmatch(name) is None:
        raise ValueError(f"{name[:100]!r} is no version such as hex8_2p-g0007-3fa91c0d22ab")
    return name


def version_name(config: str, generation: int, sha256: str) -> str:
    """What a version is called: in the registry, as a file, and as a participant of matches."""
    return f"{config}-g{generation:04d}-{sha256[:12]}"


def config_of(version: str) -> str:
    """The configuration in a version's name. Raises ValueError."""
    return check_version(version).partition("-")[0]


_Config = Annotated[str, AfterValidator(check_config)]
_Version = Annotated[str, AfterValidator(check_version)]
_Count = Annotated[int, Field(ge=0, lt=10**9)]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    config: _Config


R = TypeVar("R", bound=_Record)


class Leftover(_Record):
    """The note with which a job leaves a model in `models/new/`."""

    file: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}$")]
    parent: _Version | None = None
    generation: _Count
    games: _Count = 0
    metrics: dict[str, JsonValue] = Field(default_factory=dict)


class Version(_Record):
    """One model. `games` are the gathered games there were when it was trained; `created_at` is seconds since the
    epoch, by the clock of the node that trained it."""

    version: _Version
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    size: Annotated[int, Field(ge=0, lt=1 << 53)]
    created_at: Annotated[float, Field(ge=0, lt=1e11)]
    parent: _Version | None = None
    generation: _Count
    games: _Count = 0
    metrics: dict[str, JsonValue] = Field(default_factory=dict)
    node: Annotated[str, StringConstraints(max_length=64)] = ""

    @model_validator(mode="after")
    def _named_for_its_contents(self) -> Self:
        if self.version != (name := version_name(self.config, self.generation, self.sha256)):
            raise ValueError(f"version is {self.version!r}, but what it says makes it {name!r}")
        return self

    @property
    def blob(self) -> str:
        """The key of its contents."""
        return f"blobs/{self.sha256[:2]}/{self.sha256}"

    @property
    def key(self) -> str:
        return f"{MODELS}/{self.config}/versions/{self.version}.json"

    def listed(self) -> dict[str, Any]:
        """Its entry in a manifest."""
        kept = ("version", "sha256", "size", "created_at", "parent", "generation", "games")
        return {"file": self.version, **{name: getattr(self, name) for name in kept}}


class Promotion(_Record):
    """That a version is the one to play from now on, who said so and why. `at` is milliseconds since the epoch."""

    version: _Version
    kind: Literal["promotion", "rollback"] = "promotion"
    by: Annotated[str, StringConstraints(max_length=200)] = ""
    why: Annotated[str, StringConstraints(max_length=2000)] = ""
    at: Annotated[int, Field(ge=0, lt=10**15)]


def parse(model: type[R], data: bytes, where: str) -> R:
    """Read a record. Raises Refused, which names every key that is wrong."""
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        problems = (
            ".".join(map(str, each["loc"])) + (": " if each["loc"] else "") + each["msg"] for each in error.errors()
        )
        raise Refused(f"{where}: {'; '.join(problems)[:500]}") from error


@dataclass(frozen=True)
class ConfigModels:
    """The models of one configuration: versions, the oldest first, and its promotions in their order."""

    config: str
    versions: tuple[Version, ...] = ()
    promotions: tuple[Promotion, ...] = ()

    @cached_property
    def by_name(self) -> Mapping[str, Version]:
        return {version.version: version for version in self.versions}

    @cached_property
    def _history(self) -> tuple[tuple[Promotion, ...], frozenset[str]]:
        """The promotions that were not rolled back, and the versions that were."""
        standing: list[Promotion] = []
        fallen: set[str] = set()
        for each in self.promotions:
            if each.version not in self.by_name:
                continue
            if each.kind == "rollback":
                while standing and standing[-1].version != each.version:
                    fallen.add(standing.pop().version)
            if not standing or standing[-1].version != each.version:
                standing.append(each)
            fallen.discard(each.version)
        return tuple(standing), frozenset(fallen)

    @property
    def standing(self) -> tuple[Promotion, ...]:
        """The promotions that were not rolled back, the oldest first."""
        return self._history[0]

    @property
    def rolled_back(self) -> frozenset[str]:
        """Versions that were taken back, and not promoted again since."""
        return self._history[1]

    @property
    def promoted(self) -> str | None:
        return self.standing[-1].version if self.standing else None

    @property
    def previous(self) -> str | None:
        """The version to which a rollback leads."""
        return self.standing[-2].version if len(self.standing) > 1 else None

    def wanted(self, keep: int) -> tuple[Version, ...]:
        """What every node should hold: the promoted version, the previous one, and the `keep` newest."""
        newest = reversed(self.versions[-keep:] if keep else ())
        names = dict.fromkeys([self.promoted, self.previous, *(version.version for version in newest)])
        return tuple(self.by_name[name] for name in names if name is not None)


def assembled(config: str, versions: Sequence[Version], promotions: Sequence[Promotion]) -> ConfigModels:
    """The same models whatever order their records came in."""
    return ConfigModels(
        config,
        tuple(sorted(versions, key=lambda each: (each.created_at, each.generation, each.version))),
        tuple(sorted(promotions, key=lambda each: (each.at, each.version, each.kind))),
    )


class Listed(BaseModel):
    """A version in a manifest: it is here, whole and checked."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    version: _Version
    file: str
    sha256: str
    size: int
    created_at: float
    parent: str | None
    generation: int
    games: int


class Manifest(_Record):
    """Which models of a configuration are on this node: `models/<config>/manifest.json`, which jobs read.

    `promoted` is the newest of the standing promotions that is here, `previous` the one before that is here.
    """

    promoted: _Version | None = None
    previous: _Version | None = None
    versions: tuple[Listed, ...] = ()

    @classmethod
    def read(cls, data: Path, config: str) -> Manifest:
        """What it says; nothing when there is none. Raises Refused."""
        path = data / MODELS / config / MANIFEST
        try:
            with path.open("rb") as file:
                text = file.read(MANIFEST_LIMIT)
        except FileNotFoundError:
            return cls(config=config)
        return parse(cls, text, str(path))

    def encoded(self) -> bytes:
        return (json.dumps(self.model_dump(mode="json"), indent=1) + "\n").encode()


def holdings(data: Path) -> Mapping[str, Any]:
    """The models of a node: by configuration what its manifest lists, how many leftovers are `unpublished`, how many
    files no manifest lists any more (`unlisted`), and how much was `refused`.

    `trained_on` is how many gathered games a version of that configuration saw, at most; None: there is no version.
    """
    configs: dict[str, Any] = {}
    unlisted = 0
    for config in shelved(data):
        try:
            manifest = Manifest.read(data, config)
        except Refused:  # it is written anew by whoever is asked for what it lacks
            manifest = Manifest(config=config)
        names = [each.version for each in manifest.versions]
        unlisted += len(files(data, config) - set(names))
        configs[config] = {
            "versions": names,
            "promoted": manifest.promoted,
            "previous": manifest.previous,
            "trained_on": max((each.games for each in manifest.versions), default=None),
        }
    unpublished = [name for name in _names(data / MODELS / NEW) if name.endswith((".json", DONE))]
    return {**configs, "unpublished": len(unpublished), "unlisted": unlisted, "refused": len(refusals(data))}


def shelved(data: Path) -> list[str]:
    """The configurations that have a folder on this node."""
    return sorted(name for name in _names(data / MODELS) if _is_config(name))


def files(data: Path, config: str) -> set[str]:
    """The versions that have a file on this node."""
    return {name for name in _names(data / MODELS / config) if _VERSION.fullmatch(name)}


def refusals(data: Path) -> dict[str, Any]:
    """What was refused on this node: by key or file, why and when."""
    try:
        found = json.loads((data / MODELS / REFUSALS).read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _names(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_config(name: str) -> bool:
    try:
        return bool(check_config(name))
    except ValueError:
        return False
