"""The status document as bytes. Of a node that says what it said before, nothing is read or written anew."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cache
from typing import Any

from msgspec import Raw, Struct
from msgspec.json import Decoder, Encoder

from fleet.node_record import Facts, sound
from fleet.nodes import SAID, decode_nodes, node_rows, standing
from workers.ledger import Ledger
from workers.status import cluster


class _Reported(Struct):
    """What an agent says that is another thing each time: as the text it is said in, by its name in the document."""

    metrics: Raw = Raw(b"{}")
    addresses: Raw = Raw(b"{}")
    clock_offset: Raw = Raw(b"null")
    tailnet: Raw = Raw(b"null")


_JSON, _REPORTED = Encoder(), Decoder(_Reported)
#: Seconds after which all is read anew: a process of another version may not say when it changed something.
WHOLE_EVERY = 60.0
#: What of a node's document passes with time.
_PASSING = ("status", "live", "last_seen")


class _Unknown(LookupError):
    """What was not read is not known either."""


class StatusDocument:
    """`read_status` as JSON, for many readings of many nodes. Raises redis.RedisError when Redis is away."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._known: dict[str, _Written] = {}
        self._since, self._whole_at = 0.0, -WHOLE_EVERY
        self._lock = threading.Lock()

    def read(self) -> bytes:
        """The document as of now, in one round trip: two, when the server's clock went back."""
        if self._since - self._whole_at < WHOLE_EVERY:
            try:
                return self._document(self._ledger.read(since=self._since))
            except _Unknown:
                pass
        return self._document(self._ledger.read(), whole=True)

    def _document(self, rows: list[Any], *, whole: bool = False) -> bytes:
        """The document of these rows. Raises _Unknown when they leave out what is not known here either."""
        now = int(rows[0]) / 1000
        document = cluster(rows, now)
        del document["nodes"]
        with self._lock:
            if now < self._since and not whole:  # another thread was told something newer meanwhile
                raise _Unknown
            nodes = b",".join(self._nodes(rows[5], now))
            self._since = now
            if whole:
                self._whole_at = now
        return b'%b,"nodes":[%b]}' % (_JSON.encode(document)[:-1], nodes)

    def _nodes(self, answer: Any, now: float) -> list[bytes]:
        known, parts = {}, []
        for node_id, seen, values in sorted(node_rows(answer)):
            written = self._known.get(node_id)
            if len(values) > len(SAID):
                written = _Written.of(node_id, seen, values, now)
            elif written is None or values[1] != written.values[1]:
                raise _Unknown
            elif values[0] != written.values[0] and not written.hears(values[0]):
                written = _Written.of(node_id, seen, [*values, *written.values[len(SAID) :]], now)
            known[node_id] = written
            last_seen = float(seen) / 1000
            head = _head(*standing(*written.judged, last_seen, now))
            parts.append(b"%b%a,%b,%b}" % (head, last_seen, written.reported, written.frame))
        self._known = known
        return parts


@dataclass(slots=True)
class _Written:
    """A node's document in pieces, and what it was made of."""

    values: list[Any]
    name: tuple[Any, ...] | None
    reported: bytes
    frame: bytes
    judged: tuple[str, float]

    @classmethod
    def of(cls, node_id: str, seen: str, values: list[Any], now: float) -> _Written:
        (node,) = decode_nodes(((node_id, seen), (values,)))
        document = node.document(now)
        for name in _PASSING:
            del document[name]
        reported = {name: document.pop(name) for name in _Reported.__struct_fields__}
        facts = sound(values[0]) if "agent" in node.roles else None
        said = _name(facts) if facts else None
        return cls(values, said, _JSON.encode(reported)[1:-1], _JSON.encode(document)[1:-1], node.judged)

    def hears(self, agent: Any) -> bool:
        """Whether it is now the document of what the agent says: not when that changes the part that is kept."""
        facts = sound(agent) if agent else None
        if not facts or _name(facts) != self.name:
            return False
        self.values[0], self.reported = agent, _JSON.encode(_REPORTED.decode(agent))[1:-1]
        return True


def _name(facts: Facts) -> tuple[Any, ...]:
    """What an agent says that stands in the part of the document that is kept."""
    return facts.pid, facts.host, facts.version


@cache
def _head(status: str, live: bool) -> bytes:
    return b'{"status":%b,"live":%b,"last_seen":' % (_JSON.encode(status), _JSON.encode(live))
