"""What a jobs worker and the command it runs agree upon.

The worker names the job in the environment (`BACKBEAT_JOB_ID`, `BACKBEAT_JOB_CONFIG`,
`BACKBEAT_NODE_ID`) and asks a command to stop with SIGTERM. The command prints its result, a JSON
object, as the last line of its output, and writes it to the file `BACKBEAT_JOB_RESULT` names, if any.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any


class Stop:
    """Whether SIGTERM or SIGINT has come. Only a flag, so nothing is interrupted in the middle."""

    def __init__(self) -> None:
        self._signal = 0

    @classmethod
    def on_signals(cls) -> Stop:
        """A flag that the two signals of this process raise from now on."""
        stop = cls()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop._receive)
        return stop

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        self._signal = number

    def __call__(self) -> bool:
        return self._signal != 0

    @property
    def exit_code(self) -> int:
        """What a shell calls a process that the signal ended: 143 for SIGTERM, 130 for SIGINT."""
        return 128 + self._signal


def write_result(result: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> None:
    """Print the result and write it where the worker asked for it, whole or not at all.

    Raises OSError, naming the file, when it cannot be written; the result is printed all the same.
    """
    text = json.dumps(result)
    try:
        if path := environment.get("BACKBEAT_JOB_RESULT"):
            _write_whole(Path(path), text + "\n")
    finally:
        print(text, flush=True)


def _write_whole(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error
