"""What the registry has of a node, as far as it can be read: other machines wrote it, perhaps with another version.

What has another form than it should is left out, as if it had never been said, and named: nothing that one
node's record holds may keep the loops from all the others, or an operator from seeing them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.json import Decoder
from pydantic_core import from_json  # thrice as fast as json, and histories are long

from fleet.decoding import text_of
from fleet.inventory import is_address

Form = Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:
        return False


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _or_none(form: Form) -> Form:
    return lambda value: value is None or form(value)


def _list_of(form: Form) -> Form:
    return lambda value: isinstance(value, list) and all(map(form, value))


def _object_of(form: Form) -> Form:
    return lambda value: isinstance(value, dict) and all(map(form, value.values()))


def _is_status(value: Any) -> bool:
    return value in ("healthy", "suspect", "unhealthy", "lost")


def _is_gpu(value: Any) -> bool:
    return isinstance(value, dict) and all(
        _is_number(value[name]) for name in ("utilization", "memory", "memory_total") if name in value
    )


#: By name, what is read of a role's facts and of marks.
_FORMS: Mapping[str, Form] = {
    **dict.fromkeys(("since", "at", "last_job_at"), _is_number),
    "host": _is_text,
    "version": _is_text,
    "versions": _is_object,
    "clock_offset": _is_number,
    "metrics": _is_object,
    "addresses": _object_of(_list_of(_is_text)),
    "tailnet": _is_object,
    "slots": lambda value: type(value) is int and value >= 0,
    "capabilities": _list_of(_is_text),
    "running": _list_of(_is_text),
    "status": _is_status,
    "reasons": _list_of(_is_text),
    "silent": _list_of(_is_text),
    "over": _object_of(_is_number),
}


def _is_change(value: Any) -> bool:
    return isinstance(value, dict) and _is_number(value.get("at")) and _or_none(_is_text)(value.get("from"))


#: What ip_discovery reads of its mark.
_ADDRESS: Mapping[str, Form] = {
    "address": _or_none(lambda value: _is_text(value) and is_address(value)),
    "source": _or_none(_is_text),
    "since": _or_none(_is_number),
    "failures": lambda value: type(value) is int and value >= 0,
    "changes": _list_of(_is_change),
}


def _is_address_mark(value: Mapping[str, Any]) -> bool:
    """An address means nothing without the rest, so such a mark is sound as a whole or not at all."""
    named = value.get("address") is not None
    said = all(form(value[name]) if name in value else not named for name, form in _ADDRESS.items())
    return said and _is_number(value.get("checked_at", 0.0))


_METRICS: Mapping[str, Form] = {
    **dict.fromkeys(("cpu", "memory", "memory_total", "disk", "disk_free", "cores"), _is_number),
    "load": _list_of(_is_number),
    "gpus": _list_of(_is_gpu),
}


class _Gpu(Struct, gc=False):
    utilization: float = 0
    memory: float = 0
    memory_total: float = 0


class _Metrics(Struct, gc=False):
    cpu: float = 0
    memory: float = 0
    memory_total: float = 0
    disk: float = 0
    disk_free: float = 0
    cores: float = 0
    load: list[float] = []
    gpus: list[_Gpu] = []


class Facts(Struct, gc=False):
    """_FORMS and _METRICS once more, as types that are checked while parsing: nearly every record is sound as it is."""

    pid: Any = None
    since: float = 0
    at: float = 0
    last_job_at: float = 0
    host: str | UnsetType = UNSET
    version: str | UnsetType = UNSET
    versions: dict[str, Any] = {}
    clock_offset: float = 0
    metrics: _Metrics | UnsetType = UNSET
    addresses: dict[str, list[str]] = {}
    tailnet: dict[str, Any] = {}
    slots: Annotated[int, Meta(ge=0)] = 0
    capabilities: list[str] = []
    running: list[str] = []
    status: Literal["healthy", "suspect", "unhealthy", "lost"] = "healthy"
    reasons: list[str] = []
    silent: list[str] = []
    over: dict[str, float] = {}


_SOUND = Decoder(Facts)
#: Brackets of a record that is read as a whole: with so few it is not too deep for anybody.
_BRACKETS = 100
#: What of a node it is about.
_JUDGED = frozenset(("agent", "jobs", "health", "idle", "drain"))


def read_object(text: Any, name: str, unread: list[str]) -> dict[str, Any] | None:
    """A role's facts, or a mark; None when it is none. What is left out is added to `unread`."""
    if name in _JUDGED and sound(text) and isinstance(whole := _parsed(text), dict):
        return whole
    return _read_parts(text, name, unread)


def sound(text: str | bytes) -> Facts | None:
    """A role's facts, or a judgement, when nothing of it has to be left out."""
    try:
        text = text_of(text)
        return _SOUND.decode(text) if text.count("[") + text.count("{") <= _BRACKETS else None
    except ValueError:
        return None


def _read_parts(text: Any, name: str, unread: list[str]) -> dict[str, Any] | None:
    """`read_object` part by part, which can tell what is wrong."""
    value = _parsed(text)
    if not isinstance(value, dict) or (name == "address" and not _is_address_mark(value)):
        unread.append(name)
        return None
    if name in ("address", "tailnet", "models") or name.startswith(
        "held:"
    ):  # the others are for their readers to judge
        return value
    known = _kept(value, _FORMS, name, unread)
    if "metrics" in known:
        known["metrics"] = _kept(known["metrics"], _METRICS, f"{name}.metrics", unread)
    return known


def read_instant(text: Any) -> float | None:
    """Seconds, of milliseconds; None when it is no number."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value / 1000 if math.isfinite(value) else None


def read_rows(text: Any) -> Sequence[Any]:
    """A history, whose rows are for `Minute.rows` to judge; nothing when it is none."""
    value = _parsed(text)
    return value if isinstance(value, list) else ()


def _parsed(text: Any) -> Any:
    try:
        return from_json(text)
    except (ValueError, TypeError):
        return None


def _kept(value: Mapping[str, Any], forms: Mapping[str, Form], name: str, unread: list[str]) -> dict[str, Any]:
    wrong = [part for part, form in forms.items() if part in value and not form(value[part])]
    unread += [f"{name}.{part}" for part in wrong]
    return {part: each for part, each in value.items() if part not in wrong} if wrong else dict(value)
