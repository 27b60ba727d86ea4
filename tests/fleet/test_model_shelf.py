"""What jobs leave reaches the store, and what the store has reaches the node: whole, whatever happens on the way."""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from fleet.model_registry import ModelRegistry
from fleet.model_shelf import Busy, Published, Shelf, expendable
from fleet.models import Manifest, Refused, holdings, refusals
from fleet.store import Corrupt, Store, StoreUnavailable
from tests.fleet.model_stage import (
    CONFIG,
    KEEPING,
    contents,
    leave,
    listed,
    models,
    name,
    publish,
    pull,
    stocked,
    version,
    whole,
)


@pytest.fixture(params=["directory", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    yield Store(str(tmp_path / "store") if request.param == "directory" else f"memory://{tmp_path.name}")
    MemoryFileSystem.store.clear()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "node"


# publishing ----------------------------------------------------------------------------------------------


def test_what_a_job_leaves_is_published_and_takes_its_place(data: Path, store: Store) -> None:
    leave(data, 1)
    leave(data, 2, parent=name(1))
    published = publish(data, store)
    assert (published.versions, published.refused, published.moved) == ([name(1), name(2)], [], 2 * len(contents(1)))
    known = ModelRegistry(store).read()[CONFIG]
    assert [each.version for each in known.versions] == [name(1), name(2)]
    second = known.by_name[name(2)]
    assert (second.parent, second.games, second.metrics, second.node) == (name(1), 200, {"loss": 0.5}, "n1")
    assert abs(second.created_at - time.time()) < 60
    assert listed(data) == [name(1), name(2)]
    assert whole(data)
    assert list((data / "models" / "new").iterdir()) == []
    assert publish(data, store) == Published()


def test_the_same_model_twice_is_one_version(data: Path, tmp_path: Path, store: Store) -> None:
    leave(data, 1)
    publish(data, store)
    first = ModelRegistry(store).read()[CONFIG].versions
    for folder in (data, tmp_path / "other"):
        leave(folder, 1, games=7)
        assert publish(folder, store).versions == [name(1)]
    assert ModelRegistry(store).read()[CONFIG].versions == first  # a record never changes


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"config": "../../etc_2p"}, "config: .*not a board configuration"),
        ({"file": "../hex5_2p-1.npz"}, "file: String should match"),
        ({"file": "/etc/passwd"}, "file: String should match"),
        ({"file": "hex5_2p-2.npz"}, "file: 'hex5_2p-2.npz' is not 'hex5_2p-1' with another ending"),
        ({"file": "hex5_2p-1.json"}, "is not 'hex5_2p-1' with another ending"),
        ({"file": "hex5_2p-1.onnx"}, "there is no hex5_2p-1.onnx"),
        ({"generation": "7"}, "generation"),
        ({"extra": 1}, "extra: Extra inputs"),
        ({"metrics": {"x": "y" * 70_000}}, "longer than 65536 bytes"),
    ],
)
def test_what_is_no_model_is_set_aside_and_the_rest_goes_on(
    data: Path, store: Store, changed: dict[str, Any], said: str
) -> None:
    leave(data, 2)
    note = leave(data, 1, **changed)
    published = publish(data, store)
    assert (published.versions, published.refused) == ([name(2)], [note.name])
    aside = sorted(path.name.split("-", 1)[1] for path in (data / "models" / "refused").iterdir())
    assert "hex5_2p-1.json" in aside
    kept = (data / "models" / "refused", data / "models" / "new")
    assert any(path.read_bytes() == contents(1) for folder in kept for path in folder.iterdir())  # nothing is lost
    ((what, refusal),) = refusals(data).items()
    assert what == "models/new/hex5_2p-1.json"
    assert re.search(said, refusal["why"])
    assert holdings(data)["refused"] == 1
    assert holdings(data)["unpublished"] == 0
    assert publish(data, store) == Published()


