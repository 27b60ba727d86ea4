"""The configuration files that are shipped, with the loops as they are declared."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fleet.kinds import OPENSPIEL_KINDS
from fleet.options import FleetOptions
from schedules.backoff import Backoff
from schedules.plan import PlanError, load
from tasks.loop import discover
from tasks.queue_populator import Options

CONFIG = Path(__file__).parents[2] / "config"
LOOPS = {name: loop.options for name, loop in discover().items()}


def test_the_default_spells_out_every_option_with_its_default():
    stanza = load(CONFIG / "unified_loop.yaml", LOOPS, FleetOptions).stanzas["queue_populator"]
    assert stanza.options == Options()
    assert stanza.options.model_fields_set == Options.model_fields.keys() - {"configs"}  # excluded by board_types
    assert len(stanza.options.config_names) == 12


def test_the_default_spells_out_the_cadence():
    plan = load(CONFIG / "unified_loop.yaml", LOOPS, FleetOptions)
    stanza = plan.stanzas["queue_populator"]
    assert stanza.model_fields_set == type(stanza).model_fields.keys()
    assert (stanza.enabled, stanza.interval, stanza.initial_delay, stanza.deadline) == (True, 60, 30, 120)
    assert stanza.backoff == Backoff(initial_delay=5, max_delay=120, multiplier=2, jitter=True)
    assert stanza.backoff.model_fields_set == Backoff.model_fields.keys()
    assert plan.warnings == ()


def test_jobs_run_the_openspiel_player():
    assert load(CONFIG / "unified_loop.yaml", LOOPS, FleetOptions).sections.jobs == OPENSPIEL_KINDS
    for name, kind in load(CONFIG / "openspiel.yaml", LOOPS, FleetOptions).sections.jobs.items():
        default = OPENSPIEL_KINDS[name]
        assert kind.command[: len(default.command)] == default.command
        assert (kind.capability, kind.then) == (default.capability, default.then)


def test_the_openspiel_cluster_learns_small_boards_to_targets_of_their_own():
    plan = load(CONFIG / "openspiel.yaml", LOOPS, FleetOptions)
    stanza, options = plan.stanzas["queue_populator"], plan.stanzas["queue_populator"].options
    assert (stanza.interval, options.all_met_interval) == (60, 300)
    assert options.config_names == tuple(plan.sections.elo_targets)
    assert plan.warnings == ()


@pytest.mark.parametrize("name", ["unified_loop.yaml", "openspiel.yaml"])
def test_what_is_commented_out_as_an_example_would_load_too(name, tmp_path):
    text = (CONFIG / name).read_text()
    path = tmp_path / name
    for shipped in ("unified_loop.yaml", "fleet.yaml"):
        (tmp_path / shipped).write_text((CONFIG / shipped).read_text())
    path.write_text(re.sub(r"^( *)# (?!configs:)( *[a-z0-9_]+:.*)$", r"\1\2", text, flags=re.MULTILINE))
    load(path, LOOPS, FleetOptions)


def test_the_default_shows_an_example_of_every_section():
    text = (CONFIG / "unified_loop.yaml").read_text()
    for section in FleetOptions.model_fields:
        assert re.search(rf"^(# )?{section}:( \S+)?$", text, flags=re.MULTILINE), section


def test_a_job_is_followed_only_by_loops_that_there_are(tmp_path):
    text = (CONFIG / "unified_loop.yaml").read_text()
    (tmp_path / "fleet.yaml").write_text((CONFIG / "fleet.yaml").read_text())
    file = tmp_path / "unified_loop.yaml"
    file.write_text(text.replace("    nice: 10 ", "    then: [job_reaper, queue_populater]\n    nice: 10 "))
    with pytest.raises(PlanError) as caught:
        load(file, LOOPS, FleetOptions)
    (problem,) = caught.value.problems
    assert (problem.key, problem.value) == ("jobs.selfplay.then[1]", "'queue_populater'")
    assert problem.message == "no loop has this name"
    assert "did you mean 'queue_populator'?" in str(caught.value)
    file.write_text(text.replace("    nice: 10 ", "    then: [job_reaper]\n    nice: 10 "))
    assert load(file, LOOPS, FleetOptions).sections.jobs["selfplay"].then == ("job_reaper",)


def test_containers_play_what_make_run_plays_and_start_no_nodes_by_themselves():
    own, other = (load(CONFIG / name, LOOPS, FleetOptions) for name in ("compose.yaml", "openspiel.yaml"))
    assert own.sections == other.sections
    assert own.stanzas.keys() == other.stanzas.keys()
    assert [name for name in own.stanzas if own.stanzas[name] != other.stanzas[name]] == ["auto_scaling"]
    assert own.stanzas["auto_scaling"].options.provider == "none"
