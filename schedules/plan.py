"""The configuration file as a `Plan`: a stanza for each declared loop, and the other sections.

Every mistake in a file is reported at once, each with its line, key, value and what is accepted; a file
with a mistake gives no plan at all. The file and the declared loops must agree: a loop without a stanza
is a mistake, and so is a stanza without a loop. A RingRift file is read as it is (`foreign.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny
from pydantic.fields import FieldInfo

from schedules import document, foreign
from schedules.backoff import Backoff
from schedules.durations import Seconds
from schedules.fitting import NOT_A_MAPPING, Fitting
from schedules.problems import ABSENT, Keys, PlanError, Problem, Problems, nearest

__all__ = ["Cadence", "Plan", "PlanError", "Problem", "Stanza", "load"]

#: The top-level key that names the file whose stanzas and sections are taken over.
EXTENDS = "extends"
#: In a section's `json_schema_extra`: it may be the name of a file beside this one that holds it.
IN_FILE = "in_file"


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
    other (which may extend a third) that it does not have itself. A section declared with
    `json_schema_extra={"in_file": True}` may be the name of a file (beside this one) that holds it.

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

    def __init__(self, path: Path, extended_by: tuple[Path, ...] = ()) -> None:
        self.path = path
        #: this file and those that extend it, resolved
        self.line = (*extended_by, path.resolve())
        self.problems = Problems(path)
        self.fitting = Fitting(self.problems, foreign.LOOPS)
        self.warnings: list[str] = []
        #: problems of the files that hold single sections
        self.elsewhere: list[Problem] = []
        self.is_foreign = False

    def plan(self, loops: Mapping[str, type[BaseModel]], sections: type[BaseModel]) -> Plan:
        accepted = sections.model_fields | {name: FieldInfo(annotation=dict) for name in loops}
        written = document.read(self.problems, accepted)
        base = self.base(written.pop(EXTENDS, None), loops, sections)
        accepted[EXTENDS] = FieldInfo(annotation=str)
        self.is_foreign = any(
            key in foreign.IGNORED and key not in accepted and isinstance(value, dict) for key, value in written.items()
        )
        stated = _filled(self.fitting.known(written, accepted, ()))
        stanzas = {
            name: base.stanzas[name]
            if base is not None and name not in stated and (name,) not in self.fitting.suggested
            else self.stanza(name, stated.pop(name, ABSENT), loops[name])
            for name in loops
        }
        from_files = {name: self.section(name, field, stated) for name, field in sections.model_fields.items()}
        others = self.fitting.validated(sections, stated, ())
        if base is not None and others is not None:
            others = base.sections.model_copy(update={name: getattr(others, name) for name in stated})
        self.refuse_unknown_loops(others, stated, loops)
        complete = {name: stanza for name, stanza in stanzas.items() if stanza is not None}
        if self.problems or self.elsewhere or others is None:
            raise PlanError([*self.problems.error().problems, *self.elsewhere])
        found = {name: section for name, section in from_files.items() if section is not None}
        warnings = (*self.fitting.warnings(), *self.warnings)
        return Plan(self.path, MappingProxyType(complete), others.model_copy(update=found), warnings)

    def refuse_unknown_loops(
        self, sections: BaseModel | None, stated: Mapping[str, Any], loops: Mapping[str, type[BaseModel]]
    ) -> None:
        """Sections may name loops: `loops_named()` says where. What the file says of them must be declared."""
        named: Mapping[Keys, str] = getattr(sections, "loops_named", dict)()
        for keys, name in named.items():
            if keys[0] in stated and name not in loops:
                meant = " or ".join(map(repr, nearest(name, loops)))
                hint = f"did you mean {meant}?" if meant else f"loops: {', '.join(sorted(loops))}"
                self.problems.add(keys, "no loop has this name", hint, name)

    def base(self, stated: Any, loops: Mapping[str, type[BaseModel]], sections: type[BaseModel]) -> Plan | None:
        """The plan that this file extends. Raises PlanError with the other file's mistakes."""
        if stated is None:
            return None
        if not isinstance(stated, str):
            self.problems.add((EXTENDS,), "should be the name of a file", value=stated)
            raise self.problems.error()
        other = self.path.parent / stated
        if other.resolve() in self.line:
            self.problems.add((EXTENDS,), "leads back to this file, or to one that extends it", value=stated)
            raise self.problems.error()
        plan = _Planner(other, self.line).plan(loops, sections)
        self.warnings.extend(plan.warnings)
        return plan

    def stanza(self, name: str, stated: Any, options: type[BaseModel]) -> Stanza | None:
        if stated is ABSENT:
            if not self.is_foreign:
                if (name,) not in self.fitting.suggested:
                    self.problems.add(
                        (name,), f"loop {name!r} has no stanza: add one with `interval`, or `enabled: false`"
                    )
                return None
            stated = {}
        if not isinstance(stated, dict):
            self.problems.add((name,), NOT_A_MAPPING, value=stated)
            return None
        stated = self.fitting.known(stated, Cadence.model_fields | options.model_fields, (name,))
        if "interval" not in stated and stated.get("enabled", True) is not False:
            if self.is_foreign:
                self.warnings.append(f"{self.path}: loop {name!r} stays disabled: nothing gives its `interval`")
                stated["enabled"] = False
            elif (name, "interval") not in self.fitting.suggested:
                hint = "say how often the loop is due, such as 60s or 5m, or `enabled: false`"
                self.problems.add((name, "interval"), "missing", hint)
        own = {key: stated.pop(key) for key in Cadence.model_fields if key in stated}
        cadence = self.fitting.validated(Cadence, own, (name,))
        chosen = self.fitting.validated(options, stated, (name,))
        if cadence is None or chosen is None:
            return None
        return Stanza(name=name, options=chosen, **dict(cadence))

    def section(self, name: str, field: FieldInfo, stated: dict[str, Any]) -> BaseModel | None:
        """A section whose value, which it takes out of `stated`, is the name of a file; None: it stands here."""
        extra = field.json_schema_extra
        model: Any = field.annotation
        if not isinstance(extra, dict) or IN_FILE not in extra or not isinstance(stated.get(name), str):
            return None
        problems = Problems(self.path.parent / stated.pop(name))
        fitting = Fitting(problems, foreign.SECTIONS.get(name, foreign.NONE))
        try:
            written = document.read(problems, model.model_fields)
        except PlanError as error:
            self.elsewhere.extend(error.problems)
            return None
        found: BaseModel | None = fitting.validated(model, _filled(fitting.known(written, model.model_fields, ())), ())
        self.elsewhere.extend(problems.error().problems)
        self.warnings.extend(fitting.warnings())
        return found


def _filled(stated: dict[str, Any]) -> dict[str, Any]:
    """`jobs:` followed by nothing but comments is None to YAML and an empty section to its author."""
    return {key: {} if value is None else value for key, value in stated.items()}
