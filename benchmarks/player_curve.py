"""How strong the OpenSpiel player gets, and how fast, on one core and without a cluster.

    python benchmarks/player_curve.py [--generations 6] [--config square6_2p] ...

Each generation runs the very commands of the jobs, one after another: self-play, training, tournament.
What the cluster does between them is done here in the plainest way: a new model is published at once,
ratings are a maximum-likelihood fit with `random` at 400, and a candidate is promoted when its rating
is above that of the promoted model by more than the standard error of the difference.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

SCALE = 400 / math.log(10)
#: strength of the pull towards the mean: a standard deviation of 1500 Elo
PRIOR = (SCALE / 1500) ** 2

#: config -> (self-play games a generation, simulations of MCTS before there is a model, tournament games a generation)
EFFORT = {
    "square6_2p": (200, 32, 240),
    "square8_2p": (200, 32, 160),
    "hex5_2p": (300, 32, 300),
    "hex8_2p": (200, 32, 160),
    "square8_3p": (120, 32, 90),
    "hex8_4p": (120, 32, 80),
}


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


class Ratings:
    """Bradley-Terry for two, the winner of Plackett-Luce for more; a draw is half a win of each."""

    def __init__(self, database: Path) -> None:
        with closing(sqlite3.connect(database)) as file:
            rows = file.execute("SELECT participant_ids, rankings FROM match_history").fetchall()
        matches = [(json.loads(who), json.loads(ranks)) for who, ranks in rows]
        self.names = sorted({name for who, _ in matches for name in who})
        self.index = {name: number for number, name in enumerate(self.names)}
        seated = np.array([[self.index[name] for name in who] for who, _ in matches])
        first = np.array([[rank == 1 for rank in ranks] for _, ranks in matches], dtype=float)
        first /= first.sum(axis=1, keepdims=True)
        self.elo, self.covariance = self._fit(seated, first)

    def _fit(self, seated: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        count, fixed = len(self.names), self.index["random"]
        free = np.array([number for number in range(count) if number != fixed])
        values = np.zeros(count)
        inverse = np.zeros((count, count))
        for _ in range(100):
            odds = np.exp(values[seated] - values[seated].max(axis=1, keepdims=True))
            chance = odds / odds.sum(axis=1, keepdims=True)
            slope = np.zeros(count)
            np.add.at(slope, seated, first - chance)
            slope -= PRIOR * (values - values.mean())
            bend = np.zeros((count, count))
            for i in range(seated.shape[1]):
                for j in range(seated.shape[1]):
                    part = (chance[:, i] if i == j else 0) - chance[:, i] * chance[:, j]
                    np.add.at(bend, (seated[:, i], seated[:, j]), part)
            bend += PRIOR * np.eye(count)
            inverse = np.zeros((count, count))
            inverse[np.ix_(free, free)] = np.linalg.inv(bend[np.ix_(free, free)])
            step = inverse @ slope
            values += np.clip(step, -1, 1)
            if np.abs(step).max() < 1e-9:
                break
        return 400 + SCALE * values, SCALE**2 * inverse

    def of(self, name: str) -> float:
        return float(self.elo[self.index[name]])

    def error(self, name: str) -> float:
        return math.sqrt(self.covariance[self.index[name], self.index[name]])

    def lead(self, one: str, other: str) -> tuple[float, float]:
        """By how much `one` is above `other`, and the standard error of that."""
        i, j = self.index[one], self.index[other]
        variance = self.covariance[i, i] + self.covariance[j, j] - 2 * self.covariance[i, j]
        return self.of(one) - self.of(other), math.sqrt(variance)


def curve(config: str, generations: int) -> None:
    games, simulations, matches = EFFORT[config]
    spent = {"selfplay": 0.0, "training": 0.0, "tournament": 0.0}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        registry = Registry(folder, config)
        ratings = None
        for _ in range(generations):
            started = time.monotonic()
            job(folder, "selfplay", "--config", config, "--games", games, "--simulations", simulations)
            spent["selfplay"] += time.monotonic() - started
            started = time.monotonic()
            version = job(folder, "training", "--config", config, "--games-from", "games.db")["model"]
            spent["training"] += time.monotonic() - started
            registry.publish(version)
            started = time.monotonic()
            job(folder, "tournament", "--config", config, "--games", matches)
            spent["tournament"] += time.monotonic() - started
            ratings = Ratings(folder / "unified_elo.db")
            best = registry.document["promoted"]
            lead, error = (math.inf, 0.0) if best is None else ratings.lead(version, best)
            promoted = lead > error
            if promoted:
                registry.promote(version)
            best = registry.document["promoted"]
            anchors = ", ".join(f"{anchor} {ratings.of(anchor):.0f}" for anchor in ("uct8", "uct32", "uct128"))
            now, error = ratings.of(best), ratings.error(best)
            anchors = ", ".join(f"{anchor} {ratings.of(anchor):.0f}" for anchor in ("uct8", "uct32", "uct128"))
            print(
                f"{config}: {sum(spent.values()):5.1f} s  {version.split('-')[1]} {ratings.of(version):5.0f}"
                f"{' promoted' if promoted else '         '}  best {now:5.0f} +- {error:3.0f},"
                f" lower bound {now - 1.96 * error:5.0f}  ({anchors})",
                flush=True,
            )
        shown = ", ".join(f"{kind} {seconds:.1f} s" for kind, seconds in spent.items())
        print(f"{config}: {shown}; {generations} x {games} games, {generations} x {matches} matches\n", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", action="append", choices=EFFORT, help="which; all when not given")
    parser.add_argument("--generations", type=int, default=6)
    chosen = parser.parse_args()
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    for config in chosen.config or EFFORT:
        curve(config, chosen.generations)


if __name__ == "__main__":
    main()
