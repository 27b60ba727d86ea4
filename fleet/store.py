"""The store: where nodes leave what others fetch, by keys such as `blobs/3f/3fa9...`.

What is under a key is whole or not there at all, and what is fetched is checked against the size and the
SHA-256 that were said of it before it becomes visible here. Nothing is promised of who may write: whoever
reaches the store can, so nothing in it is believed unchecked.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field

from fleet.store_place import (
    CHUNK,
    Corrupt,
    Directory,
    Entry,
    Pace,
    Place,
    Remote,
    Stopped,
    StoreUnavailable,
    compare,
    copy,
    make_folder,
    sync_folder,
)

__all__ = ["Corrupt", "Entry", "NoRoom", "Pace", "Stopped", "Store", "StoreOptions", "StoreUnavailable", "check_key"]

GIB = 1 << 30
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+=-]{0,199}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_KEY_LIMIT = 900


class NoRoom(StoreUnavailable):
    """The disk that something should go to has too little room for it."""


class StoreOptions(BaseModel):
    """Where models and games are kept for the whole cluster."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str | None = Field(default=None, min_length=1, description="a directory, or an address such as s3://bucket")
    options: dict[str, Any] = Field(default={}, repr=False, description="what fsspec's driver for that address takes")
    max_size: int = Field(default=8 * GIB, gt=0, description="bytes; what claims to be larger is not fetched")
    min_free: int = Field(default=GIB, ge=0, description="bytes that stay free on every disk that something goes to")

    def open(self, url: str | None = None) -> Store | None:
        """The store, at `url` in place of its own; None when there is none. Raises as Store does."""
        where = url or self.url
        return Store(where, self.options, max_size=self.max_size, min_free=self.min_free) if where else None


def check_key(key: str) -> str:
    """The key, if it is one; else raise ValueError. It becomes a path on machines that never saw who made it."""
    if len(key) > _KEY_LIMIT or not all(_PART.fullmatch(part) for part in key.split("/")):
        raise ValueError(
            f"{key[:100]!r} is no key of a store: use parts of letters, digits and _.@+=-, none beginning with a dot, "
            "with / between them"
        )
    return key


