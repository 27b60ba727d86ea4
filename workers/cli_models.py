"""The commands that show models, and promote, roll back and prune them."""

from __future__ import annotations

import functools
import getpass
import os
import socket
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from fleet.elo_board import EloBoard
from fleet.model_plan import prunable
from fleet.model_registry import ModelRegistry, Registry
from fleet.models import ConfigModels, Refused, Version, check_config
from fleet.nodes import SILENT_AFTER
from fleet.store import Entry, Store, StoreOptions, StoreUnavailable
from schedules import durations
from tasks.model_sync import Options as Sync
from workers import datadir, show_models
from workers.cli_cluster import (
    DURATION,
    Cluster,
    Parsed,
    bar,
    config_names,
    fail,
    json_option,
    on_cluster,
    printed,
    waiting,
)
from workers.cli_nodes import limit_option
from workers.table import megabytes

#: What the loop does by itself, as far as nothing else is said.
_SYNC = Sync.model_validate({})
CONFIG = Parsed("config", check_config)
_NEXT = "nodes follow with the next run of model_sync; `backbeat run model_sync` makes one now"


def with_store(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options and errors of a command that reads the registry of models; it gets the cluster and the registry."""

    @click.option("--store", metavar="URL", help="The store; default: BACKBEAT_STORE, or that of a running up.")
    @on_cluster
    @functools.wraps(command)
    def wrapped(cluster: Cluster, store: str | None, **kwargs: Any) -> Any:
        try:
            return command(cluster, ModelRegistry(_store(cluster, store)), **kwargs)
        except (StoreUnavailable, Refused) as error:
            fail(str(error))

    return wrapped


def _store(cluster: Cluster, stated: str | None) -> Store:
    """`--store`, BACKBEAT_STORE, that of the configuration, that of an `up`; with the configuration's options."""
    url = stated or os.environ.get("BACKBEAT_STORE") or None
    options = _configured()
    if url is None and (options is None or options.url is None):
        url = _of_an_up(cluster.url)
    try:
        store = (options or StoreOptions()).open(url)
    except ValueError as error:
        fail(str(error))
    if store is None:
        fail("no store is known: name it with --store, or with BACKBEAT_STORE as the cluster's processes do")
    return store


def _configured() -> StoreOptions | None:
    """The section `store` of the configuration that BACKBEAT_CONFIG names, if it does."""
    if not (named := os.environ.get("BACKBEAT_CONFIG")):
        return None
    from fleet.options import FleetOptions
    from schedules.plan import PlanError
    from workers.cli import load_plan

    try:
        sections = load_plan(Path(named)).sections
    except PlanError as error:
        fail(str(error))
    assert isinstance(sections, FleetOptions)  # noqa: S101 - what load() was asked for
    return sections.store


def _of_an_up(url: str) -> str | None:
    stated = click.get_current_context().params.get("data") or os.environ.get("BACKBEAT_DATA")
    folders = [Path(stated)] if stated else [each for each, up in datadir.found_here().items() if up.redis_url == url]
    found = [folder / "store" for folder in folders if datadir.read_record(folder) is not None]
    return str(found[0]) if found else None


@click.group(invoke_without_command=True)
@json_option
@limit_option
@with_store
def models(cluster: Cluster, registry: ModelRegistry, as_json: bool, limit: int) -> None:
    """List the models of every configuration: which is promoted, how strong each is, and how many nodes have it.

    \b
    Examples:
      backbeat models
      backbeat models list hex5_2p
      backbeat models promote hex5_2p g0007
      backbeat models rollback hex5_2p
      backbeat models --json | jq -r '.configs[] | "\\(.config) \\(.promoted)"'
    """
    _list(cluster, registry, None, as_json, limit)


@models.command(name="list")
@click.argument("config", type=CONFIG, shell_complete=config_names, required=False)
@limit_option
@json_option
@with_store
def list_models(cluster: Cluster, registry: ModelRegistry, config: str | None, limit: int, as_json: bool) -> None:
    """List the models of every configuration, or of one CONFIG; of each the newest first.

    \b
    Examples:
      backbeat models list
      backbeat models list hex5_2p --limit 200
      backbeat models list hex5_2p --json
    """
    _list(cluster, registry, config, as_json, limit)


def _list(cluster: Cluster, registry: ModelRegistry, config: str | None, as_json: bool, limit: int) -> None:
    with waiting(f"{registry.store.shown} is read"):
        known = registry.read(config)
        document = document_of(cluster, registry, known)
    if config is not None and config not in known.configs:
        fail(f"there is no model of {config}{_others(registry.read())}")
    printed(document, as_json, lambda console: show_models.models(document, console.width, limit))


def document_of(cluster: Cluster, registry: ModelRegistry, known: Registry) -> dict[str, Any]:
    """All that is known of models, as `models --json` shows it."""
    status = cluster.manager.get_status()
    now, board = status["now"], EloBoard(cluster.redis).read()
    held: Counter[str] = Counter()
    live = [node for node in cluster.nodes.all() if now - node.heard.get("agent", 0.0) <= SILENT_AFTER]
    for node in live:
        for said in node.held.get("models", {}).values():
            held.update(said.get("versions", ()) if isinstance(said, dict) else ())
    blobs = {entry.key: entry for entry in registry.store.list("blobs")}
    return {
        "store": registry.store.shown,
        "now": now,
        "nodes": len(live),
        "configs": [_config(each, blobs, held, board.get(each.config, {})) for each in known.configs.values()],
        "refused": dict(known.refused),
    }


def _config(
    models: ConfigModels, blobs: Mapping[str, Entry], held: Mapping[str, int], board: Mapping[str, Any]
) -> dict[str, Any]:
    rated = {each["participant"]: each for each in board.get("ranking", ())}
    return {
        "config": models.config,
        "promoted": models.promoted,
        "promoted_at": models.standing[-1].at / 1000 if models.standing else None,
        "promoted_by": models.standing[-1].by if models.standing else None,
        "why": models.standing[-1].why if models.standing else None,
        "previous": models.previous,
        "versions": [
            {
                **version.model_dump(mode="json"),
                "stands": _stands(models, version.version),
                "stored": version.blob in blobs,
                "nodes": held.get(version.version, 0),
                **{name: rated.get(version.version, {}).get(name) for name in ("rating", "deviation")},
                "rated_games": rated.get(version.version, {}).get("games"),
            }
            for version in reversed(models.versions)
        ],
    }


def _stands(models: ConfigModels, version: str) -> str:
    if version == models.promoted:
        return "promoted"
    if version == models.previous:
        return "previous"
    return "rolled back" if version in models.rolled_back else ""


def _others(known: Registry) -> str:
    return f"; there are models of {', '.join(known.configs)}" if known.configs else "; there is none of any other"


def _models(registry: ModelRegistry, config: str) -> ConfigModels:
    known = registry.read(config)
    if config not in known.configs:
        fail(f"there is no model of {config}{_others(registry.read())}")
    return known[config]


def _found(models: ConfigModels, wanted: str) -> Version:
    """The one version whose name is, or contains, what was given."""
    fits = [version for version in models.versions if wanted == version.version]
    fits = fits or [version for version in models.versions if wanted in version.version.removeprefix(models.config)]
    if len(fits) != 1:
        names = ", ".join(version.version for version in reversed((fits or models.versions)[-5:]))
        fail(f"{wanted!r} {'fits more than one version' if fits else 'is no version'} of {models.config}: {names}")
    return fits[0]


def _contents(registry: ModelRegistry, version: Version) -> None:
    if registry.store.entry(version.blob) is None:
        fail(f"{version.version} is known, but its contents are not in {registry.store.shown} any more")


def _operator() -> str:
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):  # a user without a name, as in containers
        return f"uid {os.getuid()}@{socket.gethostname()}"


