"""Tells the operator what happened: in the log, in a stream that the dashboards read, and by Apprise.

A notice is logged and in the stream at once. What Apprise sends is grouped: one message a title and interval,
for the whole fleet, which lists what came meanwhile. It is sent by a thread, so an endpoint that hangs delays
no loop. Nothing promises that a message arrives; one that nobody took is logged, and tried again.
"""

from __future__ import annotations

import atexit
import logging
import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from redis import Redis, RedisError

from fleet.decoding import text_of
from fleet.notice_groups import LINE_LIMIT, Group, OwnGroups, SharedGroups

EVENTS = "{backbeat}:events"  # stream: title, body, severity
KEPT_EVENTS = 1000
#: Characters of a title, and of a body, that the stream keeps.
TITLE_LIMIT, BODY_LIMIT = 200, 4_000
#: Nodes, jobs and the like that one body names; the others are counted.
NAMED = 10
#: Seconds until a server that is away is asked again for what is due.
ASK_AGAIN = 5.0

Severity = Literal["info", "warning", "error"]

SEVERITIES: tuple[Severity, ...] = get_args(Severity)
_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_APPRISE_TYPES = {"info": "info", "warning": "warning", "error": "failure"}

logger = logging.getLogger("backbeat.notices")


@dataclass(frozen=True)
class Notice:
    """Something an operator may want to know. The title is what those that belong together have in common."""

    title: str
    body: str = ""
    severity: Severity = "info"


def listed(texts: Sequence[str], separator: str = "; ") -> str:
    """Texts in one body: the first ones, and how many more."""
    more = f"{separator}and {len(texts) - NAMED} more" if len(texts) > NAMED else ""
    return separator.join(texts[:NAMED]) + more


class Notices:
    """Where notices go. `urls` are Apprise's; `interval` is the least seconds between two messages of one title,
    `group_for` the seconds that a first one waits for company."""

    def __init__(
        self,
        urls: Sequence[str] = (),
        redis: Redis | None = None,
        *,
        interval: float = 60.0,
        group_for: float = 10.0,
    ) -> None:
        self._urls = tuple(urls)
        self._redis = redis
        self._shared = None if redis is None else SharedGroups(redis, interval, group_for)
        self._own = OwnGroups(interval, group_for)
        self._lock = threading.Lock()
        self._sender: _Sender | None = None

    def send(self, notice: Notice) -> None:
        """Log the notice, record it, and have it sent. Never raises for a server or an endpoint that fails."""
        logger.log(_LEVELS[notice.severity], ": ".join(filter(None, (notice.title, notice.body))))
        title, body = _wire(notice.title, TITLE_LIMIT), _wire(notice.body, BODY_LIMIT)
        fields: dict[Any, Any] = {"title": title, "body": body, "severity": notice.severity}
        group = (title, SEVERITIES.index(notice.severity), (body or title)[:LINE_LIMIT])
        wait = math.inf
        try:
            if self._redis is not None and self._shared is not None:
                self._redis.xadd(EVENTS, fields, maxlen=KEPT_EVENTS, approximate=True)
                wait = self._shared.add(*group) if self._urls else math.inf
            elif self._urls:
                wait = self._own.add(*group)
        except RedisError as error:
            logger.warning("notice %r not recorded: %s", notice.title, error)
            wait = self._own.add(*group) if self._urls else math.inf
        if self._urls:
            self._start_sender().expect(wait)

    def recent(self, count: int = 50) -> list[tuple[float, Notice]]:
        """The newest notices of the whole fleet, newest first, with their instant (seconds, Redis time)."""
        if self._redis is None:
            return []
        rows: Any = self._redis.xrevrange(EVENTS, count=count)
        return [(_instant(row_id), _notice(fields)) for row_id, fields in rows]

    def close(self, timeout: float = 5.0) -> None:
        """Send what waits for company, for at most `timeout` seconds, then let the thread go.

        What the interval still holds back stays in Redis, for whoever sends next.
        """
        with self._lock:
            sender, self._sender = self._sender, None
        if sender is not None:
            atexit.unregister(self.close)
            sender.finish(timeout)

    def _start_sender(self) -> _Sender:
        with self._lock:
            if self._sender is None:
                self._sender = _Sender(self._urls, [each for each in (self._shared, self._own) if each is not None])
                self._sender.start()
                atexit.register(self.close)
            return self._sender


