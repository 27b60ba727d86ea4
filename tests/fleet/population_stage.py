"""A queue that is filled by the populator's decisions, and drained by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from fleet.job import JobCounts, JobStatus
from fleet.kinds import JobKind
from fleet.options import FleetOptions
from fleet.population import Decision, Item, Snapshot, decide
from fleet.ratings import ConfigStandings, Standing, Standings
from fleet.stock import Stock
from tasks.queue_populator import Options

NOW = 1_800_000_000.0
KINDS = ("selfplay", "training", "tournament")
FLEET = FleetOptions(jobs={kind: JobKind(command=("true",)) for kind in KINDS})
BOARDS = ("square8", "square19", "hex8", "hexagonal", "go9", "go13")  # more configurations than trainings wanted
ALL = Options(board_types=BOARDS)
MANY = tuple(f"b{number}_2p" for number in range(60))
WEAK = Standing("gen1", 1600.0, 40.0, 100)
STRONG = Standing("gen9", 2200.0, 40.0, 100)


def standings(best: dict[str, Standing]) -> Standings:
    return Standings({name: ConfigStandings(standing, models=1, rated=3) for name, standing in best.items()})


EVERYTHING_READY = standings(dict.fromkeys(ALL.config_names, WEAK))


class Queue:
    """A queue as the registry counts it: what is outstanding, and how many of a kind are over.

    `games` are those gathered of each configuration.
    """

    def __init__(self, jobs: Iterable[tuple[str, str]] = (), games: int = 1000) -> None:
        self.jobs = list(jobs)
        self.over: Counter[str] = Counter()
        self.games = dict.fromkeys([*ALL.config_names, *MANY], games)

    def counts(self) -> JobCounts:
        by_status = dict.fromkeys(JobStatus, 0)
        by_status |= {JobStatus.PENDING: len(self.jobs), JobStatus.COMPLETED: self.over.total()}
        by_kind = {kind: dict.fromkeys(JobStatus, 0) for kind in KINDS}
        for kind in KINDS:
            by_kind[kind][JobStatus.PENDING] = sum(kind == queued for queued, _ in self.jobs)
            by_kind[kind][JobStatus.COMPLETED] = self.over[kind]
        return JobCounts(by_status, by_kind, Counter(self.jobs), {})

    def stock(self) -> dict[str, Stock]:
        return {config: Stock(gathered=games) for config, games in self.games.items()}

    def add(self, items: Iterable[Item]) -> None:
        self.jobs += [(item.kind, item.config) for item in items]

    def finish(self, index: int) -> tuple[str, str]:
        job = self.jobs.pop(index)
        self.over[job[0]] += 1
        return job

    def mix(self) -> tuple[int, ...]:
        kinds = Counter(kind for kind, _ in self.jobs)
        return tuple(kinds[kind] for kind in KINDS)


def populate(queue: Queue, options: Options = ALL, fleet: FleetOptions = FLEET, **snapshot: Any) -> Decision:
    snapshot = {"standings": EVERYTHING_READY, "stock": queue.stock()} | snapshot
    decision = decide(Snapshot(now=NOW, counts=queue.counts(), **snapshot), options, fleet)
    queue.add(decision.items)
    return decision


def options(**changes: Any) -> Options:
    boards = {} if "configs" in changes else {"board_types": BOARDS}
    return Options.model_validate(boards | changes)
