"""Programs on another machine, by SSH: its host key is checked, and no word of a command is read by its shell."""

from __future__ import annotations

import asyncio
import getpass
import math
import shlex
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from fleet.addresses import in_tailnet, told
from fleet.inventory import StaticNode, is_address
from fleet.nodes import Node
from fleet.resolving import look_up
from fleet.tailnet import LIMIT
from fleet.tailscale import ERROR_LIMIT, Printed, SshOptions, TailscaleError, at_home

if TYPE_CHECKING:  # it takes 16 MiB and 0.2 s, which only a leader with lost nodes pays
    import asyncssh

#: Seconds that a connection gets to be closed in order.
CLOSED_WITHIN = 2.0
#: Addresses of one node that are tried, at most.
ADDRESSES = 4

# Run on the other machine, with seconds and words: there, too, a program ends in time, where there is coreutils'
# `timeout`. What standard input holds goes through a pipe: sshd may give a socket, and /dev/stdin opens none.
_SCRIPT = """
seconds=$1; shift
if command -v timeout >/dev/null 2>&1; then set -- timeout -k 1 "$seconds" "$@"; fi
"""
_PLAIN, _PIPED = _SCRIPT + 'exec "$@"', _SCRIPT + 'cat | "$@"'


def wrapped(argv: Sequence[str], seconds: float, *, piped: bool) -> list[str]:
    """The program with what it needs on the other machine; its end there comes after ours, which says why."""
    return ["sh", "-c", _PIPED if piped else _PLAIN, "sh", str(math.ceil(seconds) + 1), *argv]


class SshShell:
    """See `fleet.tailscale.Shell`."""

    def __init__(self, connection: asyncssh.SSHClientConnection) -> None:
        self._connection = connection

    async def run(self, argv: Sequence[str], seconds: float, stdin: bytes = b"") -> Printed:
        """See `Shell`. A program that does not end in time is not waited for."""
        import asyncssh

        words = wrapped(argv, seconds, piped=bool(stdin))
        try:
            async with asyncio.timeout(seconds):
                return await _run(self._connection, shlex.join(words), stdin)
        except TimeoutError:
            raise TailscaleError(f"{argv[0]} did not end within {seconds:g} s") from None
        except (OSError, asyncssh.Error) as error:
            raise TailscaleError(f"{argv[0]} was cut off: {_why(error)}") from None


@dataclass(frozen=True)
class Target:
    """Where and as whom one node is reached without its tailnet."""

    addresses: tuple[str, ...]
    user: str
    port: int
    key: Path
    known_hosts: Path
    connect_within: float


def target(node: Node, static: StaticNode | None, options: SshOptions) -> Target | None:
    """How SSH reaches a node; None when nobody names an address outside of its tailnet, or a key.

    What the inventory names comes before what the node told of itself. A tailnet's addresses are left out: a
    node that answers there needs no help, and a restart would cut its own connection.
    """
    facts = node.roles.get("agent", {}).get("addresses")
    own = [each for kind in ("lan", "public") for each in told(facts, kind)]
    named = [] if static is None else [static.host, *static.addresses, static.public_ip]
    addresses = tuple(dict.fromkeys(each for each in [*named, *own] if each and not _in_tailnet(each)))
    key = options.key if static is None or static.ssh_key is None else Path(static.ssh_key)
    if not addresses or key is None:
        return None
    return Target(
        addresses=addresses[:ADDRESSES],
        user=(static.ssh_user if static is not None else None) or options.user or getpass.getuser(),
        port=options.port if static is None else static.ssh_port,
        key=at_home(key),
        known_hosts=at_home(options.known_hosts),
        connect_within=options.connect_within,
    )


@asynccontextmanager
async def connected(target: Target) -> AsyncIterator[SshShell]:
    """A shell at the first of the addresses that lets us in. Raises TailscaleError, which says of each why not."""
    for file in (target.known_hosts, target.key):
        if not file.is_file():
            raise TailscaleError(f"SSH wants the file {file}, and there is none")
    places, refusals = await _places(target)
    for host, address in places:
        try:
            connection = await _connect(target, host, address)
        except TailscaleError as error:
            where = address if address == host else f"{host} ({address})"
            refusals.append(f"{where} port {target.port}: {error}")
            continue
        try:
            yield SshShell(connection)
        finally:
            await _close(connection)
        return
    raise TailscaleError("; ".join(refusals))


async def _places(target: Target) -> tuple[list[tuple[str, str]], list[str]]:
    """Hosts, each with one of its addresses, in the order to try them; and why there are none of some hosts."""
    # asyncssh's own way leaves a name server that hangs to a pool of threads, which `asyncio.run` waits for
    names = [host for host in target.addresses if not is_address(host)]
    found = {host: (host,) for host in target.addresses} | await look_up(names, target.connect_within)
    unknown = [f"{host}: {told}" for host, told in found.items() if isinstance(told, str)]
    known = [(host, each) for host, told in found.items() if not isinstance(told, str) for each in told]
    return known[:ADDRESSES], unknown


async def _connect(target: Target, host: str, address: str) -> asyncssh.SSHClientConnection:
    import asyncssh

    asyncssh.set_log_level("WARNING")  # it tells of every step of every connection
    try:
        async with asyncio.timeout(target.connect_within):
            return await asyncssh.connect(
                address,
                target.port,
                host_key_alias=host,  # known_hosts has it by this name
                username=target.user,
                client_keys=[str(target.key)],
                known_hosts=str(target.known_hosts),
                config=None,
                agent_path=None,
                preferred_auth="publickey",
            )
    except TimeoutError:
        raise TailscaleError(f"no login within {target.connect_within:g} s") from None
    except asyncssh.HostKeyNotVerifiable:
        raise TailscaleError(f"its host key is not the one in {target.known_hosts}") from None
    except (OSError, ValueError, asyncssh.Error) as error:  # ValueError: a key or known_hosts that is none
        raise TailscaleError(_why(error)) from None


async def _close(connection: asyncssh.SSHClientConnection) -> None:
    connection.close()
    try:
        async with asyncio.timeout(CLOSED_WITHIN):
            await connection.wait_closed()
    except TimeoutError:  # the other side is silent
        connection.abort()


def _in_tailnet(address: str) -> bool:
    return is_address(address) and in_tailnet(ip_address(address))


async def _run(connection: asyncssh.SSHClientConnection, command: str, stdin: bytes) -> Printed:
    process = await connection.create_process(command, encoding=None)
    try:
        process.stdin.write(stdin)
        process.stdin.write_eof()
        out, err = await asyncio.gather(_beginning(process.stdout, LIMIT + 1), _beginning(process.stderr, ERROR_LIMIT))
        if len(out) > LIMIT:  # more than anybody reads: it is not waited for
            return Printed(-1, out)
        await process.wait_closed()
        code = -1 if process.returncode is None else process.returncode
        return Printed(code, out, err.decode(errors="replace").strip())
    finally:
        process.close()  # without waiting: the server closes its side only when the program has ended


async def _beginning(reader: asyncssh.SSHReader[bytes], limit: int) -> bytes:
    try:
        return await reader.readexactly(limit)
    except asyncio.IncompleteReadError as error:
        return error.partial


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:ERROR_LIMIT]
