"""Nodes as containers: one for each process of a node, which share a volume for its data.

Containers are named after their node and process, so that the engine itself refuses a second one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from fleet.providers.node import NODE, Commands, filled, queues
from fleet.providers.port import Instance, ProviderError, ProviderSilent, check_name

if TYPE_CHECKING:
    from docker import APIClient

LABEL_NODE, LABEL_PROCESS, LABEL_KEY = "backbeat.node", "backbeat.process", "backbeat.key"
DATA = "/data"
#: Of our own environment, what a container gets another value of, or none.
_OWN = ("BACKBEAT_NODE_ID", "BACKBEAT_DATA", "BACKBEAT_INSTANCES", "BACKBEAT_RUN", "BACKBEAT_UP")

Container = dict[str, Any]


class DockerOptions(BaseModel):
    """The containers of a node, and the engine that runs them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image: str | None = Field(default=None, min_length=1)
    slots: int = Field(default=1, ge=1, le=256, description="jobs that a node runs at once")
    commands: Commands = NODE
    network: str | None = None
    environment: dict[str, str] = Field(default_factory=dict, repr=False, description="beside our BACKBEAT_ variables")
    volumes: tuple[str, ...] = Field(default=(), description="source:target or source:target:ro")
    engine: str | None = Field(default=None, description="its address; none: DOCKER_HOST, or the local socket")
    timeout: int = Field(default=30, ge=1, description="seconds for all of one step")
    stop_within: float = Field(default=30.0, gt=0, allow_inf_nan=False, description="seconds from SIGTERM to SIGKILL")


class Docker:
    """The containers of one engine that carry our labels. `environment` is that of this process, unless given."""

    def __init__(
        self,
        options: DockerOptions,
        capabilities: Sequence[str] = ("cpu",),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._options, self._capabilities = options, capabilities
        environment = os.environ if environment is None else environment
        ours = {name: value for name, value in environment.items() if name.startswith("BACKBEAT_")}
        self._environment = {name: value for name, value in ours.items() if name not in _OWN} | options.environment

    def instances(self) -> list[Instance]:
        """See `Provider`. A node of which one container does not run has ended: nobody starts that one again."""
        with self._engine() as engine:
            nodes: dict[str, list[Container]] = {}
            for container in self._containers(engine):
                nodes.setdefault(container["Labels"][LABEL_NODE], []).append(container)
        return [self._instance(name, found) for name, found in sorted(nodes.items())]

    def start(self, names: Sequence[str], key: str) -> None:
        """See `Provider`."""
        give_up = time.monotonic() + self._options.timeout
        with self._engine() as engine:
            for name in map(check_name, names):
                values = {"name": name, "queues": queues(self._capabilities), "slots": str(self._options.slots)}
                for process, argv in filled(self._options.commands, values | {"python": "python"}).items():
                    if time.monotonic() > give_up:
                        raise ProviderSilent(f"{name}-{process} was not started within {self._options.timeout} s")
                    self._run(engine, name, process, argv, key)

    def stop(self, names: Sequence[str], key: str) -> None:  # noqa: ARG002 - names alone tell what is to go
        """See `Provider`. The nodes drain side by side; then their containers and volumes are removed."""
        wanted = set(map(check_name, names))
        with self._engine() as engine:
            found = [each for each in self._containers(engine) if each["Labels"][LABEL_NODE] in wanted]
            for container in found:
                with _unless(404, 409):  # gone, or it does not run
                    engine.kill(container["Id"], "SIGTERM")
            give_up = time.monotonic() + self._options.stop_within
            while self._running(engine, wanted) and time.monotonic() < give_up:
                time.sleep(0.2)
            for container in found:
                with _unless(404, 409):  # gone, or being removed
                    engine.remove_container(container["Id"], v=True, force=True)
            for name in {each["Labels"][LABEL_NODE] for each in found}:
                with _unless(404, 409):  # it never had one, or a container of somebody else's uses it
                    engine.remove_volume(name)

    def _run(self, engine: APIClient, name: str, process: str, argv: list[str], key: str) -> None:
        binds = [f"{name}:{DATA}", *self._options.volumes]
        with _unless(409):  # there is one of that name
            created = engine.create_container(
                self._options.image,
                argv,
                name=f"{name}-{process}",
                hostname=name,
                environment={**self._environment, "BACKBEAT_NODE_ID": name, "BACKBEAT_DATA": DATA},
                labels={LABEL_NODE: name, LABEL_PROCESS: process, LABEL_KEY: key},
                host_config=engine.create_host_config(binds=binds, network_mode=self._options.network),
            )
            engine.start(created["Id"])

    def _running(self, engine: APIClient, names: set[str]) -> bool:
        found = [each for each in self._containers(engine) if each["Labels"][LABEL_NODE] in names]
        return any(each["State"] == "running" for each in found)

    def _containers(self, engine: APIClient) -> list[Container]:
        found: list[Container] = engine.containers(all=True, filters={"label": [LABEL_NODE]})
        return found

    def _instance(self, name: str, containers: Sequence[Container]) -> Instance:
        states = {str(each["Labels"].get(LABEL_PROCESS)): str(each["State"]) for each in containers}
        running = {process for process, state in states.items() if state == "running"}
        detail = ", ".join(f"{process} {state}" for process, state in sorted(states.items()))
        return Instance(name, "running" if running >= self._options.commands.keys() else "ended", detail=detail)

    @contextmanager
    def _engine(self) -> Iterator[APIClient]:
        """A connection, and its errors as the port's."""
        try:
            import docker
            import requests
            from docker.utils import kwargs_from_env
        except ImportError as error:
            raise ProviderError("the Docker SDK is not installed: pip install 'backbeat[docker]'") from error
        given: dict[str, Any] = {**kwargs_from_env()}
        if self._options.engine:
            given["base_url"] = self._options.engine
        where = given.get("base_url", "its usual socket")
        try:
            with docker.APIClient(version="auto", timeout=self._options.timeout, **given) as engine:
                yield engine
        except docker.errors.APIError as error:
            raise ProviderError(f"the Docker engine at {where} refuses: {error.explanation or error}") from error
        except docker.errors.DockerException as error:
            raise ProviderError(f"no Docker engine at {where}: {error}; see auto_scaling.docker.engine") from error
        except requests.exceptions.RequestException as error:
            raise ProviderSilent(f"the Docker engine at {where} does not answer: {error}") from error


@contextmanager
def _unless(*codes: int) -> Iterator[None]:
    """The engine says with these codes that there is nothing to do."""
    from docker.errors import APIError

    try:
        yield
    except APIError as error:
        if error.status_code not in codes:
            raise
