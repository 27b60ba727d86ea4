"""What a node is asked to do with its own models: publish what jobs left, fetch a version, write its manifests."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from fleet.fleet import Fleet
from fleet.model_registry import ModelRegistry
from fleet.model_shelf import Busy, Keeping, Shelf
from fleet.models import Refused, check_config, check_version, shelved
from fleet.store import Corrupt, NoRoom, Pace, Stopped, StoreUnavailable
from tasks.node import Answer, Arguments, node_task


class Keep(Arguments):
    """What a node is to keep: see Keeping."""

    newest: int = Field(ge=1, le=1000)
    unlisted_for: float = Field(ge=0, le=1e9)

    @property
    def keeping(self) -> Keeping:
        return Keeping(self.newest, self.unlisted_for)


class Publish(Keep):
    """How many seconds it may take."""

    seconds: float = Field(gt=0, le=86_400)

    def pace(self, fleet: Fleet) -> Pace:
        return Pace(until=time.monotonic() + self.seconds, cancel=fleet.stopping)


class Pull(Publish):
    """Which version: its name only. What it is, the node reads from the registry itself."""

    config: Annotated[str, AfterValidator(check_config)]
    version: Annotated[str, AfterValidator(check_version)]


@node_task(arguments=Publish)
def publish_models(fleet: Fleet, arguments: Publish) -> Answer:
    """Put into the store what jobs left in `models/new/`. Idempotent: what is published already is only tidied up."""

    def publish(registry: ModelRegistry, shelf: Shelf) -> dict[str, Any]:
        found = shelf.publish(registry, fleet.node_id, arguments.keeping, arguments.pace(fleet))
        return {"versions": found.versions, "set_aside": len(found.refused), "moved": found.moved}

    return _answer(fleet, publish)


@node_task(arguments=Pull)
def pull_model(fleet: Fleet, arguments: Pull) -> Answer:
    """Fetch one version, checked, and list it. Idempotent: one that is here is not fetched again."""

    def pull(registry: ModelRegistry, shelf: Shelf) -> dict[str, Any]:
        asked = (arguments.config, arguments.version, arguments.keeping, arguments.pace(fleet))
        return {"moved": shelf.pull(registry, *asked)}

    return _answer(fleet, pull)


@node_task(arguments=Keep)
def list_models(fleet: Fleet, arguments: Keep) -> Answer:
    """Make the manifests say what is here and promoted, and delete what was unwanted for long enough. Idempotent:
    what is so already stays."""

    def settle(registry: ModelRegistry, shelf: Shelf) -> dict[str, Any]:
        known = registry.read()
        settled = [shelf.settle(known[config], arguments.keeping) for config in {*known.configs, *shelved(fleet.data)}]
        return {"changed": sum(changed for changed, _ in settled), "deleted": sum(len(gone) for _, gone in settled)}

    return _answer(fleet, settle)


#: By kind of failure, how an answer calls it; the first that fits.
_OUTCOMES: tuple[tuple[type[Exception], str], ...] = (
    (Busy, "busy"),
    (Refused, "refused"),
    (Corrupt, "corrupt"),
    (FileNotFoundError, "missing"),
    (NoRoom, "no_room"),
    (Stopped, "stopped"),
    (StoreUnavailable, "unavailable"),
)

#: Everything that an answer may say came of it.
OUTCOMES = ("done", *(name for _, name in _OUTCOMES))


def _answer(fleet: Fleet, work: Callable[[ModelRegistry, Shelf], dict[str, Any]]) -> Answer:
    """What came of it: `done`, or which way it failed and why. The registry of nodes knows before who asked does."""
    if fleet.store is None:
        return {"outcome": "unavailable", "why": f"{fleet.node_id} has no store"}
    try:
        return {"outcome": "done", **work(ModelRegistry(fleet.store), Shelf(fleet.data))}
    except tuple(kind for kind, _ in _OUTCOMES) as error:
        outcome = next(name for kind, name in _OUTCOMES if isinstance(error, kind))
        return {"outcome": outcome, "why": str(error)[:1000]}
    finally:
        fleet.report_holdings()
