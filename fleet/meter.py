"""What this machine does right now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil

from fleet.absences import Absences
from fleet.addresses import addresses
from fleet.gpus import Gpus


class Meter:
    """Measures one machine, always in one thread. A fact that cannot be had is left out, and logged once."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._absences = Absences()
        self._gpus = Gpus(self._absences)
        self._before = False

    def measure(self) -> dict[str, Any]:
        """The facts `metrics` and `addresses`.

        Metrics are `cpu` (since the last time), `memory` and `disk` (of the data directory's file system), in
        percent; `memory_total` and `disk_free`, in bytes; `load` over 1, 5 and 15 minutes; `cores`; `gpus`.
        """
        metrics: dict[str, Any] = {}
        noting = self._absences.noting
        with noting("cpu"):
            # the first one has nothing to compare with
            metrics["cpu"] = psutil.cpu_percent(interval=None if self._before else 0.2)
            self._before = True
        with noting("memory"):
            memory = psutil.virtual_memory()
            metrics |= {"memory": memory.percent, "memory_total": memory.total}
        with noting("disk"):
            disk = psutil.disk_usage(str(self._data))
            metrics |= {"disk": disk.percent, "disk_free": disk.free}
        with noting("load"):
            metrics["load"] = [round(load, 2) for load in psutil.getloadavg()]
        if cores := psutil.cpu_count():
            metrics["cores"] = cores
        with noting("GPUs"):
            metrics["gpus"] = self._gpus.read()
        facts: dict[str, Any] = {"metrics": metrics}
        with noting("addresses"):
            facts["addresses"] = addresses()
        return facts
