"""The agent's thread pool: a thread that hangs can be written off, and another takes its place.

Threads cannot be killed. Celery's own threads pool would lose a slot to every body that hangs, and
wait for it at exit; here its place is filled at once, and its thread, a daemon, dies with the process.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

from celery.concurrency.thread import TaskPool as CeleryTaskPool
from celery.worker import state


class Executor:
    """As concurrent.futures' thread pool, with daemon threads and `abandon`."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._queue: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads: set[threading.Thread] = set()
        self._unfinished = 0

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        future: Future[Any] = Future()
        with self._lock:
            self._unfinished += 1
            self._queue.put((future, lambda: function(*args)))
            self._staff()
        return future

    def abandon(self, thread: threading.Thread) -> None:
        """This thread hangs: count it, and what it is at, no more."""
        with self._lock:
            if thread in self._threads:
                self._threads.discard(thread)
                self._unfinished -= 1
                self._staff()

    def shutdown(self, *, cancel_futures: bool = False) -> None:
        """Wait for what runs, abandoned threads aside."""
        while cancel_futures and not self._queue.empty():
            item = self._queue.get()
            if item is not None:
                item[0].cancel()
        with self._lock:
            threads = list(self._threads)
        for _ in threads:
            self._queue.put(None)
        for thread in threads:
            while thread.is_alive() and thread in self._threads:
                thread.join(0.1)

    def _staff(self) -> None:
        if len(self._threads) < min(self._limit, self._unfinished):
            thread = threading.Thread(target=self._work, name=f"pool-{len(self._threads)}", daemon=True)
            self._threads.add(thread)
            thread.start()

    def _work(self) -> None:
        me = threading.current_thread()
        while (item := self._queue.get()) is not None:
            future, function = item
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function())
                except BaseException as error:  # noqa: BLE001 - it belongs to whoever asks the future
                    future.set_exception(error)
            with self._lock:
                if me not in self._threads:
                    return
                self._unfinished -= 1


class TaskPool(CeleryTaskPool):
    """Celery's threads pool on the executor above."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.executor = Executor(self.limit)

    def abandon(self, thread: threading.Thread, task_id: str) -> None:
        """Give up on a thread, and let the worker no longer count its task against its limit."""
        self.executor.abandon(thread)
        request = state.requests.get(task_id)
        if request is not None:
            state.task_ready(request)
