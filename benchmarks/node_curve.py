"""What one cycle of the loops that judge nodes costs, from 10 to 10,000 simulated nodes.

    python benchmarks/node_curve.py [--nodes 10 100 1000 10000] [--cycles 5]

Each node reports about 800 bytes of facts and a whole hour of minutes; one in ten has a full disk, one in
ten is idle, one in ten has a job. The first cycle judges every node anew and writes every mark; those after
it find what was found before. The ratio is of the seconds a node to those of the smallest cluster.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from bench import Bench, bench
from redis.connection import Connection

from fleet.fleet import Fleet
from fleet.metrics import MINUTES, Minute
from tasks.health_aggregation import health_aggregation
from tasks.idle_detection import idle_detection
from tasks.loop import Loop, Tick

LOOPS = (health_aggregation, idle_detection)


class Cycle(NamedTuple):
    """One call of a loop's body: `processor` is this process's share of `seconds`, `longest` the server's command."""

    seconds: float
    processor: float
    round_trips: int
    longest: float
    changed: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[10, 100, 1000, 10_000])
    parser.add_argument("--cycles", type=int, default=5)
    options = parser.parse_args()
    titles = ("nodes", "first s", "s", "cpu s", "server ms", "round trips", "ratio")
    print(f"{'':18} {'{:>7} {:>8} {:>8} {:>8} {:>10} {:>12} {:>6}'.format(*titles)}")
    smallest: dict[str, float] = {}
    with bench() as stage:
        stage.redis.config_set("slowlog-log-slower-than", 0)
        fleet = stage.fleet()
        for number in sorted(options.nodes):
            now = populate(stage, fleet, number)
            for loop in LOOPS:
                cycles = [cycle(stage, fleet, loop, now) for _ in range(options.cycles + 1)]
                if [bool(each.changed) for each in cycles] != [True] + [False] * options.cycles:
                    raise SystemExit(f"{loop.name}: marks are written in the first cycle and in no other: {cycles}")
                seconds, processor = (statistics.median(each[field] for each in cycles[1:]) for field in (0, 1))
                ratio = seconds / number / smallest.setdefault(loop.name, seconds / number)
                longest = max(each.longest for each in cycles) * 1000
                trips = max(each.round_trips for each in cycles)
                print(
                    f"{loop.name:18} {number:7} {cycles[0].seconds:8.4f} {seconds:8.4f} {processor:8.4f}"
                    f" {longest:10.1f} {trips:12} {ratio:6.2f}"
                )


def populate(stage: Bench, fleet: Fleet, number: int) -> float:
    """A registry of so many nodes, as of the instant that is returned. The server knows the scripts afterwards."""
    stage.redis.flushall()
    fleet.nodes.mark({}, totals={})
    fleet.nodes.all()
    now, _ = stage.redis.time()
    for n in range(number):
        node_id, host = f"node-{n:05}", f"trainer-{n:05}.cluster.example.com"
        cpu, gpu = (3.1, 1.4) if n % 10 == 1 else (61.5, 88.2)
        disk = 97.3 if n % 10 == 2 else 41.7
        running = [f"{n:032x}"] if n % 10 == 3 else []
        metrics = {
            "cpu": cpu, "memory": 47.3, "disk": disk, "memory_total": 540_123_987_968, "disk_free": 812_345_678_848,
            "load": [21.43, 20.97, 19.02], "cores": 64,
            "gpus": [{"name": "NVIDIA H100 80GB HBM3", "utilization": gpu, "memory": 83, "memory_total": 85520809984}],
        }  # fmt: skip
        agent = {
            "host": host, "pid": 1000 + n, "since": now - 86_400.25, "version": "0.1.0", "clock_offset": 0.0123,
            "addresses": {"lan": ["10.120.17.211"], "tailnet": ["100.101.102.103"], "public": ["203.0.113.77"]},
            "metrics": metrics,
        }  # fmt: skip
        jobs = {
            "host": host, "pid": 20_000 + n, "since": now - 86_400.25, "version": "0.1.0", "slots": 4,
            "capabilities": ["cpu", "gpu"], "running": running, "last_job_at": now - 7200.125,
        }  # fmt: skip
        newest = now // 60 * 60 - 60
        history = [
            Minute(newest - 60 * ago, 12, cpu, cpu + 4.2, gpu, gpu + 3.5, 47.3, disk)
            for ago in reversed(range(MINUTES))
        ]
        fleet.nodes.heartbeat(node_id, "agent", agent, history=history, now=now)
        fleet.nodes.heartbeat(node_id, "jobs", jobs, now=now)
    return float(now)


def cycle(stage: Bench, fleet: Fleet, loop: Loop, now: float) -> Cycle:
    stage.redis.slowlog_reset()
    with sent() as packets:
        began, worked = time.perf_counter(), time.process_time()
        counts = loop(fleet, loop.options(), Tick(now=now))
        seconds, processor = time.perf_counter() - began, time.process_time() - worked
    longest = max(entry["duration"] for entry in stage.redis.slowlog_get(-1))
    return Cycle(seconds, processor, len(packets), longest / 1e6, counts["changed"])


@contextmanager
def sent() -> Iterator[list[object]]:
    """What the client sends meanwhile: after each of them it waits for the answer."""
    packets: list[object] = []
    send = Connection.send_packed_command

    def noted(connection: Connection, command: object, *more: object, **options: object) -> object:
        packets.append(command)
        return send(connection, command, *more, **options)

    Connection.send_packed_command = noted
    try:
        yield packets
    finally:
        Connection.send_packed_command = send


if __name__ == "__main__":
    main()
