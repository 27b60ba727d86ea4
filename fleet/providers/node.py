"""What a node runs: a command for each of its processes, for the providers that start these themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import AfterValidator, Field

from fleet.templates import check, fill

#: {name} is the node's, {queues} what its jobs worker consumes, {slots} how many jobs it runs at once.
PLACEHOLDERS = ("name", "queues", "slots", "python")

_CELERY = ("celery", "-A", "workers.app", "worker", "-l", "INFO")
#: The two processes of a node, as the README starts them by hand.
NODE = {
    "agent": (*_CELERY, "-n", "agent@{name}"),
    "jobs": (*_CELERY, "-n", "jobs@{name}", "-Q", "{queues}", "-c", "{slots}"),
}


def _checked(commands: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    for command in commands.values():
        check(command, PLACEHOLDERS)
    return commands


Process = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,15}$")]
Commands = Annotated[dict[Process, tuple[str, ...]], Field(min_length=1), AfterValidator(_checked)]


def queues(capabilities: Sequence[str]) -> str:
    """The queues of a jobs worker that offers these."""
    return ",".join(f"jobs.{capability}" for capability in capabilities)


def filled(commands: Mapping[str, Sequence[str]], values: Mapping[str, str]) -> dict[str, list[str]]:
    """The argument vector of each process."""
    return {process: fill(command, values, "a node's command") for process, command in commands.items()}
