"""What the set of matches costs: a large merge, a small one into a large set, and a cycle with nothing to do.

    python benchmarks/elo_merge.py [--large 1000000]

The matches are those of 202 models that play their neighbours in a chain, in tournaments of fifty games: each of the
eight thousand possible results comes again and again, as it does in reality.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

os.environ |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

from bench import Bench, bench

from fleet.holdings import Holdings
from fleet.match import Match, match, result
from fleet.match_files import merge_file
from fleet.match_ratings import Rules, settle
from fleet.match_rows import WRITTEN
from fleet.match_store import FILE
from fleet.matches import holdings, opened
from tasks.elo_sync import Options, elo_sync
from tasks.loop import Tick

MODELS, NEIGHBOURS, TOURNAMENT = 202, 20, 50
STEP = 5_000  # ms from one match to the next
BEGIN = 1_750_000_000_000
PLAIN, NEW, TIMES = 100_000, 1_000, 7


def made(number: int, first: int = 0) -> Iterator[Match]:
    """So many matches, from one in their order on."""
    rng = random.Random(first)
    for place in range(first, first + number):
        if place % TOURNAMENT == 0 or place == first:
            one = rng.randrange(MODELS)
            other = min(MODELS - 1, one + rng.randrange(1, NEIGHBOURS)) if one < MODELS - 1 else 0
            seats = (f"hex8_2p-g{one:04d}-0123456789ab", f"hex8_2p-g{other:04d}-0123456789ab")
        ranks = rng.choices([(1, 2), (2, 1), (1, 1)], [5, 6, 1])[0]
        yield match(
            f"{rng.getrandbits(128):032x}",
            result("hex8", 2, seats, ranks),
            BEGIN + place * STEP,
            rng.randrange(20, 60),
            rng.randrange(1_000, 5_000),
            (f"tournament-hex8_2p-{place // TOURNAMENT:012x}", "node-1", None),
        )


def bare(source: Path, target: Path) -> float:
    """Seconds of the plain statement, into a table with the same columns and indexes."""
    with closing(sqlite3.connect(target, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("ATTACH ? AS source", (str(source),))
        query = "SELECT sql FROM source.sqlite_master WHERE tbl_name = 'match_history' AND sql IS NOT NULL"
        for (statement,) in db.execute(query).fetchall():
            db.execute(statement)
        columns = ", ".join(WRITTEN)
        begun = time.perf_counter()
        db.execute(f"INSERT OR IGNORE INTO main.match_history ({columns}) SELECT {columns} FROM source.match_history")
        return time.perf_counter() - begun


def merged(source: Path, target: Path) -> float:
    """Seconds of ours: every row checked and hashed, digest and counted results kept."""
    with opened(target) as matches:
        begun = time.perf_counter()
        found = merge_file(matches, source)
        took = time.perf_counter() - begun
    assert found.merged == PLAIN
    return took


def large_merge(folder: Path) -> None:
    source = folder / "source.db"
    with opened(source) as matches:
        matches.merge(made(PLAIN))
    pairs = []
    for number in range(TIMES):
        pairs.append((merged(source, folder / f"ours{number}.db"), bare(source, folder / f"bare{number}.db")))
    ours, plain = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratios = sorted(one / other for one, other in pairs)
    print(f"{PLAIN} matches into an empty database: {ours:.2f} s, bare INSERT ... SELECT {plain:.2f} s")
    print(f"ratio to the bare statement: {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")


def small_merge(folder: Path, large: int) -> None:
    data = folder / "large"
    data.mkdir()
    with opened(data / FILE) as matches:
        matches.merge(made(large))
        settle(matches.db, Rules())
        seconds = []
        for number in range(TIMES):
            bundle = {"matches": [json.loads(each.text) for each in made(NEW, large + number * NEW)]}
            begun = time.perf_counter()
            found = matches.take(bundle, "node-2")
            settle(matches.db, Rules())
            seconds.append(time.perf_counter() - begun)
            assert found.merged == NEW
    print(
        f"{NEW} matches into {large}, with ratings: {statistics.median(seconds):.3f} s "
        f"({min(seconds):.3f} to {max(seconds):.3f})"
    )
    seconds = []
    for _ in range(TIMES):
        begun = time.perf_counter()
        holdings(data)
        seconds.append(time.perf_counter() - begun)
    print(f"what a node with {large} holds: {statistics.median(seconds) * 1000:.1f} ms")


def traffic(stage: Bench, folder: Path) -> None:
    """Bytes between a server and two nodes that hold the same, in one run of elo_sync, as the server counts them."""
    fleet = stage.fleet()
    nodes = []
    for name in ("node-1", "node-2"):
        data = folder / name
        data.mkdir()
        with opened(data / FILE) as matches:
            matches.merge(made(2_000))
            settle(matches.db, Rules())
        fleet.nodes.heartbeat(name, "agent", {"host": name, "pid": 1})
        held = Holdings(fleet.nodes, name, data)
        nodes.append(replace(fleet, node_id=name, data=data, holdings=held))
        held.report()
    for _ in range(2):  # the first one publishes, and loads the scripts
        for node in nodes:
            tick = Tick(now=time.time(), deadline=time.time() + 60)
            counts = dict(elo_sync(node, Options(skip_while_training=True), tick))
    quiet = bytes_of(stage, lambda: None)
    used = [bytes_of(stage, lambda: elo_sync(nodes[0], Options(), tick)) - quiet for _ in range(TIMES)]
    assert counts["agreed"] == 2
    print(f"a run of elo_sync, two nodes that agree: {statistics.median(used):.0f} bytes, sent and received")
    said = bytes_of(stage, lambda: fleet.nodes.hold("node-1", {"matches": holdings(nodes[0].data)})) - quiet
    print(f"a node says what it holds, at least every ten minutes: {said:.0f} bytes")


def bytes_of(stage: Bench, work: object) -> int:
    """What the server received and sent meanwhile."""

    def total() -> int:
        info = stage.redis.info("stats")
        return int(info["total_net_input_bytes"]) + int(info["total_net_output_bytes"])

    before = total()
    work()  # type: ignore[operator]
    return total() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", type=int, default=1_000_000)
    large = parser.parse_args().large
    with tempfile.TemporaryDirectory() as folder:
        large_merge(Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        small_merge(Path(folder), large)
    with bench() as stage, tempfile.TemporaryDirectory() as folder:
        traffic(stage, Path(folder))


if __name__ == "__main__":
    main()
