"""The status document as bytes. Of a node that says what it said before, nothing is read or written anew."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cache
from typing import Any

from msgspec import Raw, Struct
from msgspec.json import Decoder, Encoder

from fleet.node_record import Facts, sound
from fleet.nodes import SAID, Node, decode_nodes, node_rows
from workers.ledger import Ledger
from workers.status import cluster


class _Reported(Struct):
    """What an agent says that is another thing each time: as the text it is said in, by its name in the document."""

    metrics: Raw = Raw(b"{}")
    addresses: Raw = Raw(b"{}")
    clock_offset: Raw = Raw(b"null")
    tailnet: Raw = Raw(b"null")


_JSON, _REPORTED = Encoder(), Decoder(_Reported)
#: Where in a node's fields it says when it was marked.
MARKED = len(SAID) - 1
#: What of a node's document passes with time.
_PASSING = ("status", "live", "last_seen")


class _Unknown(LookupError):
    """What was not read is not known either."""


class StatusDocument:
    """`read_status` as JSON, for many readings of many nodes. Raises redis.RedisError when Redis is away."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._known: dict[str, _Written] = {}
        self._since: float | None = None
        self._lock = threading.Lock()

    def read(self) -> bytes:
        """The document as of now, in one round trip: two, when the server's clock went back."""
        try:
            return self._document(self._ledger.read(since=self._since))
        except _Unknown:
            return self._document(self._ledger.read())

    def _document(self, rows: list[Any]) -> bytes:
        """The document of these rows. Raises _Unknown when they leave out what is not known here either."""
        now = int(rows[0]) / 1000
        document = cluster(rows, now)
        del document["nodes"]
        with self._lock:
            nodes = b",".join(self._nodes(rows[5], now))
            self._since = now
        return b'%b,"nodes":[%b]}' % (_JSON.encode(document)[:-1], nodes)

    def _nodes(self, answer: Any, now: float) -> list[bytes]:
        known, parts = {}, []
        for node_id, seen, values in sorted(node_rows(answer)):
            written = self._known.get(node_id)
            if written is None or not written.says(values):
                written = _Written.of(node_id, seen, _whole(values, written), now)
            known[node_id] = written
            last_seen = float(seen) / 1000
            head = _head(*written.node.standing(last_seen, now))
            parts.append(b"%b%b,%b,%b}" % (head, repr(last_seen).encode(), written.reported, written.frame))
        self._known = known
        return parts


@dataclass(slots=True)
class _Written:
    """A node's document in pieces, and what it was made of."""

    values: list[Any]
    heard: tuple[bool, bool]
    facts: Facts | None
    reported: bytes
    frame: bytes
    node: Node

    @classmethod
    def of(cls, node_id: str, seen: str, values: list[Any], now: float) -> _Written:
        (node,) = decode_nodes(((node_id, seen), (values,)))
        document = node.document(now)
        for name in _PASSING:
            del document[name]
        reported = {name: document.pop(name) for name in _Reported.__struct_fields__}
        facts = sound(values[0]) if "agent" in node.roles else None
        marks = {"health": health} if (health := node.marks.get("health")) else {}
        # what `Node.standing` looks at: of a thousand nodes, all the rest is much for the garbage collector to look at
        brief = Node(node.node_id, node.last_seen, {role: {} for role in node.roles}, marks=marks)
        return cls(values, _heard(values), facts, _JSON.encode(reported)[1:-1], _JSON.encode(document)[1:-1], brief)

    def says(self, values: list[Any]) -> bool:
        """Whether it is the document of these fields, or was made so: when only an agent's measurements are others."""
        known = self.values
        if values[MARKED:] != known[MARKED : len(values)] or values[1] != known[1] or _heard(values) != self.heard:
            return False
        if (agent := values[0]) != known[0]:
            facts = sound(agent) if agent else None
            if not facts or not self.facts or _name(facts) != _name(self.facts):
                return False
            known[0], self.reported = agent, _reported(agent)
        return True


def _heard(values: list[Any]) -> tuple[bool, bool]:
    """Whether there is a sound instant of each role's last heartbeat; which one, does not stand in the document."""
    return (values[2] or "").isdecimal(), (values[3] or "").isdecimal()


def _whole(values: list[Any], known: _Written | None) -> list[Any]:
    """All fields of a node. Those that were not read, as it was not marked since, are known; else raises _Unknown."""
    if len(values) > len(SAID):
        return values
    if known is None or values[MARKED] != known.values[MARKED]:
        raise _Unknown
    return values + known.values[len(SAID) :]


def _name(facts: Facts) -> tuple[Any, ...]:
    """What an agent says that stands in the part of the document that is kept."""
    return facts.pid, facts.host, facts.version


def _reported(agent: Any) -> bytes:
    return _JSON.encode(_REPORTED.decode(agent))[1:-1]


@cache
def _head(status: str, live: bool) -> bytes:
    return b'{"status":%b,"live":%b,"last_seen":' % (_JSON.encode(status), _JSON.encode(live))
