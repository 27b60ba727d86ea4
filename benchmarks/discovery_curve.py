"""What one walk of ip_discovery through a fleet costs, from 10 to 1,000 nodes of which 30 % are dark.

    python benchmarks/discovery_curve.py [--nodes 10 100 1000] [--probe-timeout 1]

Each node has three addresses of loopback. At those of a dark node somebody listens and never answers, so each
of its probes takes the whole time limit; it is the first walk, in which every node is new. The baseline probes
one address after the other, as the loop that this one replaces did.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import math
import multiprocessing
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bench import Bench, bench

from fleet.fleet import Fleet
from fleet.probing import answer_to
from tasks.ip_discovery import SHARE, Options, ip_discovery
from tasks.loop import Tick

KEY = "the benchmark's"
NETS = {"lan": "127.1", "tailnet": "127.2", "public": "127.3"}
INTERVAL, DEADLINE = 300.0, 120.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--probe-timeout", type=float, default=1.0)
    parser.add_argument("--no-baseline", action="store_true")
    wanted = parser.parse_args()
    options = Options(probe_timeout=wanted.probe_timeout)
    budget = SHARE * DEADLINE
    logging.disable()  # a notice for each dark node
    titles = ("nodes", "dark", "cycles", "s a cycle", "worst s", "of budget", "cpu ms a node")
    print("{:>6} {:>5} {:>7} {:>10} {:>8} {:>10} {:>14}".format(*titles))
    with bench() as stage, cluster() as port:
        fleet = stage.fleet()
        for number in sorted(wanted.nodes):
            populate(stage, fleet, number, port)
            rows = walk(fleet, options, number)
            seconds, processor = zip(*rows, strict=True)
            judged(fleet, number)
            print(
                f"{number:6} {sum(map(is_dark, range(number))):5} {len(rows):7} {statistics.median(seconds):10.3f}"
                f" {max(seconds):8.3f} {max(seconds) / budget:10.1%} {1000 * sum(processor) / number:14.2f}"
            )
        if not wanted.no_baseline:
            populate(stage, fleet, 20, port)
            ((together, _),) = walk(fleet, options, 20)
            populate(stage, fleet, 20, port)
            ((one_by_one, _),) = walk(fleet, options.model_copy(update={"max_probes": 1}), 20)
            print(f"20 nodes one address after the other: {one_by_one:.1f} s; ratio {together / one_by_one:.2f}")
    print(f"budget of a cycle: {budget:g} s, every {INTERVAL:g} s")


def is_dark(number: int) -> bool:
    return number % 10 in (2, 5, 8)


def populate(stage: Bench, fleet: Fleet, number: int, port: int) -> None:
    stage.redis.flushall()
    fleet.nodes.mark({}, totals={})
    for n in range(number):
        told = {kind: [f"{net}.{n // 250}.{n % 250 + 1}"] for kind, net in NETS.items()}
        facts = {"host": "", "addresses": told, "probe": {"port": port, "key": KEY}}
        fleet.nodes.heartbeat(f"node-{n:05}", "agent", facts)


def walk(fleet: Fleet, options: Options, number: int) -> list[tuple[float, float]]:
    """Seconds, and those of this process's processor, of each cycle until every node was checked."""
    rows = []
    now = time.time()
    for cycle in range(math.ceil(number / options.max_nodes_per_cycle)):
        tick = Tick(now=now + cycle * INTERVAL, deadline=now + cycle * INTERVAL + DEADLINE)
        began, worked = time.perf_counter(), time.process_time()
        asyncio.run(ip_discovery(fleet, options, tick))
        rows.append((time.perf_counter() - began, time.process_time() - worked))
    return rows


def judged(fleet: Fleet, number: int) -> None:
    """Refuse a walk that left a node out, or that found a dark one."""
    for n, node in enumerate(fleet.nodes.all()):
        mark: Any = node.marks.get("address")
        if mark is None or mark["reachable"] == is_dark(n):
            raise SystemExit(f"{node.node_id} of {number}: {mark}")


@contextmanager
def cluster() -> Iterator[int]:
    """All agents, in one process of their own: who is asked follows from the address."""
    there, here = multiprocessing.Pipe()
    process = multiprocessing.Process(target=serve, args=(there,), daemon=True)
    process.start()
    try:
        yield here.recv()
    finally:
        process.terminate()
        process.join()


def serve(told: Any) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, _, high, low = map(int, writer.get_extra_info("sockname")[0].split("."))
        number = 250 * high + low - 1
        question = await reader.readline()
        said = answer_to(question, f"node-{number:05}", KEY)
        if said is not None and not is_dark(number):
            writer.write(said)
        else:
            await reader.read()
        writer.close()

    async def run() -> None:
        server = await asyncio.start_server(answer, "0.0.0.0", 0, backlog=1024)
        told.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


if __name__ == "__main__":
    main()
