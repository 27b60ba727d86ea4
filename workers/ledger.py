"""The ledger: every loop's state in Redis, and the scripts that are its only writers.

Each step of a tick's life is one script on Redis time: `claim` by beat, `gate` and `record` by the
worker, `renew` while a body runs. Two beats, two workers or two operators at once are therefore a
matter of order, never of luck. `now` (seconds) stands in for Redis time in tests.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from redis import Redis
from redis.commands.core import Script

from fleet.elo_board import TARGETS
from fleet.job_keys import COUNTS, GAMES
from fleet.nodes import NODES, READ_LUA, TOTALS, read_arguments
from workers import keys

#: Longest error text and traceback kept, in characters.
ERROR_LIMIT, TRACEBACK_LIMIT = 2_000, 16_000
#: Runs of a loop that its history keeps.
HISTORY_KEPT = 60


@dataclass(frozen=True)
class Scheduled:
    """A loop as the timetable needs it; durations in seconds. `source` is `plan` or `registered`."""

    name: str
    interval: float
    queue: str
    leader_only: bool = False
    enabled: bool = True
    initial_delay: float = 0.0
    source: str = "plan"


@dataclass(frozen=True)
class ClaimedTick:
    """A tick to publish."""

    name: str
    seq: int
    slot: float
    queue: str


@dataclass(frozen=True)
class Vanished:
    """A run whose lease ended without a record: its process died, hung or was cut off."""

    name: str
    run: str
    errors: int
    lease_until: float


@dataclass(frozen=True)
class Claim:
    """What one poll of a beat replica brought. `wait` is seconds until there may be more."""

    active: bool
    wait: float
    ticks: tuple[ClaimedTick, ...] = ()
    vanished: tuple[Vanished, ...] = ()
    loops_known: int = 0


@dataclass(frozen=True)
class Grant:
    """A run that passed the gate. `errors` counts the failures in a row before it."""

    now: float
    seq: int
    slot: float
    missed: int
    errors: int
    leader_fence: int


@dataclass(frozen=True)
class Refusal:
    """Why a tick does not run."""

    outcome: str


class Ledger:
    """Loop state in Redis. Every method is one round trip and raises redis.RedisError when Redis is away."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self._local = threading.local()
        self._scripts = {name: _register(redis, name) for name in _SCRIPTS}

    def _run(self, name: str, script_keys: list[str], now: float | None, *args: Any) -> Any:
        arguments = ["" if now is None else _ms(now), *args]
        return self._scripts[name](keys=script_keys, args=arguments, client=self._client())

    def _client(self) -> Redis:
        # A connection a thread, without the pool's checks: gate and record are the cost of every tick.
        # A stale one fails its first call after a restart of the server; callers try again.
        client: Redis | None = getattr(self._local, "client", None)
        if client is None:
            client = Redis(connection_pool=self.redis.connection_pool, single_connection_client=True)
            self._local.client = client
        return client

    # beat ------------------------------------------------------------------------------------------

    def claim(
        self,
        token: str,
        identity: str,
        *,
        ttl: float,
        grace: float,
        limit: int = 500,
        now: float | None = None,
    ) -> Claim:
        """Renew or take the beat lease and claim what is due. Safe with any number of callers at once."""
        answer = self._run(
            "claim",
            [keys.BEAT, keys.DUE, keys.RUNNING, keys.ISSUED, keys.BEATS, keys.LOOPS],
            now, keys.LOOP, token, _ms(ttl), identity, _ms(grace), limit,
        )  # fmt: skip
        if not int(answer[0]):
            return Claim(False, int(answer[1]) / 1000)
        return Claim(
            True,
            int(answer[1]) / 1000,
            tuple(ClaimedTick(name, int(seq), int(slot) / 1000, queue) for name, seq, slot, queue in answer[2]),
            tuple(Vanished(name, run, int(errors), float(end) / 1000) for name, run, errors, end in answer[3]),
            int(answer[4]),
        )

    def release_beat(self, token: str) -> None:
        self._scripts["release"](keys=[keys.BEAT], args=[token])

    def seed(self, loops: Iterable[Scheduled], *, prune: bool, now: float | None = None) -> None:
        """Bring the timetable in line with `loops`; `prune` forgets planned loops that are gone."""
        rows = [
            json.dumps(
                {
                    **vars(loop),
                    "interval": _ms(loop.interval),
                    "initial_delay": _ms(loop.initial_delay),
                }
            )
            for loop in loops
        ]
        self._run(
            "seed", [keys.LOOPS, keys.DUE, keys.RUNNING, keys.ISSUED, keys.HISTORY], now, keys.LOOP, int(prune), *rows
        )

    # worker ----------------------------------------------------------------------------------------

    def gate(
        self,
        name: str,
        seq: int | None,
        run: str,
        *,
        ttl: float,
        deadline: float,
        leader_only: bool,
        owner: str,
        identity: str,
        deny: str = "",
        call: str = "",
        now: float | None = None,
    ) -> Grant | Refusal | Vanished:
        """Ask for the run lease; `seq` None is a manual call. Vanished: record that run, then ask again."""
        answer = self._run(
            "gate",
            [keys.LOOP + name, keys.RUNNING, keys.ISSUED, keys.LEADER],
            now, name, "" if seq is None else seq, run, _ms(ttl), int(leader_only), owner, identity, _ms(deadline),
            deny, call,
        )  # fmt: skip
        if answer[0] == "granted":
            at, number, slot, missed, errors, fence = (int(value) for value in answer[1:])
            return Grant(at / 1000, number, slot / 1000, missed, errors, fence)
        if answer[0] == "abandoned":
            return Vanished(name, answer[1], int(answer[2]), float(answer[3]) / 1000)
        return Refusal(answer[0])

    def renew(self, runs: Mapping[str, str], *, ttl: float, now: float | None = None) -> list[str]:
        """Renew the run leases of this process (name -> run token); returns the names that are lost."""
        flat = [part for pair in runs.items() for part in pair]
        return list(self._run("renew", [keys.RUNNING], now, keys.LOOP, _ms(ttl), *flat))

    def record(
        self,
        name: str,
        run: str,
        outcome: str,
        *,
        duration: float = 0.0,
        counts: Mapping[str, int | float] | None = None,
        error: str = "",
        traceback: str = "",
        backoff: float = 0.0,
        next_after: float | None = None,
        failed_at: float | None = None,
        now: float | None = None,
    ) -> str:
        """Write a run's end; `late` means that it no longer held its lease and nothing was written."""
        answer = self._run(
            "record",
            [keys.LOOP + name, keys.DUE, keys.RUNNING, keys.HISTORY + name],
            now, name, run, outcome, f"{duration * 1000:.3f}", json.dumps(counts or {}), _text(error)[:ERROR_LIMIT],
            _text(traceback)[-TRACEBACK_LIMIT:], _ms(backoff), "" if next_after is None else _ms(next_after),
            "" if failed_at is None else _ms(failed_at), HISTORY_KEPT,
        )  # fmt: skip
        return str(answer)

    # operator --------------------------------------------------------------------------------------

    def control(self, name: str, action: str, value: float | None = None, *, now: float | None = None) -> bool:
        """pause, resume, stop, start, or interval (seconds); False when no such loop is known."""
        args = [name, action, "" if value is None else _ms(value)]
        return bool(self._run("control", [keys.LOOP + name, keys.DUE], now, *args))

    def names(self) -> list[str]:
        """The loops that beat fires, sorted."""
        return sorted(str(name) for name in self.redis.smembers(keys.LOOPS))

    def read(
        self, *, history: int = 0, brief: bool = False, since: float | None = None, now: float | None = None
    ) -> list[Any]:
        """The raw rows behind `workers.status`, in one round trip.

        `history`: so many of each loop's last runs; `brief` and `since`: less of the nodes, see `read_arguments`.
        """
        names = [
            keys.LOOPS,
            keys.DUE,
            keys.RUNNING,
            keys.ISSUED,
            keys.LEADER,
            keys.BEAT,
            keys.BEATS,
            NODES,
            COUNTS,
            GAMES,
            keys.HISTORY,
            TARGETS,
        ]
        return list(self._run("status", names, now, keys.LOOP, history, *read_arguments(brief=brief, since=since)))

    def read_fleet(self, *, window: float, now: float | None = None) -> list[Any]:
        """The raw rows behind the dashboard's page of nodes: with the totals of the last `window` seconds."""
        return list(self._run("fleet", [NODES, keys.LEADER, TOTALS], now, _ms(window), *read_arguments()))


_SCRIPTS = ("claim", "seed", "gate", "renew", "record", "control", "status", "fleet", "release")


def _register(redis: Redis, name: str) -> Script:
    return redis.register_script(lua(name))


def lua(name: str) -> str:
    """The text of `workers/lua/<name>.lua` behind its prelude."""
    folder = resources.files("workers") / "lua"
    reading = READ_LUA if name in ("status", "fleet") else ""
    return (folder / "prelude.lua").read_text() + reading + (folder / f"{name}.lua").read_text()


def _text(value: str) -> str:
    """Text that can go over the wire: a body may fail with anything, half of a surrogate pair included."""
    return value.encode(errors="backslashreplace").decode()


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