def test_a_link_or_pipe_is_no_model(data: Path, store: Store) -> None:
    for number in (1, 2):
        leave(data, number)
    new = data / "models" / "new"
    (new / "hex5_2p-1.npz").unlink()
    (new / "hex5_2p-1.npz").symlink_to("/etc/passwd")
    (new / "hex5_2p-2.npz").unlink()
    os.mkfifo(new / "hex5_2p-2.npz")
    assert publish(data, store).refused == ["hex5_2p-1.json", "hex5_2p-2.json"]
    assert store.list("blobs") == []


def test_what_nobody_could_fetch_is_not_published(data: Path, tmp_path: Path) -> None:
    leave(data, 1)
    published = publish(data, Store(str(tmp_path / "store"), max_size=100))
    assert published.refused == ["hex5_2p-1.json"]
    assert "max_size" in refusals(data)["models/new/hex5_2p-1.json"]["why"]


def test_a_store_that_is_away_loses_nothing(data: Path, tmp_path: Path) -> None:
    leave(data, 1)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreUnavailable):
        publish(data, Store(str(tmp_path / "file" / "store")))
    assert holdings(data)["unpublished"] == 1
    assert publish(data, Store(str(tmp_path / "store"))).versions == [name(1)]


def test_contents_that_are_lost_cut_short_or_about_to_be_pruned_are_published_again(data: Path, tmp_path: Path) -> None:
    store, blob = Store(str(tmp_path / "store")), tmp_path / "store" / version(1).blob
    spoil: list[Callable[[], Any]] = [
        lambda: blob.unlink(missing_ok=True),
        lambda: blob.write_bytes(b"short"),
        lambda: os.utime(blob, (0, 0)),
    ]
    for each in spoil:
        each()
        leave(data, 1)
        assert publish(data, store).moved == len(contents(1))
        assert blob.read_bytes() == contents(1)
    leave(data, 1)
    assert publish(data, store).moved == 0


def test_a_note_that_is_spoiled_when_its_model_is_published_holds_up_nothing(data: Path, store: Store) -> None:
    leave(data, 1).rename(data / "models" / "new" / "hex5_2p-1.json.done")
    (data / "models" / "new" / "hex5_2p-1.json.done").write_text("{")
    leave(data, 2)
    published = publish(data, store)
    assert (published.versions, published.refused) == ([name(2)], ["hex5_2p-1.json.done"])
    assert holdings(data)["unpublished"] == 0


def test_a_model_that_became_a_link_when_it_was_published_holds_up_nothing(data: Path, store: Store) -> None:
    leave(data, 1).rename(data / "models" / "new" / "hex5_2p-1.json.done")
    (model,) = (each for each in (data / "models" / "new").iterdir() if each.name != "hex5_2p-1.json.done")
    model.rename(data / "moved")
    model.symlink_to(data / "moved")
    leave(data, 2)
    published = publish(data, store)
    assert (published.versions, published.refused) == ([name(2)], ["hex5_2p-1.json.done"])


def test_a_name_taken_by_other_contents_is_refused(data: Path, store: Store, tmp_path: Path) -> None:
    leave(data, 1)
    other = version(1).model_copy(update={"sha256": version(1).sha256[:12] + "0" * 52})
    store.write(version(1).key, other.model_dump_json().encode())
    assert publish(data, store).refused == ["hex5_2p-1.json"]


# pulling -------------------------------------------------------------------------------------------------


def test_a_version_is_fetched_listed_and_not_fetched_again(data: Path, tmp_path: Path, store: Store) -> None:
    registry = stocked(store, tmp_path, version(1), version(2))
    registry.promote(registry.read()[CONFIG], name(1), now=5.0, by="test", why="")
    assert pull(data, store, 2) == len(contents(2))
    assert listed(data) == [name(2)]
    assert Manifest.read(data, CONFIG).promoted is None  # what is not here is not played
    assert pull(data, store, 1) == len(contents(1))
    assert Manifest.read(data, CONFIG).promoted == name(1)
    assert pull(data, store, 1) == 0
    assert whole(data)


