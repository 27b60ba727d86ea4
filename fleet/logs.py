"""Logs of processes that write for as long as they live."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

LOG_LIMIT = 16 * 1024 * 1024


def trim(log: Path) -> None:
    """Keep a log short: its writer appends, so what is cut off here does not come back."""
    if not log.exists() or log.stat().st_size <= LOG_LIMIT:
        return
    old = log.with_suffix(".log.1")
    try:
        shutil.copyfile(log, old)
    except OSError:  # the disk is full: better room than an old log
        old.unlink(missing_ok=True)
    os.truncate(log, 0)
