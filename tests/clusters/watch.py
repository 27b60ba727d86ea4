"""Looks on at a cluster from outside, with jobs that flow all the while, and tells what must hold whatever strikes it:

* leaders follow one another: the fence rises with each, and a leader-only run was the leader's of that time
* no tick is run twice, no run begins before the one before it has ended, and none fails
* no loop stands still for longer than it may
* each job that was accepted ends once, completed
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from fleet.job import JobSpec
from tasks.loop import discover

#: Seconds between two ticks of each loop here.
EVERY = 1.0
ANYWHERE, LEADER_ONLY = "idle_detection", "auto_scaling"
#: Seconds between two looks, and looks between two jobs: a jobs worker with two slots is half busy.
LOOK_EVERY = 0.05
LOOKS_A_JOB = 8


def write_config(path: Path) -> None:
    """Two loops, one of them for leaders, every second; jobs that take some time."""
    loops = {name: {"interval": f"{EVERY:g}s", "initial_delay": "0s"} for name in (ANYWHERE, LEADER_ONLY)}
    off = {name: {"enabled": False} for name in discover() if name not in loops}
    path.write_text(yaml.safe_dump({**loops, **off, "jobs": {"selfplay": {"command": ["sleep", "0.4"]}}}))


def job() -> JobSpec:
    return JobSpec(kind="selfplay", config="hex8_2p")


@dataclass(frozen=True)
class Run:
    """A run that was recorded; times are the server's."""

    count: int
    seq: int
    node: str
    began: float
    ended: float


@dataclass(frozen=True)
class Term:
    """A leader's time."""

    fence: int
    node: str
    since: float


class Watch(threading.Thread):
    """Takes a status document with each look, and enqueues a job now and then."""

    def __init__(self, look: Callable[[], dict[str, Any]], enqueue: Callable[[], object]) -> None:
        super().__init__(name="watch")
        self._look, self._enqueue = look, enqueue
        self._halt = threading.Event()
        self.looks = [look()]

    def run(self) -> None:
        while not self._halt.wait(LOOK_EVERY):
            self.looks.append(self._look())
            if len(self.looks) % LOOKS_A_JOB == 0:
                self._enqueue()

    def stop(self) -> None:
        self._halt.set()
        self.join()
        self.looks.append(self._look())

    def runs(self, name: str) -> list[Run]:
        """The last before the first look, and all since."""
        found: dict[int, Run] = {}
        for look in self.looks:
            loop = look["loops"].get(name, {})
            if count := loop.get("run_count"):
                seq, node = loop["last_run_call"].removeprefix(f"{name}:"), loop["last_run_by"].partition("@")[0]
                ended = loop["last_finished_at"]
                found.setdefault(count, Run(count, int(seq), node, loop["last_run_time"], ended))
        return list(found.values())

    def terms(self) -> list[Term]:
        leaders = (look["leader"] for look in self.looks if look["leader"])
        return list(dict.fromkeys(Term(each["fence"], each["node_id"], each["since"]) for each in leaders))

    def check(self, within: Mapping[str, float]) -> None:
        """`within`: seconds that a loop may stand still."""
        for earlier, later in pairwise(terms := self.terms()):
            assert earlier.fence < later.fence, terms
            assert earlier.since < later.since, terms
        for name in (ANYWHERE, LEADER_ONLY):
            runs = self.runs(name)
            for one, other in pairwise(runs):
                assert other.count - one.count <= other.seq - one.seq, f"a tick of {name} ran twice: {one}, {other}"
                assert one.ended <= other.began, f"runs of {name} overlap: {one}, {other}"
            failed = [self.looks[place]["loops"].get(name, {}) for place in (0, -1)]
            assert failed[0].get("error_count", 0) == failed[1].get("error_count", 0), failed[1]["last_traceback"]
            gap = longest([*(run.began for run in runs), self.looks[-1]["now"]])
            assert gap < within[name], f"{name} stood still for {gap:.2f} s: {runs}"
        for run in self.runs(LEADER_ONLY):
            if before := [term for term in terms if term.since <= run.began]:
                assert run.node == before[-1].node, f"{run} was not the leader's: {terms}"


def longest(instants: Sequence[float]) -> float:
    return max(later - earlier for earlier, later in pairwise(instants))
