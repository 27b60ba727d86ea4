"""What it takes to fetch a model from a store in a folder, checked, beside `cp` and `sha256sum` of the same file.

    python benchmarks/transfer.py [--megabytes 200] [--rounds 5]

A fetch copies the contents, compares size and SHA-256, syncs file and folder, and renames. The baseline is
`cp A B && sha256sum B`, which syncs nothing. Rounds alternate; both read a file that is in the page cache, and each
round begins with a `sync`, so that neither pays for what the other left to be written.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from fleet.store import Store


def timed(work: Callable[[], object]) -> float:
    os.sync()
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, copied, fetched = (folder / each for each in ("model", "copied", "fetched"))
        with source.open("wb") as file:
            for _ in range(asked.megabytes):
                file.write(os.urandom(1_000_000))
        size = source.stat().st_size
        sha256 = hashlib.sha256(source.read_bytes()).hexdigest()
        store = Store(str(folder / "store"))
        store.put(source, "blobs/model", sha256=sha256)

        def fetch() -> None:
            fetched.unlink(missing_ok=True)
            store.get("blobs/model", fetched, size=size, sha256=sha256)

        def baseline() -> None:
            copied.unlink(missing_ok=True)
            subprocess.run(["cp", str(source), str(copied)], check=True)
            subprocess.run(["sha256sum", str(copied)], check=True, stdout=subprocess.DEVNULL)

        ours, theirs = [], []
        for _ in range(asked.rounds):
            theirs.append(timed(baseline))
            ours.append(timed(fetch))
    print(f"cp and sha256sum   {median(theirs):6.3f} s (of {', '.join(f'{each:.3f}' for each in theirs)})")
    print(f"fetch, checked     {median(ours):6.3f} s (of {', '.join(f'{each:.3f}' for each in ours)})")
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    print(
        f"ratio for {asked.megabytes} MB: {median(ours) / median(theirs):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    )


if __name__ == "__main__":
    main()
