"""DNS within its time, also when the resolver hangs."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from fleet import resolving
from fleet.resolving import LOOKUPS, resolve, usable


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
