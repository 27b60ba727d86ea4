"""Manifests from anywhere, and models handed in whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from examples.openspiel.model import Model, ModelRefused
from examples.openspiel.versions import Manifest, ManifestRefused, hand_in, handed_in

CONFIG = "hex5_2p"
SHA = "ab" * 32
NAME = f"{CONFIG}-g0003-{SHA[:12]}"
ROW = {
    "version": NAME, "file": f"{NAME}.npz", "sha256": SHA, "size": 9, "created_at": 1.0, "parent": None,
    "generation": 3, "games": 700,
}  # fmt: skip
DOCUMENT = {"config": CONFIG, "promoted": NAME, "previous": None, "versions": [ROW]}

MakeRegistry = Callable[[str], Any]


def written(data: Path, document: Any) -> Path:
    path = data / "models" / CONFIG / "manifest.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(document if isinstance(document, bytes) else json.dumps(document).encode())
    return path


def test_without_a_manifest_there_is_nothing(tmp_path: Path) -> None:
    assert Manifest.read(tmp_path, CONFIG) == Manifest()


def test_a_manifest_names_versions_inside_its_folder(tmp_path: Path) -> None:
    path = written(tmp_path, DOCUMENT)
    manifest = Manifest.read(tmp_path, CONFIG)
    assert manifest.promoted == manifest.versions[0]
    assert manifest.promoted is not None
    assert manifest.promoted.path == path.parent / f"{NAME}.npz"
    assert (manifest.promoted.generation, manifest.promoted.games, manifest.previous) == (3, 700, None)


def test_a_promoted_version_that_has_not_arrived_yet_is_none(tmp_path: Path) -> None:
    written(tmp_path, DOCUMENT | {"promoted": f"{CONFIG}-g0009-{SHA[:12]}"})
    assert Manifest.read(tmp_path, CONFIG).promoted is None


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (b"{", "Expecting property name"),
        (b"\xff", "can't decode byte"),
        (b"[" * 10_000, "recursion"),
        (b" " * (8 * 2**20 + 1), "larger than 8388608 bytes"),
        ([], "not a JSON object"),
        ({}, "'config' is missing"),
        (DOCUMENT | {"config": "hex8_2p"}, "config is 'hex8_2p', not 'hex5_2p'"),
        (DOCUMENT | {"versions": {}}, "versions is not a list"),
        (DOCUMENT | {"promoted": 7}, "promoted is '7'"),
        (DOCUMENT | {"versions": [7]}, "a version is '7', not a JSON object"),
        (DOCUMENT | {"versions": [ROW | {"version": f"../{NAME}"}]}, "is not the name of a version"),
        (DOCUMENT | {"versions": [ROW | {"version": NAME.replace("hex5", "hex8")}]}, "is not the name of a version"),
        (DOCUMENT | {"versions": [ROW | {"file": "../../games.db"}]}, "not a path inside the manifest's folder"),
        (DOCUMENT | {"versions": [ROW | {"file": "/etc/passwd"}]}, "not a path inside the manifest's folder"),
        (DOCUMENT | {"versions": [ROW | {"file": "a\0b"}]}, "not a path inside the manifest's folder"),
        (DOCUMENT | {"versions": [ROW | {"file": 7}]}, "not a path inside the manifest's folder"),
        (DOCUMENT | {"versions": [ROW | {"sha256": "cd" * 32}]}, "not a checksum that begins with"),
        (DOCUMENT | {"versions": [ROW | {"generation": -1}]}, "generation is '-1', not a whole number"),
        (DOCUMENT | {"versions": [ROW | {"generation": True}]}, "generation is 'True', not a whole number"),
        (DOCUMENT | {"versions": [ROW | {"games": 1.5}]}, "games is '1.5', not a whole number"),
    ],
)
def test_a_hostile_manifest_is_refused_by_name_and_reason(document: Any, reason: str, tmp_path: Path) -> None:
    path = written(tmp_path, document)
    with pytest.raises(ManifestRefused) as refused:
        Manifest.read(tmp_path, CONFIG)
    assert str(refused.value).startswith(f"{path}: ")
    assert reason in str(refused.value)


def test_candidates_are_the_newest_that_are_younger_than_the_promoted_one(tmp_path: Path) -> None:
    rows = []
    for generation in (4, 1, 3, 2):
        digest = hashlib.sha256(bytes([generation])).hexdigest()
        name = f"{CONFIG}-g{generation:04d}-{digest[:12]}"
        rows.append(ROW | {"version": name, "file": name, "sha256": digest, "generation": generation})
    written(tmp_path, DOCUMENT | {"versions": rows, "promoted": rows[1]["version"]})
    manifest = Manifest.read(tmp_path, CONFIG)
    assert [version.generation for version in manifest.versions] == [1, 2, 3, 4]
    assert [version.generation for version in manifest.candidates()] == [4, 3]


def test_a_model_whose_checksum_lies_is_refused(tmp_path: Path, registry: MakeRegistry) -> None:
    own = registry(CONFIG)
    version = hand_in(tmp_path, Model.untrained(CONFIG), parent=None, generation=1, games=5, metrics={})
    own.publish(version, promote=True)
    promoted = Manifest.read(tmp_path, CONFIG).promoted
    assert promoted is not None
    assert not promoted.model(CONFIG).weights.any()
    promoted.path.write_bytes(promoted.path.read_bytes() + b"!")
    with pytest.raises(ModelRefused, match="its SHA-256 is not"):
        promoted.model(CONFIG)


def test_a_model_is_handed_in_under_its_checksum_with_all_that_is_asked_of_it(tmp_path: Path) -> None:
    model = Model.untrained(CONFIG)
    version = hand_in(tmp_path, model, parent="p", generation=12, games=345, metrics={"loss": 0.5})
    digest = hashlib.sha256(model.encoded()).hexdigest()
    assert version == f"{CONFIG}-g0012-{digest[:12]}"
    new = tmp_path / "models" / "new"
    assert {path.name for path in new.iterdir()} == {f"{version}.npz", f"{version}.json"}
    assert json.loads((new / f"{version}.json").read_text()) == {
        "config": CONFIG, "file": f"{version}.npz", "parent": "p", "generation": 12, "games": 345,
        "metrics": {"loss": 0.5},
    }  # fmt: skip
    assert (new / f"{version}.npz").read_bytes() == model.encoded()
    assert handed_in(tmp_path, CONFIG) == [(12, 345)]
    assert handed_in(tmp_path, "hex8_2p") == []


@pytest.mark.parametrize("call", range(1, 9))
def test_a_kill_at_any_step_of_handing_in_shows_a_whole_model_or_none(call: int, tmp_path: Path) -> None:
    """The process kills itself before its n-th file operation."""
    program = """
