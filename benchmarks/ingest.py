"""Taking in shards of games, beside the bare ATTACH copy of the same rows.

    python benchmarks/ingest.py [--games 200000] [--shard 20000] [--rounds 3]

Both fill an empty file with the same indexes, one durable transaction a shard. The copy reads plain SQLite files that
lie there already; the ingest lists the store, fetches each shard, checks its sum, unpacks it, checks every game,
takes it in, leaves a receipt and deletes it.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from examples.openspiel.store import SCHEMA
from fleet.game_export import Bounds, export
from fleet.game_ingest import Intake, ingest
from fleet.game_shard import LEVEL, Manifest, unpack
from fleet.games import COLUMNS, FILE, holdings
from fleet.gathered import SCHEMA as GATHERED_SCHEMA
from fleet.store import Store

NOW = 1_800_000_000.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", type=int, default=200_000)
    parser.add_argument("--shard", type=int, default=Bounds().shard_games)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), given.games, given.shard, given.rounds)


def run(folder: Path, games: int, shard: int, rounds: int) -> None:
    node, store = folder / "n1", Store(str(folder / "store"))
    play(node, games)
    began = time.perf_counter()
    exported = export(store, node, "n1", Bounds(shard_games=shard), NOW)
    took = time.perf_counter() - began
    assert (exported.games, exported.left) == (games, 0)
    print(f"export    {games / took:8.0f} games a second, {exported.shards} shards, zlib {LEVEL}")
    plain = unpacked(store, folder / "plain")
    size = sum(path.stat().st_size for path in plain)
    print(f"packed    {exported.bytes / games:8.0f} bytes a game, of {size / games:.0f}")
    ratios, rates = [], []
    for each in range(rounds):
        inbox = Store(str(folder / f"inbox-{each}"))
        shutil.copytree(folder / "store", folder / f"inbox-{each}")
        central = folder / f"central-{each}"
        central.mkdir()
        began = time.perf_counter()
        done = ingest(inbox, central, replace(Intake(), seconds=3600), NOW)
        ours = time.perf_counter() - began
        assert (done.gathered, done.left, done.refused, done.failed) == (games, 0, 0, 0), done
        bare = copy(plain, folder / f"copy-{each}.db")
        rates.append((games / bare, games / ours))
        ratios.append(bare / ours)
        if each == rounds - 1:
            began = time.perf_counter()
            held = holdings(central)
            print(f"holdings of {sum(held['gathered'].values())} games: {1000 * (time.perf_counter() - began):.2f} ms")
        shutil.rmtree(central)
    print(f"bare copy {statistics.median(bare for bare, _ in rates):8.0f} games a second")
    print(f"ingest    {statistics.median(ours for _, ours in rates):8.0f} games a second")
    print(f"ratio     {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


def play(node: Path, number: int) -> None:
    """Games as self-play on a small board leaves them."""
    node.mkdir()
    chance = random.Random(1)

    def game(n: int) -> tuple[object, ...]:
        moves = str([chance.randrange(700) for _ in range(chance.randrange(30, 90))])
        ids = (f"{chance.getrandbits(128):032x}", f"{chance.getrandbits(128):032x}")
        players, result = '["uct", "uct"]', "[1.0, -1.0]"
        return (ids[0], "hex5_2p", "hex5", 2, players, moves, result, 0, n, ids[1], "n1", NOW + n, NOW + n + 1)

    with closing(sqlite3.connect(node / FILE)) as db, db:
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript(SCHEMA)
        db.executemany(f"INSERT INTO games VALUES ({', '.join('?' * len(COLUMNS))})", map(game, range(number)))


def unpacked(store: Store, folder: Path) -> list[Path]:
    """The shards of the inbox as plain SQLite files."""
    folder.mkdir()
    plain = []
    for entry in store.list("inbox"):
        if entry.key.endswith(".json"):
            manifest = Manifest.model_validate_json(store.read(entry.key, 1 << 16))
            packed, raw = folder / "packed", folder / f"{manifest.shard}.db"
            store.get(entry.key[:-4] + "games", packed, size=manifest.size, sha256=manifest.sha256)
            unpack(packed, raw, manifest.unpacked)
            plain.append(raw)
    return sorted(plain)


def copy(plain: list[Path], target: Path) -> float:
    """Seconds for the bare copy."""
    began = time.perf_counter()
    with closing(sqlite3.connect(target, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.executescript(GATHERED_SCHEMA)
        names = ", ".join(COLUMNS)
        for number, path in enumerate(plain):
            db.execute("ATTACH ? AS incoming", (str(path),))
            db.execute("BEGIN IMMEDIATE")
            db.execute(
                f"INSERT OR IGNORE INTO main.games ({names}, shard) SELECT {names}, {number} FROM incoming.games"
            )
            db.execute("COMMIT")
            db.execute("DETACH incoming")
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
