"""Where a store keeps its bytes: a directory, or whatever fsspec has a driver for.

Both answer to the same few calls, and leave checking of keys, sizes and contents to `fleet.store`. What
they promise of an upload differs, and is said at each.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from threading import Event
from typing import Any, BinaryIO, Protocol

#: Bytes moved between two looks at the clock.
CHUNK = 1 << 20
#: The folder of a store where uploads grow until they are whole; its name is no part of a key.
INCOMING = ".incoming"
#: Protocols whose uploads appear under their name only when they are whole. On others they are renamed.
WHOLE_AT_ONCE = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "adl", "oci", "oss", "tos"})


class StoreUnavailable(Exception):
    """The store, or this machine's disk, could not do it now; another time it may."""


class Stopped(StoreUnavailable):
    """A transfer was stopped, by its deadline or by whoever asked for it. What has arrived stays for the next one."""


class Corrupt(Exception):
    """What the store holds is not what was said of it. Nothing of it is visible."""


@dataclass(frozen=True)
class Entry:
    """What a store holds under a key: bytes, and when it was put there (seconds since the epoch), if that is known."""

    key: str
    size: int
    modified: float | None


@dataclass
class Pace:
    """How long a transfer may go on: to `until` on the monotonic clock, unless `cancel` is set. `moved` is in bytes."""

    until: float | None = None
    cancel: Event | None = None
    moved: int = field(default=0, init=False)

    def step(self, count: int) -> None:
        """So many bytes more have moved. Raises Stopped when it is enough."""
        self.moved += count
        self.check()

    def check(self) -> None:
        """Raise Stopped when it is enough."""
        if self.cancel is not None and self.cancel.is_set():
            raise Stopped(f"cancelled after {self.moved} bytes")
        if self.until is not None and time.monotonic() > self.until:
            raise Stopped(f"out of time after {self.moved} bytes")


class Place(Protocol):
    """What a store needs of where it is. A key that is not there: FileNotFoundError."""

    def entry(self, key: str) -> Entry: ...

    def entries(self, prefix: str) -> Iterator[Entry]: ...

    def reader(self, key: str) -> BinaryIO: ...

    def upload(self, source: Path, key: str, pace: Pace, sha256: str | None) -> None: ...

    def keep(self, data: bytes, key: str) -> None: ...

    def delete(self, key: str) -> None: ...

    def sweep(self, older_than: float) -> int: ...

    def free(self) -> int | None: ...


def copy(source: BinaryIO, write: Callable[[bytes], object], size: int, pace: Pace, digest: Any = None) -> None:
    """Copy `size` bytes. Raises Corrupt when the source has fewer, or more."""
    left = size
    while left:
        if not (chunk := source.read(min(CHUNK, left))):
            raise Corrupt(f"ends {left} bytes before its {size}")
        write(chunk)
        if digest is not None:
            digest.update(chunk)
        left -= len(chunk)
        pace.step(len(chunk))
    if source.read(1):
        raise Corrupt(f"is longer than its {size} bytes")


def compare(digest: Any, sha256: str | None) -> None:
    """Raise Corrupt unless the contents are those expected."""
    if sha256 is not None and digest.hexdigest() != sha256:
        raise Corrupt(f"has the SHA-256 {digest.hexdigest()}, not {sha256}")


