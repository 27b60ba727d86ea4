"""Flower with our pages: what `celery -A workers.app flower` starts. Its tests fail when Flower changes under it."""

from __future__ import annotations

import gc
import ipaddress
import socket
import sys
from pathlib import Path
from typing import Any

from flower.app import Flower, rewrite_handler
from tornado.log import app_log
from tornado.template import Loader, Template
from tornado.web import StaticFileHandler, url

from workers.web import control, fleet, loops, probes, progress
from workers.web.page import Reader, is_guarded

HERE = Path(__file__).parent

#: Our tabs: the route's name and the title, in Flower's navigation before its own.
TABS = (("loops", "Loops"), ("fleet", "Fleet"), ("progress", "Progress"))
#: In Flower's navigation, what our tabs are put behind.
BEFORE_TABS = '<ul class="app-nav navbar-nav">'

HANDLERS = (
    url(r"/loops", loops.LoopsPage, name="loops"),
    url(r"/loops/([A-Za-z0-9_]+)", control.LoopDocument),
    url(r"/loops/([A-Za-z0-9_]+)/(run|pause|resume)", control.Steer),
    url(r"/fleet", fleet.FleetPage, name="fleet"),
    url(r"/fleet/([A-Za-z0-9._-]+)", fleet.NodePage),
    url(r"/progress", progress.ProgressPage, name="progress"),
    url(r"/status", probes.Status),
    url(r"/healthz", probes.Healthy),
    url(r"/readyz", probes.Ready),
    url(r"/metrics", probes.Metrics),
    url(r"/backbeat/(.*)", StaticFileHandler, {"path": str(HERE / "static")}),
)


class Templates(Loader):
    """Flower's templates with our tabs in its navigation, and ours."""

    def _create_template(self, name: str) -> Template:
        ours = HERE / "templates" / name
        text = (ours if ours.is_file() else Path(self.root) / name).read_text()
        return Template(with_tabs(text) if name == "navbar.html" else text, name=name, loader=self)


def with_tabs(navbar: str) -> str:
    """Flower's navigation with our tabs; as it is when there is no place for them: the pages work all the same."""
    before, place, behind = navbar.partition(BEFORE_TABS)
    if not place:
        app_log.warning("this Flower's navigation has no place for our pages: see /loops, /fleet and /progress")
        return navbar
    tabs = (
        f'<li class="nav-item"><a class="nav-link{{% if active_tab == "{name}" %}} active{{% end %}}" '
        f'href="{{{{ reverse_url("{name}") }}}}"{{% if active_tab == "{name}" %}} aria-current="page"{{% end %}}>'
        f"{title}</a></li>"
        for name, title in TABS
    )
    return before + place + "".join(tabs) + behind


class Dashboard(Flower):
    """Flower's application, with our pages before its own."""

    def __init__(self, options: Any = None, capp: Any = None, **settings: Any) -> None:
        check_address(options)
        settings["template_loader"] = Templates(settings["template_path"])
        super().__init__(options=options, capp=capp, **settings)
        prefix = options.url_prefix
        self.add_handlers(r".*", [rewrite_handler(each, prefix) if prefix else each for each in HANDLERS])
        self.reader = Reader(capp.backbeat, max_workers=4)
        self.metrics = probes.registry(self.reader)
        # what was loaded stays: to look for garbage in it took longer than to answer
        gc.freeze()


def check_address(options: Any) -> None:
    """Without credentials the dashboard is for this machine alone: elsewhere it ends the process, with one line."""
    if is_guarded(options) or options.unix_socket:
        return
    if not options.address:
        options.address = "127.0.0.1"
    elif not is_loopback(options.address):
        sys.exit(
            f"backbeat: without credentials the dashboard listens on loopback only, not on {options.address}: "
            "give it some, FLOWER_BASIC_AUTH=NAME:PASSWORD in its environment, or leave out --address"
        )


def is_loopback(address: str) -> bool:
    """Whether an address or name leads to this machine alone."""
    try:
        found = {each[4][0] for each in socket.getaddrinfo(address, None)}
    except OSError:
        return False
    return all(ipaddress.ip_address(str(each).partition("%")[0]).is_loopback for each in found)
