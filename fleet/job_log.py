"""What a job prints: its beginning and its end in a file that cannot fill the disk, its last lines at hand."""

from __future__ import annotations

import codecs
import errno
import logging
import os
import stat
from collections import deque
from dataclasses import dataclass
from pathlib import Path

#: Bytes kept of one attempt's output: as much of its beginning, as it comes; and of its end, when it is over.
HEAD_LIMIT = 7 * 1024 * 1024
TAIL_LIMIT = 1024 * 1024
#: Of the end, what goes into an error.
ERROR_LINES, ERROR_BYTES = 10, 2048
#: Bytes of the last line of stdout that are kept.
LINE_LIMIT = 128 * 1024
#: Bytes of a log that are read at once.
READ_LIMIT = 64 * 1024

log = logging.getLogger("backbeat.jobs")


class JobLog:
    """Appends to a job's log file. Raises OSError when that cannot be begun; a disk that fills up later only
    costs what does not fit."""

    def __init__(self, path: Path, header: str) -> None:
        self._path = path
        # A job may have put a pipe in the place of its log: never wait for its reader.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC
        self._file: int | None = os.open(path, flags, 0o644)
        try:
            os.write(self._file, header.encode(errors="replace"))
        except OSError:
            os.close(self._file)
            raise
        self._room = HEAD_LIMIT
        self._tail: deque[bytes] = deque()
        self._tail_size = 0
        self._left_out = 0
        self._last = b""
        self._line = b""

    def feed(self, chunk: bytes, *, stdout: bool) -> None:
        """Take what the job printed."""
        self._last = (self._last + chunk)[-2 * ERROR_BYTES :]
        if stdout:
            self._line = (self._line + chunk)[-LINE_LIMIT:]
        head, rest = chunk[: self._room], chunk[self._room :]
        self._room -= len(head)
        self._write(head)
        if rest:
            self._tail.append(rest)
            self._tail_size += len(rest)
        while self._tail_size > TAIL_LIMIT + len(self._tail[0] if self._tail else b""):
            dropped = len(self._tail.popleft())
            self._tail_size -= dropped
            self._left_out += dropped

    def close(self) -> None:
        """Write the end of the output and close the file."""
        tail = b"".join(self._tail)
        cut = max(0, len(tail) - TAIL_LIMIT)
        if self._left_out + cut:
            self._write(f"\n--- {self._left_out + cut} bytes left out here\n".encode())
        self._write(tail[cut:])
        self._tail.clear()
        self._close()

    @property
    def last_lines(self) -> str:
        """The end of stdout and stderr, as far as an error should show it."""
        lines = self._last[-ERROR_BYTES:].decode(errors="replace").strip().splitlines()
        return "\n".join(lines[-ERROR_LINES:])

    @property
    def last_line_of_stdout(self) -> bytes:
        return self._line.rstrip().rpartition(b"\n")[2]

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view and self._file is not None:
                view = view[os.write(self._file, view) :]
        except OSError as error:
            log.warning("%s ends here: %s", self._path, error.strerror)
            self._close()

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


@dataclass(frozen=True)
class Excerpt:
    """A part of a log file: `text` is what stands between the bytes `begin` and `end` of `size`."""

    text: str
    begin: int
    end: int
    size: int


def read_log(path: Path, *, lines: int = 50, offset: int | None = None) -> Excerpt:
    """The last lines of a log or, with `offset`, what stands behind that byte; READ_LIMIT bytes at most.

    A log that is shorter than `offset` was begun anew, and is read from its beginning. Raises OSError:
    FileNotFoundError when there is none, another one when it is no plain file.
    """
    # A job may have put anything in the place of its log: never follow it elsewhere, never wait for a writer.
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "no plain file", str(path))
        size = found.st_size
        begin = max(0, size - READ_LIMIT) if offset is None else offset if offset <= size else 0
        data = os.pread(file, READ_LIMIT, begin)
    finally:
        os.close(file)
    if offset is None:
        kept = b"".join(data.splitlines(keepends=True)[-lines:])
        begin, data = begin + len(data) - len(kept), kept
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    text = decoder.decode(data)
    half, _ = decoder.getstate()  # a sign whose other bytes come later
    return Excerpt(text, begin, begin + len(data) - len(half), size)
