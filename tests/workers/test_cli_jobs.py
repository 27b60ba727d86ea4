from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from click.testing import CliRunner, Result
from redis import Redis

from fleet.jobs import Holder, JobQueue, JobSpec, JobStatus
from fleet.nodes import NodeRegistry
from tests.workers.cli_stage import Agent
from workers.cli import backbeat
from workers.settings import connect

Cli = Callable[..., Result]
HOLDER = Holder("n1", "o1")


@pytest.fixture
def queue(session_server: Any, redis: Redis) -> Iterator[JobQueue]:
    client = connect(session_server.url)
    yield JobQueue(client)
    client.close()


@pytest.fixture
def ended(queue: JobQueue) -> list[str]:
    """Three jobs: pending, running on n1, failed on n1."""
    for name in ("failed", "running", "pending"):
        queue.enqueue([JobSpec(kind="selfplay", config="hex8_2p", id=name, max_attempts=1)])
        if name != "pending":
            job = queue.claim(HOLDER, ["cpu"])
            assert job is not None
            queue.start(HOLDER, job.id, job.attempt)
    queue.fail(HOLDER, "failed", 1, "exit code 3\nlast words", retry_after=0)
    return ["failed", "running", "pending"]


def status(queue: JobQueue, job_id: str) -> JobStatus:
    job = queue.get(job_id)
    assert job is not None
    return job.status


class TestCounts:
    def test_are_by_status_and_kind_with_the_depth(self, cli: Cli, queue: JobQueue) -> None:
        assert cli("jobs").stdout == "No jobs yet.\n"
        queue.enqueue([JobSpec(kind="selfplay", config="hex8_2p")])
        document = json.loads(cli("jobs", "--json").stdout)
        assert document["by_status"]["pending"] == document["by_kind"]["selfplay"]["pending"] == document["depth"] == 1
        assert cli("jobs").stdout.split()[:4] == ["kind", "pending", "selfplay", "1"]
        assert "depth: 1 " in cli("jobs").stdout


class TestList:
    def test_shows_what_was_asked_for(self, cli: Cli, ended: list[str]) -> None:
        def listed(*options: str) -> list[str]:
            documents = json.loads(cli("jobs", "list", "--json", *options).stdout)
            lines = cli("jobs", "list", *options).stdout.splitlines()
            assert [line.split()[0] for line in lines[1:]] == [each["id"] for each in documents]
            return [each["id"] for each in documents]

        assert listed() == ["running", "pending", "failed"]
        assert listed("--status", "failed", "--status", "pending") == ["pending", "failed"]
        assert listed("--node", "n1") == ["running", "failed"]
        assert listed("--kind", "selfplay", "--config", "hex8_2p", "--limit", "3") == ["running", "pending", "failed"]
        assert cli("jobs", "list", "--kind", "training").stdout == "No job is like that.\n"
        assert cli("jobs", "list", "--kind", "training", "--json").stdout == "[]\n"

    def test_is_bounded_and_says_how_much_there_is(self, cli: Cli, queue: JobQueue) -> None:
        queue.enqueue([JobSpec(kind="selfplay", config="hex8_2p") for _ in range(120)])
        lines = cli("jobs", "list").stdout.splitlines()
        assert len(lines) == 52
        assert lines[-1] == "showing 50; there are more: --limit N (120 are outstanding in all)"
        assert len(cli("jobs", "list", "--limit", "120").stdout.splitlines()) == 121
        assert len(json.loads(cli("jobs", "list", "--json").stdout)) == 50

    @pytest.mark.parametrize(
        ("option", "value", "said"),
        [
            ("--status", "lost", "'lost' is not one of 'pending'"),
            ("--config", "nonsense", "is not a board configuration such as hex8_2p"),
            ("--node", "../x", "is no node's name"),
            ("--limit", "0", "0 is not in the range x>=1"),
        ],
    )
    def test_says_what_it_accepts(self, cli: Cli, option: str, value: str, said: str) -> None:
        assert said in cli("jobs", "list", option, value, code=2).stderr


