"""How punctual ticks are: Backbeat's beat and gate against plain `celery beat` and bare tasks, in one run.

    python benchmarks/punctuality.py [--loops 100] [--seconds 60]

Both fire `--loops` entries every second into one worker of the same kind on the same server, one after the
other. Lateness is the start of the body after its slot. Plain beat knows no slots, so its grid is taken to
be as late as its most punctual start, which favours it.
"""

from __future__ import annotations

import argparse
import collections
import sys

from bench import Bench, bench, percentile

from workers.ledger import Ledger
from workers.status import read_status


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loops", type=int, default=100)
    parser.add_argument("--seconds", type=int, default=60)
    options = parser.parse_args()
    with bench() as stage:
        plain = collect(stage, "plain", options.loops, options.seconds)
    with bench() as stage:
        ours = collect(stage, "backbeat", options.loops, options.seconds)
        status = read_status(Ledger(stage.redis))["loops"].values()
        missed = sum(loop["missed"] for loop in status)
        refused = sum(sum(loop["skipped"].values()) for loop in status)
    late_plain = [start - k - grid for starts in grids(plain).values() for grid, k, start in starts]
    late_ours = [started_at - slot for _, _, slot, started_at in ours]
    for name, late in (("plain", late_plain), ("backbeat", late_ours)):
        shown = ", ".join(f"p{share * 100:g} {percentile(late, share) * 1000:.1f}" for share in (0.5, 0.99, 1.0))
        print(f"{name:9} {len(late)} starts; ms late: {shown}")
    print(f"ratio of p99: {percentile(late_ours, 0.99) / percentile(late_plain, 0.99):.2f}")
    seqs = collections.defaultdict(list)
    drift = 0.0
    for name, seq, slot, _ in ours:
        seqs[name].append((seq, slot))
    doubled = lost = 0
    for pairs in seqs.values():
        pairs.sort()
        numbers = [seq for seq, _ in pairs]
        doubled += len(numbers) - len(set(numbers))
        lost += numbers[-1] - numbers[0] + 1 - len(set(numbers))
        (first, at), (last, ended) = pairs[0], pairs[-1]
        drift = max(drift, abs((ended - at) - (last - first)))
    print(f"backbeat: {len(seqs)} loops, {doubled} doubled, {lost} lost, {missed} missed, {refused} refused, ", end="")
    print(f"drift {drift * 1000:.3f} ms")


def collect(stage: Bench, kind: str, loops: int, seconds: int) -> list[tuple[str, int, float, float]]:
    """Starts (name, seq, slot, started_at) of `seconds` seconds, after the first two."""
    app = ["-A", "stage"] if kind == "backbeat" else ["-A", "plain"]
    stage.celery("worker", *app, "worker", "-l", "WARNING", loops=loops, interval=1, BENCH_STARTS="1")
    stage.until(lambda: stage.redis.exists("{backbeat}:leader"))
    stage.celery("beat", *app, "beat", "-l", "WARNING", loops=loops, interval=1, BENCH_LOOPS=str(loops))
    wanted = loops * (seconds + 3)
    stage.until(lambda: stage.redis.llen("bench:starts") >= wanted, seconds + 60)
    rows = [line.split() for line in stage.redis.lrange("bench:starts", loops * 2, wanted - 1)]
    if not rows:
        sys.exit(f"no starts; see {stage.folder}")
    return [(name, int(seq), float(slot), float(at)) for name, seq, slot, at in rows]


def grids(rows: list[tuple[str, int, float, float]]) -> dict[str, list[tuple[float, int, float]]]:
    """Each entry's starts with their number and the latest grid of whole seconds that none precedes."""
    starts = collections.defaultdict(list)
    for name, _, _, at in rows:
        starts[name].append(at)
    found = {}
    for name, times in starts.items():
        times.sort()
        numbers = [round(at - times[0]) for at in times]
        grid = min(at - k for k, at in zip(numbers, times, strict=True))
        found[name] = [(grid, k, at) for k, at in zip(numbers, times, strict=True)]
    return found


if __name__ == "__main__":
    main()
