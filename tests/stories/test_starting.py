"""Processes that cannot do their work say so in one line and do not start."""

from __future__ import annotations

from typing import Any

import pytest

ARGUMENTS = {"worker": ["worker", "-n", "agent@n1"], "beat": ["beat"]}


@pytest.mark.parametrize("kind", ARGUMENTS)
def test_a_server_that_may_evict_is_refused(house: Any, own_server: Any, make_house: Any, kind: str) -> None:
    house = make_house(own_server)
    house.configure({"note": {}})
    house.redis.config_set("maxmemory-policy", "allkeys-lru")
    process = house.process(kind, ARGUMENTS[kind])
    assert process.popen.wait(30) == 1
    assert "set it to noeviction" in process.text()
    assert "Traceback" not in process.text()
    house.close()


@pytest.mark.parametrize("kind", ARGUMENTS)
def test_a_stanza_and_a_loop_that_disagree_are_refused(house: Any, kind: str) -> None:
    house.configure({"note": {}, "slow": {"secnds": 3}})
    house.loops = ["note", "slow", "leading"]
    process = house.process(kind, ARGUMENTS[kind])
    assert process.popen.wait(30) != 0
    text = process.text()
    assert "slow.secnds: unknown key" in text
    assert "did you mean 'seconds'" in text
    assert "leading" in text  # declared, and without a stanza: all problems at once


def test_a_server_that_comes_later_is_waited_for(make_house: Any, own_server: Any) -> None:
    house = make_house(own_server)
    house.configure({"note": {"interval": "1s"}})
    own_server.kill()
    agent, beat = house.agent("n1"), house.beat()
    house.until(lambda: "no connection" in agent.text() and "trying again" in beat.text(), 20, "both wait")
    own_server.start()
    house.until(lambda: len(house.notes("note")) >= 2, 20)
    house.close()
