"""How strong the OpenSpiel player gets, and how fast, on one core and without a cluster.

    python benchmarks/player_curve.py [--generations 6] [--config square6_2p] ...

Each generation runs the very commands of the jobs, one after another: self-play, training, tournament.
What the cluster does between them is done here in the plainest way: a new model is published at once,
ratings are those of `ladder.py` with `random` at 400, and a candidate is promoted when its rating
is above that of the promoted model with 95 % confidence.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ladder import Ratings, matches_of

#: standard errors of a difference that leave 5 % of doubt about its sign
SURE = 1.645
#: config -> (self-play games a generation, simulations of MCTS before there is a model, tournaments a generation)
EFFORT = {
    "square6_2p": (200, 32, 4),
    "square8_2p": (200, 32, 3),
    "hex5_2p": (300, 32, 4),
    "hex8_2p": (200, 32, 4),
    "square8_3p": (120, 32, 2),
    "hex8_4p": (120, 32, 2),
}
#: games of one tournament
MATCHES = 60


def job(folder: Path, *arguments: object) -> Any:
    """The result that a job of the player prints."""
    argv = [sys.executable, "-m", "examples.openspiel", *map(str, arguments), "--data", str(folder)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(argv)}: {done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


class Registry:
    """Publishes and promotes, as the cluster would."""

    def __init__(self, folder: Path, config: str) -> None:
        self.new = folder / "models" / "new"
        self.own = folder / "models" / config
        self.own.mkdir(parents=True)
        self.document: dict[str, Any] = {"config": config, "promoted": None, "previous": None, "versions": []}

    def publish(self, version: str) -> None:
        about = json.loads((self.new / f"{version}.json").read_text())
        shutil.move(self.new / about["file"], self.own / about["file"])
        (self.new / f"{version}.json").unlink()
        data = (self.own / about["file"]).read_bytes()
        kept = {key: about[key] for key in ("file", "parent", "generation", "games")}
        row = {"version": version, "sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "created_at": 0}
        self.document["versions"].append(row | kept)
        self.write()

    def promote(self, version: str) -> None:
        self.document |= {"previous": self.document["promoted"], "promoted": version}
        self.write()

    def write(self) -> None:
        (self.own / "manifest.json").write_text(json.dumps(self.document))


def curve(config: str, generations: int, keep: Path | None) -> None:
    games, simulations, tournaments = EFFORT[config]
    spent = {"selfplay": 0.0, "training": 0.0, "tournament": 0.0}
    with tempfile.TemporaryDirectory() as name:
        folder = keep / config if keep else Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        registry = Registry(folder, config)
        for _ in range(generations):
            started = time.monotonic()
            job(folder, "selfplay", "--config", config, "--games", games, "--simulations", simulations)
            spent["selfplay"] += time.monotonic() - started
            started = time.monotonic()
            version = job(folder, "training", "--config", config, "--games-from", "games.db")["model"]
            spent["training"] += time.monotonic() - started
            registry.publish(version)
            started = time.monotonic()
            for _ in range(tournaments):
                job(folder, "tournament", "--config", config, "--games", MATCHES)
            spent["tournament"] += time.monotonic() - started
            ratings = Ratings(matches_of(folder / "unified_elo.db")[config])
            best = registry.document["promoted"]
            lead, error = (math.inf, 0.0) if best is None else ratings.lead(version, best)
            promoted = lead > SURE * error
            if promoted:
                registry.promote(version)
            best = registry.document["promoted"]
            anchors = ", ".join(f"{anchor} {ratings.of(anchor):.0f}" for anchor in ("uct8", "uct32", "uct128"))
            now, error = ratings.of(best), ratings.error(best)
            anchors = ", ".join(f"{anchor} {ratings.of(anchor):.0f}" for anchor in ("uct8", "uct32", "uct128"))
            print(
                f"{config}: {sum(spent.values()):5.1f} s  {version.split('-')[1]} {ratings.of(version):5.0f}"
                f"{' promoted' if promoted else '         '}  best {now:5.0f} +- {error:3.0f},"
                f" lower bound {ratings.lower_bound(best):5.0f}  ({anchors})",
                flush=True,
            )
        shown = ", ".join(f"{kind} {seconds:.1f} s" for kind, seconds in spent.items())
        print(
            f"{config}: {shown}; {generations} x {games} games, {generations} x {tournaments * MATCHES} matches\n",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", action="append", choices=EFFORT, help="which; all when not given")
    parser.add_argument("--generations", type=int, default=6)
    parser.add_argument("--keep", type=Path, help="keep the files of each configuration in a folder there")
    chosen = parser.parse_args()
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    for config in chosen.config or EFFORT:
        curve(config, chosen.generations, chosen.keep)


if __name__ == "__main__":
    main()
