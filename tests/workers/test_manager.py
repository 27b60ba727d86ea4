from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis import Redis, RedisError

from tests.waiting import until
from workers.ledger import Grant, Ledger, Refusal, Scheduled
from workers.manager import LoopManager, RefusedByState, UnknownLoop
from workers.settings import connect


@pytest.fixture
def ledger(session_server: Any, redis: Redis) -> Iterator[Ledger]:
    client = connect(session_server.url)
    ledger = Ledger(client)
    ledger.seed(
        [
            Scheduled("alpha", 60.0, "loops"),
            Scheduled("beta", 1.0, "leader", leader_only=True),
            Scheduled("gamma", 60.0, "loops", enabled=False),
        ],
        prune=True,
    )
    yield ledger
    client.close()


@pytest.fixture
def sent() -> list[tuple[str, str, str]]:
    return []


@pytest.fixture
def manager(ledger: Ledger, sent: list[tuple[str, str, str]]) -> LoopManager:
    return LoopManager(ledger, lambda *message: sent.append(message))


def ticks(ledger: Ledger) -> set[str]:
    claim = ledger.claim("b1", '{"host": "h", "pid": 1}', ttl=3.0, grace=2.0)
    return {tick.name for tick in claim.ticks}


def gate(ledger: Ledger, name: str, seq: int | None = None) -> Grant | Refusal:
    answer = ledger.gate(name, seq, "r1", ttl=8.0, deadline=9.0, leader_only=False, owner="", identity="n1@h")
    assert isinstance(answer, Grant | Refusal)
    return answer


class TestStatus:
    def test_has_the_keys_that_the_document_promises(self, manager: LoopManager) -> None:
        status = manager.get_status()
        assert status.keys() >= {
            *("total_loops", "running_loops", "paused_loops", "error_loops", "loops", "leader", "beat", "nodes", "jobs")
        }
        promised = {
            *("name", "running", "paused", "enabled", "interval", "run_count", "error_count", "consecutive_errors"),
            *("average_duration_ms", "last_run_time", "last_error"),
        }
        assert all(loop.keys() >= promised for loop in status["loops"].values())
        assert manager.get_all_status().keys() == status["loops"].keys() == {"alpha", "beta", "gamma"}

    def test_counts_loops_by_what_is_said_of_them(self, manager: LoopManager, ledger: Ledger) -> None:
        manager.pause("alpha")
        assert isinstance(gate(ledger, "beta"), Grant)
        ledger.record("beta", "r1", "failed", duration=0.25, error="E: no", traceback="tb", backoff=5.0)
        status = manager.get_status()
        assert (status["total_loops"], status["running_loops"]) == (3, 2)
        assert (status["paused_loops"], status["error_loops"]) == (1, 1)
        beta = status["loops"]["beta"]
        assert (beta["run_count"], beta["error_count"], beta["consecutive_errors"]) == (1, 1, 1)
        assert (beta["last_error"], beta["state"]) == ("E: no", "backing_off")
        assert beta["last_run_time"] == pytest.approx(status["now"], abs=5)

    def test_of_an_empty_server_is_a_whole_document(self, manager: LoopManager, redis: Redis) -> None:
        redis.flushall()
        status = manager.get_status()
        assert (status["total_loops"], status["loops"], status["nodes"]) == (0, {}, [])
        assert (status["leader"], status["beat"]["active"], status["jobs"]["depth"]) == (None, None, 0)


