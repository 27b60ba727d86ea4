"""The page of progress as it is served."""

from __future__ import annotations

import json
import re
from typing import Any

from redis import Redis

from fleet.elo_board import ELO, TARGETS
from fleet.jobs import Holder, JobQueue, JobSpec
from fleet.nodes import NodeRegistry
from tests.workers.show_stage import BEST


def test_a_configuration_is_shown_against_its_target(served: Any, redis: Redis) -> None:
    now = redis.time()[0]
    best = {**BEST, "anchored": False}
    history = [[now - 7200, 1300.0], [now - 3600, 1512.34]]
    elo = {"config": "hex8_2p", "at": now, "best": best, "ranking": [{**best, "type": "model"}], "history": history}
    redis.hset(ELO, mapping={"hex8_2p": json.dumps({**elo, "velocity": 99.6}), "": "digest"})
    target = {"target": 1600.0, "met": False, "since": None, "reason": "lower bound 1473 of 1600", "at": now}
    met = {"target": 900.0, "met": True, "since": now - 3600, "reason": "", "at": now}
    redis.hset(TARGETS, mapping={"hex8_2p": json.dumps(target), "square8_2p": json.dumps(met)})
    text = re.sub(r"\s+", " ", served.ask("/progress").text)
    for said in (
        "<b>1,512</b>",
        "nothing ties it to the anchors yet",
        "± 39",
        "target 1,600",
        "+100 a day",
        "412 games",
        "target met for 1h",
    ):
        assert said in text, said
    assert 'class="line target"' in text
    assert '<span class="bb-key target">target <b>1,600</b></span>' in text
    assert "No model of it is rated yet" in text


def test_what_another_version_wrote_of_ratings_hides_nothing_else(served: Any, redis: Redis) -> None:
    redis.hset(ELO, mapping={"hex8_2p": '{"best": {"elo": 3}, "history": []}', "square8_2p": "no JSON"})
    redis.hset(TARGETS, "square8_2p", '{"target": 900, "met": false}')
    text = served.ask("/progress").text
    assert "hex8_2p" in text
    assert "target 900" in text


def test_the_queue_and_what_is_done_in_an_hour_are_plotted(served: Any, registry: NodeRegistry, redis: Redis) -> None:
    queue = JobQueue(redis)
    now = redis.time()[0]
    queue.enqueue([JobSpec(kind="selfplay", config="hex8_2p") for _ in range(2)])
    registry.mark({}, totals={"at": now - 60})
    job = queue.claim(Holder("n1", "o"), ["cpu"])
    assert job is not None
    queue.start(Holder("n1", "o"), job.id, job.attempt)
    queue.complete(Holder("n1", "o"), job.id, job.attempt, {"games": 5})
    registry.mark({}, totals={"at": now})
    before, after = registry.totals()
    assert (before["completed"], before["games"], after["completed"], after["games"]) == (0, 0, 1, 5)
    text = served.ask("/progress").text
    assert text.count('<svg class="plot"') == 3
    assert "<b>300</b>" in text  # 5 games in a minute
    assert "<b>60</b>" in text
