"""The console script. A probe is answered before the command line is imported, which costs twenty times as much."""

from __future__ import annotations

import sys


def main() -> None:
    """`backbeat ...`."""
    try:
        from workers import probe

        words = sys.argv[1:]
        if words[:1] == ["probe"] and not {"-h", "--help"} & set(words):
            sys.exit(probe.main(words[1:]))
        from workers.cli import main as command_line

        command_line()
    except KeyboardInterrupt:  # while it was still being imported
        sys.exit(1)
