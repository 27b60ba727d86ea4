"""The beat scheduler: any number of replicas, one active, and no slot ever doubled.

Everything that decides is in the timetable (the app brings it as `app.timetable`): one script in Redis
renews or takes the beat lease and claims what is due. So a replica that believes wrongly that it is
active still cannot make a second tick of a slot, and a lost lease makes a standby, not an exit. What
is not promised: that a claimed tick arrives. A tick that nobody took is claimed again under its seq.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
import uuid
from collections.abc import Sequence
from typing import Any, Protocol

from celery.beat import Scheduler

log = logging.getLogger("backbeat.beat")

#: Seconds between two polls at most: how soon a pause, a new interval or a free lease is noticed.
POLL = 0.5
#: Seconds of the beat lease: how long a dead active replica keeps the others waiting.
LEASE_TTL = 3.0


class Tick(Protocol):
    """A claimed tick."""

    @property
    def name(self) -> str: ...
    @property
    def seq(self) -> int: ...
    @property
    def queue(self) -> str: ...


class Poll(Protocol):
    """What one poll of the timetable brought; `wait` is in seconds."""

    @property
    def active(self) -> bool: ...
    @property
    def wait(self) -> float: ...
    @property
    def ticks(self) -> Sequence[Tick]: ...


class Timetable(Protocol):
    """Where ticks are claimed. Its methods raise OSError or redis errors when the server is away."""

    def prepare(self) -> None: ...
    def poll(self, token: str, identity: str, ttl: float) -> Poll: ...
    def release(self, token: str) -> None: ...


class BeatScheduler(Scheduler):
    """Celery's scheduler interface over the timetable. `tick` never raises: beat has no net of its own."""

    def __init__(self, app: Any, *args: Any, **kwargs: Any) -> None:
        self.timetable: Timetable = app.timetable
        self.token = uuid.uuid4().hex
        self.identity = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "token": self.token[:8]})
        self.active = False
        self._trouble = ""
        super().__init__(app, *args, **kwargs)

    def setup_schedule(self) -> None:
        self.timetable.prepare()

    def tick(self, *_args: Any, **_kwargs: Any) -> float:
        """Poll once and publish what was claimed; returns the seconds to sleep."""
        try:
            poll = self.timetable.poll(self.token, self.identity, LEASE_TTL)
        except Exception as error:  # noqa: BLE001 - whatever is wrong, stand by and try again
            self._report(f"no answer from the timetable: {type(error).__name__}: {error}")
            self._note(active=False)
            return POLL
        self._report("")
        self._note(active=poll.active)
        if not poll.ticks:
            return min(poll.wait, POLL)
        began = time.monotonic()
        try:
            with self.producer.batch():
                for tick in poll.ticks:
                    self.app.send_task(
                        f"loops.{tick.name}",
                        (tick.seq,),
                        task_id=f"{tick.name}:{tick.seq}",
                        queue=tick.queue,
                        producer=self.producer,
                        retry=False,
                    )
        except Exception as error:  # noqa: BLE001 - what was not sent stays untaken and is claimed again
            self._report(f"{len(poll.ticks)} ticks not published: {type(error).__name__}: {error}")
            for cached in ("producer", "connection"):
                self.__dict__.pop(cached, None)
        return max(0.0, min(poll.wait - (time.monotonic() - began), POLL))

    def _note(self, *, active: bool) -> None:
        if active != self.active:
            self.active = active
            log.info("this beat is %s now", "active" if active else "standing by")

    def _report(self, trouble: str) -> None:
        if trouble and not self._trouble:
            log.warning("%s; trying again", trouble)
        elif self._trouble and not trouble:
            log.warning("beat works again")
        self._trouble = trouble

    def close(self) -> None:
        """An orderly stop hands the lease over at once."""
        try:
            self.timetable.release(self.token)
        except Exception as error:  # noqa: BLE001 - it ends by itself
            log.warning("could not release the beat lease: %s", error)
        super().close()

    @property
    def info(self) -> str:
        return "    . timetable -> Redis"
