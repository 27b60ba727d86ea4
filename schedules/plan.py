"""The configuration file as a `Plan`: a stanza for each declared loop, and the other sections.

Every mistake in a file is reported at once, each with its line, key, value and what is accepted; a file
with a mistake gives no plan at all. The file and the declared loops must agree: a loop without a stanza
is a mistake, and so is a stanza without a loop. A RingRift file is read as it is (`foreign.py`).
"""

from __future__ import annotations

import json
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from schedules import foreign
from schedules.backoff import Backoff
from schedules.durations import Seconds
from schedules.problems import ABSENT, Keys, PlanError, Problem, Problems, nearest

__all__ = ["Cadence", "Plan", "PlanError", "Problem", "Stanza", "load"]

_MAX_BYTES = 1 << 20
#: A few aliases can stand for billions of values; an honest file has some thousand.
_MAX_VALUES = 100_000
_MAX_DEPTH = 50
_TAG = "tag:yaml.org,2002:"
_SCALARS = {f"{_TAG}{name}" for name in ("null", "bool", "int", "float")}
#: Dates stay text: nothing here takes one, and a name may look like one.
_TEXTS = {f"{_TAG}{name}" for name in ("str", "timestamp")}
_NOT_A_MAPPING = "should be a mapping of keys to values"

Model = TypeVar("Model", bound=BaseModel)


#: The top-level key that names the file whose stanzas and sections are taken over.
EXTENDS = "extends"


class Cadence(BaseModel):
    """When a loop runs: the keys that every stanza accepts beside the loop's own options.

    Times are seconds, written as any duration. `deadline` is how long one run may take. Only a disabled
    stanza may leave `interval` out.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = True
    interval: Seconds = Field(default=300.0, ge=0.1)
    initial_delay: Seconds = 0.0
    deadline: Seconds = Field(default=120.0, gt=0)
    backoff: Backoff = Backoff()


class Stanza(Cadence):
    """A loop's cadence together with its options."""

    name: str
    options: SerializeAsAny[BaseModel]


@dataclass(frozen=True)
class Plan:
    """A file read without a mistake. `stanzas` holds exactly the declared loops, by name."""

    path: Path
    stanzas: Mapping[str, Stanza]
    sections: BaseModel
    warnings: tuple[str, ...] = ()


def load(path: Path, loops: Mapping[str, type[BaseModel]], sections: type[BaseModel]) -> Plan:
    """Read `path` for the declared `loops` (name -> class of its options) and the other `sections`.

    With `extends: other.yaml` (beside this file) the file takes over every stanza and section of the
    other that it does not have itself.

    Raises PlanError with all mistakes in the file, and TypeError when the declarations clash: a loop
    named as a section, or an option named as a cadence key.
    """
    _refuse_clashes(loops, sections)
    return _Planner(path).plan(loops, sections)


def _refuse_clashes(loops: Mapping[str, type[BaseModel]], sections: type[BaseModel]) -> None:
    if both := sorted(loops.keys() & sections.model_fields.keys()):
        raise TypeError(f"a loop and a section of {sections.__name__} are both named {', '.join(both)}")
    for name, options in loops.items():
        if both := sorted(options.model_fields.keys() & Cadence.model_fields.keys()):
            raise TypeError(f"loop {name!r}: its options are named as cadence keys: {', '.join(both)}")


