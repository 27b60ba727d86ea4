"""The commands of `python -m examples.openspiel`."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from examples.openspiel.games import CONFIGS
from examples.openspiel.job import Stop, write_result
from examples.openspiel.selfplay import Champion
from examples.openspiel.selfplay import selfplay as play_and_store
from examples.openspiel.store import GameStore, StoreError

#: keeps one move, and so the wait for a stop, below a second
MOST_SIMULATIONS = 5_000
#: keeps the planning of a tournament below a second
MOST_MATCHES = 5_000


class Refused(click.ClickException):
    """A mistake in how the command was called."""

    exit_code = 2


def _known(_context: click.Context, _parameter: click.Parameter, config: str) -> str:
    if config not in CONFIGS:
        raise Refused(f"{config!r} has no game here; --config takes one of {', '.join(CONFIGS)}")
    return config


config_option = click.option(
    "--config", required=True, metavar="CONFIG", callback=_known, envvar="BACKBEAT_JOB_CONFIG",
    show_envvar=True, help="Board and number of players, such as hex8_2p.",
)  # fmt: skip
data_option = click.option(
    "--data", default=".", metavar="DIR", envvar="BACKBEAT_DATA", show_envvar=True, show_default=True,
    type=click.Path(file_okay=False, path_type=Path), help="Folder of games, models and matches.",
)  # fmt: skip


@contextmanager
def _clear_errors(config: str) -> Iterator[None]:
    """What goes wrong in a job becomes one line that says so."""
    try:
        yield
    except (StoreError, OSError) as error:
        raise click.ClickException(str(error)) from error
    except ImportError as error:
        raise click.ClickException(f"{config} needs OpenSpiel (the extra `openspiel`): {error}") from error


@contextmanager
def _clear_model_errors() -> Iterator[None]:
    from examples.openspiel.model import ModelRefused
    from examples.openspiel.versions import ManifestRefused

    try:
        yield
    except (ModelRefused, ManifestRefused) as error:
        raise click.ClickException(str(error)) from error


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="\b\nConfigurations:\n" + "\n".join(f"  {config:11} {setup.title}" for config, setup in CONFIGS.items()),
)
def cli() -> None:
    """Play board games and learn from them: what Backbeat's jobs run by default."""


@cli.command(
    epilog="\b\nConfigurations:\n"
    + "\n".join(f"  {config:11} {setup.title}" for config, setup in CONFIGS.items())
    + "\n\n\b\nExample:\n  python -m examples.openspiel selfplay --config hex8_2p --games 50 --data /tmp"
)
@config_option
@click.option("--games", required=True, type=click.IntRange(min=1), metavar="N", help="How many to play.")
@click.option(
    "--player", default="auto", show_default=True, type=click.Choice(["auto", "mcts", "model"]),
    help="Who plays: the promoted model, plain MCTS, or the model as soon as there is one.",
)  # fmt: skip
@click.option(
    "--simulations", default=128, show_default=True, type=click.IntRange(1, MOST_SIMULATIONS), metavar="N",
    help=f"Search effort of MCTS for each move, up to {MOST_SIMULATIONS}.",
)  # fmt: skip
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    metavar="N",
    help="The same seed and player give the same games. Random if not given.",
)
@data_option
def selfplay(config: str, games: int, player: str, simulations: int, seed: int | None, data: Path) -> None:
    """Play the promoted model, or MCTS, against itself; games go to games.db.

    Every game is stored as it ends. The last line printed is the result, a JSON object. SIGTERM or
    Ctrl-C ends the job at once: the game being played is dropped, the games before it stay, the result
    says "stopped": true, and the exit code is 143 or 130.
    """
    stop = Stop.on_signals()
    started = time.monotonic()
    seed = secrets.randbits(53) if seed is None else seed
    database = data / "games.db"
    with _clear_errors(config):
        champion = None if player == "mcts" else _champion(data, config)
        if player == "model" and champion is None:
            raise click.ClickException(f"{config}: no model is promoted in {data / 'models' / config}")
        data.mkdir(parents=True, exist_ok=True)
        with GameStore(database, os.environ.get("BACKBEAT_JOB_ID"), os.environ.get("BACKBEAT_NODE_ID")) as store:
            tally = play_and_store(
                store, config, games=games, simulations=simulations, seed=seed, stop=stop, champion=champion
            )
        stopped = tally.games < games
        write_result(
            {
                "config": config,
                "games": tally.games,
                "moves": tally.moves,
                "seconds": round(time.monotonic() - started, 3),
                "results": {"wins": tally.wins, "draws": tally.draws},
                "player": f"uct{simulations}" if champion is None else champion.version,
                "simulations": simulations if champion is None else None,
                "seed": seed,
                "database": str(database.resolve()),
                "stopped": stopped,
            }
        )
    if stopped:
        raise SystemExit(stop.exit_code)


