"""Shards from the store's inbox into `gathered.db`, on the central node.

A shard is fetched, unpacked and checked apart, then taken in by one transaction, together with its row in the ledger
of shards; games that are there already are left out by id. Then its receipt is written, and only then it is deleted:
its data first and its manifest last, so that what a crash leaves of it is still visible, and known by its row. The
other way round the data would lie there as if its manifest were still to come.

A shard that is refused stays where it is; its manifest moves to `refused/`, so that it is not seen again.
"""

from __future__ import annotations

import errno
import json
import shutil
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

from fleet.game_folder import alone
from fleet.game_shard import (
    ASIDE,
    DOCUMENT_LIMIT,
    INBOX,
    RECEIPTS,
    Damaged,
    Limits,
    Manifest,
    Refused,
    check,
    data_key,
    manifest_key,
    read_key,
    read_manifest,
    unpack,
)
from fleet.games import GATHERED
from fleet.gathered import Gathered, Shard
from fleet.store import Corrupt, Entry, NoRoom, Pace, Stopped, Store, StoreUnavailable

FOLDER = "ingest"  # in the central node's data directory: the shard being taken in; empty otherwise
#: Refusals and failures that are named; the rest is counted.
NAMED = 20
#: Shards that are made ready while another one is taken in.
AHEAD = 2


#: Hears of a refused shard, and why.
Told = Callable[[str, str], None]


@dataclass(frozen=True)
class Intake:
    """What one ingest may do: shards taken in or refused, seconds for all of it, and what one shard may be."""

    shards: int = 1_000
    seconds: float = 480.0
    limits: Limits = field(default_factory=Limits)


@dataclass
class Ingested:
    """What an ingest did. `games` came in `shards`; `gathered` of them were new, `doubled` were here already.

    `failed` shards stay in the inbox and are tried again, `left` ones were not come to; `strange` counts names that
    no shard has, which are left alone. `refusals` and `failures` say why; `full`: the disk has no room for more.
    """

    shards: int = 0
    games: int = 0
    gathered: int = 0
    doubled: int = 0
    bytes: int = 0
    refused: int = 0
    failed: int = 0
    left: int = 0
    strange: int = 0
    busy: bool = False
    full: str = ""
    refusals: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def ingest(
    store: Store,
    data: Path,
    bounds: Intake,
    now: float,
    clock: Callable[[], float] = time.monotonic,
    told: Told | None = None,
    cancel: Event | None = None,
) -> Ingested:
    """Take in what lies in the inbox, oldest first, until its time is over or `cancel` is set.

    `told(shard, why)` hears of each refusal once. Idempotent: a shard that was taken in is known, and only deleted.
    Raises StoreUnavailable or GamesUnreadable; what was not done is done by the next one.
    """
    done, give_up, cancel = Ingested(), clock() + bounds.seconds, cancel or Event()
    pace = Pace(time.monotonic() + bounds.seconds, cancel)
    with alone(data / FOLDER) as folder:
        if folder is None:
            return Ingested(busy=True)
        waiting = _waiting(store.list(INBOX), done)
        if not waiting:
            return done
        with closing(Gathered(data / GATHERED)) as gathered:
            taking = _Taking(store, gathered, folder, bounds.limits, now, done, told or _nobody, pace)
            # While one is taken in, the next one is checked and the one after it fetched: most of that is in C.
            with ThreadPoolExecutor(AHEAD, "ingest") as ahead:
                coming = deque(taking.begin(ahead, *each) for each in waiting[:AHEAD])
                for number, (node, shard) in enumerate(waiting):
                    if done.shards + done.refused >= bounds.shards or clock() > give_up or cancel.is_set():
                        done.left += len(waiting) - number
                        break
                    fetched = coming.popleft()
                    wait([fetched])
                    coming.extend(taking.begin(ahead, *each) for each in waiting[number + AHEAD :][:1])
                    taking.take(node, shard, fetched)
    return done


def _nobody(_shard: str, _why: str) -> None:
    """Hears nothing."""


def _waiting(entries: Sequence[Entry], done: Ingested) -> list[tuple[str, str]]:
    """The shards whose manifest is there, oldest first."""
    found = []
    for entry in entries:
        named = read_key(entry.key)
        if named is None:
            done.strange += 1
        elif named[2] == "json":
            found.append((entry.modified or 0.0, named[1], named[0]))
    return [(node, shard) for _, shard, node in sorted(found)]


@dataclass(frozen=True)
class _Fetched:
    """What came of fetching a shard: where it lies, unpacked and checked; nowhere, when it was taken in before; or
    `why` it is refused, and whether its node should send it `again`."""

    text: bytes
    manifest: Manifest | None = None
    path: Path | None = None
    why: str = ""
    again: bool = False


