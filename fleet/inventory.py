"""The static inventory: what the operator wrote down about nodes, in the names of RingRift's host files."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_LONGEST_NAME = 253


def is_address(text: str) -> bool:
    """Whether this is an IPv4 or IPv6 address, and neither a name nor an address with a zone."""
    try:
        return not getattr(ipaddress.ip_address(text), "scope_id", None)
    except ValueError:
        return False


def is_host_name(text: str) -> bool:
    """Whether DNS may know this name. What looks like an address and is none, such as `10.0.0.256`, is no name."""
    labels = text.removesuffix(".").split(".")
    plain = len(text) <= _LONGEST_NAME and all(_LABEL.fullmatch(label) for label in labels)
    return plain and not labels[-1].isdigit()


def _address(text: str) -> str:
    if not is_address(text):
        raise ValueError(f"{text!r} is no address: give one such as 10.0.0.7 or fd7a:115c:a1e0::7")
    return str(ipaddress.ip_address(text))


def _host(text: str) -> str:
    if is_address(text):
        return _address(text)
    if not is_host_name(text):
        raise ValueError(f"{text!r} is no host: give a DNS name such as trainer-1.example.com, or an address")
    return text


Address = Annotated[str, AfterValidator(_address)]
Host = Annotated[str, AfterValidator(_host)]
NodeId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
#: A login name; never the beginning of an option of `ssh`.
User = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,63}$")]
KeyFile = Annotated[str, StringConstraints(pattern=r"^[^-\x00-\x1f][^\x00-\x1f]*$", max_length=4096)]


class StaticNode(BaseModel):
    """How one node is reached, as far as it is known beforehand. All of it may be left out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: Host | None = Field(None, description="DNS name or address")
    addresses: tuple[Address, ...] = Field((), description="more of its addresses")
    tailscale_ip: Address | None = Field(None, description="its address in the tailnet")
    public_ip: Address | None = Field(None, description="its address on the internet")
    ssh_user: User | None = Field(None, description="login for ssh; absent: the one who runs the agent")
    ssh_port: int = Field(22, ge=1, le=65535, description="port of its ssh server")
    ssh_key: KeyFile | None = Field(None, description="file with the private key; absent: as ssh is configured")


class Inventory(BaseModel):
    """Nodes by id."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hosts: dict[NodeId, StaticNode] = Field(default_factory=dict)
