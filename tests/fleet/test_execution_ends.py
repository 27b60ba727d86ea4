"""How a command is brought to its end, and what is left of it: nothing."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from fleet.execution import JOBS, LOG, PROCESS, Execution, sweep
from tests.fleet.node_stage import LIMIT, STUBBORN, TOLD, Node, lives
from tests.waiting import until


class TestEnds:
    def stop_when_there(self, node: Node, name: str = "stubborn") -> threading.Thread:
        def work() -> None:
            node.pid_in(name)
            node.stop.set("no longer held")

        thread = threading.Thread(target=work)
        thread.start()
        return thread

    def test_a_timeout_ends_the_whole_group_however_stubborn(self, node: Node) -> None:
        code = STUBBORN + "print('here', flush=True); subprocess.run([sys.executable, '-c', code])"
        done = node.run(code, timeout=2.5, grace=0.3)
        assert (done.outcome, done.exit_code) == ("timed_out", -15)
        assert done.error == "timed out after 2.5 s\nhere"
        assert not lives(node.pid_in("stubborn"))
        assert 2.5 <= done.seconds < LIMIT

    def test_a_leader_that_ignores_sigterm_is_killed_after_the_grace(self, node: Node) -> None:
        thread = self.stop_when_there(node)
        done = node.run(STUBBORN + "exec(code)", grace=0.3)
        thread.join()
        assert (done.outcome, done.exit_code, done.error, done.result) == ("stopped", -9, "no longer held", None)

    def test_a_stop_lets_a_polite_command_end_by_itself(self, node: Node) -> None:
        code = """
