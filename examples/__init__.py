"""Programs that Backbeat's jobs can run."""
