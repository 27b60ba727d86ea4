"""WHO: the Celery app, the run-time around a loop's body, and the command line."""
