"""What a machine measures of itself, and that it goes on when it cannot."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from ctypes.util import find_library
from ipaddress import ip_address
from pathlib import Path
from socket import AddressFamily
from typing import Any, NamedTuple, NoReturn

import psutil
import pytest

from fleet.addresses import addresses, told_apart
from fleet.meter import Meter

ROOT = Path(__file__).parents[2]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_the_facts_are_this_machines(tmp_path: Path) -> None:
    meter = Meter(tmp_path)
    for _ in range(2):
        facts = meter.measure()
        metrics = facts["metrics"]
        assert 0 <= metrics["cpu"] <= 100
        assert metrics["cores"] == psutil.cpu_count()
        assert metrics["memory_total"] == psutil.virtual_memory().total
        assert 0 < metrics["memory"] < 100
        assert metrics["disk"] == pytest.approx(psutil.disk_usage(str(tmp_path)).percent, abs=2)
        assert metrics["disk_free"] == pytest.approx(psutil.disk_usage(str(tmp_path)).free, rel=0.05)
        assert len(metrics["load"]) == 3
        assert json.loads(json.dumps(facts)) == facts


def test_the_first_reading_of_the_cpu_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float | None] = []
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: asked.append(interval) or 12.0)
    meter = Meter(tmp_path)
    assert [meter.measure()["metrics"]["cpu"] for _ in range(2)] == [12.0, 12.0]
    assert asked == [0.2, None]  # a first call without an interval compares with nothing, and says 0


def test_a_file_system_that_vanishes_is_missed_once_and_the_rest_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    meter = Meter(data)
    assert "disk" in meter.measure()["metrics"]
    data.rmdir()
    for _ in range(3):
        metrics = meter.measure()["metrics"]
        assert "disk" not in metrics
        assert "disk_free" not in metrics
        assert "cpu" in metrics
    assert [line.split(":")[0] for line in warnings(caplog)] == ["disk"]
    data.mkdir()
    assert "disk" in meter.measure()["metrics"]
    data.rmdir()
    meter.measure()
    assert [line.split(":")[:2] for line in warnings(caplog)[1:]] == [
        ["disk", " known again"],
        ["disk", " not known for now"],
    ]


def test_a_process_that_dies_while_it_is_asked_costs_that_fact_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def died(*_: Any, **__: Any) -> NoReturn:
        raise psutil.NoSuchProcess(1)

    for name in ("cpu_percent", "virtual_memory", "getloadavg", "net_if_addrs"):
        monkeypatch.setattr(psutil, name, died)
    facts = Meter(tmp_path).measure()
    assert facts["metrics"].keys() == {"disk", "disk_free", "cores", "gpus"}
    assert "addresses" not in facts


# addresses -----------------------------------------------------------------------------------------------


class Assigned(NamedTuple):
    family: int
    address: str


def inet(*texts: str) -> list[Assigned]:
    return [Assigned(AddressFamily.AF_INET6 if ":" in text else AddressFamily.AF_INET, text) for text in texts]


def test_lan_and_tailnet_are_told_apart_and_what_others_cannot_use_is_left_out() -> None:
    found = told_apart(
        {
            "lo": inet("127.0.0.1", "::1"),
            "eth0": [*inet("192.168.1.9", "2001:db8::9", "fe80::1%eth0"), Assigned(17, "02:fc:00:00:00:01")],
            "eth1": inet("169.254.7.7", "10.0.0.9"),
            "utun4": inet("100.101.102.103", "fd7a:115c:a1e0::9", "fe80::2%utun4"),
            "tailscale0": inet("203.0.113.5"),
        }
    )
    assert found == {
        "lan": ["10.0.0.9", "192.168.1.9", "2001:db8::9"],
        "tailnet": ["100.101.102.103", "203.0.113.5", "fd7a:115c:a1e0::9"],
    }


def test_an_interface_that_is_down_reaches_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stats(NamedTuple):
        isup: bool

    monkeypatch.setattr(psutil, "net_if_stats", lambda: {"eth0": Stats(True), "eth1": Stats(False)})
    interfaces = {"eth0": inet("10.0.0.1"), "eth1": inet("10.0.0.2"), "gone since": inet("10.0.0.3")}
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: interfaces)
    assert addresses() == {"lan": ["10.0.0.1"], "tailnet": []}


def test_this_machines_own_addresses_are_addresses() -> None:
    for texts in addresses().values():
        assert not any(ip_address(text).is_loopback for text in texts)


# GPUs ----------------------------------------------------------------------------------------------------

#: Stands in for the driver's library: a good GPU, one that fell off the bus, one that tells no utilization.
#: While the file $DRIVER_DOWN is there, the driver does not answer; it must then be opened anew.
NVML = r"""
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
enum { SUCCESS = 0, UNINITIALIZED = 1, NOT_SUPPORTED = 3, GPU_IS_LOST = 15, UNKNOWN = 999 };
static int opened = 0;
static char handles[3];
struct rates { unsigned gpu, memory; };
struct memory { unsigned long long total, free, used; };
static int down(void) {
    if (access(getenv("DRIVER_DOWN"), F_OK) == 0) { opened = 0; return 1; }
    return 0;
}
int nvmlInitWithFlags(unsigned flags) { if (down()) return UNKNOWN; opened = 1; return SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) { return "an error"; }
int nvmlDeviceGetCount_v2(unsigned *count) {
    if (down()) return UNKNOWN;
    if (!opened) return UNINITIALIZED;
    *count = 3;
    return SUCCESS;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) { *handle = handles + index; return SUCCESS; }
