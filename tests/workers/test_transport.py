"""The broker's transport: what would end a worker is a warning or a connection error."""

from __future__ import annotations

from typing import Any

import pytest
from kombu import Connection
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from workers import transport


@pytest.fixture
def channel(session_server: Any, redis: Redis) -> Any:
    transport.install()
    with Connection(session_server.url) as connection:
        yield connection.default_channel


def test_redis_urls_mean_the_transport_of_this_house(channel: Any) -> None:
    assert type(channel) is transport.Channel


def test_a_channel_whose_connection_is_gone_says_so_as_a_lost_connection(channel: Any) -> None:
    client, channel.connection.client = channel.connection.client, None
    with pytest.raises(RedisConnectionError, match="closed broker connection"):
        channel._connparams()
    channel.connection.client = client
    assert RedisConnectionError in channel.connection.connection_errors  # what makes the consumer connect anew
