"""The one place where a test waits for what it cannot be told of."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(condition: Callable[[], T], seconds: float = 20.0, what: Callable[[], str] | str = "") -> T:
    """Look until the condition holds, and return what it said; fails after `seconds`, saying `what`."""
    give_up = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > give_up:
            raise AssertionError(f"not within {seconds:g} s: {what() if callable(what) else what}")
        time.sleep(0.01)
    return value
