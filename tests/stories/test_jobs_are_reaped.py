"""Nodes that die, are cut off, hang or drain with jobs on them: each job is ended once, by somebody."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from fleet.jobs import Job, JobSpec, JobStatus
from fleet.nodes import NodeRegistry
from fleet.reaping import STOPPED_WITHIN
from tests.stories.conftest import House
from workers.app import configure
from workers.jobs import RUN_JOB
from workers.settings import Settings

#: Tells its process group, then runs until its node is given the word; does not care for SIGTERM.
GATED_BODY = """
trap '' TERM
echo $$ > $BACKBEAT_JOB_ID.pid
while [ ! -e go ]; do sleep 0.05; done
echo '{{"games": 1}}'
"""
KINDS = {"selfplay": {"command": ["sh", "-c", GATED_BODY], "nice": 0}}
LOOPS = {
    "health_aggregation": {"interval": "500ms", "suspect_after": "5500ms", "lost_after": "6s"},
    "job_reaper": {"interval": "500ms", "orphaned_after": "6s", "stuck_grace": "0s", "listen_for": "1s"},
}


class Proxy:
    """A TCP proxy before a server on this machine, whose traffic can be dropped without a word.

    What was connected when it was cut stays dead for ever; who connects meanwhile gets through when it heals.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._cuts = 0
        self._healed = asyncio.Event()
        self._healed.set()
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = int(self._server.sockets[0].getsockname()[1])
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy")
        self._thread.start()

    def cut(self) -> None:
        def cut() -> None:
            self._cuts += 1
            self._healed.clear()

        self._loop.call_soon_threadsafe(cut)

    def heal(self) -> None:
        self._loop.call_soon_threadsafe(self._healed.set)

    def close(self) -> None:
        async def close() -> None:
            self._server.close()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        streams = [writer]
        try:
            await self._healed.wait()
            upstream, downstream = await asyncio.open_connection("127.0.0.1", self._target)
            streams.append(downstream)
            cuts = self._cuts
            await asyncio.gather(self._pump(reader, downstream, cuts), self._pump(upstream, writer, cuts))
        finally:
            for stream in streams:
                stream.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, cuts: int) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                if self._cuts == cuts:
                    writer.write(data)
                    await writer.drain()
            writer.close()