class _Planner:
    """Turns the values of one file into models and notes what does not fit them."""

    def __init__(self, path: Path, *, is_base: bool = False) -> None:
        self.path, self.is_base = path, is_base
        self.problems = Problems(path)
        self.warnings: list[str] = []
        self.ignored: set[str] = set()
        self.is_foreign = False
        #: keys that a misspelt one was probably meant to be: they are not missing as well
        self.suggested: set[Keys] = set()

    def plan(self, loops: Mapping[str, type[BaseModel]], sections: type[BaseModel]) -> Plan:
        accepted = sections.model_fields | {name: FieldInfo(annotation=dict) for name in loops}
        document = _Text(self.problems).document(accepted)
        base = self.base(document.pop(EXTENDS, None), loops, sections)
        accepted[EXTENDS] = FieldInfo(annotation=str)
        self.is_foreign = any(
            key in foreign.IGNORED and key not in accepted and isinstance(value, dict)
            for key, value in document.items()
        )
        stated = {
            # `jobs:` followed by nothing but comments is None to YAML and an empty section to its author
            key: {} if value is None else value
            for key, value in self.known(document, accepted, ()).items()
        }
        stanzas = {
            name: base.stanzas[name]
            if base is not None and name not in stated and (name,) not in self.suggested
            else self.stanza(name, stated.pop(name, ABSENT), loops[name])
            for name in loops
        }
        others = self.validated(sections, stated, ())
        if base is not None and others is not None:
            others = base.sections.model_copy(update={name: getattr(others, name) for name in stated})
        complete = {name: stanza for name, stanza in stanzas.items() if stanza is not None}
        if self.problems or others is None:
            raise self.problems.error()
        if self.ignored:
            names = ", ".join(sorted(self.ignored))
            self.warnings.insert(0, f"{self.path}: ignored, since they mean nothing here: {names}")
        return Plan(self.path, MappingProxyType(complete), others, tuple(self.warnings))

    def base(self, stated: Any, loops: Mapping[str, type[BaseModel]], sections: type[BaseModel]) -> Plan | None:
        """The plan that this file extends. Raises PlanError with the other file's mistakes."""
        if stated is None:
            return None
        if self.is_base or not isinstance(stated, str):
            wanted = "not in a file that is extended itself" if self.is_base else "should be the name of a file"
            self.problems.add((EXTENDS,), wanted, value=stated)
            raise self.problems.error()
        plan = _Planner(self.path.parent / stated, is_base=True).plan(loops, sections)
        self.warnings.extend(plan.warnings)
        return plan

    def stanza(self, name: str, stated: Any, options: type[BaseModel]) -> Stanza | None:
        if stated is ABSENT:
            if not self.is_foreign:
                if (name,) not in self.suggested:
                    self.problems.add(
                        (name,), f"loop {name!r} has no stanza: add one with `interval`, or `enabled: false`"
                    )
                return None
            stated = {}
        if not isinstance(stated, dict):
            self.problems.add((name,), _NOT_A_MAPPING, value=stated)
            return None
        stated = self.known(stated, Cadence.model_fields | options.model_fields, (name,))
        if "interval" not in stated and stated.get("enabled", True) is not False:
            if self.is_foreign:
                self.warnings.append(f"{self.path}: loop {name!r} stays disabled: nothing gives its `interval`")
                stated["enabled"] = False
            elif (name, "interval") not in self.suggested:
                hint = "say how often the loop is due, such as 60s or 5m, or `enabled: false`"
                self.problems.add((name, "interval"), "missing", hint)
        own = {key: stated.pop(key) for key in Cadence.model_fields if key in stated}
        cadence = self.validated(Cadence, own, (name,))
        chosen = self.validated(options, stated, (name,))
        if cadence is None or chosen is None:
            return None
        return Stanza(name=name, options=chosen, **dict(cadence))

    def known(self, stated: dict[str, Any], fields: Mapping[str, FieldInfo], at: Keys) -> dict[str, Any]:
        """What `fields` names, at any depth. The other keys are foreign, or problems."""
        kept = {}
        for key, value in stated.items():
            keys = (*at, key)
            if field := fields.get(key):
                if not field.repr or (_is_secret(field) and not isinstance(value, dict)):
                    self.problems.secret.add(keys)
                kept[key] = self.descend(value, field.annotation, keys)
            elif (own := _renamed(keys)) in fields:
                if own in stated:
                    self.problems.add(keys, f"means the same as {own!r}, which is given too", value=value)
                else:
                    kept[own] = value
                    self.problems.written[*at, own] = keys
            elif pattern := _ignored(keys):
                self.ignored.add(pattern)
            else:
                self.unknown(keys, value, fields, stated)
        return kept

    def unknown(self, keys: Keys, value: Any, fields: Mapping[str, FieldInfo], beside: Collection[str]) -> None:
        hint = f"accepted: {', '.join(sorted(fields))}"
        if meant := nearest(str(keys[-1]), fields):
            hint = f"did you mean {' or '.join(map(repr, meant))}? {hint}"
            self.suggested |= {(*keys[:-1], name) for name in meant if name not in beside}
            if any(_is_secret(fields[name]) for name in meant):
                self.problems.secret.add(keys)
        self.problems.add(keys, "unknown key", hint, value)

    def descend(self, value: Any, annotation: Any, keys: Keys) -> Any:
        """`value` with only known keys wherever `annotation` has models in it."""
        branches = list(_branches(annotation))
        if isinstance(value, dict) and (fields := _fields(branches)):
            return self.known(value, fields, keys)
        for branch in branches:
            origin, arguments = typing.get_origin(branch), typing.get_args(branch)
            if isinstance(value, dict) and _is_subclass(origin, Mapping):
                return {key: self.descend(each, arguments[1], (*keys, key)) for key, each in value.items()}
            alike = len(arguments) == 1 or arguments[1:] == (...,)
            if isinstance(value, list) and _is_subclass(origin, Collection) and alike:
                return [self.descend(each, arguments[0], (*keys, i)) for i, each in enumerate(value)]
        return value

    def validated(self, model: type[Model], stated: dict[str, Any], at: Keys) -> Model | None:
        try:
            # strict, so that `yes` is no number and "50" neither; as JSON, so that a list may be a tuple
            return model.model_validate_json(json.dumps(stated), strict=True)
        except ValidationError as error:
            for detail in error.errors(include_url=False):
                self.invalid(detail, model, stated, at)
            return None

    def invalid(self, detail: ErrorDetails, model: type[BaseModel], stated: Any, at: Keys) -> None:
        keys, value = at, stated
        for part in detail["loc"]:  # which also names the branches of unions: no keys of the file
            if isinstance(value, dict) and str(part) in value:
                keys, value = (*keys, str(part)), value[str(part)]
            elif isinstance(value, list) and isinstance(part, int) and part < len(value):
                keys, value = (*keys, part), value[part]
        if value is stated:
            value = ABSENT
        message = detail["msg"][detail["msg"].find(" should") + 1 :].replace("valid array", "list")
        if detail["type"] == "missing":
            keys, value, message = (*keys, detail["loc"][-1]), ABSENT, "missing"
        elif detail["type"] == "value_error":
            message = str(detail["ctx"]["error"])
        elif detail["type"] in ("model_type", "dict_type"):
            message = _NOT_A_MAPPING
        if detail["loc"][-1:] == ("[key]",):
            value = str(keys[-1])
        # what is missing, or does not add up, for want of a misspelt key is no problem of its own
        misspelt = (meant for meant in self.suggested if model.model_fields.keys() & meant[len(at) :][:1])
        if not any(meant[: len(keys)] == keys for meant in misspelt):
            self.problems.add(keys, message, value=value)


