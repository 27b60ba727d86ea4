"""Tells the operator what happened: in the log, in a stream that the dashboards read, and by Apprise.

A notice is worth reading, not worth a loop's time: sending happens in a thread behind a bounded queue,
so an endpoint that hangs delays nobody. Nothing promises that a notice arrives; what did not is logged.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from redis import Redis, RedisError

EVENTS = "{backbeat}:events"  # stream: title, body, severity
KEPT_EVENTS = 1000
QUEUED = 100  # notices waiting for a slow endpoint; beyond it they are dropped, and that is logged

Severity = Literal["info", "warning", "error"]

_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_APPRISE_TYPES = {"info": "info", "warning": "warning", "error": "failure"}

logger = logging.getLogger("backbeat.notices")


@dataclass(frozen=True)
class Notice:
    """Something an operator may want to know. The title is what repetitions are recognised by."""

    title: str
    body: str = ""
    severity: Severity = "info"


class Notices:
    """Where notices go. `urls` are Apprise's; `interval` is the least seconds between two of one title."""

    def __init__(
        self,
        urls: Sequence[str] = (),
        redis: Redis | None = None,
        *,
        interval: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._urls = tuple(urls)
        self._redis = redis
        self._interval = interval
        self._clock = clock
        self._last: dict[str, float] = {}  # title -> when it last went out
        self._lock = threading.Lock()
        self._waiting: queue.Queue[Notice | None] = queue.Queue(QUEUED)
        self._sender: threading.Thread | None = None

    def send(self, notice: Notice) -> bool:
        """Log the notice; unless its title went out less than `interval` ago, record and send it too.

        Returns whether it went out. Never raises for a server or an endpoint that fails.
        """
        logger.log(_LEVELS[notice.severity], ": ".join(filter(None, (notice.title, notice.body))))
        if not self._due(notice.title):
            return False
        self._record(notice)
        if self._urls:
            self._start_sender()
            try:
                self._waiting.put_nowait(notice)
            except queue.Full:
                logger.warning("notification %r dropped: %d are waiting already", notice.title, QUEUED)
        return True

    def recent(self, count: int = 50) -> list[tuple[float, Notice]]:
        """The newest notices of the whole fleet, newest first, with their instant (seconds, Redis time)."""
        if self._redis is None:
            return []
        rows: Any = self._redis.xrevrange(EVENTS, count=count)
        return [(_instant(row_id), _notice(fields)) for row_id, fields in rows]

    def close(self, timeout: float = 5.0) -> None:
        """Send what is waiting, for at most `timeout` seconds, then let the thread go."""
        with self._lock:
            sender, self._sender = self._sender, None
        if sender is None:
            return
        deadline = time.monotonic() + timeout
        try:
            self._waiting.put(None, timeout=timeout)
        except queue.Full:
            logger.warning("notifications given up: %d were still waiting", self._waiting.qsize())
            return
        sender.join(max(0.0, deadline - time.monotonic()))

    def _due(self, title: str) -> bool:
        now = self._clock()
        with self._lock:
            self._last = {name: at for name, at in self._last.items() if now - at < self._interval}
            if title in self._last:
                return False
            self._last[title] = now
            return True

    def _record(self, notice: Notice) -> None:
        if self._redis is None:
            return
        fields: dict[Any, Any] = {"title": notice.title, "body": notice.body, "severity": notice.severity}
        try:
            self._redis.xadd(EVENTS, fields, maxlen=KEPT_EVENTS, approximate=True)
        except RedisError as error:
            logger.warning("notice %r not recorded: %s", notice.title, error)

    def _start_sender(self) -> None:
        with self._lock:
            if self._sender is None:
                self._sender = threading.Thread(target=self._send_all, name="notices", daemon=True)
                self._sender.start()

    def _send_all(self) -> None:
        import apprise

        # An address carries a password or token: errors name its place and scheme, never its text.
        endpoints = []
        for place, url in enumerate(self._urls):
            scheme = url.partition("://")[0]
            endpoint = apprise.Apprise()
            if endpoint.add(url):
                endpoints.append((f"notify.urls[{place}] ({scheme})", endpoint))
            else:
                logger.error("notify.urls[%d] (%s) is not an address Apprise understands", place, scheme)
        while (notice := self._waiting.get()) is not None:
            for name, endpoint in endpoints:
                try:
                    delivered = endpoint.notify(
                        title=notice.title,
                        body=notice.body or notice.title,
                        notify_type=_APPRISE_TYPES[notice.severity],
                    )
                except Exception:  # a plugin's own error must not end the thread for the other addresses
                    logger.exception("notification %r to %s failed", notice.title, name)
                    continue
                if not delivered:
                    logger.warning("notification %r was not delivered to %s", notice.title, name)


def _instant(row_id: bytes | str) -> float:
    return int(_text(row_id).partition("-")[0]) / 1000


def _notice(fields: dict[bytes | str, bytes | str]) -> Notice:
    row = {_text(name): _text(value) for name, value in fields.items()}
    severity: Any = row.get("severity", "info")
    return Notice(row.get("title", ""), row.get("body", ""), severity)


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
