"""The commands that show ratings, and bring matches in and out."""

from __future__ import annotations

import functools
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
from redis import RedisError

from fleet.configs import BoardConfig
from fleet.elo_board import EloBoard
from fleet.elo_documents import documents
from fleet.match import YEAR_2100, Match, Refused, milliseconds
from fleet.match_audit import repair, verify
from fleet.match_export import export_csv, export_db
from fleet.match_files import FileRefused, merge_file, rows_in
from fleet.match_ratings import Rules, settle
from fleet.match_set import CHUNK, MatchSet, Merged
from fleet.match_store import FILE, is_other
from fleet.match_texts import Read, TextRefused, read_csv, read_pgn
from fleet.matches import MatchesUnreadable, opened
from fleet.options import FleetOptions
from fleet.ratings import MIN_GAMES, RatingsUnreadable
from workers import datadir, show_elo
from workers.cli_cluster import URL, Parsed, bar, config_names, fail, find, json_option, printed, waiting
from workers.settings import Settings, SettingsError, connect, no_answer

SQLITE = b"SQLite format 3\0"

CONFIG = Parsed("config", lambda name: str(BoardConfig.parse(name)))


def _ended(text: str) -> int:
    try:
        at = milliseconds(text)
    except Refused as error:
        raise ValueError(str(error)) from None
    if at is None or not 0 <= at < YEAR_2100:
        raise ValueError(f"{text!r} is no instant between 1970 and 2100")
    return at


db_option = click.option(
    "--db", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False), help="This database of matches."
)
data_option = click.option(
    "--data",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Data directory of an up (its central node), or of a node; default: BACKBEAT_DATA, or an up found here.",
)
config_option = click.option(
    "--config",
    metavar="CONFIG",
    type=CONFIG,
    shell_complete=config_names,
    help="A board configuration, such as hex8_2p.",
)


@click.group(invoke_without_command=True)
@config_option
@click.option("--history", is_flag=True, help="Show how the best model's rating went.")
@db_option
@click.option("--redis", metavar="URL", type=URL, help="The cluster's server; default: as for every command.")
@click.option("--data", metavar="DIR", type=click.Path(path_type=Path), help="Data directory of a running up.")
@json_option
@click.pass_context
def elo(
    ctx: click.Context,
    config: str | None,
    history: bool,
    db: Path | None,
    redis: str | None,
    data: Path | None,
    as_json: bool,
) -> None:
    """Show how strong the best model of each board configuration is, and how far from its target.

    Elo is the published rating; `bound` is what it has with 97.5 % certainty, and what a target is met by.
    With --db FILE a database is read instead of the cluster: a node's, or one of the original system.

    \b
    Examples:
      backbeat elo
      backbeat elo --config hex8_2p --history
      backbeat elo --db unified_elo.db --json
    """
    if ctx.invoked_subcommand is not None:
        given = {"db": db, "data": data, "config": config}
        ctx.default_map = {ctx.invoked_subcommand: {name: each for name, each in given.items() if each is not None}}
        return
    now = time.time()
    try:
        found = _from_file(db, now) if db is not None else _from_cluster(ctx, redis, data)
    except (SettingsError, RatingsUnreadable) as error:
        fail(str(error))
    if config is not None and config not in found:
        known = f"; known: {', '.join(found)}" if found else ""
        fail(f"nothing is known of {config} yet{known}")
    if config is not None:
        printed(found[config], as_json, lambda console: show_elo.one(found[config], now, console.width, history))
    else:
        printed(found, as_json, lambda console: show_elo.everything(found, now, console.width, history))


def _from_file(path: Path, now: float) -> dict[str, Any]:
    if not path.is_file():
        raise SettingsError(f"{path}: there is no such file")
    return documents(path, now=now, min_games=_options().ratings.min_games if _has_config() else MIN_GAMES)


def _from_cluster(ctx: click.Context, redis: str | None, data: Path | None) -> dict[str, Any]:
    url = find(ctx, redis, data)
    try:
        return EloBoard(connect(url)).read()
    except RedisError as error:
        raise SettingsError(no_answer(url, error)) from error


