"""The status document as bytes. Of a node that says what it said before, nothing is read or written anew."""

from __future__ import annotations

from operator import itemgetter
from typing import Any

from pydantic_core import to_json

from fleet.nodes import ROLES, Node, decode_nodes, read_arguments
from workers.ledger import Ledger
from workers.status import cluster

_FIELDS = read_arguments()[1:]
_INSTANTS = itemgetter(*(_FIELDS.index(f"{role}:at") for role in ROLES))
_WORDS = itemgetter(*(place for place, name in enumerate(_FIELDS) if not name.endswith(":at")))
#: What changes in a node's document when time passes and it is heard again.
_PASSING = ("status", "live", "last_seen")


class StatusDocument:
    """`read_status` as JSON, for many readings of many nodes. Raises redis.RedisError when Redis is away."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._known: dict[str, tuple[Any, Node, bytes]] = {}

    def read(self) -> bytes:
        """The document as of now, in one round trip."""
        rows = self._ledger.read()
        now = int(rows[0]) / 1000
        document = cluster(rows, now)
        del document["nodes"]
        return to_json(document)[:-1] + b',"nodes":[' + b",".join(self._nodes(rows[5], now)) + b"]}"

    def _nodes(self, rows: list[Any], now: float) -> list[bytes]:
        known, parts = {}, []
        for each in sorted(rows, key=itemgetter(0)):
            node_id, seen, values = each
            said = _WORDS(values), tuple((at and at.isdecimal()) or at for at in _INSTANTS(values))
            entry = self._known.get(node_id)
            if entry is None or entry[0] != said:
                entry = (said, *_written(each, now))
            known[node_id] = entry
            _, node, rest = entry
            last_seen = float(seen) / 1000
            status, live = node.standing(last_seen, now)
            word = b"true" if live else b"false"
            parts.append(
                b'{"status":"%b","live":%b,"last_seen":%b,%b' % (status.encode(), word, repr(last_seen).encode(), rest)
            )
        self._known = known  # other threads may read meanwhile: they take the one or the other
        return parts


def _written(row: Any, now: float) -> tuple[Node, bytes]:
    """A node in brief, and its document without what passes, as the end of a JSON object."""
    (node,) = decode_nodes([row])
    document = node.document(now)
    for name in _PASSING:
        del document[name]
    return _brief(node), to_json(document)[1:]


def _brief(node: Node) -> Node:
    """What `Node.standing` looks at: of a thousand nodes, all the rest is much for the garbage collector to look at."""
    marks = {"health": health} if (health := node.marks.get("health")) else {}
    return Node(node.node_id, node.last_seen, {role: {} for role in node.roles}, marks=marks)
