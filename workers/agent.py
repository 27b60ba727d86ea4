"""The agent's boot step: its place in the node registry, the leader lease, and the queues that follow from them.

The agent is the worker that consumes `loops`. It adds its own `node.<id>` queue, and the `leader`
queue while it holds the lease. Queues are opened and closed in the consumer's thread only, by reading
the lease anew each time: gains and losses may arrive late and in a bunch after a reconnect.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from celery import bootsteps
from celery.signals import worker_shutting_down

from fleet.meter import Meter
from fleet.nodes import HEARTBEAT
from workers.answering import Answering, worker_is_ready
from workers.lease import LeaderLease
from workers.mainloop import MAIN_LOOP
from workers.membership import Membership
from workers.presence import Presence
from workers.pulse import Pulse
from workers.settings import connect
from workers.vitals import Vitals
from workers.whereabouts import Whereabouts

if TYPE_CHECKING:
    from workers.app import Backbeat

log = logging.getLogger("backbeat.agent")

LOOPS_QUEUE, LEADER_QUEUE = "loops", "leader"
#: Before the name of a node task, and before the id that names a node's queue.
NODE = "node."


class AgentStep(bootsteps.StartStopStep):
    """Runs in the worker that consumes `loops`."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        self.backbeat: Backbeat = consumer.app.backbeat
        self.lease: LeaderLease | None = None
        self.presence: Presence | None = None
        self.vitals: Vitals | None = None
        self.whereabouts: Whereabouts | None = None
        self.membership: Membership | None = None
        self.holdings = Pulse("holdings", HEARTBEAT, self.backbeat.fleet.report_holdings)

    def include_if(self, consumer: Any) -> bool:
        return LOOPS_QUEUE in consumer.app.amqp.queues.consume_from

    def create(self, consumer: Any) -> None:
        """Before the first connection: probes are answered from here on."""
        worker_shutting_down.connect(MAIN_LOOP.end, weak=False)
        queues = {LOOPS_QUEUE, NODE + self.backbeat.settings.node_id}
        Answering(self.backbeat.settings.run, "agent", lambda: worker_is_ready(consumer, self.presence, queues)).start()

    def start(self, consumer: Any) -> None:
        """In the consumer's thread, again after every reconnect. Raises WorkerShutdown: it must not run here."""
        if self.presence is None:
            self._appear()
        if self.lease is None:
            self._compete(consumer)
        node_queue = NODE + self.backbeat.settings.node_id
        consumer.add_task_queue(node_queue, routing_key=node_queue, exchange="")
        self.reconcile(consumer)

    def _appear(self) -> None:
        """Be this node's agent before anything is done in its name."""
        settings, nodes = self.backbeat.settings, self.backbeat.fleet.nodes
        try:
            settings.data.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            log.warning("no data directory: %s", error)
        vitals = Vitals(nodes, settings.node_id, Meter(settings.data))
        whereabouts = Whereabouts(vitals, settings, self.backbeat.fleet.options.public_address)
        membership = Membership(whereabouts, self.backbeat.tailnet)
        presence = Presence(nodes, settings.node_id, "agent", membership)
        presence.take()
        self.presence, self.vitals, self.whereabouts, self.membership = presence, vitals, whereabouts, membership
        worker_shutting_down.connect(self._resign, weak=False)
        presence.start()
        vitals.start(presence.nudge)
        whereabouts.start(presence.nudge)
        membership.start(presence.nudge)
        self.holdings.start()

    def _compete(self, consumer: Any) -> None:
        self.lease = LeaderLease(
            connect(self.backbeat.settings.redis_url, timeout=0.7),
            self.backbeat.settings.node_id,
            changed=lambda: consumer.call_soon(self.reconcile, consumer),
        )
        self.backbeat.lease = self.lease
        self.backbeat.runner.abandon = consumer.pool.abandon
        self.backbeat.runner.step_down = self.lease.step_down
        self.lease.start()

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
        """In the signal handler: what runs may end here, while another agent of this node takes over."""
        self.backbeat.fleet.stopping.set()
        if self.lease is not None:
            self.lease.resign()
        if self.presence is not None:
            self.presence.leave_soon()

    def shutdown(self, _consumer: Any) -> None:
        """The worker ends (not on a reconnect)."""
        if self.presence is not None:
            self.holdings.stop()
        for part in (self.membership, self.whereabouts, self.vitals, self.lease):
            if part is not None:
                part.stop()
        if self.presence is not None:
            self.presence.leave()
        self.backbeat.close()
