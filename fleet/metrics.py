"""A node's last hour, minute by minute, and how busy it is. Pure: time comes with each sample."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

#: Minutes that are kept.
MINUTES = 60


class Minute(NamedTuple):
    """What a node did in one minute, in percent: means, and peaks over its samples.

    `at` is its start, in seconds since the epoch on Redis time; `gpu` is the busiest GPU's utilization,
    None without any.
    """

    at: int
    samples: int
    cpu: float
    cpu_peak: float
    gpu: float | None
    gpu_peak: float | None
    memory: float
    disk: float

    @classmethod
    def rows(cls, rows: Any) -> list[Minute]:
        """The minutes among the rows of a registry's history; what another version wrote otherwise is skipped."""
        if not isinstance(rows, list | tuple):
            return []
        return [cls(int(row[0]), int(row[1]), *row[2:]) for row in rows if _is_minute(row)]


def busiest_gpu(metrics: Mapping[str, Any]) -> float | None:
    """The highest utilization among the GPUs that tell theirs, in percent; None without any."""
    told = [gpu["utilization"] for gpu in metrics.get("gpus", ()) if "utilization" in gpu]
    return max(told, default=None)


def busy(metrics: Mapping[str, Any]) -> float | None:
    """The utilization that counts for idleness, in percent: the busiest GPU's where there is one, else the CPU's.

    None when that is not known, which says nothing about idleness.
    """
    return busiest_gpu(metrics) if metrics.get("gpus") else metrics.get("cpu")


class Minutes:
    """Makes minutes of samples. A sample without CPU, memory or disk does not count."""

    def __init__(self, rows: Iterable[Minute] = ()) -> None:
        self.rows: list[Minute] = list(rows)
        self._at = 0
        self._samples: list[tuple[float, float | None, float, float]] = []

    def add(self, at: float, metrics: Mapping[str, Any]) -> bool:
        """Take what was measured about `at`, on Redis time. True: a minute is complete, and `rows` are new."""
        if not {"cpu", "memory", "disk"} <= metrics.keys():
            return False
        minute = int(at // 60) * 60
        complete = bool(self._samples) and minute != self._at
        if complete:
            self._close()
        if minute != self._at:
            self._at = minute
            # nothing of before the hour, nor, after Redis time was set back, of after now
            self.rows = [row for row in self.rows if minute - 60 * MINUTES <= row.at < minute]
        self._samples.append((metrics["cpu"], busiest_gpu(metrics), metrics["memory"], metrics["disk"]))
        return complete

    def _close(self) -> None:
        cpu, gpus, memory, disk = zip(*self._samples, strict=True)
        gpu = [each for each in gpus if each is not None]
        self.rows.append(
            Minute(
                at=self._at,
                samples=len(cpu),
                cpu=_mean(cpu),
                cpu_peak=round(max(cpu), 1),
                gpu=_mean(gpu) if gpu else None,
                gpu_peak=round(max(gpu), 1) if gpu else None,
                memory=_mean(memory),
                disk=_mean(disk),
            )
        )
        self._samples = []


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return round(sum(known) / len(known), 1)


def _is_minute(row: Any) -> bool:
    if not isinstance(row, list | tuple) or len(row) != len(Minute._fields):
        return False
    at, samples, cpu, cpu_peak, gpu, gpu_peak, memory, disk = row
    whole = all(_is_number(each) for each in (at, samples, cpu, cpu_peak, memory, disk))
    if not whole or at % 60 or at < 0 or samples < 1 or samples % 1:
        return False
    return (gpu is None and gpu_peak is None) or (_is_number(gpu) and _is_number(gpu_peak))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e15 < value < 1e15
