"""A folder for files on their way: one process's at a time, and empty when nobody is at it, but for parts."""

from __future__ import annotations

import fcntl
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_LOCK = "lock"
#: Seconds for which the part of a file that was being fetched stays, so that it can be gone on with.
KEPT = 86_400.0


@contextmanager
def alone(folder: Path) -> Iterator[Path | None]:
    """The folder, emptied of what a crash left; None while another call has it. It is empty again afterwards, but for
    parts of files that were being fetched."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        _empty(folder)
        try:
            yield folder
        finally:
            _empty(folder)


def _empty(folder: Path) -> None:
    for left in folder.iterdir():
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left)
        elif left.name != _LOCK:
            with suppress(FileNotFoundError):
                if left.suffix != ".part" or time.time() - left.stat().st_mtime > KEPT:
                    left.unlink()
