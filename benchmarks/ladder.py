"""Ratings of the player's matches, written apart from Backbeat's own so that the two can be compared.

Bradley and Terry's model for two, the winner of Plackett and Luce's for more; a draw is shared. `random`
stands at 400, and everybody is pulled a little towards the mean.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections import defaultdict
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np

ANCHOR, ANCHORED_AT = "random", 400.0
SCALE = 400 / math.log(10)
#: strength of the pull towards the mean: that of a standard deviation of 1500 Elo
PRIOR = (SCALE / 1500) ** 2


class Match(NamedTuple):
    """When a match ended, in seconds since the epoch, who sat where, and how they finished."""

    ended_at: float
    participants: list[str]
    ranks: list[float]


def matches_of(database: Path) -> dict[str, list[Match]]:
    """The matches of each configuration in the order of their ends. Rows that do not read as matches are left out."""
    query = "SELECT board_type, num_players, timestamp, participant_ids, rankings FROM match_history ORDER BY timestamp"
    with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True, timeout=10)) as file:
        rows = file.execute(query).fetchall()
    found: dict[str, list[Match]] = defaultdict(list)
    for board, players, ended_at, who, ranks in rows:
        try:
            match = Match(float(ended_at), json.loads(who), [float(rank) for rank in json.loads(ranks)])
        except (ValueError, TypeError):
            continue
        if len(match.participants) == len(match.ranks) == players and min(match.ranks) == 1:
            found[f"{board}_{players}p"].append(match)
    return dict(found)


class Ratings:
    """The ratings that a number of matches give; at least one of them must have been played by the anchor."""

    def __init__(self, matches: list[Match]) -> None:
        self.names = sorted({name for match in matches for name in match.participants} | {ANCHOR})
        self.index = {name: number for number, name in enumerate(self.names)}
        seated = np.array([[self.index[name] for name in match.participants] for match in matches])
        first = np.array([[rank == 1 for rank in match.ranks] for match in matches], dtype=float)
        first /= first.sum(axis=1, keepdims=True)
        self.games = np.bincount(seated.ravel(), minlength=len(self.names))
        self.elo, self.covariance = self._fit(seated, first)

    def _fit(self, seated: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        count, fixed = len(self.names), self.index[ANCHOR]
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
        return ANCHORED_AT + SCALE * values, SCALE**2 * inverse

    def of(self, name: str) -> float:
        return float(self.elo[self.index[name]])

    def error(self, name: str) -> float:
        return math.sqrt(self.covariance[self.index[name], self.index[name]])

    def lower_bound(self, name: str) -> float:
        """What the rating is above with 97.5 % confidence."""
        return self.of(name) - 1.96 * self.error(name)

    def lead(self, one: str, other: str) -> tuple[float, float]:
        """By how much `one` is above `other`, and the standard error of that."""
        i, j = self.index[one], self.index[other]
        variance = self.covariance[i, i] + self.covariance[j, j] - 2 * self.covariance[i, j]
        return self.of(one) - self.of(other), math.sqrt(variance)