@models.command()
@click.argument("config", type=CONFIG, shell_complete=config_names)
@click.argument("version")
@click.option("--reason", default="", help="Why, for those who read the list.")
@json_option
@with_store
def promote(cluster: Cluster, registry: ModelRegistry, config: str, version: str, reason: str, as_json: bool) -> None:
    """Promote a VERSION of a CONFIG: it is the one to play from now on. A part of its name is enough.

    \b
    Examples:
      backbeat models promote hex5_2p hex5_2p-g0007-3fa91c0d22ab
      backbeat models promote hex5_2p g0007 --reason "the tournament was cut short"
    """
    models = _models(registry, config)
    chosen = _found(models, version)
    if chosen.version == models.promoted:
        fail(f"{chosen.version} is promoted already")
    _contents(registry, chosen)
    now = cluster.manager.get_status()["now"]
    record = registry.promote(models, chosen.version, now=now, by=_operator(), why=reason)
    said = f"{chosen.version} is promoted" + (f" in place of {models.promoted}" if models.promoted else "")
    _say(record.model_dump(mode="json"), as_json, f"{said}; {_NEXT}")


@models.command()
@click.argument("config", type=CONFIG, shell_complete=config_names)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--reason", default="", help="Why, for those who read the list.")
@json_option
@with_store
def rollback(cluster: Cluster, registry: ModelRegistry, config: str, yes: bool, reason: str, as_json: bool) -> None:
    """Go back to the version of a CONFIG that was promoted before. It asks first.

    What is rolled back is not promoted again by itself, however strong it looks: only by `models promote`.

    \b
    Examples:
      backbeat models rollback hex5_2p
      backbeat models rollback hex5_2p --yes --reason "it crashes on full boards"
    """
    models = _models(registry, config)
    if models.promoted is None or models.previous is None:
        fail(f"{config} has no version to go back to: {models.promoted or 'none'} is promoted, and none was before")
    _contents(registry, models.by_name[models.previous])
    if not yes:
        click.confirm(f"go back from {models.promoted} to {models.previous}?", abort=True, err=True)
    now = cluster.manager.get_status()["now"]
    record = registry.roll_back(models, now=now, by=_operator(), why=reason)
    _say(
        record.model_dump(mode="json"), as_json, f"{models.previous} is promoted again, not {models.promoted}; {_NEXT}"
    )


