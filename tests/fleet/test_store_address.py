"""How a store is named: keys stay within it, passwords are not shown, and mistakes say what is accepted."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from fleet.store import NoRoom, Store, StoreOptions, StoreUnavailable, check_key, redact


@given(st.text(max_size=40) | st.text("./ab-~", max_size=12))
def test_a_key_stays_within_the_store(key: str) -> None:
    try:
        check_key(key)
    except ValueError:
        return
    assert os.path.normpath(f"/store/{key}") == f"/store/{key}"
    assert not any(part.startswith(".") for part in key.split("/"))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sftp://user:secret@host:22/models", "sftp://user:***@host:22/models"),
        ("s3://bucket/models?token=secret", "s3://bucket/models"),
        ("smb://us%40er:se@cret@host/x", "smb://us%40er:***@host/x"),
        ("/srv/store", "/srv/store"),
    ],
)
def test_passwords_are_not_shown(url: str, shown: str) -> None:
    assert redact(url) == shown


def test_an_error_of_a_driver_tells_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.EACCES, f"refused for {url} with key hidden2 (hidden1 or hid@den4)")

    monkeypatch.setattr(MemoryFileSystem, "find", fail)
    url = "memory://me:hidden1@bucket/x?token=hidden3"
    store = Store(url, {"client_kwargs": {"aws_secret_access_key": "hidden2"}})
    with pytest.raises(StoreUnavailable, match="refused") as caught:
        store.list("models")
    assert "hidden" not in str(caught.value) + repr(store)
    with pytest.raises(StoreUnavailable, match="refused") as caught:
        Store("memory://me:hid%40den4@bucket/x").list("models")
    assert "hid@den4" not in str(caught.value)


def test_addresses_that_are_none_and_drivers_that_are_missing_are_named() -> None:
    with pytest.raises(ValueError, match="no protocol 'nonesuch'"):
        Store("nonesuch://x")
    with pytest.raises(StoreUnavailable, match=r"needs a driver for s3.*s3fs"):
        Store("s3://bucket/models")
    with pytest.raises(StoreUnavailable, match=r"paramiko"):
        Store("sftp://host/models")


def test_the_options_make_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert StoreOptions().open() is None
    assert repr(StoreOptions(url="memory://x").open()) == "Store('memory://x')"
    assert repr(StoreOptions(url="memory://x").open("/srv/store")) == "Store('/srv/store')"
    store = StoreOptions(url="store", min_free=1 << 60).open()
    monkeypatch.chdir(tmp_path)
    assert store is not None
    with pytest.raises(NoRoom, match=str(1 << 60)):
        store.write("a", b"")


def test_a_folder_is_the_one_it_was_named_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store("store")
    monkeypatch.chdir("/")
    store.write("a", b"")
    assert (tmp_path / "store" / "a").is_file()
