"""The port of a provider: what starts machines, stops them, and says which there are.

Whatever a provider says is data: names are compared with those that scaling could have given, and no
instant of its clock is believed. It is asked again and again, so every call is idempotent by name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

#: starting: on its way; running; ended: what is left of one that does not run any more.
State = Literal["starting", "running", "ended"]

_NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")


class ProviderError(Exception):
    """The provider did not do it, or not all of it; says what failed and what to do. `instances()` tells what is."""


class ProviderSilent(ProviderError):
    """No answer in time, so that it may be done, or be done yet."""


@dataclass(frozen=True)
class Instance:
    """One instance. Its name is also its node's id. `cost_per_hour` is None where the provider does not tell."""

    name: str
    state: State = "running"
    cost_per_hour: float | None = None
    detail: str = ""


class Provider(Protocol):
    """Every method ends within a time limit of its own, and raises ProviderError or ProviderSilent."""

    def instances(self) -> list[Instance]:
        """All that there are, also those that nobody here asked for."""
        ...

    def start(self, names: Sequence[str], key: str) -> None:
        """See that an instance of each name is there; `key` names the decision. One that exists stays as it is."""
        ...

    def stop(self, names: Sequence[str], key: str) -> None:
        """See that no instance of these names runs: SIGTERM, time to drain, then the end. Unknown names are fine."""
        ...


def check_name(name: str) -> str:
    """The name, if it can be a container, a host, a folder and a node. Raises ValueError."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no instance's name: small letters, digits and '-', a letter first, at most 63")
    return name