def _on_matches(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options and errors of a command on a node's own database; it gets the file as first argument."""

    @db_option
    @data_option
    @functools.wraps(command)
    def wrapped(db: Path | None, data: Path | None, **kwargs: Any) -> Any:
        if db is not None and is_other(db):
            fail(f"{db}: it is no database of matches")
        try:
            return command(db if db is not None else _own(data), **kwargs)
        except (SettingsError, MatchesUnreadable, FileRefused, TextRefused) as error:
            fail(str(error))
        except OSError as error:
            fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        except sqlite3.Error as error:
            fail(str(error))

    return wrapped


def _own(data: Path | None) -> Path:
    """The database of this machine's node: the central one of an `up`, or that of a node's directory."""
    if data is None and (stated := os.environ.get("BACKBEAT_DATA")):
        data = Path(stated)
    if data is None:
        here = list(datadir.found_here()) or [folder for folder in (datadir.DEFAULT,) if folder.is_dir()]
        if len(here) != 1:
            why = "no" if not here else "more than one"
            raise SettingsError(f"{why} data directory of an `up` is found here; say which with --data, or give --db")
        data = here[0]
    if not data.is_dir():
        raise SettingsError(f"{data}: there is no such directory")
    central = data / "nodes" / "node-1"
    return (central if central.is_dir() else data) / FILE


@elo.command(name="import")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@config_option
@click.option(
    "--ended",
    metavar="TIME",
    type=Parsed("time", _ended),
    help="When matches ended of which the file does not say it: ISO 8601, or seconds since 1970.",
)
@click.option(
    "--columns", metavar="NAMES", help="The columns of a CSV file without a line of their names, with commas between."
)
@click.option("--other-tables", is_flag=True, help="Take a database that has other tables too, and leave those aside.")
@json_option
@_on_matches
def import_matches(
    own: Path, file: Path, config: str | None, ended: int | None, columns: str | None, other_tables: bool, as_json: bool
) -> None:
    """Add the matches of FILE: a database, CSV, or the results of PGN. Importing twice is the same as once.

    A database is a unified_elo.db, of Backbeat or of the original system. It is opened for reading only.

    CSV has a line of column names: those of match_history (game_id, participant_ids, rankings, winner, timestamp,
    ...), with lists as JSON or with | between, and `config` in place of board_type and num_players. Or it counts
    pairings, with the columns a, b, games, wins and, if you like, draws and label.

    PGN needs --config; of each game White, Black, Result and the date are read.

    What is no match is refused, set aside with its reason, and counted. The nodes exchange and rate what is new at
    the next run of elo_sync.

    \b
    Examples:
      backbeat elo import old/unified_elo.db
      backbeat elo import matches.csv --config hex8_2p --data ~/cluster
      backbeat elo import counts.csv --columns a,b,label,games,wins --config go_2p
      backbeat elo import games.pgn --config chess_2p --ended 2026-01-31 --db unified_elo.db
    """
    with file.open("rb") as content:
        kind = content.read(len(SQLITE))
    with opened(own) as matches:
        if kind == SQLITE:
            with bar("matches", rows_in(file, other_tables=other_tables)) as advance:
                merged = merge_file(matches, file, other_tables=other_tables, progress=advance)
        else:
            named = [name.strip() for name in columns.split(",")] if columns else None
            pgn = file.suffix.lower() == ".pgn"
            found = read_pgn(file, config, ended) if pgn else read_csv(file, config, ended, named)
            with bar("matches", None) as advance:
                merged = _merge(matches, found, str(file), advance)
        with waiting("models are rated by them"):
            settle(matches.db, _rules())
        state = matches.state()
    counts = {
        "imported": merged.merged,
        "known": merged.known,
        "conflicting": merged.conflicting,
        "refused": merged.refused,
        "reasons": dict(merged.reasons.most_common()),
        "matches": state.matches,
        "digest": state.hex,
        "database": str(own),
    }
    printed(counts, as_json, lambda _: show_elo.imported(counts))
    if merged.refused and not (merged.merged or merged.known or merged.conflicting):
        sys.exit(1)


def _merge(matches: MatchSet, found: Iterable[Read], source: str, advance: Callable[[int], None]) -> Merged:
    total, good, refused = Merged(), list[Match](), list[tuple[str, str]]()

    def flush() -> Merged:
        merged = matches.merge(good)
        matches.refuse(refused, source)
        merged.refused = len(refused)
        merged.reasons.update(why for why, _ in refused)
        advance(len(good) + len(refused))
        good.clear()
        refused.clear()
        return merged

    for each in found:
        if isinstance(each, Match):
            good.append(each)
        else:
            refused.append(each)
        if len(good) + len(refused) == CHUNK:
            total += flush()
    return total + flush()


@elo.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@config_option
@_on_matches
def export(own: Path, file: Path, config: str | None) -> None:
    """Write the matches to FILE: a database when it ends in .db, CSV when it ends in .csv.

    \b
    Examples:
      backbeat elo export matches.db
      backbeat elo export hex8.csv --config hex8_2p
    """
    if file.suffix not in (".db", ".csv"):
        raise click.UsageError(f"FILE {str(file)!r}: a name that ends in .db or .csv")
    if file.suffix == ".db" and config is not None:
        raise click.UsageError("--config chooses lines of a CSV file; a database is written whole")
    if not own.exists():
        raise SettingsError(f"{own}: there are no matches yet")
    if not file.parent.is_dir():
        raise SettingsError(f"{file.parent}: there is no such directory")
    with opened(own) as matches, waiting(f"matches are written to {file}"):
        matches.adopt()
        number = export_db(matches, file) if file.suffix == ".db" else export_csv(matches, file, config)
    click.echo(f"{number:,} matches written to {file}")


@elo.command()
@click.argument("match_ids", nargs=-1, required=True, metavar="MATCH...")
@click.option("--reason", metavar="TEXT", required=True, help="Kept with it, on every node.")
@_on_matches
def exclude(own: Path, match_ids: tuple[str, ...], reason: str) -> None:
    """Take matches out of the ratings, for good and on every node. They stay in the database.

    \b
    Example:
      backbeat elo exclude 5f0c2a9d --reason "the opponent had crashed"
    """
    if not 1 <= len(reason) <= 500 or not reason.isprintable():
        raise click.UsageError("--reason: 1 to 500 printable characters")
    with opened(own) as matches:
        matches.adopt()
        unknown = [each for each in match_ids if matches.find(each) is None]
        if unknown:
            fail(f"{own} has no match {', '.join(unknown[:5])}")
        new = matches.exclude([(each, reason) for each in match_ids])
    click.echo(f"{new} excluded; ratings follow at the next run of elo_sync (at once: backbeat run elo_sync)")


@elo.command(name="verify")
@click.option("--repair", "mend", is_flag=True, help="Bring the sums in line with the rows.")
@_on_matches
def verify_matches(own: Path, mend: bool) -> None:
    """Compute the digest and every sum anew from the matches. Exit code 1 when something is not as noted.

    \b
    Examples:
      backbeat elo verify
      backbeat elo verify --db unified_elo.db --repair
    """
    if not own.exists():
        raise SettingsError(f"{own}: there are no matches yet")
    with opened(own) as matches:
        with waiting(f"every match in {own} is looked at"):
            matches.adopt()
            found = repair(matches) if mend else verify(matches)
        for problem in found.problems:
            click.echo(problem)
        if mend and not found.sound:
            with waiting("they are looked at once more"):
                found = verify(matches)
            click.echo("repaired" if found.sound else "not all of it could be repaired")
    click.echo(f"{own}: {found.matches:,} matches, digest {found.digest}{'' if found.sound else ', not as noted'}")
    if not found.sound:
        sys.exit(1)


def _has_config() -> bool:
    return Path(os.environ.get("BACKBEAT_CONFIG") or Settings.config).is_file()


def _options() -> FleetOptions:
    """The configuration that the nodes here have, as far as it can be read."""
    from schedules.plan import PlanError
    from workers.cli import load_plan

    try:
        plan = load_plan(Path(os.environ.get("BACKBEAT_CONFIG") or Settings.config))
    except PlanError as error:
        raise SettingsError(f"the configuration says by which rules is rated, and has mistakes:\n{error}") from error
    return plan.sections if isinstance(plan.sections, FleetOptions) else FleetOptions()


def _rules() -> Rules:
    if not _has_config():
        return Rules()
    options = _options().ratings
    return Rules(options.anchors, options.prior, options.min_games)
