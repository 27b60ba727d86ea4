"""Commands of all manners, good and bad, as real processes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from fleet.execution import JOBS, LOG, PROCESS, RESULT
from fleet.job_log import HEAD_LIMIT, TAIL_LIMIT
from fleet.job_result import RESULT_LIMIT
from tests.fleet.node_stage import LIMIT, Node


class TestResults:
    def test_a_result_file_is_the_result(self, node: Node) -> None:
        done = node.run(
            "import os, json; json.dump({'games': 3}, open(os.environ['BACKBEAT_JOB_RESULT'], 'w')); print('{}')"
        )
        assert (done.outcome, done.exit_code, done.result, done.error) == ("completed", 0, {"games": 3}, "")
        assert 0 < done.seconds < LIMIT
        assert not (node.folder / PROCESS).exists()

    def test_else_the_last_line_of_stdout_is_whatever_stderr_says_after_it(self, node: Node) -> None:
        done = node.run("import sys; print('x'); print('{\"games\": 4}'); print(); print('bye', file=sys.stderr)")
        assert done.result == {"games": 4}

    @pytest.mark.parametrize("line", ["done", "[1]", "7", '{"games": NaN}', '{"games"', "", '{"a":' * 9000])
    def test_a_last_line_that_is_no_object_is_no_result(self, node: Node, line: str) -> None:
        done = node.run(f"print({line!r})")
        assert (done.outcome, done.result) == ("completed", None)

    @pytest.mark.parametrize(
        ("content", "why"),
        [
            (b"", "Expecting value"),
            (b"{", "Expecting"),
            (b"[1]", "not a JSON object"),
            (b'{"x": NaN}', "NaN is not JSON"),
            (b"\xff", "decode"),
            (b"x" * (RESULT_LIMIT + 1), "more than"),
        ],
    )
    def test_a_result_file_that_is_none_is_a_failure(self, node: Node, content: bytes, why: str) -> None:
        (node.data).mkdir()
        (node.data / "answer").write_bytes(content)
        done = node.run("import shutil, os; shutil.copy('answer', os.environ['BACKBEAT_JOB_RESULT'])")
        assert done.outcome == "failed"
        assert done.error.startswith("exit code 0, but result.json cannot be used: ")
        assert why in done.error

    def test_a_pipe_in_place_of_files_is_not_waited_for(self, node: Node) -> None:
        folder = "os.path.dirname(os.environ['BACKBEAT_JOB_RESULT'])"
        paths = f"os.environ['BACKBEAT_JOB_RESULT'], {folder} + '/log'"
        code = f"for path in {paths}: os.mkfifo(path + '~'); os.rename(path + '~', path)"
        done = node.run("import os\n" + code)
        assert done.outcome == "failed"
        assert "not a file" in done.error
        again = node.run("pass", attempt=2)
        assert "cannot write the job's folder" in again.error

    def test_the_result_of_an_earlier_attempt_does_not_count(self, node: Node) -> None:
        node.run("import os; open(os.environ['BACKBEAT_JOB_RESULT'], 'w').write('{\"games\": 9}'); exit(1)")
        assert node.run("pass", attempt=2).result is None


class TestFailures:
    def test_an_exit_code_comes_with_the_last_lines(self, node: Node) -> None:
        done = node.run("import sys\nfor n in range(30): print('line', n)\nsys.exit('out of luck')")
        assert (done.outcome, done.exit_code, done.result) == ("failed", 1, None)
        assert done.error.splitlines()[0] == "exit code 1"
        assert len(done.error.splitlines()) == 11
        assert "out of luck" in done.error
        assert "line 29" in done.error

    def test_an_endless_line_is_cut(self, node: Node) -> None:
        done = node.run("print('é' * 100_000); exit(3)")
        assert done.error.startswith("exit code 3\n")
        assert len(done.error.encode()) < 2100

    @pytest.mark.parametrize(("number", "name"), [("SIGSEGV", "SIGSEGV"), ("SIGRTMIN + 3", "signal")])
    def test_a_signal_is_named(self, node: Node, number: str, name: str) -> None:
        done = node.run(f"import os, signal; os.kill(os.getpid(), signal.{number})")
        assert done.error.startswith(f"killed by {name}")
        assert done.exit_code is not None
        assert done.exit_code < 0

    def test_a_command_that_is_not_there_is_named(self, node: Node) -> None:
        done = node.run(command=("no-such-program", "x"))
        assert (done.outcome, done.exit_code) == ("failed", None)
        assert done.error == "cannot run 'no-such-program': No such file or directory"

    def test_a_command_that_cannot_be_executed_is_named(self, node: Node) -> None:
        node.data.mkdir()
        (node.data / "notes.txt").write_text("not a program")
        assert "cannot run './notes.txt': Permission denied" in node.run(command=("./notes.txt",)).error
        (node.data / "notes.txt").chmod(0o755)
        assert "cannot run './notes.txt': Exec format error" in node.run(command=("./notes.txt",)).error

    def test_a_null_byte_is_a_failure(self, node: Node) -> None:
        assert "null byte" in node.run(command=("{python}", "{x}"), x="a\0b").error

    def test_a_payload_without_what_the_template_asks_for_is_a_failure(self, node: Node) -> None:
        assert "this job has no {games}" in node.run(command=("{python}", "{games}")).error

    def test_a_folder_that_cannot_be_made_is_a_failure(self, node: Node) -> None:
        node.data.mkdir()
        (node.data / JOBS).write_text("in the way")
        done = node.run("pass")
        assert done.outcome == "failed"
        assert done.error.startswith(f"cannot write the job's folder {node.folder}: ")
        assert node.pids == []

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device here")
    def test_a_full_disk_is_a_failure(self, node: Node) -> None:
        node.folder.mkdir(parents=True)
        (node.folder / LOG).symlink_to("/dev/full")
        assert node.run("pass").error == f"cannot write the job's folder {node.folder}: No space left on device"

    def test_a_process_that_cannot_be_noted_is_killed_again(self, node: Node) -> None:
        (node.folder / PROCESS).mkdir(parents=True)
        done = node.run("import signal; signal.pause()")
        assert done.error == f"cannot write the job's folder {node.folder}: Is a directory"
        assert done.exit_code == -9


class TestEnvironment:
    def test_the_command_is_told_its_job_and_no_secrets(self, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("BACKBEAT_REDIS_URL", "CELERY_BROKER_URL"):
            monkeypatch.setenv(name, "redis://:password@host")
        monkeypatch.setenv("BACKBEAT_JOB_ID", "somebody else's")
        monkeypatch.setenv("BACKBEAT_STORE", "sftp://backbeat:password@host/store")
        code = "import os, json; print(json.dumps(dict(os.environ, cwd=os.getcwd(), stdin=os.read(0, 1).decode())))"
        told = node.run(code, attempt=2, games=25, name="é").result
        assert told is not None
        assert json.loads(told.pop("BACKBEAT_JOB_PAYLOAD")) == {"games": 25, "name": "é"}
        ours = {name: value for name, value in told.items() if name.startswith("BACKBEAT_")}
        assert ours == {
            "BACKBEAT_JOB_ID": "job-1", "BACKBEAT_JOB_KIND": "selfplay", "BACKBEAT_JOB_CONFIG": "hex8_2p",
            "BACKBEAT_JOB_ATTEMPT": "2", "BACKBEAT_JOB_RESULT": str(node.folder / RESULT), "BACKBEAT_NODE_ID": "n1",
            "BACKBEAT_DATA": str(node.data),
        }  # fmt: skip
        assert "password" not in str(told)
        assert (told["cwd"], told["stdin"]) == (str(node.data), "")

    def test_it_runs_nicer_than_the_worker_in_a_session_of_its_own(self, node: Node) -> None:
        node.on_started = lambda _: bool((node.data / "go").write_text("")) or True
        code = "import os, time, json\nwhile not os.path.exists('go'): time.sleep(.01)\n"
        done = node.run(code + "print(json.dumps({'nice': os.nice(0), 'leads': os.getsid(0) == os.getpid()}))", nice=7)
        assert done.result == {"nice": min(19, os.nice(0) + 7), "leads": True}

    def test_a_relative_data_directory_is_meant_where_the_worker_stands(
        self, node: Node, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        node.data.mkdir()
        monkeypatch.chdir(node.data.parent)
        node.data = Path("data")
        assert node.run("import os; print(os.getcwd())").outcome == "completed"
        assert str(node.data.resolve()) in node.log


class TestLog:
    def test_attempts_follow_each_other_under_their_headers(self, node: Node) -> None:
        node.run("print('one')")
        node.run("import sys; print('two', file=sys.stderr)", attempt=2)
        lines = node.log.splitlines()
        assert lines[0].startswith("--- attempt 1 on n1 at ")
        assert lines[1] == "one"
        assert lines[2].startswith("--- attempt 2 on n1 at ")
        assert lines[3] == "two"

    def test_fifty_megabytes_leave_their_beginning_and_their_end(self, node: Node) -> None:
        done = node.run("print('first')\nfor _ in range(50): print('x' * (1 << 20))\nprint('{\"games\": 1}')")
        assert done.result == {"games": 1}
        size = (node.folder / LOG).stat().st_size
        assert HEAD_LIMIT + TAIL_LIMIT <= size < HEAD_LIMIT + TAIL_LIMIT + 1000
        head, _, tail = node.log.partition(" bytes left out here\n")
        assert "\nfirst\nxxx" in head
        left_out = int(head.rpartition(" ")[2])
        assert left_out + HEAD_LIMIT + TAIL_LIMIT == len("first\n") + 50 * ((1 << 20) + 1) + len('{"games": 1}\n')
        assert tail.endswith('x\n{"games": 1}\n')

    def test_a_disk_that_fills_up_on_the_way_costs_only_the_log(
        self, node: Node, caplog: pytest.LogCaptureFixture
    ) -> None:
        resource = pytest.importorskip("resource")
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        node.on_started = lambda _: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard)) or True
        try:
            done = node.run(
                "import sys\nsys.stdin.read()\nfor _ in range(4): print('x' * (1 << 20))\nprint('{\"games\": 1}')"
            )
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert done.result == {"games": 1}
        assert (node.folder / LOG).stat().st_size == 1 << 20
        assert "ends here: File too large" in caplog.text
