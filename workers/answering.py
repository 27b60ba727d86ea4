"""A process answers probes about itself: does its main loop turn, and does it do what it is there for?

    live   its main loop has turned lately. The server may be away: a restart would not bring it back.
    ready  it is live, the server hears it, and it takes what it is there to take. One that ends is not ready.

The answers are made when somebody asks, by a thread on a socket in the run directory, so a process that is
frozen or gone answers nothing, and no file can go on saying what was true once. Who owns the lock beside the socket
answers; a second process of the same role waits for it, so it cannot speak for the first one.
"""

from __future__ import annotations

import fcntl
import logging
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workers.lease import boottime
from workers.mainloop import MAIN_LOOP, MainLoop
from workers.probe import PATIENCE, reachable

if TYPE_CHECKING:
    from workers.presence import Presence

log = logging.getLogger("backbeat.answering")

#: Seconds without a turn of the main loop after which a process is not live. Its blocking calls all end sooner.
TURNS_WITHIN = 60.0
#: Seconds without a turn after which it is not ready.
TURNS_SOON = 10.0
#: Seconds without the server's word on a heartbeat (sent every 5), a poll of beat (every 0.5) or a look for messages
#: (every 1) after which a process is not ready.
HEARD_WITHIN = 15.0
POLLED_WITHIN = 5.0
LOOKED_WITHIN = 8.0
#: Seconds until a place that another process holds, or a directory that cannot be written, is tried again.
TRY_AGAIN = 5.0


class NotReady(Exception):
    """Why a process is not ready."""


@dataclass(frozen=True)
class Answers:
    """Both questions, answered. `ready` says what a process does, or raises NotReady."""

    ready: Callable[[], str]
    main_loop: MainLoop = MAIN_LOOP

    def live(self) -> tuple[bool, str]:
        idle = self.main_loop.idle_for()
        if self.main_loop.ends:
            return True, "it ends"
        if idle > TURNS_WITHIN:
            return False, f"its main loop has not turned for {idle:.0f} s"
        return True, f"its main loop turned {idle:.1f} s ago"

    def is_ready(self) -> tuple[bool, str]:
        if self.main_loop.ends:
            return False, "it ends"
        if (idle := self.main_loop.idle_for()) > TURNS_SOON:
            return False, f"its main loop has not turned for {idle:.0f} s"
        try:
            return True, self.ready()
        except NotReady as reason:
            return False, str(reason)
        except Exception as error:  # noqa: BLE001 - read while another thread changes it: what cannot be told is a no
            return False, f"{type(error).__name__}: {error}"

    def text(self) -> str:
        lines = (("live", self.live()), ("ready", self.is_ready()))
        return "".join(
            f"{asked} {'yes' if yes else 'no'} {' '.join(reason.split())}\n" for asked, (yes, reason) in lines
        )


class Answering:
    """Answers probes about one role of this process, in a thread of its own, from now until the process ends."""

    def __init__(self, folder: Path, role: str, ready: Callable[[], str]) -> None:
        self._path, self._lock = folder / f"{role}.sock", folder / f"{role}.lock"
        self._answers = Answers(ready)
        self._thread = threading.Thread(target=self._run, name=f"probes-{role}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        told = False
        while True:
            try:
                server, lock = self._open()
            except OSError as error:
                if not told:
                    log.warning("probes are not answered at %s: %s", self._path, error)
                told = True
                time.sleep(TRY_AGAIN)
                continue
            with lock, server:
                self._serve(server)

    def _open(self) -> tuple[socket.socket, Any]:
        """Listen in this role's place. Raises OSError when another process has it."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        lock = self._lock.open("a")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._path.unlink(missing_ok=True)  # whoever left it is gone, for the lock is free
            server = socket.socket(socket.AF_UNIX)
            try:
                with reachable(self._path) as short:
                    server.bind(short)
                server.listen(16)
                server.settimeout(None)  # Celery's beat sets a default of 30 s
            except OSError:
                server.close()
                raise
        except BlockingIOError:
            lock.close()
            raise OSError("another process answers there") from None
        except OSError:
            lock.close()
            raise
        return server, lock

    def _serve(self, server: socket.socket) -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError as error:
                log.warning("probes: %s", error)
                return
            with client:
                client.settimeout(PATIENCE)
                try:
                    client.sendall(self._answers.text().encode())
                except OSError as error:
                    log.debug("a probe that did not wait: %s", error)


def worker_is_ready(consumer: Any, presence: Presence | None, wanted: set[str]) -> str:
    """What a worker does that consumes the wanted queues. Raises NotReady.

    Consuming is not what the worker was told, but what it does: the queues of which it asks the server for
    messages, about every second, unless all of its slots are taken.
    """
    if consumer.task_consumer is None:
        raise NotReady("it has no connection to the server")
    if presence is None or presence.heard_at is None:
        raise NotReady("the server has not heard it yet")
    if (silent := boottime() - presence.heard_at) > HEARD_WITHIN:
        raise NotReady(f"the server has not heard it for {silent:.0f} s")
    channel = consumer.task_consumer.channel
    if missing := sorted(wanted - set(channel.active_queues)):
        raise NotReady(f"it does not consume {', '.join(missing)}")
    if not channel.qos.can_consume():
        return "all of its slots are taken"
    asked_at = channel._brpop_sent_at
    if asked_at is None or (waits := time.monotonic() - asked_at) > LOOKED_WITHIN:
        raise NotReady("it has not looked for messages" + ("" if asked_at is None else f" for {waits:.0f} s"))
    return f"it consumes {', '.join(sorted(wanted))}" if wanted else "it drains, as it was asked to"


def beat_is_ready(polled_at: float | None, active: bool) -> str:
    """What a beat replica does that polled the timetable then. Raises NotReady."""
    if polled_at is None:
        raise NotReady("it has not polled the timetable yet")
    if (silent := boottime() - polled_at) > POLLED_WITHIN:
        raise NotReady(f"the timetable has not answered for {silent:.0f} s")
    return "it is active" if active else "it stands by"