@dataclass(frozen=True)
class _Taking:
    """One ingest at work."""

    store: Store
    gathered: Gathered
    folder: Path
    limits: Limits
    now: float
    done: Ingested
    told: Told
    pace: Pace

    def begin(self, ahead: Executor, node: str, shard: str) -> Future[_Fetched]:
        """Fetch and check a shard in another thread."""
        return ahead.submit(self._fetch, node, shard, self.gathered.shard(node, shard))

    def take(self, node: str, shard: str, coming: Future[_Fetched]) -> None:
        """Take one shard in, or set it aside. What is not its fault leaves it where it is, for the next time."""
        try:
            fetched = coming.result()
            if fetched.manifest is None:
                self._set_aside(node, shard, fetched)
                return
            if fetched.path is not None:
                self._count(fetched.manifest, self.gathered.take(fetched.path, fetched.manifest, self.now))
                fetched.path.unlink()
            receipt = {"state": "gathered", "games": fetched.manifest.games, "at": self.now}
            self._acknowledge(node, shard, receipt)
            self.store.delete(data_key(node, shard))
            self.store.delete(manifest_key(node, shard))
        except (StoreUnavailable, sqlite3.Error, OSError) as error:
            if isinstance(error, Stopped) and self.done.shards:  # one that never gets through in time is a failure
                self.done.left += 1
            elif isinstance(error, NoRoom) or _is_full(error):
                self.done.full = self.done.full or str(error)  # a smaller one may fit
                self.done.left += 1
            else:
                self.done.failed += 1
                _name(self.done.failures, f"{node}/{shard}: {error}")

    def _fetch(self, node: str, shard: str, known: Shard | None) -> _Fetched:
        text, packed, raw = b"", self.folder / f"{node}.{shard}.games", self.folder / f"{node}.{shard}.db"
        try:
            text = self._read(node, shard)
            manifest = read_manifest(text, node, shard, self.limits)
            if known is not None and known.state == "gathered" and known.sha256 == manifest.sha256:
                return _Fetched(text, manifest)
            self._fill(manifest, packed, raw)
            check(raw, manifest)
            return _Fetched(text, manifest, raw)
        except Refused as error:
            raw.unlink(missing_ok=True)
            again = isinstance(error, Damaged) and known is None  # once: what damaged it may do so again
            return _Fetched(text, why=str(error), again=again)
        except BaseException:
            raw.unlink(missing_ok=True)
            raise
        finally:
            packed.unlink(missing_ok=True)

    def _count(self, manifest: Manifest, new: int) -> None:
        self.done.shards += 1
        self.done.games += manifest.games
        self.done.gathered += new
        self.done.doubled += manifest.games - new
        self.done.bytes += manifest.size

    def _read(self, node: str, shard: str) -> bytes:
        try:
            return self.store.read(manifest_key(node, shard), DOCUMENT_LIMIT)
        except Corrupt as error:
            raise Refused(f"its manifest: {error}") from error

    def _fill(self, manifest: Manifest, packed: Path, raw: Path) -> None:
        """Make the shard's SQLite file, of the size and checksum claimed."""
        # the packed file, the unpacked one, and what becomes of it: rows, index, write-ahead log
        needed = manifest.size + 4 * manifest.unpacked + self.limits.min_free
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            where = f"the disk of {self.folder}"
            raise NoRoom(f"{manifest.node}/{manifest.shard} needs {needed} bytes of {where}; {free} are free")
        key = data_key(manifest.node, manifest.shard)
        try:
            self.store.get(key, packed, size=manifest.size, sha256=manifest.sha256, pace=self.pace)
        except Corrupt as error:
            raise Damaged(str(error)) from error
        except FileNotFoundError as error:
            raise Damaged("its data is not in the inbox") from error
        unpack(packed, raw, manifest.unpacked)

    def _set_aside(self, node: str, shard: str, fetched: _Fetched) -> None:
        """Keep the manifest of a refused shard, with the reason, where it is not taken for a shard again."""
        why = fetched.why
        if self.gathered.refuse(node, shard, why, self.now):
            self.told(f"{node}/{shard}", why)
        aside = {
            "why": why,
            "at": self.now,
            "data": data_key(node, shard),
            "manifest": fetched.text.decode(errors="replace"),
        }
        self.store.write(f"{ASIDE}/{node}/{shard}.json", json.dumps(aside).encode())
        self._acknowledge(
            node, shard, {"state": "again" if fetched.again else "refused", "why": why[:1_000], "at": self.now}
        )
        self.store.delete(manifest_key(node, shard))
        self.done.refused += 1
        _name(self.done.refusals, f"{node}/{shard}: {why}")

    def _acknowledge(self, node: str, shard: str, receipt: dict[str, object]) -> None:
        self.store.write(f"{RECEIPTS}/{node}/{shard}.json", json.dumps(receipt).encode())


def _is_full(error: BaseException) -> bool:
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _name(names: list[str], name: str) -> None:
    if len(names) < NAMED:
        names.append(name[:500])
