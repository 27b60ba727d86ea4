"""What is wrong with a configuration file: all of it, each mistake with its place in the file."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

#: Where a value stands: the keys and list indexes that lead to it.
Keys = tuple[str | int, ...]

#: Stands for the value of a key that has none to show.
ABSENT = object()

_LONGEST_SHOWN = 60


@dataclass(frozen=True)
class Problem:
    """One mistake: `line` is None and `value` empty where there is none to show."""

    file: Path
    line: int | None
    key: str
    value: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        where = str(self.file) if self.line is None else f"{self.file}:{self.line}"
        text = ": ".join(filter(None, (where, self.key, self.message)))
        if self.value and not self.message.startswith(self.value):
            text += f" (value {self.value})"
        if self.hint:
            text += f"; {self.hint}"
        return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)


class PlanError(Exception):
    """The file gives no plan. `problems` says why, in the order of the file; so does `str`, in lines."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__(tuple(problems))
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))


class Problems:
    """Collects the problems of one file and knows on which line each of its keys is written."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.lines: dict[Keys, int] = {}
        #: keys as the plan names them -> as the file does, where these differ
        self.written: dict[Keys, Keys] = {}
        #: keys whose values are not for logs
        self.secret: set[Keys] = set()
        self._found: dict[Keys, Problem] = {}

    def add(self, keys: Keys, message: str, hint: str = "", value: object = ABSENT, line: int | None = None) -> None:
        """Note a problem; a key has at most one, the first."""
        written = self.written.get(keys, keys)
        hidden = value is ABSENT or any(keys[:depth] in self.secret for depth in range(1, len(keys) + 1))
        shown = "" if hidden else _shown(value)
        line = line or self.line(written)
        self._found.setdefault(written, Problem(self.file, line, dotted(written), shown, message, hint))

    def line(self, keys: Keys) -> int | None:
        """The line of the nearest of `keys` and their parents that the file has."""
        while keys and keys not in self.lines:
            keys = keys[:-1]
        return self.lines.get(keys)

    def refuse(self, message: str, line: int | None = None) -> NoReturn:
        """Give up on the file as a whole. Raises PlanError."""
        raise PlanError([*self._found.values(), Problem(self.file, line, "", "", message)])

    def __bool__(self) -> bool:
        return bool(self._found)

    def error(self) -> PlanError:
        """All of them, in the order of the file; then what is missing in it."""
        return PlanError(sorted(self._found.values(), key=lambda problem: problem.line or math.inf))


def nearest(key: str, accepted: Iterable[str]) -> list[str]:
    """The accepted keys that `key` is probably a misspelling of; several only when they are equally near."""
    edits = {name: _edits(key, name) for name in difflib.get_close_matches(key, list(accepted))}
    return sorted(name for name, count in edits.items() if count == min(edits.values()))


def _edits(one: str, other: str) -> int:
    """How many letters to add, drop or replace: difflib alone takes `older` for `folders`, not `order`."""
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        above, row = row, [i]
        for j, wanted in enumerate(other, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (letter != wanted)))
    return row[-1]


def dotted(keys: Keys) -> str:
    """Keys as a person writes them: `jobs.selfplay.command[0]`."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).removeprefix(".")


def _shown(value: Any) -> str:
    if isinstance(value, dict | list) and value:
        return "{...}" if isinstance(value, dict) else "[...]"
    text = repr(value) if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 3]}..."
