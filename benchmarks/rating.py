"""What ratings cost, beside those of OpenSpiel (pyspiel.elo) and choix on the same games, all on one core.

    python benchmarks/rating.py [--matches ../shared/data/lz_matches.csv]

The games are 65,644 real ones of 202 Leela Zero models, each playing its neighbours in a chain of thousands of Elo,
and then a million made-up games of 500 models, drawn at random from all pairs, a twentieth of them ties.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

import choix
import numpy as np
import pyspiel

from fleet.outcome import Outcome, outcome
from fleet.rating import rate

HERE = Path(__file__).parent
LOGIT = 400 / np.log(10)
MODELS, GAMES, TIES = 500, 1_000_000, 0.05


def timed(work: Callable[[], Any], times: int = 7) -> tuple[float, float, float, Any]:
    """Median, best and worst seconds of `times` goes, and the result."""
    seconds = []
    for _ in range(times):
        begun = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds), min(seconds), max(seconds), result


def leela_zero(path: Path) -> Counter[Outcome]:
    games: Counter[Outcome] = Counter()
    with path.open(newline="") as file:
        for black, white, _speed, number, won in csv.reader(file):
            games[outcome((black, white), (1, 2))] += int(won)
            games[outcome((black, white), (2, 1))] += int(number) - int(won)
    return games


def made_up() -> Counter[Outcome]:
    rng = random.Random(1)
    names = [f"hex8_2p-g{number:04d}-0123456789ab" for number in range(MODELS)]
    games: Counter[Outcome] = Counter()
    for _ in range(GAMES):
        one, other = sorted(rng.sample(range(MODELS), 2))
        if rng.random() < TIES:
            ranks = (1, 1)
        else:
            ranks = (1, 2) if rng.random() < 1 / (1 + 10 ** ((other - one) * 4 / 400)) else (2, 1)
        games[(names[one], names[other]), ranks] += 1
    return games


def show(name: str, measured: tuple[float, float, float, Any], note: str = "") -> None:
    median, least, most, _ = measured
    print(f"{name:<34}{1000 * median:8.1f} ms ({1000 * least:.1f} to {1000 * most:.1f}){note}")


def centred(strengths: Any) -> Any:
    return np.asarray(strengths) - np.mean(strengths)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--matches", type=Path, default=HERE.parents[1] / "shared" / "data" / "lz_matches.csv")
    games = leela_zero(parser.parse_args().matches)
    names = sorted({name for participants, _ in games for name in participants})
    wins = np.zeros((len(names), len(names)))
    for (participants, ranks), times in games.items():
        winner, loser = participants if ranks == (1, 2) else reversed(participants)
        wins[names.index(winner), names.index(loser)] += times
    matrix = wins.astype(int).tolist()
    options = pyspiel.elo.default_elo_options()
    options.smoothing_factor, options.convergence_delta = 0.0, 1e-14

    def openspiel(rounds: int) -> Callable[[], Any]:
        def work() -> Any:
            options.max_iterations = rounds
            return pyspiel.elo.compute_ratings_from_matrices(matrix, [], options)

        return work

    print(f"{games.total()} games of {len(names)} models, {len(games)} different results")
    ours = timed(lambda: rate(games, {}))
    bare = rate(games, {}, prior=1e-6)  # the others have no prior
    true = centred([bare[name].rating for name in names])

    def off(elo: Any) -> str:
        return f", at most {np.abs(centred(elo) - true).max():.2f} Elo off"

    show("backbeat, with deviations", ours)
    theirs = {rounds: timed(openspiel(rounds), 3) for rounds in (2_000, 20_000)}
    for rounds, measured in theirs.items():
        show(f"pyspiel.elo, {rounds} rounds", measured, off(measured[-1]))
    dense = timed(lambda: choix.ilsr_pairwise_dense(wins, alpha=0.0, max_iter=1000, tol=1e-9), 3)
    show("choix.ilsr_pairwise_dense", dense, off(np.asarray(dense[-1]) * LOGIT))
    for name, measured in (("pyspiel.elo, converged", theirs[20_000]), ("choix", dense)):
        print(f"ratio to {name}: {ours[0] / measured[0]:.3f}")

    games = made_up()
    print(f"{games.total()} games of {MODELS} models, {len(games)} different results")
    show("backbeat, with deviations", timed(lambda: rate(games, {"hex8_2p-g0000-0123456789ab": 400.0})))


if __name__ == "__main__":
    main()