class _Sender(threading.Thread):
    """Sends each group's message when it is due."""

    def __init__(self, urls: Sequence[str], sources: Sequence[SharedGroups | OwnGroups]) -> None:
        super().__init__(name="notices", daemon=True)
        self._urls, self._sources = urls, sources
        self._changed = threading.Condition()
        self._due = math.inf
        self._closing = False

    def expect(self, wait: float) -> None:
        """A message is due in so many seconds."""
        with self._changed:
            if time.monotonic() + wait < self._due:
                self._due = time.monotonic() + wait
                self._changed.notify()

    def finish(self, timeout: float) -> None:
        """Send what may be sent, and end."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self.join(timeout)
        if self.is_alive():
            logger.warning("notifications given up: an endpoint does not answer")

    def run(self) -> None:
        endpoints = _endpoints(self._urls)
        closing = False
        while not closing:
            with self._changed:
                while not self._closing and (wait := self._due - time.monotonic()) > 0:
                    self._changed.wait(min(wait, threading.TIMEOUT_MAX))
                closing, self._due = self._closing, math.inf
            for source in self._sources:
                self.expect(self._send_due(source, endpoints, early=closing))

    def _send_due(
        self, source: SharedGroups | OwnGroups, endpoints: Sequence[tuple[str, Any]], *, early: bool
    ) -> float:
        """Returns the seconds until more is due."""
        try:
            groups, wait = source.take(early=early)
            for group in groups:
                source.done(group, delivered=_deliver(group, endpoints))
            return 0.0 if groups else wait
        except RedisError as error:
            logger.warning("notifications wait for the server: %s", error)
            return ASK_AGAIN


def _endpoints(urls: Sequence[str]) -> list[tuple[str, Any]]:
    """Each address with a name for the log: it carries a password or token, so the log names place and scheme."""
    import apprise

    endpoints = []
    for place, url in enumerate(urls):
        name = f"notify.urls[{place}] ({url.partition('://')[0]})"
        # the service itself: Apprise's own pool of threads takes nothing more when the process ends
        if (endpoint := apprise.Apprise.instantiate(url)) is None:
            logger.error("%s is not an address Apprise understands", name)
        else:
            endpoints.append((name, endpoint))
    return endpoints


def _deliver(group: Group, endpoints: Sequence[tuple[str, Any]]) -> bool:
    """Whether any address took the group's message."""
    kind, taken = _APPRISE_TYPES[SEVERITIES[group.severity]], 0
    for name, endpoint in endpoints:
        try:
            delivered = endpoint.notify(title=group.title, body=group.body, notify_type=kind)
        except Exception:  # a plugin's own error must not end the thread for the other addresses
            logger.exception("notification %r to %s failed", group.title, name)
            continue
        if delivered:
            taken += 1
        else:
            logger.warning("notification %r was not delivered to %s", group.title, name)
    return taken > 0


def _wire(text: str, limit: int) -> str:
    """Text that can go over the wire: an error may hold anything, half of a surrogate pair included."""
    return text[:limit].encode(errors="backslashreplace").decode()


def _instant(row_id: bytes | str) -> float:
    return int(text_of(row_id).partition("-")[0]) / 1000


def _notice(fields: dict[bytes | str, bytes | str]) -> Notice:
    row = {text_of(name): text_of(value) for name, value in fields.items()}
    severity: Any = row.get("severity", "info")
    return Notice(row.get("title", ""), row.get("body", ""), severity)
