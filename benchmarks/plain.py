"""The same bare tasks fired by plain celery beat: `celery -A plain`."""

from __future__ import annotations

from stage import LOOPS, app

app.conf.beat_scheduler = "celery.beat:Scheduler"
app.conf.beat_max_loop_interval = 0
app.conf.beat_schedule = {f"bare_{n}": {"task": "bare", "schedule": 1.0, "args": (n,)} for n in range(LOOPS)}
