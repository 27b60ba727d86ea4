"""How one node brings its matches and another's together: question by question, until both hold the union.

The one that asks compares ranges, looks closer into those that differ, pulls what it lacks and pushes what the
other one lacks. It knows no transport: `question` says what to ask next, `answered` takes what the other said.
Everything is idempotent, so it may be broken off anywhere and begun anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from itertools import groupby
from typing import Any

from fleet import match_ranges
from fleet.match_ranges import FIRST, LAST, LISTED, Element, Key, Sum
from fleet.match_set import MatchSet, Merged

#: Ranges in one question: their lists and parts stay far below the limit of an answer.
RANGES = 16
#: Elements that are asked for by their keys in one question.
KEYS = 1_000
#: Elements that a chunk of a range may have; its bytes are bounded too.
CHUNK = 2_000
#: Of a range that cannot be split, the elements that are listed.
UNSPLIT = 2_000


class Nonsense(Exception):
    """The other node's answer makes no sense; the message says why."""


# the node that is asked ------------------------------------------------------------------------------------


def compare(matches: MatchSet, asked: Iterable[Sum]) -> list[dict[str, Any]]:
    """What there is to say of each range: nothing when it is the same here, else its elements or its parts."""
    return [_compare(matches, each) for each in asked]


def _compare(matches: MatchSet, asked: Sum) -> dict[str, Any]:
    db, (low, high, number, digest) = matches.db, asked
    own = match_ranges.total(db, low, high)
    if (own.number, own.digest) == (number, digest):
        return {}
    if own.number <= LISTED:
        return {"elements": match_ranges.listed(db, low, high)}
    if not number:
        return {"parts": [_shown(own)]}
    parts = match_ranges.split(db, low, high)
    if len(parts) == 1:
        return {"elements": match_ranges.listed(db, low, high, UNSPLIT)}
    return {"parts": [_shown(part) for part in parts]}


def give(matches: MatchSet, low: Key, high: Key) -> dict[str, Any]:
    """The first chunk of a range, and where the next one begins, if there is one."""
    elements = match_ranges.listed(matches.db, low, high, CHUNK)
    told, taken = match_ranges.bundle(matches.db, elements)
    following = elements[taken].key if taken < len(elements) else None
    if following is None and len(elements) >= CHUNK:
        following = match_ranges.after(elements[-1].key)
    return {**told, "next": following}


def give_elements(matches: MatchSet, elements: list[Element]) -> dict[str, Any]:
    """These elements, as many as fit: `taken` says how many of them were looked at."""
    told, taken = match_ranges.bundle(matches.db, elements)
    return {**told, "taken": taken}


# the node that asks ----------------------------------------------------------------------------------------