def _champion(data: Path, config: str) -> Champion | None:
    if not (data / "models" / config).exists():
        return None  # plain search needs no NumPy
    from examples.openspiel.versions import Manifest

    with _clear_model_errors():
        promoted = Manifest.read(data, config).promoted
        return None if promoted is None else Champion(promoted.name, promoted.model(config))


@cli.command()
@config_option
@click.option(
    "--window", default=2000, show_default=True, type=click.IntRange(1, 20_000), metavar="N",
    help="Games to learn from: the newest ones.",
)  # fmt: skip
@click.option(
    "--min-games", default=100, show_default=True, type=click.IntRange(min=1), metavar="N",
    help="Refuse with fewer games than these.",
)  # fmt: skip
@click.option(
    "--min-new-games", default=1, show_default=True, type=click.IntRange(min=0), metavar="N",
    help="Make no model with fewer new games since the last one.",
)  # fmt: skip
@click.option(
    "--games-from", default="gathered.db", show_default=True, metavar="FILE", type=click.Path(path_type=Path),
    help="Where the games are, in the data folder: games.db takes those that were played here.",
)  # fmt: skip
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(0, 2**53), metavar="N",
    help="The same seed, games and parent give the same model.",
)  # fmt: skip
@data_option
def training(
    config: str, window: int, min_games: int, min_new_games: int, games_from: Path, seed: int, data: Path
) -> None:
    """Fit the promoted model to the newest gathered games; the result waits in models/new/.

    The last line printed is the result, a JSON object. SIGTERM or Ctrl-C ends the job at once and leaves
    no model; the exit code is 143 or 130.
    """
    from examples.openspiel.learning import Stopped
    from examples.openspiel.training import GamesUnreadable, TooFewGames, train

    stop = Stop.on_signals()
    started = time.monotonic()
    try:
        with _clear_errors(config), _clear_model_errors():
            made = train(
                data, config, games_from=data / games_from, window=window, min_games=min_games,
                min_new_games=min_new_games, seed=seed, stop=stop,
            )  # fmt: skip
            write_result(
                {
                    "config": config,
                    "model": made.version,
                    "parent": made.parent,
                    "generation": made.generation,
                    "games": made.total,
                    "window": made.games,
                    "refused": made.refused,
                    "positions": made.positions,
                    "loss": made.loss,
                    "seconds": round(time.monotonic() - started, 3),
                    "seed": seed,
                }
            )
    except (TooFewGames, GamesUnreadable, ArithmeticError) as error:
        raise click.ClickException(str(error)) from error
    except Stopped:
        raise SystemExit(stop.exit_code) from None


@cli.command()
@config_option
@click.option(
    "--games", required=True, type=click.IntRange(1, MOST_MATCHES), metavar="N",
    help=f"How many to play, up to {MOST_MATCHES}; made up to whole rounds in which everybody sits on each seat.",
)  # fmt: skip
@data_option
def tournament(config: str, games: int, data: Path) -> None:
    """Play the newest models, the promoted and the previous one and the anchors; matches go to unified_elo.db.

    Every match is stored as it ends. The last line printed is the result, a JSON object. SIGTERM or
    Ctrl-C ends the job at once: the match being played is dropped, the matches before it stay, the result
    says "stopped": true, and the exit code is 143 or 130.
    """
    from examples.openspiel.matches import MatchStore
    from examples.openspiel.tournament import tournament as play_and_rate
    from examples.openspiel.versions import Manifest

    stop = Stop.on_signals()
    started = time.monotonic()
    database = data / "unified_elo.db"
    with _clear_errors(config), _clear_model_errors():
        manifest = Manifest.read(data, config)
        data.mkdir(parents=True, exist_ok=True)
        with MatchStore(database, os.environ.get("BACKBEAT_JOB_ID"), os.environ.get("BACKBEAT_NODE_ID")) as store:
            try:
                played = play_and_rate(store, config, manifest, games=games, stop=stop)
            except ValueError as error:
                raise click.ClickException(f"{config}: {error}") from error
        stopped = played.matches < played.planned
        write_result(
            {
                "config": config,
                "matches": played.matches,
                "scores": {who: [score.first, score.games] for who, score in sorted(played.scores.items())},
                "seconds": round(time.monotonic() - started, 3),
                "database": str(database.resolve()),
                "stopped": stopped,
            }
        )
    if stopped:
        raise SystemExit(stop.exit_code)


def main() -> None:
    cli(prog_name="python -m examples.openspiel")
