"""Kills a child at every step boundary of a piece of work, and at random moments.

The child is a fork of the test, so that a kill costs milliseconds. A boundary is the instant before a step that
the outside can see: a statement of SQLite, a file that is opened, renamed, linked or removed, an fsync. Audit
events and SQLite's own trace tell of them, so the work itself needs no hook. The work must open its files and
connections itself (by `sqlite3.connect`): the test holds none of them open while it forks. One step more,
`the end`, stands for a process that is killed when all is done.

    for step in killing.chosen(killing.steps(work), 20):
        killing.kill_before(work, step)
        ...  # what must hold now

"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

Work = Callable[[], Any]

#: Audit events that are steps. `os.rename` tells of os.replace too.
_EVENTS = frozenset(("os.rename", "os.remove", "os.link", "os.mkdir", "os.rmdir", "os.truncate", "shutil.copyfile"))
END = "the end"


def steps(work: Work) -> list[str]:
    """What the steps of the work are, in a child that does it to the end: its effects stay."""
    reader, writer = os.pipe()
    pid = _fork(work, lambda step: os.write(writer, f"{step[:200]}\n".encode()), reader)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read().decode(errors="replace")
    _ended(pid)
    return [*said.splitlines(), END]


def chosen(found: Sequence[str], most: int) -> list[int]:
    """The numbers of at most so many of the steps, evenly spread, the first and the end among them."""
    last = len(found) - 1
    return sorted({round(last * each / max(1, most - 1)) for each in range(most)} if last >= most else range(last + 1))


def kill_before(work: Work, step: int) -> None:
    """SIGKILL before that step, counted from 0. One that the work does not reach kills it at its end."""
    left = step

    def look(_step: str) -> None:
        nonlocal left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    def worked() -> None:
        work()
        os.kill(os.getpid(), signal.SIGKILL)

    _ended(_fork(worked, look), signal.SIGKILL)


def duration(work: Work) -> float:
    """Seconds that a child takes for the work; its effects stay."""
    began = time.perf_counter()
    _ended(_fork(work))
    return time.perf_counter() - began


def kill_within(work: Work, seconds: float, seed: int) -> bool:
    """Kill at a random moment of the first so many seconds. Whether it came before the work was done."""

    def timed() -> None:
        # the default action of SIGALRM ends the process wherever it stands, as SIGKILL does
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, max(1e-4, random.Random(seed).uniform(0, seconds)))
        work()

    return _ended(_fork(timed), signal.SIGALRM)


def _fork(work: Work, look: Callable[[str], Any] | None = None, *unwanted: int) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if not pid:
        _child(work, look, unwanted)
    return pid


def _child(work: Work, look: Callable[[str], Any] | None, unwanted: Sequence[int]) -> NoReturn:
    code = 1
    try:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for descriptor in unwanted:
            os.close(descriptor)
        if look is not None:
            _watch(look)
        work()
        code = 0
    except BaseException:  # noqa: BLE001 - the child must not go on as the test
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _watch(look: Callable[[str], Any]) -> None:
    """Tell of every step from now on; a hook stays for ever, and this process is ours."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _EVENTS or (event == "open" and arguments[1] is not None and set("wax+") & set(arguments[1])):
            look(f"{event} {arguments[0]}")

    for name in ("fsync", "fdatasync"):
        setattr(os, name, _told(getattr(os, name), name, look))
    real = sqlite3.connect

    def connect(*arguments: Any, **named: Any) -> sqlite3.Connection:
        db = real(*arguments, **named)
        db.set_trace_callback(look)
        return db

    setattr(sqlite3, "connect", connect)  # noqa: B010 - mypy knows it for a class of overloads
    sys.addaudithook(hook)


def _told(function: Callable[[int], None], name: str, look: Callable[[str], Any]) -> Callable[[int], None]:
    def told(descriptor: int) -> None:
        look(name)
        function(descriptor)

    return told


def _ended(pid: int, expected: int = 0) -> bool:
    """Whether it was killed by the signal that was meant for it, after it has ended; fails when by anything else."""
    _, status = os.waitpid(pid, 0)
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    assert number in (0, expected), f"the child ended by signal {number}"
    assert number or os.WEXITSTATUS(status) == 0, "the child failed; its error stands above"
    assert number or expected != signal.SIGKILL, "the child was not killed"
    return number != 0
