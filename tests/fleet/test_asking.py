"""Asking several nodes at once: each answer is its own, and nobody is waited for longer than all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from redis import Redis

from fleet import replies
from fleet.asking import Answered, call


class Answers:
    """Agents: each leaves what the test told it to, in a thread of its own."""

    def __init__(self, redis: Redis, said: Mapping[str, Any]) -> None:
        self.redis, self.said = redis, said
        self.threads: list[threading.Thread] = []
        self.asked: list[tuple[str, str, Mapping[str, Any]]] = []

    def __call__(self, node_id: str, task: str, arguments: Mapping[str, Any], reply: str | None = None, /) -> None:
        self.asked.append((node_id, task, arguments))
        said = self.said.get(node_id)
        if reply is not None and said is not None:
            self.threads.append(threading.Thread(target=replies.answer, args=(self.redis, reply, said)))
            self.threads[-1].start()


@pytest.fixture
def answering(redis: Redis) -> Iterator[Callable[..., Answers]]:
    """Makes agents; they are done with the server when the test is."""
    made: list[Answers] = []

    def answers(**said: Any) -> Answers:
        made.append(Answers(redis, said))
        return made[-1]

    yield answers
    for thread in (thread for each in made for thread in each.threads):
        thread.join()


def test_each_nodes_answer_is_its_own(redis: Redis, answering: Any) -> None:
    agents = answering(a={"answer": {"n": 1}}, b={"error": "no disk"})
    said = call(redis, agents, {"a": ("count", {"x": 1}), "b": ("count", {})}, wait=5)
    assert said == {"a": Answered(answer={"n": 1}), "b": Answered(error="no disk")}
    assert agents.asked == [("a", "count", {"x": 1}), ("b", "count", {})]
    assert not redis.keys("*reply*")


def test_one_that_says_nothing_is_silent_and_costs_the_others_nothing(redis: Redis, answering: Any) -> None:
    began = time.monotonic()
    said = call(redis, answering(a={"answer": {}}), {"a": ("t", {}), "gone": ("t", {})}, wait=0.3)
    assert said["a"] == Answered(answer={})
    assert said["gone"].silent
    assert not said["a"].silent
    assert 0.3 <= time.monotonic() - began < 2


def test_the_last_look_is_not_one_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []

    class Server:
        def blpop(self, _keys: list[str], timeout: float) -> None:
            looks.append(timeout)

    instants = iter([0.0, 0.5, 2.0 - 1e-9, 3.0])
    monkeypatch.setattr("fleet.asking.time", SimpleNamespace(monotonic=lambda: next(instants)))
    assert call(Server(), lambda *_: None, {"gone": ("t", {})}, wait=2)["gone"].silent  # type: ignore[arg-type]
    assert looks == [1, 0.01]


def test_a_process_that_is_to_end_waits_for_nobody(redis: Redis, answering: Any) -> None:
    began = time.monotonic()
    assert call(redis, answering(), {"gone": ("t", {})}, 30, lambda: True)["gone"].silent
    assert time.monotonic() - began < 2


def test_all_that_answer_end_the_wait(redis: Redis, answering: Any) -> None:
    began = time.monotonic()
    call(redis, answering(a={"answer": {}}), {"a": ("t", {})}, wait=30)
    assert time.monotonic() - began < 5


def test_asking_nobody_waits_for_nobody(redis: Redis, answering: Any) -> None:
    assert call(redis, answering(), {}, wait=30) == {}


@pytest.mark.parametrize("said", [["no object"], {"answer": 7}, {}, {"answer": None, "error": None}])
def test_a_reply_of_another_form_is_the_nodes_error(redis: Redis, answering: Any, said: Any) -> None:
    (answered,) = call(redis, answering(a=said), {"a": ("t", {})}, wait=5).values()
    assert answered.answer is None
    assert answered.error is not None
    assert answered.error.startswith("its reply")
