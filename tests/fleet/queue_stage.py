"""A queue in virtual time: who holds, what is asked for, and a client whose commands are counted."""

from __future__ import annotations

from typing import Any

from redis import Connection, ConnectionPool, Redis

from fleet.jobs import Holder, Job, JobQueue, JobSpec

T0 = 1_750_000_000.0
ANN = Holder("ann", "ann-1")
BOB = Holder("bob", "bob-1")


def selfplay(job_id: str | None = None, **fields: Any) -> JobSpec:
    return JobSpec(kind="selfplay", config=fields.pop("config", "hex8_2p"), id=job_id, **fields)


def claimed(queue: JobQueue, holder: Holder = ANN, now: float = T0) -> Job:
    job = queue.claim(holder, ["cpu"], now=now)
    assert job is not None
    return job


def ids(found: list[Job]) -> list[str]:
    return [job.id for job in found]


class Counting:
    """A client whose commands, as they go out on the wire, are listed."""

    def __init__(self, url: str) -> None:
        sent: list[str] = []

        class Wiretap(Connection):
            def send_packed_command(self, command: Any, check_health: bool = True) -> None:
                words = b"".join(command).split(b"\r\n")
                sent.append(words[2].decode())
                super().send_packed_command(command, check_health)

        self._sent = sent
        self.client = Redis(connection_pool=ConnectionPool.from_url(url, connection_class=Wiretap))

    def __enter__(self) -> list[str]:
        self._sent.clear()
        return self._sent

    def __exit__(self, *exc: object) -> None:
        pass