@pytest.fixture(scope="module")
def house(session_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A leader that runs no jobs, and its beat, for all of these stories; each has nodes and jobs of its own."""
    server = type(session_server)(tmp_path_factory.mktemp("own-server"))
    server.start()
    house = House(server, tmp_path_factory.mktemp("house"))
    house.configure(LOOPS, jobs=KINDS)
    house.agent("boss")
    house.beat()
    house.await_leader()
    yield house
    house.close()
    server.kill()


@pytest.fixture
def proxy(house: House) -> Iterator[Proxy]:
    proxy = Proxy(house.server.port)
    yield proxy
    proxy.close()


@pytest.fixture(autouse=True)
def others_are_gone(house: House) -> Iterator[None]:
    """The nodes of a story end with it."""
    before = list(house.processes)
    yield
    for process in house.processes:
        if process not in before:
            process.kill()


def enqueue(house: House, *ids: str, **more: Any) -> None:
    house.queue.enqueue([JobSpec(kind="selfplay", config="hex8_2p", id=job_id, **more) for job_id in ids])


def job(house: House, job_id: str) -> Job:
    found: Job = house.queue.get(job_id)
    return found


def until_it_runs(house: House, job_id: str, node: str) -> int:
    """Wait until a node runs that job, and is known to; the pid of its process group."""
    file = house.folder / node / f"{job_id}.pid"
    house.until(lambda: (job(house, job_id).status, job(house, job_id).node) == (JobStatus.RUNNING, node))
    return int(house.until(lambda: file.exists() and file.read_text().strip(), what=f"{job_id} runs on {node}"))


def gone(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return True


def say_go(house: House, node: str) -> None:
    folder: Path = house.folder / node
    folder.mkdir(exist_ok=True)
    (folder / "go").touch()


def until_completed(house: House, job_id: str) -> Job:
    house.until(lambda: job(house, job_id).status is JobStatus.COMPLETED, 30, f"{job_id} is done")
    return job(house, job_id)


def wake(house: House) -> None:
    """Publish a wake-up, as whoever enqueues does."""
    configure(Settings(redis_url=house.server.url)).send_task(RUN_JOB, (), queue="jobs.cpu", retry=False)


def node_status(house: House, node: str) -> str:
    return next((n["status"] for n in house.manager.get_status()["nodes"] if n["node_id"] == node), "unknown")


def test_the_jobs_of_a_killed_node_are_run_once_elsewhere_and_what_it_left_is_stopped(house: House) -> None:
    enqueue(house, "k1", "k2")
    processes = [house.agent("killed"), house.jobs("killed")]
    pids = [until_it_runs(house, job_id, "killed") for job_id in ("k1", "k2")]
    for process in processes:
        process.kill()
    say_go(house, "other")
    house.jobs("other")
    house.until(lambda: node_status(house, "killed") == "lost", what="it is lost")
    for job_id in ("k1", "k2"):
        done = until_completed(house, job_id)
        assert (done.node, done.attempt, done.failures) == ("other", 2, 1)
    assert not any(gone(pid) for pid in pids)
    house.jobs("killed")
    house.until(lambda: all(gone(pid) for pid in pids), what="what it left running is stopped")
    house.until(lambda: node_status(house, "killed") != "lost", what="it is back")
    assert [job(house, job_id).node for job_id in ("k1", "k2")] == ["other", "other"]


def test_a_node_that_was_cut_off_completes_no_job_a_second_time_and_is_well_again(house: House, proxy: Proxy) -> None:
    games = house.queue.counts().games.get("hex8_2p", 0)
    through_the_proxy = {"BACKBEAT_REDIS_URL": f"redis://127.0.0.1:{proxy.port}/0"}
    agent, worker = house.agent("cut", **through_the_proxy), house.jobs("cut", **through_the_proxy)
    enqueue(house, "c1")
    until_it_runs(house, "c1", "cut")
    proxy.cut()
    say_go(house, "cut")  # its job comes to its end while nobody can be told
    say_go(house, "other")
    other = house.jobs("other")
    done = until_completed(house, "c1")
    assert (done.node, done.attempt) == ("other", 2)
    other.kill()
    enqueue(house, "c2")
    proxy.heal()
    house.until(lambda: "holds it no more" in worker.text(), what="its report was refused")
    house.until(lambda: node_status(house, "cut") == "healthy", what="it is healthy")
    assert until_completed(house, "c2").node == "cut"  # it works again
    assert house.queue.counts().games == {"hex8_2p": games + 2}
    assert agent.alive
    assert worker.alive


def test_a_live_holder_has_ended_the_first_attempt_before_there_can_be_a_second(house: House) -> None:
    enqueue(house, "f1", timeout=1.0)
    worker = house.jobs("frozen")
    pid = until_it_runs(house, "f1", "frozen")
    worker.freeze()  # so that it does not end the job at its timeout
    house.until(lambda: job(house, "f1").status is JobStatus.PENDING, what="it was taken back")
    worker.send(signal.SIGCONT)
    taken_back = job(house, "f1")
    assert (taken_back.error or "").startswith("stuck: ")
    house.until(lambda: gone(pid), STOPPED_WITHIN, "the first attempt is gone")
    seconds, microseconds = house.redis.time()
    assert seconds + microseconds / 1e6 < (taken_back.not_before or 0)
    house.queue.cancel("f1", "the story is over")


def test_a_node_that_drains_leaves_its_wake_ups_to_others_and_takes_part_again_afterwards(house: House) -> None:
    nodes = NodeRegistry(house.redis)
    say_go(house, "drained")
    worker = house.jobs("drained")
    enqueue(house, "d1")
    until_completed(house, "d1")
    nodes.mark({"drained": {"drain": {"at": 0}}})
    enqueue(house, "d2")
    wake(house)  # which it pops, and may do nothing with
    house.until(lambda: "this node drains: jobs.cpu is left to others" in worker.text(), what="it noticed")
    wake(house)
    house.until(lambda: house.redis.llen("jobs.cpu"), what="this one stays for others")
    say_go(house, "other")
    other = house.jobs("other")
    assert until_completed(house, "d2").node == "other"
    other.kill()
    nodes.mark({"drained": {"drain": None}})
    enqueue(house, "d3")
    assert until_completed(house, "d3").node == "drained"
