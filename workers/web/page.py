"""What our pages share: reading Redis beside the event loop, the banner when it is away, and who may press buttons."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from flower.views import BaseHandler
from redis import ConnectionError as Disconnected
from redis import RedisError
from tornado.web import authenticated

from fleet.nodes import NodeRegistry
from workers.ledger import Ledger
from workers.settings import no_answer
from workers.web.document import StatusDocument

T = TypeVar("T")

#: What a page of ours may load and do: nothing that is not this server's.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
STATIC = Path(__file__).parent / "static"
#: The alarm of a page that Redis does not answer.
AWAY = "away"


class Reader:
    """The cluster as the dashboard reads it, in threads of its own: a server that is away holds up nothing else."""

    def __init__(self, backbeat: Any, max_workers: int) -> None:
        self.url: str = backbeat.settings.redis_url
        self.backbeat = backbeat
        self.redis = backbeat.redis
        self.ledger: Ledger = backbeat.ledger
        self.nodes: NodeRegistry = backbeat.fleet.nodes
        self.document = StatusDocument(self.ledger)
        self._threads = ThreadPoolExecutor(max_workers, thread_name_prefix="backbeat")

    async def read(self, ask: Callable[[], T]) -> T:
        """What `ask` says. It is asked again when its connection turns out to be a dead one. Raises RedisError."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, again, ask)

    def trouble(self, error: RedisError) -> str:
        """Why there is no answer, in one line and without the password."""
        return no_answer(self.url, error)


def again(ask: Callable[[], T]) -> T:
    """`ask`, and once more when its connection did not survive since the last time."""
    try:
        return ask()
    except Disconnected:
        return ask()


def is_guarded(options: Any) -> bool:
    """Whether Flower asks who is there."""
    return bool(options.basic_auth or options.auth)


@cache
def asset(name: str) -> str:
    """A file of ours with a mark of what is in it, so that a new version is never an old one out of a cache."""
    return f"{name}?v={hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]}"


class Handler(BaseHandler):
    """Answers for ours."""

    @property
    def reader(self) -> Reader:
        found: Reader = self.application.reader
        return found

    @property
    def steers(self) -> bool:
        """Whether who asks may also steer: Flower knows who it is, and is not told to be read-only."""
        options = self.application.options
        return is_guarded(options) and not options.read_only


class Page(Handler):
    """A page whose main part can be asked for alone (`?part=1`), which is how it stays up to date."""

    #: The template of its main part is `<name>_live.html`; `tab` is the one it stands under.
    name = tab = ""

    def set_default_headers(self) -> None:
        super().set_default_headers()
        self.set_header("Content-Security-Policy", POLICY)
        self.set_header("Cache-Control", "no-store")
        self.set_header("Referrer-Policy", "same-origin")

    @property
    def title(self) -> str:
        """What stands above it."""
        return self.name.capitalize()

    def show(self) -> dict[str, Any]:
        """What the template is given; `alarm` is for the browser's tab. Called in a thread; raises RedisError."""
        raise NotImplementedError

    @authenticated
    async def get(self, *_: str) -> None:
        words: dict[str, Any] = {"alarm": "", "steers": self.steers, "as_of": time.time(), "asset": asset}
        template = f"{self.name}_live.html"
        try:
            words |= await self.reader.read(self.show)
        except RedisError as error:
            self.set_status(503)
            template, words["trouble"], words["alarm"] = "away.html", self.reader.trouble(error), AWAY
        live = self.render_string(template, url_prefix=self.prefix, **words)
        self.set_header("X-As-Of", f"{words['as_of']:.3f}")
        self.set_header("X-Alarm", words["alarm"])
        if self.get_query_argument("part", ""):
            self.write(live)
        else:
            about = {"page_name": self.name, "tab": self.tab or self.name, "title": self.title}
            standing = {"as_of": words["as_of"], "alarm": words["alarm"], "away": words["alarm"] == AWAY}
            self.render("page.html", live=live, prefix=self.prefix, asset=asset, **about, **standing)

    @property
    def prefix(self) -> str:
        """Where Flower's paths begin."""
        given = (self.application.options.url_prefix or "").strip("/")
        return f"/{given}" if given else ""
