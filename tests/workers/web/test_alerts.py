"""Each alert fires when it should, by Prometheus's own test of rules, and none fires on a cluster that is well."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml

from schedules import durations

RULES = Path(__file__).parents[3] / "deploy" / "prometheus" / "alerts.yml"
ALERTS = {rule["alert"]: rule for rule in yaml.safe_load(RULES.read_text())["groups"][0]["rules"]}
#: A sample a minute, for longer than any alert waits.
MINUTES = 1500


def always(value: float) -> str:
    return f"{value}+0x{MINUTES}"


def growing(step: int, first: int = 0) -> str:
    """So much more each minute: by 60 it is the time."""
    return f"{first}+{step}x{MINUTES}"


#: A cluster that is well, though a loop has failed twice, and models have not met their target.
WELL = {
    "backbeat_up{}": always(1),
    'backbeat_beats{state="active"}': always(1),
    'backbeat_beats{state="standby"}': always(1),
    'backbeat_leader_info{node="n1"}': always(1),
    "backbeat_leader_fence{}": always(7),
    'backbeat_node_processes{role="agent"}': always(2),
    'backbeat_nodes{status="healthy"}': always(2),
    'backbeat_nodes{status="lost"}': always(0),
    'backbeat_nodes{status="unhealthy"}': always(0),
    'backbeat_loop_consecutive_errors{loop="elo_sync"}': always(2),
    'backbeat_loop_interval_seconds{loop="elo_sync"}': always(60),
    'backbeat_loop_state{loop="elo_sync",state="due"}': always(1),
    'backbeat_loop_next_run_timestamp_seconds{loop="elo_sync"}': growing(60, 60),
    'backbeat_loop_last_success_timestamp_seconds{loop="elo_sync"}': growing(60),
    'backbeat_jobs{kind="selfplay",status="pending"}': always(9),
    'backbeat_jobs{kind="selfplay",status="claimed"}': always(0),
    'backbeat_jobs{kind="selfplay",status="running"}': always(2),
    'backbeat_jobs{kind="selfplay",status="failed"}': always(3),
    'backbeat_games_total{config="hex8_2p"}': growing(3),
    'backbeat_elo_published_timestamp_seconds{config="hex8_2p"}': growing(60),
    'backbeat_elo_target_met{config="hex8_2p"}': always(0),
}
#: In the place of a series: there is none.
NONE = ""


@dataclass(frozen=True)
class Case:
    """What is otherwise than well, and the alert that it makes."""

    alert: str
    #: Series by the beginning of their names, and what they are instead.
    otherwise: dict[str, str]
    #: The minute from which its condition holds; it fires when that has held for as long as the rule says.
    since: int = 0
    labels: dict[str, str] = field(default_factory=lambda: {"instance": "d"})
    summary: str = ""

    @property
    def fires(self) -> int:
        return self.since + round(durations.parse(ALERTS[self.alert].get("for", "0s")) / 60)


LOOP = {"instance": "d", "loop": "elo_sync"}
FROZEN = always(0)
CASES = [
    Case("BackbeatDashboardDown", {"backbeat_": NONE}, labels={}),
    Case("BackbeatServerAway", {"backbeat_": NONE, "backbeat_up{": always(0)}),
    Case("BackbeatNoBeat", {'backbeat_beats{state="active"': always(0)}, labels={"instance": "d", "state": "active"}),
    Case("BackbeatNoStandby", {'backbeat_beats{state="standby"': always(0)},
         labels={"instance": "d", "state": "standby"}),
    Case("BackbeatNoLeader", {"backbeat_leader_": NONE}),
    Case("BackbeatLeaderChangesOften", {"backbeat_leader_fence": growing(1)}, since=6,
         summary="The leader changed 6 times in half an hour"),
    Case("BackbeatNoAgent", {"backbeat_node_processes": always(0)}, labels={"instance": "d", "role": "agent"}),
    Case("BackbeatLoopFails", {"backbeat_loop_consecutive_errors": always(3)}, labels=LOOP,
         summary="elo_sync failed 3 times in a row"),
    Case("BackbeatLoopOverruns", {'backbeat_loop_state{loop="elo_sync",state="due"': NONE,
                                  'backbeat_loop_state{loop="elo_sync",state="overrun"}': always(1)},
         labels={**LOOP, "state": "overrun"}, summary="elo_sync did not end by its deadline"),
    Case("BackbeatLoopLate", {"backbeat_loop_next_run": FROZEN}, since=4, labels=LOOP,
         summary="elo_sync should have run long ago"),
    Case("BackbeatLoopWithoutSuccess", {"backbeat_loop_last_success": FROZEN}, since=26, labels=LOOP,
         summary="elo_sync has not succeeded for 31m 0s"),
    Case("BackbeatLoopPausedForLong", {'backbeat_loop_state{loop="elo_sync",state="due"': NONE,
                                       'backbeat_loop_state{loop="elo_sync",state="paused"}': always(1),
                                       "backbeat_loop_next_run": NONE, "backbeat_loop_last_success": FROZEN},
         labels={**LOOP, "state": "paused"}, summary="elo_sync has been paused for a day"),
    Case("BackbeatNodeLost", {'backbeat_nodes{status="lost"': always(1)}, labels={"instance": "d", "status": "lost"},
         summary="1 nodes are lost"),
    Case("BackbeatNodeUnhealthy", {'backbeat_nodes{status="unhealthy"': always(2)},
         labels={"instance": "d", "status": "unhealthy"}, summary="2 nodes are unhealthy"),
    Case("BackbeatJobsWait", {'backbeat_jobs{kind="selfplay",status="running"': always(0)}),
    Case("BackbeatJobsFail", {'backbeat_jobs{kind="selfplay",status="failed"': growing(1)}, since=5,
         summary="6 jobs were given up in half an hour"),
    Case("BackbeatNoGames", {"backbeat_games_total": always(500)}),
    Case("BackbeatNoGames", {"backbeat_games_total": NONE}),  # a cluster that has never played
    Case("BackbeatRatingsOld", {"backbeat_elo_published": FROZEN}, since=361,
         labels={"instance": "d", "config": "hex8_2p"}, summary="The ratings of hex8_2p are 6h 11m 0s old"),
]  # fmt: skip


def cluster(otherwise: dict[str, str]) -> Iterator[dict[str, str]]:
    """The series of a cluster that is well but for this."""
    series = dict(WELL)
    for start, values in otherwise.items():
        found = [name for name in WELL if name.startswith(start)]
        series.update(dict.fromkeys(found or [start], values))
    for name, values in series.items():
        if values != NONE:
            yield {"series": re.sub(r",?\}", ',instance="d"}', name).replace("{,", "{"), "values": values}


@pytest.fixture
def promtool(tmp_path: Path, lacking: Callable[[str], NoReturn]) -> Callable[..., str]:
    """Prometheus's test of rules; what it says when it fails."""
    if shutil.which("promtool") is None:
        lacking("promtool is not here: it comes with Prometheus")

    def run(otherwise: dict[str, str], **tests: Any) -> str:
        written = {
            "rule_files": [str(RULES)],
            "evaluation_interval": "1m",
            "tests": [{"interval": "1m", "input_series": list(cluster(otherwise)), **tests}],
        }
        (tmp_path / "tests.yml").write_text(yaml.safe_dump(written))
        command = ["promtool", "test", "rules", str(tmp_path / "tests.yml")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return "" if done.returncode == 0 else done.stdout + done.stderr

    return run


def firing(minute: int, *alerts: str) -> dict[str, Any]:
    """These fire at that minute, and nothing else."""
    samples = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in alerts]
    expression = 'count by(alertname) (ALERTS{alertstate="firing"})'
    return {"expr": expression, "eval_time": f"{minute}m", "exp_samples": samples}


