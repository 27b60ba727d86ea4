"""The loops and bare tasks that the benchmarks compare: `celery -A stage`, in one worker."""

from __future__ import annotations

import itertools
import os
import time
from typing import Any

from fleet.fleet import Fleet
from tasks.loop import Loop, Options, Tick
from workers.app import create_app
from workers.settings import Settings

LOOPS = int(os.environ.get("BENCH_LOOPS", "100"))
#: After so many calls a worker says so in `bench:done`.
BATCH = int(os.environ.get("BENCH_BATCH", "0"))
#: Where each start is written down: `bench:starts`, a list of "name seq slot started_at".
STARTS = os.environ.get("BENCH_STARTS") == "1"
_calls = itertools.count(1)


def _called(redis: Any, name: str, seq: int, slot: float) -> None:
    if STARTS:
        redis.rpush("bench:starts", f"{name} {seq} {slot} {time.time()}")
    if BATCH and next(_calls) % BATCH == 0:
        redis.rpush("bench:done", time.time())


def _trivial(name: str) -> Loop:
    def body(fleet: Fleet, _options: Options, tick: Tick) -> None:
        _called(fleet.redis, name, tick.seq, tick.slot)

    return Loop(name, body, Options, leader_only=False)


loops = {name: _trivial(name) for name in (f"trivial_{number}" for number in range(LOOPS))}
app = create_app(Settings.from_environment(), loops)


@app.task(name="bare", ignore_result=True)
def bare(number: int = 0) -> None:
    """A Celery task without anything of ours around it."""
    _called(app.backbeat.redis, f"bare_{number}", 0, 0.0)
