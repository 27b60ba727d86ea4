"""Where this node is reached, as its agent's heartbeat says it: `addresses`, and `probe`, where it proves itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

from fleet.nodes import HEARTBEAT
from fleet.options import PublicAddress
from fleet.public_address import ask
from workers.presence import Reporter, Rows
from workers.pulse import Pulse
from workers.responder import ProbeServer
from workers.settings import Settings

#: Seconds until the services are asked again when none of them told an address.
ASK_AGAIN = 300.0


class Whereabouts(Reporter):
    """Adds to what `vitals` says the public address and where probes are answered."""

    def __init__(
        self,
        vitals: Reporter,
        settings: Settings,
        public: PublicAddress,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._vitals, self._public, self._clock = vitals, public, clock
        self._server = ProbeServer(settings.node_id, settings.bind, settings.port)
        self._nudge: Callable[[], None] = lambda: None
        self._asked_with: Any = None
        self._ask_at = 0.0
        self._found: str | None = None
        self._pulse = Pulse("public-address", HEARTBEAT, self.look) if public.services else None

    def start(self, nudge: Callable[[], None]) -> None:
        """Answer probes from now on; `nudge` is called when there is something new to say."""
        self._nudge = nudge
        self._server.start(nudge)
        if self._pulse is not None:
            self._pulse.start()

    def stop(self) -> None:
        if self._pulse is not None:
            self._pulse.stop()
        self._server.stop()

    def look(self) -> None:
        """Ask for the public address if it is time to, or the machine's own have changed. Raises NoPublicAddress."""
        own = self._vitals.facts().get("addresses")
        if own is None or (own == self._asked_with and self._clock() < self._ask_at):
            return
        if own != self._asked_with:
            self._found, self._asked_with = None, own
        self._ask_at = self._clock() + min(ASK_AGAIN, self._public.interval)
        found = asyncio.run(ask(self._public.services, self._public.timeout))
        self._ask_at = self._clock() + self._public.interval
        if found != self._found:
            self._found = found
            self._nudge()

    def facts(self) -> Mapping[str, Any]:
        facts = dict(self._vitals.facts())
        if self._found is not None and "addresses" in facts:
            facts["addresses"] = {**facts["addresses"], "public": [self._found]}
        if (listening := self._server.listening) is not None:
            facts["probe"] = listening.facts
        return facts

    def history(self) -> Rows | None:
        return self._vitals.history()

    def heard(self, at: float) -> None:
        self._vitals.heard(at)
