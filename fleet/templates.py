"""Command templates: argument vectors with placeholders, never read by a shell."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from string import Formatter
from typing import Any


def placeholders(word: str) -> list[str]:
    """The names in a word, such as `node` in `agent@{node}`. Raises ValueError when it is no template."""
    return [name for _, name in _parts(word) if name is not None]


def check(command: Sequence[str], known: Collection[str]) -> None:
    """Raise ValueError when the command has other placeholders than these, or nothing to execute."""
    for word in command:
        for name in placeholders(word):
            if name not in known:
                raise ValueError(f"{word!r}: there is no {{{name}}}; there is {_shown(known)}")
    if not command or not command[0]:
        raise ValueError("the first word names what is executed")


def fill(command: Sequence[str], values: Mapping[str, str], whose: str) -> list[str]:
    """The argument vector. Raises ValueError: `whose` has no such placeholder, and which it has."""

    def value(name: str) -> str:
        if name not in values:
            raise ValueError(f"{whose} has no {{{name}}}; it has {_shown(values)}")
        return values[name]

    return ["".join(text + (value(name) if name else "") for text, name in _parts(word)) for word in command]


def _shown(names: Collection[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in sorted(names))


def _parts(word: str) -> Iterator[tuple[str, str | None]]:
    """Literal text and the placeholder after it."""
    try:
        parsed: list[tuple[str, str | None, Any, Any]] = list(Formatter().parse(word))
    except ValueError as error:
        raise ValueError(f"{word!r}: {error}; a brace itself is written twice") from None
    for text, name, spec, conversion in parsed:
        if name is not None and (not name.isidentifier() or spec or conversion):
            raise ValueError(f"{word!r}: a placeholder is a plain name such as {{config}}")
        yield text, name
