"""kombu's Redis transport, made to outlive what comes over the wire.

Two of its habits end a worker: an item on a queue that is no message at all raises out of the event
loop, and a channel asked for its connection parameters after the connection was collected raises
AttributeError instead of a connection error.
"""

from __future__ import annotations

import logging
from queue import Empty
from typing import Any

from kombu.transport import TRANSPORT_ALIASES
from kombu.transport import redis as kombu_redis
from redis.exceptions import ConnectionError as RedisConnectionError

log = logging.getLogger("backbeat.transport")

_MALFORMED = (ValueError, TypeError, KeyError, AttributeError)


class Channel(kombu_redis.Channel):
    """Drops what is not a message, with a warning; reports a closed connection as one."""

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)
        except _MALFORMED as error:
            log.warning("dropped a malformed item from a queue: %s: %.200s", type(error).__name__, error)
            raise Empty from error

    def _connparams(self, asynchronous: bool = False) -> Any:
        if self.connection.client is None:
            raise RedisConnectionError("channel of a closed broker connection")
        return super()._connparams(asynchronous=asynchronous)


class Transport(kombu_redis.Transport):
    """The Redis transport with the channel above."""

    Channel = Channel


def install() -> None:
    """Make `redis://` and `rediss://` mean this transport in this process."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = "workers.transport:Transport"
