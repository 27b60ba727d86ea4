"""What an idle two-node cluster costs: `backbeat up` without work, its memory and its share of a core.

    python benchmarks/footprint.py [--seconds 60]

The configuration keeps the populator disabled, so no jobs run. Memory is the resident set of each process,
shared pages included; CPU is user plus system time of every process, over the seconds after the start.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import yaml


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60)
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "idle.yaml"
        shipped = Path(__file__).parents[1] / "config" / "unified_loop.yaml"
        stanzas = {"extends": str(shipped), "queue_populator": {"enabled": False, "interval": "60s"}}
        config.write_text(yaml.safe_dump(stanzas))
        argv = [str(Path(sys.executable).with_name("backbeat")), "up", "--nodes", "2", "--data", f"{folder}/data"]
        with subprocess.Popen([*argv, "--config", str(config)], stdout=subprocess.PIPE, text=True) as up:
            assert up.stdout is not None
            for line in up.stdout:
                if "ready" in line:
                    break
            else:
                sys.exit("up did not come up")
            time.sleep(10)  # imports and first heartbeats are start-up, not idleness
            family = [psutil.Process(up.pid), *psutil.Process(up.pid).children(recursive=True)]
            before = {process: cpu(process) for process in family}
            commands = commands_processed(Path(folder) / "data")
            began = time.monotonic()
            time.sleep(seconds)
            elapsed = time.monotonic() - began
            rate = (commands_processed(Path(folder) / "data") - commands) / elapsed
            total = 0.0
            for process in family:
                share = (cpu(process) - before[process]) / elapsed
                total += share
                print(
                    f"{label(process):16} {process.memory_info().rss / 2**20:6.0f} MiB  {share * 100:5.2f} % of a core"
                )
            print(f"{'whole cluster':16} {'':10}  {total * 100:5.2f} % of a core; {rate:.1f} server commands a second")
            up.send_signal(signal.SIGINT)
            up.wait(60)


def cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def commands_processed(data: Path) -> int:
    from workers.settings import connect

    url = json.loads((data / "up.json").read_text())["redis_url"]
    return int(connect(url).info("stats")["total_commands_processed"])


def label(process: psutil.Process) -> str:
    words = process.cmdline()
    for part in words:
        if part.startswith(("agent@", "jobs@")):
            return part
    for name in ("up", "beat", "flower", "valkey-server"):
        if any(Path(word).name == name for word in words):
            return name
    return process.name()


if __name__ == "__main__":
    main()
