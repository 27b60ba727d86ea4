"""The registry of models in the store: a record for each version and each promotion, and the contents by their SHA-256.

    models/<config>/versions/<version>.json
    models/<config>/promotions/<milliseconds>-<random>.json
    blobs/<first two digits>/<sha256>

Records are never changed and never deleted, so a process reads each once. What is no sound record is refused,
named, and left where it is: nothing here deletes what others wrote.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from weakref import WeakKeyDictionary

from fleet.models import MODELS, RECORD_LIMIT, ConfigModels, Promotion, Refused, Version, assembled, check_config, parse
from fleet.store import Corrupt, Entry, Pace, Store

#: Seconds by which a record may be ahead of this node's clock.
AHEAD = 86_400.0
#: Seconds after which contents that are there are uploaded once more: they could be about to be pruned.
FRESH = 3_600.0

_KEY = re.compile(rf"{MODELS}/([^/]+)/(?:versions/([^/]+)|promotions/([0-9]{{15}})-[0-9a-f]{{8}})\.json")


@dataclass(frozen=True)
class Registry:
    """What the registry held at one moment: the models by configuration, and what was refused, by key, and why."""

    configs: Mapping[str, ConfigModels] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, config: str) -> ConfigModels:
        return self.configs.get(config, ConfigModels(config))


class ModelRegistry:
    """Reads and writes the registry of one store. Threads may share it; all of a process remember what one has read."""

    def __init__(self, store: Store) -> None:
        self.store = store
        with _LOCK:
            self._known = _KNOWN.setdefault(store, {})

    def read(self, config: str | None = None, *, now: float | None = None) -> Registry:
        """All of it, or what concerns one configuration. Raises StoreUnavailable."""
        prefix = MODELS if config is None else f"{MODELS}/{check_config(config)}"
        now = time.time() if now is None else now
        versions: dict[str, list[Version]] = {}
        promotions: dict[str, list[Promotion]] = {}
        refused: dict[str, str] = {}
        for entry in self.store.list(prefix):
            found = self._record(entry)
            if isinstance(found, str):
                refused[entry.key] = found
            elif (found.created_at if isinstance(found, Version) else found.at / 1000) > now + AHEAD:
                refused[entry.key] = "it is of more than a day ahead"
            elif isinstance(found, Version):
                versions.setdefault(found.config, []).append(found)
            else:
                promotions.setdefault(found.config, []).append(found)
        return Registry(
            {each: assembled(each, versions[each], promotions.get(each, ())) for each in sorted(versions)}, refused
        )

    def version(self, config: str, version: str) -> Version:
        """One version's record. Raises Refused, FileNotFoundError, StoreUnavailable."""
        key = f"{MODELS}/{check_config(config)}/versions/{version}.json"
        found = self._read(key)
        if not isinstance(found, Version):
            raise Refused(f"{key}: {found}")
        return found

    def add(self, version: Version, file: Path, pace: Pace | None = None) -> int:
        """Upload a version's contents, then its record, which is what makes it one. Returns the bytes moved.

        Once more is as good as once. Raises Refused when the name is taken by other contents, Corrupt when the
        file is not what the record says, StoreUnavailable.
        """
        known = self.store.entry(version.key)
        if known is not None and self.version(version.config, version.version).sha256 != version.sha256:
            raise Refused(f"{version.key}: the name is taken by other contents")
        moved, blob = 0, self.store.entry(version.blob)
        fresh = blob is not None and blob.size == version.size and time.time() - (blob.modified or 0) < FRESH
        if not fresh:
            moved = self.store.put(file, version.blob, sha256=version.sha256, pace=pace)
        if known is None:
            self.store.write(version.key, version.model_dump_json().encode())
        return moved

    def fetch(self, version: Version, target: Path, pace: Pace | None = None) -> int:
        """Get a version's contents, checked. Returns the bytes moved. Raises as Store.get."""
        return self.store.get(version.blob, target, size=version.size, sha256=version.sha256, pace=pace)

    def promote(self, models: ConfigModels, version: str, *, now: float, by: str, why: str) -> Promotion:
        """Add the record that a version is promoted, after all those there are."""
        return self._rule(models, version, "promotion", now, by, why)

    def roll_back(self, models: ConfigModels, *, now: float, by: str, why: str) -> Promotion:
        """Add the record that the previous version is promoted again. Raises Refused when there is none."""
        if models.previous is None:
            raise Refused(f"{models.config} has no previous version to go back to")
        return self._rule(models, models.previous, "rollback", now, by, why)

    def _rule(self, models: ConfigModels, version: str, kind: str, now: float, by: str, why: str) -> Promotion:
        if version not in models.by_name:
            raise Refused(f"{models.config} has no version {version!r}")
        newest = models.promotions[-1].at if models.promotions else -1
        record = Promotion.model_validate(
            {
                "config": models.config,
                "version": version,
                "kind": kind,
                "by": by[:200],
                "why": why[:2000],
                "at": max(round(now * 1000), newest + 1),
            }
        )
        key = f"{MODELS}/{models.config}/promotions/{record.at:015d}-{secrets.token_hex(4)}.json"
        self.store.write(key, record.model_dump_json().encode())
        return record

    def _record(self, entry: Entry) -> Version | Promotion | str:
        """The record under a key, or why it is refused; read once, unless the entry changes."""
        if entry not in self._known:
            if len(self._known) > 200_000:  # an entry that changed for ever and ever would fill the memory
                self._known.clear()
            self._known[entry] = self._read(entry.key)
        return self._known[entry]

    def _read(self, key: str) -> Version | Promotion | str:
        found = _KEY.fullmatch(key)
        try:
            if found is None:
                return "no name of a record"
            check_config(found[1])
            data = self.store.read(key, RECORD_LIMIT)
            record: Version | Promotion = parse(Version, data, "") if found[2] else parse(Promotion, data, "")
        except (Refused, Corrupt, ValueError) as error:
            return str(error).removeprefix(": ")
        if record.config != found[1]:
            return f"it is of {record.config}, in the folder of {found[1]}"
        if isinstance(record, Version) and record.version != found[2]:
            return f"it is of {record.version}"
        if isinstance(record, Promotion) and record.at != int(found[3]):
            return f"it is of the millisecond {record.at}"
        return record


_LOCK = Lock()
_KNOWN: WeakKeyDictionary[Store, dict[Entry, Version | Promotion | str]] = WeakKeyDictionary()
