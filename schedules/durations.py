"""Durations as people write them: one parser for YAML, the command line and logs."""

from __future__ import annotations

import math
import re
import reprlib
from decimal import Decimal
from fractions import Fraction
from typing import Annotated

from pydantic import BeforeValidator

_UNITS = {
    "d": Fraction(86400),
    "h": Fraction(3600),
    "m": Fraction(60),
    "s": Fraction(1),
    "ms": Fraction(1, 1000),
}
_PARTS = re.compile("".join(rf"(?:(?P<{unit}>[0-9]+(?:\.[0-9]+)?)\s*{unit}\s*)?" for unit in _UNITS))
_SECONDS = re.compile(r"[0-9]+(?:\.[0-9]+)?")

ACCEPTED = "seconds (60, 1.5) or units from large to small (250ms, 30s, 5m, 1h30m, 2d)"


def parse(value: object) -> float:
    """Read a duration as seconds: `60`, `"1.5"`, `"250ms"`, `"30s"`, `"5m"`, `"1h30m"`, `"2d"`.

    Raises ValueError, which says what is accepted, for anything else: also for negative, infinite and
    boolean values.
    """
    try:
        seconds = _seconds(value)
    except (ValueError, OverflowError):  # more digits than an int or a float takes
        seconds = None
    if seconds is None or not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"{reprlib.repr(value)} is not a duration: give {ACCEPTED}")
    return seconds + 0.0  # -0.0 becomes 0.0


def _seconds(value: object) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, str):
        return None
    text = value.strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    match = _PARTS.fullmatch(text)
    if not text or match is None:
        return None
    numbers = match.groupdict()
    return float(sum(Fraction(numbers[unit]) * size for unit, size in _UNITS.items() if numbers[unit]))


def format(seconds: float) -> str:
    """Write seconds as `parse` reads them back: `250ms`, `1.5s`, `5m`, `1h30m`, `0s`.

    Raises ValueError as `parse` does.
    """
    exact = Decimal(repr(parse(seconds)))
    if 0 < exact < 1:
        return f"{_plain(exact.scaleb(3))}ms"
    whole, _, fraction = _plain(exact).partition(".")
    left, parts = int(whole), []
    for unit in ("d", "h", "m"):
        count, left = divmod(left, int(_UNITS[unit]))
        if count:
            parts.append(f"{count}{unit}")
    if left or fraction or not parts:
        parts.append(f"{left}.{fraction}s" if fraction else f"{left}s")
    return "".join(parts)


def _plain(number: Decimal) -> str:
    """Decimal digits without an exponent and without zeros at the end of the fraction."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


#: Seconds in a pydantic field, written as any duration that `parse` takes.
Seconds = Annotated[float, BeforeValidator(parse)]
