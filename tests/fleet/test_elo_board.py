"""The board of Elo: exactly the targets that there are, and no word from a deposed leader."""

from __future__ import annotations

import pytest
from redis import Redis

from fleet.elo_board import TARGETS, EloBoard
from fleet.fence import Fence, FenceRefused

HEX5 = {"target": 2000.0, "met": False, "since": None, "reason": "no model is rated yet", "at": 5.0}
HEX8 = {**HEX5, "met": True, "since": 4.0}


def test_targets_are_read_as_they_were_published_beside_the_ratings(redis: Redis) -> None:
    board = EloBoard(redis)
    board.targets({"hex5_2p": HEX5, "hex8_2p": HEX8})
    board.publish({"hex8_2p": {"velocity": 12.5}}, "basis")
    assert board.read_targets() == {"hex5_2p": HEX5, "hex8_2p": HEX8}
    assert board.read() == {
        "hex5_2p": {"config": "hex5_2p", "target": HEX5},
        "hex8_2p": {"config": "hex8_2p", "velocity": 12.5, "target": HEX8},
    }
    assert board.basis() == "basis"


@pytest.mark.parametrize("stored", ["{", "7", '"met"'])
def test_what_cannot_be_read_is_left_out_and_hides_nobody_else(redis: Redis, stored: str) -> None:
    board = EloBoard(redis)
    board.targets({"hex5_2p": HEX5, "hex8_2p": HEX8})
    redis.hset(TARGETS, "hex5_2p", stored)
    assert board.read_targets() == {"hex8_2p": HEX8}


def test_who_is_not_said_in_full_is_left_out(redis: Redis) -> None:
    rated = {"participant": "m", "rating": 1500.0, "deviation": 20.0, "games": 400}
    best, entry = {**rated, "lower_bound": 1460.8}, {**rated, "type": "model"}
    board = EloBoard(redis)
    board.publish({"hex5_2p": {"best": rated, "ranking": [rated, entry, 7]}, "hex8_2p": {"best": best}}, "basis")
    found = board.read()
    assert (found["hex5_2p"]["best"], found["hex5_2p"]["ranking"]) == (None, [entry])
    assert found["hex8_2p"]["best"] == best
    board.publish({"hex5_2p": {"best": {**best, "games": "many"}, "ranking": None}}, "other")
    assert (board.read()["hex5_2p"]["best"], board.read()["hex5_2p"]["ranking"]) == (None, [])


def test_a_configuration_that_is_no_longer_trained_leaves_the_board(redis: Redis) -> None:
    board = EloBoard(redis)
    board.targets({"hex5_2p": HEX5, "hex8_2p": HEX8})
    board.targets({"hex5_2p": HEX5})
    assert board.read_targets().keys() == {"hex5_2p"}


def test_a_deposed_leader_publishes_nothing(redis: Redis) -> None:
    guard = "{backbeat}:leader:guard"
    redis.hset(guard, mapping={"fence": 8, "owner": "the new leader"})
    with pytest.raises(FenceRefused, match="write refused, for a newer leader exists"):
        EloBoard(redis).targets({"hex5_2p": HEX5}, fence=Fence(7, "the old leader", "", guard, ""))
    assert EloBoard(redis).read_targets() == {}
