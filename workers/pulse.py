"""A thread that does one small thing every few seconds."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

log = logging.getLogger("backbeat.pulse")


class Pulse:
    """Calls `beat` at once and then every `period` seconds; an error is logged once until it works again."""

    def __init__(self, name: str, period: float, beat: Callable[[], object]) -> None:
        self._name, self._period, self._beat = name, period, beat
        self._halt = threading.Event()
        self._soon = threading.Event()
        self._failing = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def nudge(self) -> None:
        """Beat now instead of at the end of the period; many nudges may make one beat."""
        self._soon.set()

    def stop(self, timeout: float = 2.0) -> None:
        self._halt.set()
        self._soon.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def _run(self) -> None:
        while not self._halt.is_set():
            self._soon.clear()
            try:
                self._beat()
                self._failing = False
            except Exception as error:  # noqa: BLE001 - logged, and the next beat tries again
                if not self._failing:
                    log.warning("%s: %s: %s", self._name, type(error).__name__, error)
                self._failing = True
            self._soon.wait(self._period)
