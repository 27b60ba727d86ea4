"""The `tailscale` of one node: its status, a restart of its daemon, `tailscale up`.

Commands are argument vectors. The auth key goes to `tailscale up` by standard input: it is on no command
line, in no environment and in no file but the operator's, and what the programs print is stripped of it.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Protocol

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from fleet.execution import SECRETS
from fleet.inventory import User
from fleet.processes import GONE_WITHIN, signal_group
from fleet.tailnet import LIMIT, Tailnet, read

#: Seconds that `tailscale status` gets.
STATUS_WITHIN = 5.0
#: Characters of what a program says of its failure.
ERROR_LIMIT = 500
#: Bytes of an auth key.
KEY_LIMIT = 1024
#: Characters of a key's beginning that are too many to be shown.
PART = 4

_OURS = {"auth-key", "authkey", "force-reauth", "json", "qr", "reset", "timeout"}


def _command(words: tuple[str, ...]) -> tuple[str, ...]:
    if not words or not all(words) or any("\0" in word for word in words):
        raise ValueError("give a command word by word; its first word is executed")
    return words


def _flags(words: tuple[str, ...]) -> tuple[str, ...]:
    for word in words:
        name = re.match(r"--([a-z][a-z-]*)(=[^\0]*)?$", word)
        if not name:
            shown = without_key(re.split(r"[=\s]", word)[0], "")  # what follows may be a key, which needs no prefix
            raise ValueError(f"{shown!r}: give flags of `tailscale up` as --name or --name=value")
        if name[1] in _OURS:
            raise ValueError(f"--{name[1]} is not for up_flags; the key goes into auth_key_file, the rest is decided")
    return words


Command = Annotated[tuple[str, ...], AfterValidator(_command)]


class SshOptions(BaseModel):
    """How lost nodes are reached. What the inventory says of a node (`ssh_user`, `ssh_port`, `ssh_key`) comes first."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    known_hosts: Path = Field(description="file with the nodes' host keys, by address")
    user: User | None = Field(default=None, description="login; absent: the one who runs the agent")
    key: Path | None = Field(default=None, description="file with the private key, without a passphrase")
    port: int = Field(default=22, ge=1, le=65535)
    connect_within: float = Field(default=10.0, gt=0, le=60, description="seconds for connection and login")


class TailnetOptions(BaseModel):
    """The nodes' tailscale, and how it is mended."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    command: Command = Field(default=("tailscale",), description="the program; its last word is looked for in PATH")
    restart: Command = Field(default=("systemctl", "restart", "tailscaled"), description="restarts the daemon")
    up_flags: Annotated[tuple[str, ...], AfterValidator(_flags)] = Field(
        default=(), repr=False, description="all settings of `tailscale up` that differ from its defaults"
    )
    auth_key_file: Path | None = Field(default=None, repr=False, description="file with the key for a new login")
    ssh: SshOptions | None = Field(default=None, description="absent: lost nodes are left alone")

    def is_here(self) -> bool:
        """Whether this machine has the program."""
        return shutil.which(self.command[-1]) is not None


class TailscaleError(Exception):
    """A program could not be run, did not end in time, or says that it failed. Its words hold no auth key."""


@dataclass(frozen=True)
class Printed:
    """How a program ended and what it printed."""

    code: int
    out: bytes = b""
    err: str = ""


class Shell(Protocol):
    """Runs programs on one machine."""

    async def run(self, argv: Sequence[str], seconds: float, stdin: bytes = b"") -> Printed:
        """Run it to its end. Raises TailscaleError when it cannot be run, or does not end within `seconds`."""
        ...


class Port(Protocol):
    """What a node's tailscale is asked. Exit codes prove nothing: only a status read afterwards does."""

    async def status(self) -> Tailnet:
        """Never raises: what cannot be read is unknown."""
        ...

    async def restart(self, seconds: float) -> None:
        """Restart the daemon. Raises TailscaleError."""
        ...

    async def up(self, seconds: float, *, reauth: bool = False) -> None:
        """Connect, with a new login if `reauth`. Raises TailscaleError."""
        ...


