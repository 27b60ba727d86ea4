"""What a node is asked about its matches, by elo_sync on another one: compare ranges, give, take."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from fleet import match_ratings, reconciliation
from fleet.fleet import Fleet
from fleet.match_ranges import Element, Key, Sum
from fleet.match_set import MatchSet
from fleet.match_store import FILE
from fleet.matches import corrupt_files, opened
from fleet.notices import Notice, listed
from fleet.rating_options import MOST_PARTICIPANTS
from fleet.reconciliation import read_element, read_key, read_sum
from tasks.node import Answer, Arguments, node_task

#: A place, a range and an element as they are sent: JSON lists, checked one by one.
Place = Annotated[Any, BeforeValidator(read_key)]
Range = Annotated[Any, BeforeValidator(read_sum)]
Entry = Annotated[Any, BeforeValidator(read_element)]


class Compare(Arguments):
    """Ranges with the sums that the asking node has of them."""

    ranges: list[Range] = Field(min_length=1, max_length=reconciliation.RANGES)


class Give(Arguments):
    """Elements that the asking node lacks."""

    elements: list[Entry] = Field(min_length=1, max_length=reconciliation.KEYS)


class GiveRange(Arguments):
    """A range of which the asking node has nothing."""

    low: Place
    high: Place


class Take(Arguments):
    """What this node lacks: each element is checked on its own. `settle`: it was the last for now."""

    matches: list[Any] = Field(default=[], max_length=2 * reconciliation.CHUNK)
    exclusions: list[Any] = Field(default=[], max_length=2 * reconciliation.CHUNK)
    participants: list[Any] = Field(default=[], max_length=2 * reconciliation.CHUNK)
    settle: bool = False
    source: str = Field(default="another node", max_length=100)


def rules(fleet: Fleet) -> match_ratings.Rules:
    """By which rules this cluster rates."""
    options = fleet.options.ratings
    return match_ratings.Rules(options.anchors, options.prior, options.min_games)


def tell(fleet: Fleet, matches: MatchSet) -> None:
    """Tell the operator what of this node's is new and wrong: rows that were refused, and files that were damaged."""
    refused = matches.state().refused
    if matches.is_news("refused", refused):
        why = "; ".join(f"{number} x {reason}" for reason, number in matches.refusals())
        fleet.notices.send(Notice("Matches refused", f"{fleet.node_id}: {refused} set aside so far: {why}", "warning"))
    unrated = match_ratings.unrated(matches.db)
    if matches.is_news("unrated", len(unrated)):
        most = f"at most {MOST_PARTICIPANTS:,} participants can be rated together"
        body = f"{listed(unrated)}: {most}; the log has the reason"
        fleet.notices.send(Notice("Matches cannot be rated", body, "error"))
    if matches.is_news("corrupt", corrupt_files(fleet.data)):
        body = f"{fleet.node_id}: kept as {FILE}.corrupt-*, and the other nodes fill a new one"
        fleet.notices.send(Notice("Damaged ratings set aside", body, "error"))


def _said(matches: MatchSet, answer: dict[str, Any]) -> Answer:
    return {**answer, "digest": matches.state().hex}


@node_task(arguments=Compare)
def elo_compare(fleet: Fleet, arguments: Compare) -> Answer:
    """What of these ranges is otherwise here. Idempotent: it only reads, once what jobs appended is adopted."""
    asked: list[Sum] = arguments.ranges
    with opened(fleet.data / FILE) as matches:
        matches.adopt()
        tell(fleet, matches)
        return _said(matches, {"ranges": reconciliation.compare(matches, asked)})


@node_task(arguments=Give)
def elo_give(fleet: Fleet, arguments: Give) -> Answer:
    """Elements by their names, as many as fit into an answer. Idempotent: it only reads."""
    elements: list[Element] = arguments.elements
    with opened(fleet.data / FILE) as matches:
        return _said(matches, reconciliation.give_elements(matches, elements))


@node_task(arguments=GiveRange)
def elo_give_range(fleet: Fleet, arguments: GiveRange) -> Answer:
    """The beginning of a range, as much as fits into an answer. Idempotent: it only reads."""
    low: Key = arguments.low
    high: Key = arguments.high
    with opened(fleet.data / FILE) as matches:
        return _said(matches, reconciliation.give(matches, low, high))


@node_task(arguments=Take)
def elo_take(fleet: Fleet, arguments: Take) -> Answer:
    """Add matches of another node, and rate anew once the last of them is here. Idempotent: the union is the same
    however often it is made."""
    with opened(fleet.data / FILE) as matches:
        matches.adopt()
        merged = matches.take(arguments.model_dump(), arguments.source)
        if merged.refused:
            tell(fleet, matches)
        if arguments.settle:
            match_ratings.settle(matches.db, rules(fleet))
        said = _said(matches, {name: getattr(merged, name) for name in ("merged", "known", "conflicting", "refused")})
    fleet.report_holdings()
    return said
