"""The section `ratings`: what ratings are measured from, and how sure a decision must be."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

#: Changes whenever the same counts would be given other numbers.
ALGORITHM = "plackett-luce-1"
MOST_PARTICIPANTS = 4_000  # rated together: half a minute of one core and 0.8 GB, both growing fast with the number

Participant = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Elo = Annotated[float, Field(ge=-5000, le=5000)]


class RatingOptions(BaseModel):
    """The same on every node: nodes with other anchors or another prior show other ratings."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    anchors: dict[Participant, Elo] = Field(
        default={"random": 400.0}, description="participants whose Elo is given, by name; the others follow"
    )
    prior: float = Field(default=1.0, ge=0.01, le=100, description="drawn games that everybody starts with")
    min_games: int = Field(default=30, ge=1, description="games below which a rating decides nothing")
    promotion_certainty: float = Field(
        default=0.95, ge=0.5, lt=1, description="how sure it must be that a model gains at least the next"
    )
    promotion_min_gain: float = Field(default=0.0, ge=0, description="Elo above the promoted model")
