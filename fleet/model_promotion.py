"""Which models could be promoted, for `fleet.promotion` to decide about, and how an operator hears of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fleet.models import ConfigModels
from fleet.notices import Notice
from fleet.promotion import Contest, Promotion
from fleet.ratings import Standing


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


def noticed(promotion: Promotion) -> Notice:
    """Word of a promotion, with how sure it is."""
    instead = f" in place of {promotion.previous}" if promotion.previous else ""
    return Notice("Model promoted", f"{promotion.version}{instead}: {promotion.reason}")
