"""A RingRift `unified_loop.yaml` is read as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from fleet.options import EloTarget, FleetOptions
from schedules import foreign
from schedules.plan import PlanError, load
from tasks.auto_scaling import Options as AutoScaling
from tasks.queue_populator import Options as Populator

RINGRIFT = Path(__file__).parents[2].parent / "shared" / "data" / "ringrift_unified_loop.yaml"
needs_ringrift = pytest.mark.skipif(not RINGRIFT.is_file(), reason=f"RingRift's file is not at {RINGRIFT}")

EXCERPT = """\
version: '1.1'
execution_backend: 'auto' # auto|local|ssh|p2p|slurm

training:
  trigger_threshold_games: 300
  gh200: {batch_size: 1024, mixed_precision: 'bf16'}

configurations:
  - board_type: 'square8'
    num_players: [2, 3, 4]

elo_targets:
  square8_2p:
    target_elo: 2000
    baseline_elo: 1562 # distilled_sq8_2p_v6
    min_games_for_training: 1000
    status: 'NN_COMPETITIVE'

data_aggregation:
  enabled: true
  aggregate_interval_seconds: 300
  replicate_interval_seconds: 600
  vacuum_after_merge: false

auto_scaling:
  enabled: true
  queue_depth_scale_up: 10
  max_instances: 20

queue_populator:
  enabled: true
  min_queue_depth: 50
  target_elo: 2000.0
  check_interval_seconds: 60
  selfplay_ratio: 0.50
  training_ratio: 0.25
  tournament_ratio: 0.25
  board_types:
    - square8
    - hex8
  player_counts: [2, 3, 4]
  selfplay_priority: 50
