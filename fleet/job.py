"""A job: a node's unit of work, as it is asked for and as the registry knows it."""

from __future__ import annotations

import json
import logging
import math
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from fleet.configs import BoardConfig
from fleet.decoding import text_of

#: Bytes of JSON that a payload or a result may take in the registry.
JSON_LIMIT = 64 * 1024
#: Characters kept of an error or a reason.
ERROR_LIMIT = 4000

# An id becomes a folder's name on a node, so it never begins with a dot or a dash.
_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_HOLDER = re.compile(r"[!-~]{1,200}")

log = logging.getLogger("backbeat.jobs")


class JobStatus(StrEnum):
    """Where a job stands. The last five are final."""

    PENDING = "pending"
    CLAIMED = "claimed"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    ABANDONED = "abandoned"

    @property
    def is_final(self) -> bool:
        return self not in OUTSTANDING


#: What a node holds.
HELD = frozenset({JobStatus.CLAIMED, JobStatus.RUNNING})
#: What still takes, or will take, a node's time.
OUTSTANDING = HELD | {JobStatus.PENDING}
#: What is over without having been completed; `JobQueue.retry` takes it up again.
ENDED_BADLY = frozenset(JobStatus) - OUTSTANDING - {JobStatus.COMPLETED}


@dataclass(frozen=True)
class JobSpec:
    """A job to enqueue. Raises ValueError naming the field, its value and what is accepted.

    `timeout` is seconds from start to kill; a higher `priority` goes first (see AGEING in fleet.jobs).
    Without an `id` one is made up; with one, enqueueing twice is the same as once.
    """

    kind: str
    config: str
    priority: int = 50
    capability: str = "cpu"
    payload: Mapping[str, Any] = field(default_factory=dict)
    timeout: float = 3600.0
    max_attempts: int = 3
    id: str | None = None

    def __post_init__(self) -> None:
        for name in ("kind", "capability"):
            _check_text(name, getattr(self, name), _NAME, "a lower-case name such as selfplay or gpu")
        try:
            BoardConfig.parse(self.config)
        except (TypeError, ValueError) as error:
            raise ValueError(f"config: {error}") from None
        _check_integer("priority", self.priority, -1000, 1000)
        _check_integer("max_attempts", self.max_attempts, 1, 1000)
        _check_timeout(self.timeout)
        encode_object("payload", self.payload)
        if self.id is None:
            prefix = f"{self.kind}-{self.config}"[:51]
            object.__setattr__(self, "id", f"{prefix}-{secrets.token_hex(6)}")
        check_job_id(self.id)


@dataclass(frozen=True)
class Holder:
    """Who holds a job: a node, and this incarnation of its jobs worker (`owner`, a token made at its start)."""

    node: str
    owner: str

    def __post_init__(self) -> None:
        for name in ("node", "owner"):
            _check_text(name, getattr(self, name), _HOLDER, "1 to 200 printable characters without spaces")


@dataclass(frozen=True)
class Job:
    """Everything the registry knows of one job. Instants are seconds since the epoch on Redis time.

    `attempt` counts claims, `failures` the claims that ended badly. `node` and `owner` name the holder,
    or the last one when the job is over. `error` is what last went wrong.
    """

    id: str
    kind: str
    config: str
    capability: str
    priority: int
    payload: Mapping[str, Any]
    status: JobStatus
    attempt: int
    failures: int
    max_attempts: int
    timeout: float
    created_at: float
    node: str | None = None
    owner: str | None = None
    claimed_at: float | None = None
    started_at: float | None = None
    heartbeat_at: float | None = None
    finished_at: float | None = None
    not_before: float | None = None
    result: Mapping[str, Any] | None = None
    error: str | None = None

    @property
    def deadline(self) -> float | None:
        """When its holder must have ended it, once it was started."""
        return None if self.started_at is None else self.started_at + self.timeout

    @classmethod
    def decode(cls, pairs: Iterable[tuple[bytes | str, bytes | str]]) -> Job:
        """Read a job's hash. Raises ValueError when it is not one that the queue wrote."""
        record = {text_of(name): text_of(value) for name, value in pairs}

        def instant(name: str) -> float | None:
            return int(record[name]) / 1000 if name in record else None

        def json_of(name: str, kind: type) -> Any:
            value = json.loads(record[name])
            if not isinstance(value, kind):
                raise ValueError(f"{name} {record[name]!r}: JSON of another type")
            return value

        try:
            check_job_id(record["id"])
            BoardConfig.parse(record["config"])
            _check_timeout(float(record["timeout"]))
            return cls(
                id=record["id"],
                kind=record["kind"],
                config=record["config"],
                capability=record["capability"],
                priority=int(record["priority"]),
                payload=json_of("payload", dict),
                status=JobStatus(record["status"]),
                attempt=int(record["attempt"]),
                failures=int(record["failures"]),
                max_attempts=int(record["max_attempts"]),
                timeout=float(record["timeout"]),
                created_at=int(record["created_at"]) / 1000,
                node=record.get("node"),
                owner=record.get("owner"),
                claimed_at=instant("claimed_at"),
                started_at=instant("started_at"),
                heartbeat_at=instant("heartbeat_at"),
                finished_at=instant("finished_at"),
                not_before=instant("not_before"),
                result=json_of("result", dict) if "result" in record else None,
                error=json_of("error", str) if "error" in record else None,
            )
        except KeyError as error:
            raise ValueError(f"malformed job: {error.args[0]} is missing") from None
        except (ValueError, ArithmeticError, RecursionError) as error:
            raise ValueError(f"malformed job: {error}") from None