def test_while_the_promoted_version_is_on_its_way_the_one_before_is_played(
    data: Path, tmp_path: Path, store: Store
) -> None:
    registry = stocked(store, tmp_path, version(1), version(2), version(3))
    for number in (1, 2, 3):
        registry.promote(registry.read()[CONFIG], name(number), now=number, by="test", why="")
    for number, stands in ((2, (name(2), None)), (3, (name(3), name(2)))):
        pull(data, store, number)
        manifest = Manifest.read(data, CONFIG)
        assert (manifest.promoted, manifest.previous) == stands


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"sha256": "f" * 64}, Refused),
        ({"size": 10_000_000_000}, Corrupt),
        ({"size": 5}, Corrupt),
        ({"config": "hex8_2p"}, Refused),
        ({"surprise": 1}, Refused),
    ],
)
def test_a_record_that_lies_leads_to_nothing_visible(
    data: Path, tmp_path: Path, store: Store, changed: dict[str, Any], error: type[Exception]
) -> None:
    stocked(store, tmp_path, version(1))
    store.write(version(1).key, json.dumps({**version(1).model_dump(), **changed}).encode())
    with pytest.raises(error):
        pull(data, store, 1)
    assert list((data / "models").glob(f"{CONFIG}/*")) == []
    assert refusals(data).keys() == {version(1).key}


def test_contents_that_are_others_lead_to_nothing_visible(data: Path, tmp_path: Path, store: Store) -> None:
    stocked(store, tmp_path, version(1))
    store.write(version(1).blob, contents(2))
    with pytest.raises(Corrupt, match="SHA-256"):
        pull(data, store, 1)
    assert list((data / "models").glob(f"{CONFIG}/*")) == []


def test_hostile_records_are_refused_by_name_and_the_rest_is_read(tmp_path: Path, store: Store) -> None:
    stocked(store, tmp_path, version(1))
    far = promotion_record(version(1).version, 999_999_999_999_999)
    hostile = {
        "models/hex5_2p/versions/huge.json": b" " * 70_000,
        f"models/hex5_2p/versions/{name(2)}.json": b"{}",
        f"models/hex5_2p/versions/{name(3)}.json": version(4).model_dump_json().encode(),
        f"models/hex8_2p/versions/{name(5)}.json": version(5).model_dump_json().encode(),
        f"models/etc/versions/{name(6)}.json": version(6).model_dump_json().encode(),
        "models/hex5_2p/promotions/999999999999999-01234567.json": far,
        "models/hex5_2p/promotions/000000000000001-01234567.json": promotion_record(name(1), 2),
        "models/readme.txt": b"hello",
    }
    for key, data in hostile.items():
        store.write(key, data)
    registry = ModelRegistry(store)
    found = registry.read()
    assert found.refused.keys() == hostile.keys()
    assert all(found.refused.values())
    assert [each.version for each in found[CONFIG].versions] == [name(1)]
    assert found[CONFIG].promotions == ()
    assert registry.read() == found
    assert {entry.key for entry in store.list("models")} == {*hostile, version(1).key}  # nothing of others is deleted


def promotion_record(version: str, at: int) -> bytes:
    return json.dumps({"config": CONFIG, "version": version, "at": at}).encode()


