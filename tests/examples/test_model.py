"""Model files: the same weights are the same bytes, and nothing that is no model is read as one."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import random
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from examples.openspiel.games import CONFIGS
from examples.openspiel.model import MOST_BYTES, Greedy, Model, ModelRefused
from examples.openspiel.sights import sight_of

CONFIG = "square6_2p"
SHAPE = (108,)
ABOUT = {"format": 1, "config": CONFIG, "features": "cells1"}


def packed(**members: Any) -> bytes:
    """A zip file; arrays as `.npy`, bytes as they are."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, member in members.items():
            data = io.BytesIO()
            if isinstance(member, bytes):
                data.write(member)
            else:
                np.lib.format.write_array(data, member)
            archive.writestr(f"{name}.npy", data.getvalue())
    return file.getvalue()


def about(document: Any) -> Any:
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    return np.frombuffer(text, dtype=np.uint8)


def header(shape: tuple[int, ...], dtype: str = "<f4") -> bytes:
    """An array that claims a shape and holds nothing."""
    data = io.BytesIO()
    np.lib.format.write_array_header_1_0(data, {"descr": dtype, "fortran_order": False, "shape": shape})
    return data.getvalue()


GOOD = np.zeros(SHAPE, dtype=np.float32)


@pytest.mark.parametrize("config", CONFIGS)
def test_a_model_comes_back_as_it_was_and_the_same_weights_are_the_same_bytes(config: str, tmp_path: Path) -> None:
    weights = np.random.default_rng(1).normal(size=sight_of(config).shape).astype(np.float32)
    encoded = Model(config, weights).encoded()
    assert encoded == Model(config, weights).encoded()
    path = tmp_path / "m.npz"
    path.write_bytes(encoded)
    assert (Model.read(path, config, hashlib.sha256(encoded).hexdigest()).weights == weights).all()
    assert len(encoded) < MOST_BYTES


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "File is not a zip file"),
        (b"PK\x03\x04 and then nothing", "File is not a zip file"),
        (pickle.dumps({"weights": [1]}), "File is not a zip file"),
        (b"\0" * (MOST_BYTES + 1), f"larger than {MOST_BYTES} bytes"),
        (packed(about=about(ABOUT)), "There is no item named 'weights.npy'"),
        (packed(weights=GOOD), "There is no item named 'about.npy'"),
        (packed(about=about(ABOUT), weights=b"\x93NUMPY\x09\x00"), "version 1.0 of NumPy's format"),
        (packed(about=about(ABOUT), weights=b"rubbish rubbish"), "magic string is not correct"),
        (packed(about=about(ABOUT), weights=GOOD[:-1]), r"the shape \(107,\) of float32, not \(108,\) of float32"),
        (packed(about=about(ABOUT), weights=GOOD.reshape(2, 54)), r"the shape \(2, 54\)"),
        (packed(about=about(ABOUT), weights=GOOD.astype(np.float64)), "of float64, not"),
        (packed(about=about(ABOUT), weights=header(SHAPE, "|O")), "of object, not"),
        (packed(about=about(ABOUT), weights=header((10**10,))), r"the shape \(10000000000,\)"),
        (packed(about=about(ABOUT), weights=header(SHAPE)), "holds 0 bytes or more, not 432"),
        (packed(about=about(ABOUT), weights=header(SHAPE) + b"\0" * 10**7), "holds 433 bytes or more, not 432"),
        (packed(about=about(ABOUT), weights=GOOD * np.nan), "not finite numbers"),
        (packed(about=about(ABOUT), weights=GOOD + np.float32(np.inf)), "not finite numbers"),
        (packed(about=header((10**10,), "|u1"), weights=GOOD), r"the shape \(10000000000,\)"),
        (packed(about=about(b"["), weights=GOOD), "Expecting value"),
        (packed(about=about(b"[" * 4000), weights=GOOD), "recursion|Expecting value"),
        (packed(about=about([]), weights=GOOD), r"it is for \[\], not for"),
        (packed(about=about(ABOUT | {"format": 2}), weights=GOOD), "'format': 2"),
        (packed(about=about(ABOUT | {"config": "hex5_2p"}), weights=GOOD), "it is for .*hex5_2p.*, not for"),
        (packed(about=about(ABOUT | {"features": "cells9"}), weights=GOOD), "cells9"),
    ],
)
def test_what_is_no_model_is_refused_by_name_and_reason(data: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.npz"
    path.write_bytes(data)
    with pytest.raises(ModelRefused, match=rf"odd\.npz: .*({reason})"):
        Model.read(path, CONFIG)


def test_any_byte_changed_or_cut_off_is_refused(tmp_path: Path) -> None:
    good = Model.untrained(CONFIG).encoded()
    path = tmp_path / "m.npz"
    rng = random.Random(4)
    for _ in range(200):
        bad = bytearray(good)
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        cut = good[: rng.randrange(len(good))]
        for data in (bytes(bad), cut):
            path.write_bytes(data)
            with pytest.raises(ModelRefused):
                Model.read(path, CONFIG, hashlib.sha256(good).hexdigest())
            with suppress(ModelRefused):  # without a checksum some changes go unseen; none is another error
                Model.read(path, CONFIG)


def test_a_file_that_is_missing_is_refused_too(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="No such file or directory"):
        Model.read(tmp_path / "m.npz", CONFIG)


@pytest.mark.parametrize("config", ["square6_2p", "square8_3p"])
def test_a_model_takes_a_win_that_is_there(config: str) -> None:
    rng = random.Random(5)
    weights = np.random.default_rng(3).normal(size=sight_of(config).shape)
    player = Greedy(Model(config, weights), rng, random_share=0.0)
    found = 0
    for _ in range(40):
        state: Any = CONFIGS[config].load().new_initial_state()
        while not state.is_terminal():
            wins = []
            for action in state.legal_actions():
                after = state.clone()
                after.apply_action(action)
                if after.is_terminal() and after.returns()[state.current_player()] > 0:
                    wins.append(action)
            if wins:
                found += 1
                assert player.step(state) in wins
            state.apply_action(rng.choice(state.legal_actions()))
    assert found > 10


def test_an_untrained_model_has_no_favourite() -> None:
    state: Any = CONFIGS["hex5_2p"].load().new_initial_state()
    player = Greedy(Model.untrained("hex5_2p"), random.Random(1), random_share=0.0)
    assert len({player.step(state) for _ in range(400)}) == 25
