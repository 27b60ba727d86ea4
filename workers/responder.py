"""Answers probes, in a thread of the agent: whoever knows its key learns that this very agent is reached.

It reads one short line and writes one; it says nothing but the proof, to anybody. Connections are bounded in
number and in time, so that strangers cost little, and a port that is taken is tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Callable
from ipaddress import ip_address

from fleet.probing import QUESTION_LIMIT, Responder, answer_to, new_key

log = logging.getLogger("backbeat.responder")

#: Connections at once; one more is closed unheard.
CONNECTIONS = 64
#: Seconds that one connection gets.
PATIENCE = 5.0
#: Seconds until a port that is taken is tried again.
TRY_AGAIN = 5.0


class ProbeServer:
    """One agent's responder. `bind` holds addresses of this machine (none: all of them), `port` 0 is any free one."""

    def __init__(self, node_id: str, bind: tuple[str, ...], port: int) -> None:
        self._node_id, self._bind, self._port = node_id, bind, port
        self._key = new_key()
        self._listening: Responder | None = None
        self._open = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._halt: asyncio.Event | None = None
        self._bound: Callable[[], None] = lambda: None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="probe-server", daemon=True)

    @property
    def listening(self) -> Responder | None:
        """Where it answers; None as long as it does not."""
        return self._listening

    def start(self, bound: Callable[[], None]) -> None:
        """`bound` is called when it answers, in its own thread."""
        self._bound = bound
        self._thread.start()
        self._ready.wait()

    def stop(self) -> None:
        if self._loop is not None and self._halt is not None and self._thread.is_alive():
            with contextlib.suppress(RuntimeError):  # it ends by itself right now
                self._loop.call_soon_threadsafe(self._halt.set)
            self._thread.join(2 * PATIENCE)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._halt = asyncio.get_running_loop(), asyncio.Event()
        self._ready.set()
        sockets = await self._listen(self._halt)
        servers = [await asyncio.start_server(self._answer, sock=each, limit=QUESTION_LIMIT) for each in sockets]
        if servers:
            self._listening = Responder(sockets[0].getsockname()[1], self._key, self._bind)
            self._bound()
        await self._halt.wait()
        self._listening = None
        for server in servers:
            server.close()

    async def _listen(self, halt: asyncio.Event) -> list[socket.socket]:
        """Sockets on one port of every address; none when it shall end before that works."""
        told = False
        while not halt.is_set():
            try:
                return listen(self._bind, self._port)
            except OSError as error:
                if not told:
                    where = ", ".join(self._bind) or "every address"
                    log.warning("probes are not answered: port %d of %s: %s", self._port, where, error)
                told = True
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(halt.wait(), TRY_AGAIN)
        return []

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._open >= CONNECTIONS:
            writer.transport.abort()
            return
        self._open += 1
        try:
            async with asyncio.timeout(PATIENCE):
                answer = answer_to(await reader.readuntil(b"\n"), self._node_id, self._key)
                if answer is not None:
                    writer.write(answer)
                    writer.close()
                    await writer.wait_closed()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            log.debug("a probe that was none: %r", error)
        finally:
            writer.transport.abort()
            self._open -= 1


def listen(bind: tuple[str, ...], port: int) -> list[socket.socket]:
    """Listen on one port of each address (none: all addresses, IPv4 and IPv6). Raises OSError, with none open."""
    if not bind:
        return [_everywhere(port)]
    sockets: list[socket.socket] = []
    try:
        for address in bind:
            family = socket.AF_INET6 if ip_address(address).version == 6 else socket.AF_INET
            sockets.append(socket.create_server((address, port), family=family))
            port = sockets[0].getsockname()[1]
    except OSError:
        for each in sockets:
            each.close()
        raise
    return sockets


def _everywhere(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
        except OSError:
            log.debug("no IPv6 on this machine, or the port is taken")
    return socket.create_server(("0.0.0.0", port))  # noqa: S104 - that is what was asked for
