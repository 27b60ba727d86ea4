"""Celery's worker and consumer with the defaults of this house."""

from __future__ import annotations

import logging
from typing import Any

from celery.apps.worker import Worker as CeleryWorker
from celery.exceptions import WorkerShutdown
from celery.worker.consumer import Consumer as CeleryConsumer
from celery.worker.state import maybe_shutdown
from redis import RedisError

from tasks.node import refuse
from workers.agent import NODE
from workers.mainloop import MAIN_LOOP
from workers.settings import SettingsError, refuse_eviction

log = logging.getLogger("backbeat.consumer")

#: Seconds between two notes that the main loop turns.
TURN_EVERY = 1.0


class Worker(CeleryWorker):
    """A worker without gossip and mingle: nothing here uses them, and at start they cost seconds and replies."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "without_gossip": True, "without_mingle": True})


class Consumer(CeleryConsumer):
    """A consumer that is back within a second of the broker: kombu's own backoff grows to 30 s."""

    first_connection_attempt: bool

    def ensure_connected(self, conn: Any) -> Any:
        def tell(error: BaseException, _interval: float) -> None:
            self.broker_connection_retry_attempt += 1
            if self.broker_connection_retry_attempt % 20 == 1:
                _log(conn, error)

        def wait() -> None:
            MAIN_LOOP.turn()
            maybe_shutdown()

        conn = conn.ensure_connection(
            tell, None, interval_start=0.2, interval_step=0.2, interval_max=1.0, callback=wait
        )
        self.broker_connection_retry_attempt = 0
        if self.first_connection_attempt:
            self._refuse_eviction()
        self.first_connection_attempt = False
        return conn

    def register_with_event_loop(self, hub: Any) -> None:
        """Once a connection; what is registered here ends with it."""
        super().register_with_event_loop(hub)
        hub.call_repeatedly(TURN_EVERY, MAIN_LOOP.turn)

    def on_unknown_task(self, body: Any, message: Any, exc: BaseException) -> None:
        """Of another version's node task, whoever asked is told at once; Celery only logs and drops it."""
        super().on_unknown_task(body, message, exc)
        name = str(message.headers["task"])
        if name.startswith(NODE):
            try:
                (_, reply), *_ = message.decode()
                refuse(self.app.backbeat.fleet, name.removeprefix(NODE), reply)
            except (ValueError, TypeError, RedisError) as error:
                log.warning("nobody is told that there is no %s: %s", name, error)

    def _refuse_eviction(self) -> None:
        try:
            refuse_eviction(self.app.backbeat.redis)
        except SettingsError as error:
            log.critical("%s", error)
            raise WorkerShutdown(1) from None
        except RedisError as error:
            log.warning("the server did not say whether it evicts: %s", error)


def _log(conn: Any, error: BaseException) -> None:
    log.error("no connection to %s: %s; trying again every second", conn.as_uri(), error)
