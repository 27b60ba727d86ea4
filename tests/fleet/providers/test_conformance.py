"""What every provider does alike: the same tests for all of them."""

from __future__ import annotations

import time

import pytest

from fleet.providers.port import ProviderError, ProviderSilent


def names(provider) -> list[str]:
    return sorted(instance.name for instance in provider.instances())


def test_what_is_started_is_listed_by_whoever_asks_and_a_second_start_changes_nothing(stage):
    provider = stage.provider()
    assert provider.instances() == []
    provider.start(["auto-1-1", "auto-1-2"], "auto_scaling:1")
    assert names(provider) == ["auto-1-1", "auto-1-2"]
    assert not [each for each in provider.instances() if each.state == "ended"]
    other = stage.provider()
    before = other.instances()
    other.start(["auto-1-2", "auto-1-1"], "auto_scaling:1")
    assert other.instances() == before


def test_what_is_stopped_is_gone_and_stopping_it_again_is_fine(stage):
    provider = stage.provider()
    provider.start(["auto-1-1", "auto-1-2"], "auto_scaling:1")
    stage.provider().stop(["auto-1-1", "auto-7-7"], "auto_scaling:2")
    assert names(provider) == ["auto-1-2"]
    provider.stop(["auto-1-1"], "auto_scaling:3")
    provider.stop(["auto-1-2"], "auto_scaling:3")
    assert provider.instances() == []


@pytest.mark.parametrize("name", ["../auto-1-1", "auto/1", "Auto-1-1", "", "-rf", "auto-1-1\n", "a" * 64])
def test_a_name_that_could_be_anything_else_is_refused_before_anything_happens(stage, name):
    provider = stage.provider()
    with pytest.raises(ValueError, match="is no instance's name"):
        provider.start([name], "auto_scaling:1")
    with pytest.raises(ValueError, match="is no instance's name"):
        provider.stop([name], "auto_scaling:1")
    assert provider.instances() == []


def test_a_refusal_says_so_and_what_is_there_is_listed(stage):
    provider = stage.provider()
    provider.start(["auto-1-1"], "auto_scaling:1")
    stage.refuse()
    with pytest.raises(ProviderError) as refused:
        stage.provider().start(["auto-2-1"], "auto_scaling:2")
    assert not isinstance(refused.value, ProviderSilent)
    stage.heal()
    provider = stage.provider()
    assert "auto-1-1" in names(provider)
    provider.stop(names(provider), "auto_scaling:3")  # also what is left half-way
    assert provider.instances() == []
    provider.start(["auto-3-1"], "auto_scaling:4")
    assert names(provider) == ["auto-3-1"]


def test_no_answer_is_told_from_a_refusal_within_the_time_limit(stage):
    more = {"CommandStage": {"timeout": 0.5}, "DockerStage": {"timeout": 1}}.get(type(stage).__name__, {})
    provider = stage.provider(**more)
    stage.hang()
    began = time.monotonic()
    with pytest.raises(ProviderSilent):
        provider.start(["auto-1-1"], "auto_scaling:1")
    assert time.monotonic() - began < 10
    stage.heal()
    stage.provider().stop(["auto-1-1"], "auto_scaling:2")  # it may have come all the same
    assert names(stage.provider()) == []


def test_what_others_have_there_is_no_reason_to_fail(stage):
    stage.foreign()
    provider = stage.provider()
    assert provider.instances() == []
    provider.start(["auto-1-1"], "auto_scaling:1")
    provider.stop(["auto-1-1"], "auto_scaling:2")
    assert provider.instances() == []
