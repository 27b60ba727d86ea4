"""A process's place in the node registry: it takes its role of its node, keeps it with heartbeats, gives it back.

    vacant --take--> held --heartbeat--> held --SIGTERM: leave--> vacant
                       |--silent for SILENT_AFTER, and another takes it: this process ends itself

Two processes with one node id would run each other's jobs and read each other's queue, so the later one must
not start. One that died without a word has left its facts behind: on this machine its successor finds out that
it is gone, elsewhere it waits until it was silent for long enough.
"""

from __future__ import annotations

import logging
import os
import socket
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
from celery.exceptions import WorkerShutdown
from celery.signals import worker_shutting_down
from celery.worker import state
from redis import RedisError

from fleet.nodes import HEARTBEAT, NodeRegistry, NodeTaken
from workers.lease import boottime
from workers.mainloop import MAIN_LOOP
from workers.pulse import Pulse
from workers.settings import VERSION

log = logging.getLogger("backbeat.presence")

#: Seconds between two looks at a role that another process has.
LOOK = 0.25

Rows = Sequence[Sequence[float | None]]


class Reporter:
    """What a process says of itself with each heartbeat."""

    def facts(self) -> Mapping[str, Any]:
        """JSON, beside what every process says."""
        return {}

    def history(self) -> Rows | None:
        """The node's history, when it is new."""
        return None

    def heard(self, at: float) -> None:
        """A heartbeat was recorded, at this instant of Redis time."""


class Presence:
    """One role of one node. `take` and `start` are called in the consumer's thread."""

    def __init__(
        self,
        nodes: NodeRegistry,
        node_id: str,
        role: str,
        reporter: Reporter,
        *,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._nodes, self._node_id, self._role, self._reporter = nodes, node_id, role, reporter
        self._wall = wall
        self._owner = uuid.uuid4().hex
        self._facts: dict[str, Any] = {**identity(), "version": VERSION}
        self._held = self._leaving = False
        #: When the server took the last heartbeat, on CLOCK_BOOTTIME.
        self.heard_at: float | None = None
        self._pulse = Pulse("node-heartbeat", HEARTBEAT, self._beat)

    def take(self) -> None:
        """Own the role. Raises WorkerShutdown: with 1 when a living process has it, with 0 at SIGTERM."""
        waits_for: NodeTaken | None = None
        dead: float | None = None
        away = False
        while True:
            state.maybe_shutdown()
            MAIN_LOOP.turn()
            try:
                self._report(take=dead)
                return
            except NodeTaken as taken:
                away = False
                dead = taken.heard_at if is_gone(taken.facts) else None
                if dead is not None:
                    log.info("%s: pid %s died without a word", self._node_id, taken.facts.get("pid"))
                    continue
                if waits_for is None:
                    waits_for = taken
                    log.warning("%s; waiting until it falls silent", _who(taken))
                elif taken.heard_at > waits_for.heard_at:
                    log.critical("%s; give this one another BACKBEAT_NODE_ID, or stop that one", _who(taken))
                    raise WorkerShutdown(1) from None
            except RedisError as error:
                if not away:
                    log.warning("no answer from the node registry: %s", error)
                away = True
            time.sleep(LOOK)

    def start(self) -> None:
        self._pulse.start()

    def nudge(self) -> None:
        """There is something new to report."""
        self._pulse.nudge()

    def leave_soon(self) -> None:
        """Give the role back at once; safe in a signal handler, done by the heartbeat's thread."""
        self._leaving = True
        self._pulse.nudge()

    def leave(self) -> None:
        """Stop the heartbeat and give the role back, if this process has it."""
        self._pulse.stop()
        self._leave()

    def _beat(self) -> None:
        if self._leaving:
            self._leave()
            return
        try:
            self._report()
        except NodeTaken as taken:
            self._held, self._leaving = False, True
            log.critical("%s: it was taken while this process was cut off, so this process ends", _who(taken))
            # as a signal would: leases are given up first, then the consumer ends
            worker_shutting_down.send(sender=None, sig="", how="Warm", exitcode=1)
            state.should_stop = 1

    def _report(self, take: float | None = None) -> None:
        facts = {**self._facts, **self._reporter.facts()}
        sent_at = self._wall()
        at = self._nodes.heartbeat(
            self._node_id, self._role, facts, owner=self._owner, history=self._reporter.history(), take=take
        )
        self._held = True
        self.heard_at = boottime()
        self._facts.setdefault("since", at)
        # the server read its clock somewhere between the two
        self._facts["clock_offset"] = round((sent_at + self._wall()) / 2 - at, 3) + 0.0  # never -0.0
        self._reporter.heard(at)

    def _leave(self) -> None:
        if not self._held:
            return
        self._held = False
        try:
            self._nodes.leave(self._node_id, self._role, owner=self._owner)
        except RedisError as error:
            log.warning("could not take this process off the node registry: %s", error)


def identity() -> dict[str, Any]:
    """What tells this process from every other: `created` is in seconds after boot, so clocks do not matter."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "boot": _boot(), "created": _created(os.getpid())}


def is_gone(facts: Mapping[str, Any]) -> bool:
    """Whether the process that reported these facts is known to be dead: it was of this machine, and is no more."""
    pid, created = facts.get("pid"), facts.get("created")
    if facts.get("boot") != _boot() or type(pid) is not int or not isinstance(created, int | float):
        return False
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE or abs(_created(pid) - created) > 2
    except psutil.NoSuchProcess:
        return True
    except (psutil.Error, OSError, ValueError):
        return False


def _boot() -> str:
    """What tells this boot of this machine from every other, and its pids from those in containers."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return f"{uuid.getnode():x}"


def _created(pid: int) -> float:
    return round(psutil.Process(pid).create_time() - psutil.boot_time(), 2)


def _who(taken: NodeTaken) -> str:
    return f"{taken}, heard {taken.at - taken.heard_at:.1f} s ago"
