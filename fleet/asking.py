"""Asking nodes and waiting for what they say: a node task sent to each, and their answers collected."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from redis import Redis

from fleet import replies

#: Seconds of one blocking read: below any client's own limit for a call.
LOOK = 1
#: The least of them: servers before 7 cut a time to milliseconds, and wait for ever when nothing is left.
LEAST = 0.01


class Send(Protocol):
    """Gives a node's agent a node task by name. Raises what the broker's client raises."""

    def __call__(self, node_id: str, task: str, arguments: Mapping[str, Any], reply: str | None = None, /) -> None: ...


@dataclass(frozen=True)
class Answered:
    """What one node said: an `answer`, an `error`, or neither, when it said nothing in time."""

    answer: Mapping[str, Any] | None = None
    error: str | None = None

    @property
    def silent(self) -> bool:
        return self.answer is None and self.error is None


def call(
    redis: Redis,
    send: Send,
    asked: Mapping[str, tuple[str, Mapping[str, Any]]],
    wait: float,
    is_over: Callable[[], bool] = lambda: False,
) -> dict[str, Answered]:
    """Ask each node for its task (node id -> name, arguments), all at once, and wait up to `wait` seconds for all.

    `is_over` is looked at every second, and ends the wait before that.
    A node that is not heard may still do what it was asked. Raises RedisError, and what `send` raises.
    """
    give_up = time.monotonic() + wait
    said = {node_id: Answered() for node_id in asked}
    waiting: dict[str, str] = {}
    for node_id, (name, arguments) in asked.items():
        token = replies.new_token()
        send(node_id, name, arguments, token)
        waiting[replies.REPLY + token] = node_id
    while waiting and (left := give_up - time.monotonic()) > 0 and not is_over():
        found: Any = redis.blpop(list(waiting), timeout=max(LEAST, min(LOOK, left)))
        if found is not None:
            key, text = found
            said[waiting.pop(key if isinstance(key, str) else key.decode())] = _read(text)
    return said


def _read(text: Any) -> Answered:
    """A reply as whoever answered wrote it; one of another form is an error of theirs, not ours."""
    try:
        document = json.loads(text)
        answer, error = document.get("answer"), document.get("error")
    except (ValueError, AttributeError):
        return Answered(error="its reply is no JSON object")
    if isinstance(answer, dict):
        return Answered(answer=answer)
    return Answered(error=str(error) if error else "its reply holds no answer")
