"""What a node can be asked: checked, bounded, answered."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from fleet import replies
from fleet.fleet import Fleet
from fleet.job_log import READ_LIMIT, read_log
from tasks.loop import Loop, discover
from tasks.node import Arguments, NodeTask, discover_node_tasks, job_log, node_task, serve


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Where the log of job `j` lies."""
    folder = tmp_path / "jobs" / "j"
    folder.mkdir(parents=True)
    return folder / "log"


def ask(fleet: Fleet, task: NodeTask, arguments: Any) -> Any:
    """Serve a message as the app does, and take the answer as the asker does."""
    token = replies.new_token()
    try:
        serve(fleet, task, arguments, token)
    finally:
        answer = replies.wait_for(fleet.redis, token, 1)
    return answer


class TestServe:
    def test_answers_whoever_asked(self, fleet: Fleet, log: Path) -> None:
        log.write_text("one\ntwo\nthree\n")
        answer = ask(fleet, job_log, {"job_id": "j", "lines": 2})["answer"]
        assert answer == {"text": "two\nthree\n", "begin": 4, "end": 14, "size": 14}
        assert ask(fleet, job_log, {"job_id": "j", "offset": 8})["answer"]["text"] == "three\n"
        assert ask(fleet, job_log, {"job_id": "other"}) == {"answer": {"missing": True}}

    def test_without_a_token_answers_nobody(self, fleet: Fleet, log: Path) -> None:
        log.write_text("one\n")
        assert serve(fleet, job_log, {"job_id": "j"}) == "done"
        assert fleet.redis.keys() == []

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ({"job_id": "../../etc"}, "job_id: Value error, id '../../etc': 1 to 64 letters"),
            ({"job_id": "j/../k"}, "job_id: "),
            ({"job_id": ".."}, "job_id: "),
            ({"job_id": 7}, "job_id: Input should be a valid string"),
            ({}, "job_id: Field required"),
            ({"job_id": "j", "path": "/etc/passwd"}, "path: Extra inputs are not permitted"),
            ({"job_id": "j", "lines": 10**9}, "lines: Input should be less than or equal to 10000"),
            ({"job_id": "j", "offset": -1}, "offset: Input should be greater than or equal to 0"),
            ("j", "Input should be"),
            (None, "Input should be"),
        ],
    )
    def test_refuses_arguments_that_are_none(self, fleet: Fleet, arguments: Any, said: str) -> None:
        token = replies.new_token()
        with pytest.raises(ValidationError):
            serve(fleet, job_log, arguments, token)
        answer = replies.wait_for(fleet.redis, token, 1)
        assert answer is not None
        assert said in answer["error"]

    @pytest.mark.parametrize("token", ["", "events", "x" * 32, 7, ["a"]])
    def test_refuses_a_token_that_would_name_another_key(self, fleet: Fleet, token: Any) -> None:
        ran = []

        @node_task(arguments=Arguments)
        def unasked(fleet: Fleet, arguments: Arguments) -> dict[str, Any]:
            ran.append(arguments)
            return {}

        with pytest.raises(ValueError, match="32 hexadecimal digits"):
            serve(fleet, unasked, {}, token)
        assert not ran
        assert fleet.redis.keys() == []

    def test_tells_what_went_wrong_and_fails(self, fleet: Fleet) -> None:
        @node_task(arguments=Arguments)
        def breaking(fleet: Fleet, arguments: Arguments) -> dict[str, Any]:
            raise RuntimeError("no such luck")

        token = replies.new_token()
        with pytest.raises(RuntimeError):
            serve(fleet, breaking, {}, token)
        assert replies.wait_for(fleet.redis, token, 1) == {"error": "RuntimeError: no such luck"}

    def test_an_answer_that_is_too_large_is_an_error(self, fleet: Fleet) -> None:
        @node_task(arguments=Arguments)
        def loud(fleet: Fleet, arguments: Arguments) -> dict[str, Any]:
            return {"text": "x" * replies.LIMIT}

        token = replies.new_token()
        with pytest.raises(ValueError, match="at most"):
            serve(fleet, loud, {}, token)
        assert "at most" in str(replies.wait_for(fleet.redis, token, 1))


class TestReading:
    def test_takes_the_end_of_a_long_log_and_no_more_than_its_limit(self, log: Path) -> None:
        log.write_bytes(b"x" * 99 + b"\n" + b"line\n" * READ_LIMIT)
        part = read_log(log, lines=10_000_000)
        assert (part.end, part.end - part.begin) == (part.size, READ_LIMIT)
        assert read_log(log, lines=3).text == "line\n" * 3
        first = read_log(log, offset=0)
        assert (first.begin, first.end) == (0, READ_LIMIT)
        assert read_log(log, offset=first.end).begin == first.end

    def test_leaves_a_sign_that_is_not_whole_yet_for_later(self, log: Path) -> None:
        whole = "a€".encode()
        log.write_bytes(whole[:-1])
        part = read_log(log, offset=0)
        assert (part.text, part.end) == ("a", 1)
        log.write_bytes(whole)
        assert read_log(log, offset=part.end).text == "€"
        log.write_bytes(b"\xff\xfe ok")
        assert read_log(log, offset=0).text == "\N{REPLACEMENT CHARACTER}" * 2 + " ok"

    def test_of_a_log_that_was_begun_anew_begins_anew(self, log: Path) -> None:
        log.write_text("new\n")
        part = read_log(log, offset=1000)
        assert (part.text, part.begin) == ("new\n", 0)
        assert read_log(log, offset=4).text == ""

    def test_never_waits_or_follows_what_a_job_put_in_the_place_of_its_log(self, log: Path, tmp_path: Path) -> None:
        os.mkfifo(log)
        with pytest.raises(OSError, match="no plain file"):
            read_log(log)
        log.unlink()
        (tmp_path / "secret").write_text("secret")
        log.symlink_to(tmp_path / "secret")
        with pytest.raises(OSError, match="symbolic links"):
            read_log(log)
        log.unlink()
        log.mkdir()
        with pytest.raises(OSError, match="no plain file"):
            read_log(log)


def test_every_node_task_is_found_and_none_is_taken_for_a_loop() -> None:
    found = discover_node_tasks()
    assert found["job_log"] is job_log
    assert not found.keys() & discover().keys()
    assert all(isinstance(loop, Loop) for loop in discover().values())