def test_on_a_cluster_that_is_well_no_alert_fires_for_a_day(promtool: Callable[..., str]) -> None:
    assert promtool({}, promql_expr_test=[firing(minute) for minute in range(0, MINUTES, 60)]) == ""


@pytest.mark.parametrize("case", CASES, ids=[f"{case.alert}-{number}" for number, case in enumerate(CASES)])
def test_an_alert_fires_when_its_condition_has_held_for_as_long_as_its_rule_says(
    case: Case, promtool: Callable[..., str]
) -> None:
    rule = ALERTS[case.alert]
    said = {**rule["annotations"], "summary": case.summary or rule["annotations"]["summary"]}
    alert = {"exp_labels": {**case.labels, **rule["labels"]}, "exp_annotations": said}
    at = {"eval_time": f"{case.fires}m", "alertname": case.alert, "exp_alerts": [alert]}
    before = [] if case.fires == 0 else [firing(case.fires - 1)]
    fires = [*before, firing(case.fires, case.alert)]
    assert promtool(case.otherwise, alert_rule_test=[at], promql_expr_test=fires) == ""


def test_every_alert_is_tried_and_the_rules_are_whole(promtool: Callable[..., str]) -> None:
    assert {case.alert for case in CASES} == ALERTS.keys()
    done = subprocess.run(["promtool", "check", "rules", str(RULES)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{len(ALERTS)} rules found" in done.stdout
