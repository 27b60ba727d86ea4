"""The pool fills the place of a thread that hangs."""

from __future__ import annotations

import threading
from concurrent.futures import Future

import pytest

from workers.pool import Executor


def test_it_runs_what_is_submitted_on_no_more_threads_than_its_limit() -> None:
    executor, names, gate = Executor(3), set(), threading.Barrier(3)

    def work(number: int) -> int:
        if number < 3:
            gate.wait(5)
        names.add(threading.current_thread().name)
        return number * 2

    futures = [executor.submit(work, number) for number in range(50)]
    assert [future.result(5) for future in futures] == [number * 2 for number in range(50)]
    assert len(names) == 3
    executor.shutdown()


def test_an_error_belongs_to_its_future() -> None:
    executor = Executor(1)

    def fail() -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        executor.submit(fail).result(5)
    assert executor.submit(lambda: "alive").result(5) == "alive"
    executor.shutdown()


def test_an_abandoned_thread_is_replaced_and_does_not_hold_up_the_end() -> None:
    executor, release = Executor(1), threading.Event()
    threads: Future[threading.Thread] = Future()

    def hang() -> None:
        threads.set_result(threading.current_thread())
        release.wait(30)

    hung = executor.submit(hang)
    waiting = executor.submit(lambda: "ran")
    executor.abandon(threads.result(5))
    assert waiting.result(5) == "ran"
    executor.shutdown()
    assert not hung.done()
    release.set()
    threads.result().join(5)
    assert not threads.result().is_alive()
    assert hung.done()


def test_shutdown_waits_for_what_runs_and_cancels_what_waits() -> None:
    executor, began, release = Executor(1), threading.Event(), threading.Event()

    def work() -> str:
        began.set()
        release.wait(5)
        return "done"

    running = executor.submit(work)
    assert began.wait(5)
    waiting = executor.submit(work)
    threading.Timer(0.05, release.set).start()
    executor.shutdown(cancel_futures=True)
    assert running.result(0) == "done"
    assert waiting.cancelled()
