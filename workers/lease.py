"""The leader lease: who may act for the whole cluster, and until when this process may believe it.

    vacant --acquire--> held --renew--> held --(no answer until the deadline)--> lost, locally
                          |--SIGTERM: release at once--> vacant

The holder's thread renews it every second; its own belief ends `renew_deadline` after the last
renewal that it *sent*, earlier than the lease itself, and on CLOCK_BOOTTIME, so that a suspended
machine wakes up without it. The others do not ask all the time: they listen for the holder to let go,
and look when the lease as they last saw it would end. What this does not promise: that a paused process
never acts late. That is what the fence is for, at every write.
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
from redis.client import PubSub
from redis.exceptions import NoPermissionError

from workers import keys
from workers.ledger import lua

log = logging.getLogger("backbeat.lease")

#: A renewal must get at least this share of retries into the deadline, as in client-go's leaderelection.
JITTER = 1.2
#: Seconds between two looks at whether this process still competes, while it listens.
LISTEN_FOR = 0.25


@dataclass(frozen=True)
class LeaseTiming:
    """Seconds. Refused unless ttl > renew_deadline > 2.4 x retry_period, or nobody could lead safely.

    A holder renews every other `retry_period`; a renewal that failed is tried again after one.
    """

    ttl: float = 4.0
    renew_deadline: float = 2.7
    retry_period: float = 0.5

    def __post_init__(self) -> None:
        if not self.ttl > self.renew_deadline > 2 * JITTER * self.retry_period > 0:
            raise ValueError(
                f"unsafe lease timing: ttl {self.ttl:g} s must exceed renew_deadline {self.renew_deadline:g} s, "
                f"and that {2 * JITTER:g} x retry_period {self.retry_period:g} s"
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
        self._ear: PubSub | None = None
        self._may_listen = True
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
        sure = False
        while not self._halt.is_set():
            period = self._timing.retry_period * random.uniform(1 / JITTER, 1)  # noqa: S311
            try:
                if boottime() >= self._rests_until:
                    self._listen()  # before the look: what is let go after it is heard of
                    if sure and (ends_in := self._ends_in()):
                        period = ends_in + period / 10
                    elif self.try_once():
                        period *= 2  # a failed renewal is tried again in half the time
                    sure = True
            except RedisError as error:
                log.warning("no answer about the leader lease: %s", error)
                self._hang_up()
                sure = False  # the lease may be this one's by now
            self._tell()
            # wake for the local deadline too: belief ends on time even when Redis does not answer
            left = self._trusted_until - boottime()
            if left > 0:
                self._halt.wait(min(period, left))
            else:
                self._stand_by(period)
        self._hang_up()
        held, self._trusted_until = self._trusted_until > 0, 0.0
        if held:
            self._let_go()
        self._tell()

    def _ends_in(self) -> float:
        """Seconds until the lease of another ends if nobody renews it; 0 when it is worth a try."""
        if self._trusted_until > 0:
            return 0.0
        left = self._redis.pttl(keys.LEADER) / 1000
        # one that ends later than any can was given before the server's clock went back
        return left if 0 < left <= self._timing.ttl else 0.0

    def _listen(self) -> None:
        """Unless it leads itself: then a renewal is not to wait for this."""
        if self._ear is not None or not self._may_listen or self._trusted_until > boottime():
            return
        self._ear = self._redis.pubsub()  # type: ignore[no-untyped-call]
        try:
            self._ear.subscribe(keys.LEADER)
            self._ear.get_message(timeout=self._timing.retry_period)  # the server's word that it has subscribed
        except NoPermissionError:
            log.warning(
                "this user of the server may not listen on %s, so the lease is looked at every %g s; to allow it: "
                "ACL SETUSER <user> &%s",
                *(keys.LEADER, self._timing.retry_period, keys.LEADER),
            )
            self._hang_up()
            self._may_listen = False

    def _hang_up(self) -> None:
        if self._ear is not None:
            self._ear.close()
            self._ear = None

    def _stand_by(self, seconds: float) -> None:
        """Wait so long, or until the holder lets go. Should that message get lost, the lease ends by itself."""
        until = boottime() + seconds
        while not self._halt.is_set() and (left := until - boottime()) > 0:
            if self._ear is None:
                self._halt.wait(min(left, self._timing.retry_period))
                return
            try:
                if self._ear.get_message(timeout=min(left, LISTEN_FOR)):
                    return
            except RedisError as error:
                log.warning("cannot hear when the leader lets go: %s", error)
                self._hang_up()

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
