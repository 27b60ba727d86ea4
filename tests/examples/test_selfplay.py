from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import examples.openspiel
from examples.openspiel.games import CONFIGS, replay, winner
from examples.openspiel.selfplay import play_game, selfplay
from examples.openspiel.store import GameStore
from fleet.configs import BoardConfig

every_config = pytest.mark.parametrize("config", CONFIGS)


@every_config
def test_every_config_plays_whole_games_that_replay_to_their_result(
    config: str, tmp_path: Path, whole_games: Callable[[Path], list[dict[str, object]]]
) -> None:
    database = tmp_path / "games.db"
    with GameStore(database, job_id="j1", node_id="n1") as store:
        tally = selfplay(store, config, games=4, simulations=8, seed=1, stop=lambda: False)
    rows = whole_games(database)
    board = BoardConfig.parse(config)
    assert len(rows) == tally.games == sum(tally.wins) + tally.draws == 4
    assert {(row["config"], row["board_type"], row["num_players"]) for row in rows} == {
        (config, board.board, board.players)
    }
    assert {(row["job_id"], row["node_id"]) for row in rows} == {("j1", "n1")}
    assert {row["players"] for row in rows} == {json.dumps(["uct8"] * board.players)}
    assert len({row["moves"] for row in rows}) == 4  # no game is played twice


@every_config
def test_the_same_seed_plays_the_same_game(config: str) -> None:
    first, again, other = (play_game(config, 8, seed) for seed in (11, 11, 12))
    assert first is not None
    assert again is not None
    assert other is not None
    assert first.moves == again.moves
    assert first.returns == again.returns
    assert first.moves != other.moves


@every_config
def test_a_stop_in_the_middle_of_a_game_discards_it(config: str) -> None:
    answers = iter([False] * 5 + [True] * 100)
    assert play_game(config, 2, 1, lambda: next(answers)) is None


@every_config
def test_a_game_of_illegal_or_surplus_moves_does_not_replay(config: str) -> None:
    game = CONFIGS[config].load()
    played = play_game(config, 2, 1)
    assert played is not None
    with pytest.raises(ValueError, match=f"at ply {len(played.moves)} is not legal"):
        replay(game, [*played.moves, played.moves[-1]])
    with pytest.raises(ValueError, match="move 100000 at ply 1 is not legal"):
        replay(game, [played.moves[0], 100000])


def test_a_draw_has_no_winner() -> None:
    assert winner([0.0, 0.0, 0.0]) is None
    assert winner([1.0, 1.0, -2.0]) is None
    assert winner([-1 / 3, 1.0, -1 / 3, -1 / 3]) == 1


def test_openspiel_is_imported_only_when_a_config_needs_it() -> None:
    program = (
        "import sys; from examples.openspiel import cli, selfplay\n"
        "assert selfplay.play_game('square8_3p', 1, 1)\n"
        "assert not {'pyspiel', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_readme_tells_what_each_config_is_played_as() -> None:
    readme = (Path(examples.openspiel.__path__[0]) / "README.md").read_text()
    for config, setup in CONFIGS.items():
        assert f"| `{config}` | {setup.title} |" in readme
