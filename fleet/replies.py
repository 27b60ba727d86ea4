"""Answers of one node to whoever asked it, by way of Redis: short-lived, small, and for one reader."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from typing import Any

from redis import Redis

REPLY = "{backbeat}:reply:"  # + token: list with one answer (JSON). TTL 60 s
#: Seconds that an answer waits for its reader.
KEPT_FOR = 60
#: Bytes of JSON that an answer may take.
LIMIT = 512 * 1024


def new_token() -> str:
    """Names one answer."""
    return secrets.token_hex(16)


def check_token(token: Any) -> str:
    """The token, if it is one; it names a key. Raises ValueError."""
    if not isinstance(token, str) or not re.fullmatch(r"[0-9a-f]{32}", token):
        raise ValueError(f"token {token!r}: 32 hexadecimal digits")
    return token


def answer(redis: Redis, token: str, document: Mapping[str, Any]) -> None:
    """Leave an answer for whoever waits for it. Raises ValueError when it is above LIMIT bytes, or RedisError."""
    text = json.dumps(document)
    if len(text) > LIMIT:
        raise ValueError(f"an answer of {len(text)} bytes; at most {LIMIT}")
    key = REPLY + check_token(token)
    with redis.pipeline() as pipe:
        pipe.rpush(key, text)
        pipe.expire(key, KEPT_FOR)
        pipe.execute()


def wait_for(redis: Redis, token: str, seconds: float) -> Mapping[str, Any] | None:
    """The answer, or None when none came in time. The connection must bear a call of so many seconds."""
    found: Any = redis.blpop([REPLY + check_token(token)], timeout=seconds)
    return None if found is None else dict(json.loads(found[1]))
