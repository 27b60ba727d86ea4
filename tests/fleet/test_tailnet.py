"""A status is read whatever it holds, and says what helps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.tailnet import LIMIT, UNKNOWN, Tailnet, next_step, read

SAMPLES = Path(__file__).parents[2].parent / "shared" / "data"


def sample(name: str) -> dict[str, Any]:
    file = SAMPLES / f"tailscale_status_{name}.json"
    if not file.exists():
        pytest.skip(f"{file.name} is not on this machine")
    document: dict[str, Any] = json.loads(file.read_bytes())
    return document


def said(state: str = "Running", **more: Any) -> Tailnet:
    """A status in the shape of the samples."""
    itself = {"HostName": "n1", "Online": state == "Running", "TailscaleIPs": ["100.64.0.1"], **more.pop("itself", {})}
    return read(json.dumps({"Version": "1.76.6", "BackendState": state, "Self": itself, **more}).encode())


@pytest.mark.parametrize(("name", "ips", "peers"), [("a", (), (2, 2)), ("b", ("100.64.0.1",), (2, None))])
def test_what_real_programs_printed_is_read(name: str, ips: tuple[str, ...], peers: tuple[int, int | None]) -> None:
    document = sample(name)
    tailnet = read(json.dumps(document).encode())
    assert (tailnet.state, tailnet.is_well, tailnet.ips, tailnet.peers) == ("Running", True, ips, peers[0])
    online = sum(peer.get("Online") is True for peer in document["Peer"].values())
    assert tailnet.peers_online == online


def test_offline_peers_are_counted() -> None:
    peers = {"k1": {"Online": True, "KeyExpiry": "2125-01-08T02:03:11Z"}, "k2": {"Online": False}, "k3": {}}
    assert (said(Peer=peers).peers, said(Peer=peers).peers_online) == (3, 1)
    assert (said(Peer=None).peers, said(Peer={"k": 1, "l": None}).peers_online) == (0, 0)


@pytest.mark.parametrize(
    ("state", "itself", "well", "step"),
    [
        ("Running", {}, True, None),
        ("Running", {"Online": False}, False, "restart"),
        ("Running", {"Expired": True}, False, "reauth"),
        ("Starting", {}, False, "restart"),
        ("NoState", {}, False, "restart"),
        ("Stopped", {}, False, "restart"),
        ("NeedsLogin", {}, False, "reauth"),
        ("NeedsMachineAuth", {}, False, None),
        ("SomethingNew", {}, False, "restart"),
    ],
)
def test_each_state_calls_for_its_step(state: str, itself: dict[str, Any], well: bool, step: str | None) -> None:
    tailnet = said(state, itself=itself)
    assert (tailnet.is_well, next_step(tailnet, ())) == (well, step)
    assert tailnet.describe()


def test_a_version_that_does_not_say_whether_it_is_online_is_when_it_runs() -> None:
    assert read(b'{"BackendState": "Running", "Self": {}}').is_well
    assert read(b'{"BackendState": "Running"}').is_well
    assert not read(b'{"BackendState": "Starting", "Self": {}}').online


def test_the_keys_expiry_is_an_instant() -> None:
    assert said(itself={"KeyExpiry": "2027-01-15T08:00:00.123456789Z"}).key_expiry == pytest.approx(1_800_000_000.123)
    assert said(itself={"KeyExpiry": "0001-01-01T00:00:00Z"}).key_expiry is None
    assert said().key_expiry is None


def test_texts_and_addresses_are_bounded() -> None:
    tailnet = said(Health=["x" * 10_000] * 100, itself={"TailscaleIPs": ["; rm -rf /", 7, *["100.64.0.9"] * 100]})
    assert len(tailnet.health) == 5
    assert max(map(len, tailnet.health)) == 300
    assert set(tailnet.ips) == {"100.64.0.9"}


@pytest.mark.parametrize(
    "printed",
    [
        *(
            b"",
            b"null",
            b"[]",
            b"{}",
            b"Logged out.",
            b'{"BackendState": 7}',
            b'{"BackendState": "Running',
            b"\xff\xfe",
        ),
        b'{"BackendState": "' + b"x" * 50 + b'"}',
        b'{"BackendState": "Running\\n"}',
        b" " * (LIMIT + 1),
        b"[" * 100_000,
    ],
)
def test_what_is_no_status_is_unknown_and_says_why(printed: bytes) -> None:
    tailnet = read(printed)
    assert tailnet.state == UNKNOWN
    assert tailnet.error
    assert len(tailnet.model_dump_json()) < 1000


@settings(max_examples=50)
@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda each: st.lists(each) | st.dictionaries(
    st.sampled_from(["BackendState", "Self", "Peer", "Health", "Online", "KeyExpiry", "TailscaleIPs", "state", "age"]),
    each)))  # fmt: skip
def test_whatever_comes_from_elsewhere_is_read(document: Any) -> None:
    read(json.dumps(document).encode())
    Tailnet.from_fact(document)


def test_a_fact_is_read_back_as_it_was_told() -> None:
    tailnet = said(itself={"KeyExpiry": "2027-01-15T08:00:00Z"}, Health=["warming up"])
    fact = json.loads(tailnet.model_dump_json()) | {"age": 3.0, "attempt": {"steps": []}, "of a later version": 1}
    assert Tailnet.from_fact(fact) == tailnet


def test_an_old_fact_says_nothing_of_now() -> None:
    assert Tailnet.from_fact({**said().model_dump(), "age": 119.0}).is_well
    assert Tailnet.from_fact({**said().model_dump(), "age": 121.0}).error == "its status is 121 s old"


def test_a_step_is_taken_once_and_the_state_says_which() -> None:
    stopped, login = said("Stopped"), said("NeedsLogin")
    assert next_step(stopped, ("restart",)) == "up"
    assert next_step(stopped, ("restart", "up")) is None
    assert next_step(login, ("restart",)) == "reauth"
    assert next_step(login, ("restart", "reauth")) is None
