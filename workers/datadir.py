"""The data directory of an `up`: who holds it, how others find it, and which processes are its own."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

LOCK, RECORD, IDENTITY = "up.lock", "up.json", "up.id"
DEFAULT = Path(".backbeat")
#: Where an `up` leaves links to its data directory, relative to the directory it was started in.
LINKS = DEFAULT / "ups"


class UpError(Exception):
    """`up` cannot start, or cannot go on; says why and what to do."""


@dataclass(frozen=True)
class Record:
    """A running `up`, as other commands find it."""

    pid: int
    created: float
    started_at: str
    redis_url: str

    @property
    def alive(self) -> bool:
        """Whether that very process still runs."""
        try:
            return abs(psutil.Process(self.pid).create_time() - self.created) < 1
        except psutil.Error:
            return False


@contextmanager
def hold(data: Path) -> Iterator[None]:
    """Hold the data directory; raises UpError saying who holds it already."""
    with (data / LOCK).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            who = lock.read().strip() or "a process that is just starting"
            raise UpError(f"{data} is in use by another `backbeat up`: {who}; stop it, or give --data") from None
        lock.truncate(0)
        lock.write(f"pid {os.getpid()} since {_clock()}\n")
        lock.flush()
        yield


def identity(data: Path) -> str:
    """What marks the processes of this directory: its id, and its inode, so that a copy is another one."""
    path = data / IDENTITY
    if not path.exists():
        _write(path, secrets.token_hex(16))
    return f"{path.read_text().strip()}.{data.stat().st_ino}"


def write_record(data: Path, url: str) -> None:
    """Let other commands find this process's cluster; only for its owner to read, for it holds the password."""
    created = psutil.Process().create_time()
    record = Record(os.getpid(), created, _clock(), url)
    _write(data / RECORD, json.dumps(asdict(record)))


def read_record(data: Path) -> Record | None:
    """The last `up` of a data directory, if it did not stop in an orderly way."""
    try:
        return Record(**json.loads((data / RECORD).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def link(data: Path, mark: str) -> Path | None:
    """Let commands that run in this directory find the data directory, unless they do without. Raises OSError."""
    if data == DEFAULT.resolve():
        return None
    path = LINKS.absolute() / mark
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(data)
    return path


def unlink(path: Path) -> None:
    """Take a link away again, and the folders that were made for it."""
    path.unlink(missing_ok=True)
    for folder in (path.parent, path.parent.parent):
        try:
            folder.rmdir()
        except OSError:  # somebody else's things are in it
            return


def found_here() -> dict[Path, Record]:
    """Each `up` that was started in this directory or keeps its data in `.backbeat`, the dead only if none lives."""
    folders = {DEFAULT.resolve(), *(path.resolve() for path in sorted(LINKS.glob("*")))}
    found = {folder: record for folder in sorted(folders) if (record := read_record(folder))}
    return {folder: record for folder, record in found.items() if record.alive} or found


def _clock() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")


def _write(path: Path, text: str) -> None:
    """Whole or not at all, and for the owner's eyes."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.touch(mode=0o600)
    part.write_text(text)
    part.replace(path)
