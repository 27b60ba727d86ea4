"""The dashboard: pages about loops, nodes and progress inside Flower, in its process, with its authentication.

Flower has no hook for pages, but its command makes its application by name, once, when it has read its options.
`install` puts ours there, and nothing of this is imported in processes that are no dashboard.
"""

from __future__ import annotations

import sys
from typing import Any


def install() -> None:
    """Let Flower's command, which this process may be about to run, make our application."""
    command: Any = sys.modules.get("flower.command")
    if command is not None:
        command.Flower = _dashboard


def _dashboard(*given: Any, **named: Any) -> Any:
    from workers.web.dashboard import Dashboard

    return Dashboard(*given, **named)
