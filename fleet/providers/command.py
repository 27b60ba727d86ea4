"""Any command line tool as a provider: one command that starts, one that stops, one that lists as JSON.

The tools run without our passwords in their environment, and no shell reads their words.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import IO, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fleet.execution import SECRETS
from fleet.processes import signal_group
from fleet.providers.port import Instance, ProviderError, ProviderSilent, check_name
from fleet.templates import check, fill, placeholders

#: Bytes of a listing that are read, and of what a tool says of its failure.
LISTING_LIMIT, ERROR_LIMIT = 4 * 1024 * 1024, 2000

_OF_ONE = {"name", "id"}  # a command with one of these is run for each instance
_OF_ALL = {"names", "key", "count", "python"}


class CommandOptions(BaseModel):
    """The commands, and what their listing says where. A key of the listing may be a path: `labels.name`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    up: tuple[str, ...] = Field(default=(), description="{name}: run for each instance; or {names} and {count}")
    down: tuple[str, ...] = Field(default=(), description="the same, and {id}, what the listing calls it")
    list: tuple[str, ...] = Field(default=(), description="prints a JSON list of objects, an instance each")
    timeout: float = Field(default=30.0, gt=0, allow_inf_nan=False, description="seconds for all that one step runs")
    name_key: str = "name"
    id_key: str = "id"
    state_key: str = "status"
    cost_key: str = "cost_per_hour"
    ended_states: tuple[str, ...] = ("stopped", "exited", "terminated", "failed")

    @model_validator(mode="after")
    def _known(self) -> Self:
        known = {"up": _OF_ALL | {"name"}, "down": _OF_ALL | _OF_ONE, "list": {"python"}}
        for field, names in known.items():
            if command := getattr(self, field):
                check(command, names)
        return self


class Command:
    """The instances that a tool lists. `environment` is what it inherits; without it, this process's."""

    def __init__(self, options: CommandOptions, environment: Mapping[str, str] | None = None) -> None:
        self._options = options
        environment = os.environ if environment is None else environment
        self._environment = {name: value for name, value in environment.items() if name not in SECRETS}

    def instances(self) -> list[Instance]:
        """See `Provider`. What has no name is nobody's; two of one name count as one, at the price of both."""
        found: dict[str, Instance] = {}
        for name, row in self._rows(self._deadline()):
            state = _at(row, self._options.state_key)
            ended = str(state).casefold() in map(str.casefold, self._options.ended_states)
            cost = _cost(_at(row, self._options.cost_key))
            here = Instance(name, "ended" if ended else "running", cost, "" if state is None else str(state)[:100])
            if other := found.get(name):
                both = None if cost is None or other.cost_per_hour is None else cost + other.cost_per_hour
                here = replace(other if ended else here, cost_per_hour=both)
            found[name] = here
        return list(found.values())

    def start(self, names: Sequence[str], key: str) -> None:
        """See `Provider`. A tool may be unable to see that an instance exists, so that is looked up first."""
        deadline = self._deadline()
        there = {name for name, _ in self._rows(deadline)}
        self._run_for("up", [{"name": name} for name in map(check_name, names) if name not in there], key, deadline)

    def stop(self, names: Sequence[str], key: str) -> None:
        """See `Provider`."""
        deadline, wanted = self._deadline(), set(map(check_name, names))
        found = [(name, _at(row, self._options.id_key)) for name, row in self._rows(deadline) if name in wanted]
        self._run_for("down", [{"name": name, "id": str(row_id)} for name, row_id in found], key, deadline)

    def _run_for(self, field: str, instances: Sequence[Mapping[str, str]], key: str, deadline: float) -> None:
        if not instances:
            return
        command: tuple[str, ...] = getattr(self._options, field)
        used = {name for word in command for name in placeholders(word)}
        names = ",".join(dict.fromkeys(instance["name"] for instance in instances))
        shared = {"names": names, "key": key, "python": sys.executable}
        if used & _OF_ONE:
            for instance in instances:
                self._run(field, {**shared, **instance, "count": "1"}, deadline)
        else:
            self._run(field, {**shared, "count": str(len(instances))}, deadline)

    def _rows(self, deadline: float) -> list[tuple[str, Mapping[str, Any]]]:
        said = self._run("list", {"python": sys.executable}, deadline)
        try:
            rows = json.loads(said)
        except (ValueError, RecursionError) as error:
            raise ProviderError(f"{self._shown('list')} printed no JSON: {str(error)[:200]}") from None
        if not isinstance(rows, list):
            raise ProviderError(f"{self._shown('list')} printed {type(rows).__name__}, not a JSON list of instances")
        named = [(_at(row, self._options.name_key), row) for row in rows if isinstance(row, dict)]
        return [(name, row) for name, row in named if isinstance(name, str)]

    def _run(self, field: str, values: Mapping[str, str], deadline: float) -> bytes:
        """What the command prints."""
        argv = fill(getattr(self._options, field), values, f"auto_scaling.command.{field}")
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            try:
                process = subprocess.Popen(
                    argv,
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    start_new_session=True,
                )
            except (OSError, ValueError) as error:
                raise ProviderError(f"{self._shown(field)} cannot be run: {error}") from error
            try:
                code = process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                signal_group(process.pid, signal.SIGKILL)
                process.wait()
                limit = f"{self._options.timeout:g} s (auto_scaling.command.timeout)"
                raise ProviderSilent(f"{self._shown(field)} did not end within {limit}{_tail(err)}") from None
            if code != 0:
                raise ProviderError(f"{self._shown(field)} ended with exit code {code}{_tail(err) or _tail(out)}")
            out.seek(0)
            said: bytes = out.read(LISTING_LIMIT + 1)
        if len(said) > LISTING_LIMIT:
            raise ProviderError(f"{self._shown(field)} printed more than {LISTING_LIMIT} bytes")
        return said

    def _shown(self, field: str) -> str:
        """The command's first word: the others may hold what is not for logs."""
        return f"auto_scaling.command.{field} ({next(iter(getattr(self._options, field)), 'not given')})"

    def _deadline(self) -> float:
        return time.monotonic() + self._options.timeout


def _tail(file: IO[bytes]) -> str:
    """The end of what was printed, for an error's text."""
    file.seek(0, os.SEEK_END)
    file.seek(max(0, file.tell() - ERROR_LIMIT))
    text = file.read().decode(errors="replace").strip()
    return f": {text}" if text else ""


def _at(row: Any, path: str) -> Any:
    """What stands in nested objects at `a.b.c`; None where there is nothing."""
    for key in path.split("."):
        row = row.get(key) if isinstance(row, dict) else None
    return row


def _cost(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        return None
    return float(value)
