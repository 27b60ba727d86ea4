"""The Celery application: `celery -A workers.app worker | beat | flower | loops`.

Declarations in `tasks/` plus stanzas in YAML become Celery tasks here, or the process refuses to start.
Importing this module connects to nothing.
"""

from __future__ import annotations

import logging
import os
import sys
import uuid
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from celery import Celery
from celery.exceptions import CPendingDeprecationWarning, Retry
from kombu import Queue

from fleet.fleet import Fleet
from fleet.holdings import Holdings
from fleet.jobs import QUEUE, JobQueue
from fleet.nodes import NodeRegistry
from fleet.notices import Notices
from fleet.options import FleetOptions
from fleet.store import Store, StoreUnavailable
from fleet.tailnet_attempt import TailnetWatch
from fleet.tailscale import LocalShell, Tailscale
from schedules.plan import Plan, PlanError, load
from tasks.loop import Loop, discover
from tasks.node import NodeTask, discover_node_tasks, serve
from workers import transport, web
from workers.agent import LEADER_QUEUE, LOOPS_QUEUE, NODE, AgentStep
from workers.jobs import RUN_JOB, JobsStep
from workers.lease import LeaderLease
from workers.ledger import Ledger, Scheduled
from workers.membership import has_tailnet
from workers.runner import RunFailed, Runner
from workers.settings import Settings, SettingsError, connect
from workers.timetable import Timetable

log = logging.getLogger("backbeat.app")

CELERY_SERVERS = {"CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL"}


class Backbeat:
    """The run-time of one process: what its Celery tasks and boot steps share."""

    def __init__(self, celery: Celery, settings: Settings, plan: Plan, loops: Mapping[str, Loop]) -> None:
        self.celery, self.settings, self.plan, self.loops = celery, settings, plan, loops
        self.redis = connect(settings.redis_url)
        self.ledger = Ledger(self.redis)
        self.lease: LeaderLease | None = None
        options = plan.sections
        assert isinstance(options, FleetOptions)  # noqa: S101 - what load() was asked for
        notices = Notices(
            options.notify.urls,
            self.redis,
            interval=options.notify.interval,
            group_for=options.notify.group_for,
        )
        if settings.auth_key_file is not None:
            own = options.tailnet.model_copy(update={"auth_key_file": settings.auth_key_file})
            options = options.model_copy(update={"tailnet": own})
        self.tailnet = TailnetWatch(Tailscale(options.tailnet, LocalShell()), lambda: has_tailnet(options.tailnet))
        nodes = NodeRegistry(self.redis)
        self.fleet = Fleet(
            redis=self.redis,
            options=options,
            jobs=JobQueue(self.redis, wake=self.wake, notices=notices),
            nodes=nodes,
            notices=notices,
            node_id=settings.node_id,
            data=settings.data,
            ask=partial(send_to_node, celery),
            run=self.run_loop,
            holdings=Holdings(nodes, settings.node_id, settings.data),
            store=_store(options, settings),
            tailnet=self.tailnet,
        )
        self.runner = Runner(self.ledger, self.fleet, loops, plan.stanzas, owner=self._owner)
        #: Set by the jobs worker's boot step: serve one wake-up, and say what came of it.
        self.claim_and_run: Callable[[], str] | None = None

    def _owner(self) -> tuple[str, int]:
        return (self.lease.token, self.lease.fence()) if self.lease is not None else ("", 0)

    @property
    def scheduled(self) -> list[Scheduled]:
        """The plan as the timetable takes it: loops of one start are spread over a second, not fired as one burst."""
        rows = [schedule(self.loops[name], stanza) for name, stanza in sorted(self.plan.stanzas.items())]
        spread = [number / len(rows) for number in range(len(rows))]
        return [
            replace(row, initial_delay=row.initial_delay + share * min(1.0, row.interval))
            for row, share in zip(rows, spread, strict=True)
        ]

    def wake(self, capability: str, number: int) -> None:
        """Publish `number` wake-ups for jobs of one capability, together."""
        with self.celery.producer_or_acquire() as producer, producer.batch():
            for _ in range(number):
                self.celery.send_task(RUN_JOB, (), queue=QUEUE + capability, producer=producer, retry=False)

    def run_loop(self, name: str) -> None:
        """Publish a manual run of a loop. Raises what kombu raises when the broker is away."""
        call = f"{name}:then:{uuid.uuid4().hex[:12]}"
        self.celery.send_task(f"loops.{name}", (), task_id=call, queue=_queue(self.loops[name]), retry=False)

    def close(self) -> None:
        """An orderly stop of this process."""
        self.runner.stop()
        self.fleet.notices.close()


def _store(options: FleetOptions, settings: Settings) -> Store | None:
    try:
        return options.store.open(settings.store)
    except (ValueError, StoreUnavailable) as error:
        raise SettingsError(f"{'BACKBEAT_STORE' if settings.store else 'store.url'}: {error}") from error


def schedule(loop: Loop, stanza: Any, source: str = "plan") -> Scheduled:
    """A declared loop and its stanza as a row of the timetable."""
    return Scheduled(
        name=loop.name,
        interval=stanza.interval,
        queue=_queue(loop),
        leader_only=loop.leader_only,
        enabled=stanza.enabled,
        initial_delay=stanza.initial_delay,
        source=source,
    )


def _queue(loop: Loop) -> str:
    return LEADER_QUEUE if loop.leader_only else LOOPS_QUEUE


