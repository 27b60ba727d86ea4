"""Where a node can be reached, as its own network interfaces say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from socket import AddressFamily
from typing import Any, Protocol

import psutil

from fleet.inventory import is_address

#: What tailnets assign: https://tailscale.com/kb/1015/100.x-addresses and their share of IPv6's private space.
TAILNETS = (ip_network("100.64.0.0/10"), ip_network("fd7a:115c:a1e0::/48"))
_INTERNET = (AddressFamily.AF_INET, AddressFamily.AF_INET6)


class Assigned(Protocol):
    """One address of an interface, as psutil tells it."""

    @property
    def family(self) -> int: ...
    @property
    def address(self) -> str: ...


def addresses() -> dict[str, list[str]]:
    """This machine's addresses: `lan` and `tailnet`, of the interfaces that are up. Raises OSError."""
    up = {name for name, stats in psutil.net_if_stats().items() if stats.isup}
    return told_apart({name: found for name, found in psutil.net_if_addrs().items() if name in up})


def in_tailnet(address: IPv4Address | IPv6Address) -> bool:
    """Whether a tailnet assigned it."""
    return any(address in network for network in TAILNETS)


def is_usable(address: IPv4Address | IPv6Address) -> bool:
    """Whether others can reach a machine by it: it is neither loopback nor link-local."""
    return not (address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified)


def told(facts: Any, kind: str) -> list[str]:
    """The addresses of one kind in a heartbeat's `addresses`: from another machine, so anything."""
    named = facts.get(kind) if isinstance(facts, Mapping) else None
    return [each for each in named if isinstance(each, str) and is_address(each)] if isinstance(named, list) else []


def told_apart(interfaces: Mapping[str, Sequence[Assigned]]) -> dict[str, list[str]]:
    """The addresses that others can use, IPv4 first."""
    found: dict[str, set[tuple[int, str]]] = {"lan": set(), "tailnet": set()}
    for name, assigned in interfaces.items():
        for each in assigned:
            if each.family not in _INTERNET:
                continue
            address = ip_address(each.address.partition("%")[0])
            if is_usable(address):
                tailnet = name.startswith("tailscale") or in_tailnet(address)
                found["tailnet" if tailnet else "lan"].add((address.version, str(address)))
    return {kind: [text for _, text in sorted(each)] for kind, each in found.items()}
