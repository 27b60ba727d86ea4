"""Kinds of jobs: what a node runs for each."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, field_validator

from fleet.templates import fill, placeholders

if TYPE_CHECKING:
    from fleet.job import Job

#: The capability of the node where games are gathered, and models trained from them.
CENTRAL = "central"

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
    then: tuple[str, ...] = Field(default=(), description="loops that are run when such a job has completed")

    @field_validator("command")
    @classmethod
    def _check_command(cls, command: tuple[str, ...]) -> tuple[str, ...]:
        for number, word in enumerate(command):
            foreign = [name for name in placeholders(word) if name not in OWN_PLACEHOLDERS]
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
        return fill(self.command, values, f"jobs.{job.kind}.command: this job")


_PLAYER = ("{python}", "-m", "examples.openspiel")
OPENSPIEL_KINDS = {
    "selfplay": JobKind(command=(*_PLAYER, "selfplay", "--config", "{config}", "--games", "{games}")),
    "training": JobKind(
        command=(*_PLAYER, "training", "--config", "{config}"), capability=CENTRAL, then=("model_sync",)
    ),
    "tournament": JobKind(
        command=(*_PLAYER, "tournament", "--config", "{config}", "--games", "{games}"), then=("elo_sync",)
    ),
}
