"""What a RingRift `unified_loop.yaml` says that has another name here, or no meaning.

Keys are dotted patterns, `*` for any one key. A name that a loop or a section declares is always taken
by it; these patterns speak only of the others.
"""

from __future__ import annotations

#: Their key -> ours, in the same stanza and with the same meaning.
RENAMED = {
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
