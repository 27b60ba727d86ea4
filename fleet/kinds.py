"""Kinds of jobs: what a node runs for each."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from string import Formatter
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

if TYPE_CHECKING:
    from fleet.job import Job

#: Placeholders of every template; the rest are keys of the job's payload.
OWN_PLACEHOLDERS = ("config", "job_id", "node_id", "python")


class JobKind(BaseModel):
    """The command template of one kind and the limits it runs under.

    Every word of `command` may hold placeholders: `{config}`, `{job_id}`, `{node_id}`, `{python}` (the
    interpreter that runs Backbeat), and any key of the job's payload. A brace itself is written twice.
    The first word, which says what is executed, takes nothing from the payload.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    command: tuple[str, ...] = Field(min_length=1)
    capability: str = Field(default="cpu", pattern=r"^[a-z][a-z0-9_]*$", max_length=32)
    timeout: float = Field(default=3600.0, gt=0, allow_inf_nan=False, description="seconds from start to kill")
    max_attempts: int = Field(default=3, ge=1, le=1000)
    nice: int = Field(default=10, ge=0, le=19, description="so that jobs never starve the loops")

    @field_validator("command")
    @classmethod
    def _check_command(cls, command: tuple[str, ...]) -> tuple[str, ...]:
        for number, word in enumerate(command):
            names = [name for _, name in _parts(word) if name is not None]
            foreign = [name for name in names if name not in OWN_PLACEHOLDERS]
            if number == 0 and (foreign or not word):
                what = f"{{{foreign[0]}}}" if foreign else "nothing"
                accepted = ", ".join(f"{{{name}}}" for name in OWN_PLACEHOLDERS)
                raise ValueError(f"the first word names what is executed: {what} cannot stand there, only {accepted}")
        return command

    def argv(self, job: Job, node_id: str) -> list[str]:
        """The command for this job: an argument vector, never read by a shell.

        Payload values that are not strings are written as JSON. Raises ValueError naming the kind, the
        placeholder and the available ones.
        """
        values = {key: value if isinstance(value, str) else json.dumps(value) for key, value in job.payload.items()}
        values |= {"config": job.config, "job_id": job.id, "node_id": node_id, "python": sys.executable}

        def fill(name: str) -> str:
            if name not in values:
                available = ", ".join(f"{{{known}}}" for known in sorted(values))
                raise ValueError(f"jobs.{job.kind}.command: this job has no {{{name}}}; it has {available}")
            return values[name]

        return ["".join(text + (fill(name) if name else "") for text, name in _parts(word)) for word in self.command]


def _parts(word: str) -> Iterator[tuple[str, str | None]]:
    """Literal text and the placeholder after it. Raises ValueError when the word is no template."""
    try:
        parsed: list[tuple[str, str | None, Any, Any]] = list(Formatter().parse(word))
    except ValueError as error:
        raise ValueError(f"{word!r}: {error}; a brace itself is written twice") from None
    for text, name, spec, conversion in parsed:
        if name is not None and (not name.isidentifier() or spec or conversion):
            raise ValueError(f"{word!r}: a placeholder is a plain name such as {{config}}")
        yield text, name


OPENSPIEL_KINDS = {
    "selfplay": JobKind(
        command=("{python}", "-m", "examples.openspiel", "selfplay", "--config", "{config}", "--games", "{games}"),
    ),
}
