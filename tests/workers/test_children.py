from __future__ import annotations

import os
import random
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fleet import logs
from tests.waiting import until
from workers import children
from workers.children import Child, Flower, free_port


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Callable[[str], Child]]:
    """A child that runs some Python."""
    made: list[Child] = []

    def make(code: str) -> Child:
        argv = [sys.executable, "-c", code]
        made.append(Child("sleeper", argv, dict(os.environ), tmp_path, tmp_path / "sleeper.log"))
        return made[-1]

    yield make
    for each in made:
        if each.process is not None:
            each.process.kill()
            each.process.wait()


def ended(child: Child) -> Child:
    child.start()
    assert child.process is not None
    child.process.wait(20)
    return child


class TestAChild:
    def test_leads_a_session_of_its_own_in_its_folder_with_its_output_in_its_log(
        self, child: Callable[[str], Child], tmp_path: Path
    ) -> None:
        done = ended(child("import os; print(os.getsid(0) == os.getpid(), os.getcwd())"))
        assert done.tail() == f"True {tmp_path}"

    def test_that_lives_needs_no_mending(self, child: Callable[[str], Child]) -> None:
        living = child("import signal; signal.pause()")
        living.start()
        assert living.alive
        assert living.mend() == ""

    @pytest.mark.parametrize(
        ("code", "said"),
        [("raise SystemExit(3)", "ended with exit code 3"), ("import os; os.abort()", r"was killed \(SIGABRT\)")],
    )
    def test_that_dies_is_started_again_later_and_later(
        self, child: Callable[[str], Child], monkeypatch: pytest.MonkeyPatch, code: str, said: str
    ) -> None:
        now = time.monotonic()
        monkeypatch.setattr(children.time, "monotonic", lambda: now)
        dying = ended(child(code))
        for delay in ("0.5", "1", "2", "4", "8", "16", "30", "30"):
            words = dying.mend()
            assert words.startswith(f"sleeper {said.replace(chr(92), '')}; starting it again in {delay} s; see ")
            assert dying.mend() == ""  # it is not time yet
            before = dying.pid
            now += float(delay)
            assert dying.mend() == ""
            assert dying.pid != before
            assert dying.process is not None
            dying.process.wait(20)

    def test_that_lived_long_is_started_again_at_once(
        self, child: Callable[[str], Child], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = time.monotonic()
        monkeypatch.setattr(children.time, "monotonic", lambda: now)
        old = ended(child(""))
        old.deaths = 7
        now += children.STEADY_AFTER + 1
        assert "again in 0.5 s" in old.mend()

    def test_that_cannot_be_started_is_tried_again(self, child: Callable[[str], Child]) -> None:
        lost = ended(child(""))
        lost.folder = lost.folder / "gone"
        assert "ended with exit code 0" in lost.mend()
        lost.start_at = 0.0
        assert "sleeper cannot be started: " in lost.mend()
        assert lost.start_at > time.monotonic()

    def test_keeps_its_log_short_while_it_writes(
        self, child: Callable[[str], Child], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(logs, "LOG_LIMIT", 10)
        writer = child("import sys; print('x' * 20, flush=True); sys.stdin.read(); print('y')")
        logs.trim(writer.log)  # there is no log yet
        ended(writer)
        logs.trim(writer.log)
        assert (writer.log.read_text(), writer.log.with_suffix(".log.1").read_text()) == ("", "x" * 20 + "\ny\n")
        assert ended(writer).tail() == "x" * 20 + "\ny"


def test_a_free_port_is_the_next_that_nobody_listens_on() -> None:
    port = free_port(random.randrange(10_000, 20_000))  # below those that connections get
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        assert free_port(port) > port
    assert free_port(port) == port


def test_no_free_port_is_an_error() -> None:
    with pytest.raises(OSError, match=r"no free port on 127\.0\.0\.1 from 65536 on"):
        free_port(65536)


LISTENER = "import signal, socket; s = socket.create_server(('127.0.0.1', {})); signal.pause()"


def test_a_dashboard_answers_only_where_it_listens_itself(child: Callable[[str], Child], tmp_path: Path) -> None:
    port = free_port(random.randrange(10_000, 20_000))
    flower = Flower("flower", [], dict(os.environ), tmp_path, tmp_path / "flower.log", port=port)
    other, mine = child("import signal; signal.pause()"), child(LISTENER.format(port))
    assert not flower.answers()  # it has not been started
    other.start()
    mine.start()
    listening = Flower("flower", [], dict(os.environ), tmp_path, tmp_path / "flower.log", mine.process, port=port)
    until(listening.answers)
    flower.process = other.process
    assert not flower.answers()  # somebody answers there: somebody else
