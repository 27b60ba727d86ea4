"""What RingRift's files say that has another name here, or no meaning.

Keys are dotted patterns, `*` for any one key. A name that a loop or a section declares is always taken
by it; these patterns speak only of the others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

from schedules.problems import Keys


@dataclass(frozen=True)
class Words:
    """The foreign words of one kind of file: `renamed` maps a pattern to our keys, `ignored` holds patterns.

    With `blanks`, a text such as `<public-ip>` is a place that its author has not filled in.
    """

    renamed: Mapping[str, str]
    ignored: Set[str]
    blanks: bool = False

    def renamed_to(self, keys: Keys) -> list[str]:
        """Our keys for these: none, one, or several that theirs says at once."""
        return next((own.split() for pattern, own in self.renamed.items() if _covers(pattern, keys)), [])

    def ignoring(self, keys: Keys) -> str:
        """The pattern that says these keys mean nothing here, or nothing."""
        return next((pattern for pattern in self.ignored if _covers(pattern, keys)), "")

    def is_blank(self, value: Any) -> bool:
        return self.blanks and isinstance(value, str) and re.fullmatch(r"<[^<>]*>", value) is not None


def _covers(pattern: str, keys: Keys) -> bool:
    parts = pattern.split(".")
    return len(parts) == len(keys) and all(part in ("*", key) for part, key in zip(parts, keys, strict=True))


#: Their key -> ours, in the same stanza and with the same meaning. Several are separated by spaces.
RENAMED = {
    "auto_scaling.max_instances": "max_nodes",
    "auto_scaling.max_scale_down_per_cycle": "max_step_down",
    "auto_scaling.max_scale_up_per_cycle": "max_step_up",
    "auto_scaling.min_instances": "min_nodes",
    "auto_scaling.scale_cooldown_seconds": "scale_up_cooldown scale_down_cooldown",
    "data_aggregation.aggregate_interval_seconds": "interval",
    "queue_populator.check_interval_seconds": "interval",
}

_SECTIONS = """
    adaptive_control alerting auto_scaling auto_sync cluster cmaes configurations curriculum
    data_aggregation data_ingestion data_manifest_db elo_db evaluation execution_backend
    external_drive_sync hosts_config_path log_dir metrics_enabled metrics_port model_pruning
    model_validation nas p2p p2p_daemon pbt pipeline plateau_detection proactive_monitoring promotion
    provider_detection regression replay_buffer resource_targets safeguards safety self_healing selfplay
    slurm ssh storage tier_calibration tournament training validation verbose version
"""

_KEYS = {
    "auto_scaling": """
        gpu_idle_minutes max_hourly_cost max_instances max_scale_down_per_cycle max_scale_up_per_cycle
        min_instances prediction_hours_ahead predictive_scaling queue_depth_scale_down
        queue_depth_scale_up scale_cooldown_seconds
    """,
    "data_aggregation": """
        aggregator_db aggregator_node deduplicate_by_game_id excluded_nodes preserve_source_metadata
        replica_nodes replicate_interval_seconds rsync_bandwidth_limit_kbps source_patterns
        ssh_key_path ssh_timeout_seconds vacuum_after_merge
    """,
    "elo_targets.*": "baseline_elo status",
}

#: Sections and keys without a meaning here: named in one warning, then left alone.
IGNORED = frozenset(_SECTIONS.split()) | {f"{stanza}.{key}" for stanza, keys in _KEYS.items() for key in keys.split()}

#: `unified_loop.yaml`.
LOOPS = Words(RENAMED, IGNORED)

_HOST_KEYS = """
    aws_instance_id cpus force_relay_mode gpu gpu_vram_gb hetzner_id is_ephemeral memory_gb nat_blocked
    nebius_id note p2p_enabled region relay_capable relay_primary relay_secondary ringrift_path role
    runpod_id selfplay_enabled status storage_paths training_enabled vast_instance_id venv_activate
"""

NONE = Words({}, frozenset())

#: Sections that stand in a file of their own: `inventory` is a `distributed_hosts.yaml`.
SECTIONS = {
    "inventory": Words(
        renamed={"hosts.*.ssh_host": "host"},
        ignored=frozenset(["auto_sync", "elo_sync", "p2p_voters", "protocols", "provider_timeouts", "sync_routing"])
        | {f"hosts.*.{key}" for key in _HOST_KEYS.split()},
        blanks=True,
    )
}
