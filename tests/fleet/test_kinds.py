"""Command templates: checked when the configuration is read, filled when a job runs."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from pydantic import ValidationError

from fleet.job import Job, JobStatus
from fleet.kinds import OPENSPIEL_KINDS, JobKind


def job(**payload: Any) -> Job:
    return Job(
        id="job-1", kind="selfplay", config="hex8_2p", capability="cpu", priority=50, payload=payload,
        status=JobStatus.CLAIMED, attempt=1, failures=0, max_attempts=3, timeout=60.0, created_at=0.0,
    )  # fmt: skip


def filled(*command: str, **payload: Any) -> list[str]:
    return JobKind(command=command).argv(job(**payload), "n1")


def test_placeholders_are_filled_wherever_they_stand() -> None:
    words = filled("{python}", "--to={node_id}/{job_id}", "{config}", "plain", "")
    assert words == [sys.executable, "--to=n1/job-1", "hex8_2p", "plain", ""]


def test_payload_values_come_as_text_or_json() -> None:
    words = filled(
        "x", "{games}", "{name}", "{fast}", "{more}", games=25, name="a b; rm -rf $HOME", fast=True, more=[1]
    )
    assert words == ["x", "25", "a b; rm -rf $HOME", "true", "[1]"]


def test_a_value_is_never_read_as_a_template_again() -> None:
    assert filled("x", "{a}", a="{python}{b}") == ["x", "{python}{b}"]


def test_the_payload_does_not_replace_the_houses_own_names() -> None:
    assert filled("x", "{config}", config="../../etc") == ["x", "hex8_2p"]


def test_braces_are_written_twice() -> None:
    assert filled("x", '{{"games": {games}}}', games=3) == ["x", '{"games": 3}']


def test_an_unknown_placeholder_names_the_kind_and_what_there_is() -> None:
    with pytest.raises(
        ValueError, match=r"jobs\.selfplay\.command: this job has no \{gmes\}; it has \{config\}, \{games\}"
    ):
        filled("x", "{gmes}", games=3)


@pytest.mark.parametrize("word", ["{", "}", "{}", "{0}", "{a.b}", "{a[0]}", "{a!r}", "{a:>9}", "{a b}", "{config"])
def test_a_bad_template_is_refused_with_the_configuration(word: str) -> None:
    with pytest.raises(ValidationError, match=r"brace itself is written twice|a plain name such as"):
        JobKind(command=("x", word))


@pytest.mark.parametrize("word", ["{games}", "bin/{tool}", ""])
def test_what_is_executed_never_comes_from_the_payload(word: str) -> None:
    with pytest.raises(ValidationError, match="the first word names what is executed"):
        JobKind(command=(word,))


@pytest.mark.parametrize(
    "fields",
    [
        {"command": []},
        {"command": ["x"], "timeout": 0},
        {"command": ["x"], "timeout": float("inf")},
        {"command": ["x"], "max_attempts": 0},
        {"command": ["x"], "nice": 20},
        {"command": ["x"], "capability": "CPU/GPU"},
        {"command": ["x"], "shell": True},
    ],
)
def test_limits_out_of_range_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        JobKind(**fields)


def test_the_defaults_fill() -> None:
    for kind in OPENSPIEL_KINDS.values():
        assert kind.argv(job(games=25), "n1")[0] == sys.executable
