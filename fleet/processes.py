"""Process groups: to end one for certain, and to find what a job left running.

A group is killed as a whole and atomically: no member can fork its way out of the signal. A process that
left its group (setsid) is found by its environment, which it inherited, unless it took care to hide.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import psutil

#: Seconds that killed processes are given to disappear.
GONE_WITHIN = 2.0

_UNREADABLE = (psutil.Error, OSError)

log = logging.getLogger("backbeat.jobs")


def signal_group(pgid: int, number: signal.Signals) -> None:
    """Send a signal to a process group, if there is one. PermissionError: macOS says so of zombies."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pgid, number)


def wait_group(pgid: int) -> bool:
    """Whether a killed group, its leader reaped, is gone within GONE_WITHIN. Zombies of others do not count."""
    until = time.monotonic() + GONE_WITHIN
    while True:
        try:
            os.killpg(pgid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        members = list(_members(pgid))
        if not members or time.monotonic() > until:
            break
        time.sleep(0.01)
    if members:
        log.error("processes %s survive SIGKILL, in the kernel's hands", members)
    return not members


def kill_marked(mark: Mapping[str, str]) -> bool:
    """Kill every process whose environment holds `mark`, but not this one or its ancestors. True: there were some."""
    found = False
    until = time.monotonic() + GONE_WITHIN
    while processes := list(_marked(mark)):
        found = True
        for process in processes:
            with suppress(*_UNREADABLE):
                process.kill()
        psutil.wait_procs(processes, timeout=0.1)
        if time.monotonic() > until:
            log.error("processes %s survive SIGKILL", [process.pid for process in processes])
            break
    return found


def lower_priority(pgid: int, nice: int) -> None:
    """Make a new session's group nicer than this process, as far as the system lets us."""
    if nice == 0:
        return
    with suppress(OSError):
        os.setpriority(os.PRIO_PGRP, pgid, min(19, os.getpriority(os.PRIO_PROCESS, 0) + nice))
    with suppress(OSError):
        # where Linux groups tasks by session, niceness between sessions is the session's own
        Path(f"/proc/{pgid}/autogroup").write_text(str(nice))


def identity(pid: int) -> dict[str, float]:
    """What tells this process from a later one of the same pid. Raises psutil.Error when it is gone."""
    return {"pid": pid, "create_time": psutil.Process(pid).create_time()}


def is_leader(pid: object, create_time: object) -> bool:
    """Whether that very process lives and leads a group that is not ours."""
    if type(pid) is not int or not isinstance(create_time, int | float) or pid <= 1:
        return False
    with suppress(*_UNREADABLE, OverflowError):
        same = abs(psutil.Process(pid).create_time() - create_time) < 1
        return same and os.getpgid(pid) == pid != os.getpgrp()
    return False


def _members(pgid: int) -> Iterator[int]:
    for pid in psutil.pids():
        with suppress(*_UNREADABLE):
            if os.getpgid(pid) == pgid and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                yield pid


def _marked(mark: Mapping[str, str]) -> Iterator[psutil.Process]:
    ours = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    for pid in psutil.pids():
        with suppress(*_UNREADABLE):
            process = psutil.Process(pid)
            if pid not in ours and mark.items() <= process.environ().items():
                yield process
