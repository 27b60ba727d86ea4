"""The part of the configuration that belongs to the domain and not to one loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from fleet.configs import BoardConfig
from fleet.inventory import Inventory
from fleet.kinds import OPENSPIEL_KINDS, JobKind
from fleet.rating_options import RatingOptions
from fleet.store import StoreOptions
from fleet.tailscale import TailnetOptions


def _board(name: str) -> str:
    return str(BoardConfig.parse(name))


#: A board configuration's name, such as `hex8_2p`.
ConfigName = Annotated[str, AfterValidator(_board)]

#: A kind of job, such as `selfplay`.
KindName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,31}$")]

#: An address with a scheme, such as `json://host:port/path`.
Url = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9+.-]*://.+$")]

#: An address of a web page, such as `https://api.ipify.org`.
WebUrl = Annotated[str, StringConstraints(pattern=r"^https?://[^\s/?#@]+(/\S*)?$")]


class EloTarget(BaseModel):
    """What one board configuration must reach before its training is done."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    target_elo: float | None = Field(default=None, gt=0, description="Elo; absent: the populator's target_elo")
    min_games_for_training: int | None = Field(default=None, ge=0)


class Notify(BaseModel):
    """Where notifications go: Apprise URLs. None by default, so nothing is sent."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    urls: tuple[Url, ...] = Field(default=(), repr=False)  # addresses carry passwords and tokens
    interval: float = Field(default=60.0, ge=0, description="least seconds between two messages of the same title")
    group_for: float = Field(default=10.0, ge=0, description="seconds a first one waits for others of its title")
    loop_failures: int = Field(default=3, ge=1, description="failures of a loop in a row that are worth a notice")


class PublicAddress(BaseModel):
    """Whom an agent asks for its public address. Nobody by default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    services: tuple[WebUrl, ...] = Field(default=(), description="asked in this order until one answers")
    interval: float = Field(default=3600.0, ge=60, description="seconds between two questions")
    timeout: float = Field(default=5.0, gt=0, le=60, description="seconds that one service gets to answer")


class FleetOptions(BaseModel):
    """Top-level sections beside the loops' stanzas."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    jobs: dict[KindName, JobKind] = Field(default=OPENSPIEL_KINDS, description="what each kind of job runs")
    elo_targets: dict[ConfigName, EloTarget] = Field(default_factory=dict)
    notify: Notify = Notify()
    inventory: Inventory = Field(
        default=Inventory(), description="nodes known beforehand", json_schema_extra={"in_file": True}
    )
    public_address: PublicAddress = PublicAddress()
    tailnet: TailnetOptions = TailnetOptions()
    store: StoreOptions = StoreOptions()
    ratings: RatingOptions = RatingOptions()

    def loops_named(self) -> Mapping[tuple[str | int, ...], str]:
        """The loops that these sections name, by where they do; each must be declared."""
        return {
            ("jobs", kind, "then", number): name
            for kind, job in self.jobs.items()
            for number, name in enumerate(job.then)
        }

    def elo_target(self, config: str) -> EloTarget:
        """What is said of one configuration; nothing, when it is not named."""
        return self.elo_targets.get(config, EloTarget())
