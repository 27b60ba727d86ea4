"""The agent's boot step: node heartbeat, leader lease, and the queues that follow from them.

The agent is the worker that consumes `loops`. It adds its own `node.<id>` queue, and the `leader`
queue while it holds the lease. Queues are opened and closed in the consumer's thread only, by reading
the lease anew each time: gains and losses may arrive late and in a bunch after a reconnect.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from typing import TYPE_CHECKING, Any

from celery import bootsteps
from celery.signals import worker_shutting_down

from workers.lease import LeaderLease
from workers.pulse import Pulse
from workers.settings import VERSION, connect

if TYPE_CHECKING:
    from workers.app import Backbeat

log = logging.getLogger("backbeat.agent")

LOOPS_QUEUE, LEADER_QUEUE = "loops", "leader"
HEARTBEAT = 5.0


class AgentStep(bootsteps.StartStopStep):
    """Runs in the worker that consumes `loops`."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        self.backbeat: Backbeat = consumer.app.backbeat
        self.lease: LeaderLease | None = None
        self.pulse: Pulse | None = None

    def include_if(self, consumer: Any) -> bool:
        return LOOPS_QUEUE in consumer.app.amqp.queues.consume_from

    def start(self, consumer: Any) -> None:
        """In the consumer's thread, again after every reconnect."""
        settings = self.backbeat.settings
        consumer.add_task_queue(f"node.{settings.node_id}", routing_key=f"node.{settings.node_id}", exchange="")
        if self.lease is None:
            self.lease = LeaderLease(
                connect(settings.redis_url, timeout=0.7),
                settings.node_id,
                changed=lambda: consumer.call_soon(self.reconcile, consumer),
            )
            self.backbeat.lease = self.lease
            self.backbeat.runner.abandon = consumer.pool.abandon
            self.backbeat.runner.step_down = self.lease.step_down
            worker_shutting_down.connect(self._resign, weak=False)
            self.lease.start()
            started_at = time.time()
            facts = {
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "since": started_at,
                "version": VERSION,
            }
            self.pulse = Pulse(
                "node-heartbeat",
                HEARTBEAT,
                lambda: self.backbeat.fleet.nodes.heartbeat(settings.node_id, "agent", facts),
            )
            self.pulse.start()
        self.reconcile(consumer)

    def reconcile(self, consumer: Any) -> None:
        """Consume `leader` if and only if this process leads now."""
        if consumer.task_consumer is None or self.lease is None:
            return  # between two connections: start() comes again
        leads = self.lease.fence() > 0
        if leads and not consumer.task_consumer.consuming_from(LEADER_QUEUE):
            consumer.add_task_queue(LEADER_QUEUE, routing_key=LEADER_QUEUE, exchange="")
        elif not leads and LEADER_QUEUE in consumer.app.amqp.queues.consume_from:
            consumer.cancel_task_queue(LEADER_QUEUE)

    def _resign(self, **_: Any) -> None:
        if self.lease is not None:
            self.lease.resign()

    def shutdown(self, _consumer: Any) -> None:
        """The worker ends (not on a reconnect)."""
        if self.pulse is not None:
            self.pulse.stop()
        if self.lease is not None:
            self.lease.stop()
        self.backbeat.leave("agent")
