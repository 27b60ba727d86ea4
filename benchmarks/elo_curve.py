"""Draws the Elo of each configuration's best model over time, against its target.

    python benchmarks/elo_curve.py --from .backbeat/nodes/node-1/unified_elo.db [-o docs/images/elo_curve.png]
    python benchmarks/elo_curve.py --run [--minutes 15] [--keep DIR]

`--run` starts `backbeat up` with `config/openspiel.yaml` in a folder of its own, waits until the
populator finds every target met, or for so many minutes, stops it, and draws what its nodes have played.

Lines and bands are the ratings that the cluster gives the matches that had been played by then: the line is
the best model's rating, the band's lower edge what it is above with 97.5 % certainty, which is what a
target is compared with. Small dots are what it published, where the file has it;
triangles are promotions, where the store is at hand (`--store`).
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import yaml
from ladder import ANCHOR, ANCHORED_AT, Match, matches_of

from fleet.outcome import outcome
from fleet.rating import Rated, Ratings, rate

mpl.use("Agg")
from matplotlib import pyplot as plt

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "config" / "openspiel.yaml"
BACKBEAT = str(Path(sys.executable).parent / "backbeat")
#: ratings are computed at so many points of time
POINTS = 60
COLOURS = ("#1b6ca8", "#c8553d", "#3a7d44", "#7a4ea3", "#b8860b", "#4a4a4a")


@dataclass
class Curve:
    """The best model over time: minutes since the start, its rating, and the lower bound of that."""

    minutes: list[float]
    rating: list[float]
    lower: list[float]


def model_names(database: Path) -> set[str]:
    with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True, timeout=10)) as file:
        return {
            name for (name,) in file.execute("SELECT participant_id FROM participants WHERE participant_type = 'model'")
        }


def published(database: Path, models: set[str]) -> dict[str, list[tuple[float, float]]]:
    """By configuration, when the cluster rated its best model how; empty when the file tells nothing of that."""
    query = "SELECT board_type, num_players, timestamp, participant_id, rating FROM rating_history ORDER BY timestamp"
    found: dict[str, list[tuple[float, float]]] = {}
    latest: dict[str, dict[str, float]] = {}
    with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True, timeout=10)) as file:
        try:
            rows = file.execute(query).fetchall()
        except sqlite3.OperationalError:
            return {}
    for board, players, at, who, rating in rows:
        if who in models and isinstance(at, float | int) and isinstance(rating, float | int):
            config = f"{board}_{players}p"
            latest.setdefault(config, {})[who] = rating
            points = found.setdefault(config, [])
            if points and points[-1][0] == at:
                points.pop()
            points.append((at, max(latest[config].values())))
    return found


def ratings_of(matches: list[Match]) -> Ratings:
    """What the cluster would publish of these matches."""
    counted = Counter(outcome(match.participants, [int(rank) for rank in match.ranks]) for match in matches)
    return rate(counted, {ANCHOR: ANCHORED_AT})


def lower_bound(rated: Rated) -> float:
    """What a rating is above with 97.5 % certainty, as `fleet.ratings` has it."""
    return rated.rating - 1.96 * rated.deviation


def curve(matches: list[Match], models: set[str], start: float, least: int) -> Curve:
    """Rated again at each point of time from the matches until then; the best is whose lower bound is highest."""
    drawn = Curve([], [], [])
    first, last = matches[0].ended_at, matches[-1].ended_at
    done = 0
    for point in range(1, POINTS + 1):
        until = first + (last - first) * point / POINTS
        count = sum(match.ended_at <= until for match in matches)
        if count == done:
            continue
        done = count
        ratings = ratings_of(matches[:count])
        rated = [name for name, each in ratings.items() if name in models and each.games >= least]
        if rated:
            best = max((ratings[name] for name in rated), key=lower_bound)
            drawn.minutes.append((until - start) / 60)
            drawn.rating.append(best.rating)
            drawn.lower.append(lower_bound(best))
    return drawn


def promotions(store: Path | None, config: str) -> list[float]:
    """When models of a configuration were promoted, in seconds since the epoch; the names of the records say it."""
    records = store.glob(f"models/{config}/promotions/*-*.json") if store is not None else []
    stamps = [record.name.partition("-")[0] for record in records]
    return sorted(int(stamp) / 1000 for stamp in stamps if stamp.isdecimal())


def targets(config: Path) -> tuple[list[str], dict[str, float], float, int]:
    """The configurations in their order, the targets of some, that of all others, and the games one takes."""
    document = yaml.safe_load(config.read_text())
    populator = document.get("queue_populator", {})
    named = {
        name: target if isinstance(target, int | float) else target.get("target_elo")
        for name, target in (document.get("elo_targets") or {}).items()
    }
    least = (document.get("ratings") or {}).get("min_games", 30)
    return populator.get("configs", []), named, populator.get("target_elo", 2000), least


def draw(database: Path, config: Path, image: Path, start: float | None = None, store: Path | None = None) -> None:
    played = matches_of(database)
    if not played:
        raise SystemExit(f"{database} holds no match")
    models = model_names(database)
    order, named, general, least = targets(config)
    begun = min(matches[0].ended_at for matches in played.values()) if start is None else start
    own = published(database, models)
    configs = [name for name in order if name in played] + sorted(played.keys() - set(order))
    columns = min(3, len(configs))
    rows = math.ceil(len(configs) / columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(4.4 * columns, 3.4 * rows), squeeze=False, sharex=True, layout="constrained"
    )
    for axis in axes.flat[len(configs) :]:
        axis.remove()
    for number, name in enumerate(configs):
        axis, colour = axes.flat[number], COLOURS[number % len(COLOURS)]
        target = named.get(name) or general
        line = curve(played[name], models, begun, least)
        axis.fill_between(line.minutes, line.lower, line.rating, color=colour, alpha=0.2, linewidth=0)
        axis.plot(line.minutes, line.rating, color=colour, linewidth=2, label="best model")
        axis.plot(line.minutes, line.lower, color=colour, linewidth=0.8, label="lower 95 % bound")
        axis.axhline(target, color="black", linestyle="--", linewidth=1, label=f"target {target:g}")
        final = ratings_of(played[name])
        for anchor in ("uct128", "uct32", "random"):
            if anchor in final:
                axis.axhline(final[anchor].rating, color="grey", linestyle=":", linewidth=0.8)
                axis.annotate(anchor, (0.01, final[anchor].rating), xycoords=("axes fraction", "data"), fontsize=7,
                              ha="left", va="bottom", color="grey")  # fmt: skip
        if dots := own.get(name):
            axis.plot([(at - begun) / 60 for at, _ in dots], [rating for _, rating in dots], ".", color=colour, ms=4)
        for at in promotions(store, name):
            axis.plot((at - begun) / 60, 0.02, "^", color=colour, ms=5, transform=axis.get_xaxis_transform())
        met = next((at for at, lower in zip(line.minutes, line.lower, strict=True) if lower >= target), None)
        if met is not None:
            axis.axvline(met, color=colour, linestyle="-", linewidth=0.8, alpha=0.6)
        when = "not reached" if met is None else f"reached after {met:.1f} min"
        axis.set_title(f"{name}: target {target:g} {when}", fontsize=10)
        axis.set_ylabel("Elo (random = 400)" if number % columns == 0 else "")
        axis.set_xlabel("minutes" if number + columns >= len(configs) else "")
        axis.tick_params(labelbottom=True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(fontsize=7, loc="lower right", frameon=False)
        last = f"{line.rating[-1]:.0f}, lower bound {line.lower[-1]:.0f}" if line.rating else "no model rated"
        print(f"{name}: {len(played[name])} matches, best {last}; target {target:g} {when}")
    image.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(image, dpi=110)
    print(f"drawn: {image}")


def status(data: Path) -> dict[str, Any]:
    """What `backbeat status` says; empty while it cannot be told."""
    argv = [BACKBEAT, "status", "--json", "--data", str(data)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=ROOT)
    try:
        return dict(json.loads(done.stdout))
    except ValueError:
        return {}


def run(minutes: float, data: Path, config: Path) -> None:
    """A cluster until all its targets are met, or for so many minutes."""
    argv = [BACKBEAT, "up", "--config", str(config), "--data", str(data)]
    started = time.monotonic()
    cluster = subprocess.Popen(argv, cwd=ROOT)
    try:
        while (passed := time.monotonic() - started) < minutes * 60:
            time.sleep(5)
            if (code := cluster.poll()) is not None:
                raise SystemExit(f"`backbeat up` ended with {code} after {passed:.0f} s; its logs are in {data}/logs")
            counts = status(data).get("loops", {}).get("queue_populator", {}).get("last_counts") or {}
            if counts.get("unmet") == 0 and counts.get("met"):
                print(f"every target is met after {passed / 60:.1f} minutes", flush=True)
                break
        else:
            print(f"not every target is met after {minutes:g} minutes", flush=True)
    finally:
        if cluster.poll() is None:
            cluster.send_signal(signal.SIGTERM)
            try:
                cluster.wait(60)
            except subprocess.TimeoutExpired:
                cluster.kill()
                cluster.wait()


def fullest(data: Path) -> Path:
    """The database with the most matches: where nodes agree, any of them."""
    databases = sorted(data.glob("nodes/*/unified_elo.db"))
    if not databases:
        raise SystemExit(f"no node in {data} has played a match")
    return max(databases, key=lambda path: sum(map(len, matches_of(path).values())))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--from", dest="database", type=Path, metavar="DB", help="a unified_elo.db")
    what.add_argument("--run", action="store_true", help="run a cluster first")
    parser.add_argument("--store", type=Path, metavar="DIR", help="for --from: the store's directory")
    parser.add_argument("--minutes", type=float, default=15.0, help="for --run: no longer than this")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="for --run: keep the cluster's files there")
    parser.add_argument("--config", type=Path, default=CONFIG, help="where the targets are")
    parser.add_argument("-o", "--output", type=Path, default=Path("elo_curve.png"), help="the image")
    chosen = parser.parse_args()
    if not chosen.run:
        if not chosen.database.is_file():
            raise SystemExit(f"{chosen.database} is no file")
        draw(chosen.database, chosen.config, chosen.output, store=chosen.store)
        return
    with tempfile.TemporaryDirectory() as folder:
        data = chosen.keep or Path(folder)
        start = time.time()
        run(chosen.minutes, data, chosen.config)
        draw(fullest(data), chosen.config, chosen.output, start, data / "store")


if __name__ == "__main__":
    main()