def configure(settings: Settings) -> Celery:
    """A Celery app with the house's transport and settings, and no tasks: enough to publish."""
    transport.install()
    for name in CELERY_SERVERS & os.environ.keys():
        # Celery would obey them before any setting: messages to one server, state to another
        log.warning("%s is ignored: the server is BACKBEAT_REDIS_URL's", name)
        del os.environ[name]
    # said at every reconnect, about late acks that nothing here uses
    warnings.simplefilter("ignore", CPendingDeprecationWarning)
    celery = Celery("backbeat", broker=settings.redis_url, set_as_current=False)
    celery.conf.update(
        task_queues=[Queue(LOOPS_QUEUE, routing_key=LOOPS_QUEUE)],
        task_default_queue=LOOPS_QUEUE,
        task_default_exchange="",
        task_default_routing_key=LOOPS_QUEUE,
        task_ignore_result=True,
        task_acks_late=False,
        task_serializer="json",
        accept_content=["json"],
        worker_pool="workers.pool:TaskPool",
        worker_concurrency=16,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_send_task_events=False,
        worker_hijack_root_logger=True,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_consumer="workers.consumer:Consumer",
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_channel_error_retry=True,
        broker_transport_options={
            "visibility_timeout": 600,
            "socket_timeout": 5,
            "socket_connect_timeout": 2,
            "socket_keepalive": True,
            "health_check_interval": 5,
            "unacked_restore_interval": 5,
            "unacked_restore_throttle": 1,
        },
        beat_scheduler="schedules.beat:BeatScheduler",
        beat_max_loop_interval=0.5,
        enable_utc=True,
    )
    return celery


def create_app(settings: Settings, loops: Mapping[str, Loop] | None = None) -> Celery:
    """The app with every declared loop as a task. Raises PlanError when stanzas and loops disagree."""
    declared = discover() if loops is None else dict(loops)
    plan = load(settings.config, {name: loop.options for name, loop in declared.items()}, FleetOptions)
    for warning in plan.warnings:
        log.warning("%s", warning)
    celery = configure(settings)
    celery.conf.task_routes = {f"loops.{name}": {"queue": _queue(loop)} for name, loop in declared.items()}
    celery.backbeat = Backbeat(celery, settings, plan, declared)
    backbeat = celery.backbeat
    celery.timetable = Timetable(backbeat.ledger, backbeat.fleet, backbeat.scheduled, plan.stanzas, settings.run)
    for name in plan.stanzas:
        _register_loop(celery, declared[name])
    celery.task(name=RUN_JOB, bind=True, shared=False)(_run_job)
    for task in discover_node_tasks().values():
        _register_node_task(celery, task)
    # a cached property of Celery's: what `celery worker` makes
    celery.Worker = celery.subclass_with_self("workers.consumer:Worker")
    celery.steps["consumer"].add(AgentStep)
    celery.steps["consumer"].add(JobsStep)
    web.install()
    return celery


def _register_loop(celery: Celery, loop: Loop) -> None:
    def run(task: Any, *args: Any, **kwargs: Any) -> str:
        seq = args[0] if args else None
        if len(args) > 1 or kwargs or not (seq is None or (type(seq) is int and seq > 0)):
            raise ValueError(
                f"loops.{loop.name} takes no argument (a manual run) or one tick number, not {args} {kwargs}"
            )
        try:
            return str(task.app.backbeat.runner.run(loop.name, seq, task.request.id or ""))
        except RunFailed as failed:
            # nothing is published: the timetable brings the retry, so it survives this worker
            raise Retry(failed.error, exc=failed.cause, when=failed.retry_after) from failed.cause

    run.__doc__ = loop.summary
    celery.task(name=f"loops.{loop.name}", bind=True, max_retries=None, shared=False)(run)


def _register_node_task(celery: Celery, task: NodeTask) -> None:
    def run(bound: Any, arguments: Any, reply: Any = None) -> str:
        return serve(bound.app.backbeat.fleet, task, arguments, reply)

    celery.task(name=f"{NODE}{task.name}", bind=True, shared=False)(run)


def _run_job(task: Any, *_args: Any, **_kwargs: Any) -> str:
    """A wake-up: claim the best job for this node and run it."""
    serve = task.app.backbeat.claim_and_run
    if serve is None:
        raise RuntimeError("this worker consumes no jobs.<capability> queue, so it runs no jobs")
    return str(serve())


def send_run(url: str, name: str, queue: str, call: str) -> None:
    """Publish a manual run of a loop under the id `call`. Raises what kombu raises when the broker is away."""
    configure(Settings(redis_url=url)).send_task(f"loops.{name}", (), task_id=call, queue=queue, retry=False)


def send_to_node(
    celery: Celery, node_id: str, name: str, arguments: Mapping[str, Any], reply: str | None = None, /
) -> None:
    """Publish a node task for one node's agent; its answer goes under the token `reply`. Raises as `send_run`."""
    celery.send_task(NODE + name, (dict(arguments), reply), queue=NODE + node_id, retry=False)


def __getattr__(name: str) -> Any:
    """`app`, made when Celery asks for it: importing this module must not read the environment."""
    if name != "app":
        raise AttributeError(name)
    try:
        value = create_app(Settings.from_environment())
    except (PlanError, SettingsError) as error:
        sys.exit(f"backbeat: {error}")
    globals()["app"] = value
    return value
