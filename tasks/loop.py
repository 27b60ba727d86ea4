"""How a loop is declared: one decorator that knows no Redis, no YAML and no Celery.

    @loop(options=Options, leader_only=True)
    async def queue_populator(fleet: Fleet, options: Options, tick: Tick) -> Counts: ...

The body may be `def` or `async def`; the declared loop stays callable as the plain function, so its
test needs nothing of the run-time. Ticks come at least once: a body must be idempotent.
"""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, overload

from pydantic import BaseModel, ConfigDict

import tasks
from fleet.fence import UNFENCED, Fence
from fleet.fleet import Fleet

#: What a tick did, by past participle: {"added": 12, "skipped": 3}.
Counts = Mapping[str, int | float]


class Options(BaseModel):
    """Base of a loop's options: a misspelt key is an error, never a silent default."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass
class Tick:
    """One firing of a loop, as its body sees it.

    `now`, `slot` and `deadline` are seconds since the epoch on Redis time: when the run began, the
    instant it was due, and when it loses its lease. `seq` numbers the loop's ticks (0 for a manual
    call before the first), `missed` counts the slots that coalesced into this one. `fence` goes with
    every write.
    """

    now: float
    seq: int = 0
    slot: float = 0.0
    deadline: float = float("inf")
    missed: int = 0
    manual: bool = False
    fence: Fence = UNFENCED
    #: seconds from now to the next run, when the body asked for one
    wanted_after: float | None = field(default=None, init=False)

    def next_after(self, seconds: float) -> None:
        """Ask for the next run `seconds` after this one ends, once, instead of at the next slot."""
        if not 0 < seconds < math.inf:
            raise ValueError(f"next_after takes a finite number of seconds above 0, not {seconds!r}")
        self.wanted_after = float(seconds)


Body = Callable[[Fleet, Any, Tick], "Counts | Awaitable[Counts | None] | None"]
Hook = Callable[[Fleet, Any], None]
ErrorCallback = Callable[[str, Tick, BaseException], None]


@dataclass(frozen=True)
class Loop:
    """A declared loop. Calling it calls the body."""

    name: str
    body: Body
    options: type[BaseModel]
    leader_only: bool
    on_start: Hook | None = None
    on_stop: Hook | None = None
    on_error: tuple[ErrorCallback, ...] = ()

    def __call__(self, fleet: Fleet, options: Any, tick: Tick) -> Any:
        return self.body(fleet, options, tick)

    @property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(self.body)

    @property
    def summary(self) -> str:
        """First line of the body's docstring."""
        return (inspect.getdoc(self.body) or "").partition("\n")[0]


B = TypeVar("B", bound=Callable[..., Any])


@overload
def loop(body: B, /) -> Loop: ...
@overload
def loop(
    *,
    options: type[BaseModel] = Options,
    leader_only: bool = False,
    name: str | None = None,
    on_start: Hook | None = None,
    on_stop: Hook | None = None,
    on_error: ErrorCallback | tuple[ErrorCallback, ...] = (),
) -> Callable[[B], Loop]: ...
def loop(
    body: Callable[..., Any] | None = None,
    /,
    *,
    options: type[BaseModel] = Options,
    leader_only: bool = False,
    name: str | None = None,
    on_start: Hook | None = None,
    on_stop: Hook | None = None,
    on_error: ErrorCallback | tuple[ErrorCallback, ...] = (),
) -> Any:
    """Declare a loop.

    `leader_only` gates it on the leader lease: correctness, so it is code. `on_start(fleet, options)`
    runs before the loop's first run in a process (if it raises, that run failed and the next one tries
    again), `on_stop` when that process shuts down, `on_error(name, tick, error)` after each failed run.
    Raises TypeError when the body does not take (fleet, options, tick).
    """

    def declare(function: Callable[..., Any]) -> Loop:
        if len(inspect.signature(function).parameters) != 3:
            raise TypeError(f"loop {function.__name__}: the body takes (fleet, options, tick)")
        callbacks = on_error if isinstance(on_error, tuple) else (on_error,)
        return Loop(name or function.__name__, function, options, leader_only, on_start, on_stop, callbacks)

    return declare if body is None else declare(body)


class Declared(Protocol):
    """What a file of `tasks/` may declare: a function of the house under a name."""

    @property
    def name(self) -> str: ...
    @property
    def body(self) -> Callable[..., Any]: ...


D = TypeVar("D", bound=Declared)


def declared(kind: type[D]) -> dict[str, D]:
    """Everything of a kind that the files of `tasks/` declare, by name. Raises ValueError when two share one."""
    found: dict[str, D] = {}
    for module_info in pkgutil.iter_modules(tasks.__path__):
        module = importlib.import_module(f"tasks.{module_info.name}")
        for value in vars(module).values():
            if not isinstance(value, kind) or value.body.__module__ != module.__name__:
                continue
            if found.setdefault(value.name, value) is not value:
                raise ValueError(f"{value.name!r} is declared twice; the second is in {module.__name__}")
    return found


def discover() -> dict[str, Loop]:
    """Every loop declared in `tasks/`, by name. Raises ValueError when two share one."""
    return declared(Loop)