int nvmlDeviceGetName(void *handle, char *name, unsigned size) {
    snprintf(name, size, "GPU of kind %d", (int) ((char *) handle - handles));
    return SUCCESS;
}
int nvmlDeviceGetUtilizationRates(void *handle, struct rates *rates) {
    int index = (char *) handle - handles;
    if (index == 1) return GPU_IS_LOST;
    if (index == 2) return NOT_SUPPORTED;
    rates->gpu = 37;
    return SUCCESS;
}
int nvmlDeviceGetMemoryInfo(void *handle, struct memory *memory) {
    memory->total = 80ULL << 30;
    memory->used = 20ULL << 30;
    return SUCCESS;
}
"""

PROGRAM = """
import json, logging, os
from pathlib import Path
from fleet.meter import Meter
logging.basicConfig(format="%(message)s")
meter, down = Meter(Path(".")), Path(os.environ["DRIVER_DOWN"])
def say():
    print(json.dumps(meter.measure()["metrics"].get("gpus")))
say()
say()
down.touch()
say()
say()
down.unlink()
say()
"""


def test_gpus_are_asked_through_the_drivers_library(tmp_path: Path, lacking: Callable[[str], NoReturn]) -> None:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        lacking("no C compiler for a library that stands in for the driver's")
    (tmp_path / "nvml.c").write_text(NVML)
    library = tmp_path / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(tmp_path / "nvml.c")], check=True)
    env = {
        **os.environ,
        "LD_LIBRARY_PATH": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "DRIVER_DOWN": str(tmp_path / "down"),
    }
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, check=True)
    whole = [
        {"name": "GPU of kind 0", "utilization": 37.0, "memory": 25.0, "memory_total": 80 << 30},
        {"name": "GPU of kind 2", "memory": 25.0, "memory_total": 80 << 30},
    ]
    assert [json.loads(line) for line in done.stdout.splitlines()] == [whole, whole, None, None, whole]
    said = [line.split(": NVML")[0] for line in done.stderr.splitlines()]
    assert said == ["GPU 1: not known for now", "GPUs: not known for now", "GPUs: known again"]
    assert "GPU is lost" in done.stderr


def test_a_machine_without_the_library_has_no_gpu(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    if find_library("nvidia-ml"):
        pytest.skip("this machine has it")
    assert Meter(tmp_path).measure()["metrics"]["gpus"] == []
    assert warnings(caplog) == []
