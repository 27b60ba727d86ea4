"""What Prometheus is told: the status of loops, nodes, jobs and ratings, read once for each scrape.

Instants are Unix times of the server. A series whose subject has no value (a loop that never ran) is absent.
docs/metrics.md lists them all.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from redis import RedisError

from fleet.job import JobStatus

log = logging.getLogger("backbeat.metrics")

Document = Mapping[str, Any]
#: Values of the labels, and the value of the series: a number, or count and sum of a summary.
Sample = tuple[tuple[str, ...], Any]


@dataclass(frozen=True)
class Family:
    """One metric: `samples` takes its series out of the overview."""

    name: str
    type: Any
    meaning: str
    labels: tuple[str, ...]
    samples: Callable[[Document], Iterable[Sample]]

    def read(self, overview: Document) -> Metric:
        """The metric as of an overview."""
        family: Any = self.type(self.name, self.meaning, labels=self.labels)
        for labels, value in self.samples(overview):
            if value is not None:
                family.add_metric(labels, *value if isinstance(value, tuple) else (value,))
        read: Metric = family
        return read


def _of_loops(value: Callable[[Document], Any]) -> Callable[[Document], Iterator[Sample]]:
    return lambda overview: (((name,), value(each)) for name, each in overview["loops"].items())


def _field(name: str) -> Callable[[Document], Iterator[Sample]]:
    return _of_loops(lambda each: each[name])


def _runs(overview: Document) -> Iterator[Sample]:
    for name, each in overview["loops"].items():
        yield (name, "succeeded"), each["success_count"]
        yield (name, "failed"), each["error_count"]


def _skipped(overview: Document) -> Iterator[Sample]:
    for name, each in overview["loops"].items():
        yield from (((name, why), number) for why, number in each["skipped"].items())


def _duration(each: Document) -> tuple[int, float]:
    return each["success_count"], each["average_duration_ms"] * each["success_count"] / 1000


def _jobs(overview: Document) -> Iterator[Sample]:
    for kind, by_status in overview["jobs"]["by_kind"].items():
        for status, number in by_status.items():
            if status != JobStatus.COMPLETED:
                yield (kind, status), number


def _completed(overview: Document) -> Iterator[Sample]:
    for kind, by_status in overview["jobs"]["by_kind"].items():
        yield (kind,), by_status[JobStatus.COMPLETED]


def _leader(field: str) -> Callable[[Document], Iterator[Sample]]:
    return lambda overview: iter([((), overview["leader"][field])] if overview["leader"] else [])


def _leader_info(overview: Document) -> Iterator[Sample]:
    if found := overview["leader"]:
        yield (found["node_id"], found["host"]), 1


def _beats(overview: Document) -> Iterator[Sample]:
    active = overview["beat"]["active"] is not None
    yield ("active",), int(active)
    yield ("standby",), max(0, len(overview["beat"]["replicas"]) - active)


def _elo(value: Callable[[Document], Any]) -> Callable[[Document], Iterator[Sample]]:
    return lambda overview: (((config,), value(each)) for config, each in overview["elo"].items())


def _best(field: str) -> Callable[[Document], Iterator[Sample]]:
    return _elo(lambda each: (each.get("best") or {}).get(field))


def _aim(field: str) -> Callable[[Document], Iterator[Sample]]:
    return _elo(lambda each: (each.get("target") or {}).get(field))


COUNTER, GAUGE, SUMMARY = CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily

#: In words: name, type, meaning, labels. Counters get their `_total` from Prometheus's client.
FAMILIES = (
    Family("backbeat_loop_runs", COUNTER, "Runs that ended, by outcome: succeeded or failed.",
           ("loop", "outcome"), _runs),
    Family("backbeat_loop_skipped", COUNTER, "Ticks and calls that the gate refused.", ("loop", "reason"), _skipped),
    Family("backbeat_loop_missed", COUNTER, "Slots that got no tick of their own.", ("loop",), _field("missed")),
    Family("backbeat_loop_duration_seconds", SUMMARY, "How long runs that succeeded took.", ("loop",),
           _of_loops(_duration)),
    Family("backbeat_loop_last_duration_seconds", GAUGE, "How long the last run took.", ("loop",),
           _of_loops(lambda each: None if each["last_duration_ms"] is None else each["last_duration_ms"] / 1000)),
    Family("backbeat_loop_consecutive_errors", GAUGE, "Failures in a row; 0 after a success.", ("loop",),
           _field("consecutive_errors")),
    Family("backbeat_loop_state", GAUGE, "1 for the state the loop is in.", ("loop", "state"),
           lambda overview: (((name, each["state"]), 1) for name, each in overview["loops"].items())),
    Family("backbeat_loop_interval_seconds", GAUGE, "Time between two slots.", ("loop",), _field("interval")),
    Family("backbeat_loop_last_run_timestamp_seconds", GAUGE, "When the last run began.", ("loop",),
           _field("last_run_time")),
    Family("backbeat_loop_last_success_timestamp_seconds", GAUGE, "When a run succeeded last.", ("loop",),
           _field("last_success_at")),
    Family("backbeat_loop_next_run_timestamp_seconds", GAUGE,
           "When the next tick is due; absent while paused or stopped.", ("loop",), _field("next_run")),
    Family("backbeat_leader_info", GAUGE, "1, with who leads; absent when nobody does.", ("node", "host"),
           _leader_info),
    Family("backbeat_leader_fence", GAUGE, "The fence of the term.", (), _leader("fence")),
    Family("backbeat_leader_since_timestamp_seconds", GAUGE, "When the term began.", (), _leader("since")),
    Family("backbeat_beats", GAUGE, "Beat replicas, by state: active or standby.", ("state",), _beats),
    Family("backbeat_nodes", GAUGE, "Nodes, by how they stand.", ("status",),
           lambda overview: (((status,), n) for status, n in overview["nodes"]["by_status"].items())),
    Family("backbeat_node_processes", GAUGE, "Nodes with a live process of that role.", ("role",),
           lambda overview: (((role,), number) for role, number in overview["nodes"]["live"].items())),
    Family("backbeat_jobs", GAUGE, "Jobs by kind and status, but for those that were completed.",
           ("kind", "status"), _jobs),
    Family("backbeat_jobs_completed", COUNTER, "Jobs that were completed.", ("kind",), _completed),
    Family("backbeat_games", COUNTER, "Games played in completed jobs.", ("config",),
           lambda overview: (((config,), number) for config, number in overview["jobs"]["games"].items())),
    Family("backbeat_elo_rating", GAUGE, "Elo of the best model.", ("config",), _best("rating")),
    Family("backbeat_elo_deviation", GAUGE, "Standard error of that, in Elo.", ("config",), _best("deviation")),
    Family("backbeat_elo_games", GAUGE, "Games that the best model has played in matches.", ("config",),
           _best("games")),
    Family("backbeat_elo_target", GAUGE, "Elo that is wanted.", ("config",), _aim("target")),
    Family("backbeat_elo_target_met", GAUGE, "1 when the target is met, else 0.", ("config",), _aim("met")),
    Family("backbeat_elo_published_timestamp_seconds", GAUGE, "When ratings were published last.", ("config",),
           _elo(lambda each: each.get("at"))),
)  # fmt: skip
UP = ("backbeat_up", "1 when the server answered the dashboard, else 0; then all the other series are absent.")


class Collector:
    """In Prometheus's registry. `read` gives the overview with `elo`, and raises RedisError."""

    def __init__(self, read: Callable[[], Document]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        """Everything as of one read."""
        try:
            overview = self._read()
        except RedisError as error:
            log.warning("no metrics: the server does not answer: %s", error)
            yield GaugeMetricFamily(*UP, value=0)
            return
        yield GaugeMetricFamily(*UP, value=1)
        for family in FAMILIES:
            yield family.read(overview)
