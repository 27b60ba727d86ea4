"""This machine's address on the internet, as a service there sees it."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from socket import AddressFamily
from typing import Any

from tornado.httpclient import HTTPRequest
from tornado.netutil import Resolver
from tornado.simple_httpclient import SimpleAsyncHTTPClient

from fleet.resolving import look_up

#: Bytes of an answer, at most: an address and a line's end take 48.
ANSWER_LIMIT = 256


class NoPublicAddress(Exception):
    """No service told one; says of each why."""


class _Resolver(Resolver):
    """Tornado's own would leave a name server that hangs to a pool of threads, which `asyncio.run` waits for."""

    def initialize(self, timeout: float) -> None:
        self._timeout = timeout

    async def resolve(self, host: str, port: int, family: int = AddressFamily.AF_UNSPEC) -> list[tuple[int, Any]]:
        found = (await look_up([host], self._timeout))[host]
        if isinstance(found, str):
            raise OSError(found)
        kinds = ((AddressFamily.AF_INET6 if ":" in each else AddressFamily.AF_INET, each) for each in found)
        return [(kind, (each, port)) for kind, each in kinds if family in (AddressFamily.AF_UNSPEC, kind)]


async def ask(services: Sequence[str], timeout: float) -> str:
    """The first valid answer, in the services' order; each gets `timeout` seconds. Raises NoPublicAddress.

    An answer is an address that is not private, in plain text, as from https://api.ipify.org.
    """
    said = []
    for url in services:
        resolver = _Resolver(timeout=timeout)
        client = SimpleAsyncHTTPClient(force_instance=True, max_body_size=ANSWER_LIMIT, resolver=resolver)
        request = HTTPRequest(url, request_timeout=timeout, connect_timeout=timeout, follow_redirects=False)
        try:
            return validated((await client.fetch(request)).body)
        except Exception as error:  # noqa: BLE001 - whatever it is, the next service may do
            said.append(f"{url}: {error}")
        finally:
            client.close()
    raise NoPublicAddress("; ".join(said) or "no service is named")


def validated(answer: bytes) -> str:
    """The address in a service's answer. Raises ValueError."""
    text = answer.decode("ascii", errors="replace").strip()
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(f"{text[:40]!r} is no address") from None
    if not address.is_global or address.is_multicast:
        raise ValueError(f"{address} is no address on the internet")
    return str(address)
