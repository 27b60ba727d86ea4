"""What an agent that is told to end does at once, in the signal handler."""

from __future__ import annotations

from threading import Event
from types import SimpleNamespace

from workers.agent import AgentStep


def test_an_agent_that_is_to_end_tells_what_runs_lets_the_lead_go_and_leaves_its_place():
    step, told = object.__new__(AgentStep), []
    stopping = Event()
    step.backbeat = SimpleNamespace(fleet=SimpleNamespace(stopping=stopping))
    step.lease = SimpleNamespace(resign=lambda: told.append("the lead"))
    step.presence = SimpleNamespace(leave_soon=lambda: told.append("the place"))
    step._resign()
    assert stopping.is_set()
    assert told == ["the lead", "the place"]


def test_an_agent_that_has_not_begun_may_end_too():
    step = object.__new__(AgentStep)
    step.lease = step.presence = None
    step.backbeat = SimpleNamespace(fleet=SimpleNamespace(stopping=Event()))
    step._resign()
    assert step.backbeat.fleet.stopping.is_set()