@dataclass(frozen=True)
class Poll:
    """What a holder is told: jobs that are no longer its own, wake-ups owed by capability, and whether it drains."""

    lost: tuple[str, ...]
    wakes: Mapping[str, int]
    draining: bool = False


@dataclass(frozen=True)
class JobCounts:
    """How many jobs stand where, kept by the registry at each transition.

    Outstanding statuses are present numbers, final ones totals since the registry began.
    """

    by_status: Mapping[JobStatus, int]
    by_kind: Mapping[str, Mapping[JobStatus, int]]
    outstanding: Mapping[tuple[str, str], int]  # by (kind, config): pending, claimed and running
    games: Mapping[str, int]  # produced, by config
    pending: Mapping[str, int] = field(default_factory=dict)  # by capability, delayed ones too

    @property
    def depth(self) -> int:
        """Pending (delayed ones too), claimed and running."""
        return sum(self.by_status[status] for status in OUTSTANDING)

    @classmethod
    def decode(cls, counts: Mapping[Any, Any], games: Mapping[Any, Any]) -> JobCounts:
        """Read the registry's counters. One that this version does not know is left out, and logged."""
        by_status = dict.fromkeys(JobStatus, 0)
        by_kind: dict[str, dict[JobStatus, int]] = {}
        outstanding, pending = {}, {}
        for name, value in counts.items():
            try:
                match text_of(name).split(":"):
                    case ["status", status]:
                        by_status[JobStatus(status)] = int(value)
                    case ["kind", kind, status]:
                        by_kind.setdefault(kind, dict.fromkeys(JobStatus, 0))[JobStatus(status)] = int(value)
                    case ["outstanding", kind, config]:
                        outstanding[kind, config] = int(value)
                    case ["pending", capability]:
                        pending[capability] = int(value)
            except ValueError as error:
                log.warning("the counter %r of jobs is left out: %s", name, error)
        produced = {text_of(name): int(value) for name, value in games.items()}
        return cls(by_status, by_kind, outstanding, produced, pending)


def check_job_id(value: Any) -> None:
    """Raises ValueError unless `value` is a job's id, and so also safe as a folder's name."""
    _check_text("id", value, _ID, "1 to 64 letters, digits, '.', '_' or '-', not beginning with '.' or '-'")


def encode_object(name: str, value: Any) -> str:
    """JSON of a mapping, ASCII only. Raises ValueError when it is not JSON or above JSON_LIMIT bytes."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ValueError(f"{name} {value!r}: a mapping with names as keys")
    try:
        text = json.dumps(dict(value), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{name} {value!r}: cannot be written as JSON ({error})") from None
    if len(text) > JSON_LIMIT:
        raise ValueError(f"{name}: {len(text)} bytes of JSON; at most {JSON_LIMIT}")
    return text


def _check_text(name: str, value: Any, pattern: re.Pattern[str], accepted: str) -> None:
    if not isinstance(value, str) or pattern.fullmatch(value) is None:
        raise ValueError(f"{name} {value!r}: {accepted}")


def _check_integer(name: str, value: Any, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name} {value!r}: an integer from {low} to {high}")


def _check_timeout(value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"timeout {value!r}: a number of seconds above 0")
