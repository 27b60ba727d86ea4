"""The commands of `python -m examples.openspiel`."""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path

import click

from examples.openspiel.games import CONFIGS
from examples.openspiel.job import Stop, write_result
from examples.openspiel.selfplay import selfplay as play_and_store
from examples.openspiel.store import GameStore, StoreError

#: keeps one move, and so the wait for a stop, below a second
MOST_SIMULATIONS = 5_000


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
    type=click.Path(file_okay=False, path_type=Path), help="Folder of games.db; made when it is missing.",
)  # fmt: skip


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Play board games: what Backbeat's jobs run by default."""


@cli.command(
    epilog="\b\nConfigurations:\n"
    + "\n".join(f"  {config:11} {setup.title}" for config, setup in CONFIGS.items())
    + "\n\n\b\nExample:\n  python -m examples.openspiel selfplay --config hex8_2p --games 50 --data /tmp"
)
@config_option
@click.option("--games", required=True, type=click.IntRange(min=1), metavar="N", help="How many to play.")
@click.option(
    "--simulations", default=128, show_default=True, type=click.IntRange(1, MOST_SIMULATIONS), metavar="N",
    help=f"Search effort for each move, up to {MOST_SIMULATIONS}.",
)  # fmt: skip
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    metavar="N",
    help="The same seed gives the same games. Random if not given.",
)
@data_option
def selfplay(config: str, games: int, simulations: int, seed: int | None, data: Path) -> None:
    """Play MCTS against itself; games go to games.db.

    Every game is stored as it ends. The last line printed is the result, a JSON object. SIGTERM or
    Ctrl-C ends the job at once: the game being played is dropped, the games before it stay, the result
    says "stopped": true, and the exit code is 143 or 130.
    """
    stop = Stop.on_signals()
    started = time.monotonic()
    seed = secrets.randbits(53) if seed is None else seed
    database = data / "games.db"
    try:
        data.mkdir(parents=True, exist_ok=True)
        with GameStore(database, os.environ.get("BACKBEAT_JOB_ID"), os.environ.get("BACKBEAT_NODE_ID")) as store:
            tally = play_and_store(store, config, games=games, simulations=simulations, seed=seed, stop=stop)
        stopped = tally.games < games
        write_result(
            {
                "config": config,
                "games": tally.games,
                "moves": tally.moves,
                "seconds": round(time.monotonic() - started, 3),
                "results": {"wins": tally.wins, "draws": tally.draws},
                "simulations": simulations,
                "seed": seed,
                "database": str(database.resolve()),
                "stopped": stopped,
            }
        )
    except (StoreError, OSError) as error:
        raise click.ClickException(str(error)) from error
    except ImportError as error:
        raise click.ClickException(f"{config} needs OpenSpiel (the extra `openspiel`): {error}") from error
    if stopped:
        raise SystemExit(stop.exit_code)


def main() -> None:
    cli(prog_name="python -m examples.openspiel")