class _Text:
    """YAML text as plain data: text keys, and JSON's types for values."""

    def __init__(self, problems: Problems) -> None:
        self.problems = problems
        self.scalars = yaml.constructor.SafeConstructor()
        self.values_left = _MAX_VALUES
        self.depth = 0

    def document(self, accepted: Collection[str]) -> dict[str, Any]:
        """The file's top-level mapping; raises PlanError when there is none."""
        root = self.root()
        if not isinstance(root, yaml.MappingNode):
            found = {type(None): "empty", yaml.SequenceNode: "a list"}.get(type(root), "a single value")
            self.problems.refuse(f"is {found}, not a mapping with the keys {', '.join(sorted(accepted))}")
        return self.mapping(root, ())

    def root(self) -> yaml.Node | None:
        refuse = self.problems.refuse
        try:
            with self.problems.file.open("rb") as file:
                content = file.read(_MAX_BYTES + 1)
        except (OSError, ValueError) as error:  # ValueError: no file can have such a name
            refuse(f"cannot be read: {getattr(error, 'strerror', None) or error}")
        if len(content) > _MAX_BYTES:
            refuse(f"is larger than {_MAX_BYTES:,} bytes")
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = content[: error.start].count(b"\n") + 1
            refuse(f"is not UTF-8: byte {content[error.start]:#04x}", line)
        try:
            return yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.reader.ReaderError as error:
            line = text[: error.position].count("\n") + 1
            refuse(f"is not YAML: it holds the control character {error.character:#04x}", line)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            said = ", ".join(filter(None, (error.context, error.problem)))
            refuse(f"is not YAML: {said}", mark.line + 1 if mark else None)
        except RecursionError:
            refuse(f"is nested deeper than {_MAX_DEPTH} levels")
        except (ValueError, OverflowError):  # PyYAML lets them through for "\UFFFFFFFF"
            refuse("is not YAML: an escape stands for no character")

    def value(self, node: yaml.Node, keys: Keys) -> Any:
        """A node as plain data. Raises PlanError when its aliases expand too far, or into themselves."""
        self.values_left -= 1
        if self.values_left < 0:
            self.problems.refuse(f"holds more than {_MAX_VALUES:,} values once its aliases are expanded")
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            self.problems.refuse(f"is nested deeper than {_MAX_DEPTH} levels", node.start_mark.line + 1)
        value: Any
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
            value = self.mapping(node, keys)
        elif isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
            value = []
            for index, each in enumerate(node.value):
                self.problems.lines[*keys, index] = each.start_mark.line + 1
                value.append(self.value(each, (*keys, index)))
        else:
            value = self.scalar(node, keys)
        self.depth -= 1
        return value

    def mapping(self, node: yaml.MappingNode, keys: Keys) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        own: dict[str, Any] = {}
        for key_node, value_node in sorted(node.value, key=lambda pair: pair[0].tag != f"{_TAG}merge"):
            line = key_node.start_mark.line + 1
            if key_node.tag == f"{_TAG}merge":
                parents = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                for parent in reversed(parents):  # the first of them wins
                    inherited = self.value(parent, keys)
                    if isinstance(inherited, dict):
                        merged |= inherited
                    else:
                        self.problems.add((*keys, "<<"), "should be a mapping, or a list of mappings", line=line)
            elif not isinstance(key_node, yaml.ScalarNode):
                self.problems.add((*keys, "?"), "a key should be plain text", line=line)
            else:
                here = (*keys, key_node.value)
                if key_node.value in own:
                    first = self.problems.lines[here]
                    self.problems.add(here, f"given twice, first on line {first}", line=line)
                self.problems.lines[here] = line
                own[key_node.value] = self.value(value_node, here)
        return merged | own

    def scalar(self, node: yaml.Node, keys: Keys) -> Any:
        if node.tag not in _TEXTS | _SCALARS:
            self.problems.add(keys, f"the tag {node.tag.replace(_TAG, '!!')} is not accepted")
            return None
        try:
            value = node.value if node.tag in _TEXTS else self.scalars.construct_object(node)
            json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
        except (ValueError, LookupError):  # `.nan`, `!!int x`, half of a surrogate pair, ...
            self.problems.add(keys, "should be text, a finite number, true, false or null", value=node.value)
            return None
        return value


