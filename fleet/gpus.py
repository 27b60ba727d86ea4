"""What this machine's GPUs do, asked of the driver's own library (NVML). Only agents load its binding."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from fleet.absences import Absences


class Gpus:
    """Keeps the library open: to open it anew each time can wake the GPUs."""

    def __init__(self, absences: Absences) -> None:
        self._absences = absences
        self._open = False

    def read(self) -> list[dict[str, Any]]:
        """Each GPU's `name`, `utilization` and `memory` (percent) and `memory_total` (bytes).

        A machine without the library has none. A GPU that does not answer is left out, and so is a fact
        that a GPU has no way to tell. Raises NVMLError when the library itself does not answer.
        """
        import pynvml

        if not self._open:
            try:
                pynvml.nvmlInit()
            except pynvml.NVMLError_LibraryNotFound:
                return []
            self._open = True
        try:
            number = pynvml.nvmlDeviceGetCount()
        except pynvml.NVMLError:
            self._open = False  # a driver that was replaced wants to be opened anew
            with suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()
            raise
        found = []
        for index in range(number):
            with self._absences.noting(f"GPU {index}"):
                found.append(_gpu(index))
        return found


def _gpu(index: int) -> dict[str, Any]:
    import pynvml

    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    facts: dict[str, Any] = {"name": pynvml.nvmlDeviceGetName(handle)}
    with suppress(pynvml.NVMLError_NotSupported):
        facts["utilization"] = float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
    with suppress(pynvml.NVMLError_NotSupported):
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        facts |= {"memory": round(100 * memory.used / memory.total, 1), "memory_total": memory.total}
    return facts
