"""A node's games into the store's inbox, in shards.

A shard's games are fixed in the ledger before its file is made, and count as waiting until its manifest is in the
store. So a crash at any step leaves a shard that is `building`, which the next export makes again under its own name,
from the games themselves: they stay in `games.db` until the central node has acknowledged them. What it says is a
receipt in the store; a shard that is gone from the inbox without one is sent again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

from fleet.game_folder import alone
from fleet.game_ledger import Batch, GameLedger
from fleet.game_shard import (
    DOCUMENT_LIMIT,
    INBOX,
    RECEIPTS,
    SCHEMA,
    VERSION,
    Manifest,
    data_key,
    define_functions,
    manifest_key,
    pack,
)
from fleet.games import FILE, Account
from fleet.store import Corrupt, Pace, Stopped, Store

#: What a receipt says of a shard, and what it is then: one that was damaged on its way is made again.
_SAID = {"gathered": "gathered", "refused": "refused", "again": "building"}

FOLDER = "exports"  # in a node's data directory: shards being made; empty otherwise


@dataclass(frozen=True)
class Bounds:
    """What one export may do. `keep_for` and `resend_after` are seconds, `seconds` the time in which shards are begun,
    and `upload` that of one: it may be longer, since an upload that is stopped begins anew."""

    shard_games: int = 20_000
    shard_bytes: int = 64 << 20
    shards: int = 100
    seconds: float = 480.0
    upload: float = 3_600.0
    keep_for: float = 7 * 86_400.0
    prune: int = 100_000
    resend_after: float = 3_600.0


@dataclass
class Exported:
    """What an export did, in games where nothing else is said; `left` are games that still wait, `bytes` compressed.

    `busy`: another export of this node was at it, so nothing was done. `names` are those that the node ever had.
    """

    games: int = 0
    shards: int = 0
    bytes: int = 0
    refused: int = 0
    pruned: int = 0
    left: int = 0
    busy: bool = False
    why: str = ""
    names: list[str] = field(default_factory=list)
    account: Account = field(default_factory=dict)


def export(
    store: Store,
    data: Path,
    node: str,
    bounds: Bounds,
    now: float,
    clock: Callable[[], float] = time.monotonic,
    cancel: Event | None = None,
) -> Exported:
    """Send this node's waiting games, hear what became of those sent before, and prune what was gathered long ago.

    Idempotent: games are chosen once, and a shard is sent again only under its own name. `now` is seconds since
    the epoch. Raises StoreUnavailable, GamesUnreadable or OSError; what was not done is done by the next one. An
    upload that is not through in time, or that `cancel` ends, is an error only when none was.
    """
    done, give_up = Exported(), clock() + bounds.seconds
    if not (data / FILE).exists():
        return done
    with alone(data / FOLDER) as folder:
        if folder is None:
            return Exported(busy=True)
        with closing(GameLedger(data / FILE)) as ledger:
            define_functions(ledger.db)
            done.names = ledger.names(node)
            ledger.enter(give_up)
            _hear(store, node, ledger, bounds, now)
            for batch in _shards(ledger, bounds, now):
                try:
                    pace = Pace(time.monotonic() + bounds.upload, cancel)
                    _send(store, node, ledger, batch, folder, now, done, pace)
                except Stopped:
                    if not done.shards:
                        raise
                    break
                if clock() > give_up or done.shards >= bounds.shards:
                    break
            done.pruned = ledger.prune(now - bounds.keep_for, bounds.prune)
            done.account = ledger.account()
            done.left = sum(counts["waiting"] for counts in done.account.values())
    return done


def _shards(ledger: GameLedger, bounds: Bounds, now: float) -> Iterator[Batch]:
    """Shards that were begun before, then new ones."""
    yield from ledger.batches("building")
    while (batch := ledger.begin(bounds.shard_games, bounds.shard_bytes, now)) is not None:
        yield batch


def _send(
    store: Store,
    node: str,
    ledger: GameLedger,
    batch: Batch,
    folder: Path,
    now: float,
    done: Exported,
    pace: Pace,
) -> None:
    """Make a shard's file from its games, leave it in the inbox, its manifest last, and record that."""
    refused, why = ledger.sift(batch)
    done.refused += refused
    done.why = done.why or why
    raw, packed = folder / f"{batch.shard}.db", folder / f"{batch.shard}.games"
    raw.unlink(missing_ok=True)
    configs = ledger.fill(batch, raw, SCHEMA)
    if not configs:
        ledger.drop(batch)
        return
    unpacked, size, sha256 = pack(raw, packed)
    manifest = Manifest(
        version=VERSION,
        shard=batch.shard,
        node=node,
        configs=configs,
        games=sum(configs.values()),
        size=size,
        unpacked=unpacked,
        sha256=sha256,
    )
    raw.unlink()
    store.put(packed, data_key(node, batch.shard), sha256=sha256, pace=pace)
    store.write(manifest_key(node, batch.shard), manifest.model_dump_json().encode())
    ledger.settle(batch, "sent", now)
    packed.unlink()
    done.shards += 1
    done.games += manifest.games
    done.bytes += size


def _hear(store: Store, node: str, ledger: GameLedger, bounds: Bounds, now: float) -> None:
    """Learn what became of the shards that were sent, and begin those anew that came to nothing."""
    open_ones = {batch.shard: batch for batch in ledger.batches("sent", "refused")}
    building = {batch.shard: batch for batch in ledger.batches("building")}
    # The inbox first: whoever takes a shard from there has left its receipt before.
    waiting = {entry.key for entry in store.list(f"{INBOX}/{node}")} if open_ones or building else set()
    for entry in store.list(f"{RECEIPTS}/{node}"):
        shard = entry.key.rpartition("/")[2].removesuffix(".json")
        batch, said = open_ones.get(shard) or building.get(shard), _read_receipt(store, entry.key)
        if batch is not None and said is not None:
            state, why = said
            if state != batch.state:
                ledger.settle(batch, state, now, why)
            open_ones.pop(shard, building.pop(shard, None))
        store.delete(entry.key)
    for shard, batch in {**building, **open_ones}.items():
        if manifest_key(node, shard) in waiting:
            if batch.state != "sent":  # it was left there right before a crash, or an operator has put it back
                ledger.settle(batch, "sent", now)
        elif batch.state == "sent" and not 0 <= now - batch.at <= bounds.resend_after:  # or the clock was set back
            ledger.settle(batch, "building", now)


def _read_receipt(store: Store, key: str) -> tuple[str, str | None] | None:
    """What the central node says of a shard: its state, and why. None when it is no receipt: as if there were none."""
    try:
        said = json.loads(store.read(key, DOCUMENT_LIMIT))
    except (Corrupt, FileNotFoundError, ValueError):
        return None
    if not isinstance(said, Mapping) or said.get("state") not in _SAID:
        return None
    return _SAID[said["state"]], None if said.get("why") is None else str(said["why"])
