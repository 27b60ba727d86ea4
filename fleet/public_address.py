"""This machine's address on the internet, as a service there sees it."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from tornado.httpclient import HTTPRequest
from tornado.simple_httpclient import SimpleAsyncHTTPClient

#: Bytes of an answer, at most: an address and a line's end take 48.
ANSWER_LIMIT = 256


class NoPublicAddress(Exception):
    """No service told one; says of each why."""


async def ask(services: Sequence[str], timeout: float) -> str:
    """The first valid answer, in the services' order; each gets `timeout` seconds. Raises NoPublicAddress.

    An answer is an address that is not private, in plain text, as from https://api.ipify.org.
    """
    said = []
    for url in services:
        client = SimpleAsyncHTTPClient(force_instance=True, max_body_size=ANSWER_LIMIT)
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