class TestShow:
    def test_shows_one_job_in_full(self, cli: Cli, ended: list[str]) -> None:
        shown = cli("jobs", "show", "failed").stdout
        assert "status    failed" in shown
        assert "last words" in shown
        document = json.loads(cli("jobs", "show", "failed", "--json").stdout)
        assert (document["status"], document["error"]) == ("failed", "exit code 3\nlast words")

    def test_says_that_there_is_no_such_job(self, cli: Cli, redis: Redis) -> None:
        error = cli("jobs", "show", "nix", code=1).stderr
        assert error.startswith("backbeat: no job is named 'nix', or it has been over for a day")
        assert "1 to 64 letters" in cli("jobs", "show", "../x", code=2).stderr
        redis.hset("{backbeat}:job:odd", "id", "odd")
        assert "malformed job" in cli("jobs", "show", "odd", code=1).stderr


class TestCancel:
    def test_ends_jobs_and_says_which_it_could_not(self, cli: Cli, queue: JobQueue, ended: list[str]) -> None:
        result = cli("jobs", "cancel", "pending", "running", "failed", "nix", "--reason", "wrong model", code=1)
        assert result.stdout.splitlines() == ["pending: cancelled", "running: cancelled"]
        assert result.stderr.splitlines() == [
            "backbeat: failed: refused: it is failed",
            "backbeat: nix: no such job, or it has been over for a day",
        ]
        assert [status(queue, name) for name in ended] == ["failed", "cancelled", "cancelled"]
        cancelled = queue.get("pending")
        assert cancelled is not None
        assert cancelled.error == "wrong model"
        assert cli("jobs", "cancel", "pending").stdout == "pending: cancelled\n"  # again: the same

    def test_tells_scripts_what_came_of_each(self, cli: Cli, ended: list[str]) -> None:
        said = json.loads(cli("jobs", "cancel", "pending", "failed", "nix", "--json", code=1).stdout)
        assert said == {
            "pending": {"done": True, "status": "cancelled"},
            "failed": {"done": False, "status": "failed"},
            "nix": {"done": False, "status": None},
        }


class TestRetry:
    def test_takes_up_what_ended_badly_and_nothing_else(self, cli: Cli, queue: JobQueue, ended: list[str]) -> None:
        result = cli("jobs", "retry", "failed", "running", "nix", code=1)
        assert result.stdout == "failed: pending again\n"
        assert result.stderr.splitlines() == [
            "backbeat: running: refused: it is running",
            "backbeat: nix: no such job, or it has been over for a day",
        ]
        assert status(queue, "failed") is JobStatus.PENDING
        said = json.loads(cli("jobs", "retry", "failed", "--json", code=1).stdout)
        assert said == {"failed": {"done": False, "status": "pending"}}

    def test_of_many_asks_first(self, cli: Cli, queue: JobQueue, ended: list[str]) -> None:
        refused = CliRunner().invoke(backbeat, ["jobs", "retry", "--status", "failed"], input="n\n")
        assert (refused.exit_code, status(queue, "failed")) == (1, JobStatus.FAILED)
        assert "Take up 1 job again?" in refused.stderr
        taken = CliRunner().invoke(backbeat, ["jobs", "retry", "--status", "failed"], input="y\n")
        assert (taken.exit_code, status(queue, "failed")) == (0, JobStatus.PENDING)

    def test_with_yes_does_not_ask(self, cli: Cli, queue: JobQueue, ended: list[str]) -> None:
        cli("jobs", "cancel", "pending")
        assert cli("jobs", "retry", "--node", "n1", "--yes").stdout == "failed: pending again\n"
        assert cli("jobs", "retry", "--kind", "selfplay", "--yes").stdout == "pending: pending again\n"
        assert cli("jobs", "retry", "--kind", "selfplay", "--yes").stdout == "no job is like that\n"
        assert cli("jobs", "retry", "--kind", "selfplay", "--yes", "--json").stdout == "{}\n"

    def test_wants_either_jobs_or_filters_and_no_status_that_is_no_bad_end(self, cli: Cli, ended: list[str]) -> None:
        assert "name jobs, or choose them" in cli("jobs", "retry", code=2).stderr
        assert "name jobs, or choose them" in cli("jobs", "retry", "failed", "--kind", "selfplay", code=2).stderr
        assert "running is no bad end" in cli("jobs", "retry", "--status", "running", code=2).stderr


