"""The text of a YAML file as plain data: text keys, JSON's types for values, and the line of each key."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

import yaml

from schedules.problems import Keys, Problems

_MAX_BYTES = 1 << 20
#: A few aliases can stand for billions of values; an honest file has some thousand.
_MAX_VALUES = 100_000
_MAX_DEPTH = 50
_TAG = "tag:yaml.org,2002:"
_SCALARS = {f"{_TAG}{name}" for name in ("null", "bool", "int", "float")}
#: Dates stay text: nothing here takes one, and a name may look like one.
_TEXTS = {f"{_TAG}{name}" for name in ("str", "timestamp")}


def read(problems: Problems, accepted: Collection[str]) -> dict[str, Any]:
    """The top-level mapping of the file that `problems` is about; raises PlanError when there is none.

    Mistakes in single values are noted in `problems`, together with the line of each key.
    """
    return _Text(problems).document(accepted)


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
