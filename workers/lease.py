"""The leader lease: who may act for the whole cluster, and until when this process may believe it.

    vacant --acquire--> held --renew--> held --(no answer until the deadline)--> lost, locally
                          |--SIGTERM: release at once--> vacant

A thread renews every `retry_period`; the holder's own belief ends `renew_deadline` after the last
renewal that it *sent*, earlier than the lease itself, and on CLOCK_BOOTTIME, so that a suspended
machine wakes up without it. What this does not promise: that a paused process never acts late. That
is what the fence is for, at every write.
"""

from __future__ import annotations

import logging
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from redis import Redis, RedisError

from workers import keys
from workers.ledger import lua

log = logging.getLogger("backbeat.lease")

#: A renewal must get at least this share of retries into the deadline, as in client-go's leaderelection.
JITTER = 1.2


@dataclass(frozen=True)
class LeaseTiming:
    """Seconds. Refused unless ttl > renew_deadline > 1.2 x retry_period, or nobody could lead safely."""

    ttl: float = 4.0
    renew_deadline: float = 2.7
    retry_period: float = 0.5

    def __post_init__(self) -> None:
        if not self.ttl > self.renew_deadline > JITTER * self.retry_period > 0:
            raise ValueError(
                f"unsafe lease timing: ttl {self.ttl:g} s must exceed renew_deadline {self.renew_deadline:g} s, "
                f"and that {JITTER:g} x retry_period {self.retry_period:g} s"
            )


def boottime() -> float:
    """Seconds on a clock that goes on while the machine is suspended, where there is one."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


class LeaderLease:
    """Competes for the leader lease in a thread of its own; `changed` is called after each gain and loss."""

    def __init__(
        self,
        redis: Redis,
        node_id: str,
        *,
        timing: LeaseTiming = LeaseTiming(),
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.token = uuid.uuid4().hex
        self._redis = redis
        self._acquire = redis.register_script(lua("acquire"))
        self._release = redis.register_script(lua("release"))
        self._node_id = node_id
        self._timing = timing
        self._changed = changed
        self._trusted_until = 0.0
        self._fence = 0
        self._was_valid = False
        self._halt = threading.Event()
        self._rests_until = 0.0
        self._thread = threading.Thread(target=self._compete, name="leader-lease", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def resign(self) -> None:
        """Stop competing and release at once; safe in a signal handler, done by the lease's thread."""
        self._halt.set()

    def step_down(self) -> None:
        """Release the lease and let others lead for two of its lifetimes; then compete again."""
        self._rests_until = boottime() + 2 * self._timing.ttl
        self._trusted_until = 0.0
        self._let_go()
        self._tell()

    def stop(self, timeout: float = 2.0) -> None:
        """Resign and wait until the lease is released."""
        self.resign()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def fence(self) -> int:
        """The term's fence while this process may believe that it leads, else 0."""
        now = boottime()
        return self._fence if self._rests_until <= now < self._trusted_until and not self._halt.is_set() else 0

    def try_once(self) -> bool:
        """One attempt to take or renew the lease. Raises RedisError when there was no answer."""
        sent_at = boottime()
        won, value = self._acquire(
            keys=[keys.LEADER, keys.GUARD],
            args=[
                "",
                self.token,
                round(self._timing.ttl * 1000),
                self._node_id,
                socket.gethostname(),
                os.getpid(),
            ],
        )
        if int(won) and boottime() < self._rests_until:
            self._let_go()  # it stepped down while this attempt was on its way
            won = 0
        if int(won):
            self._fence, self._trusted_until = int(value), sent_at + self._timing.renew_deadline
        else:
            self._trusted_until = 0.0
        return bool(int(won))

    def _compete(self) -> None:
        while not self._halt.is_set():
            try:
                if boottime() >= self._rests_until:
                    self.try_once()
            except RedisError as error:
                log.warning("no answer about the leader lease: %s", error)
            self._tell()
            # wake for the local deadline too: belief ends on time even when Redis does not answer
            period = self._timing.retry_period * random.uniform(1 / JITTER, 1)  # noqa: S311
            left = self._trusted_until - boottime()
            self._halt.wait(min(period, left) if left > 0 else period)
        held, self._trusted_until = self._trusted_until > 0, 0.0
        if held:
            self._let_go()
        self._tell()

    def _let_go(self) -> None:
        try:
            self._release(keys=[keys.LEADER], args=[self.token])
        except RedisError as error:
            log.warning("could not release the leader lease, it ends by itself: %s", error)

    def _tell(self) -> None:
        valid = self.fence() > 0
        if valid != self._was_valid:
            self._was_valid = valid
            if valid:
                log.info("this node leads now (fence %d)", self._fence)
            else:
                log.info("this node leads no more")
            self._changed()