class Reconciliation:
    """One exchange with one node. `heard` is the last digest (hex) that it told; `pulled` and `pushed` are sums."""

    def __init__(self, matches: MatchSet, node_id: str) -> None:
        self.heard = ""
        self.pulled = Merged()
        self.pushed = self.pushed_conflicts = self.unaccepted = 0
        self._matches, self._node_id = matches, node_id
        self._compare: deque[tuple[Key, Key]] = deque([(FIRST, LAST)])
        self._pull_ranges: deque[tuple[Key, Key]] = deque()
        self._push_ranges: deque[tuple[Key, Key]] = deque()
        self._pull: list[Element] = []
        self._push: list[Element] = []
        self._sent: Any = None
        self._unsettled = False
        self._answered: Callable[[Mapping[str, Any]], None] = self._compared

    def question(self) -> tuple[str, dict[str, Any]] | None:
        """What to ask next: a node task and its arguments. None: both hold the same, as far as could be told."""
        db = self._matches.db
        if self._compare:
            asked = [self._compare.popleft() for _ in range(min(RANGES, len(self._compare)))]
            self._sent, self._answered = asked, self._compared
            sums = [match_ranges.total(db, low, high) for low, high in asked]
            return "elo_compare", {"ranges": [_shown(each) for each in sums]}
        if self._pull:
            self._answered = self._given
            return "elo_give", {"elements": self._pull[:KEYS]}
        if self._pull_ranges:
            self._answered = self._given_range
            low, high = self._pull_ranges[0]
            return "elo_give_range", {"low": low, "high": high}
        return self._push_question()

    def answered(self, answer: Mapping[str, Any]) -> None:
        """Take in what was said to the last question. Raises Nonsense when that makes none."""
        try:
            self.heard = _hex(answer["digest"])
            self._answered(answer)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise Nonsense(f"{type(error).__name__}: {error}") from error

    def _push_question(self) -> tuple[str, dict[str, Any]] | None:
        db = self._matches.db
        while self._push_ranges and len(self._push) < CHUNK:
            room = CHUNK - len(self._push)
            low, high = self._push_ranges.popleft()
            elements = match_ranges.listed(db, low, high, room)
            if len(elements) >= room:
                self._push_ranges.appendleft((match_ranges.after(elements[-1].key), high))
            self._push += elements
        if not self._push and not self._unsettled:
            return None
        told, taken = match_ranges.bundle(db, self._push[:CHUNK])
        self._push = self._push[taken:]
        self._answered, self._unsettled = self._taken, bool(self._push or self._push_ranges)
        return "elo_take", {**told, "settle": not self._unsettled}

    def _compared(self, answer: Mapping[str, Any]) -> None:
        db, said = self._matches.db, answer["ranges"]
        for (low, high), each in zip(self._sent, said, strict=True):
            if "elements" in each:
                if len(each["elements"]) > 2 * UNSPLIT:
                    raise ValueError(f"{len(each['elements'])} elements listed at once")
                self._listed(low, high, {_element(parts) for parts in each["elements"]})
            for part in map(read_sum, each.get("parts", ())):
                if not (low <= part.low < part.high <= high):
                    raise ValueError(f"a part {part.low} to {part.high} of {low} to {high}")
                own = match_ranges.total(db, part.low, part.high)
                if (own.number, own.digest) == (part.number, part.digest):
                    continue
                if not own.number:
                    self._pull_ranges.append((part.low, part.high))
                elif not part.number:
                    self._push_ranges.append((part.low, part.high))
                elif (part.low, part.high) == (low, high):
                    raise ValueError("a range that is its own part")
                else:
                    self._compare.append((part.low, part.high))

    def _listed(self, low: Key, high: Key, theirs: set[Element]) -> None:
        """All that the other one has of a range. Of what is here, which may be a million times as much, only what
        stands at the same places is looked at now; what stands between them is listed when it is pushed."""
        between = low
        for key, each in groupby(sorted(theirs), key=lambda element: element.key):
            if not between <= key < high:
                raise ValueError(f"an element at {key} of {low} to {high}")
            told, mine = set(each), set(match_ranges.listed(self._matches.db, key, match_ranges.after(key)))
            self._pull += sorted(told - mine)
            self._push += sorted(mine - told)
            self._push_ranges.append((between, key))
            between = match_ranges.after(key)
        self._push_ranges.append((between, high))

    def _given(self, answer: Mapping[str, Any]) -> None:
        taken = answer["taken"]
        if type(taken) is not int or taken < 1:
            raise ValueError(f"{taken!r} elements looked at")
        self._pull = self._pull[taken:]
        self._take(answer)

    def _given_range(self, answer: Mapping[str, Any]) -> None:
        low, high = self._pull_ranges.popleft()
        self._take(answer)
        if answer["next"] is not None:
            following = read_key(answer["next"])
            if not low < following:
                raise ValueError(f"after {low} comes {following}")
            if following < high:
                self._pull_ranges.appendleft((following, high))

    def _take(self, answer: Mapping[str, Any]) -> None:
        self.pulled += self._matches.take(answer, self._node_id)

    def _taken(self, answer: Mapping[str, Any]) -> None:
        self.pushed += _count(answer["merged"])
        self.pushed_conflicts += _count(answer["conflicting"])
        self.unaccepted += _count(answer["refused"])


# on the wire -----------------------------------------------------------------------------------------------


def _shown(each: Sum) -> list[Any]:
    return [each.low, each.high, each.number, f"{each.digest:032x}"]


def read_sum(parts: Any) -> Sum:
    """A range's sum as it is sent. Raises ValueError, TypeError."""
    low, high, number, digest = parts
    return Sum(read_key(low), read_key(high), _count(number), int(_hex(digest), 16))


def read_key(parts: Any) -> Key:
    """A place in the order. Raises ValueError, TypeError."""
    at, match_id = parts
    if type(at) is not int or not FIRST[0] <= at <= LAST[0] or not isinstance(match_id, str) or len(match_id) > 300:
        raise ValueError(f"{str(parts)[:100]} is no place in the order of matches")
    match_id.encode()  # a lone surrogate is no text
    return at, match_id


def _element(parts: Any) -> Element:
    at, match_id, digest = parts
    return Element(*read_key((at, match_id)), _hex(digest))


read_element = _element


def _hex(value: Any) -> str:
    if not isinstance(value, str) or len(value) != 32 or not set(value) <= set("0123456789abcdef"):
        raise ValueError(f"{str(value)[:50]!r} is no hash")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**53:
        raise ValueError(f"{str(value)[:50]!r} is no number of elements")
    return value
