"""What an idle node costs the server: commands a second beyond Celery's own, for clusters of several sizes.

    python benchmarks/node_commands.py [--nodes 1 10 50] [--with-jobs 10] [--seconds 30]

Real agents, and real jobs workers in clusters of at most `--with-jobs` nodes, without a beat and without work.
Celery's own share is that of workers of the same app that consume as many queues, though none of ours. Commands
are counted by the server, those that scripts call included.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter

from bench import Bench, bench
from redis import Redis

#: Processes started together; each takes a second of a core to come up.
STEP = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 10, 50])
    parser.add_argument("--with-jobs", type=int, default=10, help="largest cluster that gets jobs workers")
    parser.add_argument("--seconds", type=float, default=30)
    options = parser.parse_args()
    print(f"{'commands a node and second':32}{'Celery':>8}{'ours':>8}")
    totals: dict[int, float] = {}
    for nodes in options.nodes:
        roles = ["agent", "jobs"] if nodes <= options.with_jobs else ["agent"]
        own, all_of_it = (measure(nodes, roles, options.seconds, bare=bare) for bare in (True, False))
        ours = {name: all_of_it[name] - own[name] for name in all_of_it | own}
        total = sum(ours.values())
        print(f"{nodes:3} nodes, {' and '.join(roles):21}{own.total() / nodes:8.2f}{total / nodes:8.2f}")
        for name, rate in sorted(ours.items(), key=lambda item: -item[1]):
            if rate / nodes >= 0.05:
                print(f"    {name:28}{own[name] / nodes:8.2f}{rate / nodes:8.2f}", flush=True)
        if nodes <= options.with_jobs:
            totals[nodes] = total
    if len(totals) > 1:
        (few, first), *_, (many, last) = sorted(totals.items())
        print(
            f"a further node costs {(last - first) / (many - few):.2f} (from {few} to {many}); the rest is the leader's"
        )


def measure(nodes: int, roles: list[str], seconds: float, *, bare: bool) -> Counter[str]:
    """Commands a second, by name, of an idle cluster; `bare`: of Celery's workers alone."""
    with bench() as stage:
        wanted = [(f"n{number}", role) for number in range(nodes) for role in roles]
        for first in range(0, len(wanted), STEP):
            for node, role in wanted[first : first + STEP]:
                start(stage, node, role, bare=bare)
            stage.until(lambda ready=first + STEP: up(stage, wanted[:ready]), seconds=120)
        time.sleep(15)  # start-up is over: a heartbeat or two, the leader's queue
        before, began = calls(stage.redis), time.monotonic()
        time.sleep(seconds)
        after, elapsed = calls(stage.redis), time.monotonic() - began
        return Counter({name: (after[name] - before[name]) / elapsed for name in after if name != "info"})


def start(stage: Bench, node: str, role: str, *, bare: bool) -> None:
    queues = {"agent": ["loops", f"node.{node}"], "jobs": ["jobs.cpu"]}[role]
    if bare:
        queues = [f"bare.{queue}" for queue in queues]
    elif role == "agent":
        queues = queues[:1]  # it adds its own
    name = f"{role}@{node}"
    arguments = ["worker", "-n", name, "-l", "INFO", "-Q", ",".join(queues), "-c", "4"]
    folder = stage.folder / node
    stage.celery(name, *arguments, loops=1, BACKBEAT_NODE_ID=node, BACKBEAT_DATA=str(folder))


def up(stage: Bench, wanted: list[tuple[str, str]]) -> bool:
    return all(" ready." in stage.log(f"{role}@{node}") for node, role in wanted)


def calls(redis: Redis) -> Counter[str]:
    stats = redis.info("commandstats")
    return Counter({name.removeprefix("cmdstat_"): int(each["calls"]) for name, each in stats.items()})


if __name__ == "__main__":
    main()
