"""DNS within its time, also when the resolver hangs."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fleet import resolving
from fleet.public_address import NoPublicAddress, ask
from fleet.resolving import LOOKUPS, look_up, resolve, usable
from fleet.ssh import Target, connected
from fleet.tailscale import TailscaleError


def test_names_are_resolved_and_what_dns_does_not_know_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def lookup(name: str, *_args: Any, **_more: Any) -> list[Any]:
        if name == "unknown.example.com":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        if name == "strange.example.com":
            raise UnicodeError("label too long")
        rows = {"here.example.com": ["127.0.1.1"]}.get(name, ["10.0.0.7", "10.0.0.7", "fe80::1%eth0", "2001:db8::7"])
        return [(None, None, None, "", (address, 0)) for address in rows]

    monkeypatch.setattr(resolving.socket, "getaddrinfo", lookup)
    names = ["a.example.com", "here.example.com", "unknown.example.com", "strange.example.com"]
    assert asyncio.run(resolve(names, 10)) == {
        "a.example.com": ("10.0.0.7", "2001:db8::7"),
        "here.example.com": "it has no address that others can use",
        "unknown.example.com": "Name or service not known",
        "strange.example.com": "label too long",
    }
    assert asyncio.run(resolve([], 10)) == {}
    assert asyncio.run(look_up(names[:2], 10)) == {
        "a.example.com": ("10.0.0.7", "fe80::1%eth0", "2001:db8::7"),
        "here.example.com": ("127.0.1.1",),
    }


def test_an_own_name_that_means_loopback_is_of_no_use_to_others() -> None:
    assert usable(["127.0.1.1", "::1", "fe80::1%eth0", "0.0.0.0", "224.0.0.1", "10.0.0.7"]) == ("10.0.0.7",)


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A resolver that answers when the event is set. Afterwards all of its threads have ended."""
    release = threading.Event()

    def lookup(*_args: Any, **_more: Any) -> list[Any]:
        assert release.wait(60)
        return [(None, None, None, "", ("10.0.0.7", 0))]

    monkeypatch.setattr(resolving.socket, "getaddrinfo", lookup)
    yield release
    release.set()
    for thread in threading.enumerate():
        if thread.name.startswith("dns "):
            thread.join(10)
    for _ in range(LOOKUPS):
        assert resolving._free.acquire(timeout=10)
    resolving._free.release(LOOKUPS)


def test_a_resolver_that_hangs_costs_the_time_limit_once_for_all_names(hanging: threading.Event) -> None:
    began = time.monotonic()
    found = asyncio.run(resolve([f"n{number}.example.com" for number in range(20)], 0.2))
    assert set(found.values()) == {"no answer within 0.2 s"}
    assert time.monotonic() - began < 3  # and the end of the event loop waited for no thread


def test_lookups_that_hang_are_bounded_and_the_others_fail_at_once(hanging: threading.Event) -> None:
    asyncio.run(resolve([f"n{number}.example.com" for number in range(LOOKUPS)], 0.05))
    found = asyncio.run(resolve(["one-more.example.com"], 30))
    assert found == {"one-more.example.com": f"{LOOKUPS} other lookups hang"}
    assert sum(thread.name.startswith("dns ") for thread in threading.enumerate()) == LOOKUPS


def test_it_works_again_when_the_resolver_does(hanging: threading.Event) -> None:
    asyncio.run(resolve(["a.example.com"], 0.01))
    hanging.set()
    assert asyncio.run(resolve(["a.example.com"], 30)) == {"a.example.com": ("10.0.0.7",)}


def test_nobody_waits_for_a_resolver_that_hangs(hanging: threading.Event, tmp_path: Path) -> None:
    async def log_in() -> None:
        async with connected(Target(("n1.example.com",), "u", 22, tmp_path / "key", tmp_path / "known", 0.2)):
            pass

    for name in ("key", "known"):
        (tmp_path / name).touch()
    with pytest.raises(TailscaleError, match=r"^n1\.example\.com: no answer within 0\.2 s$"):
        asyncio.run(log_in())
    with pytest.raises(NoPublicAddress, match=r"http://ip\.example\.com/: "):
        asyncio.run(ask(["http://ip.example.com/"], 0.2))
    hang = {thread.name for thread in threading.enumerate() if thread.name.startswith("dns ")}
    assert hang == {"dns n1.example.com", "dns ip.example.com"}


def test_a_lookup_for_which_there_is_no_thread_takes_no_place(
    hanging: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_more(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_more)
    names = [f"n{number}.example.com" for number in range(LOOKUPS + 1)]
    assert asyncio.run(resolve(names, 10)) == dict.fromkeys(names, "can't start new thread")
