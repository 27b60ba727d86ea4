"""Monte Carlo tree search for any number of players (max^n UCT with random playouts)."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Protocol


class State(Protocol):
    """A position: what self-play and search need of `pyspiel.State`."""

    def clone(self) -> State: ...
    def current_player(self) -> int: ...
    def legal_actions(self) -> list[int]: ...
    def apply_action(self, action: int, /) -> None: ...
    def is_terminal(self) -> bool: ...
    def returns(self) -> list[float]: ...


class Bot(Protocol):
    """A player, as in `pyspiel.Bot`: looks at a state, leaves it as it is, and names an action."""

    def step(self, state: State, /) -> int: ...


class _Node:
    """A position in the tree. `value` adds up the returns of `player`, the seat that moved into it."""

    __slots__ = ("action", "children", "player", "untried", "value", "visits")

    def __init__(self, action: int, player: int, untried: list[int]) -> None:
        self.action = action
        self.player = player
        self.untried = untried
        self.children: list[_Node] = []
        self.visits = 0
        self.value = 0.0

    def best_child(self, exploration: float) -> _Node:
        log_visits = math.log(self.visits)
        return max(
            self.children,
            key=lambda child: child.value / child.visits + exploration * math.sqrt(log_visits / child.visits),
        )


class MCTS:
    """Every seat is taken to maximise its own return, so two players are simply the smallest case.

    The same seed and the same calls give the same moves. `stop` is asked after every simulation;
    when it says so, `step` returns the best move found so far.
    """

    def __init__(
        self,
        simulations: int,
        seed: int,
        *,
        exploration: float = math.sqrt(2),
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.simulations = simulations
        self.exploration = exploration
        self._random = random.Random(seed)
        self._stop = stop

    def step(self, state: State) -> int:
        """The most visited action of a state that is not terminal."""
        root = _Node(action=-1, player=0, untried=state.legal_actions())
        for _ in range(self.simulations):
            self._simulate(root, state.clone())
            if self._stop():
                break
        return max(root.children, key=lambda child: (child.visits, child.value)).action

    def _simulate(self, root: _Node, state: State) -> None:
        path = [root]
        node = root
        while not node.untried and node.children:
            node = node.best_child(self.exploration)
            state.apply_action(node.action)
            path.append(node)
        if node.untried:
            action = node.untried.pop(self._index(node.untried))
            player = state.current_player()
            state.apply_action(action)
            child = _Node(action, player, state.legal_actions())
            node.children.append(child)
            path.append(child)
        while not state.is_terminal():
            actions = state.legal_actions()
            state.apply_action(actions[self._index(actions)])
        returns = state.returns()
        for visited in path:
            visited.visits += 1
            visited.value += returns[visited.player]

    def _index(self, actions: list[int]) -> int:
        # Half the time of random.choice, where most of the time is spent.
        return int(self._random.random() * len(actions))