def _branches(annotation: Any) -> Iterator[Any]:
    """The types that a value may have: what `Annotated`, `Optional` and unions are made of."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        yield from _branches(arguments[0])
    elif origin in (typing.Union, UnionType):
        for branch in arguments:
            yield from _branches(branch)
    else:
        yield annotation


def _fields(branches: Iterable[Any]) -> dict[str, FieldInfo]:
    models = [branch for branch in branches if _is_subclass(branch, BaseModel)]
    return {name: field for model in models for name, field in model.model_fields.items()}


def _is_secret(field: FieldInfo) -> bool:
    """Whether the field, or one below it, is not for logs: declared with `repr=False`."""
    return not field.repr or any(map(_is_secret, _fields(_branches(field.annotation)).values()))


def _is_subclass(candidate: Any, parent: type) -> bool:
    return isinstance(candidate, type) and issubclass(candidate, parent)


def _renamed(keys: Keys) -> str:
    return foreign.RENAMED.get(".".join(map(str, keys)), "")


def _ignored(keys: Keys) -> str | None:
    """The foreign pattern that covers these keys."""
    for pattern in foreign.IGNORED:
        parts = pattern.split(".")
        if len(parts) == len(keys) and all(part in ("*", key) for part, key in zip(parts, keys, strict=True)):
            return pattern
    return None
