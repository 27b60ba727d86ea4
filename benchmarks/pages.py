"""How fast the dashboard answers with 100 loops and 1,000 nodes, beside a bare handler that returns as many bytes.

    python benchmarks/pages.py [--loops 100] [--nodes 1000] [--requests 60]

A real Flower on a private server; each page is asked for again and again over one connection, in turn with
the baseline: Tornado with nothing behind it. `cpu` is what a request costs Flower and the server together.
`still` nodes say what they said before; of `beating` ones a share has sent another heartbeat since the page
was asked for last: in 5 s all of them do, in 1 s a fifth. Wanted: /loops in 100 ms, /status in 20 ms; that
each is one round trip, the tests say.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench import Bench, bench, percentile
from node_curve import populate

from fleet.nodes import NODE
from tasks.health_aggregation import health_aggregation
from tasks.loop import Tick
from workers import keys
from workers.ledger import HISTORY_KEPT

#: What a node holds of the cluster's data.
HELD = {
    "matches": {"count": 131072, "digest": "0123456789abcdef" * 2, "settled": "89abcdef"},
    "games": {"new": {"hex8_2p": 120}, "sent": {"hex8_2p": 1000}, "gathered": {}},
    "models": {"hex8_2p": {"versions": ["hex8_2p-00012-01234567"], "promoted": "hex8_2p-00012-01234567",
               "previous": None, "trained_on": 12000}, "unpublished": 0, "unlisted": 0, "refused": 0},
}  # fmt: skip

BARE = """
import asyncio, sys
from tornado.web import Application, RequestHandler
class Bytes(RequestHandler):
    def get(self, number):
        self.write(b"x" * int(number))
async def main():
    Application([(r"/(\\d+)", Bytes)]).listen(int(sys.argv[1]), "127.0.0.1")
    await asyncio.Event().wait()
asyncio.run(main())
"""


class Client:
    """One connection that is kept."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def ask(self, path: str) -> tuple[float, int]:
        """Seconds until the whole answer was here, and its bytes."""
        began = time.perf_counter()
        self._connection.request("GET", path)
        answer = self._connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise SystemExit(f"{path}: {answer.status}")
        return time.perf_counter() - began, len(body)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loops", type=int, default=100)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--requests", type=int, default=60)
    options = parser.parse_args()
    with bench() as stage:
        ports = [random.randrange(20_000, 30_000) for _ in range(2)]
        stage.celery("beat", "beat", loops=options.loops)
        stage.until(lambda: stage.redis.scard(keys.LOOPS) == options.loops)
        stage.processes.pop().terminate()
        cluster(stage, options.nodes)
        stage.celery("flower", "flower", f"--port={ports[0]}", loops=options.loops)
        stage.spawn("bare", [sys.executable, "-c", BARE, str(ports[1])])
        stage.until(lambda: listening(ports[0], "/readyz") and listening(ports[1], "/1"))
        flower, bare = Client(ports[0]), Client(ports[1])
        print(f"{'':26} {'bytes':>8} {'p50 ms':>7} {'p95 ms':>7} {'cpu ms':>7} {'bare p50':>8}")
        for path, changed in (
            ("/loops", 0.0), ("/status", 0.0), ("/status", 0.2), ("/status", 1.0),
            ("/fleet", 0.0), ("/progress", 0.0), ("/metrics", 0.0), ("/workers", 0.0),
        ):  # fmt: skip
            between = (lambda share=changed: beat(stage, options.nodes, share)) if changed else (lambda: None)
            measure(stage, flower, bare, path, changed, options.requests, between)


def cluster(stage: Bench, nodes: int) -> None:
    """So many nodes, judged, found and with data, and sixty runs of each loop."""
    loops = stage.redis.smembers(keys.LOOPS)
    kept = {name: stage.redis.hgetall(keys.LOOP + name) for name in loops}
    due = stage.redis.zrange(keys.DUE, 0, -1, withscores=True)
    fleet = stage.fleet()
    now = populate(stage, fleet, nodes)
    health_aggregation(fleet, health_aggregation.options(), Tick(now=now))
    address = {
        "address": "10.120.17.211",
        "source": "lan",
        "since": now,
        "failures": 0,
        "checked_at": now,
        "changes": [],
    }
    ids = [f"node-{number:05}" for number in range(nodes)]
    fleet.nodes.mark({node_id: {"address": {**address, "reachable": True}} for node_id in ids})
    for node_id in ids:
        fleet.nodes.hold(node_id, HELD)
    with stage.redis.pipeline() as pipe:
        pipe.sadd(keys.LOOPS, *loops)
        pipe.zadd(keys.DUE, dict(due))
        for name, fields in kept.items():
            pipe.hset(keys.LOOP + name, mapping=fields)
            runs = (f"{now * 1000 - 1000 * n:.0f}|{random.uniform(1, 90):.3f}|succeeded" for n in range(HISTORY_KEPT))
            pipe.rpush(keys.HISTORY + name, *runs)
        pipe.execute()


def beat(stage: Bench, nodes: int, share: float) -> None:
    """Heartbeats of a share of the nodes, each with other measurements."""
    now = time.time()
    chosen = random.sample(range(nodes), round(nodes * share))
    ids = [f"node-{number:05}" for number in chosen]
    with stage.redis.pipeline(transaction=False) as pipe:
        for node_id in ids:
            pipe.hget(NODE + node_id, "agent")
        for node_id, text in zip(ids, pipe.execute(), strict=True):
            agent = json.loads(text)
            agent["metrics"]["cpu"] = round(random.uniform(0, 100), 1)
            compact = json.dumps(agent, separators=(",", ":"))
            mapping = {"agent": compact, "agent:at": round(now * 1000), "jobs:at": round(now * 1000)}
            pipe.hset(NODE + node_id, mapping=mapping)
        pipe.execute()


def measure(
    stage: Bench, flower: Client, bare: Client, path: str, changed: float, requests: int, between: Callable[[], None]
) -> None:
    for _ in range(8):  # every thread of the dashboard has its connection
        flower.ask(path)
    ours, theirs, spent = [], [], 0.0
    for _ in range(requests):
        between()
        before = processor(stage)
        seconds, size = flower.ask(path)
        spent += processor(stage) - before
        ours.append(seconds * 1000)
        theirs.append(bare.ask(f"/{size}")[0] * 1000)
    title = f"{path}, {changed:.0%} beating" if changed else f"{path}, still" if path == "/status" else path
    print(
        f"{title:26} {size:8} {statistics.median(ours):7.1f} {percentile(ours, 0.95):7.1f} "
        f"{1000 * spent / requests:7.1f} {statistics.median(theirs):8.1f}"
    )


def processor(stage: Bench) -> float:
    """Seconds that Flower and the server have computed: to the nanosecond, where psutil tells hundredths."""
    pids = [stage.processes[place].pid for place in (0, -2)]
    runs = (
        int(Path(f"/proc/{pid}/task/{task}/schedstat").read_text().split()[0]) for pid in pids for task in tasks(pid)
    )
    return sum(runs) / 1e9


def tasks(pid: int) -> list[str]:
    return [path.name for path in Path(f"/proc/{pid}/task").iterdir()]


def listening(port: int, path: str) -> bool:
    try:
        return Client(port).ask(path)[1] > 0
    except OSError:
        return False


if __name__ == "__main__":
    main()
