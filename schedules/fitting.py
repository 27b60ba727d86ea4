"""Values of a file put into models; what does not fit is noted, each with its place."""

from __future__ import annotations

import json
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from schedules.foreign import Words
from schedules.problems import ABSENT, Keys, Problems, dotted, nearest

NOT_A_MAPPING = "should be a mapping of keys to values"

Model = TypeVar("Model", bound=BaseModel)


class Fitting:
    """The values of one file; `words` says what it may hold in RingRift's words."""

    def __init__(self, problems: Problems, words: Words) -> None:
        self.problems, self.words = problems, words
        self.ignored: set[str] = set()
        self.blank: list[Keys] = []
        #: keys that a misspelt one was probably meant to be: they are not missing as well
        self.suggested: set[Keys] = set()

    def warnings(self) -> list[str]:
        """What the file says to no effect: foreign keys, and values that are still to be filled in."""
        said = {
            "ignored, since they mean nothing here": sorted(self.ignored),
            "as if absent, since they are still to be filled in": [dotted(keys) for keys in self.blank],
        }
        return [f"{self.problems.file}: {what}: {', '.join(names)}" for what, names in said.items() if names]

    def known(self, stated: dict[str, Any], fields: Mapping[str, FieldInfo], at: Keys) -> dict[str, Any]:
        """What `fields` names, at any depth. The other keys are foreign, or problems."""
        kept = {}
        for key, value in stated.items():
            keys = (*at, key)
            owns = [key] if key in fields else [own for own in self.words.renamed_to(keys) if own in fields]
            if owns and self.words.is_blank(value):
                self.blank.append(keys)
                continue
            for own in owns:
                if own != key and own in stated:
                    self.problems.add(keys, f"means the same as {own!r}, which is given too", value=value)
                    continue
                if own != key:
                    self.problems.written[*at, own] = keys
                if not fields[own].repr or (_is_secret(fields[own]) and not isinstance(value, dict)):
                    self.problems.secret.add(keys)
                kept[own] = self.descend(value, fields[own].annotation, (*at, own))
            if owns:
                continue
            if pattern := self.words.ignoring(keys):
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
            message = NOT_A_MAPPING
        if detail["loc"][-1:] == ("[key]",):
            value = str(keys[-1])
        # what is missing, or does not add up, for want of a misspelt key is no problem of its own
        misspelt = (meant for meant in self.suggested if model.model_fields.keys() & meant[len(at) :][:1])
        if not any(meant[: len(keys)] == keys for meant in misspelt):
            self.problems.add(keys, message, value=value)


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
