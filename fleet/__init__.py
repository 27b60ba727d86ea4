"""UPON WHAT the loops act: nodes, jobs, ratings, games. No Celery, no YAML, nothing else of the house."""
