"""What beat asks: which ticks are due. Seeds the timetable from the plan and writes off dead runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from fleet.fleet import Fleet
from schedules.plan import Stanza
from workers.answering import Answering, beat_is_ready
from workers.lease import boottime
from workers.ledger import Claim, Ledger, Scheduled
from workers.mainloop import MAIN_LOOP
from workers.runner import RUN_TTL, record_vanished
from workers.settings import exit_if_evicting, refuse_eviction

#: Seconds after which a tick that nobody took, although its queue is empty, is sent again.
GRACE = 2.0


class Timetable:
    """The timetable of one beat replica."""

    def __init__(
        self,
        ledger: Ledger,
        fleet: Fleet,
        scheduled: Sequence[Scheduled],
        stanzas: Mapping[str, Stanza],
        run: Path,
    ) -> None:
        self._ledger, self._fleet, self._scheduled, self._stanzas = ledger, fleet, scheduled, stanzas
        self._run = run
        self._seeded = self._active = False
        self._polled_at: float | None = None

    def prepare(self) -> None:
        Answering(self._run, "beat", lambda: beat_is_ready(self._polled_at, self._active)).start()
        exit_if_evicting(self._ledger.redis)

    def poll(self, token: str, identity: str, ttl: float) -> Claim:
        """Renew or take the beat lease and claim due ticks. Only the active replica seeds."""
        MAIN_LOOP.turn()
        claim = self._claim(token, identity, ttl)
        self._polled_at, self._active = boottime(), claim.active
        return claim

    def _claim(self, token: str, identity: str, ttl: float) -> Claim:
        claim = self._ledger.claim(token, identity, ttl=ttl, grace=GRACE)
        if not claim.active:
            self._seeded = False
            return claim
        if not self._seeded or claim.loops_known < len(self._scheduled):
            # first poll of this term, or the server came back empty
            refuse_eviction(self._ledger.redis)
            self._ledger.seed(self._scheduled, prune=True)
            self._seeded = True
            fresh = self._ledger.claim(token, identity, ttl=ttl, grace=GRACE)
            claim = replace(fresh, ticks=claim.ticks + fresh.ticks)
        for gone in claim.vanished:
            record_vanished(self._ledger, self._fleet, self._stanzas.get(gone.name), gone, RUN_TTL)
        return claim

    def release(self, token: str) -> None:
        self._ledger.release_beat(token)
