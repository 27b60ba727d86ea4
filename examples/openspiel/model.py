"""A value model as a file, and the player that it makes.

The file is an `.npz` of two arrays and never holds pickles: `about`, a JSON object as bytes (format,
config, features), and `weights`, float32. A reader checks both headers before it takes memory for what
they claim, so a file from anywhere is either a model of the expected shape or refused.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.lib import format as npy

from examples.openspiel.features import Floats, Sight
from examples.openspiel.search import State
from examples.openspiel.sights import sight_of

FORMAT = 1
#: bytes of the largest file that is read; the largest model here has some 150 kB
MOST_BYTES = 4 * 2**20
MOST_ABOUT = 4096

#: The share of moves that every model makes at random in rated games. It keeps games apart, it is the same
#: for all models, and no option changes it: so ratings compare what was learned and nothing else.
RANDOM_SHARE = 0.05


class ModelRefused(Exception):
    """The file is no model of that configuration; the message names it and says why."""


@dataclass(frozen=True)
class Model:
    """Weights, and what they are for."""

    config: str
    weights: Floats

    @property
    def sight(self) -> Sight:
        return sight_of(self.config)

    @classmethod
    def untrained(cls, config: str) -> Model:
        """All positions are equal to it."""
        return cls(config, np.zeros(sight_of(config).shape))

    def encoded(self) -> bytes:
        """The file's contents: the same weights give the same bytes."""
        about = json.dumps({"format": FORMAT, "config": self.config, "features": self.sight.name})
        file = io.BytesIO()
        np.savez(
            file, about=np.frombuffer(about.encode(), dtype=np.uint8), weights=self.weights.astype(np.float32),
        )  # fmt: skip
        return file.getvalue()

    @classmethod
    def read(cls, path: Path, config: str, sha256: str | None = None) -> Model:
        """Raises ModelRefused, also when the file is missing or has another checksum than `sha256`."""
        try:
            with path.open("rb") as file:
                data = file.read(MOST_BYTES + 1)
            return cls._decoded(data, config, sha256)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
            raise ModelRefused(f"{path}: {error}") from error

    @classmethod
    def _decoded(cls, data: bytes, config: str, sha256: str | None) -> Model:
        if len(data) > MOST_BYTES:
            raise ValueError(f"larger than {MOST_BYTES} bytes, which no model of these games is")
        if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
            raise ValueError(f"its SHA-256 is not {sha256}, as the manifest says")
        sight = sight_of(config)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            about = _array(archive, "about", np.dtype(np.uint8), None)
            expected = {"format": FORMAT, "config": config, "features": sight.name}
            found = json.loads(about.tobytes())
            if found != expected:
                raise ValueError(f"it is for {str(found)[:200]}, not for {expected}")
            weights = _array(archive, "weights", np.dtype(np.float32), sight.shape).astype(np.float64)
        if not np.isfinite(weights).all():
            raise ValueError("some of its weights are not finite numbers")
        return cls(config, weights)


def _array(
    archive: zipfile.ZipFile, name: str, dtype: np.dtype[Any], shape: tuple[int, ...] | None
) -> np.ndarray[Any, Any]:
    """One array, whose header must announce this type and shape (None: some bytes of text)."""
    with archive.open(f"{name}.npy") as member:
        if npy.read_magic(member) != (1, 0):
            raise ValueError(f"{name} is not in version 1.0 of NumPy's format")
        said, fortran, type_ = npy.read_array_header_1_0(member)
        fits = len(said) == 1 and said[0] <= MOST_ABOUT if shape is None else said == shape
        if not fits or fortran or type_ != dtype:
            wanted = f"up to {MOST_ABOUT}" if shape is None else shape
            raise ValueError(f"{name} has the shape {said} of {type_}, not {wanted} of {dtype}")
        size = int(np.prod(said)) * dtype.itemsize
        data = member.read(size + 1)
    if len(data) != size:
        raise ValueError(f"{name} holds {len(data)} bytes or more, not {size}")
    return cast("np.ndarray[Any, Any]", np.frombuffer(data, dtype=dtype).reshape(said))


class Greedy:
    """Plays what its model likes best one move ahead, takes a win that is there, and moves at random now and then."""

    def __init__(self, model: Model, rng: random.Random, random_share: float = RANDOM_SHARE) -> None:
        self._sight = model.sight
        self._weights = model.weights
        self._rng = rng
        self._random_share = random_share

    def step(self, state: State) -> int:
        actions = state.legal_actions()
        if self._rng.random() < self._random_share:
            return self._rng.choice(actions)
        mover = state.current_player()
        worth = self._sight.worth(self._weights, self._sight.after(state, actions))
        for number, action in enumerate(actions):
            after = state.clone()
            after.apply_action(action)
            if after.is_terminal():
                gained = after.returns()[mover]
                if gained > 0:
                    return action
                if gained < 0:
                    worth[number] = -np.inf
        # Equals are drawn by lot: an untrained model plays like chance, not like the order of actions.
        return actions[self._rng.choice(np.flatnonzero(worth == worth.max()).tolist())]


class Chance:
    """Any legal move."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def step(self, state: State) -> int:
        return self._rng.choice(state.legal_actions())
