"""Probes: what a process answers about itself, and what the question costs."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.waiting import until
from workers import probe
from workers.answering import (
    HEARD_WITHIN,
    LOOKED_WITHIN,
    POLLED_WITHIN,
    TURNS_SOON,
    TURNS_WITHIN,
    Answering,
    Answers,
    NotReady,
    beat_is_ready,
    worker_is_ready,
)
from workers.lease import boottime
from workers.mainloop import MAIN_LOOP, MainLoop


@pytest.fixture
def now() -> Iterator[list[float]]:
    return [100.0]


@pytest.fixture(autouse=True)
def _turns() -> None:
    """This process has no main loop that would turn."""
    MAIN_LOOP.turn()


@pytest.fixture
def answers(now: list[float]) -> Answers:
    return Answers(lambda: "it works", MainLoop(lambda: now[0]))


def test_a_process_whose_main_loop_turned_lately_is_live_and_ready(answers, now):
    now[0] += TURNS_SOON - 1
    assert answers.text() == "live yes its main loop turned 9.0 s ago\nready yes it works\n"


def test_a_main_loop_that_stands_still_makes_it_unready_and_then_dead(answers, now):
    now[0] += TURNS_SOON + 1
    assert answers.text().splitlines() == [
        "live yes its main loop turned 11.0 s ago",
        "ready no its main loop has not turned for 11 s",
    ]
    now[0] += TURNS_WITHIN
    assert answers.live() == (False, "its main loop has not turned for 71 s")


def test_a_process_that_ends_is_live_for_as_long_as_that_takes_and_not_ready(answers, now):
    answers.main_loop.end()
    now[0] += 10 * TURNS_WITHIN
    assert answers.text() == "live yes it ends\nready no it ends\n"


def test_what_cannot_be_told_is_a_no_on_one_line(now):
    def ready() -> str:
        raise RuntimeError("set changed\nsize")

    text = Answers(ready, MainLoop(lambda: now[0])).text()
    assert text.splitlines()[1] == "ready no RuntimeError: set changed size"


class Channel:
    def __init__(self, *queues: str) -> None:
        self.active_queues = set(queues)
        self.qos = SimpleNamespace(can_consume=lambda: True)
        self._brpop_sent_at: float | None = time.monotonic()


@pytest.fixture
def worker() -> Any:
    """A worker that does all it should, to be spoiled."""
    task_consumer = SimpleNamespace(channel=Channel("loops", "node.n1"))
    consumer = SimpleNamespace(task_consumer=task_consumer)
    return SimpleNamespace(consumer=consumer, presence=SimpleNamespace(heard_at=boottime()))


def why_not(worker: Any, *wanted: str) -> str:
    with pytest.raises(NotReady) as refused:
        worker_is_ready(worker.consumer, worker.presence, set(wanted or ("loops", "node.n1")))
    return str(refused.value)


def test_a_worker_is_ready_that_is_heard_and_asks_for_the_messages_of_its_queues(worker):
    assert worker_is_ready(worker.consumer, worker.presence, {"loops"}) == "it consumes loops"
    assert worker_is_ready(worker.consumer, worker.presence, set()) == "it drains, as it was asked to"


def test_a_worker_whose_slots_are_all_taken_is_ready_though_it_asks_for_nothing(worker):
    worker.consumer.task_consumer.channel.qos.can_consume = lambda: False
    worker.consumer.task_consumer.channel._brpop_sent_at -= LOOKED_WITHIN + 1
    assert worker_is_ready(worker.consumer, worker.presence, {"loops"}) == "all of its slots are taken"


def spoil_connection(worker: Any) -> None:
    worker.consumer.task_consumer = None


def spoil_registration(worker: Any) -> None:
    worker.presence = None


def spoil_first_heartbeat(worker: Any) -> None:
    worker.presence.heard_at = None


def spoil_heartbeat(worker: Any) -> None:
    worker.presence.heard_at -= HEARD_WITHIN + 5


def spoil_queue(worker: Any) -> None:
    worker.consumer.task_consumer.channel.active_queues.discard("node.n1")


def spoil_looks(worker: Any) -> None:
    worker.consumer.task_consumer.channel._brpop_sent_at -= LOOKED_WITHIN + 1


def spoil_first_look(worker: Any) -> None:
    worker.consumer.task_consumer.channel._brpop_sent_at = None


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (spoil_connection, "it has no connection to the server"),
        (spoil_registration, "the server has not heard it yet"),
        (spoil_first_heartbeat, "the server has not heard it yet"),
        (spoil_heartbeat, "the server has not heard it for 20 s"),
        (spoil_queue, "it does not consume node.n1"),
        (spoil_looks, "it has not looked for messages for 9 s"),
        (spoil_first_look, "it has not looked for messages"),
    ],
)
def test_a_worker_is_not_ready(worker, spoil: Callable[[Any], None], reason: str):
    spoil(worker)
    assert why_not(worker) == reason


def test_a_beat_is_ready_while_the_timetable_answers_it_active_or_not():
    assert beat_is_ready(boottime(), True) == "it is active"
    assert beat_is_ready(boottime(), False) == "it stands by"
    for polled_at, reason in [(None, "not polled"), (boottime() - POLLED_WITHIN - 1, "not answered for 6 s")]:
        with pytest.raises(NotReady, match=reason):
            beat_is_ready(polled_at, True)


# over the socket ---------------------------------------------------------------------------------------


def test_a_process_answers_at_a_path_of_any_length_and_a_second_one_waits_for_its_place(tmp_path, monkeypatch, caplog):
    folder = tmp_path / ("deep" * 20) / "run"
    monkeypatch.setenv("BACKBEAT_RUN", str(folder))
    monkeypatch.setattr("workers.answering.TRY_AGAIN", 0.05)
    Answering(folder, "agent", lambda: "the first").start()
    until(lambda: probe.ask("ready", "agent")[0])
    Answering(folder, "agent", lambda: "the second").start()
    until(lambda: "another process answers there" in caplog.text)
    assert probe.ask("ready", "agent") == (True, "ready: the first")
    assert probe.ask("live", "agent")[0]


def test_what_a_dead_process_left_behind_answers_nothing_and_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setenv("BACKBEAT_DATA", str(tmp_path))
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "beat.lock").touch()
    left = socket.socket(socket.AF_UNIX)
    with probe.reachable(folder / "beat.sock") as short:
        left.bind(short)
    left.close()
    assert probe.ask("live", "beat") == (
        False,
        f"not live: no process answers at {folder}/beat.sock: Connection refused",
    )
    Answering(folder, "beat", lambda: "it stands by").start()
    until(lambda: probe.ask("ready", "beat") == (True, "ready: it stands by"))
    assert probe.main(["ready", "beat"]) == 0


def test_flower_is_asked_for_its_own_pages(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])

        asked: list[bytes] = []

        def answer(*answers: str) -> None:
            for each in answers:
                client, _ = server.accept()
                with client:
                    asked.append(client.recv(4096).split()[1])
                    client.sendall(each.encode())

        says = ("HTTP/1.1 200 OK\r\n\r\nok", "HTTP/1.1 503 Service Unavailable\r\n\r\nno answer from the server")
        thread = threading.Thread(target=answer, args=says)
        thread.start()
        assert probe.ask("live", "flower", {"FLOWER_PORT": port}) == (True, "live: ok")
        refused = (False, "not ready: 503 Service Unavailable: no answer from the server")
        assert probe.ask("ready", "flower", {"FLOWER_PORT": port}) == refused
        thread.join()
    assert asked == [b"/healthz", b"/readyz"]
    assert not probe.ask("live", "flower", {"FLOWER_PORT": port})[0]


def test_a_question_that_is_none_is_a_usage_error(capsys):
    for words in [(), ("live",), ("alive", "agent"), ("live", "server"), ("live", "agent", "x")]:
        assert probe.main(words) == 2
        assert "usage: backbeat probe" in capsys.readouterr().err


def test_a_probe_is_cheap_for_it_imports_no_celery(tmp_path):
    command = [str(Path(sys.executable).with_name("backbeat")), "probe", "live", "agent"]
    done = subprocess.run(command, env={"BACKBEAT_DATA": str(tmp_path)}, capture_output=True, check=False, text=True)
    assert (done.returncode, done.stderr) == (1, "")
    assert "no process answers" in done.stdout
    code = "import sys, workers.entry, workers.probe; print(sorted({'celery', 'redis', 'click'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"