class TestLogs:
    @pytest.fixture
    def agent(self, session_server: Any, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> Iterator[Agent]:
        """Answers for n1 what the test has it answer."""
        monkeypatch.setattr("workers.cli_jobs.LOOK", 0.02)
        agent = Agent(session_server.url, "n1")
        yield agent
        agent.close()

    def test_come_from_the_node_that_has_them(self, cli: Cli, ended: list[str], agent: Agent) -> None:
        agent.answers = [{"answer": {"text": "one\ntwo\x1b[2J\n", "begin": 0, "end": 12, "size": 12}}]
        result = cli("jobs", "logs", "failed", "--lines", "2")
        assert result.stdout == "one\ntwo\\x1b[2J\n"
        assert result.stderr == "failed: failed, on n1\n"
        assert agent.asked == [("node.job_log", {"job_id": "failed", "lines": 2, "offset": None})]
        agent.answers = [{"answer": {"text": "one\n", "begin": 0, "end": 4, "size": 4}}]
        document = json.loads(cli("jobs", "logs", "failed", "--json").stdout)
        assert document == {"job": "failed", "node": "n1", "text": "one\n", "begin": 0, "end": 4, "size": 4}

    def test_are_followed_from_where_they_were_until_the_job_is_over(
        self, cli: Cli, queue: JobQueue, ended: list[str], agent: Agent
    ) -> None:
        def part(text: str, begin: int, size: int) -> dict[str, Any]:
            return {"answer": {"text": text, "begin": begin, "end": begin + len(text), "size": size}}

        agent.answers = [
            part("a" * 10, 90, 120),  # more is there: asked for at once
            part("b" * 20, 100, 120),
            lambda: queue.complete(HOLDER, "running", 1, {}) and part("c" * 5, 120, 125),
            part("d" * 5, 125, 130),  # what it printed last, asked for once it is known to be over
        ]
        result = cli("jobs", "logs", "running", "--follow")
        assert result.stdout == "a" * 10 + "b" * 20 + "c" * 5 + "d" * 5
        assert [arguments["offset"] for _, arguments in agent.asked] == [None, 100, 120, 125]

    def test_begin_anew_on_the_node_that_has_the_job_next(
        self, cli: Cli, queue: JobQueue, session_server: Any, ended: list[str], agent: Agent
    ) -> None:
        other = Agent(session_server.url, "n2")

        def moved() -> dict[str, Any]:
            queue.release(HOLDER, "running", 1, "it drains")
            queue.cancel("pending", "out of the way")
            job = queue.claim(Holder("n2", "o2"), ["cpu"])
            assert job is not None
            assert queue.complete(Holder("n2", "o2"), job.id, job.attempt, {})
            return {"answer": {"text": "here\n", "begin": 0, "end": 5, "size": 5}}

        agent.answers = [moved]
        other.answers = [{"answer": {"text": "there\n", "begin": 0, "end": 6, "size": 6}}]
        result = cli("jobs", "logs", "running", "--follow")
        other.close()
        assert result.stdout == "here\nthere\n"
        assert other.asked[0][1]["offset"] is None
        assert "running: completed, on n2" in result.stderr

    def test_that_no_node_has_are_said_to_be_nowhere(self, cli: Cli, ended: list[str], agent: Agent) -> None:
        assert "pending is pending, and no node has it" in cli("jobs", "logs", "pending", code=1).stderr
        agent.answers = [{"answer": {"missing": True}}]
        assert "n1 has no log of failed (any more)" in cli("jobs", "logs", "failed", code=1).stderr
        agent.answers = [{"error": "OSError: no plain file\x1b[2J"}]
        error = cli("jobs", "logs", "failed", code=1).stderr
        assert r"n1 cannot read the log of failed: OSError: no plain file\x1b[2J" in error

    def test_of_a_node_that_does_not_answer_tell_how_it_stands(
        self, cli: Cli, session_server: Any, ended: list[str]
    ) -> None:
        asked = ("jobs", "logs", "failed", "--wait", "50ms")
        error = cli(*asked, code=1).stderr
        assert "n1, which has the log of failed, does not answer: the registry does not know that node" in error
        assert "The last error, as the registry has it: exit code 3\nlast words" in error
        registry = NodeRegistry(connect(session_server.url))
        registry.heartbeat("n1", "jobs", {})
        registry.mark({"n1": {"health": {"status": "suspect", "reasons": ["no agent reports"], "at": 0}}})
        assert "does not answer: it is suspect; no agent reports; it has no agent\n" in cli(*asked, code=1).stderr
        registry.heartbeat("n1", "agent", {})
        assert "its agent was last heard 1s ago" in cli(*asked, code=1).stderr

    def test_are_for_people_or_for_scripts(self, cli: Cli, ended: list[str]) -> None:
        assert "either --follow or --json" in cli("jobs", "logs", "failed", "--follow", "--json", code=2).stderr
