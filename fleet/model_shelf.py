"""A node's own models: those that are here, those that jobs left, and the manifests that jobs read.

    models/new/                       what jobs left: a model, then its note, `<stem>.json`
    models/<config>/<version>         a model that is here, whole and checked
    models/<config>/manifest.json     which are here, and which is promoted
    models/refused/, refused.json     what was no model, and why

Every step can be the last one of its process: what it began is finished by the next call.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from fleet.model_registry import ModelRegistry
from fleet.models import (
    DONE,
    MANIFEST,
    MODELS,
    NEW,
    RECORD_LIMIT,
    REFUSALS,
    ConfigModels,
    Leftover,
    Listed,
    Manifest,
    Refused,
    Version,
    check_config,
    check_version,
    files,
    parse,
    refusals,
    version_name,
)
from fleet.store import Corrupt, Pace
from fleet.store_place import CHUNK, make_folder, open_regular, sync_folder

#: Refusals that a node remembers, the newest ones.
REFUSALS_KEPT = 200


class Busy(Exception):
    """Another call on this node is doing the same."""


@dataclass(frozen=True)
class Keeping:
    """What a node keeps: the `newest` versions of a configuration beside the promoted and the previous one, and
    others for `unlisted_for` seconds after a manifest listed them last, since a job may still be using them."""

    newest: int = 3
    unlisted_for: float = 86_400.0


@dataclass
class Published:
    """What came of the models that jobs left here."""

    versions: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    moved: int = 0


def expendable(unlisted: Mapping[str, float], protected: Iterable[str], now: float, after: float) -> list[str]:
    """Of the versions that no manifest lists, by when one did last: those to delete. Pure."""
    spared = set(protected)
    return sorted(name for name, since in unlisted.items() if name not in spared and now - since > after)


class Shelf:
    """The models in a node's data directory."""

    def __init__(self, data: Path, clock: Callable[[], float] = time.time) -> None:
        self._data, self._folder, self._clock = data, data / MODELS, clock

    # what is here ----------------------------------------------------------------------------------------

    def settle(self, models: ConfigModels, keeping: Keeping) -> tuple[bool, list[str]]:
        """Make the manifest say what is here and promoted, then delete what was unwanted for long enough.

        Returns whether the manifest changed, and the versions deleted. What the registry does not know stays, and
        so does all of a configuration that it does not know: records are never deleted, so it must be another store.
        """
        if not models.versions:
            return False, []
        with self._locked(".lock", wait=True):
            here = self._whole(models)
            wanted = {version.version for version in models.wanted(keeping.newest)}
            listed = [version for version in models.versions if version.version in here & wanted]
            changed = self._list(models, listed)
            return changed, self._prune(models, wanted, keeping)

    def pull(self, registry: ModelRegistry, config: str, version: str, keeping: Keeping, pace: Pace) -> int:
        """Fetch a version that the registry has, and list it. Returns the bytes moved; 0 when it is here already.

        Raises Busy while another is fetched, Refused, Corrupt, FileNotFoundError, StoreUnavailable.
        """
        check_version(version)
        target = self._folder / check_config(config) / version
        with self._locked(".pulling"):
            try:
                record, moved = registry.version(config, version), 0
                if not _is_file(target, record.size):
                    moved = registry.fetch(record, target, pace)
            except (Refused, Corrupt) as error:
                self._note(f"{MODELS}/{config}/versions/{version}.json", str(error))
                raise
            self.settle(registry.read(config)[config], keeping)
        return moved

    def _whole(self, models: ConfigModels) -> set[str]:
        folder = self._folder / models.config
        return {
            name
            for name in files(self._data, models.config)
            if (known := models.by_name.get(name)) is not None and _is_file(folder / name, known.size)
        }

    def _list(self, models: ConfigModels, listed: list[Version]) -> bool:
        names = {version.version for version in listed}
        standing = [each.version for each in reversed(models.standing) if each.version in names]
        promoted, previous, *_ = [*dict.fromkeys(standing), None, None]
        manifest = Manifest(
            config=models.config,
            promoted=promoted,
            previous=previous,
            versions=tuple(Listed.model_validate(version.listed()) for version in listed),
        )
        try:
            before = Manifest.read(self._data, models.config)
        except Refused as error:
            self._note(f"{MODELS}/{models.config}/{MANIFEST}", str(error))
            before = None
        path = self._folder / models.config / MANIFEST
        if manifest == before and (path.exists() or not listed):
            return False
        for gone in {each.version for each in before.versions} - names if before else ():
            with suppress(FileNotFoundError):  # from now on it is unwanted
                os.utime(path.parent / gone, (self._clock(), self._clock()))
        _write(path, manifest.encoded())
        return True

    def _prune(self, models: ConfigModels, protected: set[str], keeping: Keeping) -> list[str]:
        folder, since = self._folder / models.config, {}
        for name in files(self._data, models.config) & models.by_name.keys():
            with suppress(FileNotFoundError):
                since[name] = (folder / name).stat().st_mtime
        gone = expendable(since, protected, self._clock(), keeping.unlisted_for)
        for name in gone:
            (folder / name).unlink(missing_ok=True)
        for part in folder.glob("*.part"):  # of a transfer that nobody goes on with
            with suppress(FileNotFoundError):
                if self._clock() - part.stat().st_mtime > keeping.unlisted_for and part.stem not in protected:
                    part.unlink()
        return gone

    # what jobs left --------------------------------------------------------------------------------------

    def publish(self, registry: ModelRegistry, node_id: str, keeping: Keeping, pace: Pace) -> Published:
        """Put what jobs left into the store, and then into its place here; what is no model is set aside.

        Raises Busy, and StoreUnavailable: what was not reached waits for the next call.
        """
        new, published = self._folder / NEW, Published()
        with self._locked(".publishing"):
            for note in sorted(new.glob(f"*{DONE}")) if new.is_dir() else ():
                try:
                    self._place(registry, note, keeping)
                except (Refused, Corrupt) as error:
                    self._set_aside(note, str(error))
                    published.refused.append(note.name)
            for note in sorted(new.glob("*.json")) if new.is_dir() else ():
                try:
                    version = self._version(note, node_id, pace)
                    published.moved += registry.add(version, self._left(note), pace)
                except (Refused, Corrupt) as error:
                    self._set_aside(note, str(error))
                    published.refused.append(note.name)
                    continue
                done = note.with_name(note.name.removesuffix(".json") + DONE)
                note.replace(done)
                sync_folder(new)
                self._place(registry, done, keeping, version.version)
                published.versions.append(version.version)
        return published

    def _leftover(self, note: Path) -> Leftover:
        try:
            with open_regular(note) as file:
                data = file.read(RECORD_LIMIT + 1)
        except Corrupt as error:
            raise Refused(f"{note.name} {error}") from error
        if len(data) > RECORD_LIMIT:
            raise Refused(f"{note.name} is longer than {RECORD_LIMIT} bytes")
        left = parse(Leftover, data, note.name)
        stem = note.name.removesuffix(DONE).removesuffix(".json")
        if not left.file.startswith(stem + ".") or left.file.endswith((".json", DONE)):
            raise Refused(f"{note.name}: file: {left.file!r} is not {stem!r} with another ending")
        return left

    def _left(self, note: Path) -> Path:
        return note.parent / self._leftover(note).file

    def _version(self, note: Path, node_id: str, pace: Pace) -> Version:
        left = self._leftover(note)
        path = note.parent / left.file
        try:
            with open_regular(path) as file:
                status = os.fstat(file.fileno())
                digest = _sha256(file, pace)
        except FileNotFoundError as error:
            raise Refused(f"{note.name}: file: there is no {left.file}") from error
        except Corrupt as error:
            raise Refused(f"{note.name}: file: {left.file} {error}") from error
        return Version(
            **left.model_dump(exclude={"file"}),
            version=version_name(left.config, left.generation, digest),
            sha256=digest,
            size=status.st_size,
            created_at=status.st_mtime,
            node=node_id,
        )

    def _place(self, registry: ModelRegistry, done: Path, keeping: Keeping, version: str | None = None) -> None:
        """Move what is published to its place, and drop its note."""
        left = self._leftover(done)
        path, folder = done.parent / left.file, self._folder / left.config
        if path.is_file():
            if version is None:
                with open_regular(path) as file:
                    version = version_name(left.config, left.generation, _sha256(file, Pace()))
            make_folder(folder)
            path.replace(folder / version)
            sync_folder(folder)
        self.settle(registry.read(left.config)[left.config], keeping)
        done.unlink(missing_ok=True)
        sync_folder(done.parent)

    def _set_aside(self, note: Path, why: str) -> None:
        """Nothing is lost, and nothing is tried again."""
        aside = self._folder / "refused"
        make_folder(aside)
        moment = f"{self._clock():.3f}"
        with suppress(Refused, FileNotFoundError, OSError):
            left = self._left(note)
            left.replace(aside / f"{moment}-{left.name}")
        note.replace(aside / f"{moment}-{note.name}")
        self._note(f"{MODELS}/{NEW}/{note.name}", why)

    # ------------------------------------------------------------------------------------------------------

    def _note(self, what: str, why: str) -> None:
        with self._locked(".refusing", wait=True):
            known = refusals(self._data)
            known.pop(what, None)
            known[what] = {"why": why[:2000], "at": self._clock()}
            kept = dict(list(known.items())[-REFUSALS_KEPT:])
            _write(self._folder / REFUSALS, (json.dumps(kept, indent=1) + "\n").encode())

    @contextmanager
    def _locked(self, name: str, *, wait: bool = False) -> Iterator[None]:
        """Alone on this node, in all its processes; a lock goes with its process. Raises Busy unless it may wait."""
        make_folder(self._folder)
        with (self._folder / name).open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError as error:
                raise Busy(f"{name.removeprefix('.')} goes on already") from error
            yield


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all; the caller holds the lock of that file."""
    make_folder(path.parent)
    growing = path.with_name(f".{path.name}.part")
    with growing.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    growing.replace(path)
    sync_folder(path.parent)


def _is_file(path: Path, size: int) -> bool:
    try:
        return path.is_file() and path.stat().st_size == size
    except FileNotFoundError:
        return False


def _sha256(file: BinaryIO, pace: Pace) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK):
        digest.update(chunk)
        pace.check()
    return digest.hexdigest()