@models.command()
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--keep",
    metavar="N",
    type=click.IntRange(1),
    default=_SYNC.store_candidates,
    show_default=True,
    help="Newest versions of a configuration that stay.",
)
@click.option(
    "--older-than",
    type=DURATION,
    default=durations.format(_SYNC.store_for),
    show_default=True,
    help="Younger ones stay.",
)
@json_option
@with_store
def prune(
    cluster: Cluster,
    registry: ModelRegistry,
    dry_run: bool,
    yes: bool,
    keep: int,
    older_than: float,
    as_json: bool,
) -> None:
    """Delete the contents of old versions from the store. Their records stay, and so does what is on the nodes.

    The promoted version, those before it to which one can roll back, and the newest ones always stay.

    \b
    Examples:
      backbeat models prune --dry-run
      backbeat models prune --keep 10 --older-than 2d --yes
    """
    now = cluster.manager.get_status()["now"]
    with waiting(f"{registry.store.shown} is read"):
        known = registry.read()
        gone = prunable(
            known.configs.values(),
            registry.store.list("blobs"),
            newest=keep,
            standing=_SYNC.store_promoted,
            now=now,
            after=older_than,
        )
    names = {version.blob: version.version for models in known.configs.values() for version in models.versions}
    size = sum(entry.size for entry in gone)
    document = {"deleted": [names[entry.key] for entry in gone], "bytes": size, "dry_run": dry_run}
    told = f"{len(gone)} versions, {megabytes(size)}"
    if gone and not dry_run:
        if not yes:
            click.confirm(f"delete the contents of {told}?", abort=True, err=True)
        with bar("versions", len(gone)) as advance:
            for entry in gone:
                registry.store.delete(entry.key)
                advance(1)
    listed = "".join(f"\n  {names[entry.key]}  {megabytes(entry.size)}" for entry in gone)
    _say(
        document, as_json, f"{'would delete' if dry_run else 'deleted'} {told}{listed}" if gone else "nothing to prune"
    )


def _say(document: Mapping[str, Any], as_json: bool, line: str) -> None:
    printed(document, as_json, lambda _: line)
