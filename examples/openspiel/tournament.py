"""Rated matches between models and the fixed anchors, at one effort for all models."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from examples.openspiel.games import CONFIGS, Game, Setup
from examples.openspiel.matches import Match, MatchStore, rankings
from examples.openspiel.model import RANDOM_SHARE, Chance, Greedy, Model
from examples.openspiel.pairing import ANCHORS, rotations, tables
from examples.openspiel.search import Bot
from examples.openspiel.selfplay import play
from examples.openspiel.versions import Manifest, Version

#: Seeds of matches begin here, above all seeds of self-play: no rated game is one that was learned from.
LEAST_SEED = 1 << 53


@dataclass
class Score:
    """What a participant has reached in this tournament."""

    games: int = 0
    first: int = 0  # matches won alone


@dataclass
class Standings:
    """The tournament so far."""

    matches: int = 0
    planned: int = 0
    scores: dict[str, Score] = field(default_factory=dict)

    def add(self, match: Match) -> None:
        self.matches += 1
        for who in match.participants:
            score = self.scores.setdefault(who, Score())
            score.games += 1
            score.first += who == match.winner


def player(
    name: str, models: Mapping[str, Model], setup: Setup, game: Game, seed: int, stop: Callable[[], bool]
) -> Bot:
    """The participant of that name. Its effort is fixed by what it is, and nothing else can change it."""
    if name in models:
        return Greedy(models[name], random.Random(seed))
    if simulations := ANCHORS[name]:
        return setup.make_bot(game, simulations, seed & 0x7FFFFFFF, stop)
    return Chance(random.Random(seed))


def play_match(
    config: str, seats: tuple[str, ...], models: Mapping[str, Model], seed: int, stop: Callable[[], bool]
) -> Match | None:
    """One match with an opening drawn from `seed`; None when stopped. The same arguments give the same moves."""
    setup = CONFIGS[config]
    game = setup.load()
    rng = random.Random(seed)
    bots = [player(name, models, setup, game, rng.getrandbits(53), stop) for name in seats]
    started = time.monotonic()
    played = play(game, bots, rng, stop)
    if played is None:
        return None
    moves, returns = played
    metadata = {"seed": str(seed), "random_share": RANDOM_SHARE}
    return Match(config, seats, rankings(returns), len(moves), round(time.monotonic() - started, 6), metadata)


def tournament(
    store: MatchStore, config: str, manifest: Manifest, *, games: int, stop: Callable[[], bool]
) -> Standings:
    """Play at least `games` matches, in whole rounds of seats, and store each as it ends; fewer when `stop` says so.

    Raises ModelRefused, StoreError, ImportError, and ValueError when there are too few participants.
    """
    seats = CONFIGS[config].load().num_players()
    candidates = manifest.candidates()
    entered: dict[str, Version] = {
        version.name: version for version in (*candidates, manifest.promoted, manifest.previous) if version
    }
    models = {name: version.model(config) for name, version in entered.items()}
    types = dict.fromkeys(models, "model") | dict.fromkeys(ANCHORS, "baseline")
    plan = tables(
        [version.name for version in candidates],
        None if manifest.promoted is None else manifest.promoted.name,
        None if manifest.previous is None else manifest.previous.name,
        seats=seats,
        count=-(-games // seats),
        results=store.results(config),
        rng=random.Random(secrets.randbits(64)),
    )
    standings = Standings(planned=len(plan) * seats)
    for table in plan:
        for seated in rotations(table):
            match = play_match(config, seated, models, LEAST_SEED + secrets.randbits(60), stop)
            if match is None:
                return standings
            store.append(match, types)
            standings.add(match)
    return standings