class Tailscale:
    """The real one, by way of a shell on its machine. An auth key is read on this one."""

    def __init__(self, options: TailnetOptions, shell: Shell) -> None:
        self._options, self._shell = options, shell

    async def status(self) -> Tailnet:
        """See `Port`."""
        try:
            said = await self._shell.run([*self._options.command, "status", "--json"], STATUS_WITHIN)
        except TailscaleError as error:
            return Tailnet.unknown(str(error))
        if said.code != 0 and not said.out.lstrip().startswith(b"{"):
            return Tailnet.unknown(said.err or f"`tailscale status` ended with exit code {said.code}")
        return read(said.out)

    async def restart(self, seconds: float) -> None:
        """See `Port`."""
        await self._run(self._options.restart, seconds)

    async def up(self, seconds: float, *, reauth: bool = False) -> None:
        """See `Port`. It is told to end in time by itself too: a program of root's may not be ours to kill."""
        flags = [*self._options.up_flags, f"--timeout={max(1, int(seconds))}s"]
        key = self._key() if reauth else ""
        if reauth:
            # an expired node keeps its key unless it is forced: https://github.com/tailscale/tailscale/issues/6786
            flags += ["--force-reauth", "--auth-key=file:/dev/stdin"]
        await self._run([*self._options.command, "up", *flags], seconds, key)

    async def _run(self, argv: Sequence[str], seconds: float, key: str = "") -> None:
        said = await self._shell.run(argv, seconds, key.encode())
        if said.code != 0:
            words = without_key(said.err or said.out.decode(errors="replace"), key)[-ERROR_LIMIT:].strip()
            raise TailscaleError(f"{argv[0]} ended with exit code {said.code}" + (f": {words}" if words else ""))

    def _key(self) -> str:
        file = self._options.auth_key_file
        if file is None:
            raise TailscaleError(
                "no auth key: name its file in tailnet.auth_key_file or BACKBEAT_TAILSCALE_AUTH_KEY_FILE"
            )
        named = without_key(str(file), "")  # the key itself may stand where its file's name should
        try:
            with at_home(file).open("rb") as opened:
                text = opened.read(KEY_LIMIT + 1).decode("ascii").strip()
        except (OSError, ValueError) as error:
            raise TailscaleError(f"the auth key's file {named} cannot be read: {type(error).__name__}") from None
        if not re.fullmatch(r"[!-~]+", text) or len(text) > KEY_LIMIT:
            raise TailscaleError(
                f"the auth key's file {named} holds no key: it wants one word of at most {KEY_LIMIT} bytes"
            )
        return text


def without_key(text: str, key: str) -> str:
    """A program's words fit for logs: without this auth key, also where they were cut, or any that looks like one."""
    whole = text.replace(key, "***") if key else text
    cut = next((end for end in range(len(key) - 1, PART - 1, -1) if whole.endswith(key[:end])), 0)
    return re.sub(r"tskey-[\w-]+", "tskey-***", whole[: len(whole) - cut] + "***" if cut else whole)


def at_home(path: Path) -> Path:
    """A configured file; `~` is the home of who runs this process."""
    try:
        return path.expanduser()
    except RuntimeError:  # nobody's home: then there is no such file
        return path


class LocalShell:
    """This machine. Programs run in a process group of their own, without Backbeat's passwords."""

    async def run(self, argv: Sequence[str], seconds: float, stdin: bytes = b"") -> Printed:
        """See `Shell`."""
        return await asyncio.to_thread(_run, argv, seconds, stdin)


def _run(argv: Sequence[str], seconds: float, stdin: bytes) -> Printed:
    environment = {name: value for name, value in os.environ.items() if name not in SECRETS}
    # files and not pipes: a daemon that the program starts may inherit them, and they never fill up
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            process = subprocess.Popen(
                argv,
                env=environment,
                stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise TailscaleError(f"{argv[0]} cannot be run: {error}") from None
        try:
            if process.stdin is not None:
                with suppress(BrokenPipeError), process.stdin as pipe:
                    pipe.write(stdin)
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            signal_group(process.pid, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):  # one of root's, who ends it by himself
                process.wait(GONE_WITHIN)
            raise TailscaleError(f"{argv[0]} did not end within {seconds:g} s") from None
        return Printed(
            code, _beginning(out, LIMIT + 1), _beginning(err, 4 * ERROR_LIMIT).decode(errors="replace").strip()
        )


def _beginning(file: IO[bytes], limit: int) -> bytes:
    file.seek(0)
    return file.read(limit)
