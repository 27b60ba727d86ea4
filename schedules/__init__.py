"""WHEN: durations, backoff, the plan read from YAML, and the beat scheduler."""
