"""An agent that answers what a test has it answer."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from typing import Any

from fleet import replies
from workers.settings import connect

Answer = dict[str, Any] | Callable[[], dict[str, Any]]


class Agent:
    """Takes the messages of one node's queue off the broker, one answer each."""

    def __init__(self, url: str, node: str) -> None:
        self.answers: list[Answer] = []
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self._redis = connect(url)
        self._queue = f"node.{node}"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._redis.close()

    def _serve(self) -> None:
        while not self._stop.is_set():
            if (found := self._redis.blpop([self._queue], timeout=0.05)) is None:
                continue
            message = json.loads(found[1])
            (arguments, token), _, _ = json.loads(base64.b64decode(message["body"]))
            self.asked.append((message["headers"]["task"], arguments))
            answer = self.answers.pop(0)
            replies.answer(self._redis, token, answer() if callable(answer) else answer)