class Store:
    """A directory, as a path or file://, or anything that fsspec has a driver for. Threads may share it.

    `options` are the driver's. What claims more than `max_size` bytes is refused, and so is what would leave
    less than `min_free` bytes on a disk. Raises ValueError for an address of no known form, StoreUnavailable
    when the driver is not installed; nothing is connected before it is needed.
    """

    def __init__(
        self, url: str, options: Mapping[str, Any] | None = None, *, max_size: int = 8 * GIB, min_free: int = 0
    ) -> None:
        self.url, self.shown = url, redact(url)
        password = urlsplit(url).password or ""
        self._secrets = [text for text in (password, unquote(password), *_secrets(options or {})) if text]
        self._place = _place(url, options or {}, self.shown)
        self._max_size, self._min_free = max_size, min_free

    def __repr__(self) -> str:
        return f"Store({self.shown!r})"

    def put(self, source: Path, key: str, *, sha256: str | None = None, pace: Pace | None = None) -> int:
        """Leave a file under a key: whole or not at all, over what was there. Returns the bytes moved.

        A file above `max_size`, or with other contents than `sha256` says, is Corrupt. Raises StoreUnavailable
        (NoRoom, Stopped).
        """
        pace = pace or Pace()
        pace.check()
        before = pace.moved
        size = source.stat().st_size
        with self._telling(check_key(key)):
            if size > self._max_size:
                raise Corrupt(f"has {size} bytes; the store's max_size allows {self._max_size}")
            self._check_room_there(size)
            self._place.upload(source, key, pace, sha256)
        return pace.moved - before

    def write(self, key: str, data: bytes) -> None:
        """Leave a small document under a key: whole or not at all, over what was there."""
        with self._telling(check_key(key)):
            self._check_room_there(len(data))
            self._place.keep(data, key)

    def read(self, key: str, limit: int) -> bytes:
        """A small document. More than `limit` bytes are Corrupt; an absent one is FileNotFoundError."""
        with self._telling(check_key(key)), self._place.reader(key) as file:
            data = file.read(limit + 1)
            if len(data) > limit:
                raise Corrupt(f"is longer than the {limit} bytes that such a document may have")
            return data

    def get(self, key: str, target: Path, *, size: int, sha256: str, pace: Pace | None = None) -> int:
        """Fetch what is said to have that size and SHA-256. Returns the bytes moved.

        `target` appears when all of it is here, checked and synced; until then it grows as `<target>.part`,
        from which the next call goes on. A part that does not lead to the right contents is begun anew, once.
        Raises Corrupt, FileNotFoundError, or StoreUnavailable: NoRoom before anything is written, Stopped,
        or because another call is fetching into the same target.
        """
        pace = pace or Pace()
        pace.check()
        before = pace.moved
        part = target.with_name(target.name + ".part")
        with self._telling(check_key(key)):
            self._check_claim(size, sha256)
            make_folder(target.parent)
            with _locked(part) as file:
                try:
                    self._fill(file, key, part, size, sha256, pace)
                    os.fsync(file.fileno())
                except BaseException as error:
                    if isinstance(error, Corrupt) or _is_full(error) or not os.fstat(file.fileno()).st_size:
                        part.unlink()
                    raise
                part.replace(target)
            sync_folder(target.parent)
        return pace.moved - before

    def entry(self, key: str) -> Entry | None:
        """What is under a key; None: nothing."""
        with self._telling(check_key(key)):
            try:
                return self._place.entry(key)
            except (FileNotFoundError, NotADirectoryError):
                return None

    def list(self, prefix: str) -> list[Entry]:
        """Everything under a folder of keys, by key. Names that are no keys are left out: nobody can ask for them."""
        with self._telling(check_key(prefix.rstrip("/"))):
            return sorted(filter(_is_key, self._place.entries(prefix.rstrip("/"))), key=lambda entry: entry.key)

    def delete(self, key: str) -> None:
        """Take a key away; one that is absent is fine."""
        with self._telling(check_key(key)):
            self._place.delete(key)

    def free(self) -> int | None:
        """Bytes left for all; None where that cannot be told."""
        with self._telling("free space"):
            return self._place.free()

    def sweep(self, older_than: float) -> int:
        """Take away uploads that grew no more for so many seconds: their process died. Returns how many."""
        with self._telling("uploads"):
            return self._place.sweep(older_than)

    def _check_claim(self, size: int, sha256: str) -> None:
        if not 0 <= size <= self._max_size:
            raise Corrupt(f"claims {size} bytes; the store's max_size allows {self._max_size}")
        if not _SHA256.fullmatch(sha256):
            raise Corrupt(f"claims the SHA-256 {sha256[:80]!r}, which is none")

    def _check_room_there(self, size: int) -> None:
        free = self._place.free()
        if free is not None and free < size + self._min_free:
            raise NoRoom(f"{size} bytes do not fit: {free} are free there, and min_free keeps {self._min_free} of them")

    def _fill(self, file: BinaryIO, key: str, part: Path, size: int, sha256: str, pace: Pace) -> None:
        """Make the part whole and right."""
        here = os.fstat(file.fileno()).st_size
        if here > size:
            here = _emptied(file)
        free = shutil.disk_usage(part.parent).free
        if free < size - here + self._min_free:
            raise NoRoom(
                f"{size - here} bytes do not fit in {part.parent}: {free} are free, "
                f"and min_free keeps {self._min_free} of them"
            )
        try:
            self._go_on(file, key, here, size, sha256, pace)
        except Corrupt:
            if not here:
                raise
            self._go_on(file, key, _emptied(file), size, sha256, pace)

    def _go_on(self, file: BinaryIO, key: str, here: int, size: int, sha256: str, pace: Pace) -> None:
        digest = hashlib.sha256()
        file.seek(0)
        while file.tell() < here:
            digest.update(file.read(min(CHUNK, here - file.tell())))
            pace.check()
        with self._place.reader(key) as source:
            source.seek(here)
            copy(source, file.write, size - here, pace, digest)
        compare(digest, sha256)
        file.flush()

    @contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        """Say of every error which store and key it is about, and no password."""
        try:
            yield
        except (Stopped, NoRoom, Corrupt) as error:
            raise type(error)(f"{what} in {self.shown}: {error}") from error
        except FileNotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, f"not in the store {self.shown}", what) from error
        except Exception as error:  # drivers raise whatever their libraries do
            raise (NoRoom if _is_full(error) else StoreUnavailable)(
                f"{what} in {self.shown}: {self._without_secrets(error)}"
            ) from error

    def _without_secrets(self, error: Exception) -> str:
        text = (str(error) or type(error).__name__).replace(self.url, self.shown)
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def redact(url: str) -> str:
    """An address fit for logs: without password and query."""
    url = re.sub(r"(://[^:/@]*):[^/]*@", r"\1:***@", url)
    return url.partition("?")[0] if "://" in url else url


def _place(url: str, options: Mapping[str, Any], shown: str) -> Place:
    protocol, separator, path = url.partition("://")
    if not separator or protocol in ("file", "local"):
        return Directory(Path(unquote(path) if separator else url).expanduser().absolute())
    from fsspec.registry import get_filesystem_class

    try:
        get_filesystem_class(protocol)
    except ImportError as error:
        package = getattr(error.__cause__, "name", None) or protocol
        raise StoreUnavailable(
            f"the store {shown} needs a driver for {protocol}, which is not installed: {error} (missing: {package})"
        ) from error
    except ValueError as error:
        raise ValueError(f"{shown!r} is no store: fsspec knows no protocol {protocol!r}") from error
    return Remote(url, options, protocol)


def _secrets(options: Mapping[str, Any]) -> Iterator[str]:
    """Values of a driver's options that its errors must not show."""
    for name, value in options.items():
        if isinstance(value, Mapping):
            yield from _secrets(value)
        elif isinstance(value, str) and re.search(r"secret|password|passphrase|token|key", name, re.IGNORECASE):
            yield value


def _is_key(entry: Entry) -> bool:
    with suppress(ValueError):
        check_key(entry.key)
        return True
    return False


def _is_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _emptied(file: BinaryIO) -> int:
    file.seek(0)
    file.truncate()
    return 0


@contextmanager
def _locked(part: Path) -> Iterator[BinaryIO]:
    """The part of a transfer, this call's alone."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    with os.fdopen(os.open(part, flags, 0o644), "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            same = os.path.samestat(os.fstat(file.fileno()), part.stat())
        except OSError:
            same = False
        if not same:  # another call holds it, or has just made it the target
            raise StoreUnavailable(f"another transfer into {part.parent} is under way")
        yield file