def test_records_are_read_once(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = stocked(store, tmp_path, version(1), version(2))
    first = registry.read()

    def fail(*_: Any) -> bytes:
        raise AssertionError("read again")

    monkeypatch.setattr(Store, "read", fail)
    assert registry.read() == first
    assert ModelRegistry(store).read(CONFIG) == first


def test_one_transfer_at_a_time(data: Path, tmp_path: Path, store: Store) -> None:
    stocked(store, tmp_path, version(1))
    (data / "models").mkdir(parents=True)
    leave(data, 2)
    for lock in (".pulling", ".publishing"):
        with (data / "models" / lock).open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            with pytest.raises(Busy):
                _ = pull(data, store, 1) if lock == ".pulling" else publish(data, store)
    pull(data, store, 1)


def test_promotions_come_after_all_there_are(tmp_path: Path, store: Store) -> None:
    registry = stocked(store, tmp_path, version(1), version(2))
    for number, now in ((1, 50.0), (2, 3.0), (1, 4.0)):  # clocks of two nodes
        registry.promote(registry.read()[CONFIG], name(number), now=now, by="n1", why="better")
        assert registry.read()[CONFIG].promoted == name(number)
    registry.roll_back(registry.read()[CONFIG], now=1.0, by="operator", why="it crashes")
    assert registry.read()[CONFIG].promoted == name(2)
    registry.roll_back(registry.read()[CONFIG], now=1.0, by="operator", why="")
    with pytest.raises(Refused, match="no previous version"):
        registry.roll_back(registry.read()[CONFIG], now=1.0, by="operator", why="")
    with pytest.raises(Refused, match="has no version"):
        registry.promote(registry.read()[CONFIG], name(9), now=1.0, by="", why="")


# what stays ----------------------------------------------------------------------------------------------


def test_what_is_unwanted_leaves_the_manifest_at_once_and_the_disk_later(data: Path) -> None:
    folder = data / "models" / CONFIG
    folder.mkdir(parents=True)
    for number in range(1, 6):
        (folder / name(number)).write_bytes(contents(number))
        os.utime(folder / name(number), (0, 0))
    now = 1000.0
    shelf = Shelf(data, clock=lambda: now)
    assert shelf.settle(models(3, 2), KEEPING) == (True, [name(1)])  # it was here for long, and never listed
    assert shelf.settle(models(4, 2, 4), KEEPING) == (True, [])
    assert listed(data) == [name(2), name(3), name(4)]
    assert shelf.settle(models(4, 2, 4, 3), KEEPING) == (True, [])
    assert listed(data) == [name(3), name(4)]  # 2 is neither promoted nor previous nor of the newest two
    now = 1090.0
    assert shelf.settle(models(4, 2, 4, 3), KEEPING) == (False, [])
    now = 1101.0
    assert shelf.settle(models(4, 2, 4, 3), KEEPING) == (False, [name(2)])
    assert {path.name for path in folder.iterdir() if path.name.startswith("hex")} == {name(3), name(4), name(5)}
    now = 1e9
    assert shelf.settle(models(4, 2, 4, 3), KEEPING) == (False, [])  # of 5 there is no other copy known


def test_a_part_that_nobody_goes_on_with_goes(data: Path) -> None:
    folder = data / "models" / CONFIG
    folder.mkdir(parents=True)
    for number in (1, 3):
        (folder / f"{name(number)}.part").write_bytes(b"x")
    Shelf(data).settle(models(3), KEEPING)
    assert len(list(folder.glob("*.part"))) == 2
    Shelf(data, clock=lambda: time.time() + 101).settle(models(3), KEEPING)
    assert [path.name for path in folder.glob("*.part")] == [f"{name(3)}.part"]


def test_a_store_that_lost_its_records_takes_no_model_from_a_node(data: Path, tmp_path: Path, store: Store) -> None:
    stocked(store, tmp_path, version(1))
    pull(data, store, 1)
    empty = ModelRegistry(Store(str(tmp_path / "another")))
    assert Shelf(data).settle(empty.read()[CONFIG], KEEPING) == (False, [])
    assert listed(data) == [name(1)]


def test_a_file_of_another_size_is_not_here(data: Path, tmp_path: Path, store: Store) -> None:
    stocked(store, tmp_path, version(1))
    folder = data / "models" / CONFIG
    folder.mkdir(parents=True)
    (folder / name(1)).write_bytes(b"short")
    Shelf(data).settle(ModelRegistry(store).read()[CONFIG], KEEPING)
    assert listed(data) == []
    assert pull(data, store, 1) == len(contents(1))
    assert whole(data)


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.floats(0, 1000)),
    st.sets(st.sampled_from("abcdef")),
    st.floats(0, 2000),
    st.floats(0, 500),
)
def test_only_what_is_old_and_unprotected_is_expendable(
    unlisted: dict[str, float], protected: set[str], now: float, after: float
) -> None:
    gone = expendable(unlisted, protected, now, after)
    assert not set(gone) & protected
    assert all(now - unlisted[each] > after for each in gone)
    assert all(each in protected or now - since <= after for each, since in unlisted.items() if each not in gone)
