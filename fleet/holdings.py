"""What a node holds of the cluster's data, as the registry has it: a part each for matches, games and models.

It is read from the node's own files, so it is true again after any crash, and said again when it changes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fleet import games, matches, models
from fleet.nodes import HELD, NodeRegistry

#: Reads one part from a node's data directory; cheap, and empty when there is nothing yet.
Read = Callable[[Path], Mapping[str, Any]]

#: By part, who reads it.
READERS: Mapping[str, Read] = {
    "matches": matches.holdings,
    "games": games.holdings,
    "models": models.holdings,
}

#: Seconds after which what has not changed is said again, for a server that lost it.
AGAIN_AFTER = 600.0

log = logging.getLogger("backbeat.holdings")


class Holdings:
    """One process's view of what its node holds, and what it last said of it."""

    def __init__(
        self,
        nodes: NodeRegistry,
        node_id: str,
        data: Path,
        *,
        readers: Mapping[str, Read] = READERS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if unknown := readers.keys() - set(HELD):
            raise ValueError(f"parts {', '.join(sorted(unknown))}: the registry has {', '.join(HELD)}")
        self._nodes, self._node_id, self._data, self._readers, self._clock = nodes, node_id, data, readers, clock
        self._said: dict[str, tuple[float, Mapping[str, Any]]] = {}
        self._unreadable: dict[str, str] = {}
        self._lock = threading.Lock()

    def read(self) -> dict[str, Mapping[str, Any]]:
        """Every part. One that cannot be read says why, under `unreadable`."""
        return {part: self._part(part, read) for part, read in self._readers.items()}

    def report(self) -> None:
        """Tell the registry what is new. Raises RedisError."""
        with self._lock:  # an older reading must not be written over a newer one
            found, now = self.read(), self._clock()
            news = {
                part: value
                for part, value in found.items()
                if part not in self._said or self._said[part][1] != value or now - self._said[part][0] >= AGAIN_AFTER
            }
            if news:
                self._nodes.hold(self._node_id, news)
                self._said |= {part: (now, value) for part, value in news.items()}

    def _part(self, part: str, read: Read) -> Mapping[str, Any]:
        try:
            found = read(self._data)
        except Exception as error:  # noqa: BLE001 - said in the registry, and logged when it is new
            why = f"{type(error).__name__}: {error}"
            if self._unreadable.get(part) != why:
                log.warning("what this node holds of %s cannot be read: %s", part, why)
            self._unreadable[part] = why
            return {"unreadable": why[:500]}
        self._unreadable.pop(part, None)
        return found
