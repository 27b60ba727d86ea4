"""Facts that cannot be had for now: each is missed once, and the rest goes on."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger("backbeat.metrics")


class Absences:
    """What is missing now. Not for two threads."""

    def __init__(self) -> None:
        self._missing: set[str] = set()

    @contextmanager
    def noting(self, fact: str) -> Iterator[None]:
        """Whatever the block raises is logged, once until it succeeds again."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - no measurement may cost another one, or the heartbeat
            if fact not in self._missing:
                log.warning("%s: not known for now: %s: %s", fact, type(error).__name__, error)
            self._missing.add(fact)
        else:
            if fact in self._missing:
                log.warning("%s: known again", fact)
            self._missing.discard(fact)