def open_regular(path: Path) -> BinaryIO:
    """A file for reading. Others are Corrupt: opening a pipe would wait for ever, and a link leads anywhere."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError as error:
        if path.is_symlink():
            raise Corrupt("is a link") from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Corrupt("is no plain file")
    return os.fdopen(descriptor, "rb")


def sync_folder(folder: Path) -> None:
    """Make what was renamed in a folder outlast a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """A folder and those above it, there to stay."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for each in reversed(missing):
        each.mkdir(exist_ok=True)
        sync_folder(each.parent)


def _unless_absent(error: OSError) -> None:
    """A folder that nobody made yet holds nothing; one that cannot be read is another matter."""
    if not isinstance(error, FileNotFoundError):
        raise error


@dataclass(frozen=True)
class Directory:
    """A folder of this machine, or one that it has mounted.

    An upload is written beside its place, synced, renamed and synced again: whole or not at all, through a
    power cut too. On a network file system the promise is as good as its own rename and sync.
    """

    root: Path

    def entry(self, key: str) -> Entry:
        found = (self.root / key).lstat()
        if not stat.S_ISREG(found.st_mode):
            raise FileNotFoundError(key)
        return Entry(key, found.st_size, found.st_mtime)

    def entries(self, prefix: str) -> Iterator[Entry]:
        for folder, _, names in os.walk(self.root / prefix, onerror=_unless_absent):
            for name in names:
                with suppress(FileNotFoundError):  # deleted since
                    yield self.entry(str((Path(folder) / name).relative_to(self.root)))

    def reader(self, key: str) -> BinaryIO:
        return open_regular(self.root / key)

    def upload(self, source: Path, key: str, pace: Pace, sha256: str | None) -> None:
        with open_regular(source) as file:
            self._grow(file, os.fstat(file.fileno()).st_size, key, pace, sha256)

    def keep(self, data: bytes, key: str) -> None:
        self._grow(io.BytesIO(data), len(data), key, Pace(), None)

    def _grow(self, source: BinaryIO, size: int, key: str, pace: Pace, sha256: str | None) -> None:
        target, growing = self.root / key, self.root / INCOMING / uuid.uuid4().hex
        make_folder(growing.parent)
        digest = hashlib.sha256()
        try:
            with growing.open("xb") as file:
                copy(source, file.write, size, pace, digest)
                compare(digest, sha256)
                file.flush()
                os.fsync(file.fileno())
            make_folder(target.parent)
            growing.replace(target)
        except BaseException:
            growing.unlink(missing_ok=True)
            raise
        sync_folder(target.parent)

    def delete(self, key: str) -> None:
        (self.root / key).unlink(missing_ok=True)

    def sweep(self, older_than: float) -> int:
        swept = 0
        for left in (self.root / INCOMING).glob("*"):
            with suppress(FileNotFoundError):
                if time.time() - left.lstat().st_mtime > older_than:
                    left.unlink()
                    swept += 1
        return swept

    def free(self) -> int | None:
        folder = self.root
        while not folder.exists():
            folder = folder.parent
        return shutil.disk_usage(folder).free


@dataclass
class Remote:
    """Anything else, through fsspec's driver for the protocol.

    An object store (WHOLE_AT_ONCE) shows an upload when it is whole. On the others (sftp, smb, memory, ...)
    it grows beside its place and is renamed; how well that outlasts a power cut is the other machine's matter.
    The driver's own timeouts bound a call that hangs: give them with the store's options.
    """

    url: str
    options: Mapping[str, Any]
    protocol: str
    _opened: tuple[Any, str] | None = field(default=None, init=False, repr=False)

    @property
    def _system(self) -> Any:
        """fsspec's file system; made when it is first needed, since some connect at once."""
        return self._open()[0]

    def _path(self, key: str) -> str:
        return f"{self._open()[1]}/{key}" if key else self._open()[1]

    def _open(self) -> tuple[Any, str]:
        if self._opened is None:
            from fsspec.core import url_to_fs

            system, root = url_to_fs(self.url, use_listings_cache=False, **self.options)
            self._opened = (system, root.rstrip("/"))
        return self._opened

    def entry(self, key: str) -> Entry:
        info = self._system.info(self._path(key))
        if info["type"] != "file":
            raise FileNotFoundError(key)
        return Entry(key, int(info["size"]), _modified(info))

    def entries(self, prefix: str) -> Iterator[Entry]:
        self._system.invalidate_cache()
        top = self._path("").lstrip("/") + "/"
        try:
            found: Mapping[str, Any] = self._system.find(self._path(prefix), detail=True)
        except FileNotFoundError:
            return
        for path, info in found.items():
            key = path.lstrip("/").removeprefix(top)
            if info["type"] == "file":
                yield Entry(key, int(info["size"]), _modified(info))

    def reader(self, key: str) -> BinaryIO:
        file: BinaryIO = self._system.open(self._path(key), "rb")
        return file

    def upload(self, source: Path, key: str, pace: Pace, sha256: str | None) -> None:
        with open_regular(source) as file:
            size = os.fstat(file.fileno()).st_size
            if self.protocol in WHOLE_AT_ONCE:
                digest = hashlib.sha256()
                copy(file, digest.update, size, Pace(pace.until, pace.cancel))
                compare(digest, sha256)
                self._put(source, size, key, pace)
            else:
                self._put_and_rename(file, size, key, pace, sha256)

    def keep(self, data: bytes, key: str) -> None:
        if self.protocol in WHOLE_AT_ONCE:
            self._system.pipe_file(self._path(key), data)
        else:
            self._put_and_rename(io.BytesIO(data), len(data), key, Pace(), None)

    def _put(self, source: Path, size: int, key: str, pace: Pace) -> None:
        """Closing a file that is half written would show that half, so the driver uploads all of it itself."""
        from fsspec.callbacks import Callback

        class Steps(Callback):
            def relative_update(self, inc: int = 1) -> None:
                pace.step(inc)

        self._system.put_file(str(source), self._path(key), callback=Steps())
        self._check_size(self._path(key), size)

    def _put_and_rename(self, source: BinaryIO, size: int, key: str, pace: Pace, sha256: str | None) -> None:
        growing, target = self._path(f"{INCOMING}/{uuid.uuid4().hex}"), self._path(key)
        self._system.makedirs(growing.rpartition("/")[0], exist_ok=True)
        digest = hashlib.sha256()
        try:
            with self._system.open(growing, "wb") as file:
                copy(source, file.write, size, pace, digest)
            compare(digest, sha256)
            self._check_size(growing, size)
            self._system.makedirs(target.rpartition("/")[0], exist_ok=True)
            self._system.mv(growing, target)
        except BaseException:
            with suppress(Exception):  # the first error is the one to tell; `sweep` takes what stays
                self._system.rm_file(growing)
            raise

    def _check_size(self, path: str, size: int) -> None:
        self._system.invalidate_cache()
        if (arrived := int(self._system.info(path)["size"])) != size:
            raise StoreUnavailable(f"{arrived} of {size} bytes arrived")

    def delete(self, key: str) -> None:
        with suppress(FileNotFoundError):
            self._system.rm_file(self._path(key))

    def sweep(self, older_than: float) -> int:
        self._system.invalidate_cache()
        swept = 0
        with suppress(FileNotFoundError):
            for path, info in self._system.find(self._path(INCOMING), detail=True).items():
                modified = _modified(info)
                if modified is not None and time.time() - modified > older_than:
                    self._system.rm_file(path)
                    swept += 1
        return swept

    def free(self) -> int | None:
        return None


def _modified(info: Mapping[str, Any]) -> float | None:
    """An instant, as the drivers tell it."""
    for name in ("mtime", "LastModified", "last_modified", "updated", "modified", "created"):
        value = info.get(name)
        if isinstance(value, int | float):
            return float(value)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, str):
            with suppress(ValueError):
                return datetime.fromisoformat(value).timestamp()
    return None
