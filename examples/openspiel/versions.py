"""The models that are here, by the manifest of their configuration, and how a new one is handed in.

models/<config>/manifest.json   written by the cluster: which versions are here, which is promoted
models/new/                     read by the cluster: a model file, then a `.json` of the same stem
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from examples.openspiel.model import Model

MANIFEST = "manifest.json"
#: bytes of the largest manifest that is read
MOST_BYTES = 8 * 2**20
NEW = Path("models/new")
#: seconds after which a half written file is nobody's any more
LEFT_BEHIND = 3600.0


class ManifestRefused(Exception):
    """A manifest, or a model handed in, cannot be read; the message names the file and says why."""


@dataclass(frozen=True)
class Version:
    """A model that is here. `games` are the gathered games there were when it was trained."""

    name: str
    path: Path
    sha256: str
    generation: int
    games: int

    def model(self, config: str) -> Model:
        """Raises ModelRefused."""
        return Model.read(self.path, config, self.sha256)


@dataclass(frozen=True)
class Manifest:
    """Versions, the oldest first, and which of them is played (`promoted`) and was played before."""

    versions: tuple[Version, ...] = ()
    promoted: Version | None = None
    previous: Version | None = None

    @classmethod
    def read(cls, data: Path, config: str) -> Manifest:
        """What the node's folder holds; nothing when there is no manifest. Raises ManifestRefused."""
        path = data / "models" / config / MANIFEST
        try:
            text = _text(path)
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError) as error:
            raise ManifestRefused(f"{path}: {error}") from error
        try:
            return _manifest(json.loads(text), path.parent, config)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ManifestRefused(f"{path}: {_said(error)}") from error

    def candidates(self, most: int = 2) -> tuple[Version, ...]:
        """The newest versions that are younger than the promoted one, the newest first."""
        best = -1 if self.promoted is None else self.promoted.generation
        younger = [version for version in self.versions if version.generation > best]
        return tuple(reversed(younger))[:most]


def _text(path: Path) -> str:
    with path.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise ValueError(f"larger than {MOST_BYTES} bytes")
    return data.decode()


def _manifest(document: Any, folder: Path, config: str) -> Manifest:
    if not isinstance(document, dict):
        raise ValueError("not a JSON object")
    if document["config"] != config:
        raise ValueError(f"config is {document['config']!r}, not {config!r}")
    if not isinstance(document["versions"], list):
        raise ValueError("versions is not a list")
    versions = {version.name: version for version in (_version(row, folder, config) for row in document["versions"])}

    def named(key: str) -> Version | None:
        name = document[key]
        if name is not None and not isinstance(name, str):
            raise ValueError(f"{key} is {str(name)[:80]!r}, neither the name of a version nor null")
        return versions.get(name) if name else None  # it may not have arrived yet

    ordered = sorted(versions.values(), key=lambda version: version.generation)  # stable: the order of the file
    return Manifest(tuple(ordered), named("promoted"), named("previous"))


def _version(row: Any, folder: Path, config: str) -> Version:
    if not isinstance(row, dict):
        raise ValueError(f"a version is {str(row)[:80]!r}, not a JSON object")
    name, file, sha256 = row["version"], row["file"], row["sha256"]
    if not isinstance(name, str) or not re.fullmatch(rf"{re.escape(config)}-g\d{{4,9}}-[0-9a-f]{{12}}", name):
        raise ValueError(f"{str(name)[:80]!r} is not the name of a version, such as {config}-g0001-0123456789ab")
    if not isinstance(sha256, str) or not re.fullmatch("[0-9a-f]{64}", sha256) or sha256[:12] != name[-12:]:
        raise ValueError(f"sha256 of {name} is {str(sha256)[:80]!r}, not a checksum that begins with {name[-12:]}")
    parts = PurePosixPath(file).parts if isinstance(file, str) and file.isprintable() else ()
    if not parts or ".." in parts or "/" in parts:
        raise ValueError(f"file of {name} is {str(file)[:80]!r}, not a path inside the manifest's folder")
    return Version(name, folder.joinpath(*parts), sha256, _count(row, "generation"), _count(row, "games"))


def _count(row: Mapping[str, Any], key: str) -> int:
    value = row[key]
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 10**9:
        raise ValueError(f"{key} is {str(value)[:80]!r}, not a whole number from 0 on")
    return value


def _said(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)


def handed_in(data: Path, config: str) -> list[tuple[int, int]]:
    """Generation and games of the models of that configuration that wait in `models/new/`.

    A file that cannot be read there is the cluster's business, which sets it aside; here it counts for nothing.
    """
    found = []
    for path in sorted((data / NEW).glob(f"{config}-g*.json")):
        try:
            row = json.loads(_text(path))
            found.append((_count(row, "generation"), _count(row, "games")))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
    return found


def hand_in(data: Path, model: Model, *, parent: str | None, generation: int, games: int, metrics: Any) -> str:
    """Leave a model for the cluster to publish and return its version.

    The model's file is whole and on the disk before the `.json` that makes it visible appears, at once; a
    kill before that leaves a file that nobody looks at. Raises OSError.
    """
    encoded = model.encoded()
    name = f"{model.config}-g{generation:04d}-{hashlib.sha256(encoded).hexdigest()[:12]}"
    about = {
        "config": model.config, "file": f"{name}.npz", "parent": parent, "generation": generation,
        "games": games, "metrics": metrics,
    }  # fmt: skip
    folder = data / NEW
    folder.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    _write_whole(folder / f"{name}.npz", encoded)
    _write_whole(folder / f"{name}.json", (json.dumps(about) + "\n").encode())
    return name


def _sweep(folder: Path) -> None:
    """Remove what killed jobs have left half written."""
    for part in folder.glob(".*.part"):
        with suppress(FileNotFoundError):  # another job sweeps too
            if time.time() - part.stat().st_mtime > LEFT_BEHIND:
                part.unlink()


def _write_whole(path: Path, data: bytes) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
