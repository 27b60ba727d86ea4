"""A small Docker engine: the few endpoints that the provider uses, over a Unix socket, without containers.

It answers as an engine does: names are taken once, states follow start, kill and remove, a volume in use
stays. What it cannot show: that an image runs, that networks and mounts are what they say, that an engine
of another version answers alike.
"""

from __future__ import annotations

import json
import re
import socketserver
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

Answer = tuple[int, Any]

_ID = re.compile(r"(?<=ers/|mes/)(?!json$|create$)[^/]+")


@dataclass
class Container:
    name: str
    config: dict[str, Any]
    state: str = "created"

    @property
    def volumes(self) -> list[str]:
        return [bind.partition(":")[0] for bind in self.config["HostConfig"]["Binds"]]

    def row(self, container_id: str) -> dict[str, Any]:
        config = self.config
        labels = config.get("Labels") or {}
        return {"Id": container_id, "Names": [f"/{self.name}"], "Labels": labels, "State": self.state}


@dataclass
class Engine:
    """Its state, and what it does to requests: `fault(method, path)` is "", "refuse", "hang" or "lose"."""

    images: set[str] = field(default_factory=lambda: {"backbeat:test"})
    containers: dict[str, Container] = field(default_factory=dict)
    volumes: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)
    stubborn: bool = False
    fault: Callable[[str, str], str] = lambda _method, _path: ""

    def __post_init__(self) -> None:
        self.released = threading.Event()
        self.lock = threading.Lock()

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: dict[str, Any]) -> Answer:
        verb = f"{method} {_ID.sub('X', path)}"
        with self.lock:
            self.requests.append(verb)
            match verb:
                case "GET /version":
                    return 200, {"ApiVersion": "1.41", "MinAPIVersion": "1.12", "Version": "20.10.24"}
                case "GET /containers/json":
                    return 200, self._listed(json.loads(query["filters"][0])["label"])
                case "POST /containers/create":
                    return self._create(query["name"][0], body)
            found = path.split("/")[2]
            if verb == "DELETE /volumes/X":
                return self._remove_volume(found)
            container = self.containers.get(found)
            if container is None:
                return 404, {"message": f"No such container: {found}"}
            match verb:
                case "POST /containers/X/start":
                    already, container.state = container.state == "running", "running"
                    return 304 if already else 204, None
                case "POST /containers/X/kill":
                    if container.state != "running":
                        return 409, {"message": f"Container {found} is not running"}
                    container.state = "running" if self.stubborn else "exited"
                    return 204, None
                case "DELETE /containers/X":
                    del self.containers[found]
                    return 204, None
        raise AssertionError(f"this engine has no {verb}")

    def _listed(self, labels: list[str]) -> list[dict[str, Any]]:
        rows = [container.row(container_id) for container_id, container in self.containers.items()]
        return [row for row in rows if all(label in row["Labels"] for label in labels)]

    def _create(self, name: str, config: dict[str, Any]) -> Answer:
        if config["Image"] not in self.images:
            return 404, {"message": f"No such image: {config['Image']}"}
        if name in {container.name for container in self.containers.values()}:
            return 409, {"message": f'Conflict. The container name "/{name}" is already in use'}
        container_id = f"{len(self.requests):064x}"
        self.containers[container_id] = Container(name, config)
        self.volumes |= {volume for volume in self.containers[container_id].volumes if not volume.startswith("/")}
        return 201, {"Id": container_id, "Warnings": []}

    def _remove_volume(self, name: str) -> Answer:
        if name not in self.volumes:
            return 404, {"message": f"get {name}: no such volume"}
        if any(name in container.volumes for container in self.containers.values()):
            return 409, {"message": f"remove {name}: volume is in use"}
        self.volumes.remove(name)
        return 204, None


class Serving(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """The engine on a socket; `close` ends its threads."""

    daemon_threads = False

    def __init__(self, path: Path, engine: Engine) -> None:
        self.engine = engine
        self.address = f"unix://{path}"
        super().__init__(str(path), _Handler)
        self.thread = threading.Thread(target=self.serve_forever, args=(0.05,), name="engine")
        self.thread.start()

    def close(self) -> None:
        self.engine.released.set()
        self.shutdown()
        self.server_close()
        self.thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Serving
    timeout = 5

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _serve(self) -> None:
        engine = self.server.engine
        parts = urlsplit(self.path)
        path = re.sub(r"^/v[0-9.]+", "", unquote(parts.path))
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length) or b"{}")
        fault = engine.fault(self.command, path)
        if fault == "hang":
            engine.released.wait(20)
            self.close_connection = True
            return
        code, said = (500, {"message": "out of luck"}) if fault == "refuse" else engine.answer(
            self.command, path, parse_qs(parts.query), body
        )  # fmt: skip
        if fault == "lose":
            self.close_connection = True
            return
        content = b"" if said is None else json.dumps(said).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Connection", "close")
        if code not in (204, 304):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if content:  # a client that knows that nothing comes has gone by now
            self.wfile.write(content)
        self.close_connection = True

    do_GET = do_POST = do_DELETE = _serve
