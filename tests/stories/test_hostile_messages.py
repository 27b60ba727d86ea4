"""What comes over our queues from elsewhere: garbage, strangers and forgeries."""

from __future__ import annotations

import json
from typing import Any

from workers.app import configure
from workers.settings import Settings


def test_malformed_and_hostile_messages_harm_nothing(house: Any) -> None:
    house.configure({"note": {"interval": "1s"}})
    agent, jobs = house.agent("n1"), house.jobs("n1")
    house.beat()
    house.until(lambda: house.notes("note"))
    envelope = {"body": "", "headers": {}, "properties": {}, "content-type": "application/json"}
    garbage = [
        b"\xff\xfe\x00 not even text",
        "not JSON",
        "[]",
        "null",
        "{}",
        json.dumps(envelope),
        json.dumps({**envelope, "properties": {"delivery_tag": "x", "delivery_info": {}}}),
        json.dumps({**envelope, "content-type": "application/x-python-serialize", "body": "gASVCgA="}),
        "x" * 1_000_000,
    ]
    for queue in ("loops", "leader", "node.n1", "jobs.cpu"):
        house.redis.rpush(queue, *garbage)
    celery = configure(Settings(redis_url=house.server.url))
    for args in ((0,), (-1,), ("1; FLUSHALL",), (True,), (1, 2), ([],), (10**30,), ({"seq": 1},)):
        celery.send_task("loops.note", args, queue="loops")
    celery.send_task("loops.note", (), {"seq": 1}, queue="loops")
    celery.send_task("os.system", ("true",), queue="loops")
    celery.send_task("loops.nobody", (1,), queue="leader")
    for _ in range(50):
        celery.send_task("jobs.run", ("anything", {"at": "all"}), queue="jobs.cpu")
    ran = len(house.notes("note"))
    house.until(lambda: not house.redis.llen("loops") and not house.redis.llen("jobs.cpu"), 20, "all are read")
    house.until(lambda: len(house.notes("note")) >= ran + 3, 20, "ticks go on")
    assert agent.alive
    assert jobs.alive
    assert house.seqs("note") == sorted(set(house.seqs("note")))
    assert house.status("note")["error_count"] == 0
    assert "malformed" in agent.text()
    assert "takes no argument (a manual run) or one tick number" in agent.text()
