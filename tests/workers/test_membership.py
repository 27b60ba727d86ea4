"""The tailnet in the heartbeat: looked at in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import pytest

from fleet.tailnet import Tailnet
from fleet.tailnet_attempt import TailnetWatch
from fleet.tailscale import TailnetOptions
from fleet.tailscale_simulated import SimulatedTailscale
from tests.waiting import until
from workers.membership import Membership, has_tailnet
from workers.presence import Reporter, Rows


class Said(Reporter):
    """A reporter that keeps what it hears."""

    def __init__(self) -> None:
        self.heard_at: list[float] = []

    def facts(self) -> Mapping[str, Any]:
        return {"metrics": {}}

    def history(self) -> Rows | None:
        return [[1.0]]

    def heard(self, at: float) -> None:
        self.heard_at.append(at)


class Hanging(SimulatedTailscale):
    """Answers when it is let."""

    def __init__(self) -> None:
        super().__init__("Stopped")
        self.asked, self.go_on = threading.Event(), threading.Event()

    async def status(self) -> Tailnet:
        self.asked.set()
        self.go_on.wait(20)
        return await super().status()


def test_a_program_that_hangs_delays_no_heartbeat_and_news_is_told_at_once() -> None:
    port, said, nudged = Hanging(), Said(), threading.Event()
    membership = Membership(said, TailnetWatch(port))
    membership.start(nudged.set)
    try:
        assert port.asked.wait(20)
        assert membership.facts() == {"metrics": {}}
        port.go_on.set()
        until(nudged.is_set)
        facts = membership.facts()
        assert (facts["metrics"], facts["tailnet"]["state"]) == ({}, "Stopped")
    finally:
        port.go_on.set()
        membership.stop()


def test_the_nodes_of_up_leave_the_tailnet_of_their_machine_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    options = TailnetOptions(command=("sh",))
    monkeypatch.delenv("BACKBEAT_UP", raising=False)
    assert has_tailnet(options)
    assert not has_tailnet(TailnetOptions(command=("no-such-tailscale",)))
    monkeypatch.setenv("BACKBEAT_UP", "node")
    assert not has_tailnet(options)


def test_what_the_other_reporter_says_and_hears_goes_through() -> None:
    said = Said()
    membership = Membership(said, TailnetWatch(SimulatedTailscale()))
    membership.heard(7.0)
    assert (membership.history(), said.heard_at) == ([[1.0]], [7.0])
