"""Notices held back until their message is due: one message a title and interval, and none of them forgotten.

The first notice of a title opens a group; its message is due `group_for` seconds later, or when `interval`
is over since the last message of that title. Who sends it takes the group for a while and says when it is
done; a sender that dies on the way loses nothing, for the group is then due again.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from redis import Redis

from fleet.decoding import text_of

DUE = "{backbeat}:notices:due"  # sorted set: title -> when its message is due, ms of Redis time
HELD = "{backbeat}:notices:of:"  # + title: hash, what is held back of it and when a message was last tried

#: Titles with something to say at once; notices of any further one go under `Other notices`.
TITLES, OTHER = 100, "Other notices"
#: Of one message: lines it lists, and the characters of one.
LINES, LINE_LIMIT = 20, 500
#: Seconds for which a group is its sender's, and for which a title is remembered.
LEASE, LIFE = 120.0, 86_400.0
#: Seconds until a message that nobody took is tried again, when `interval` is shorter.
RETRY = 60.0


@dataclass(frozen=True)
class Group:
    """What one message says: `count` notices of a title, the first of them in `lines`, the worst one's `severity`.

    `upto` numbers the last of them among all of that title.
    """

    title: str
    upto: int
    count: int
    severity: int
    lines: tuple[str, ...]

    @property
    def body(self) -> str:
        """One line for each, alike ones together, and how many more there are."""
        lines = [line if n == 1 else f"{line} ({n} times)" for line, n in Counter(self.lines).items()]
        more = self.count - len(self.lines)
        return "\n".join([*lines, f"and {more} more"] if more else lines)


@dataclass
class _Title:
    told: int = 0
    n: int = 0
    severity: int = 0
    lines: dict[int, str] = field(default_factory=dict)
    tried_at: float = -math.inf
    due: float = math.inf


class OwnGroups:
    """The groups of one process. `interval` and `group_for` are seconds, as is what `clock` tells."""

    def __init__(self, interval: float, group_for: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval, self._group_for, self._clock = interval, group_for, clock
        self._titles: dict[str, _Title] = {}
        self._lock = threading.Lock()

    def add(self, title: str, severity: int, line: str) -> float:
        """Hold a notice back; returns the seconds until its message is due."""
        now = self._clock()
        with self._lock:
            waiting = [name for name, held in self._titles.items() if held.due < math.inf]
            if title not in waiting and len(waiting) >= TITLES:
                title, line = OTHER, f"{title}: {line}"
            held = self._titles.setdefault(title, _Title())
            held.n += 1
            held.severity = max(held.severity, severity)
            if held.n <= held.told + LINES:
                held.lines[held.n] = line
            if held.due == math.inf:
                held.due = max(now + self._group_for, held.tried_at + self._interval)
            return held.due - now

    def take(self, *, early: bool = False) -> tuple[list[Group], float]:
        """The groups that are due, and the seconds until the next one; `early`: those that wait for company too."""
        now = self._clock()
        groups = []
        with self._lock:
            for title, held in self._titles.items():
                if held.due < math.inf and (held.tried_at + self._interval if early else held.due) <= now:
                    held.tried_at, held.due = now, now + LEASE
                    groups.append(Group(title, held.n, held.n - held.told, held.severity, tuple(held.lines.values())))
            return groups, min((max(0.0, held.due - now) for held in self._titles.values()), default=math.inf)

    def done(self, group: Group, *, delivered: bool) -> None:
        """Say what came of a group's message: it is told, or due again."""
        now = self._clock()
        with self._lock:
            held = self._titles.get(group.title)
            if held is None:  # said already, by one whose sending took longer than its lease
                return
            if delivered:
                held.told = max(held.told, group.upto)
                held.lines = {number: line for number, line in held.lines.items() if number > held.told}
            if held.told == held.n:
                held.severity, held.due = 0, math.inf
            else:
                held.due = held.tried_at + _again(self._interval, delivered)
            self._titles = {
                name: each for name, each in self._titles.items() if each.due < math.inf or now - each.tried_at < LIFE
            }


class SharedGroups:
    """The groups of the whole fleet, in Redis; raises redis.RedisError when it is away.

    `now`, seconds since the epoch, stands in for Redis time in tests.
    """

    def __init__(self, redis: Redis, interval: float, group_for: float) -> None:
        self._interval = interval
        self._arguments = [round(group_for * 1000), round(interval * 1000), HELD, TITLES, LINES, round(LIFE * 1000)]
        self._script = redis.register_script((resources.files("fleet") / "lua" / "notices.lua").read_text())

    def add(self, title: str, severity: int, line: str, *, now: float | None = None) -> float:
        """As OwnGroups.add."""
        return int(self._call(now, "add", title, severity, line)) / 1000

    def take(self, *, early: bool = False, now: float | None = None) -> tuple[list[Group], float]:
        """As OwnGroups.take. What is taken is this caller's for LEASE seconds."""
        wait, rows = self._call(now, "take", "early" if early else "", round(LEASE * 1000))
        groups = [
            Group(text_of(title), int(upto), int(count), int(severity), tuple(text_of(line) for line in lines if line))
            for title, upto, count, severity, lines in rows
        ]
        return groups, int(wait) / 1000 if wait else math.inf

    def done(self, group: Group, *, delivered: bool, now: float | None = None) -> None:
        """As OwnGroups.done."""
        told = group.upto if delivered else 0
        self._call(now, "done", group.title, told, round(_again(self._interval, delivered) * 1000))

    def _call(self, now: float | None, *words: Any) -> Any:
        args: list[Any] = ["" if now is None else round(now * 1000), *self._arguments, *words]
        return self._script(keys=[DUE], args=args)


def _again(interval: float, delivered: bool) -> float:
    return interval if delivered else max(interval, RETRY)
