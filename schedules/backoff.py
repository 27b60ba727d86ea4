"""How long to wait after failures in a row. Pure: the random source is an argument."""

from __future__ import annotations

import random
from collections.abc import Callable

from pydantic import BaseModel, ConfigDict, Field, model_validator

from schedules import durations
from schedules.durations import Seconds

#: Beyond it even the smallest multiplier above 1 has passed every cap, and a float still holds it.
_LAST_STEP = 2**63


class Backoff(BaseModel):
    """Exponential backoff: `initial_delay` after one failure, times `multiplier` for each further one,
    at most `max_delay`. Delays are seconds and may be written as durations (`5s`, `2m`).

    With `jitter` a delay is between half of that and all of it, so that nodes which failed together do
    not come back together, and the cap stays a cap.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    initial_delay: Seconds = Field(default=5.0, gt=0)
    max_delay: Seconds = 300.0
    multiplier: float = Field(default=2.0, ge=1)
    jitter: bool = True

    @model_validator(mode="after")
    def _cap_above_start(self) -> Backoff:
        if self.max_delay < self.initial_delay:
            cap, start = durations.format(self.max_delay), durations.format(self.initial_delay)
            raise ValueError(f"max_delay ({cap}) must be at least initial_delay ({start})")
        return self

    def delay(self, failures: int, random: Callable[[], float] = random.random) -> float:
        """Seconds to wait after `failures` in a row; `random` returns a number from 0 to 1.

        Raises ValueError when there was no failure.
        """
        if failures < 1:
            raise ValueError(f"a delay follows at least 1 failure, not {failures}")
        try:
            grown = self.initial_delay * self.multiplier ** min(failures - 1, _LAST_STEP)
        except OverflowError:
            grown = self.max_delay
        capped = min(grown, self.max_delay)
        return capped - capped * 0.5 * random() if self.jitter else capped