import os, signal, sys
from pathlib import Path
from examples.openspiel.model import Model
from examples.openspiel.versions import hand_in
left = int(sys.argv[1])
def counted(step):
    def run(*arguments, **named):
        global left
        left -= 1
        if left == 0: os.kill(os.getpid(), signal.SIGKILL)
        return step(*arguments, **named)
    return run
model = Model.untrained("square8_3p")
os.fsync, Path.replace, Path.open = counted(os.fsync), counted(Path.replace), counted(Path.open)
print(hand_in(Path(sys.argv[2]), model, parent=None, generation=1, games=1, metrics={}))
"""
    done = subprocess.run([sys.executable, "-c", program, str(call), tmp_path], capture_output=True, check=False)
    assert done.returncode == (0 if call == 9 else -signal.SIGKILL)
    for shown in (tmp_path / "models" / "new").glob("*.json"):
        about = json.loads(shown.read_text())
        Model.read(shown.parent / about["file"], "square8_3p")
    visible = list((tmp_path / "models" / "new").glob("*.json"))
    assert len(visible) == (call > 7)


def test_what_a_killed_job_left_half_written_is_swept_in_time(tmp_path: Path) -> None:
    new = tmp_path / "models" / "new"
    new.mkdir(parents=True)
    old, young = new / ".a.npz.1.part", new / ".b.npz.2.part"
    for part in (old, young):
        part.write_text("half")
    os.utime(old, (1.0, 1.0))
    hand_in(tmp_path, Model.untrained(CONFIG), parent=None, generation=1, games=1, metrics={})
    assert (old.exists(), young.exists()) == (False, True)


def test_what_lies_in_new_and_cannot_be_read_counts_for_nothing(tmp_path: Path) -> None:
    new = tmp_path / "models" / "new"
    new.mkdir(parents=True)
    for number, text in enumerate(("{", "[]", '{"generation": "x"}', "[" * 10_000)):
        (new / f"{CONFIG}-g{number:04d}-x.json").write_text(text)
    assert handed_in(tmp_path, CONFIG) == []
