"""One match: what it says, whether it may be believed, and the hash that names its content.

A match never changes, so it is checked once, at the door, and after that only its hash is compared. The hash is
blake2b-128 of the canonical text: a JSON array of its parts in a fixed order, with whole numbers only, so that
every node computes the same one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache, partial
from hashlib import blake2b
from json.encoder import encode_basestring_ascii as quoted
from typing import Any, NamedTuple

from fleet.configs import BoardConfig
from fleet.outcome import MAX_PLAYERS, outcome

MAX_NAME = 200  # characters of a participant's name
MAX_SOURCE = 200  # characters of a tournament's or a worker's name
MAX_METADATA = 8_192  # characters
MAX_LENGTH = 1_000_000  # moves
MAX_DURATION = 30 * 86_400_000  # ms
YEAR_2100 = 4_102_444_800_000  # ms: no match ends later

_ID = re.compile(r"[!-~]{1,128}")
_VERSION = re.compile(r"([a-z][a-z0-9]*_[2-9]p)-g[0-9]{4,}-[0-9a-f]{12}")
_DIGITS = re.compile(r"-?[0-9]{1,19}")


# made once: json.dumps makes one for each call with separators
_encode = json.JSONEncoder(separators=(",", ":")).encode


class Refused(Exception):
    """This is no match that can be counted; the message says why."""


@dataclass(frozen=True, slots=True)
class Result:
    """Who played and how it ended: what many matches share, so it is checked once for all of them.

    The texts are JSON: as they stand in the database, in the counts, and within the canonical text.
    """

    config: str
    board: str
    players: int
    participants: tuple[str, ...]
    ranks: tuple[int, ...]
    participants_text: str
    ranks_text: str
    winner: str | None
    counted: tuple[str, str]
    canonical: str


class Match(NamedTuple):
    """A match that passed the door. `ended` and `duration` are ms, `source` its tournament, worker and metadata."""

    id: str
    result: Result
    ended: int
    length: int | None
    duration: int | None
    source: tuple[str | None, str | None, str | None]
    text: str
    hash: bytes

    @property
    def number(self) -> int:
        """Its hash as a number, for sums of sets."""
        return int.from_bytes(self.hash, "big")


def compact(value: Any) -> str:
    """JSON as it stands in canonical texts."""
    return _encode(value)


#: A hash of a text that comes in parts; of all of them at once it is `hash_of`.
hash_in_parts = partial(blake2b, digest_size=16)


def hash_of(text: str) -> bytes:
    """What names a content: 128 bits, so that two contents never share one by chance."""
    return hash_in_parts(text.encode()).digest()


@lru_cache(65_536)
def result(board: str, players: int, participants: tuple[str, ...], ranks: tuple[int, ...]) -> Result:
    """Who played, in seats, and the places they took (1 is best, equal ones tie). Raises Refused."""
    config = _config(board, players)
    for name in participants:
        if _plays(name) not in (None, config):
            raise Refused(f"{name!r} does not play {config}")
    if len(participants) != players:
        raise Refused(f"{len(participants)} participants in a match of {config}")
    try:
        counted = outcome(participants, ranks)
    except ValueError as error:
        raise Refused(str(error)) from None
    places = dict(zip(*counted, strict=True))
    seats = tuple(places[name] for name in participants)
    first = [name for name, place in places.items() if place == 1]
    participants_text, ranks_text = compact(participants), compact(seats)
    return Result(
        config=config,
        board=board,
        players=players,
        participants=participants,
        ranks=seats,
        participants_text=participants_text,
        ranks_text=ranks_text,
        winner=first[0] if len(first) == 1 else None,
        counted=(compact(counted[0]), compact(counted[1])),
        canonical=f"{quoted(config)},{participants_text},{ranks_text}",
    )


@lru_cache(1_024)
def _config(board: str, players: int) -> str:
    try:
        return str(BoardConfig.parse(f"{board}_{players}p"))
    except ValueError as error:
        raise Refused(str(error)) from None


@lru_cache(16_384)
def _plays(name: str) -> str | None:
    """The configuration that a participant is known to play, by its name. Raises Refused when that is none."""
    if not 1 <= len(name) <= MAX_NAME or name != name.strip() or not name.isprintable() or "\ufffd" in name:
        raise Refused(f"{name[:50]!r} is no name of a participant: 1 to {MAX_NAME} printable characters")
    version = _VERSION.fullmatch(name)
    return None if version is None else version[1]


def match(
    match_id: Any,
    found: Result,
    ended: Any,
    length: Any = None,
    duration: Any = None,
    source: Sequence[Any] = (None, None, None),
) -> Match:
    """A match of parts that are checked here: times in ms; without an id it gets one of its content. Raises Refused."""
    if type(ended) is not int or not 0 <= ended < YEAR_2100:
        raise Refused(f"it ended at {ended!r} ms: between 1970 and 2100")
    if length is not None and (type(length) is not int or not 0 <= length <= MAX_LENGTH):
        raise Refused(f"a length of {length!r} moves: 0 to {MAX_LENGTH:,}")
    if duration is not None and (type(duration) is not int or not 0 <= duration <= MAX_DURATION):
        raise Refused(f"a duration of {duration!r} ms: 0 to {MAX_DURATION:,}")
    tournament, worker, metadata = source
    rest = (
        f"{found.canonical},{ended},{_number(length)},{_number(duration)},"
        f"{_source(tournament, 'tournament')},{_source(worker, 'worker')},{_metadata(metadata)}]"
    )
    if match_id is None or match_id == "":
        match_id = "c-" + hash_of(f'["",{rest}').hex()
    elif not is_id(match_id):
        raise Refused(f"{str(match_id)[:50]!r} is no id of a match: 1 to 128 ASCII characters without spaces")
    text = f"[{quoted(match_id)},{rest}"
    return Match(match_id, found, ended, length, duration, (tournament, worker, metadata), text, hash_of(text))


def from_wire(parts: Any) -> Match:
    """A match as its canonical text is decoded. Raises Refused."""
    if not isinstance(parts, list) or len(parts) != 10:
        raise Refused("no list of the ten parts of a match")
    match_id, config, participants, ranks, ended, length, duration, *source = parts
    if source[2] is not None and metadata_text(source[2]) != source[2]:
        raise Refused("metadata in another form than its canonical one")
    if not isinstance(match_id, str) or not match_id:
        raise Refused("a match without an id")
    if not isinstance(config, str):
        raise Refused(f"{config!r} is no board configuration")
    try:
        parsed = BoardConfig.parse(config)
    except ValueError as error:
        raise Refused(str(error)) from None
    found = result(parsed.board, parsed.players, names(participants), places(ranks))
    return match(match_id, found, ended, length, duration, source)


def names(value: Any) -> tuple[str, ...]:
    """A list of participants. Raises Refused."""
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value) or len(value) > MAX_PLAYERS:
        raise Refused(f"{str(value)[:100]} is no list of up to {MAX_PLAYERS} participants")
    return tuple(value)


def places(value: Any) -> tuple[int, ...]:
    """A list of final places. Raises Refused."""
    if not isinstance(value, list) or not all(type(each) is int and 0 <= each < 100 for each in value):
        raise Refused(f"{str(value)[:100]} is no list of places: whole numbers, 1 for the best")
    return tuple(value)


def milliseconds(value: Any) -> int | None:
    """Seconds, or an ISO text, which means UTC when it names no zone, as ms. Raises Refused."""
    if value is None:
        return None
    if isinstance(value, str):
        try:
            at = datetime.fromisoformat(value.strip())
        except ValueError:
            try:
                value = float(value)
            except ValueError:
                raise Refused(f"{value[:50]!r} is no time: seconds since 1970, or an ISO text") from None
        else:
            value = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    if not isinstance(value, int | float) or isinstance(value, bool) or not -1e12 < value < 1e12:
        raise Refused(f"{str(value)[:50]!r} is no number of seconds")
    return round(value * 1000)


def whole(value: Any) -> Any:
    """A whole number that stands there as a text or with a zero behind the point; all else as it is."""
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        return int(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def metadata_text(value: Any) -> str | None:
    """Metadata in the one form that the same metadata always has. What is no JSON is kept as a JSON text."""
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise Refused(f"metadata of type {type(value).__name__}: JSON")
    try:
        text = json.dumps(json.loads(value, parse_constant=_no_number), sort_keys=True, separators=(",", ":"))
    except (ValueError, RecursionError):
        text = quoted(value)
    if max(len(value), len(text)) > MAX_METADATA:
        raise Refused(f"metadata of more than {MAX_METADATA:,} characters")
    return text


def is_id(value: Any) -> bool:
    """Whether a match may be called so."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def is_source(value: str) -> bool:
    """Whether a tournament or a worker may be called so."""
    return 1 <= len(value) <= MAX_SOURCE and value.isprintable() and "\ufffd" not in value


def _no_number(word: str) -> Any:
    raise ValueError(word)


def _number(value: int | None) -> str:
    return "null" if value is None else str(value)


_text: Callable[[str], str] = lru_cache(4_096)(quoted)


def _source(value: Any, what: str) -> str:
    if value is None:
        return "null"
    if not isinstance(value, str) or not is_source(value):
        raise Refused(f"{str(value)[:50]!r} is no name of a {what}: 1 to {MAX_SOURCE} printable characters")
    return _text(value)


def _metadata(value: Any) -> str:
    if value is None:
        return "null"
    if not isinstance(value, str) or len(value) > MAX_METADATA or not value.isascii():
        raise Refused(f"metadata that is no ASCII text of up to {MAX_METADATA:,} characters")
    return quoted(value)