"""

LOOPS = {"queue_populator": Populator}


class Scaling(BaseModel):
    model_config = ConfigDict(extra="forbid")

    max_instances: int = 5


class Aggregation(BaseModel):
    model_config = ConfigDict(extra="forbid")

    min_games: int = 100


def read(folder: Path, text: str, loops=LOOPS):
    path = folder / "unified_loop.yaml"
    path.write_text(text)
    return load(path, loops, FleetOptions)


def problems(folder: Path, text: str, loops=LOOPS):
    with pytest.raises(PlanError) as caught:
        read(folder, text, loops)
    return caught.value.problems


def test_what_means_the_same_is_used_under_its_own_name(tmp_path):
    plan = read(tmp_path, EXCERPT)
    stanza = plan.stanzas["queue_populator"]
    assert (stanza.enabled, stanza.interval) == (True, 60.0)
    assert stanza.options == Populator(
        min_queue_depth=50,
        target_elo=2000,
        selfplay_ratio=0.5,
        training_ratio=0.25,
        tournament_ratio=0.25,
        board_types=("square8", "hex8"),
        player_counts=(2, 3, 4),
        selfplay_priority=50,
    )
    assert plan.sections.elo_targets == {"square8_2p": EloTarget(target_elo=2000, min_games_for_training=1000)}


def test_what_means_nothing_here_is_named_in_one_warning(tmp_path):
    (warning,) = read(tmp_path, EXCERPT).warnings
    assert warning == (
        f"{tmp_path / 'unified_loop.yaml'}: ignored, since they mean nothing here: auto_scaling, configurations, "
        "data_aggregation, elo_targets.*.baseline_elo, elo_targets.*.status, execution_backend, training, version"
    )


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("queue_populator:", "queue_populater:"),
        ("check_interval_seconds", "check_interval_secs"),
        ("  min_queue_depth", "  min_queue_dept"),
        ("elo_targets:", "elo_target:"),
        ("target_elo: 2000\n", "target_eloo: 2000\n"),
        ("baseline_elo", "baseline_ello"),
        ("\ntraining:", "\ntrainning:"),
        ("version:", "versoin:"),
    ],
)
def test_anything_else_unknown_remains_a_mistake(tmp_path, right, wrong):
    text = EXCERPT.replace(right, wrong)
    (problem,) = problems(tmp_path, text)
    assert problem.message == "unknown key"
    assert problem.key.rpartition(".")[2] == wrong.strip().partition(":")[0]
    assert wrong.strip().partition("\n")[0] in text.splitlines()[problem.line - 1]


def test_a_wrong_value_is_reported_under_the_key_that_the_file_has(tmp_path):
    text = EXCERPT.replace("check_interval_seconds: 60", "check_interval_seconds: often")
    (problem,) = problems(tmp_path, text)
    assert problem.key == "queue_populator.check_interval_seconds"
    assert "check_interval_seconds: often" in text.splitlines()[problem.line - 1]


def test_a_renamed_key_beside_its_own_name_is_refused(tmp_path):
    (problem,) = problems(tmp_path, EXCERPT + "  interval: 5m\n")
    assert problem.key == "queue_populator.check_interval_seconds"
    assert problem.message == "means the same as 'interval', which is given too"


def test_a_loop_of_the_same_name_takes_its_section_over(tmp_path):
    loops = LOOPS | {"auto_scaling": Scaling, "data_aggregation": Aggregation}
    plan = read(tmp_path, EXCERPT, loops)
    aggregation, scaling = plan.stanzas["data_aggregation"], plan.stanzas["auto_scaling"]
    assert (aggregation.enabled, aggregation.interval, aggregation.options) == (True, 300.0, Aggregation())
    assert scaling.options == Scaling(max_instances=20)
    ignored, disabled = plan.warnings
    assert "auto_scaling.queue_depth_scale_up, configurations, data_aggregation.replicate" in ignored
    assert "max_instances" not in ignored
    assert disabled.endswith("loop 'auto_scaling' stays disabled: nothing gives its `interval`")
    assert scaling.enabled is False
    (problem,) = problems(tmp_path, EXCERPT.replace("max_instances", "max_instance"), loops)
    assert problem.key == "auto_scaling.max_instance"


def test_a_loop_that_the_file_does_not_know_stays_disabled(tmp_path):
    plan = read(tmp_path, EXCERPT, LOOPS | {"elo_sync": Aggregation})
    assert plan.stanzas["elo_sync"].enabled is False
    assert plan.warnings[1:] == (
        f"{tmp_path / 'unified_loop.yaml'}: loop 'elo_sync' stays disabled: nothing gives its `interval`",
    )


def test_foreign_keys_in_a_native_file_are_ignored_but_do_not_make_it_foreign(tmp_path):
    native = (
        "verbose: false\nqueue_populator: {check_interval_seconds: 60}\nelo_targets: {hex8_2p: {status: NN_WEAK}}\n"
    )
    plan = read(tmp_path, native)
    (warning,) = plan.warnings
    assert warning.endswith("ignored, since they mean nothing here: elo_targets.*.status, verbose")
    assert plan.stanzas["queue_populator"].interval == 60
    (problem,) = problems(tmp_path, native, LOOPS | {"elo_sync": Aggregation})
    assert "loop 'elo_sync' has no stanza" in problem.message


@needs_ringrift
def test_the_whole_file_is_read_as_it_is():
    plan = load(RINGRIFT, LOOPS, FleetOptions)
    stanza = plan.stanzas["queue_populator"]
    assert (stanza.enabled, stanza.interval) == (True, 60.0)
    assert (stanza.options.selfplay_ratio, stanza.options.tournament_ratio) == (0.5, 0.25)
    assert len(stanza.options.config_names) == 12
    assert set(plan.sections.elo_targets) == set(stanza.options.config_names)
    (warning,) = plan.warnings
    names = warning.partition("here: ")[2].split(", ")
    assert len(names) == len(yaml.safe_load(RINGRIFT.read_text())) - 2 + 2  # used sections, ignored target keys


@needs_ringrift
def test_every_foreign_pattern_stands_in_the_whole_file():
    document = yaml.safe_load(RINGRIFT.read_text())
    for pattern in foreign.IGNORED | foreign.RENAMED.keys():
        found = [document]
        for part in pattern.split("."):
            found = [
                value
                for each in found
                for value in (each.values() if part == "*" else [each[part]] if part in each else [])
            ]
        assert found, pattern


@needs_ringrift
def test_what_the_whole_file_says_of_scaling_is_used_where_it_means_the_same():
    plan = load(RINGRIFT, LOOPS | {"auto_scaling": AutoScaling}, FleetOptions)
    options = plan.stanzas["auto_scaling"].options
    assert (options.min_nodes, options.max_nodes, options.max_step_up, options.max_step_down) == (2, 20, 3, 2)
    assert (options.scale_up_cooldown, options.scale_down_cooldown, options.max_hourly_cost) == (600, 600, 2.0)
    ignored, disabled = plan.warnings
    for key in ("gpu_idle_minutes", "predictive_scaling", "prediction_hours_ahead", "queue_depth_scale_up"):
        assert f"auto_scaling.{key}" in ignored
    assert ignored.count("auto_scaling.") == 5  # its thresholds count all jobs, ours those of a node
    assert "'auto_scaling' stays disabled: nothing gives its `interval`" in disabled


def test_a_key_that_stands_for_two_of_ours_is_used_for_both_and_reported_as_it_is_written(tmp_path):
    loops = LOOPS | {"auto_scaling": AutoScaling}
    text = EXCERPT.replace("  max_instances: 20", "  interval: 60\n  scale_cooldown_seconds: 90")
    options = read(tmp_path, text, loops).stanzas["auto_scaling"].options
    assert (options.scale_up_cooldown, options.scale_down_cooldown) == (90, 90)
    (problem,) = problems(tmp_path, text.replace("_seconds: 90", "_seconds: long"), loops)
    assert problem.key == "auto_scaling.scale_cooldown_seconds"
    (problem,) = problems(tmp_path, text.replace("  interval: 60", "  interval: 60\n  scale_up_cooldown: 5"), loops)
    assert problem.message == "means the same as 'scale_up_cooldown', which is given too"


@needs_ringrift
def test_the_whole_file_is_read_with_all_loops_that_it_has_sections_for():
    loops = LOOPS | {"auto_scaling": Scaling, "data_aggregation": Aggregation}
    plan = load(RINGRIFT, loops, FleetOptions)
    assert plan.stanzas["data_aggregation"].interval == 300
    assert plan.stanzas["auto_scaling"].options.max_instances == 20


def used_keys(text: str):
    """(line, column, key) of the top-level keys, and of all keys in the sections that are used."""
    section = ""
    for number, line in enumerate(text.splitlines(), 1):
        key, colon, _ = line.partition(":")
        if not colon or not key.strip().isidentifier() or key.endswith("p"):  # square8_2p: a name, not a key
            continue
        if not line.startswith(" "):
            section = key
        if key == section or section in ("queue_populator", "elo_targets"):
            yield number, len(key) - len(key.strip()), key.strip()


@needs_ringrift
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(st.data())
def test_any_misspelt_key_of_the_whole_file_is_a_mistake_on_its_line(tmp_path, data):
    text = RINGRIFT.read_text()
    number, column, key = data.draw(st.sampled_from(list(used_keys(text))))
    at = data.draw(st.integers(1, len(key) - 1))
    lines = text.splitlines()
    line = lines[number - 1]
    lines[number - 1] = f"{line[: column + at]}zz{line[column + at :]}"
    (problem,) = problems(tmp_path, "\n".join(lines))
    assert problem.line == number
