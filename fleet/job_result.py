"""What a job's command says of itself: a JSON object in a file, or on the last line that it printed."""

from __future__ import annotations

import json
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

#: Bytes of a result that are read.
RESULT_LIMIT = 1024 * 1024


def read_result(path: Path, last_line: bytes) -> dict[str, Any] | None:
    """The object in that file; without the file, the one on the last line, if it is one.

    Raises ValueError when there is such a file, but no JSON object in it.
    """
    try:
        return parse_object(_read(path))
    except FileNotFoundError:
        with suppress(ValueError):
            return parse_object(last_line)
        return None
    except OSError as error:
        raise ValueError(str(error.strerror)) from None


def parse_object(text: bytes) -> dict[str, Any]:
    """Raises ValueError when it is not JSON, or not an object."""

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not JSON")

    try:
        value = json.loads(text, parse_constant=refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _read(path: Path) -> bytes:
    # A job may have put a pipe in its place: never wait for somebody to write to it.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("not a file")
        text = file.read(RESULT_LIMIT + 1)
    if len(text) > RESULT_LIMIT:
        raise ValueError(f"more than {RESULT_LIMIT} bytes")
    return text