class TestSteering:
    def test_a_paused_loop_does_not_tick_until_it_is_resumed(self, manager: LoopManager, ledger: Ledger) -> None:
        manager.pause("alpha")
        assert "alpha" not in ticks(ledger)
        manager.resume("alpha")
        manager.set_interval("alpha", 0.1)
        until(lambda: "alpha" in ticks(ledger), 10)

    def test_a_stopped_loop_is_refused_at_the_gate_until_it_is_started(
        self, manager: LoopManager, ledger: Ledger
    ) -> None:
        manager.stop("alpha")
        assert gate(ledger, "alpha") == Refusal("stopped")
        manager.start("alpha")
        assert isinstance(gate(ledger, "alpha"), Grant)

    def test_a_start_forgets_what_failed(self, manager: LoopManager, ledger: Ledger) -> None:
        assert isinstance(gate(ledger, "alpha"), Grant)
        ledger.record("alpha", "r1", "failed", error="E", backoff=100.0)
        manager.start("alpha")
        alpha = manager.get_all_status()["alpha"]
        assert (alpha["consecutive_errors"], alpha["backing_off_until"]) == (0, None)

    @pytest.mark.parametrize(
        ("action", "field", "value"),
        [
            ("pause_all", "paused", True),
            ("resume_all", "paused", False),
            ("stop_all", "stopped", True),
            ("start_all", "stopped", False),
        ],
    )
    def test_all_loops_at_once(self, manager: LoopManager, action: str, field: str, value: bool) -> None:
        assert getattr(manager, action)() == ["alpha", "beta", "gamma"]
        assert {loop[field] for loop in manager.get_all_status().values()} == {value}

    @pytest.mark.parametrize("seconds", [0, -1, 0.05, float("nan"), float("inf")])
    def test_an_interval_is_at_least_a_tenth_of_a_second(self, manager: LoopManager, seconds: float) -> None:
        with pytest.raises(ValueError, match=r"at least 0\.1 s"):
            manager.set_interval("alpha", seconds)
        assert manager.get_all_status()["alpha"]["interval"] == 60

    def test_a_registered_loop_ticks(self, manager: LoopManager, ledger: Ledger) -> None:
        manager.register(Scheduled("delta", 60.0, "loops", source="registered"))
        assert "delta" in ticks(ledger)
        assert manager.names() == ["alpha", "beta", "delta", "gamma"]


class TestAManualRun:
    def test_is_sent_to_the_queue_of_the_loop_under_its_id(
        self, manager: LoopManager, sent: list[tuple[str, str, str]]
    ) -> None:
        calls = [manager.run("alpha"), manager.run("beta", "mine")]
        assert sent == [("alpha", "loops", calls[0]), ("beta", "leader", "mine")]
        assert calls[1] == "mine"

    def test_is_possible_while_paused(self, manager: LoopManager, sent: list[tuple[str, str, str]]) -> None:
        manager.pause("alpha")
        manager.run("alpha")
        assert len(sent) == 1

    @pytest.mark.parametrize(("name", "why"), [("beta", "is stopped; start it first"), ("gamma", "is disabled")])
    def test_of_a_stopped_or_disabled_loop_is_refused(
        self, manager: LoopManager, sent: list[tuple[str, str, str]], name: str, why: str
    ) -> None:
        manager.stop("beta")
        with pytest.raises(RefusedByState, match=why):
            manager.run(name)
        assert sent == []


class TestAnUnknownLoop:
    @pytest.mark.parametrize(
        "act",
        [
            lambda manager: manager.run("alhpa"),
            lambda manager: manager.pause("alhpa"),
            lambda manager: manager.start("alhpa"),
            lambda manager: manager.set_interval("alhpa", 5),
        ],
    )
    def test_is_answered_with_the_nearest_name(self, manager: LoopManager, act: Callable[[LoopManager], Any]) -> None:
        with pytest.raises(UnknownLoop, match="no loop is named 'alhpa'; did you mean 'alpha'"):
            act(manager)
        assert manager.names() == ["alpha", "beta", "gamma"]

    def test_like_no_other_is_answered_with_all_names(self, manager: LoopManager) -> None:
        with pytest.raises(UnknownLoop, match="known are alpha, beta, gamma"):
            manager.stop("zzz")


def test_a_server_that_is_away_is_an_error_of_redis(sent: list[tuple[str, str, str]]) -> None:
    manager = LoopManager(Ledger(connect("redis://127.0.0.1:1/0")), lambda *message: sent.append(message))
    with pytest.raises(RedisError):
        manager.get_status()
    with pytest.raises(RedisError):
        manager.run("alpha")
    assert sent == []
