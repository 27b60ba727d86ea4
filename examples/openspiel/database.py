"""An SQLite file that several processes of a node write to at once.

Whatever is killed and whenever, the file holds whole transactions only. It must lie on a local disk
(SQLite's WAL does not work over network file systems); after a power cut the last few transactions may be
missing, never half.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

#: how long a write waits for another process's write
BUSY_SECONDS = 10.0


class StoreError(Exception):
    """The file could not be read or written; the message names it and the cause."""


class Database:
    """Opens a file, and makes it with its tables when it is missing. Close it, or use it in a `with`.

    Every method raises StoreError.
    """

    def __init__(self, path: Path, schema: str) -> None:
        self.path, self._schema = path, schema
        self._open()

    def is_moved(self) -> bool:
        """Whether the file that is open is no longer the one at `path`: somebody has set it aside."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return True
        return (found.st_dev, found.st_ino) != self._opened

    def reopen(self) -> None:
        """Open what is at `path` now, and make it when it is missing."""
        self.close()
        self._open()

    def _open(self) -> None:
        with self.clear_errors():
            self.connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
            try:
                self._use_wal()
                self.connection.execute("PRAGMA synchronous = NORMAL")
                self.connection.executescript(self._schema)
                found = self.path.stat()
            except BaseException:
                self.connection.close()
                raise
        self._opened = (found.st_dev, found.st_ino)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All that is written in it, or nothing."""
        with self.clear_errors():
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield self.connection
                self.connection.execute("COMMIT")
            finally:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")

    def close(self) -> None:
        with self.clear_errors():
            self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _use_wal(self) -> None:
        # SQLite does not wait for other processes in this one step, whatever the timeout: when several
        # processes open a new file at once, all but one may be told that it is busy.
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                self.connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    @contextmanager
    def clear_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            cause = str(error)
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code == sqlite3.SQLITE_CANTOPEN and not os.access(self.path.parent, os.W_OK):
                cause += " (its folder cannot be written to)"
            raise StoreError(f"{self.path}: {cause}") from error
