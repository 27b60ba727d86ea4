"""What a node is asked to do about games: export those it played, or gather everybody's."""

from __future__ import annotations

import time
from dataclasses import asdict

from pydantic import Field

from fleet.fleet import Fleet
from fleet.game_export import Bounds, export
from fleet.game_ingest import Intake, ingest
from fleet.games import GATHERED
from fleet.gathered import arrived
from fleet.notices import Notice
from tasks.node import Answer, Arguments, node_task


class ExportGames(Arguments):
    """How much is exported at most: games and bytes of a shard, shards, seconds; and for how many seconds games that
    the central node has stay here."""

    shard_games: int = Field(default=Bounds.shard_games, ge=1, le=1_000_000)
    shard_bytes: int = Field(default=Bounds.shard_bytes, ge=1, le=128 << 20)
    shards: int = Field(default=Bounds.shards, ge=1, le=10_000)
    seconds: float = Field(default=Bounds.seconds, gt=0, le=3_600)
    keep_for: float = Field(default=Bounds.keep_for, ge=0)


class IngestGames(Arguments):
    """How much is taken in at most, and of which nodes it is told how many games came here."""

    shards: int = Field(default=Intake.shards, ge=1, le=100_000)
    seconds: float = Field(default=Intake.seconds, gt=0, le=3_600)
    nodes: list[str] = Field(default_factory=list, max_length=1_000)


@node_task(arguments=ExportGames)
def export_games(fleet: Fleet, arguments: ExportGames) -> Answer:
    """Leaves this node's new games in the store's inbox: the fields of fleet.game_export.Exported, or `without_store`.

    Idempotent: what was sent is not sent again, and games that come twice are known by their ids.
    """
    if fleet.store is None:
        return {"without_store": True}
    bounds = Bounds(**arguments.model_dump())
    try:
        done = export(fleet.store, fleet.data, fleet.node_id, bounds, time.time(), cancel=fleet.stopping)
        if done.refused:
            said = f"{done.refused} of {fleet.node_id} will go nowhere as they are, such as {done.why}"
            fleet.notices.send(Notice("Games refused", said, "warning"))
        return asdict(done)
    finally:
        fleet.report_holdings()


@node_task(arguments=IngestGames)
def ingest_games(fleet: Fleet, arguments: IngestGames) -> Answer:
    """Takes in the shards of the store's inbox: the fields of fleet.game_ingest.Ingested, and `arrived`, the games of
    each of `nodes` that came here, by configuration; or `without_store`.

    Idempotent: a shard that was taken in is known by its name and checksum, a game by its id.
    """
    if fleet.store is None:
        return {"without_store": True}

    def told(shard: str, why: str) -> None:
        fleet.notices.send(Notice("Shard of games refused", f"{shard}: {why}", "warning"))

    try:
        intake = Intake(arguments.shards, arguments.seconds)
        done = asdict(ingest(fleet.store, fleet.data, intake, time.time(), told=told, cancel=fleet.stopping))
        return {**done, "arrived": arrived(fleet.data / GATHERED, arguments.nodes)}
    finally:
        fleet.report_holdings()
