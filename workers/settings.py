"""What a process is told by its environment, and the connections it makes from that."""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from ipaddress import ip_address
from pathlib import Path
from typing import TypeVar

from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry

from schedules import durations
from workers.probe import run_directory

log = logging.getLogger("backbeat.settings")

VERSION = version("backbeat")

T = TypeVar("T")


class SettingsError(Exception):
    """An environment variable or a server that Backbeat cannot work with."""


@dataclass(frozen=True)
class Settings:
    """One process's settings.

    Environment: `BACKBEAT_REDIS_URL` (redis://127.0.0.1:6379/0), `BACKBEAT_CONFIG`
    (config/unified_loop.yaml), `BACKBEAT_DATA` (.backbeat), `BACKBEAT_NODE_ID` (the host's name),
    `BACKBEAT_CAPABILITIES` (cpu), `BACKBEAT_DRAIN` (how long running jobs may go on after SIGTERM: 10s),
    `BACKBEAT_BIND` and `BACKBEAT_PORT` (where the agent answers probes: `*`, every address; 0, any free port),
    `BACKBEAT_TAILSCALE_AUTH_KEY_FILE` (instead of `tailnet.auth_key_file`),
    `BACKBEAT_STORE` (instead of `store.url`), `BACKBEAT_RUN` (where its processes answer probes:
    `run` in `BACKBEAT_DATA`). An empty one counts as absent.
    """

    redis_url: str = "redis://127.0.0.1:6379/0"
    config: Path = Path("config/unified_loop.yaml")
    data: Path = Path(".backbeat")
    node_id: str = "node"
    capabilities: tuple[str, ...] = ("cpu",)
    drain: float = 10.0
    bind: tuple[str, ...] = ()
    port: int = 0
    auth_key_file: Path | None = None
    store: str | None = None
    run: Path = Path(".backbeat/run")

    @classmethod
    def from_environment(cls, env: Mapping[str, str] = os.environ) -> Settings:
        """Raises SettingsError naming the variable and what it accepts."""

        def read(name: str, default: str, parse: Callable[[str], T]) -> T:
            try:
                return parse(env.get(name) or default)
            except ValueError as error:
                raise SettingsError(f"{name}: {error}") from error

        host = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname()).lstrip("._-")[:64]
        return cls(
            redis_url=read("BACKBEAT_REDIS_URL", cls.redis_url, check_url),
            config=read("BACKBEAT_CONFIG", str(cls.config), Path),
            data=read("BACKBEAT_DATA", str(cls.data), Path),
            node_id=read("BACKBEAT_NODE_ID", host or cls.node_id, check_node_id),
            capabilities=read("BACKBEAT_CAPABILITIES", "cpu", _capabilities),
            drain=read("BACKBEAT_DRAIN", str(cls.drain), durations.parse),
            bind=read("BACKBEAT_BIND", "*", _addresses),
            port=read("BACKBEAT_PORT", str(cls.port), _port),
            auth_key_file=read("BACKBEAT_TAILSCALE_AUTH_KEY_FILE", "", lambda name: Path(name) if name else None),
            store=read("BACKBEAT_STORE", "", lambda url: url or None),
            run=run_directory(env),
        )


def _capabilities(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for name in names:
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,31}", name):
            raise ValueError(f"{name!r} is no capability: give names in small letters, such as cpu,gpu")
    return names


def _addresses(text: str) -> tuple[str, ...]:
    if text.strip() == "*":
        return ()
    try:
        return tuple(dict.fromkeys(str(ip_address(part.strip())) for part in text.split(",")))
    except ValueError as error:
        raise ValueError(f"{error}: give addresses of this machine, such as 10.0.0.7,::1, or * for all") from error


def _port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > 65535:
        raise ValueError(f"{text!r} is no port: give a number from 1 to 65535, or 0 for any that is free")
    return int(text)


def check_node_id(node_id: str) -> str:
    """The id, if it can be part of the names of queues and folders; else raise ValueError."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", node_id):
        raise ValueError(
            f"{node_id!r} is no node's name: use 1 to 64 letters, digits, '.', '_' or '-', a letter or digit first"
        )
    return node_id


def check_url(url: str) -> str:
    """The URL, if it is a server's address; else raise ValueError, which says what is accepted."""
    try:
        if not re.match(r"rediss?://", url):
            raise ValueError("no such scheme")
        connect(url).connection_pool.make_connection()  # which is where a query's options are read
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{redact(url)!r} is no server's address: use redis://:password@host:port/db, or rediss:// with TLS; "
            "in a password, write % as %25, / as %2F, @ as %40"
        ) from error
    return url


def check_credentials(text: str) -> str:
    """The dashboard's credentials, NAME:PASSWORD or more of them after commas; else raise ValueError."""
    for each in text.split(",") if text else ():
        name, _, password = each.partition(":")
        if not name or not password:
            raise ValueError("not NAME:PASSWORD")  # and not the word itself: it may be a password
    return text


def redact(url: str) -> str:
    """A URL fit for logs: without its password."""
    url = re.sub(r"(://[^:/@]*):.*@", r"\1:***@", url)
    return re.sub(r"([?&]password=)[^&]*", r"\1***", url)


def no_answer(url: str, error: RedisError) -> str:
    """Why a server cannot be used, in one line."""
    text = str(error).rstrip(".")
    if "authenticat" in text.lower():  # what servers say here is about their own protocol
        text = "it wants a password: redis://:password@host:port/db"
    return f"cannot use the server {redact(url)}: {text}"


def connect(url: str, *, timeout: float = 2.0) -> Redis:
    """A client that answers or fails within `timeout` seconds a call: callers decide about retries."""
    return Redis.from_url(
        url,
        decode_responses=True,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=0,
        max_connections=4096,  # a thread keeps its own (see the ledger)
    )


def refuse_eviction(redis: Redis) -> None:
    """Raise SettingsError when the server may evict our keys: a lost lease or job would look like none."""
    policy = redis.info("memory").get("maxmemory_policy", "unknown")
    if policy != "noeviction":
        raise SettingsError(
            f"the Redis server may evict keys (maxmemory-policy is {policy!r}); "
            "set it to noeviction: CONFIG SET maxmemory-policy noeviction"
        )


def exit_if_evicting(redis: Redis) -> None:
    """At the start of a process: end it with one line if the server may evict. One that is away may come."""
    try:
        refuse_eviction(redis)
    except SettingsError as error:
        sys.exit(f"backbeat: {error}")
    except RedisError as error:
        log.warning("the server does not answer yet: %s", error)
