"""A node's place in its tailnet, as `tailscale status --json` tells it, and which step may mend it.

Pure. What the program prints is data: only the fields named here are read, whatever else it holds, and
nothing of it is trusted to be there. https://tailscale.com/kb/1080/cli#status
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from fleet.inventory import is_address

#: Bytes of a status that are read: a peer takes about 1 KiB.
LIMIT = 8 * 1024 * 1024
#: Characters of a text, and texts or addresses, that are kept of a status.
TEXT_LIMIT, KEPT = 300, 5

#: Seconds after which a status says nothing of now: the program, which is killed in time, could not even be started.
STALE_AFTER = 120.0

#: The state of a tailnet that could not be read.
UNKNOWN = "unknown"
#: States that waiting does not change: each wants a step, or a person.
SETTLED = ("Stopped", "NeedsLogin", "NeedsMachineAuth")

#: What may be done on a node: restart its daemon, `tailscale up`, or that with a new login.
Step = Literal["restart", "up", "reauth"]

State = Annotated[str, StringConstraints(pattern=r"^[A-Za-z]{1,40}$")]


class _Itself(BaseModel):
    """The part of a status about this node."""

    Online: bool | None = None  # not told by old versions
    Expired: bool | None = None
    KeyExpiry: datetime | None = None
    TailscaleIPs: list[Any] | None = None


class _Status(BaseModel):
    """The part of a status that counts. Lists and maps without members may be null."""

    BackendState: State
    Health: list[Any] | None = None
    TailscaleIPs: list[Any] | None = None
    Self: _Itself | None = None
    Peer: dict[str, Any] | None = None


class _Age(BaseModel):
    """How old the status in a heartbeat is, in seconds."""

    age: float = 0.0


class Tailnet(BaseModel):
    """A status in short: the fact `tailnet` of an agent's heartbeat.

    `key_expiry` is an instant in seconds since the epoch, None when the key never expires; `error` says why
    the state is unknown.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    state: State
    online: bool = False
    ips: tuple[str, ...] = ()
    key_expiry: float | None = Field(default=None, allow_inf_nan=False)
    expired: bool = False
    health: tuple[str, ...] = ()
    peers: int = 0
    peers_online: int = 0
    error: str = ""

    @classmethod
    def unknown(cls, error: str) -> Self:
        """What is said of a tailnet that cannot be read."""
        return cls(state=UNKNOWN, error=error[:TEXT_LIMIT])

    @classmethod
    def from_fact(cls, fact: Any) -> Self:
        """What another machine's heartbeat says; unknown, with the reason, when that is no such fact or an old one."""
        try:
            tailnet, age = cls.model_validate(fact), _Age.model_validate(fact).age
        except ValidationError as error:
            return cls.unknown(f"its heartbeat tells no tailnet: {_first(error)}")
        return tailnet if age <= STALE_AFTER else cls.unknown(f"its status is {age:.0f} s old")

    @property
    def is_well(self) -> bool:
        """Whether the node is reached through it."""
        return self.state == "Running" and self.online and not self.expired

    @property
    def wants_login(self) -> bool:
        """Whether only a new login helps."""
        return self.state == "NeedsLogin" or self.expired

    @property
    def is_settled(self) -> bool:
        """Whether it is not well, and waiting will not make it so."""
        return self.state in SETTLED or self.expired

    def describe(self) -> str:
        """The state in a few words, for people."""
        words = self.state
        if self.state == "Running":
            words = "its key has expired" if self.expired else "Running" if self.online else "Running, but offline"
        return f"{words}: {self.error}" if self.error else words


def read(printed: bytes) -> Tailnet:
    """What `tailscale status --json` printed. Unknown, with the reason, when it is no status."""
    if len(printed) > LIMIT:
        return Tailnet.unknown(f"a status of more than {LIMIT} bytes")
    try:
        status = _Status.model_validate_json(printed)
    except ValidationError as error:
        return Tailnet.unknown(f"no status: {_first(error)}")
    itself = status.Self or _Itself()
    told = itself.TailscaleIPs or status.TailscaleIPs or ()
    return Tailnet(
        state=status.BackendState,
        online=status.BackendState == "Running" if itself.Online is None else itself.Online,
        ips=tuple(ip for ip in told if isinstance(ip, str) and is_address(ip))[:KEPT],
        key_expiry=_instant(itself.KeyExpiry),
        expired=itself.Expired or False,
        health=tuple(str(text)[:TEXT_LIMIT] for text in (status.Health or ())[:KEPT]),
        peers=len(status.Peer or ()),
        peers_online=sum(
            isinstance(peer, dict) and peer.get("Online") is True for peer in (status.Peer or {}).values()
        ),
    )


def next_step(tailnet: Tailnet, taken: Collection[Step]) -> Step | None:
    """What to try next on a node, after the steps that were taken; None when there is nothing left, or no need.

    Each step is taken once. A plain `up` never logs in anew, and a new login cuts every connection through
    the tailnet: it is for nodes that have none. Only an administrator can approve a machine.
    """
    if tailnet.is_well or tailnet.state == "NeedsMachineAuth":
        return None
    steps: tuple[Step, ...] = ("reauth",) if tailnet.wants_login else ("restart", "up")
    return next((step for step in steps if step not in taken), None)


def _instant(at: datetime | None) -> float | None:
    """Go writes the year 1 for no instant at all."""
    return None if at is None or at.year <= 1970 else at.timestamp()


def _first(error: ValidationError) -> str:
    found = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return ": ".join(filter(None, (".".join(map(str, found["loc"])), found["msg"])))