import signal, sys
def end(*_):
    print("saved", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
open("ready", "w").write("1")
signal.pause()
"""
        thread = self.stop_when_there(node, "ready")
        done = node.run(code)
        thread.join()
        assert (done.outcome, done.exit_code) == ("stopped", 0)
        assert done.seconds < 5.0
        assert node.log.endswith("saved\n")

    def test_a_stop_finds_what_left_the_group(self, node: Node) -> None:
        code = STUBBORN + "subprocess.Popen([sys.executable, '-c', code], start_new_session=True); signal.pause()"
        thread = self.stop_when_there(node)
        done = node.run(code)
        thread.join()
        assert (done.outcome, done.exit_code) == ("stopped", -15)
        assert not lives(node.pid_in("stubborn"))

    def test_a_stop_that_came_first_starts_nothing(self, node: Node) -> None:
        node.stop.set("draining")
        node.stop.set("another reason")
        done = node.run("open('ran', 'w')")
        assert (done.outcome, done.error, done.exit_code) == ("stopped", "draining", None)
        assert not (node.data / "ran").exists()

    def test_a_job_that_was_lost_before_it_began_is_stopped(self, node: Node) -> None:
        node.on_started = lambda _: False
        done = node.run("import signal; signal.pause()")
        assert (done.outcome, done.error) == ("stopped", "it was no longer this node's to run")

    def test_what_on_started_raises_passes_through_over_a_dead_command(self, node: Node) -> None:
        def lose(_: int) -> bool:
            raise ConnectionError("no Redis")

        node.on_started = lose
        with pytest.raises(ConnectionError, match="no Redis"):
            node.run("import signal; signal.pause()")
        assert not (node.folder / PROCESS).exists()

    def test_what_a_finished_command_leaves_in_its_group_is_killed(self, node: Node) -> None:
        code = STUBBORN + "subprocess.Popen([sys.executable, '-c', code])\n" + TOLD
        done = node.run(code)
        assert done.outcome == "completed"
        assert not lives(node.pid_in("stubborn"))

    def test_a_daemon_that_holds_the_pipe_holds_nobody_up(self, node: Node) -> None:
        code = STUBBORN + "subprocess.Popen([sys.executable, '-c', code], start_new_session=True)\n"
        done = node.run(code + TOLD + "print('{\"games\": 2}')")
        daemon = psutil.Process(node.pid_in("stubborn"))
        assert (done.outcome, done.result) == ("completed", {"games": 2})
        assert daemon.is_running()
        daemon.kill()

    def test_a_chattering_daemon_holds_nobody_up(self, node: Node) -> None:
        code = STUBBORN.replace("signal.pause()", "os.write(1, b'x' * 65536)").replace("stubborn", "chatter")
        code += "subprocess.Popen([sys.executable, '-c', code], start_new_session=True)\n"
        done = node.run(code + TOLD.replace("stubborn", "chatter"))
        assert done.outcome == "completed"
        until(lambda: not lives(node.pid_in("chatter")))  # its pipe is closed

    def test_it_works_without_a_pidfd(self, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(os, "pidfd_open", raising=False)
        assert node.run("print('{\"games\": 5}')").result == {"games": 5}
        thread = self.stop_when_there(node)
        assert node.run(STUBBORN + "exec(code)", grace=0.2).exit_code == -9
        thread.join()

    def test_many_run_side_by_side(self, tmp_path: Path) -> None:
        nodes = [Node(tmp_path / f"n{n}") for n in range(8)]
        done: dict[int, Execution] = {}

        def work(n: int) -> None:
            done[n] = nodes[n].run(f"print('{{\"games\": {n}}}')")

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {n: execution.result for n, execution in done.items()} == {n: {"games": n} for n in range(8)}


class TestSweep:
    @pytest.fixture
    def left_over(self, node: Node) -> Iterator[psutil.Process]:
        """A job whose worker was killed: a leader, a child, and a child in a session of its own."""
        node.data.mkdir()
        code = STUBBORN + "subprocess.Popen([sys.executable, '-c', code], start_new_session=True)\n"
        code += "exec(code.replace('stubborn', 'leader'))"
        worker = f"""
import sys
from pathlib import Path
from fleet.execution import StopSignal, execute
from fleet.job import Job, JobStatus
from fleet.kinds import JobKind
job = Job(id="job-1", kind="selfplay", config="hex8_2p", capability="cpu", priority=50, payload={{}},
    status=JobStatus.CLAIMED, attempt=1, failures=0, max_attempts=3, timeout=60.0, created_at=0.0)
kind = JobKind(command=("{{python}}", "-c", {code!r}))
execute(job, kind, node_id="n1", data=Path({str(node.data)!r}), stop=StopSignal(), on_started=lambda pid: True)
"""
        process = psutil.Popen([sys.executable, "-c", worker])
        pids = [node.pid_in("leader"), node.pid_in("stubborn")]
        until((node.folder / PROCESS).exists)
        process.kill()
        process.wait()
        leader = psutil.Process(pids[0])
        assert leader.is_running()
        yield leader
        assert not any(lives(pid) for pid in pids)

    def test_it_kills_what_an_earlier_worker_left(self, node: Node, left_over: psutil.Process) -> None:
        assert sweep(node.data) == ["job-1"]
        assert not lives(left_over.pid)
        assert not (node.folder / PROCESS).exists()
        assert (node.folder / LOG).exists()
        assert sweep(node.data) == []

    def test_it_finds_the_children_of_a_dead_leader(self, node: Node, left_over: psutil.Process) -> None:
        left_over.kill()
        until(lambda: not lives(left_over.pid))
        assert sweep(node.data) == ["job-1"]

    def test_it_needs_no_intact_note(self, node: Node, left_over: psutil.Process) -> None:
        (node.folder / PROCESS).write_text("{")
        assert sweep(node.data) == ["job-1"]

    @pytest.mark.parametrize("change", [{"create_time": 1.0}, {"pid": 1}, {"pid": -1}, {"pid": "x"}, {"pid": 10**30}])
    def test_it_never_kills_a_process_that_only_has_the_number(self, node: Node, change: dict[str, Any]) -> None:
        with psutil.Popen([sys.executable, "-c", "import signal; signal.pause()"], start_new_session=True) as stranger:
            node.folder.mkdir(parents=True)
            note = {"pid": stranger.pid, "create_time": stranger.create_time()} | change
            (node.folder / PROCESS).write_text(json.dumps(note))
            assert sweep(node.data) == []
            assert not (node.folder / PROCESS).exists()
            assert stranger.is_running()
            stranger.kill()

    def test_it_spares_itself_when_it_runs_inside_a_job(self, node: Node) -> None:
        code = (
            f"from pathlib import Path; from fleet.execution import sweep; assert sweep(Path({str(node.data)!r})) == []"
        )
        assert node.run(code + "; print('{\"alive\": 1}')").result == {"alive": 1}

    def test_old_folders_go_and_the_newest_stay(self, tmp_path: Path) -> None:
        now = time.time()
        for age in range(12):
            folder = tmp_path / JOBS / f"job-{age:02}"
            folder.mkdir(parents=True)
            (folder / LOG).write_text("x")
            for path in (folder / LOG, folder):
                os.utime(path, (now - age * 86400,) * 2)
        (tmp_path / JOBS / "a-file").write_text("stays")
        assert sweep(tmp_path, now=now + 60) == []
        assert sorted(path.name for path in (tmp_path / JOBS).iterdir()) == [
            "a-file",
            *(f"job-{n:02}" for n in range(7)),
        ]
        sweep(tmp_path, keep=3, now=now)
        assert sorted(path.name for path in (tmp_path / JOBS).iterdir()) == ["a-file", "job-00", "job-01", "job-02"]

    def test_a_node_that_never_ran_a_job_has_nothing_to_sweep(self, tmp_path: Path) -> None:
        assert sweep(tmp_path / "nowhere") == []
