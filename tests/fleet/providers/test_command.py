"""Any command line tool as a provider."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from fleet.providers import command as module
from fleet.providers.command import Command, CommandOptions
from fleet.providers.port import Instance, ProviderError


def listing(rows, **options):
    """A provider whose listing is that."""
    text = rows if isinstance(rows, str) else json.dumps(rows)
    return Command(CommandOptions(list=("printf", "%s", text.replace("{", "{{").replace("}", "}}")), **options))


def test_the_tool_gets_name_and_key_and_none_of_our_passwords(command):
    command.provider().start(["auto-1-1", "auto-1-2"], "auto_scaling:1")
    first, second = command.rows()
    assert (first["label"], second["label"], second["key"]) == ("auto-1-1", "auto-1-2", "auto_scaling:1")
    assert first["secrets"] == []


def test_down_is_told_what_the_listing_calls_the_instance(command):
    provider = command.provider()
    provider.start(["auto-1-1", "auto-1-2"], "auto_scaling:1")
    provider.stop(["auto-1-2"], "auto_scaling:2")
    assert [row["id"] for row in command.rows()] == [1000]


def test_a_command_without_a_name_runs_once_for_all(tmp_path):
    out = tmp_path / "out"
    up = ("sh", "-c", 'echo "$@" >> "$0"', str(out), "{count}", "{names}", "{key}")
    provider = Command(CommandOptions(up=up, list=("echo", "[]")))
    provider.start(["auto-1-1", "auto-1-2"], "auto_scaling:1")
    assert out.read_text() == "2 auto-1-1,auto-1-2 auto_scaling:1\n"
    provider.start([], "auto_scaling:2")
    assert out.read_text().count("\n") == 1


def test_two_instances_of_one_name_count_as_one_cost_both_and_are_stopped_both(command):
    rows = [{"id": n, "label": "auto-1-1", "status": status, "dph": 0.5} for n, status in enumerate(("stopped", "on"))]
    command.state.write_text(json.dumps(rows))
    provider = command.provider()
    assert provider.instances() == [Instance("auto-1-1", "running", 1.0, "on")]
    provider.stop(["auto-1-1"], "auto_scaling:1")
    assert command.rows() == []


def test_what_the_listing_says_is_read_where_the_options_point():
    rows = [
        {"meta": {"name": "auto-1-1"}, "state": "UP", "price": 2},
        {"meta": {"name": "auto-1-2"}, "state": "Gone", "price": "2"},
        {"meta": {"name": "auto-1-3"}, "price": -1},
        {"meta": {"name": "auto-1-4"}, "state": {"a": 1}, "price": True},
        {"meta": None},
    ]
    keys = {"name_key": "meta.name", "state_key": "state", "cost_key": "price", "ended_states": ("gone",)}
    assert [(each.state, each.cost_per_hour) for each in listing(rows, **keys).instances()] == [
        ("running", 2.0), ("ended", None), ("running", None), ("running", None),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no instances", "printed no JSON"),
        ('{"instances": []}', "printed dict, not a JSON list"),
        ("null", "printed NoneType, not a JSON list"),
        ("[" * 100_000, "printed no JSON"),
    ],
)
def test_a_listing_that_is_none_is_a_failure(text, message):
    with pytest.raises(ProviderError, match=rf"auto_scaling.command.list \(printf\) {message}"):
        listing(text).instances()


def test_a_listing_without_an_end_is_a_failure(monkeypatch):
    monkeypatch.setattr(module, "LISTING_LIMIT", 1000)
    with pytest.raises(ProviderError, match="more than 1000 bytes"):
        listing(" " * 1001).instances()


def test_a_failure_says_what_the_tool_said_and_not_what_it_was_given():
    failing = ("sh", "-c", "echo quota exceeded >&2; exit 3", "token-4711")
    with pytest.raises(ProviderError) as error:
        Command(CommandOptions(list=failing)).instances()
    assert str(error.value) == "auto_scaling.command.list (sh) ended with exit code 3: quota exceeded"
    with pytest.raises(ProviderError, match=r"list \(no-such-tool\) cannot be run: .*No such file"):
        Command(CommandOptions(list=("no-such-tool",))).instances()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"up": ["sky", "launch", "{nome}"]},
            r"there is no \{nome\}; there is \{count\}, \{key\}, \{name\}, \{names\}",
        ),
        ({"up": ["sky", "{id}"]}, r"there is no \{id\}"),
        ({"list": ["sky", "{name}"]}, r"there is no \{name\}"),
        ({"down": ["", "{name}"]}, "the first word names what is executed"),
        ({"up": ["{name!r}"]}, "a placeholder is a plain name"),
        ({"timeout": 0}, "greater than 0"),
        ({"upp": ["x"]}, "Extra inputs are not permitted"),
    ],
)
def test_a_mistake_in_the_commands_is_named(given, message):
    with pytest.raises(ValidationError, match=message):
        CommandOptions.model_validate(given)
