"""A command line tool that keeps machines in a file, as a cloud's would: `tool.py up NAME KEY | down ID | list`."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

state = Path(sys.argv[1])
verb, words = sys.argv[2], sys.argv[3:]
rows = json.loads(state.read_text()) if state.exists() else []
trouble = (state.parent / "trouble").read_text() if (state.parent / "trouble").exists() else ""
if trouble == f"hang {verb}":
    signal.pause()
if trouble == f"refuse {verb}":
    sys.exit(f"no offers: {verb}")
if verb == "up":
    row = {"id": 1000 + len(rows), "label": words[0], "key": words[1], "status": "running", "dph": 0.25}
    rows.append(row | {"secrets": sorted(name for name in os.environ if "BACKBEAT_REDIS" in name)})
if verb == "down":
    rows = [row for row in rows if not (isinstance(row, dict) and str(row["id"]) == words[0])]
state.write_text(json.dumps(rows))
if verb == "list":
    print(json.dumps(rows))
