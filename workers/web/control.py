"""The buttons: run, pause and resume a loop. Only for whom Flower knows, and only from the dashboard's own pages."""

from __future__ import annotations

from functools import partial
from typing import Any

from kombu.exceptions import OperationalError
from redis import RedisError
from tornado.web import RequestHandler, authenticated

from workers.manager import LoopManager, RefusedByState, UnknownLoop
from workers.status import read_overview
from workers.web.page import Handler, Reader


class Words(Handler):
    """Answers in JSON, errors included: {"error": why}."""

    def refuse(self, code: int, why: str) -> None:
        """End with an error."""
        self.set_status(code)
        self.finish({"error": why})

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        if status_code == 401:  # Flower's own, so that a browser asks for the password
            super().write_error(status_code, **kwargs)
        else:
            self.finish({"error": self._reason})


class LoopDocument(Words):
    """`GET /loops/NAME`: its part of the status document; `manual` tells what came of a manual run."""

    @authenticated
    async def get(self, name: str) -> None:
        try:
            document = await self.reader.read(partial(read_overview, self.reader.ledger))
        except RedisError as error:
            self.refuse(503, self.reader.trouble(error))
            return
        if name in document["loops"]:
            self.write(document["loops"][name])
        else:
            self.refuse(404, f"no loop is named {name!r}")


class Steer(Words):
    """`POST /loops/NAME/run`, `pause` or `resume`."""

    def check_xsrf_cookie(self) -> None:
        super().check_xsrf_cookie()
        headers = self.request.headers
        if "Origin" in headers or "Sec-Fetch-Site" in headers:  # a browser, which any page may have told to ask
            RequestHandler.check_xsrf_cookie(self)

    @authenticated
    async def post(self, name: str, action: str) -> None:
        if not self.steers:
            self.refuse(403, "this dashboard is read-only: start it with credentials to steer loops here")
            return
        try:
            self.write(await self.reader.read(partial(steer, self.reader, name, action)))
        except UnknownLoop as error:
            self.refuse(404, str(error))
        except RefusedByState as error:
            self.refuse(409, str(error))
        except RedisError as error:
            self.refuse(503, self.reader.trouble(error))


def steer(reader: Reader, name: str, action: str) -> dict[str, Any]:
    """Do it. Returns what was done, and the id of the call by which a manual run is found again."""
    manager = LoopManager(reader.ledger, partial(publish, reader))
    call = getattr(manager, action)(name)
    return {"loop": name, "action": action, "call": call}


def publish(reader: Reader, name: str, queue: str, call: str) -> None:
    """Send a manual run. Raises RedisError when the server is away."""
    try:
        reader.backbeat.celery.send_task(f"loops.{name}", (), task_id=call, queue=queue, retry=False)
    except OperationalError as error:
        raise RedisError(str(error)) from error
