"""Which models could be promoted, for `fleet.promotion` to decide about, and how an operator hears of it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from fleet.match_ratings import outcomes
from fleet.match_store import BUSY_SECONDS, columns
from fleet.models import ConfigModels
from fleet.notices import Notice
from fleet.promotion import Contest, Promotion, fit
from fleet.rating_options import RatingOptions
from fleet.ratings import RatingsUnreadable, Standing


def contests(models: Iterable[ConfigModels], everybody: Mapping[str, Mapping[str, Standing]]) -> list[Contest]:
    """A contest for each configuration, between the versions of its registry. Pure.

    Whatever was promoted once, or rolled back, is no candidate again: only an operator brings it back.
    """
    return [
        Contest(
            config=each.config,
            promoted=each.promoted,
            candidates=tuple(version.version for version in each.versions),
            standings=everybody.get(each.config, {}),
            earlier=frozenset(promotion.version for promotion in each.promotions),
        )
        for each in sorted(models, key=lambda each: each.config)
    ]


def informed(contests: Iterable[Contest], path: Path, options: RatingOptions) -> list[Contest]:
    """The contests with the errors of the differences themselves, from the matches in `path`.

    They are rated anew for it, a quarter of a second for a million, so only where somebody stands above the
    promoted model. A file without matches of ours leaves a contest as it is. Raises RatingsUnreadable.
    """
    known = list(contests)
    if not path.exists() or not any(_above(contest, options) for contest in known):
        return known
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_SECONDS)) as db:
            if not columns(db, "backbeat_outcomes"):
                return known
            return [replace(each, differences=_differences(db, each, options)) for each in known]
    except (sqlite3.Error, ArithmeticError) as error:
        raise RatingsUnreadable(f"{path}: {error}") from error


def _above(contest: Contest, options: RatingOptions) -> list[str]:
    """The candidates who could take the place of the promoted model, if that is sure enough."""
    promoted = contest.standings.get(contest.promoted or "")
    if promoted is None:
        return []
    least = promoted.rating + options.promotion_min_gain
    return [candidate.participant for candidate in fit(contest, options) if candidate.rating > least]


def _differences(db: sqlite3.Connection, contest: Contest, options: RatingOptions) -> Mapping[str, tuple[float, float]]:
    above = _above(contest, options)
    if not above or contest.promoted is None:
        return {}
    from fleet.rating import rate  # with numpy, which takes memory

    rated = rate(outcomes(db, contest.config), options.anchors, prior=options.prior)
    if contest.promoted not in rated:
        return {}
    return {name: rated.difference(name, contest.promoted) for name in above if name in rated}


def noticed(promotion: Promotion) -> Notice:
    """Word of a promotion, with how sure it is."""
    instead = f" in place of {promotion.previous}" if promotion.previous else ""
    return Notice("Model promoted", f"{promotion.version}{instead}: {promotion.reason}")
