"""What a store promises, over a directory and over fsspec's drivers: one suite for all of them."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

import fleet.store
from fleet import store_place
from fleet.store import Corrupt, NoRoom, Pace, Stopped, Store, StoreUnavailable

DATA = bytes(range(256)) * 4096 * 3  # three chunks
SHA256 = hashlib.sha256(DATA).hexdigest()
KEY = f"blobs/{SHA256[:2]}/{SHA256}"


class Elsewhere(LocalFileSystem):
    """A local folder behind a protocol of its own: what is neither a directory nor an object store."""

    protocol = "elsewhere"


class Objects(MemoryFileSystem):
    """An object store: an upload appears when it is whole."""

    protocol = "objects"

    def put_file(self, lpath: str, rpath: str, callback: Any = None, **_: Any) -> None:
        with Path(lpath).open("rb") as file:
            while chunk := file.read(1 << 20):
                callback.relative_update(len(chunk))
        self.pipe_file(rpath, Path(lpath).read_bytes())


fsspec.register_implementation("elsewhere", Elsewhere, clobber=True)
fsspec.register_implementation("objects", Objects, clobber=True)


@pytest.fixture(params=["directory", "file", "memory", "elsewhere", "objects"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(store_place, "WHOLE_AT_ONCE", store_place.WHOLE_AT_ONCE | {"objects"})
    place = tmp_path / "store"
    urls = {"directory": f"{place}", "file": f"file://{place}", "elsewhere": f"elsewhere://{place}"}
    yield urls.get(request.param) or f"{request.param}://bucket/{tmp_path.name}"
    MemoryFileSystem.store.clear()


@pytest.fixture
def store(url: str) -> Store:
    return Store(url)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").write_bytes(DATA)
    return tmp_path / "source"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "here" / "model.npz"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def part_of(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def fetch(store: Store, target: Path, **changed: Any) -> int:
    return store.get(KEY, target, **{"size": len(DATA), "sha256": SHA256, **changed})


def test_what_was_put_can_be_got_and_is_counted(store: Store, source: Path, target: Path) -> None:
    pace = Pace()
    assert store.put(source, KEY, sha256=SHA256, pace=pace) == len(DATA)
    assert fetch(store, target, pace=pace) == len(DATA)
    assert pace.moved == 2 * len(DATA)
    assert target.read_bytes() == DATA
    assert names(target.parent) == [target.name]


def test_documents_are_written_read_listed_and_deleted(store: Store) -> None:
    assert store.list("models") == []
    store.write("models/hex8_2p/versions/b.json", b"{}")
    store.write("models/hex8_2p/versions/a.json", b"[]")
    store.write("models/hex8_2p/versions/a.json", b"[1]")
    assert store.read("models/hex8_2p/versions/a.json", 3) == b"[1]"
    found = store.list("models/hex8_2p")
    assert [(entry.key, entry.size) for entry in found] == [
        ("models/hex8_2p/versions/a.json", 3),
        ("models/hex8_2p/versions/b.json", 2),
    ]
    assert all(entry.modified and abs(entry.modified - time.time()) < 60 for entry in found)
    assert store.list("models/hex8_2p/") == found
    assert store.list("models/hex") == []
    assert store.entry("models/hex8_2p/versions/a.json") == found[0]
    store.delete("models/hex8_2p/versions/a.json")
    store.delete("models/hex8_2p/versions/a.json")
    assert store.entry("models/hex8_2p/versions/a.json") is None
    assert store.entry("models/hex8_2p") is None
    assert [entry.key for entry in store.list("models")] == ["models/hex8_2p/versions/b.json"]


def test_what_is_not_there_is_said_to_be_not_there(store: Store, target: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=KEY):
        fetch(store, target)
    with pytest.raises(FileNotFoundError, match="a/b"):
        store.read("a/b", 10)
    with pytest.raises(FileNotFoundError, match="nothing"):
        store.put(tmp_path / "nothing", KEY)
    assert names(target.parent) == []


def test_a_document_above_its_limit_is_refused(store: Store) -> None:
    store.write("huge.json", b"x" * 11)
    with pytest.raises(Corrupt, match="longer than the 10 bytes"):
        store.read("huge.json", 10)


def test_a_transfer_goes_on_where_it_stopped(store: Store, source: Path, target: Path) -> None:
    store.put(source, KEY)
    target.parent.mkdir()
    part_of(target).write_bytes(DATA[: 2 << 20])
    assert fetch(store, target) == len(DATA) - (2 << 20)
    assert target.read_bytes() == DATA


@pytest.mark.parametrize("part", [b"wrong" * 1000, DATA + b"more", DATA[:-1] + b"x"])
def test_a_part_that_leads_nowhere_is_begun_anew(store: Store, source: Path, target: Path, part: bytes) -> None:
    store.put(source, KEY)
    target.parent.mkdir()
    part_of(target).write_bytes(part)
    assert fetch(store, target) >= len(DATA)
    assert target.read_bytes() == DATA


@pytest.mark.parametrize(
    ("lie", "said"),
    [
        ({"sha256": "0" * 64}, "has the SHA-256"),
        ({"size": len(DATA) - 1}, "is longer than"),
        ({"size": len(DATA) + 1}, "ends 1 bytes before"),
    ],
)
@pytest.mark.parametrize("part", [b"", DATA[:5000]])
def test_lies_about_what_is_there_leave_nothing(
    store: Store, source: Path, target: Path, lie: dict[str, Any], said: str, part: bytes
) -> None:
    store.put(source, KEY)
    target.parent.mkdir()
    if part:
        part_of(target).write_bytes(part)
    with pytest.raises(Corrupt, match=f"{KEY}.*{said}"):
        fetch(store, target, **lie)
    assert names(target.parent) == []


def test_a_lying_upload_never_shows(store: Store, source: Path) -> None:
    with pytest.raises(Corrupt, match="SHA-256"):
        store.put(source, KEY, sha256="0" * 64)
    assert store.entry(KEY) is None
    assert store.list("blobs") == []
    assert store.sweep(-1) == 0


@pytest.mark.parametrize(
    "claim",
    [{"size": 10 * 1000**3}, {"size": -1}, {"sha256": "../../etc/passwd"}, {"sha256": SHA256.upper()}],
)
def test_claims_that_cannot_be_are_refused_before_anything_is_written(
    url: str, target: Path, claim: dict[str, Any]
) -> None:
    with pytest.raises(Corrupt, match="claims"):
        fetch(Store(url, max_size=1 << 30), target, **claim)
    assert not target.parent.exists()


def test_a_transfer_ends_at_its_deadline_and_when_it_is_cancelled(store: Store, source: Path, target: Path) -> None:
    store.put(source, KEY)
    cancelled = threading.Event()
    pace = Pace(cancel=cancelled)
    step = pace.step

    def after_one(count: int) -> None:
        cancelled.set()
        step(count)

    pace.step = after_one  # type: ignore[method-assign]
    with pytest.raises(Stopped, match=f"cancelled after {1 << 20}"):
        fetch(store, target, pace=pace)
    assert part_of(target).stat().st_size == 1 << 20
    with pytest.raises(Stopped, match="out of time"):
        fetch(store, target, pace=Pace(until=time.monotonic() - 1))
    cancelled.clear()
    with pytest.raises(Stopped):
        store.put(source, "again", pace=pace)
    assert store.entry("again") is None
    assert fetch(store, target) == len(DATA) - (1 << 20)


def test_a_disk_that_is_too_full_is_not_filled(
    url: str, source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Store(url).put(source, KEY)
    free = len(DATA) + 999
    usage = shutil.disk_usage(target.parent.parent)._replace(free=free)
    monkeypatch.setattr(fleet.store.shutil, "disk_usage", lambda _: usage)
    careful = Store(url, min_free=1000)
    with pytest.raises(NoRoom, match=r"do not fit in .*/here"):
        fetch(careful, target)
    assert names(target.parent) == []
    part_of(target).write_bytes(DATA[:1])
    assert fetch(careful, target) == len(DATA) - 1  # what is here already needs no room
    if careful.free() is not None:
        with pytest.raises(NoRoom, match="are free there"):
            careful.put(source, "again")


def test_a_disk_that_runs_full_keeps_nothing_of_it(
    tmp_path: Path, source: Path, mount_small: Callable[[Path, int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path / "store"))
    store.put(source, KEY)
    small = mount_small(tmp_path / "small", 1024)
    roomy = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(fleet.store.shutil, "disk_usage", lambda _: roomy)  # filled by someone else meanwhile
    with pytest.raises(NoRoom):
        fetch(store, small / "model")
    assert names(small) == []
    with pytest.raises(NoRoom):
        Store(str(small)).put(source, KEY)
    assert Store(str(small)).list("blobs") == []
    assert names(small / ".incoming") == []


def test_two_transfers_into_one_target_do_not_meet(store: Store, source: Path, target: Path) -> None:
    store.put(source, KEY)
    going, go_on = threading.Event(), threading.Event()
    pace = Pace()
    step = pace.step

    def wait(count: int) -> None:
        going.set()
        go_on.wait(10)
        step(count)

    pace.step = wait  # type: ignore[method-assign]
    first = threading.Thread(target=fetch, args=(store, target), kwargs={"pace": pace})
    first.start()
    assert going.wait(10)
    with pytest.raises(StoreUnavailable, match="another transfer"):
        fetch(store, target)
    go_on.set()
    first.join()
    assert target.read_bytes() == DATA


def test_a_transfer_that_has_just_become_the_target_is_left_alone(
    store: Store, source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(source, KEY)
    flock = fleet.store.fcntl.flock

    def late(*arguments: Any) -> None:
        part_of(target).write_bytes(DATA)
        part_of(target).replace(target)  # by another call, between the opening and the lock
        flock(*arguments)

    monkeypatch.setattr(fleet.store.fcntl, "flock", late)
    with pytest.raises(StoreUnavailable, match="another transfer"):
        fetch(store, target)
    assert target.read_bytes() == DATA


def test_everything_is_synced_before_it_shows_and_its_name_after(
    tmp_path: Path, source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, done = Store(str(tmp_path / "store")), list[str]()

    def kind(descriptor: int) -> str:
        return "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"

    rename = Path.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: done.append(kind(descriptor)))
    monkeypatch.setattr(Path, "replace", lambda path, to: done.append("rename") or rename(path, to))
    store.put(source, KEY)
    assert [step for step in done if step != "folder"] == ["file", "rename"]
    assert done[-2:] == ["rename", "folder"]
    done.clear()
    fetch(store, target)
    assert done == ["folder", "file", "rename", "folder"]


@pytest.mark.parametrize("whole", [True, False])
def test_an_upload_of_which_bytes_got_lost_is_told_and_not_believed(
    source: Path, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    info = MemoryFileSystem.info
    monkeypatch.setattr(MemoryFileSystem, "info", lambda *args, **more: {**info(*args, **more), "size": len(DATA) - 1})
    if whole:
        monkeypatch.setattr(store_place, "WHOLE_AT_ONCE", {"objects"})
    store = Store("objects://bucket/lossy")
    with pytest.raises(StoreUnavailable, match=f"{len(DATA) - 1} of {len(DATA)} bytes arrived"):
        store.put(source, KEY)
    if not whole:
        assert store.list("blobs") == []
    MemoryFileSystem.store.clear()


def test_what_a_killed_upload_left_is_no_key_and_is_swept(url: str, store: Store) -> None:
    store.write("models/a.json", b"{}")
    system, root = fsspec.url_to_fs(url if "://" in url else f"file://{url}")
    system.makedirs(f"{root}/.incoming", exist_ok=True)
    system.pipe_file(f"{root}/.incoming/0123", b"half")
    assert [entry.key for entry in store.list("models")] == ["models/a.json"]
    assert store.sweep(3600) == 0
    assert store.sweep(-1) == 1
    assert store.sweep(-1) == 0


def test_names_that_are_no_keys_are_not_listed(url: str, store: Store) -> None:
    store.write("models/a.json", b"{}")
    system, root = fsspec.url_to_fs(url if "://" in url else f"file://{url}")
    system.pipe_file(f"{root}/models/.hidden", b"")
    system.pipe_file(f"{root}/models/white space", b"")
    assert [entry.key for entry in store.list("models")] == ["models/a.json"]


def test_links_and_pipes_in_a_directory_are_not_followed(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    store.write("models/a.json", b"{}")
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "store" / "models" / "link.json").symlink_to(tmp_path / "secret")
    os.mkfifo(tmp_path / "store" / "models" / "pipe.json")
    for name, said in (("link", "is a link"), ("pipe", "no plain file")):
        with pytest.raises(Corrupt, match=said):
            store.read(f"models/{name}.json", 100)
    assert [entry.key for entry in store.list("models")] == ["models/a.json"]


def test_a_store_that_cannot_be_reached_is_unavailable(tmp_path: Path, source: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = Store(str(tmp_path / "file" / "store"))
    with pytest.raises(StoreUnavailable, match="file/store"):
        store.put(source, KEY)


def test_what_is_no_key_never_becomes_a_path(store: Store, source: Path, target: Path) -> None:
    calls: list[Callable[[str], Any]] = [
        store.entry,
        store.delete,
        lambda key: store.put(source, key),
        lambda key: store.get(key, target, size=1, sha256=SHA256),
        lambda key: store.read(key, 1),
        lambda key: store.write(key, b""),
    ]
    odd = ["", "/", "/etc/passwd", "a//b", "a/", "../a", "a/../b", ".a", "a/.b", "a b", "a\\b", "a\n", "ä", "%2e/b"]
    for key in [*odd, "x" * 300, "/".join(["x" * 100] * 10)]:
        for call in calls:
            with pytest.raises(ValueError, match="is no key"):
                call(key)
