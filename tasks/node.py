"""What one node is asked to do, by an operator or by a loop elsewhere: tasks on that node's own queue.

    @node_task(arguments=JobLog)
    def job_log(fleet: Fleet, arguments: JobLog) -> Answer: ...

On the wire it is `node.job_log`, sent to the queue `node.<id>`, which that node's agent consumes. The
arguments come from another machine: their model is strict, and nothing in them becomes a path or a
command unchecked. A message may come twice, or after nobody waits any more: a body must be idempotent.
Any file of `tasks/` may declare one; nothing else is edited.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from fleet import replies
from fleet.execution import JOBS, LOG
from fleet.fleet import Fleet
from fleet.job import check_job_id
from fleet.job_log import read_log
from tasks.loop import declared

#: What a node task found out: JSON for whoever asked.
Answer = Mapping[str, Any]


class Arguments(BaseModel):
    """Base of a node task's arguments."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


@dataclass(frozen=True)
class NodeTask:
    """A declared node task. Calling it calls the body."""

    name: str
    body: Callable[[Fleet, Any], Answer]
    arguments: type[Arguments]

    def __call__(self, fleet: Fleet, arguments: Arguments) -> Answer:
        return self.body(fleet, arguments)


def node_task(*, arguments: type[Arguments]) -> Callable[[Callable[[Fleet, Any], Answer]], NodeTask]:
    """Declare a function as what a node can be asked; its name is the task's."""
    return lambda body: NodeTask(body.__name__, body, arguments)


def discover_node_tasks() -> dict[str, NodeTask]:
    """Every node task declared in `tasks/`, by name."""
    return declared(NodeTask)


def serve(fleet: Fleet, task: NodeTask, arguments: Any, reply: Any = None) -> str:
    """Do what was asked, and answer when a `reply` token came along: {"answer": ...} or {"error": ...}.

    Returns a line for the log. Raises ValueError for a message that is none of ours, and what the body raised.
    """
    token = None if reply is None else replies.check_token(reply)
    try:
        answer = task(fleet, task.arguments.model_validate(arguments))
        if token is not None:
            replies.answer(fleet.redis, token, {"answer": answer})
    except Exception as error:
        if token is not None:
            replies.answer(fleet.redis, token, {"error": _why(error)})
        raise
    return "answered" if token else "done"


def refuse(fleet: Fleet, name: str, reply: Any) -> None:
    """Answer whoever asks this node for a task that it does not have. Raises ValueError when nobody does."""
    why = f"{fleet.node_id} knows no {name}: another version of Backbeat runs there"
    replies.answer(fleet.redis, replies.check_token(reply), {"error": why})


def _why(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
    return f"{type(error).__name__}: {error}"[:2_000]


def _job_id(value: str) -> str:
    check_job_id(value)
    return value


class JobLog(Arguments):
    """Which part of which job's log: its last `lines`, or what stands behind the byte `offset`."""

    job_id: Annotated[str, AfterValidator(_job_id)]
    lines: int = Field(default=50, ge=1, le=10_000)
    offset: int | None = Field(default=None, ge=0)


@node_task(arguments=JobLog)
def job_log(fleet: Fleet, arguments: JobLog) -> Answer:
    """A part of what a job printed on this node: the fields of fleet.job_log.Excerpt, or `missing`. Idempotent: it
    only reads."""
    log = fleet.data / JOBS / arguments.job_id / LOG
    try:
        return asdict(read_log(log, lines=arguments.lines, offset=arguments.offset))
    except FileNotFoundError:
        return {"missing": True}
