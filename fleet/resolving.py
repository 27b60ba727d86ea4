"""DNS with a time limit. A resolver that hangs costs threads, a bounded number of them, and holds nobody else up."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Collection, Iterable
from ipaddress import ip_address

from fleet.addresses import is_usable

#: Lookups at once in one process. The system's resolver cannot be interrupted: one that hangs keeps its thread.
LOOKUPS = 256

_free = threading.BoundedSemaphore(LOOKUPS)


async def resolve(names: Collection[str], timeout: float) -> dict[str, tuple[str, ...] | str]:
    """As `look_up`, but only addresses by which others can reach a machine: its own name is often its loopback's."""
    found = await look_up(names, timeout)
    return {
        name: told if isinstance(told, str) else usable(told) or "it has no address that others can use"
        for name, told in found.items()
    }


async def look_up(names: Collection[str], timeout: float) -> dict[str, tuple[str, ...] | str]:
    """The addresses of each name, or why there are none; takes at most `timeout` seconds for all of them."""
    lookups = {name: _Lookup(name) for name in names}
    waiting = [lookup.done for lookup in lookups.values() if lookup.start()]
    if waiting:
        await asyncio.wait(waiting, timeout=timeout)
    return {name: lookup.found(timeout) for name, lookup in lookups.items()}


class _Lookup:
    """One name, looked up in a thread of its own: those of a pool would be waited for when the process ends."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._loop = asyncio.get_running_loop()
        self.done: asyncio.Future[tuple[str, ...] | str] = self._loop.create_future()

    def start(self) -> bool:
        """False: too many others hang, or the system has no thread to give."""
        if not _free.acquire(blocking=False):
            self.done.set_result(f"{LOOKUPS} other lookups hang")
            return False
        try:
            threading.Thread(target=self._run, name=f"dns {self._name}", daemon=True).start()
        except RuntimeError as error:
            _free.release()
            self.done.set_result(str(error))
            return False
        return True

    def found(self, timeout: float) -> tuple[str, ...] | str:
        if self.done.done():
            return self.done.result()
        self.done.cancel()
        return f"no answer within {timeout:g} s"

    def _run(self) -> None:
        result: tuple[str, ...] | str
        try:
            rows = socket.getaddrinfo(self._name, None, type=socket.SOCK_STREAM)
            result = tuple(dict.fromkeys(str(row[4][0]) for row in rows)) or "it has no address"
        except (OSError, UnicodeError) as error:
            result = getattr(error, "strerror", None) or str(error)
        finally:
            _free.release()
        try:
            self._loop.call_soon_threadsafe(self._tell, result)
        except RuntimeError:  # the loop was closed: nobody waits any more
            return

    def _tell(self, result: tuple[str, ...] | str) -> None:
        if not self.done.done():
            self.done.set_result(result)


def usable(addresses: Iterable[str]) -> tuple[str, ...]:
    """Those of them that others can reach a machine by."""
    parsed = (ip_address(text.partition("%")[0]) for text in addresses)
    return tuple(str(address) for address in parsed if is_usable(address))
