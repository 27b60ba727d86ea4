"""Models on the command line, over a real registry of nodes and a store in a folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from redis import Redis

from fleet.elo_board import ELO
from fleet.model_registry import ModelRegistry
from fleet.nodes import NodeRegistry
from fleet.store import Store
from tests.fleet.model_stage import NOW, stocked, version
from tests.workers.show_stage import text
from workers import show_models
from workers.settings import connect

Cli = Callable[..., Result]

ONE, TWO, THREE = (version(number).version for number in (1, 2, 3))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("BACKBEAT_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("COLUMNS", "200")
    return Store(str(tmp_path / "store"))


@pytest.fixture
def registry(store: Store, tmp_path: Path) -> ModelRegistry:
    return stocked(store, tmp_path, *(version(number) for number in (1, 2, 3)), version(4, "hex8_2p"))


@pytest.fixture
def nodes(session_server: Any, redis: Redis) -> Iterator[NodeRegistry]:
    client = connect(session_server.url)
    yield NodeRegistry(client)
    client.close()


def promoted(registry: ModelRegistry) -> tuple[str | None, str | None]:
    known = registry.read()["hex5_2p"]
    return known.promoted, known.previous


def test_before_the_first_model_it_says_where_they_come_from(cli: Cli, store: Store) -> None:
    shown = cli("models").stdout
    assert "No models in" in shown
    assert "models/new/" in shown
    assert json.loads(cli("models", "--json").stdout)["configs"] == []
    assert "there is no model of hex5_2p; there is none of any other" in cli("models", "list", "hex5_2p", code=1).stderr


def test_a_configuration_without_models_is_told_beside_those_that_have_some(cli: Cli, registry: ModelRegistry) -> None:
    said = cli("models", "list", "hex4_2p", code=1).stderr
    assert "there is no model of hex4_2p; there are models of hex5_2p, hex8_2p" in said


def test_the_list_has_who_is_promoted_how_strong_each_is_and_who_has_it(
    cli: Cli, registry: ModelRegistry, nodes: NodeRegistry, redis: Redis
) -> None:
    registry.promote(registry.read()["hex5_2p"], TWO, now=NOW, by="n1", why="+50 Elo")
    for node, held in (("n1", [ONE, TWO]), ("n2", [TWO]), ("n3", "odd")):
        nodes.heartbeat(node, "agent", {"host": "h"})
        nodes.hold(node, {"models": {"hex5_2p": {"versions": held}, "unpublished": 0}})
    ranking = [{"participant": TWO, "type": "model", "rating": 812.3, "deviation": 20.0, "games": 64}]
    redis.hset(ELO, "hex5_2p", json.dumps({"config": "hex5_2p", "ranking": ranking}))
    registry.store.delete(version(1).blob)
    registry.store.write("models/hex5_2p/versions/odd.json", b"{}")

    lines = cli("models", "list", "hex5_2p").stdout.splitlines()
    assert lines[0].startswith("hex5_2p: promoted ")
    assert lines[0].endswith("by n1: +50 Elo")
    assert lines[1].split() == ["version", "stands", "Elo", "matches", "nodes", "size", "games", "trained"]
    assert lines[3].split()[:9] == [TWO, "promoted", "812", "±", "39", "64", "2", "of", "3"]
    assert "pruned" in lines[4]
    assert "1 records are refused:" in "\n".join(lines)

    document = json.loads(cli("models", "--json").stdout)
    assert [each["config"] for each in document["configs"]] == ["hex5_2p", "hex8_2p"]
    second = document["configs"][0]["versions"][1]
    assert (second["version"], second["stands"], second["nodes"], second["stored"]) == (TWO, "promoted", 2, True)
    assert (second["rating"], second["rated_games"], second["sha256"]) == (812.3, 64, version(2).sha256)
    assert document["refused"].keys() == {"models/hex5_2p/versions/odd.json"}
    assert document["nodes"] == 3


def test_a_limit_leaves_out_old_versions_but_never_the_promoted_one(cli: Cli, registry: ModelRegistry) -> None:
    registry.promote(registry.read()["hex5_2p"], ONE, now=NOW, by="n1", why="")
    shown = cli("models", "list", "hex5_2p", "--limit", "1").stdout
    assert THREE in shown
    assert ONE in shown
    assert TWO not in shown
    assert "showing 2 of 3 versions of hex5_2p; more with --limit" in shown


def test_a_version_is_promoted_by_a_part_of_its_name(cli: Cli, registry: ModelRegistry) -> None:
    said = cli("models", "promote", "hex5_2p", "g0001", "--reason", "to begin with").stdout
    assert f"{ONE} is promoted; nodes follow" in said
    assert f"{THREE} is promoted in place of {ONE}" in cli("models", "promote", "hex5_2p", THREE).stdout
    assert promoted(registry) == (THREE, ONE)
    first, second = registry.read()["hex5_2p"].promotions
    assert (first.why, first.kind) == ("to begin with", "promotion")
    assert "@" in second.by
    document = json.loads(cli("models", "promote", "hex5_2p", "g0002", "--json").stdout)
    assert document["version"] == TWO


def test_what_cannot_be_promoted_is_said(cli: Cli, registry: ModelRegistry) -> None:
    said = cli("models", "promote", "hex5_2p", "g0009", code=1).stderr
    assert f"'g0009' is no version of hex5_2p: {THREE}, {TWO}, {ONE}" in said
    assert "fits more than one version" in cli("models", "promote", "hex5_2p", "g000", code=1).stderr
    assert "there are models of hex5_2p, hex8_2p" in cli("models", "promote", "square8_2p", "x", code=1).stderr
    assert "is not a board configuration" in cli("models", "promote", "../etc", "x", code=2).stderr
    cli("models", "promote", "hex5_2p", "g0001")
    assert "is promoted already" in cli("models", "promote", "hex5_2p", "g0001", code=1).stderr
    registry.store.delete(version(2).blob)
    assert "its contents are not in" in cli("models", "promote", "hex5_2p", "g0002", code=1).stderr
    assert promoted(registry) == (ONE, None)


def test_a_rollback_asks_and_says_what_it_did(cli: Cli, registry: ModelRegistry) -> None:
    assert "has no version to go back to" in cli("models", "rollback", "hex5_2p", "--yes", code=1).stderr
    for number in (1, 2):
        registry.promote(registry.read()["hex5_2p"], version(number).version, now=NOW, by="", why="")
    asked = cli("models", "rollback", "hex5_2p", answer="n\n", code=1)
    assert f"go back from {TWO} to {ONE}?" in asked.stderr
    assert promoted(registry) == (TWO, ONE)
    said = cli("models", "rollback", "hex5_2p", answer="y\n").stdout
    assert f"{ONE} is promoted again, not {TWO}" in said
    assert promoted(registry) == (ONE, None)
    assert "rolled back" in cli("models").stdout
    cli("models", "promote", "hex5_2p", "g0002")
    document = json.loads(cli("models", "rollback", "hex5_2p", "--yes", "--json").stdout)
    assert (document["version"], document["kind"]) == (ONE, "rollback")


def test_pruning_shows_asks_and_keeps_what_is_needed(cli: Cli, registry: ModelRegistry) -> None:
    registry.promote(registry.read()["hex5_2p"], ONE, now=NOW, by="", why="")
    assert "nothing to prune" in cli("models", "prune").stdout
    few = ("models", "prune", "--keep", "1", "--older-than", "0s")
    dry = cli(*few, "--dry-run").stdout
    assert dry.splitlines() == ["would delete 1 versions, 1.98 kB", f"  {TWO}  1.98 kB"]
    assert registry.store.entry(version(2).blob) is not None
    assert "delete the contents of 1 versions" in cli(*few, answer="n\n", code=1).stderr
    assert registry.store.entry(version(2).blob) is not None
    document = json.loads(cli(*few, "--yes", "--json").stdout)
    assert document == {"deleted": [TWO], "bytes": version(2).size, "dry_run": False}
    assert registry.store.entry(version(2).blob) is None
    assert registry.store.entry(version(1).blob) is not None
    assert TWO in cli("models").stdout


def test_a_store_that_is_none_or_away_is_said(
    cli: Cli, registry: ModelRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no protocol 'nonesuch'" in cli("models", "--store", "nonesuch://x", code=1).stderr
    assert "needs a driver for s3" in cli("models", "list", "--store", "s3://bucket", code=1).stderr
    (tmp_path / "file").write_text("")
    said = cli("models", "--store", str(tmp_path / "file" / "store"), code=1).stderr
    assert said.startswith("backbeat: models in ")
    assert ONE in cli("models", "list", "--store", registry.store.shown).stdout
    monkeypatch.delenv("BACKBEAT_STORE")
    assert "no store is known: name it with --store" in cli("models", code=1).stderr
    root = Path(__file__).parents[2]
    shutil.copy(root / "config" / "fleet.yaml", tmp_path)
    shipped = (root / "config" / "unified_loop.yaml").read_text()
    (tmp_path / "loops.yaml").write_text(f"{shipped}\nstore: {{url: {registry.store.shown}}}\n")
    monkeypatch.setenv("BACKBEAT_CONFIG", str(tmp_path / "loops.yaml"))
    assert ONE in cli("models").stdout


def test_nothing_of_a_record_steers_the_terminal() -> None:
    config = {"config": "hex5_2p", "promoted": "x", "promoted_at": NOW, "promoted_by": "\x1b", "why": "\x1b"}
    document = {
        "store": "x",
        "now": NOW,
        "nodes": 0,
        "configs": [{**config, "versions": []}],
        "refused": {"models/x\x1b[2J": "odd\x07"},
    }
    assert "\x1b" not in text(show_models.models(document, 100, 5))
