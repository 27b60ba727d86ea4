"""Records of models: read strictly, assembled in any order; what a node says of its own."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.model_shelf import Keeping, Shelf
from fleet.models import (
    ConfigModels,
    Leftover,
    Manifest,
    Promotion,
    Refused,
    Version,
    assembled,
    check_version,
    config_of,
    holdings,
    parse,
    version_name,
)
from tests.fleet.model_stage import contents, leave, models, promotion, version


def name(number: int) -> str:
    return version(number).version


def document(**changed: Any) -> bytes:
    return json.dumps({**version(7).model_dump(), **changed}).encode()


def test_a_version_is_named_for_its_contents() -> None:
    assert name(7) == f"hex5_2p-g0007-{version(7).sha256[:12]}"
    assert version_name("hex8_2p", 123456, "ab" * 32) == "hex8_2p-g123456-abababababab"
    assert config_of(name(7)) == "hex5_2p"
    assert version(7).blob == f"blobs/{version(7).sha256[:2]}/{version(7).sha256}"


@pytest.mark.parametrize(
    "text",
    ["", "hex5_2p", "../hex5_2p-g0001-0123456789ab", "hex5_2p-g1-0123456789ab", "hex5_2p-g0001-0123456789AB", "x\n"],
)
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no version such as"):
        check_version(text)
    with pytest.raises(ValueError, match="is no version such as"):
        config_of(text)


def test_a_record_is_read_as_it_was_written() -> None:
    assert parse(Version, document(metrics={"loss": [1, None]}), "x").metrics == {"loss": [1, None]}
    written = promotion(3, 1234)
    assert parse(Promotion, written.model_dump_json().encode(), "x") == written


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"config": "../etc_2p"}, "config: .*not a board configuration"),
        ({"config": "hex8_2p"}, "what it says makes it"),
        ({"version": "../../x"}, "version: .*is no version"),
        ({"version": name(8)}, "what it says makes it"),
        ({"sha256": "0" * 63}, "sha256"),
        ({"sha256": "0" * 64}, "what it says makes it"),
        ({"size": -1}, "size"),
        ({"size": 1 << 60}, "size"),
        ({"size": "10"}, "size"),
        ({"size": True}, "size"),
        ({"created_at": "now"}, "created_at"),
        ({"generation": 7.5}, "generation"),
        ({"generation": None}, "generation"),
        ({"metrics": []}, "metrics"),
        ({"colour": "red"}, "colour: Extra inputs"),
    ],
)
def test_a_record_of_another_form_is_refused_and_what_is_wrong_named(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(Refused, match=f"^here: .*{said}"):
        parse(Version, document(**changed), "here")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff", b'{"config": NaN}', b"[" * 60_000])
def test_what_is_no_json_object_is_refused(data: bytes) -> None:
    for model in (Version, Promotion, Leftover, Manifest):
        with pytest.raises(Refused, match=r"^here: "):
            parse(model, data, "here")


def test_the_last_promotion_rules() -> None:
    assert (models(3).promoted, models(3).previous) == (None, None)
    assert (models(3, 1).promoted, models(3, 1).previous) == (name(1), None)
    assert (models(3, 1, 2, 2, 3).promoted, models(3, 1, 2, 2, 3).previous) == (name(3), name(2))


def test_rolling_back_leads_back_step_by_step_and_remembers_what_fell() -> None:
    once = models(3, 1, 2, 3, -2)
    assert (once.promoted, once.previous, once.rolled_back) == (name(2), name(1), {name(3)})
    twice = models(3, 1, 2, 3, -2, -1)
    assert (twice.promoted, twice.previous, twice.rolled_back) == (name(1), None, {name(2), name(3)})
    again = models(3, 1, 2, 3, -2, 3)
    assert (again.promoted, again.previous, again.rolled_back) == (name(3), name(2), set())


def test_a_promotion_of_what_nobody_knows_counts_for_nothing() -> None:
    known = assembled("hex5_2p", [version(1)], [promotion(1, 1), promotion(9, 2)])
    assert known.promoted == name(1)


@given(st.lists(st.integers(1, 5), max_size=6), st.randoms())
def test_models_are_the_same_in_whatever_order_their_records_come(promoted: list[int], order: random.Random) -> None:
    known = models(5, *promoted)
    versions, promotions = list(known.versions), list(known.promotions)
    order.shuffle(versions)
    order.shuffle(promotions)
    assert assembled("hex5_2p", versions, promotions) == known


@given(st.lists(st.sampled_from([1, 2, 3, 4, -1, -2, -3, -4]), max_size=8), st.integers(0, 6))
def test_wanted_are_the_promoted_the_previous_and_the_newest(promoted: list[int], keep: int) -> None:
    known = models(4, *promoted)
    wanted = [each.version for each in known.wanted(keep)]
    assert len(wanted) == len(set(wanted)) <= keep + 2
    newest = {name(number) for number in range(max(1, 5 - keep), 5)}
    assert set(wanted) == newest | ({known.promoted, known.previous} - {None})
    assert known.promoted is None or wanted[0] == known.promoted


def test_a_manifest_has_the_form_that_jobs_read(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "hex5_2p"
    folder.mkdir(parents=True)
    (folder / name(1)).write_bytes(contents(1))
    (folder / name(2)).write_bytes(contents(2))
    Shelf(tmp_path).settle(models(3, 1, 2), Keeping())
    row = {
        "version": name(2),
        "file": name(2),
        "sha256": version(2).sha256,
        "size": 1984,
        "created_at": version(2).created_at,
        "parent": None,
        "generation": 2,
        "games": 200,
    }
    said = json.loads((folder / "manifest.json").read_text())
    assert (said["config"], said["promoted"], said["previous"]) == ("hex5_2p", name(2), name(1))
    assert [each["version"] for each in said["versions"]] == [name(1), name(2)]
    assert said["versions"][1] == row
    assert Manifest.read(tmp_path, "hex5_2p").model_dump(mode="json") == said


def test_a_node_says_what_it_holds(tmp_path: Path) -> None:
    assert holdings(tmp_path) == {"unpublished": 0, "unlisted": 0, "refused": 0}
    leave(tmp_path, 4)
    folder = tmp_path / "models" / "hex5_2p"
    folder.mkdir()
    for number in (1, 2, 3):
        (folder / name(number)).write_bytes(contents(number))
    (folder / (name(4) + ".part")).write_bytes(b"")
    Shelf(tmp_path).settle(models(3, 3), Keeping(newest=2))
    (tmp_path / "models" / "refused.json").write_text('{"x": {"why": "y", "at": 1}}')
    assert holdings(tmp_path) == {
        "hex5_2p": {"versions": [name(2), name(3)], "promoted": name(3), "previous": None, "trained_on": 300},
        "unpublished": 1,
        "unlisted": 1,
        "refused": 1,
    }


@pytest.mark.parametrize(
    "text", ["", "[]", '{"config": "../x"}', '{"config": "hex5_2p", "versions": [{"file": "/etc"}]}']
)
def test_a_manifest_of_another_form_is_as_good_as_none(tmp_path: Path, text: str) -> None:
    folder = tmp_path / "models" / "hex5_2p"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(text)
    (folder / name(1)).write_bytes(contents(1))
    assert holdings(tmp_path)["hex5_2p"]["versions"] == []
    Shelf(tmp_path).settle(models(1), Keeping())
    assert holdings(tmp_path)["hex5_2p"]["versions"] == [name(1)]


def test_reading_what_a_node_holds_takes_no_time(tmp_path: Path) -> None:
    for players in range(2, 10):
        for board in ("hex", "square"):
            known: ConfigModels = models(5, 1, config=f"{board}_{players}p")
            folder = tmp_path / "models" / known.config
            folder.mkdir(parents=True)
            for each in known.versions:
                (folder / each.version).write_bytes(contents(each.generation))
            Shelf(tmp_path).settle(known, Keeping())
    best = min(_seconds(tmp_path) for _ in range(20))
    assert best < 0.005


def _seconds(data: Path) -> float:
    began = time.perf_counter()
    assert len(holdings(data)) == 19
    return time.perf_counter() - began
