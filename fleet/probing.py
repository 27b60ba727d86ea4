"""A probe proves that a certain agent answers at an address, and not merely that a port is open there.

The prober sends a random nonce, one line. The agent answers one line of JSON: its node's id, and a keyed
hash of nonce and id. The key is made anew at each start of an agent and stands in its heartbeat, which only
members of the cluster can read. So a node that took over the address of another one cannot answer for it,
nor can an answer be used twice. What it does not prove is that nobody relays the answer.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: Bytes of a question and of an answer, at most, with their line's end.
QUESTION_LIMIT, ANSWER_LIMIT = 64, 512
_NONCE = re.compile(rb"[0-9a-f]{32}\n")

ANSWERED, REFUSED, TIMED_OUT, WRONG_NODE, MALFORMED, NO_ROUTE = (
    "answered",
    "refused",
    "timed out",
    "wrong node",
    "malformed",
    "no route",
)


@dataclass(frozen=True)
class Answer:
    """What came of one probe. `reason` is one of the six above; only ANSWERED proves the node."""

    reason: str
    detail: str = ""

    @property
    def is_proof(self) -> bool:
        return self.reason == ANSWERED

    def __str__(self) -> str:
        return f"{self.reason} ({self.detail})" if self.detail else self.reason


@dataclass(frozen=True)
class Responder:
    """Where an agent answers probes: its `port`, its `key`, and the addresses it is bound to (none: all)."""

    port: int
    key: str
    bound: tuple[str, ...] = ()

    @property
    def facts(self) -> dict[str, Any]:
        """As it stands in the heartbeat."""
        return {"port": self.port, "key": self.key, "bound": list(self.bound)}

    @classmethod
    def of(cls, facts: Any) -> Responder | None:
        """What a heartbeat says; None when it says nothing that can be used."""
        if not isinstance(facts, Mapping):
            return None
        port, key, bound = facts.get("port"), facts.get("key"), facts.get("bound", ())
        if type(port) is not int or not 0 < port < 65536 or not isinstance(key, str) or not key:
            return None
        return cls(port, key, tuple(map(str, bound)) if isinstance(bound, list | tuple) else ())


def new_key() -> str:
    return secrets.token_hex(32)


def new_question() -> bytes:
    return f"{secrets.token_hex(16)}\n".encode()


def answer_to(question: bytes, node_id: str, key: str) -> bytes | None:
    """The agent's answer; None to what is no question."""
    if not _NONCE.fullmatch(question):
        return None
    return json.dumps({"node_id": node_id, "proof": _proof(question, node_id, key)}).encode() + b"\n"


def judge(question: bytes, answer: bytes, node_id: str, key: str) -> Answer:
    """Whether this answer to this question is that of the node's agent."""
    try:
        told = json.loads(answer) if answer.endswith(b"\n") else None
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict) or not isinstance(told.get("node_id"), str) or not isinstance(told.get("proof"), str):
        return Answer(MALFORMED)
    if told["node_id"] != node_id:
        return Answer(WRONG_NODE, "another node answers")
    if not hmac.compare_digest(told["proof"].encode(errors="replace"), _proof(question, node_id, key).encode()):
        return Answer(WRONG_NODE, "it does not know the key")
    return Answer(ANSWERED)


async def probe(address: str, responder: Responder, node_id: str, timeout: float) -> Answer:
    """Ask at an address for the node's agent; never raises, and takes at most `timeout` seconds."""
    question = new_question()
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection(address, responder.port, limit=ANSWER_LIMIT)
            writer.write(question)
            answer = await reader.readuntil(b"\n")
    except TimeoutError:
        return Answer(TIMED_OUT)
    except (ConnectionRefusedError, ConnectionResetError):
        return Answer(REFUSED)
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return Answer(MALFORMED)
    except (OSError, ValueError) as error:  # ValueError: what is no address
        return Answer(NO_ROUTE, getattr(error, "strerror", None) or str(error))
    finally:
        if writer is not None:
            writer.transport.abort()  # there is nothing more to say, and a close may wait for the other side
    return judge(question, answer, node_id, responder.key)


def _proof(question: bytes, node_id: str, key: str) -> str:
    return hmac.new(key.encode(errors="replace"), question + node_id.encode(), "sha256").hexdigest()
